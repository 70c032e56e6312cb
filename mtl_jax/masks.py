"""The algebra of masks: pure functions on plain pytrees.

A mask has the structure of its parameter tree with `bool` leaves, and `None`
where a leaf is not masked. Packed, it takes one bit per weight. All functions
are jittable and vmappable; `apply` and `straight_through` are differentiable.

Supermasks: SupSup, https://arxiv.org/abs/2006.14769. Top-k sampling with a
straight-through gradient: edge-popup, https://arxiv.org/abs/1911.13299.
"""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import _mask_leaves
from mtl_jax import aliases
from mtl_jax import fans
from mtl_jax import messages
from mtl_jax import trees

Array = aliases.Array
Mask = aliases.Mask
Params = aliases.Params
PRNGKey = aliases.PRNGKey
Scores = aliases.Scores
Tree = aliases.Tree

draw = _mask_leaves.draw
kept = _mask_leaves.kept
leaf_key = _mask_leaves.leaf_key
require_bool = _mask_leaves.require_bool


def apply(params: Params, mask: Mask) -> Params:
  """Multiplies masked leaves by their masks; other leaves stay unchanged.

  Args:
    params: parameter tree.
    mask: the same structure; leaves bool, or float (a sampled mask during
      training, or a combination of masks), or `None` for "not masked". A leaf
      of integers or bools accepts only a bool mask.

  Returns:
    A tree of the structure, shapes and dtypes of `params`.

  Raises:
    ValueError: structures or shapes differ, or a leaf of the mask has another
      dtype; names the leaf.

  >>> import jax.numpy as jnp
  >>> apply({'w': jnp.array([1., 2.]), 'b': jnp.array([3.])},
  ...       {'w': jnp.array([True, False]), 'b': None})
  {'b': Array([3.], dtype=float32), 'w': Array([1., 0.], dtype=float32)}
  """
  def leaf(name: str, p: Array | None, m: Array | None) -> Array | None:
    if m is None or p is None:
      return p
    if jnp.shape(m) != jnp.shape(p):
      raise ValueError(
          f'mask has shape {jnp.shape(m)} but {messages.leaf(name)} is '
          f'{jnp.shape(p)}')
    if m.dtype == bool and not jnp.issubdtype(p.dtype, jnp.inexact):
      return jnp.where(m, p, jnp.zeros((), p.dtype))
    if m.dtype != bool and not (jnp.issubdtype(m.dtype, jnp.floating)
                                and jnp.issubdtype(p.dtype, jnp.inexact)):
      raise ValueError(
          f'the mask of {messages.leaf(name)} is {m.dtype} on weights of '
          f'{p.dtype}; a mask is bool, or float on float weights; make it with '
          'mask.astype(bool)')
    return _mask_leaves.times(p, m.astype(p.dtype))
  return trees.map_named(leaf, trees.check_arrays(params, 'parameters', True),
                         trees.check_arrays(mask, 'a mask', True))


def threshold(scores: Scores, at: float = 0.) -> Mask:
  """The mask of the scores that are at least `at`; `None` leaves stay.

  Raises:
    ValueError: a score is NaN (inside jit, NaN is below every bound), or the
      dtype of a leaf is not numeric; names the leaf.

  >>> import jax.numpy as jnp
  >>> threshold({'w': jnp.array([-1., 0., 2.])})
  {'w': Array([False,  True,  True], dtype=bool)}
  """
  at = _mask_leaves.bound(at)
  return jax.tree.map(lambda s: _mask_leaves.at_least(s, at),
                      _mask_leaves.rankable(scores))


def top_k(scores: Scores, density: float | Tree) -> Mask:
  """Keeps exactly the round(density x size) largest scores of every leaf.

  Ties are broken by index: of equal scores the earlier ones are kept. Scores
  are compared in their own dtype. Floats of up to 32 bits, and integers of up
  to 16, are not sorted: the smallest kept score is found by counting the scores
  above a bound, some 10 to 30 times. Wider scores are sorted. A NaN is refused
  outside of jit; inside jit it ranks below -inf.

  Args:
    scores: tree of leaves of floats or integers; `None` leaves stay `None`.
    density: fraction to keep, a number for all leaves or a tree of numbers as
      from `erdos_renyi` (static Python numbers, in [0, 1]).

  Raises:
    ValueError: a density is outside [0, 1], a score is NaN, or a leaf can't be
      ranked; names the leaf.

  >>> import jax.numpy as jnp
  >>> top_k({'w': jnp.array([3., 1., 1., 1.])}, density=0.5)
  {'w': Array([ True,  True, False, False], dtype=bool)}
  """
  return _mask_leaves.most(_mask_leaves.rankable(scores), density)


