"""Checks the leaves of scores and masks, and draws random leaves.

The public functions are in `masks`.
"""

import math
import numbers
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import _top_k
from mtl_jax import aliases
from mtl_jax import messages
from mtl_jax import trees

Array = aliases.Array
Mask = aliases.Mask
PRNGKey = aliases.PRNGKey
Scores = aliases.Scores
Tree = aliases.Tree
MOST = 2 ** 31 - 1  # weights that int32 counts


def rankable(scores: Scores) -> Scores:
  """The scores; raises ValueError for a leaf that can't be ordered."""
  def check(name: str, s: Array | None) -> None:
    if s is None:
      return
    if s.dtype == bool or not (jnp.issubdtype(s.dtype, jnp.floating)
                               or jnp.issubdtype(s.dtype, jnp.integer)):
      raise ValueError(f'the scores of {messages.leaf(name)} are {s.dtype}; '
                       'give floats or integers')
    # Unknown values (a tracer, another process's part) can't be checked here.
    if (jnp.issubdtype(s.dtype, jnp.floating)
        and not isinstance(s, jax.core.Tracer)
        and getattr(s, 'is_fully_addressable', True) and _has_nan(s)):
      raise ValueError(f'a score of {messages.leaf(name)} is NaN, which has no '
                       'place in an order; was the learning rate too large?')
  trees.map_named(check, trees.check_arrays(scores, 'scores', True))
  return scores


def _has_nan(x: Array) -> bool:
  if isinstance(x, jax.Array) and any(
      device.platform != 'cpu' for device in x.devices()):
    with jax.ensure_compile_time_eval():  # inside jit too
      return bool(jnp.isnan(x).any())  # only the answer comes to the host
  return bool(np.isnan(np.asarray(x)).any())


def bound(at: Any) -> Any:
  """The bound of a threshold, as a number that JAX compares with.

  Raises:
    ValueError: it is not a number, or NaN.
  """
  kind: Any = getattr(at, 'dtype', None)
  known = trees.is_number(at) or getattr(at, 'shape', None) == () and (
      kind == bool or jnp.issubdtype(kind, jnp.number))
  if (not known or kind is not None and jnp.issubdtype(
      kind, jnp.complexfloating) or not isinstance(at, jax.core.Tracer) and (
          np.asarray(at) != np.asarray(at))):
    raise ValueError(f'the bound of a threshold is {messages.shown(at)}; give '
                     'a number')
  return at


def at_least(s: Array, at: Any) -> Array:
  """Where scores are at least a bound."""
  if trees.is_number(at) and jnp.issubdtype(s.dtype, jnp.integer):
    return _integers_at_least(s, at)
  if isinstance(at, (numbers.Rational, np.longdouble)):
    at = _as_float(at)
  if s.dtype.kind == 'V' and s.dtype.itemsize == 1:  # JAX promotes none of them
    return s.astype(jnp.float32) >= jnp.asarray(at, jnp.float32)
  return s >= at


def _as_float(x: Any) -> float:
  try:
    return float(x)
  except OverflowError:
    return math.inf if x > 0 else -math.inf


def _integers_at_least(s: Array, at: Any) -> Array:
  info: Any = jnp.iinfo(s.dtype)  # type: ignore[no-untyped-call]
  at = at if isinstance(at, numbers.Rational) else float(at)
  if not int(info.min) < at <= int(info.max):  # an infinity among others
    return jnp.full(s.shape, at <= int(info.min))
  return s >= np.asarray(math.ceil(at), s.dtype)


def kept(name: str, shape: Sequence[int], density: Any) -> int:
  """round(density x size) for one leaf; the density must be in [0, 1]."""
  if isinstance(density, jax.core.Tracer):
    raise ValueError(f'the density of {messages.leaf(name)} is traced, but how '
                     'many weights are kept is static: pass it as a static '
                     'argument')
  if getattr(density, 'shape', None) == () and jnp.issubdtype(
      density.dtype, jnp.number):
    density = float(density)
  if not trees.is_number(density) or not 0. <= density <= 1.:
    raise ValueError(
        f'density of {messages.leaf(name)} is {messages.shown(density)}; it '
        'must lie between 0 and 1')
  size = int(np.prod(shape))
  if size > MOST:
    raise ValueError(f'{messages.leaf(name)} has {size:,} weights, and a leaf '
                     f'is ranked up to {MOST:,}: divide it into several '
                     'leaves')
  return round(float(density) * size)


