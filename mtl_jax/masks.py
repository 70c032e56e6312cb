"""The algebra of masks: pure functions on plain pytrees.

A mask has its parameter tree's structure with `bool` leaves, and `None` where
a leaf is not masked. It holds one bit per weight once packed. All functions
are jittable and vmappable; `apply` and `straight_through` are differentiable.

Supermasks: SupSup, https://arxiv.org/abs/2006.14769. Top-k sampling with a
straight-through gradient: edge-popup, https://arxiv.org/abs/1911.13299.
"""

import functools
import numbers
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import _top_k
from mtl_jax import trees

Tree = trees.Tree


def apply(params: Tree, mask: Tree) -> Tree:
  """Multiplies every masked leaf by its mask; other leaves stay as they are.

  Args:
    params: parameter tree.
    mask: the same structure; leaves bool, or float (a sampled mask during
      training, or a combination of masks), or `None` for "not masked".

  Returns:
    A tree of the structure, shapes and dtypes of `params`.

  Raises:
    ValueError: structures or shapes differ; names the leaf.

  >>> import jax.numpy as jnp
  >>> apply({'w': jnp.array([1., 2.]), 'b': jnp.array([3.])},
  ...       {'w': jnp.array([True, False]), 'b': None})
  {'b': Array([3.], dtype=float32), 'w': Array([1., 0.], dtype=float32)}
  """
  def leaf(name, p, m):
    if m is None or p is None:
      return p
    if jnp.shape(m) != jnp.shape(p):
      raise ValueError(
          f'mask has shape {jnp.shape(m)} but {name} is {jnp.shape(p)}')
    return _times(p, m.astype(p.dtype))
  return trees.map_named(leaf, params, mask)


@jax.custom_jvp
def _times(p, m):
  # +0. where the mask is 0: XLA may compile p * m as a select (0.) or as a
  # product (-0. for a negative weight), so its bits would depend on jit.
  return jnp.where(m == 0, 0, p * m)


_times.defjvps(lambda dp, out, p, m: dp * m, lambda dm, out, p, m: p * dm)


def threshold(scores: Tree, at: float = 0.) -> Tree:
  """The mask of the scores that are at least `at` (`None` leaves stay).

  >>> import jax.numpy as jnp
  >>> threshold({'w': jnp.array([-1., 0., 2.])})
  {'w': Array([False,  True,  True], dtype=bool)}
  """
  return jax.tree.map(lambda s: s >= at, scores)


def top_k(scores: Tree, density) -> Tree:
  """Keeps exactly round(density x size) largest scores of every leaf.

  Ties are broken by index: of equal scores the earlier ones are kept. Nothing
  is sorted: a search for the smallest score kept counts how many lie above a
  bound, so the cost is some 10 to 30 passes over the leaf.

  Args:
    scores: tree of float leaves; `None` leaves stay `None`.
    density: fraction kept, a number for all leaves or a tree of numbers such
      as `erdos_renyi` gives (static Python numbers, in [0, 1]).

  Raises:
    ValueError: a density outside [0, 1]; names the leaf.

  >>> import jax.numpy as jnp
  >>> top_k({'w': jnp.array([3., 1., 1., 1.])}, density=0.5)
  {'w': Array([ True,  True, False, False], dtype=bool)}
  """
  def leaf(name, s, d):
    return None if s is None else kept(name, s.shape, d)
  counts = trees.map_named(leaf, scores, _per_leaf(density, scores))
  leaves, treedef = jax.tree.flatten(scores)
  return jax.tree.unflatten(treedef, _top_k.select_all(
      leaves, jax.tree.leaves(counts)))


def kept(name: str, shape, density: float) -> int:
  """round(density x size) of one leaf, refused outside [0, 1]."""
  if density is None or not 0. <= density <= 1.:
    raise ValueError(
        f'density of {name} is {density}; it must lie between 0 and 1')
  return round(float(density) * int(np.prod(shape)))


def _per_leaf(density, like: Tree) -> Tree:
  if isinstance(density, (str, bytes)):
    raise ValueError(f'density is {density!r}; give a number, or a tree of '
                     'numbers')
  if isinstance(density, numbers.Real) or getattr(density, 'shape', 0) == ():
    return jax.tree.map(lambda _: float(density), like)
  return density


