"""Kernels as matrices from input to output units, for methods with vectors."""

import functools
import numbers

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import masks
from mtl_jax import trees
from mtl_jax.methods import base

Tree = trees.Tree


def matrices(tree: Tree, patterns) -> Tree:
  """The leaves that the patterns name, `None` elsewhere.

  Args:
    tree: parameters in Flax layout: kernels are [..., in, out].
    patterns: one pattern or several (see `trees.select`).

  Raises:
    ValueError: a leaf has fewer than two dimensions, or a pattern matches no
      leaf; names it.
  """
  chosen = base.masked_part(tree, patterns)
  for name, leaf in trees.flatten(chosen).items():
    if leaf is not None and len(leaf.shape) < 2:
      raise ValueError(f'{name} has shape {tuple(leaf.shape)}, so it has no '
                       'input and output units; leave it out of layers')
  return chosen


def named(tree: Tree) -> dict[str, Tree]:
  """The leaves that are not `None`, with names that an impression can store.

  >>> named({'a': {'kernel': 1, 'bias': None}})
  {'a.kernel': 1}
  """
  return {name.replace('/', '.'): leaf
          for name, leaf in trees.flatten(tree).items() if leaf is not None}


def change(f, tree: Tree, own: dict[str, Tree]) -> Tree:
  """Applies f(leaf, own part) to leaves in `own` (see `named`), not to others.
  """
  return trees.map_named(
      lambda name, leaf: f(leaf, own[name.replace('/', '.')])
      if name.replace('/', '.') in own else leaf, tree)


def times(weights, matrix):
  """weights [..., in, out] times a matrix [in, out], [in, 1] or [1, out]."""
  return weights * matrix.reshape((1,) * (weights.ndim - 2) + matrix.shape)


def signs(key, name: str, units: int):
  """Random signs +1 and -1, float32 [units], from a key and a name."""
  bits = masks.draw(key, name, (units,), functools.partial(
      jax.random.bits, dtype=jnp.uint8))
  return jnp.where(bits >= 128, 1., -1.).astype(jnp.float32)


def require_rate(name: str, rate: float) -> None:
  """Raises ValueError if a factor of a learning rate is not positive."""
  if not (isinstance(rate, numbers.Real) and 0 < rate < np.inf):
    raise ValueError(f'{name} is {rate!r}; it must be a number above 0, and '
                     'finite')


def rates_of_parts(factors: dict[str, float]):
  """`Abilities.rates` for a `trainable` that is a dict of parts; default 1.

  Returns:
    `None` if all factors are 1, so that the optimizer stays as it is.
  """
  if all(factor == 1 for factor in factors.values()):
    return None
  return lambda trainable: {
      part: jax.tree.map(lambda _, f=factors.get(part, 1.): f, leaves)
      for part, leaves in trainable.items()}
