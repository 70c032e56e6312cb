"""A mesh of tasks, data and model gives what pmap and one device give.

Masks and accuracies are the same; losses and scores to rounding, because sums
over a batch and over a product's divided axis have another order.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import test_parallel as unsharded

from mtl_jax import methods
from mtl_jax import models
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.data import batches as batches_lib
from mtl_jax.methods import impresslearn
from mtl_jax.methods import supsup
from mtl_jax.parallel import mesh
from mtl_jax.steps import optimizers
from mtl_jax.steps import single

TASKS, STEPS, BATCH, SHAPE = 4, 4, 16, (6, 6, 1)
EVERY = mesh.Axes(2, 2, 2)
METHODS = {
    'threshold': lambda: supsup.supsup(),
    'top_k': lambda: supsup.supsup(supsup.sampler('top_k', density=.3)),
    'coefficients': lambda: impresslearn.impresslearn(
        head='Dense_1/.*', sampling=supsup.sampler('top_k', density=.5)),
}


class Problem(NamedTuple):
  """The arguments of a chunk: those of all tasks, and of each."""
  method: Any
  chunk: Any
  fixed: tuple
  tasks: list
  states: list
  index: np.ndarray


@functools.lru_cache(maxsize=None)
def problem(name):
  method = METHODS[name]()
  network = models.from_linen(lambda **_: unsharded.Small())
  random = np.random.RandomState(0)
  params, _ = jax.eval_shape(lambda key: network.init(key, SHAPE),
                             jax.random.key(0))
  # Not of signed constants: their sums cancel exactly here and there, and
  # rounding would decide whether a hidden unit is on.
  backbone = jax.tree.map(lambda w: (random.standard_normal(w.shape) * np.sqrt(
      2. / w.shape[0])).astype(np.float32), params)
  shared = {} if name != 'coefficients' else {'basis': jax.tree.map(
      lambda w: random.rand(3, *w.shape) < .5, backbone)}
  optimizer = optimizers.make_optimizer(optimizers.Recipe(
      STEPS, BATCH, optimizer='sgd', learning_rate=.05, momentum=.9))
  route = methods.Route(unsharded.CLASSES,
                        (unsharded.AUGMENT, ('normalise',)))

  def state(task):
    made = single.init_state(method, optimizer, jax.random.key(task), backbone,
                             shared, {}, route)
    if name != 'coefficients':
      return made
    drawn = np.random.RandomState(task)
    return made._replace(trainable=made.trainable | {
        'coefficients': jax.tree.map(
            lambda a: drawn.uniform(.1, .5, a.shape).astype(np.float32),
            made.trainable['coefficients'])})

  def arrays(task):
    mean = np.full(1, 120 + task, np.float32)
    return single.TaskArrays(({}, {'mean': mean, 'std': mean / 2}), np.arange(
        10, dtype=np.int32) % unsharded.CLASSES)
  return Problem(
      method, single.make_chunk(single.make_step(method, network, optimizer)),
      (route, backbone, shared, unsharded.source_of(random, SHAPE)),
      [arrays(i) for i in range(TASKS)], [state(i) for i in range(TASKS)],
      np.stack([batches_lib.of_epochs(np.arange(64), STEPS, BATCH, (i,))
                for i in range(TASKS)]))


def on_mesh(name, axes):
  """(state of all tasks on the mesh, metrics)."""
  p = problem(name)
  route, *fixed = p.fixed
  place = lambda trees_: mesh.put(mesh.pad(parallel.stack(trees_), axes), axes,
                                  tasks=True)
  return mesh.over_mesh(p.chunk, axes)(
      route, *(mesh.put(x, axes) for x in fixed), place(p.tasks),
      place(p.states), mesh.put_index(mesh.pad(p.index, axes), axes))


@functools.lru_cache(maxsize=None)
def alone(name):
  """[(state, metrics)] of each task under plain jit on one device."""
  p = problem(name)
  program = jax.jit(p.chunk, static_argnums=0)
  return [program(*p.fixed, task, state, index) for task, state, index in zip(
      p.tasks, p.states, p.index)]


def over_tasks(name):
  """[(state, metrics)] of each task under pmap."""
  p = problem(name)
  route, *fixed = p.fixed
  place = lambda tree: parallel.split_tasks(parallel.pad_tasks(tree))
  state, metrics = parallel.join_tasks(parallel.over_tasks(p.chunk)(
      route, *map(parallel.put, fixed), place(parallel.stack(p.tasks)),
      place(parallel.stack(p.states)), place(p.index)))
  return [jax.tree.map(lambda x, i=i: x[i], (state, metrics))
          for i in range(TASKS)]


def impression(name, state):
  p = problem(name)
  route, backbone, shared, _ = p.fixed
  return p.method.commit(backbone, state.trainable, shared, route)[0]


def assert_same(name, found, expected):
  (state, metrics), (other, measured) = found, expected
  np.testing.assert_array_equal(metrics.accuracy, measured.accuracy)
  np.testing.assert_allclose(metrics.loss, measured.loss, rtol=1e-5)
  made, wanted = (impression(name, s) for s in (state, other))
  for leaf, mask in trees.flatten(wanted.masks or {}).items():
    np.testing.assert_array_equal(trees.flatten(made.masks)[leaf], mask, leaf)
  for leaf, array in trees.flatten(other.trainable).items():
    if array is not None:
      np.testing.assert_allclose(trees.flatten(state.trainable)[leaf], array,
                                 rtol=1e-3, atol=1e-4, err_msg=leaf)


@pytest.mark.parametrize('name, axes', [
    ('top_k', EVERY), ('coefficients', EVERY),
    pytest.param('threshold', EVERY, marks=pytest.mark.slow),
    pytest.param('top_k', mesh.Axes(1, 1, 8), marks=pytest.mark.slow)])
def test_a_mesh_equals_one_device(name, axes):
  state, metrics = mesh.gather(on_mesh(name, axes))
  for i, expected in enumerate(alone(name)):
    assert_same(name, jax.tree.map(lambda x, i=i: x[i], (state, metrics)),
                expected)
  # The problem is not too easy: all scores have moved.
  start = trees.flatten(problem(name).states[0].trainable)
  for leaf, array in trees.flatten(state.trainable).items():
    if array is not None:
      assert np.max(np.abs(array[0] - start[leaf])) > 1e-3, leaf


@pytest.mark.parametrize('name', METHODS)
def test_pmap_equals_one_device_too(name):
  for found, expected in zip(over_tasks(name), alone(name)):
    assert_same(name, found, expected)


def test_large_arrays_are_divided_and_stay_so():
  p = problem('coefficients')
  backbone, shared = (mesh.put(x, EVERY) for x in p.fixed[1:3])
  kernel = backbone['Dense_0']['kernel']
  assert kernel.shape == (36, 24)
  assert kernel.addressable_shards[0].data.shape == (36, 12)
  # Five outputs don't divide: the inputs do.
  assert backbone['Dense_1']['kernel'].addressable_shards[0].data.shape == (
      12, 5)
  assert shared['basis']['Dense_0']['kernel'].addressable_shards[
      0].data.shape == (3, 36, 12)
  state, _ = on_mesh('top_k', EVERY)
  for tree in (state.trainable, state.optimizer):
    found = [x.addressable_shards[0].data.shape for x in jax.tree.leaves(tree)
             if x.shape == (TASKS, 36, 24)]
    assert found and set(found) == {(TASKS // 2, 36, 12)}


def test_what_will_be_placed_is_known():
  p = problem('top_k')
  several = parallel.stack(p.states[:3])
  placed = mesh.put(mesh.pad(several, EVERY), EVERY, tasks=True)
  foreseen = mesh.shapes(p.states[0], EVERY, tasks=3)
  for one, other in zip(jax.tree.leaves(placed), jax.tree.leaves(foreseen)):
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert one.sharding == other.sharding
  index = mesh.put_index(mesh.pad(p.index[:3], EVERY), EVERY)
  shape = mesh.index_shape(3, STEPS, BATCH, EVERY)
  assert (index.shape, index.sharding) == (shape.shape, shape.sharding)


def test_a_mesh_of_other_devices_or_an_odd_batch_is_refused():
  mesh.check(EVERY, 16)
  with pytest.raises(ValueError, match='mesh 2 x 2 x 4 takes 16 devices, but '
                                       'there are 8'):
    mesh.check(mesh.Axes(2, 2, 4), 16)
  with pytest.raises(ValueError, match='batch_size is 15, but mesh.data '
                                       'divides it into 2 parts'):
    mesh.check(EVERY, 15)