def straight_through(sample_fn: Callable[[Tree], Tree]):
  """Makes a sampler differentiable: dL/dscores := dL/dmask.

  Args:
    sample_fn: from a tree of scores to a mask of its structure, for example
      `masks.threshold`.

  Returns:
    A function from scores to float masks, 0. or 1. in the scores' dtype.

  >>> import jax, jax.numpy as jnp
  >>> soft = straight_through(threshold)
  >>> jax.grad(lambda s: (soft(s)['w'] * jnp.array([5., 7.])).sum())(
  ...     {'w': jnp.array([-1., 1.])})
  {'w': Array([5., 7.], dtype=float32)}
  """
  @jax.custom_vjp
  def sample(scores):
    return jax.tree.map(lambda s, m: m.astype(s.dtype), scores,
                        sample_fn(scores))
  sample.defvjp(lambda scores: (sample(scores), None),
                lambda _, cotangent: (cotangent,))
  return sample


def leaf_key(key, name: str):
  """A key of its own for every leaf, independent of the other leaves."""
  return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7fffffff)


def draw(key, name: str, shape, sample):
  """`sample(key, shape)` with the leaf's key; drawn flat, then shaped.

  The numbers are the same, but XLA's CPU compiles a draw of a kernel's four
  axes seven times slower than a flat one.
  """
  return sample(leaf_key(key, name), (int(np.prod(shape)),)).reshape(shape)


def random(key, like: Tree, density) -> Tree:
  """A mask with exactly round(density x size) ones per leaf, uniformly drawn.

  Args:
    key: typed PRNG key.
    like: tree of arrays or shapes; `None` leaves stay `None`.
    density: as in `top_k`.

  >>> import jax, jax.numpy as jnp
  >>> m = random(jax.random.key(0), {'w': jnp.zeros((4, 5))}, density=0.3)
  >>> int(m['w'].sum())
  6
  """
  def leaf(name, x):
    return None if x is None else draw(key, name, x.shape, jax.random.uniform)
  return top_k(trees.map_named(leaf, like), density)


def union(a: Tree, b: Tree) -> Tree:
  """Weights in either mask.

  >>> import jax.numpy as jnp
  >>> union({'w': jnp.array([True, False])}, {'w': jnp.array([False, False])})
  {'w': Array([ True, False], dtype=bool)}
  """
  return _leafwise(jnp.logical_or, a, b)


def intersection(a: Tree, b: Tree) -> Tree:
  """Weights in both masks.

  >>> import jax.numpy as jnp
  >>> intersection({'w': jnp.array([True, True])},
  ...              {'w': jnp.array([False, True])})
  {'w': Array([False,  True], dtype=bool)}
  """
  return _leafwise(jnp.logical_and, a, b)


def difference(a: Tree, b: Tree) -> Tree:
  """Weights in `a` that are not in `b`.

  >>> import jax.numpy as jnp
  >>> difference({'w': jnp.array([True, True])},
  ...            {'w': jnp.array([False, True])})
  {'w': Array([ True, False], dtype=bool)}
  """
  return _leafwise(lambda x, y: x & ~y, a, b)


def _leafwise(f, a, b):
  def leaf(name, x, y):
    if (x is None) != (y is None):
      raise ValueError(
          f'{name} is masked in one mask and not in the other; make both '
          'from the same leaf patterns')
    if x is None:
      return None
    if x.shape != y.shape:
      raise ValueError(f'{name} has shape {x.shape} in one mask and {y.shape} '
                       'in the other')
    return f(x, y)
  return trees.map_named(leaf, a, b)


def _count(mask):
  return sum(jnp.sum(m, dtype=jnp.int32) for m in jax.tree.leaves(mask))


def density(mask: Tree):
  """Fraction of ones over all masked leaves together, a float32 scalar.

  >>> import jax.numpy as jnp
  >>> float(density({'w': jnp.array([True, False, False, False]), 'b': None}))
  0.25
  """
  return _count(_require_leaves(mask)) / trees.size(mask)


def densities(mask: Tree) -> Tree:
  """Fraction of ones of each leaf (`None` leaves stay)."""
  return jax.tree.map(lambda m: jnp.mean(m, dtype=jnp.float32), mask)


def overlap(a: Tree, b: Tree):
  """Jaccard index |a and b| / |a or b| over all leaves; 1 if both are empty.

  >>> import jax.numpy as jnp
  >>> float(overlap({'w': jnp.array([True, True, False])},
  ...               {'w': jnp.array([False, True, False])}))
  0.5
  """
  both, either = _count(intersection(a, b)), _count(union(a, b))
  return jnp.where(either == 0, 1., both / jnp.maximum(either, 1))


