"""A stored task as plain functions, and rows in blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx
from jax import export

import mtl_jax
from mtl_jax import models
from mtl_jax.config import config as config_lib
from mtl_jax.serving import blocks
from mtl_jax.serving import programs
from mtl_jax.serving import system as system_lib


@pytest.fixture(name='system', scope='module')
def _system(tmp_path_factory):
  return mtl_jax.load(tiny.learned(tmp_path_factory.mktemp('run') / 'run',
                                   'few'))


def shapes(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.mark.parametrize('task', ['permuted-00', 'permuted-12'])
def test_apply_is_predict_to_the_bit(system, task):
  x = system.probe('digits')
  apply, params = system.apply_fn(task)
  np.testing.assert_array_equal(jax.jit(apply)(params, x),
                                system.predict(x, task=task))


def test_params_are_copies(system):
  x = system.probe('digits')
  before = np.asarray(system.predict(x, task='permuted-00'))
  apply, params = system.apply_fn('permuted-00')
  jax.jit(lambda p: jax.tree.map(lambda leaf: leaf * 0, p),
          donate_argnums=0)(params)
  np.testing.assert_array_equal(system.predict(x, task='permuted-00'), before)
  assert not any(leaf.is_deleted()
                 for leaf in jax.tree.leaves(system.backbone.params))


def test_params_can_be_trained(system):
  x, y = system.probe('digits'), np.arange(16) % 10
  apply, params = system.apply_fn('permuted-12')
  optimizer = optax.sgd(.1)

  def loss(params):
    return optax.softmax_cross_entropy_with_integer_labels(
        apply(params, x), y).mean()

  @jax.jit
  def step(params, state):
    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state
  state, first = optimizer.init(params), loss(params)
  for _ in range(5):
    params, state = step(params, state)
  assert loss(params) < first


def test_an_exported_program_has_the_same_bits(system):
  x = system.probe('digits')
  apply, params = system.apply_fn('permuted-12')
  written = export.export(jax.jit(apply))(shapes(params), shapes(x)).serialize()
  found = export.deserialize(written).call(params, x)
  np.testing.assert_array_equal(found, system.predict(x, task='permuted-12'))


def test_an_export_for_any_number_of_rows(system):
  x = system.probe('digits')
  apply, params = system.apply_fn('permuted-00')
  n, = export.symbolic_shape('n')
  program = export.export(jax.jit(apply))(
      shapes(params), jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype))
  np.testing.assert_allclose(
      export.deserialize(program.serialize()).call(params, x[:3]),
      system.predict(x[:3], task='permuted-00'), rtol=1e-5, atol=1e-5)


class Small(nnx.Module):

  def __init__(self, outputs, rngs):
    self.first = nnx.Linear(64, 12, rngs=rngs)
    self.last = nnx.Linear(12, outputs, rngs=rngs)

  def __call__(self, x):
    return self.last(nnx.relu(self.first(x.reshape(len(x), -1))))


def test_params_go_into_an_nnx_module(tmp_path):
  models.register('small_nnx', lambda outputs: models.from_nnx(
      lambda rngs: Small(outputs, rngs)))
  config = tiny.get_config('few')
  config.backbone = dict(model='small_nnx', outputs=10, init='default')
  config.suite.num_tasks = 1
  config.phases = dict(a=dict(config.phases.basis, tasks=(0, 1)))
  config.schedule = ('a',)
  tiny.train_alone(config_lib.from_dict(config.to_dict()), tmp_path / 'run')
  system = mtl_jax.load(tmp_path / 'run')
  task, = system
  apply, params = system.apply_fn(task)
  graph, state = nnx.split(Small(10, nnx.Rngs(0)))
  nnx.replace_by_pure_dict(state, params)
  module = nnx.merge(graph, state)
  x = system.probe('digits')
  stored = system.task(task)
  seen = system_lib.pipeline.apply(
      system_lib.transforms.kinds(stored.transforms), stored.parameters, x)
  np.testing.assert_allclose(module(seen), apply(params, x), rtol=1e-5,
                             atol=1e-6)


def test_parameters_are_counted(system):
  mask, mixed = map(system.parameters, ('permuted-00', 'permuted-12'))
  assert mask == programs.Parameters(0, 50200, 50200, 50200)
  assert mixed == programs.Parameters(3, 0, 50200, 50200)
  assert str(mixed) == ('own params: 3 || shared params: 50,200 || all params: '
                        '50,200 || own%: 0.0060')


def test_what_a_task_owns_is_not_shared(tmp_path):
  config = tiny.only('dedicated', phases__dedicated__method='dedicated')
  tiny.train_alone(config, tmp_path / 'run')
  system = mtl_jax.load(tmp_path / 'run')
  assert system.parameters(system.tasks[0]) == programs.Parameters(
      50200, 0, 0, 50200)


def test_twenty_sizes_compile_a_handful(system):
  traces = []
  apply = system.backbone.network.apply

  def traced(params, stats, x, **kwargs):
    traces.append(len(x))
    return apply(params, stats, x, **kwargs)
  counted = system_lib.System(system.workdir, system.backbone._replace(
      network=system.backbone.network._replace(apply=traced)))
  x = np.zeros((2100, 8, 8, 1), np.uint8)
  for n in (*range(1, 20), 2100):
    assert counted.predict(x[:n], task='permuted-00').shape == (n, 10)
  assert sorted(traces) == [1, 2, 4, 8, 16, 32, 64, 1024]
  assert counted.predict(x[:0], task='permuted-00').shape == (0, 10)


def test_a_rows_bits_depend_on_no_other_row(system):
  x = np.random.RandomState(0).randint(0, 256, (1500, 8, 8, 1)).astype(
      np.uint8)
  whole = np.asarray(system.predict(x, task='permuted-00'))
  np.testing.assert_array_equal(
      np.asarray(system.predict(x[:1024], task='permuted-00')), whole[:1024])
  # Padded with zeros or beside other rows.
  np.testing.assert_array_equal(
      np.asarray(system.predict(x[1024:], task='permuted-00')), whole[1024:])
  for n in (5, 7):
    np.testing.assert_array_equal(
        np.asarray(system.predict(x[:n], task='permuted-00')),
        np.asarray(system.predict(x[:8], task='permuted-00'))[:n])


@pytest.mark.parametrize('n', [0, 1, 3, 1024, 1025, 3000])
@pytest.mark.parametrize('space', [np, jnp])
def test_blocks_give_every_row_back(n, space):
  x = space.arange(3 * n).reshape(n, 3)
  sizes = []

  def call(part):
    sizes.append(len(part))
    return jnp.asarray(part) + 1
  np.testing.assert_array_equal(blocks.rows(call, x), x + 1)
  assert all(size & (size - 1) == 0 and size <= 1024 for size in sizes)
