"""The immutable backbone: regenerated from its seed recipe, bit for bit."""

import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import aliases
from mtl_jax import fans
from mtl_jax import host
from mtl_jax import masks
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.models import precision


class Backbone(NamedTuple):
  """The network and the parameters from which every task's network is made.

  Attributes:
    network: the pure functions.
    params: the parameter tree that is never changed.
    stats: initial norm statistics, {} if the network has none.
    recipe: JSON values that `make` takes, and the fingerprint of `params`.
  """
  network: models.Network
  params: aliases.Params
  stats: aliases.Stats
  recipe: dict


def make(recipe: dict, weights: pathlib.Path | None = None,
         remat: bool = False) -> Backbone:
  """The backbone of a recipe.

  Args:
    recipe: 'model', 'outputs', 'options', 'init', 'seed', 'image_shape', and
      'compute_dtype' if it isn't float32, and 'fingerprint' if the result
      must be a known one.
    weights: a copy of the file that the option `weights` names; if it exists,
      it is read instead.
    remat: whether its gradients need less memory; see `models.recomputing`.

  Raises:
    ValueError: the weights are not those of the recipe's fingerprint, or the
      recipe asks for weights that its init replaces.
  """
  missing = sorted({'model', 'outputs', 'options', 'init', 'seed',
                    'image_shape'} - set(recipe or ()))
  if missing:
    raise ValueError(f'the recipe of the backbone lacks {missing}; restore '
                     'its file from a copy')
  options = dict(recipe['options'])
  if options.get('weights') and weights is not None and weights.exists():
    options['weights'] = str(weights)
  if recipe['model'] not in models.MODELS and recipe.get('defined_in'):
    raise ValueError(f"the backbone is the model {recipe['model']!r}, which "
                     f"{recipe['defined_in']['file']} defines; pass that file "
                     'as plugins')
  models.check_init(recipe['model'], recipe['init'], options)
  network = models.make(recipe['model'], recipe['outputs'], **options)
  if remat:
    network = models.recomputing(recipe['model'], network)
  network = precision.computed(network,
                               recipe.get('compute_dtype', 'float32'))
  params, stats = _draw(network, recipe, jax.random.key(
      recipe['seed'], impl='threefry2x32'))
  found = trees.fingerprint(params)
  if recipe.get('fingerprint', found) != found:
    raise ValueError(
        f"the backbone's fingerprint is {found} but {recipe['fingerprint']} "
        'was recorded: impressions fit only the backbone on which they were '
        'made. Was the seed, the model or the version of jax changed?')
  return Backbone(network, params, stats, dict(recipe, fingerprint=found))


def _draw(network: models.Network, recipe: dict,
          key: aliases.PRNGKey) -> tuple[aliases.Params, aliases.Stats]:
  """Parameters and statistics, drawn on the CPU whatever the backend is.

  Platforms round normal draws differently, but a task that was made on one
  must be readable on another.
  """
  if jax.default_backend() == 'cpu':
    return _draw_here(network, recipe, key)
  with host.on_cpu():
    drawn = jax.tree.map(np.asarray, _draw_here(network, recipe, key))
  return jax.tree.map(jnp.asarray, drawn)


def _draw_here(network: models.Network, recipe: dict,
               key: aliases.PRNGKey) -> tuple[aliases.Params, aliases.Stats]:
  init = functools.partial(network.init, key, tuple(recipe['image_shape']))
  if recipe['init'] != 'signed_constant':
    return init()
  shapes = jax.eval_shape(init)[0]
  known = fans.fans(shapes, network.fan_in)

  def without_kernels() -> tuple[aliases.Params, aliases.Stats]:
    # XLA then draws no kernel that is replaced below.
    params, stats = init()
    return trees.map_named(
        lambda name, x: None if known[name] else x, params), stats
  rest, stats = jax.jit(without_kernels)()
  return masks.signed_constant(
      jax.random.fold_in(key, 1), trees.combine(rest, shapes),
      network.fan_in), stats


def another_draw(backbone: Backbone, number: int) -> trees.Tree:
  """Parameters drawn as the backbone's were, with another key.

  Args:
    backbone: whose recipe is used; weights from a file are the same again.
    number: of the draw, from 1.
  """
  key = jax.random.key(backbone.recipe['seed'], impl='threefry2x32')
  return _draw(backbone.network, backbone.recipe, jax.random.fold_in(
      jax.random.fold_in(key, 2), number))[0]


def recipe_of(config: config_lib.Config, shapes: list) -> dict:
  """The recipe that a config asks for on inputs of one shape, or several."""
  part = config.backbone
  recipe = {'model': part.model, 'outputs': part.outputs,
            'options': dict(part.options), 'init': part.init,
            'seed': config.seed if part.seed is None else part.seed,
            'image_shape': list(shapes[0]) if len(shapes) == 1 else [
                list(shape) for shape in shapes]}
  if part.compute_dtype != 'float32':
    recipe['compute_dtype'] = part.compute_dtype
  own = models.MODELS.origin(part.model)
  return recipe | ({'defined_in': own} if own else {})