def _require_leaves(mask):
  if not jax.tree.leaves(mask):
    raise ValueError('the mask covers nothing: all its leaves are None; name '
                     'at least one leaf in the patterns')
  return mask


def pack(mask: Tree) -> Tree:
  """One bit per weight: flat uint8 leaves, the first weight in the high bit.

  >>> import jax.numpy as jnp
  >>> pack({'w': jnp.array([[True, False], [False, True]])})
  {'w': Array([144], dtype=uint8)}
  """
  return jax.tree.map(lambda m: jnp.packbits(m.reshape(-1)), mask)


def unpack(packed: Tree, like: Tree) -> Tree:
  """Inverse of `pack`.

  Args:
    packed: tree of uint8 leaves [ceil(size / 8)].
    like: tree with the shapes, for example the parameters; may have leaves
      where `packed` is `None`.

  Raises:
    ValueError: the number of bytes doesn't fit the shape; names the leaf.

  >>> import jax.numpy as jnp
  >>> m = {'w': jnp.array([[True, False, True]])}
  >>> unpack(pack(m), like={'w': jnp.zeros((1, 3))})
  {'w': Array([[ True, False,  True]], dtype=bool)}
  """
  def leaf(name, bits, x):
    if bits is None:
      return None
    count = int(np.prod(x.shape))
    if bits.shape != (-(-count // 8),):
      raise ValueError(
          f'packed mask has {bits.shape[0]} bytes but {name} of shape '
          f'{x.shape} needs {-(-count // 8)}')
    return jnp.unpackbits(bits, count=count).reshape(x.shape).astype(bool)
  return trees.map_named(leaf, packed, like)


def stack(masks) -> Tree:
  """K masks as one tree with bool leaves [K, ...]: a basis.

  >>> import jax.numpy as jnp
  >>> stack([{'w': jnp.array([True])}, {'w': jnp.array([False])}])['w'].shape
  (2, 1)
  """
  masks = list(masks)
  if not masks:
    raise ValueError('a basis needs at least one mask')
  for other in masks[1:]:
    _leafwise(lambda x, y: None, masks[0], other)
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *masks)


def signed_constant(key, like: Tree) -> Tree:
  """The signed Kaiming constant backbone: every weight is +c or -c.

  c = sqrt(2 / fan_in) of its leaf, the signs are fair coins (SupSup, section
  3.1). Leaves with fewer than two dimensions (biases, scales) are returned as
  they are. Equal keys give equal bits on every platform.

  Args:
    key: typed PRNG key.
    like: parameters in Flax layout, the output features in the last axis.

  >>> import jax, jax.numpy as jnp
  >>> w = signed_constant(jax.random.key(0), {'w': jnp.zeros((8, 4))})['w']
  >>> sorted(set(w.ravel().tolist()))
  [-0.5, 0.5]
  """
  def leaf(name, x):
    if x is None or len(x.shape) < 2:
      return x
    fan_in = int(np.prod(x.shape[:-1]))
    c = np.sqrt(2. / fan_in).astype(x.dtype)
    bits = draw(key, name, x.shape, functools.partial(
        jax.random.bits, dtype=jnp.uint8))
    return jnp.where(bits >= 128, c, -c)
  return trees.map_named(leaf, like)


def erdos_renyi(params: Tree, eps: float) -> Tree:
  """Layer budgets of SupSup's sparse masks, static floats for `top_k`.

  density = min(0.5, eps (c_in + c_out) / (c_in c_out kh kw)).

  Args:
    params: parameters (or shapes) in Flax layout; `None` leaves stay.
    eps: higher is denser.

  Raises:
    ValueError: a leaf with fewer than two dimensions, or eps not above 0.

  >>> import jax.numpy as jnp
  >>> erdos_renyi({'w': jnp.zeros((3, 3, 10, 40))}, eps=2)
  {'w': 0.027777777777777776}
  """
  if not eps > 0:
    raise ValueError(f'eps is {eps}; it must be above 0')

  def leaf(name, x):
    if x is None:
      return None
    if len(x.shape) < 2:
      raise ValueError(f'{name} has shape {x.shape}: Erdos-Renyi budgets need '
                       'a kernel with an input and an output axis')
    *_, fan_in, fan_out = x.shape
    return min(0.5, eps * (fan_in + fan_out) / int(np.prod(x.shape)))
  return trees.map_named(leaf, params)
