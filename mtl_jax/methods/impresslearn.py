"""ImpressLearn: a task is a handful of coefficients over a basis of masks.

Bhardwaj et al. 2022, https://arxiv.org/abs/2210.01987. The effective weight of
layer l is W_l * sum_k alpha_kl M_l^k, with one signed coefficient per basis
mask and layer; W and the K masks are frozen.
"""

import numbers

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import trees
from mtl_jax.methods import base
from mtl_jax.methods import supsup

Tree = trees.Tree


def impresslearn(penalty: float = 0., head: str | None = None,
                 sampling: supsup.Sampler = supsup.THRESHOLD) -> base.Method:
  """Coefficients over the basis in `shared['basis']` (bool leaves [K, ...]).

  Args:
    penalty: weight of the sum over layers of (|alpha_l|_1 - 1)^2.
    head: a leaf pattern: these leaves get a supermask of their own, trained
      beside the coefficients of the other leaves (the hybrid variant). `None`
      combines every leaf of the basis.
    sampling: of the head's supermask.
  """
  if not (isinstance(penalty, numbers.Real) and 0 <= penalty < np.inf):
    raise ValueError(f'penalty is {penalty!r}; it must be a number that is not '
                     'negative, and finite')

  def init(key, backbone, shared, route):
    del route
    basis = require_basis(shared)
    combined, own = split_head(basis, head)
    coefficients = jax.tree.map(
        lambda m: jnp.full((m.shape[0],), 1. / m.shape[0]), combined)
    head_leaves = trees.map_leaves(
        lambda m, w: None if m is None else w, own, backbone)
    return {'coefficients': coefficients,
            'scores': base.kaiming_uniform(key, head_leaves)}

  def bind(backbone, trainable, shared, route):
    del route
    mixed = impressions.combine(trainable['coefficients'], shared['basis'])
    return masks.apply(masks.apply(backbone, mixed),
                       sampling.soft(trainable['scores']))

  def commit(backbone, trainable, shared, route):
    del backbone, route
    own = sampling.hard(trainable['scores'])
    return impressions.Impression(
        masks=own if jax.tree.leaves(own) else None,
        coefficients=trainable['coefficients']), shared

  def materialise(backbone, impression, shared):
    return impressions.materialise(backbone, impression,
                                   require_basis(shared))

  def regulariser(trainable):
    if not penalty:
      return 0.
    return penalty * sum((jnp.sum(jnp.abs(a)) - 1.) ** 2 for a in
                         jax.tree.leaves(trainable['coefficients']))

  return base.Method(init, bind, commit, materialise, regulariser)


def require_basis(shared: dict) -> Tree:
  """The basis in `shared`, or an error that says what is missing."""
  if 'basis' not in shared:
    raise ValueError('ImpressLearn needs a basis: give the phase a basis '
                     '(kind and size), or pass shared={"basis": masks.stack('
                     '[...])}')
  return shared['basis']


def split_head(basis: Tree, head: str | None) -> tuple[Tree, Tree]:
  """The leaves that are combined, and those with a mask of their own."""
  if head is None:
    return basis, jax.tree.map(lambda _: None, basis)
  own, combined = trees.partition(basis, trees.select(basis, [(head, True)]))
  if not jax.tree.leaves(combined):
    raise ValueError(f'the head pattern {head!r} takes every leaf of the '
                     'basis: nothing is left to combine')
  return combined, own


def one_hot(basis: Tree, index: int) -> Tree:
  """Coefficients that reproduce the basis mask `index` bit for bit.

  >>> import jax.numpy as jnp
  >>> one_hot({'w': jnp.zeros((3, 2, 2), bool)}, 1)
  {'w': Array([0., 1., 0.], dtype=float32)}
  """
  return jax.tree.map(
      lambda m: jnp.zeros(m.shape[0]).at[index].set(1.), basis)


def random_basis(key, like: Tree, size: int, density) -> Tree:
  """`size` random masks with exactly round(density x weights) ones a leaf.

  Args:
    key: typed PRNG key.
    like: the masked leaves of the backbone, `None` elsewhere.
    size: number of masks K.
    density: as in `masks.top_k`.
  """
  draw = lambda k: masks.random(jax.random.fold_in(key, k), like, density)
  return jax.jit(lambda: jax.lax.map(draw, jnp.arange(size)))()
