"""Masks in a Hopfield network of fixed size, instead of a list that grows.

HopSupSup, section 3.5 of https://arxiv.org/abs/2006.14769. A mask m in {0, 1}
is stored as z = 2 m - 1. Each leaf has a matrix W, in which z is a minimum of
the energy -1/2 z^T W z. To find the mask of a batch whose task is unknown,
`recover` descends from the mean of the stored z: first on the entropy of the
network's outputs, then increasingly on the energy.

The matrix has d x d floats for a vector of size d, so only vectors are allowed:
masks of norm scales, which switch units off (`masked=('.*/scale',)` of the
method `supsup`). It can store about d / (2 ln d) unrelated vectors by Hebb's
rule and d / sqrt(2 ln d) by Storkey's: 134 and 524 for d = 2048.

  >>> import jax.numpy as jnp
  >>> mask = {'scale': jnp.array([True, True, False, False]), 'kernel': None}
  >>> memory = store(empty(mask), mask)
  >>> float(energy(memory.weights, signs(mask)))
  -1.5
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtl_jax import masks
from mtl_jax import trees

Tree = trees.Tree


class Memory(NamedTuple):
  """The stored masks, in arrays whose size does not depend on their number.

  Attributes:
    weights: float32 leaves [d, d], symmetric; `None` where not masked.
    mean: float32 leaves [d]: the mean of all stored z, where recovery starts.
    count: int32, number of stored masks.
  """
  weights: Tree
  mean: Tree
  count: Any


class Recipe(NamedTuple):
  """The settings of `recover`; the defaults are those of the official code.

  Attributes:
    learning_rate: learning rate of SGD on the scores.
    momentum: momentum of SGD (v <- momentum v + gradient; no damping).
    weight_decay: L2 term added to the gradient.
    gamma: weight of the energy at the last step.
  """
  learning_rate: float = 500.
  momentum: float = 0.9
  weight_decay: float = 1e-4
  gamma: float = 1.5e-3


class Recovered(NamedTuple):
  """The result of `recover`.

  Attributes:
    mask: bool leaves [d] after the last step.
    masks: bool leaves [steps, d], the mask after each step.
    entropy: float32 [steps], mean over the step's batch, in nats.
    energy: float32 [steps], sum over leaves.
  """
  mask: Tree
  masks: Tree
  entropy: Any
  energy: Any


def empty(like: Tree) -> Memory:
  """A memory without masks.

  Args:
    like: arrays or shapes [d] (a mask, or the backbone's masked part); `None`
      leaves stay.

  Raises:
    ValueError: a leaf is not a vector (names it), or there is no leaf.
  """
  if not jax.tree.leaves(like):
    raise ValueError('the memory would cover nothing: all leaves are None; '
                     'name at least one vector in the patterns')

  def leaf(name, x):
    if x is None:
      return None
    if len(x.shape) != 1:
      raise ValueError(
          f'{name} has shape {tuple(x.shape)}: a Hopfield network holds '
          "vectors; mask scales instead, as with masked=('.*/scale',)")
    return jnp.zeros((*x.shape, *x.shape), jnp.float32)
  weights = trees.map_named(leaf, like)
  return Memory(weights, jax.tree.map(lambda w: w[0], weights), jnp.int32(0))


def signs(mask: Tree) -> Tree:
  """z = 2 m - 1 of a mask, float32 leaves."""
  return jax.tree.map(lambda m: 2. * jnp.asarray(m, jnp.float32) - 1., mask)


def hebb(w, z):
  """Hebb's rule, as in the paper: W + z z^T / d, without the diagonal."""
  return w + (jnp.outer(z, z) - jnp.eye(z.size)) / z.size


def storkey(w, z):
  """Storkey's rule, as in the official code: Hebb's with a correction.

  With h = W z it adds (z z^T - I - z h^T - h z^T) / d. Masks of one backbone
  resemble each other; the correction reduces the part of W that they share, so
  that their differences count.
  """
  crossed = jnp.outer(z, _product(w, z))
  return hebb(w, z) - (crossed + crossed.T) / z.size


RULES = {'hebb': hebb, 'storkey': storkey}


def store(memory: Memory, mask: Tree, rule: str = 'storkey') -> Memory:
  """The memory with one more mask.

  Args:
    memory: from `empty` or `store`.
    mask: bool (or 0/1) leaves [d], in the memory's structure.
    rule: 'storkey' or 'hebb'.

  Raises:
    ValueError: the rule is unknown, or the mask has another structure or shape
      (names the leaf).
  """
  if rule not in RULES:
    raise ValueError(f'unknown rule {rule!r}{trees.nearest(rule, RULES)}; '
                     f'known: {", ".join(sorted(RULES))}')
  _check('mask', mask, memory.mean)
  return _store(memory, mask, rule)


@functools.partial(jax.jit, static_argnames='rule')
def _store(memory, mask, rule):
  z, count = signs(mask), memory.count + 1
  mean = jax.tree.map(lambda m, x: m + (x - m) / count.astype(m.dtype),
                      memory.mean, z)
  return Memory(jax.tree.map(RULES[rule], memory.weights, z), mean, count)


def energy(weights: Tree, z: Tree):
  """-1/2 z^T W z, summed over the leaves; a float32 scalar.

  Args:
    weights: leaves [d, d], as in `Memory`.
    z: leaves [d], -1 or 1.
  """
  leaves = trees.map_leaves(
      lambda w, x: None if w is None else -.5 * jnp.sum(x * _product(w, x)),
      weights, z)
  return sum(jax.tree.leaves(leaves))


def entropy(logits):
  """Mean entropy of softmax(logits [n, outputs]) in nats; a scalar."""
  log_p = jax.nn.log_softmax(logits)
  return -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, -1))