def straight_through(
    sample_fn: Callable[[Scores], Mask]) -> Callable[[Scores], Scores]:
  """Makes a sampler differentiable: dL/dscores := dL/dmask.

  Args:
    sample_fn: (scores) -> a mask of the same structure, for example
      `masks.threshold`.

  Returns:
    (scores) -> float masks, 0. or 1. in the scores' dtype.

  >>> import jax, jax.numpy as jnp
  >>> soft = straight_through(threshold)
  >>> jax.grad(lambda s: (soft(s)['w'] * jnp.array([5., 7.])).sum())(
  ...     {'w': jnp.array([-1., 1.])})
  {'w': Array([5., 7.], dtype=float32)}
  """
  if not callable(sample_fn):
    raise ValueError(f'the sampler is {messages.shown(sample_fn)}; give a '
                     'function from scores to a mask, such as masks.threshold')

  def leaf(name: str, s: Array | None, m: Array | None) -> Array | None:
    if s is not None and m is None:
      raise ValueError(f'the sampler gives no mask of {messages.leaf(name)}')
    if m is not None and not (m.dtype == bool or jnp.issubdtype(
        m.dtype, jnp.number)):
      raise ValueError(f'the sampler gives a mask of {messages.leaf(name)} '
                       f'that is {m.dtype}; it must be bool')
    return None if s is None or m is None else m.astype(s.dtype)

  @jax.custom_vjp
  def sample(scores: Scores) -> Scores:
    return trees.map_named(leaf, scores, trees.check_arrays(
        sample_fn(scores), 'what the sampler gives', True))
  sample.defvjp(lambda scores: (sample(scores), None),
                lambda _, cotangent: (cotangent,))
  return lambda scores: sample(trees.check_arrays(scores, 'scores', True))


def random(key: PRNGKey, like: Tree, density: float | Tree) -> Mask:
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
  def leaf(name: str, x: Array | None) -> Array | None:
    return None if x is None else draw(
        key, name, x.shape, functools.partial(
            jax.random.uniform, dtype=jnp.float32))
  return _mask_leaves.most(
      trees.map_named(leaf, trees.check_arrays(like, 'like')), density)


def union(a: Mask, b: Mask) -> Mask:
  """Weights in either mask.

  >>> import jax.numpy as jnp
  >>> union({'w': jnp.array([True, False])}, {'w': jnp.array([False, False])})
  {'w': Array([ True, False], dtype=bool)}
  """
  return _mask_leaves.leafwise(jnp.logical_or, a, b)


def intersection(a: Mask, b: Mask) -> Mask:
  """Weights in both masks.

  >>> import jax.numpy as jnp
  >>> intersection({'w': jnp.array([True, True])},
  ...              {'w': jnp.array([False, True])})
  {'w': Array([False,  True], dtype=bool)}
  """
  return _mask_leaves.leafwise(jnp.logical_and, a, b)


def difference(a: Mask, b: Mask) -> Mask:
  """Weights in `a` that are not in `b`.

  >>> import jax.numpy as jnp
  >>> difference({'w': jnp.array([True, True])},
  ...            {'w': jnp.array([False, True])})
  {'w': Array([ True, False], dtype=bool)}
  """
  return _mask_leaves.leafwise(lambda x, y: x & ~y, a, b)


def density(mask: Mask) -> Array:
  """Fraction of ones over all masked leaves together, a float32 scalar.

  >>> import jax.numpy as jnp
  >>> float(density({'w': jnp.array([True, False, False, False]), 'b': None}))
  0.25
  """
  return _mask_leaves.share(_mask_leaves.require_leaves(require_bool(mask)))


def densities(mask: Mask) -> Tree:
  """Fraction of ones in each leaf; `None` leaves stay; 0 for an empty leaf."""
  return jax.tree.map(_mask_leaves.share, require_bool(mask))


def overlap(a: Mask, b: Mask) -> Array:
  """Jaccard index |a and b| / |a or b| over all leaves; 1 if both are empty.

  >>> import jax.numpy as jnp
  >>> float(overlap({'w': jnp.array([True, True, False])},
  ...               {'w': jnp.array([False, True, False])}))
  0.5
  """
  both = _mask_leaves.count(intersection(a, b))
  either = _mask_leaves.count(union(a, b))
  return jnp.where(either == 0, 1., both / jnp.maximum(either, 1))


def pack(mask: Mask) -> Tree:
  """Packs masks to bits: flat uint8 leaves, the first weight in the high bit.

  >>> import jax.numpy as jnp
  >>> pack({'w': jnp.array([[True, False], [False, True]])})
  {'w': Array([144], dtype=uint8)}
  """
  return jax.tree.map(lambda m: jnp.packbits(m.reshape(-1)),
                      require_bool(mask))


