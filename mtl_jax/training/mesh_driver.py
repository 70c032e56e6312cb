"""Trains a group whose large arrays are also divided over devices."""

import functools

import jax

from mtl_jax import methods
from mtl_jax import models
from mtl_jax import parallel
from mtl_jax.config import plan
from mtl_jax.parallel import mesh
from mtl_jax.steps import optimizers
from mtl_jax.steps import single
from mtl_jax.training import driver as driver_lib
from mtl_jax.training import run as run_lib


@functools.lru_cache(maxsize=64)
def program(method: methods.Method, recipe: optimizers.Recipe,
            network: models.Network, axes: mesh.Axes):
  """The compiled chunk of one method and recipe, divided over a mesh."""
  return mesh.over_mesh(single.make_chunk(single.make_step(
      method, network, optimizers.optimizer_of(method, recipe))), axes)


def make(run: run_lib.Run, group: list[plan.Entry],
         recipe: optimizers.Recipe, axes: mesh.Axes) -> driver_lib.Driver:
  """The driver of a group whose entries have one route.

  Args:
    run, group, recipe: as for `drivers.make`.
    axes: axes of the mesh.
  """
  method, entries = group[0].phase.make_method(), len(group)
  functions = driver_lib.program(method, recipe, run.backbone.network)
  chunk = program(method, recipe, run.backbone.network, axes)
  place = lambda tree: mesh.put(mesh.pad(tree, axes), axes, tasks=True)
  unpad = functools.partial(jax.tree.map, lambda x: x[:entries])
  source = run.data.split(group[0].task, 'train')
  placed: dict = {}  # by name: (the original, its placed copy)

  def once(name, tree, make=lambda tree: mesh.put(parallel.local(tree), axes)):
    if name not in placed or placed[name][0] is not tree:
      placed[name] = tree, make(tree)
    return placed[name][1]

  draw, prepare = driver_lib.ahead(run, group, recipe)

  def start(shared):
    return parallel.stack([parallel.local(driver_lib.initial(
        run, functions, entry, shared)) for entry in group])

  def advance(shared, state, first, count):
    index = mesh.put_index(mesh.pad(draw(first, count), axes), axes)
    state, measured = chunk(
        group[0].route, once('backbone', run.backbone.params),
        once('shared', shared), once('source', source),
        once('tasks', group, lambda group: place(parallel.stack_on_host(
            [run.data.on_host(entry) for entry in group]))), state, index)
    prepare(first + count, count)
    return state, lambda: unpad(mesh.gather(measured))

  def lower(shared, count):
    state = jax.eval_shape(
        functools.partial(driver_lib.initial, run, functions, group[0]), shared)
    shapes = functools.partial(mesh.shapes, axes=axes)
    return chunk.lower(
        group[0].route, shapes(run.backbone.params), shapes(shared),
        shapes(source),
        shapes(run.data.on_host(group[0]), tasks=entries),
        shapes(state, tasks=entries),
        mesh.index_shape(entries, count, recipe.batch_size, axes))

  def member(state, i):
    return parallel.from_host(jax.tree.map(lambda x: x[i], state))

  return driver_lib.Driver(
      start, place, advance, lambda state: unpad(mesh.gather(state)), member,
      lower)