def recover(apply_fn: Callable, backbone: Tree, stats: Tree, memory: Memory,
            batches: Any, recipe: Recipe = Recipe()) -> Recovered:
  """Finds the mask of unlabelled batches from one unknown task.

  Step t of T uses batch t. It descends, straight through the threshold, on

    (1 - t / T) entropy + gamma (t / T) energy

  and is compiled once per `apply_fn` and shapes.

  Args:
    apply_fn: (params, stats, batch) -> logits [n, outputs]; a static argument,
      so pass the same function object every time.
    backbone: parameters; its masked leaves are multiplied by the mask.
    stats: passed on to `apply_fn` (norm statistics, or {}).
    memory: the stored masks.
    batches: array (or tree) with a leading axis of T steps.
    recipe: settings of the descent.

  Raises:
    ValueError: the memory is empty, or doesn't fit the backbone
      (names the leaf).
  """
  if not int(memory.count):
    raise ValueError('the memory is empty: store a mask before recovering one')
  _check('memory', memory.mean, trees.map_leaves(
      lambda b, m: None if m is None else b, backbone, memory.mean))
  return _recover(apply_fn, backbone, stats, memory, batches, recipe)


@functools.partial(jax.jit, static_argnums=0)
def _recover(apply_fn, backbone, stats, memory, batches, recipe):
  soft = masks.straight_through(masks.threshold)
  total = jax.tree.leaves(batches)[0].shape[0]

  def objective(scores, batch, progress):
    mask = soft(scores)
    h = entropy(apply_fn(masks.apply(backbone, mask), stats, batch))
    e = energy(memory.weights, signs(mask))
    return (1. - progress) * h + recipe.gamma * progress * e, (h, e)

  def step(carry, inputs):
    scores, velocity = carry
    number, batch = inputs
    gradient, measured = jax.grad(objective, has_aux=True)(
        scores, batch, (number + 1.) / total)
    velocity = jax.tree.map(
        lambda v, g, s: recipe.momentum * v + g + recipe.weight_decay * s,
        velocity, gradient, scores)
    scores = jax.tree.map(lambda s, v: s - recipe.learning_rate * v,
                          scores, velocity)
    return (scores, velocity), (masks.threshold(scores), *measured)

  start = memory.mean, jax.tree.map(jnp.zeros_like, memory.mean)
  (scores, _), (seen, h, e) = lax.scan(
      step, start, (jnp.arange(total, dtype=jnp.float32), batches))
  return Recovered(masks.threshold(scores), seen, h, e)


def _product(w, z):
  # In full float32, also on accelerators: sums of d terms of 1 / d need it.
  return jnp.matmul(w, z, precision=lax.Precision.HIGHEST)


def _check(what, tree, like):
  """Refuses leaves that only one tree has, or whose shapes differ."""
  def leaf(name, x, y):
    if (x is None) != (y is None):
      has, lacks = (what, 'memory') if y is None else ('memory', what)
      raise ValueError(f'{name} is in the {has} but not in the {lacks}; make '
                       'both from the same leaf patterns')
    if x is not None and x.shape != y.shape:
      raise ValueError(f'{what} has shape {x.shape} but {name} is {y.shape}')
  trees.map_named(leaf, tree, like)
