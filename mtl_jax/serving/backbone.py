"""The immutable backbone, made again from its seed recipe, bit for bit.

If it starts from a file of weights, it is read once from this file, and
afterwards from the workdir, which keeps its leaves.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import aliases
from mtl_jax import fans
from mtl_jax import host
from mtl_jax import masks
from mtl_jax import models
from mtl_jax import registry
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.models import precision
from mtl_jax.models import pretrained
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import weights
from mtl_jax.storage import workdir as workdir_lib


class Backbone(NamedTuple):
  """The network and the parameters from which every task's network is made.

  Attributes:
    network: the pure functions.
    params: the parameter tree that is never changed.
    stats: initial norm statistics, {} if the network has none.
    recipe: JSON values for `make`, and the fingerprint of `params`.
  """
  network: models.Network
  params: aliases.Params
  stats: aliases.Stats
  recipe: dict


def make(recipe: dict, leaves: dict[str, Any] | None = None,
         remat: bool = False) -> Backbone:
  """The backbone of a recipe.

  Args:
    recipe: 'model', 'outputs', 'options', 'init', 'seed', 'image_shape'; also
      'compute_dtype' if it isn't float32, and 'fingerprint' if the result must
      be a known one; with a file of weights also 'weights', 'names' and 'fresh'
      (see `config.parts.Backbone`).
    leaves: the leaves of such a backbone, from `kept`; `None` reads the file.
    remat: whether to use less memory for gradients; see `models.recomputing`.

  Raises:
    ValueError: the weights don't have the recipe's fingerprint, the recipe
      asks for weights that its init replaces, or the file can't be read or
      does not fill the network.
    FileNotFoundError: the file of weights doesn't exist.
  """
  check_recipe(recipe)
  options = dict(recipe['options'])
  if recipe['model'] not in models.MODELS and recipe.get('defined_in'):
    raise ValueError(f"the backbone is the model {recipe['model']!r}, which "
                     f"{recipe['defined_in']['file']} defines; pass that file "
                     'as plugins (--plugins)')
  models.check_init(recipe['model'], recipe['init'], options)
  network = models.make(recipe['model'], recipe['outputs'], **options)
  if remat:
    network = models.recomputing(recipe['model'], network)
  network = precision.computed(network,
                               recipe.get('compute_dtype', 'float32'))
  key = jax.random.key(recipe['seed'], impl='threefry2x32')
  if leaves is None:
    _require_room(network, recipe, key)
    params, stats = _draw(network, recipe, key)
    if recipe.get('weights'):
      params, stats = _from_file(network, recipe, key, params, stats)
  else:
    params, stats = pretrained.split(leaves, *jax.eval_shape(
        functools.partial(_init, network, recipe), key))
  found = trees.fingerprint(params)
  if recipe.get('fingerprint', found) != found:
    raise ValueError(
        f"the backbone's fingerprint is {found} but {recipe['fingerprint']} "
        'was recorded: impressions fit only the backbone on which they were '
        'made. Was the seed, the model, the file of weights or the version of '
        'jax changed?')
  return Backbone(network, params, stats, dict(recipe, fingerprint=found))


_RECIPE: dict[str, tuple[type, ...]] = {
    'model': (str,), 'outputs': (int,), 'options': (dict,), 'init': (str,),
    'seed': (int,), 'image_shape': (list, tuple)}


def check_recipe(recipe: Any) -> None:
  """Refuses a recipe that lacks something, or has a value of another kind.

  Raises:
    ValueError: names what it lacks, or the value.
  """
  remedy = 'restore its file from a copy'
  missing = sorted(_RECIPE.keys() - set(recipe or ()))
  if missing:
    raise ValueError(f'the recipe of the backbone lacks {missing}; {remedy}')
  for key, kinds in _RECIPE.items():
    if not isinstance(recipe[key], kinds) or isinstance(recipe[key], bool):
      raise ValueError(f'the recipe of the backbone has {key} = '
                       f'{recipe[key]!r}, which is no {kinds[0].__name__}; '
                       f'{remedy}')
  if not abs(recipe['seed']) < 1 << 63:
    raise ValueError(f'the recipe of the backbone has seed = {recipe["seed"]}; '
                     f'it must be below 2 ** 63: {remedy}')
  if recipe['outputs'] < 1:
    raise ValueError('the recipe of the backbone has outputs = '
                     f'{recipe["outputs"]}; it must be at least 1: {remedy}')
  given = recipe['image_shape']
  for shape in given if given and isinstance(given[0], (list, tuple)) else [
      given]:
    # Tokens have their dtype before their length.
    sizes = shape[1:] if shape[:1] in (['int32'], ('int32',)) else shape
    if not sizes or not all(type(n) is int and 0 < n < 1 << 24 for n in sizes):
      raise ValueError(f'the recipe of the backbone has image_shape = {given}; '
                       f'sizes are whole numbers above 0: {remedy}')
  registry.check_origin(recipe.get('defined_in'), 'the model of the backbone')


def kept(work: workdir_lib.Workdir) -> dict[str, Any] | None:
  """The leaves of a backbone that a workdir keeps; `None` if a seed makes it.

  Raises:
    CheckpointError: the leaves are damaged, or belong to another backbone.
  """
  if not (work.backbone.exists() and checkpoint.exists(work.weights)):
    return None
  recipe = json_records.read_json(work.backbone)
  return checkpoint.load(work.weights, expected={
      'backbone': recipe['fingerprint']})[0]


def _from_file(network: models.Network, recipe: dict, key: aliases.PRNGKey,
               params: aliases.Params, stats: aliases.Stats
               ) -> tuple[aliases.Params, aliases.Stats]:
  """The drawn leaves, replaced by those of the recipe's file."""
  names = recipe.get('names')
  flat = pretrained.fill(
      recipe['weights'], weights.read(recipe['weights']),
      pretrained.leaves(params, stats), names, tuple(recipe.get('fresh') or ()),
      network.published, key, tuple(recipe['image_shape']))
  return pretrained.split(flat, params, stats)


