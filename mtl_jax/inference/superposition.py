"""Tasks superposed in one network: W * sum_i beliefs_i M^i.

The gradient with respect to the beliefs needs no copy of the network per task:
if C is the gradient with respect to the superposed mask, then d objective / d
beliefs_i = <C, M^i>. Masks stay packed; they are unpacked in blocks, once for
all inputs of a call.

Everything is pure and can be jitted and vmapped. See
`mtl_jax.inference.identify`.
"""

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

BLOCK_WEIGHTS = 2 ** 23  # weights unpacked at once: 32 MiB of float32

_dot = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
_over_planes = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


class Superposition(NamedTuple):
  """T tasks in one network whose weights are linear in the beliefs.

  Attributes:
    mix: beliefs float32 [T] -> float tree, the sum of beliefs x masks.
    agree: float tree -> float32 [T], <tree, mask of the task>: transpose of
      `mix`.
    one: index -> the effective mask of one task, a float tree.
    size: number of tasks T.
  """
  mix: Callable[[Any], Tree]
  agree: Callable[[Tree], Any]
  one: Callable[[Any], Tree]
  size: int


def of_masks(packed: Tree, like: Tree) -> Superposition:
  """Tasks that each have a mask.

  Args:
    packed: uint8 leaves [T, ceil(size / 8)] from `masks.pack`;
      `None` where a leaf isn't masked.
    like: tree with the masks' shapes, for example the backbone.

  Raises:
    ValueError: there are no masks, or leaves don't fit `like`; names the leaf.
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
  """Maps over the leaves of `tree`; `None` elsewhere."""
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
  """uint8 [T, bytes] -> float32 [T, 8, bytes]. The first bits of all bytes
  come first: four times faster than the order of weights; see `_in_planes`.
  The axis of bytes may be divided over devices."""
  shifts = np.arange(7, -1, -1, dtype=np.uint8)[None, :, None]
  bits = (block[:, None, :] >> shifts) & np.uint8(1)
  return bits.astype(jnp.float32)


def _in_planes(x):
  """[8, bytes]: a leaf in the order of `_unpacked`, padded with zeros."""
  return jnp.pad(x.reshape(-1), (0, -x.size % 8)).reshape(-1, 8).T


def _from_planes(planes, shape):
  """Inverse of `_in_planes`."""
  return planes.T.reshape(-1)[:int(np.prod(shape))].reshape(shape)


def _mix_leaf(bits, x, beliefs):
  blocks = _blocks(bits, x)
  padding = blocks.shape[0] * blocks.shape[1] - bits.shape[0]
  weights = jnp.pad(beliefs, (0, padding)).reshape(blocks.shape[:2])

  def add(total, inputs):
    block, weight = inputs
    return total + _over_planes('t,tpb->pb', weight, _unpacked(block)), None
  start = jnp.zeros((8, bits.shape[1]))
  return _from_planes(lax.scan(add, start, (blocks, weights))[0], x.shape)


def _agree_leaf(bits, x, cotangent):
  found = _products(_blocks(bits, x), _in_planes(cotangent))
  return found.reshape(-1)[:bits.shape[0]]


@jax.custom_batching.custom_vmap
def _products(blocks, planes):
  """uint8 [b, T, bytes] and float32 [8, bytes] -> float32 [b, T]."""
  return lax.map(lambda block: _over_planes('tpb,pb->t', _unpacked(block),
                                            planes), blocks)


@_products.def_vmap
def _products_of_many(size, batched, blocks, planes):
  """Many vectors at once: on CPU four times faster than one per row."""
  if batched[0]:
    if not batched[1]:
      planes = jnp.broadcast_to(planes, (size, *planes.shape))
    return jax.vmap(lambda b, p: lax.map(lambda block: _over_planes(
        'tpb,pb->t', _unpacked(block), p), b))(blocks, planes), True
  columns = jnp.moveaxis(planes, 0, -1)
  found = lax.map(lambda block: _over_planes(
      'tpb,pbn->tn', _unpacked(block), columns), blocks)
  return jnp.moveaxis(found, -1, 0), True


def beside(a: Superposition, b: Superposition) -> Superposition:
  """Combines two superpositions of the same tasks that cover other leaves."""
  return Superposition(
      lambda beliefs: trees.combine(a.mix(beliefs), b.mix(beliefs)),
      lambda cotangent: a.agree(cotangent) + b.agree(cotangent),
      lambda index: trees.combine(a.one(index), b.one(index)), a.size)


def joined(a: Superposition, b: Superposition) -> Superposition:
  """The tasks of `a`, then those of `b`.

  Raises:
    ValueError: at a call of `mix`, if only one covers a leaf; names it.
  """
  def mix(beliefs):
    first, last = a.mix(beliefs[:a.size]), b.mix(beliefs[a.size:])
    theirs = trees.flatten(last)
    for name, leaf in trees.flatten(first).items():
      if (leaf is None) != (theirs[name] is None):
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
  reading: SupSup's inference with the gradient with respect to the K x L
  coefficients instead of that with respect to T masks.

  Args:
    coefficients: float32 leaves [T, K], or [T, K, B] with blocks.
    basis: bool leaves [K, ...].
  """
  size = jax.tree.leaves(coefficients)[0].shape[0]

  def mix(beliefs):
    return impressions.combine(jax.tree.map(
        lambda a: _dot(beliefs, a.reshape(size, -1)).reshape(a.shape[1:]),
        coefficients), basis)

  def agree(cotangent):
    def leaf(a, m, c):
      if a.ndim == 3:
        return _agree_blocks(a, m, c)
      # For many inputs at once on a CPU, vdot takes half the time.
      if jax.default_backend() != 'cpu':
        return _dot(a, impressions.agreement(m, c))
      return a @ lax.map(lambda mask: jnp.vdot(mask.astype(c.dtype), c), m)
    return _total(_leafwise(leaf, coefficients, basis, cotangent))

  def one(index):
    return impressions.combine(
        jax.tree.map(lambda a: jnp.asarray(a)[index], coefficients), basis)

  return Superposition(mix, agree, one, size)


def _agree_blocks(alphas, basis, cotangent):
  """float32 [T]: <cotangent of the leaf, combination of masks per task>."""
  found = impressions.agreement(basis, cotangent, units=True)  # [K, units]
  starts = np.cumsum((0, *impressions.block_sizes(
      alphas.shape[2], basis.shape[-1])[:-1]))
  blocks = jnp.add.reduceat(found, starts, axis=1)
  return _dot(alphas.reshape(alphas.shape[0], -1), blocks.reshape(-1))


def normalised(coefficients: Tree) -> Tree:
  """Divides the coefficients of each task and leaf (or block) by sum |a|.

  Otherwise large coefficients pull the gradient towards their task.
  """
  return jax.tree.map(
      lambda a: a / jnp.maximum(jnp.sum(jnp.abs(a), 1, keepdims=True), 1e-12),
      coefficients)
