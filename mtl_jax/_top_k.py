"""The k largest entries of arrays, exactly, without sorting.

A bracketing search over the floats' bit patterns counts the entries above a
bound: some 10 to 20 passes, where XLA's sort costs a hundred on CPU. On a GPU,
every round of such a search waits for the host. There, the bits of all bounds
are found two at a time, for all arrays and tasks in one pass: the number of
passes is fixed, and few kernels run (`_digits`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@functools.partial(jax.jit, static_argnums=1)
def select(scores, k: int):
  """Boolean mask of the k largest entries; of equal ones, the first.

  Args:
    scores: array of any shape, of floats or integers, compared exactly. NaN
      is below -inf.
    k: number of entries to keep, 0 to size; static.

  >>> import jax.numpy as jnp
  >>> select(jnp.array([[3., 1.], [1., 1.]]), 2)
  Array([[ True,  True],
         [False, False]], dtype=bool)
  """
  if k == 0 or k == scores.size:
    return jnp.full(scores.shape, k == scores.size)
  if _wide(scores):
    return _sorted(_order_keys(scores), k)
  if jax.default_backend() == 'gpu':
    return _digits((scores,), (k,))[0]
  return _searched(_order_keys(scores), k)


def select_all(scores: list, counts: list[int], form: str | None = None):
  """`select` of several arrays.

  Args:
    scores: arrays of any shapes.
    counts: number of entries to keep in each array; static.
    form: 'searched', 'digits' or 'sorted'; `None` takes the fastest on the
      backend.

  Returns:
    A list of boolean masks.
  """
  if any(_wide(s) or not s.size for s in scores):
    return [select(s, k) for s, k in zip(scores, counts)]
  form = form or ('digits' if jax.default_backend() == 'gpu' else 'searched')
  if form == 'searched':
    return [select(s, k) for s, k in zip(scores, counts)]
  if form == 'digits':
    return _digits(tuple(scores), tuple(counts))
  return [_sorted(_order_keys(s), k) for s, k in zip(scores, counts)]


WIDTH = 1024  # entries whose counts are added first
BITS = 2  # bits of a bound that are found in one pass


@functools.partial(jax.jit, static_argnums=1)
def _digits(scores, counts):
  """`select_all` of a tuple of arrays by a search for bounds, bit by bit."""
  sizes = [s.size for s in scores]
  blocks = [-(-size // WIDTH) for size in sizes]
  owner = np.repeat(np.arange(len(sizes)), blocks)
  wanted = jnp.array(counts, jnp.int32)

  def lay_out(arrays):  # padded with 0, below every entry
    return jnp.concatenate([
        jnp.pad(a.reshape(-1), (0, count * WIDTH - a.size)).reshape(-1, WIDTH)
        for a, count in zip(arrays, blocks)])

  flipped = np.uint32(1 << 31)  # so that unsigned keys have the same order
  keys = lay_out([lax.bitcast_convert_type(_order_keys(s), jnp.uint32)
                  ^ flipped for s in scores])
  bound = _bounds(keys, owner, wanted, 32)[owner][:, None]
  above = keys > bound
  # Among those equal to the bound, the first ones, by the same search.
  left = wanted - _count(above, owner, len(sizes))
  places = lay_out([jnp.arange(size, 0, -1, dtype=jnp.uint32)
                    for size in sizes])
  places = jnp.where(keys == bound, places, 0)
  last = _bounds(places, owner, left, max(sizes).bit_length())
  last = jnp.maximum(last, 1)[owner][:, None]
  enough = (left > 0)[owner][:, None]
  kept = (above | (places >= last) & enough).reshape(-1)
  starts = np.cumsum([0, *blocks]) * WIDTH
  return [kept[start:start + s.size].reshape(s.shape)
          for s, start in zip(scores, starts)]


def _bounds(keys, owner, wanted, bits: int):
  """The `wanted`-th largest key of every array, uint32 [arrays]."""
  digits = np.arange(1, 1 << BITS, dtype=np.uint32)
  bits = -(-bits // BITS) * BITS

  def body(i, found):
    shift = (bits - BITS * (i + 1)).astype(jnp.uint32)
    tried = found[:, None] | (digits << shift)[None]  # [arrays, digits]
    above = keys[:, None, :] >= tried[owner][:, :, None]
    enough = _count(above, owner, len(wanted)) >= wanted[:, None]
    digit = jnp.sum(enough, 1).astype(jnp.uint32)
    return found | (digit << shift)

  # Under shard_map, what a loop carries varies over devices from its start.
  zero = 0 * jnp.sum(keys[:1, :1], dtype=jnp.uint32)
  return lax.fori_loop(0, bits // BITS, body,
                       jnp.zeros(len(wanted), jnp.uint32) + zero)


def _count(true, owner, arrays: int):
  """Number of true entries [blocks, ..., WIDTH] of each array."""
  own = jnp.sum(true, -1, dtype=jnp.int32)
  return jax.ops.segment_sum(own, owner, arrays, indices_are_sorted=True)


def _sorted(keys, k: int):
  """`select` by a stable sort of integer keys, the largest first."""
  order = jnp.argsort(~keys.reshape(-1), stable=True)
  chosen = jnp.zeros(keys.size, bool).at[order[:k]].set(
      True, unique_indices=True)
  return chosen.reshape(keys.shape)


def _searched(keys, k: int):
  """`select` by a search for the k-th largest of int32 keys.

  Invariant: count(keys >= low) >= k > count(keys >= high). Bounds come from
  interpolating the count between the two ends, every third one from halving
  the range of keys, which bounds the number of rounds. It ends as soon as a
  bound keeps exactly k, or when low is the k-th largest.
  """

  def midpoint(low, high):
    return (low & high) + ((low ^ high) >> 1)

  def interpolated(low, high, above_low, above_high):
    a, b = _key_to_float(low), _key_to_float(high)
    share = ((above_low - k).astype(jnp.float32)
             / jnp.maximum(above_low - above_high, 1).astype(jnp.float32))
    return _order_keys(a + (b - a) * share)

  def body(state):
    i, low, high, above_low, above_high = state
    bound = jnp.where(i % 3 == 2, midpoint(low, high),
                      interpolated(low, high, above_low, above_high))
    bound = jnp.clip(bound, low + 1, high - 1)
    above = jnp.sum(keys >= bound, dtype=jnp.int32)
    enough = above >= k
    return (i + 1, jnp.where(enough, bound, low),
            jnp.where(enough, high, bound),
            jnp.where(enough, above, above_low),
            jnp.where(enough, above_high, above))

  def unfinished(state):
    _, low, high, above_low, _ = state
    return (above_low != k) & (high - low > 1)

  start = (jnp.int32(0), jnp.min(keys), jnp.max(keys) + 1, jnp.int32(keys.size),
           jnp.int32(0))
  # Keys of opposite sign can be further apart than int32 holds.
  start = start[:1] + _split_by_sign(keys, k, *start[1:])
  _, low, _, above_low, _ = lax.while_loop(unfinished, body, start)
  return (keys >= low) & ~_surplus_ties(keys, low, above_low - k)


def _wide(x) -> bool:
  """Whether an array is sorted, as float32 does not hold all of its values."""
  return x.dtype.itemsize > (2 if jnp.issubdtype(x.dtype, jnp.integer) else 4)


def _order_keys(x):
  """Signed integers in the order of the numbers, with -0. equal to 0.

  For floats up to 32 bits and integers up to 16 they are int32. NaN is just
  below -inf.
  """
  wide = _wide(x)
  if wide and jnp.issubdtype(x.dtype, jnp.integer):
    return _integer_keys(x)
  x = x if wide else x.astype(jnp.float32)
  integer = jnp.int64 if wide else jnp.int32
  bits = lax.bitcast_convert_type(x, integer)
  keys = _fold_sign(jnp.where(bits == jnp.iinfo(integer).min, 0, bits))
  lowest = _fold_sign(np.array(-np.inf, x.dtype).view(integer))
  return jnp.where(jnp.isnan(x), lowest - 1, keys)


def _integer_keys(x):
  if not jnp.issubdtype(x.dtype, jnp.unsignedinteger):
    return x
  half = np.array(1 << (8 * x.dtype.itemsize - 1), x.dtype)
  return lax.bitcast_convert_type(
      x ^ half, np.dtype(f'int{8 * x.dtype.itemsize}'))


def _fold_sign(bits):
  return jnp.where(bits < 0, bits ^ jnp.iinfo(bits.dtype).max, bits)


def _key_to_float(key):
  return lax.bitcast_convert_type(_fold_sign(key), jnp.float32)


def _split_by_sign(keys, k, low, high, above_low, above_high):
  """Moves one end to 0 where the bracket spans it, so differences fit."""
  positive = jnp.sum(keys >= 0, dtype=jnp.int32)
  spans = (low < 0) & (high > 0)
  to_low, to_high = spans & (positive >= k), spans & (positive < k)
  return (jnp.where(to_low, 0, low), jnp.where(to_high, 0, high),
          jnp.where(to_low, positive, above_low),
          jnp.where(to_high, positive, above_high))


def _surplus_ties(keys, low, surplus):
  """The last `surplus` entries, by index, among those equal to `low`."""
  equal = keys == low
  index = jnp.arange(keys.size, dtype=jnp.int32).reshape(keys.shape)

  def body(bounds):
    start, stop = bounds  # count(equal at >= start) > surplus >= at >= stop
    middle = (start + stop) // 2
    above = jnp.sum(equal & (index >= middle), dtype=jnp.int32)
    return (jnp.where(above > surplus, middle, start),
            jnp.where(above > surplus, stop, middle))

  start = jnp.where(surplus > 0, -1, keys.size - 1).astype(jnp.int32)
  # `stop` depends on `start` for shard_map, where both vary over devices.
  _, stop = lax.while_loop(lambda b: b[1] - b[0] > 1, body,
                           (start, 0 * start + keys.size))
  return equal & (index >= stop)