def unpack(packed: Tree, like: Tree) -> Mask:
  """Inverse of `pack`.

  Args:
    packed: tree of uint8 leaves [ceil(size / 8)].
    like: tree with the shapes, for example the parameters; it may have leaves
      where `packed` is `None`.

  Raises:
    ValueError: the number of bytes doesn't fit the shape; names the leaf.

  >>> import jax.numpy as jnp
  >>> m = {'w': jnp.array([[True, False, True]])}
  >>> unpack(pack(m), like={'w': jnp.zeros((1, 3))})
  {'w': Array([[ True, False,  True]], dtype=bool)}
  """
  def leaf(name: str, bits: Array | None, x: Array | None) -> Array | None:
    if bits is None:
      return None
    if x is None:
      raise ValueError(f'{messages.leaf(name)} is packed, but not in `like`')
    count = int(np.prod(x.shape))
    if bits.dtype != np.uint8:
      raise ValueError(f'the packed mask of {messages.leaf(name)} is '
                       f'{bits.dtype}, not uint8; make it with masks.pack')
    if bits.shape != (-(-count // 8),):
      raise ValueError(
          f'packed mask has {trees.counted(trees.size(bits), "byte")} but '
          f'{messages.leaf(name)} of shape {x.shape} needs {-(-count // 8)}')
    return jnp.unpackbits(bits, count=count).reshape(x.shape).astype(bool)
  return trees.map_named(leaf,
                         trees.check_arrays(packed, 'a packed mask', True),
                         trees.check_arrays(like, 'like'))


def stack(masks: Iterable[Mask]) -> Mask:
  """Stacks K masks to one tree with bool leaves [K, ...], a basis.

  >>> import jax.numpy as jnp
  >>> stack([{'w': jnp.array([True])}, {'w': jnp.array([False])}])['w'].shape
  (2, 1)
  """
  masks = () if masks is None else masks
  if not isinstance(masks, Iterable) or hasattr(masks, 'shape'):
    raise ValueError(f'masks is {messages.shown(masks)}; give a list of them')
  masks = [require_bool(mask) for mask in masks]
  if not masks:
    raise ValueError('a basis needs at least one mask')
  for other in masks[1:]:
    _mask_leaves.leafwise(lambda x, y: None, masks[0], other)
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *masks)


def signed_constant(key: PRNGKey, like: Params,
                    fan_in: fans.Rules = ()) -> Params:
  """The signed Kaiming constant backbone: every weight is +c or -c.

  c = sqrt(2 / fan_in) of each kernel; signs are fair coins (SupSup, section
  3.1). Leaves that are not kernels (biases, scales, embeddings) are returned
  unchanged. Equal keys give equal bits on every platform.

  Args:
    key: typed PRNG key.
    like: parameters in Flax layout; see `fans.fans`.
    fan_in: ordered (pattern, input axes) for kernels that don't follow Flax's
      conventions; axes `None` mean that the leaf is not a kernel.

  Raises:
    ValueError: a kernel is not of floats, a pattern matches no leaf, or a leaf
      does not have an axis.

  >>> import jax, jax.numpy as jnp
  >>> w = signed_constant(jax.random.key(0), {'w': jnp.zeros((8, 4))})['w']
  >>> sorted(set(w.ravel().tolist()))
  [-0.5, 0.5]
  """
  known = fans.fans(trees.check_arrays(like, 'like'), fan_in)

  def leaf(name: str, x: Array | None) -> Array | None:
    fan = None if x is None else known[name]
    if x is None or fan is None:
      return x
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise ValueError(f'{messages.leaf(name)} is {x.dtype}: a signed constant '
                       'needs a kernel of floats')
    c = np.sqrt(2. / max(fan.fan_in, 1)).astype(x.dtype)
    bits = draw(key, name, x.shape, functools.partial(
        jax.random.bits, dtype=jnp.uint8))
    return jnp.where(bits >= 128, c, -c)
  return trees.map_named(leaf, like)


def erdos_renyi(params: Params, eps: float) -> trees.Tree:
  """Layer budgets of SupSup's sparse masks, static floats for `top_k`.

  density = min(0.5, eps (c_in + c_out) / (c_in c_out kh kw)) for each kernel;
  `fans.fans` determines the axes c_in and c_out.

  Args:
    params: parameters (or shapes) in Flax layout; `None` leaves stay.
    eps: higher is denser.

  Raises:
    ValueError: a leaf is not a kernel, or eps is not above 0.

  >>> import jax.numpy as jnp
  >>> erdos_renyi({'w': jnp.zeros((3, 3, 10, 40))}, eps=2)
  {'w': 0.027777777777777776}
  """
  if not (trees.is_number(eps) and eps > 0) or (
      isinstance(eps, int) and eps > 1e308):
    raise ValueError(f'eps is {messages.shown(eps)}; it must be above 0, and '
                     'no larger than a float')
  eps = float(eps)
  known = fans.fans(trees.check_arrays(params, 'parameters'))

  def leaf(name: str, x: Array | None) -> float | None:
    if x is None:
      return None
    fan = known[name]
    if fan is None:
      raise ValueError(f'{messages.leaf(name)} has shape {x.shape}: Erdos-Renyi'
                       ' budgets need a kernel with input and output axes')
    return min(0.5, eps * (fan.inputs + fan.outputs) * fan.layers
               / max(trees.size(x), 1))
  return trees.map_named(leaf, params)
