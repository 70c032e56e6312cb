"""Which task does an input belong to? SupSup's inference by gradients.

Wortsman et al. 2020, https://arxiv.org/abs/2006.14769, sections 3.3 to 3.6.
All tasks are superposed in one network, W * sum_i beliefs_i M^i, and an
objective that is low for a confident output is differentiated with respect to
the beliefs. A task whose belief lowers the objective fastest is the one.

The gradient needs no copy of the network per task: with C the gradient with
respect to the superposed mask, d objective / d beliefs_i = <C, M^i>. Masks
stay packed; they are unpacked in blocks, for all inputs of a call at once.

Everything is pure and can be jitted and vmapped.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import trees

Tree = trees.Tree

BLOCK_WEIGHTS = 2 ** 23  # unpacked at once: 32 MiB of float32


class Superposition(NamedTuple):
  """T tasks as points in the space of masks; what is linear in the beliefs.

  Attributes:
    mix: beliefs float32 [T] -> float tree, the sum of beliefs x masks.
    agree: float tree -> float32 [T], <tree, mask of the task>: transpose of
      `mix`.
    one: index -> the effective mask of one task, a float tree.
    size: T.
  """
  mix: Callable[[Any], Tree]
  agree: Callable[[Tree], Any]
  one: Callable[[Any], Tree]
  size: int


class Inferred(NamedTuple):
  """What an inference found.

  Attributes:
    task: int32, index of the task.
    gradient: float32 [T], d objective / d beliefs at the last step (of
      `brute_force` the objective itself); inf where a task was not in play.
    passes: int32, backward passes that were made.
  """
  task: Any
  gradient: Any
  passes: Any


def of_masks(packed: Tree, like: Tree) -> Superposition:
  """Tasks with masks of their own.

  Args:
    packed: uint8 leaves [T, ceil(size / 8)] as `masks.pack` makes them;
      `None` where a leaf isn't masked.
    like: tree with the masks' shapes, for example the backbone.

  Raises:
    ValueError: no masks, or leaves that don't fit `like`; names the leaf.
  """
  leaves = jax.tree.leaves(packed)
  if not leaves:
    raise ValueError('the bank is empty: no leaf holds packed masks')
  size = leaves[0].shape[0]
  trees.map_named(functools.partial(_require_fit, size), packed, like)

  def mix(beliefs):
    return _leafwise(lambda bits, x: _mix_leaf(bits, x, beliefs), packed, like)

  def agree(cotangent):
    return _total(_leafwise(_agree_leaf, packed, like, cotangent))

  def one(index):
    own = jax.tree.map(lambda bits: jnp.asarray(bits)[index], packed)
    return jax.tree.map(lambda m: m.astype(jnp.float32),
                        masks.unpack(own, like))

  return Superposition(mix, agree, one, size)


def _leafwise(f, tree, *rest):
  """Maps over the leaves that `tree` has; `None` elsewhere."""
  return trees.map_leaves(lambda leaf, *others: None if leaf is None
                          else f(leaf, *others), tree, *rest)


def _total(tree):
  return sum(jax.tree.leaves(tree))


def _require_fit(size, name, bits, x):
  if bits is None:
    return
  needed = -(-int(np.prod(x.shape)) // 8)
  if bits.shape != (size, needed):
    raise ValueError(f'packed masks have shape {bits.shape} but {name} of '
                     f'shape {x.shape} needs [{size}, {needed}] bytes')


def _blocks(bits, x):
  """Packed masks [T, bytes] -> [blocks, tasks per block, bytes], zeros last."""
  per_block = int(np.clip(BLOCK_WEIGHTS // max(1, int(np.prod(x.shape))), 1,
                          bits.shape[0]))
  blocks = -(-bits.shape[0] // per_block)
  padded = jnp.pad(bits, ((0, blocks * per_block - bits.shape[0]), (0, 0)))
  return padded.reshape(blocks, per_block, bits.shape[1])


def _unpacked(block):
  """uint8 [T, bytes] -> float32 [T, 8 x bytes], the first bits of all bytes
  first: four times faster than the weights' own order, see `_in_planes`."""
  shifts = np.arange(7, -1, -1, dtype=np.uint8)[None, :, None]
  bits = (block[:, None, :] >> shifts) & np.uint8(1)
  return bits.reshape(block.shape[0], -1).astype(jnp.float32)


def _in_planes(x):
  """The weights of a leaf in the order of `_unpacked`, padded with zeros."""
  flat = jnp.pad(x.reshape(-1), (0, -x.size % 8))
  return flat.reshape(-1, 8).T.reshape(-1)


def _from_planes(flat, shape):
  """Inverse of `_in_planes`."""
  return flat.reshape(8, -1).T.reshape(-1)[:int(np.prod(shape))].reshape(shape)


