"""The immutable backbone: regenerated from its seed recipe, bit for bit."""

import functools
from typing import Any, NamedTuple

import jax

from mtl_jax import config as config_lib
from mtl_jax import masks
from mtl_jax import models
from mtl_jax import trees


class Backbone(NamedTuple):
  """What every task's network is made of.

  Attributes:
    network: the pure functions.
    params: the parameter tree that is never changed.
    stats: initial norm statistics, {} if the network has none.
    recipe: JSON values from which all of this is made again, and the
      fingerprint of `params`.
  """
  network: models.Network
  params: Any
  stats: Any
  recipe: dict


def make(recipe: dict) -> Backbone:
  """The backbone of a recipe.

  Args:
    recipe: 'model', 'outputs', 'options', 'init', 'seed', 'image_shape', and
      'fingerprint' if the result must be a known one.

  Raises:
    ValueError: the weights are not those of the recipe's fingerprint.
  """
  missing = sorted({'model', 'outputs', 'options', 'init', 'seed',
                    'image_shape'} - set(recipe or ()))
  if missing:
    raise ValueError(f'the recipe of the backbone lacks {missing}; restore '
                     'its file from a copy')
  network = models.make(recipe['model'], recipe['outputs'],
                        **dict(recipe['options']))
  key = jax.random.key(recipe['seed'], impl='threefry2x32')
  init = functools.partial(network.init, key, tuple(recipe['image_shape']))
  if recipe['init'] == 'signed_constant':
    rest, stats = jax.jit(lambda: _without_kernels(*init()))()
    like = trees.combine(rest, jax.eval_shape(init)[0])
    params = masks.signed_constant(jax.random.fold_in(key, 1), like)
  else:
    params, stats = init()
  found = trees.fingerprint(params)
  if recipe.get('fingerprint', found) != found:
    raise ValueError(
        f"the backbone's fingerprint is {found} but {recipe['fingerprint']} "
        'was recorded: impressions fit only the backbone on which they were '
        'made. Was the seed, the model or the version of jax changed?')
  return Backbone(network, params, stats, dict(recipe, fingerprint=found))


def _without_kernels(params, stats):
  """So that XLA draws none of the kernels that are replaced anyway."""
  return trees.map_leaves(lambda x: None if x.ndim > 1 else x, params), stats


def recipe_of(config: config_lib.Config, shapes: list) -> dict:
  """The recipe that a config asks for on inputs of one shape, or several."""
  part = config.backbone
  return {'model': part.model, 'outputs': part.outputs,
          'options': dict(part.options), 'init': part.init,
          'seed': config.seed if part.seed is None else part.seed,
          'image_shape': list(shapes[0]) if len(shapes) == 1 else [
              list(shape) for shape in shapes]}
