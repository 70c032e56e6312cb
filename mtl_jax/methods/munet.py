"""mu2Net: a task is a path through components, most of them shared.

Gesmundo and Dean 2022, https://arxiv.org/abs/2205.12755. The search
(`mtl_jax.evolution`, `mtl_jax.training.search`) decides which components a path
shares and which it trains. This module expresses one path in terms of the
contract.
"""

import dataclasses

import jax.numpy as jnp

from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.methods import base

Tree = trees.Tree
TRAINED = ('encoder_norm', 'head')


def munet() -> base.Method:
  """A path of components, some of which are trained.

  `shared` is {'path': the network's tree, 'trained': `impressions.Structure`
  of the components at its top that receive gradients}. If it is empty, the path
  is the backbone with a new head, and the head and the last norm are trained.
  """
  def init(key, backbone, shared, route):
    del key
    path, trained = _path(backbone, shared, route)
    return {name: path[name] for name in trained}

  def bind(backbone, trainable, shared, route):
    return _path(backbone, shared, route)[0] | trainable

  def commit(backbone, trainable, shared, route):
    path = _path(backbone, shared, route)[0] | trainable
    return impressions.Impression(
        values=path,
        structure=impressions.Structure(tuple(sorted(path)))), shared

  def check(training, backbone, before, own):
    del backbone, before, own
    if not training.search:
      raise ValueError('munet needs a search (space, generations, children, '
                       '...)')

  return base.Method(init, bind, commit, base.materialise, check=check,
                     abilities=base.Abilities(searched=shared_of,
                                              own_head=True))


@dataclasses.dataclass(frozen=True)
class Options:
  """No options: the search has its own settings."""


def make(options: Options) -> base.Method:
  """The method of a config's options."""
  del options
  return munet()


def shared_of(path: Tree, trained) -> dict:
  """The `shared` of a path; see `munet`."""
  return {'path': path,
          'trained': impressions.Structure(tuple(sorted(trained)))}


def _path(backbone, shared, route) -> tuple[Tree, tuple[str, ...]]:
  """The network, and the names of its trained components."""
  if 'path' in shared:
    return dict(shared['path']), shared['trained'].parts
  for name in TRAINED:
    if name not in backbone:
      raise ValueError(f'munet needs a network of components, but the backbone '
                       f'has no {name}{trees.nearest(name, backbone)}; choose '
                       'a ViT')
  width = backbone['head']['kernel'].shape[0]
  head = {'kernel': jnp.zeros((width, route.classes), jnp.float32),
          'bias': jnp.zeros(route.classes, jnp.float32)}
  return dict(backbone) | {'head': head}, TRAINED