def _mix_leaf(bits, x, beliefs):
  blocks = _blocks(bits, x)
  padding = blocks.shape[0] * blocks.shape[1] - bits.shape[0]
  weights = jnp.pad(beliefs, (0, padding)).reshape(blocks.shape[:2])

  def add(total, inputs):
    block, weight = inputs
    return total + weight @ _unpacked(block), None
  start = jnp.zeros(8 * bits.shape[1])
  return _from_planes(lax.scan(add, start, (blocks, weights))[0], x.shape)


def _agree_leaf(bits, x, cotangent):
  found = _products(_blocks(bits, x), _in_planes(cotangent))
  return found.reshape(-1)[:bits.shape[0]]


@jax.custom_batching.custom_vmap
def _products(blocks, flat):
  """uint8 [b, T, bytes] and float32 [8 x bytes] -> float32 [b, T]."""
  return lax.map(lambda block: _unpacked(block) @ flat, blocks)


@_products.def_vmap
def _products_of_many(size, batched, blocks, flat):
  """Many vectors side by side: on CPU four times faster than one per row."""
  if batched[0]:
    flat = flat if batched[1] else jnp.broadcast_to(flat, (size, *flat.shape))
    return jax.vmap(lambda b, f: lax.map(lambda block: _unpacked(block) @ f,
                                         b))(blocks, flat), True
  columns = flat.T
  found = lax.map(lambda block: _unpacked(block) @ columns, blocks)
  return jnp.moveaxis(found, -1, 0), True


def beside(a: Superposition, b: Superposition) -> Superposition:
  """The same tasks, some leaves from `a` and others from `b`."""
  return Superposition(
      lambda beliefs: trees.combine(a.mix(beliefs), b.mix(beliefs)),
      lambda cotangent: a.agree(cotangent) + b.agree(cotangent),
      lambda index: trees.combine(a.one(index), b.one(index)), a.size)


def joined(a: Superposition, b: Superposition) -> Superposition:
  """The tasks of `a`, then those of `b`.

  Raises:
    ValueError: when mixed, if only one of them covers a leaf; names it.
  """
  def mix(beliefs):
    first, last = a.mix(beliefs[:a.size]), b.mix(beliefs[a.size:])
    for name, leaf in trees.flatten(first).items():
      if (leaf is None) != (trees.flatten(last)[name] is None):
        raise ValueError(f'only some of the joined tasks cover {name}: they '
                         'cannot be superposed')
    return _leafwise(jnp.add, first, last)

  def agree(cotangent):
    return jnp.concatenate([a.agree(cotangent), b.agree(cotangent)])

  def one(index):
    return lax.cond(index < a.size, lambda: a.one(index),
                    lambda: b.one(index - a.size))

  return Superposition(mix, agree, one, a.size + b.size)


def of_coefficients(coefficients: Tree, basis: Tree) -> Superposition:
  """Tasks that combine a common basis (ImpressLearn).

  The published text doesn't say how ImpressLearn infers a task; this is our
  reading: SupSup's inference, where the gradient with respect to the K x L
  coefficients takes the place of that with respect to T masks.

  Args:
    coefficients: float32 leaves [T, K].
    basis: bool leaves [K, ...].
  """
  size = jax.tree.leaves(coefficients)[0].shape[0]

  def mix(beliefs):
    return impressions.combine(
        jax.tree.map(lambda a: beliefs @ a, coefficients), basis)

  def agree(cotangent):
    def leaf(a, m, c):
      return a @ lax.map(lambda mask: jnp.vdot(mask.astype(c.dtype), c), m)
    return _total(_leafwise(leaf, coefficients, basis, cotangent))

  def one(index):
    return impressions.combine(
        jax.tree.map(lambda a: jnp.asarray(a)[index], coefficients), basis)

  return Superposition(mix, agree, one, size)


def normalised(coefficients: Tree) -> Tree:
  """Every task's and leaf's coefficients divided by the sum of |a|.

  Large coefficients else pull the gradient towards their task.
  """
  return jax.tree.map(
      lambda a: a / jnp.maximum(jnp.sum(jnp.abs(a), -1, keepdims=True), 1e-12),
      coefficients)


def entropy(logits, counted, classes: int | None = None):
  """H: the mean entropy of softmax(logits), in nats.

  Args:
    logits: float32 [n, outputs].
    counted: bool [n], rows that count; others are padding.
    classes: not used; as in `superfluous`.

  >>> import jax.numpy as jnp
  >>> h = entropy(jnp.zeros((1, 4)), jnp.array([True]))
  >>> bool(jnp.isclose(h, jnp.log(4.)))
  True
  """
  del classes
  log_p = jax.nn.log_softmax(logits)
  return _mean(-jnp.sum(jnp.exp(log_p) * log_p, -1), counted)


def _mean(values, counted):
  return (jnp.sum(jnp.where(counted, values, 0.))
          / jnp.maximum(jnp.sum(counted), 1))