def per_leaf(density: float | Tree, like: Tree) -> Tree:
  """A density for every leaf, from one number or from a tree of numbers."""
  if density is None or isinstance(density, (str, bytes, bool)):
    raise ValueError(f'density is {density!r}; give a number, or a tree of '
                     'numbers')
  if trees.is_number(density) or getattr(density, 'shape', None) == ():
    return jax.tree.map(lambda _: density, like)
  if jax.tree_util.all_leaves([density]) and not (
      jax.tree_util.all_leaves([like])):
    raise ValueError(f'density is {messages.shown(density)}; give a number, or '
                     'a tree of numbers')
  return density


def leaf_key(key: PRNGKey, name: str) -> PRNGKey:
  """A key for a leaf, independent of the other leaves."""
  kind = getattr(key, 'dtype', None)
  typed = kind is not None and jax.dtypes.issubdtype(
      kind, jax.dtypes.prng_key)
  if np.shape(key) != () if typed else (
      kind != np.uint32 or np.shape(key) not in ((2,), (4,))):
    raise ValueError(f'key is {messages.shown(key)}; give one key, as '
                     'jax.random.key(0) makes it')
  return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7fffffff)


def draw(key: PRNGKey, name: str, shape: Sequence[int],
         sample: Callable[..., Array]) -> Array:
  """`sample(key, shape)` with the leaf's key; drawn flat, then shaped.

  The numbers are the same, but XLA's CPU compiles a draw of a kernel's four
  axes seven times slower than a flat one.
  """
  return sample(leaf_key(key, name), (int(np.prod(shape)),)).reshape(shape)


def leafwise(f: Callable[[Array, Array], Array | None], a: Mask,
             b: Mask) -> Tree:
  """Applies `f` leaf by leaf to two masks, bool and of equal shapes."""
  def leaf(name: str, x: Array | None, y: Array | None) -> Array | None:
    if x is None and y is None:
      return None
    if x is None or y is None:
      raise ValueError(
          f'{messages.leaf(name)} is masked in one mask and not in the other; '
          'make both from the same leaf patterns')
    if x.shape != y.shape:
      raise ValueError(f'{messages.leaf(name)} has shape {x.shape} in one mask '
                       f'and {y.shape} in the other')
    return f(x, y)
  return trees.map_named(leaf, require_bool(a), require_bool(b))


def require_bool(mask: Mask, what: str = 'a mask') -> Mask:
  """The mask, after a check.

  Raises:
    ValueError: a leaf isn't an array of bools; names it.
  """
  def check(name: str, m: Array | None) -> None:
    if m is not None and m.dtype != bool:
      raise ValueError(f'{messages.leaf(name)} of {what} is {m.dtype}, not '
                       'bool; make it with mask.astype(bool)')
  trees.map_named(check, trees.check_arrays(mask, what, True))
  return mask


def require_leaves(mask: Mask) -> Mask:
  """The mask; raises ValueError if it covers nothing."""
  if not jax.tree.leaves(mask):
    raise ValueError('the mask covers nothing: all its leaves are None; name '
                     'at least one leaf in the patterns')
  return mask


def count(mask: Mask) -> Array:
  """Number of ones over all leaves: int32, or float32 where int32 is too small.
  """
  leaves = jax.tree.leaves(mask)
  if trees.size(mask) <= MOST:
    return sum((jnp.sum(m, dtype=jnp.int32) for m in leaves), jnp.int32(0))

  # A float32 that is increased by ones stops at 2 ** 24: parts are int32.
  parts = [part for m in leaves for part in (
      [m] if m.size <= MOST else
      [m.reshape(-1)[i:i + MOST] for i in range(0, m.size, MOST)])]
  return sum((jnp.sum(part, dtype=jnp.int32).astype(jnp.float32)
              for part in parts), jnp.float32(0))


def share(mask: Mask) -> Array:
  """The fraction of ones over all leaves, float32."""
  size = max(trees.size(mask), 1)
  return count(mask) / (size if size <= MOST else np.float32(size))


@jax.custom_jvp
def times(p: Array, m: Array) -> Array:
  """The product, +0. where the mask is 0."""
  # XLA may compile p * m as a select (0.) or as a product (-0. for a negative
  # weight), so its bits would depend on jit.
  return jnp.where(m == 0, 0, p * m)


times.defjvps(lambda dp, out, p, m: dp * m, lambda dm, out, p, m: p * dm)


def most(scores: Scores, density: float | Tree) -> Mask:
  """The mask of the largest scores of each leaf."""
  def leaf(name: str, s: Array | None, d: float) -> int | None:
    return None if s is None else kept(name, s.shape, d)
  counts = trees.map_named(leaf, scores, per_leaf(density, scores))
  leaves, treedef = jax.tree.flatten(scores)
  return jax.tree.unflatten(treedef, _top_k.select_all(
      leaves, jax.tree.leaves(counts)))