def _require_room(network: models.Network, recipe: dict,
                  key: aliases.PRNGKey) -> None:
  """Refuses a network that the machine has no memory for."""
  left = host.available_bytes()
  shapes = jax.eval_shape(functools.partial(_init, network, recipe), key)
  need = sum(math.prod(x.shape) * x.dtype.itemsize
             for x in jax.tree.leaves(shapes))
  if left is not None and need > left:
    raise ValueError(
        f'the backbone {recipe["model"]} with {recipe["outputs"]} outputs '
        f'takes {need / 1e9:.1f} GB, and this machine has {left / 1e9:.1f} GB '
        'left; give smaller backbone.outputs or backbone.options')


def _init(network: models.Network, recipe: dict,
          key: aliases.PRNGKey) -> tuple[aliases.Params, aliases.Stats]:
  params, stats = network.init(key, tuple(recipe['image_shape']))
  # A user's functions may give plain numbers, which no task could be read with.
  return jax.tree.map(lambda x: x if hasattr(x, 'dtype') else jnp.asarray(x),
                      (params, stats))


def _draw(network: models.Network, recipe: dict,
          key: aliases.PRNGKey) -> tuple[aliases.Params, aliases.Stats]:
  """Parameters and statistics, always drawn on the CPU.

  Platforms round normal draws differently, but a task made on one platform
  must be readable on another.
  """
  if jax.default_backend() == 'cpu':
    return _draw_here(network, recipe, key)
  with host.on_cpu():
    drawn = jax.tree.map(np.asarray, _draw_here(network, recipe, key))
  return jax.tree.map(jnp.asarray, drawn)


def _draw_here(network: models.Network, recipe: dict,
               key: aliases.PRNGKey) -> tuple[aliases.Params, aliases.Stats]:
  init = functools.partial(_init, network, recipe, key)
  if recipe['init'] != 'signed_constant':
    return init()
  shapes = jax.eval_shape(init)[0]
  known = fans.fans(shapes, network.fan_in)

  def without_kernels() -> tuple[aliases.Params, aliases.Stats]:
    # XLA then skips kernels that are replaced below.
    params, stats = init()
    return trees.map_named(
        lambda name, x: None if known[name] else x, params), stats
  rest, stats = jax.jit(without_kernels)()
  return masks.signed_constant(
      jax.random.fold_in(key, 1), trees.combine(rest, shapes),
      network.fan_in), stats


def another_draw(backbone: Backbone, number: int) -> trees.Tree:
  """Parameters drawn like the backbone's, with another key.

  Args:
    backbone: its recipe is used; weights from a file stay the same.
    number: number of the draw, from 1.
  """
  recipe = backbone.recipe
  key = jax.random.key(recipe['seed'], impl='threefry2x32')
  drawn = _draw(backbone.network, recipe, jax.random.fold_in(
      jax.random.fold_in(key, 2), number))[0]
  if not recipe.get('weights'):
    return drawn
  fresh = pretrained.fresh_leaves(
      pretrained.leaves(backbone.params, backbone.stats), pretrained.all_fresh(
          recipe.get('names'), recipe.get('fresh') or (),
          backbone.network.published))
  return trees.map_named(lambda name, new, old: new if name in fresh else old,
                         drawn, backbone.params)


def recipe_of(config: config_lib.Config, shapes: list) -> dict:
  """The recipe that a config asks for, with one or several input shapes."""
  part = config.backbone
  recipe = {'model': part.model, 'outputs': part.outputs,
            'options': dict(part.options), 'init': part.init,
            'seed': config.seed if part.seed is None else part.seed,
            'image_shape': list(shapes[0]) if len(shapes) == 1 else [
                list(shape) for shape in shapes]}
  if part.weights is not None:
    recipe |= {'weights': part.weights, 'names': part.names,
               'fresh': part.fresh}
  if part.compute_dtype != 'float32':
    recipe['compute_dtype'] = part.compute_dtype
  own = models.MODELS.origin(part.model)
  return recipe | ({'defined_in': own} if own else {})