def superfluous(logits, counted, classes: int | None = None):
  """G: mean logsumexp, differentiated in the superfluous outputs only.

  Args:
    logits: float32 [n, outputs].
    counted: bool [n], rows that count; others are padding.
    classes: the first so many are real; no gradient goes through them.

  Raises:
    ValueError: no output is left over.
  """
  if classes is None or not 0 < classes < logits.shape[-1]:
    raise ValueError(
        f'the objective G needs superfluous outputs: {logits.shape[-1]} '
        f'outputs, of which {classes} are classes; use a backbone with more '
        'outputs, or the objective entropy')
  real = jnp.arange(logits.shape[-1]) < classes
  held = jnp.where(real[None, :], lax.stop_gradient(logits), logits)
  return _mean(jax.nn.logsumexp(held, -1), counted)


OBJECTIVES = {'entropy': entropy, 'superfluous': superfluous}


def _gradient(loss, backbone, tasks, beliefs):
  cotangent = jax.grad(lambda mixture: loss(masks.apply(backbone, mixture)))(
      tasks.mix(beliefs))
  return tasks.agree(cotangent)


def one_shot(loss: Callable[[Tree], Any], backbone: Tree,
             tasks: Superposition, used) -> Inferred:
  """One backward pass at equal beliefs; the steepest descent wins (eq. 4).

  Args:
    loss: parameters -> the objective on the inputs, a scalar.
    backbone: the immutable parameters.
    tasks: see `Superposition`.
    used: bool [T], the tasks that are in play.
  """
  beliefs = used / jnp.maximum(jnp.sum(used), 1)
  gradient = jnp.where(used, _gradient(loss, backbone, tasks, beliefs),
                       jnp.inf)
  return Inferred(jnp.argmin(gradient), gradient, jnp.int32(1))


def binary(loss: Callable[[Tree], Any], backbone: Tree,
           tasks: Superposition, used) -> Inferred:
  """Halves the tasks in play until one is left: ceil(log2 T) passes.

  Of an odd number of tasks, the larger half stays. See `one_shot`.
  """
  def halve(state):
    alive, _, passes = state
    count = jnp.sum(alive)
    gradient = jnp.where(alive, _gradient(loss, backbone, tasks,
                                          alive / count), jnp.inf)
    rank = jnp.argsort(jnp.argsort(gradient))
    return alive & (rank < (count + 1) // 2), gradient, passes + 1

  start = used, jnp.where(used, 0., jnp.inf), jnp.int32(0)
  alive, gradient, passes = lax.while_loop(
      lambda state: jnp.sum(state[0]) > 1, halve, start)
  return Inferred(jnp.argmax(alive), gradient, passes)


def brute_force(loss: Callable[[Tree], Any], backbone: Tree,
                tasks: Superposition, used) -> Inferred:
  """The objective of every task's own network; T forward passes, no gradient.

  The reference that the gradients approximate. See `one_shot`.
  """
  values = lax.map(lambda i: loss(masks.apply(backbone, tasks.one(i))),
                   jnp.arange(tasks.size))
  values = jnp.where(used, values, jnp.inf)
  return Inferred(jnp.argmin(values), values, jnp.int32(0))


RULES = {'one_shot': one_shot, 'binary': binary, 'brute_force': brute_force}


@dataclasses.dataclass(frozen=True)
class Rule:
  """How a task is inferred.

  Attributes:
    rule: 'one_shot' (one backward pass), 'binary' (ceil(log2 T) of them) or
      'brute_force' (every task's network).
    objective: 'entropy' (H) or 'superfluous' (G; needs outputs beyond the
      classes).
    normalise: divide coefficients by the sum of their magnitudes first
      (ImpressLearn only; our reading).
  """
  rule: str = 'one_shot'
  objective: str = 'entropy'
  normalise: bool = False

  def __post_init__(self):
    for name, table in (('rule', RULES),
                        ('objective', OBJECTIVES)):
      value = getattr(self, name)
      if value not in table:
        raise ValueError(f'unknown {name} {value!r}'
                         f'{trees.nearest(str(value), table)}; known: '
                         f'{", ".join(table)}')
    if (self.rule, self.objective) == ('brute_force', 'superfluous'):
      raise ValueError('brute_force compares values, but only the gradient of '
                       'superfluous says anything; take the objective entropy')


def tied(gradient) -> bool:
  """Whether no task in play is preferred to another: all values are equal.

  Args:
    gradient: float32 [T] of an `Inferred`; infinite where not in play.

  >>> tied(np.array([.5, .5, np.inf])), tied(np.array([.5, np.inf]))
  (True, False)
  """
  found = gradient[np.isfinite(gradient)]
  return len(found) > 1 and bool(np.all(found == found[0]))


def fits_no_task(gradient, used, tolerance: float = 0.125):
  """Whether no known task explains the inputs (SupSup, section 3.4).

  True if k max softmax(-gradient) < 1 + tolerance over the k tasks in play:
  the beliefs would hardly move from equal ones.
  """
  p = jax.nn.softmax(jnp.where(used, -gradient, -jnp.inf))
  return jnp.sum(used) * jnp.max(p) < 1. + tolerance
