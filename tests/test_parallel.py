"""One device, two, eight and plain jit: the same numbers, traced once.

The process has eight virtual devices (conftest). What it computes is compared
with plain jit, and with two other processes that have one and two devices.
"""

import contextlib
import os
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import methods
from mtl_jax import models
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.data import batches as batches_lib
from mtl_jax.steps import optimizers
from mtl_jax.steps import single

ROOT = pathlib.Path(__file__).parents[1]
CLASSES = 5
STEPS = 4
BATCH = 16
AUGMENT = ('crop_flip', 2)
TOLERANCE = 2e-5  # found: at most 5e-6, with batch norm


class Small(nn.Module):
  """Two dense layers."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.relu(nn.Dense(24, use_bias=False)(x.reshape(x.shape[0], -1)))
    return nn.Dense(CLASSES, use_bias=False)(x)


class Problem(NamedTuple):
  """All arguments of a chunk, and the chunk itself."""
  route: Any
  backbone: Any
  shared: Any
  source: Any
  task: Any
  state: Any
  index: Any
  chunk: Any
  network: Any
  traces: list


def signed(random, tree):
  """Signed constants and small scores, drawn by NumPy (quick to compile)."""
  def leaf(x):
    c = np.sqrt(2. / np.prod(x.shape[:-1])).astype(np.float32)
    return np.where(random.rand(*x.shape) < .5, c, -c)
  return jax.tree.map(leaf, tree)


def source_of(random, shape, n=64):
  return single.Source(random.randint(0, 256, (n, *shape)).astype(np.uint8),
                      random.randint(0, 10, n).astype(np.int32))


def problem(name, task=0):
  """A SupSup problem; `task` changes everything but the route."""
  fixed, own = np.random.RandomState(0), np.random.RandomState(task)
  if name == 'norm':
    network, shape = models.make('gem_resnet18', CLASSES, width=4), (8, 8, 3)
  else:
    network, shape = models.from_linen(lambda **_: Small()), (6, 6, 1)
  params, stats = jax.eval_shape(lambda key: network.init(key, shape),
                                 jax.random.key(0))
  stats = trees.map_named(lambda leaf, s: np.full(
      s.shape, leaf.endswith('var'), np.float32), stats)
  backbone = signed(fixed, params)
  kinds = (('normalise',),) if name == 'plain' else (AUGMENT, ('normalise',))
  mean = np.full(shape[-1:], 120 + task, np.float32)
  arrays = ({},) * (len(kinds) - 1) + ({'mean': mean, 'std': mean / 2},)
  optimizer = optimizers.make_optimizer(optimizers.Recipe(
      STEPS, BATCH, optimizer='sgd', learning_rate=.05, momentum=.9))
  scores = jax.tree.map(lambda w: own.uniform(-.1, .1, w.shape).astype(
      np.float32), backbone)
  traces = []
  step = single.make_step(methods.make('supsup'), network, optimizer)

  def counted(*arguments, **options):
    traces.append(1)
    return step(*arguments, **options)

  return Problem(
      methods.Route(CLASSES, kinds), backbone, {},
      source_of(fixed, shape),
      single.TaskArrays(arrays, np.arange(10, dtype=np.int32) % CLASSES),
      single.State(np.int32(0), scores, optimizer.init(scores), stats,
                  jax.random.key(task)),
      batches_lib.of_epochs(np.arange(64), STEPS, BATCH, (task,)),
      single.make_chunk(counted), network, traces)


def put(p):
  """A problem as `train` gives it to the devices."""
  fixed = ('backbone', 'shared', 'source', 'task', 'state')
  return p._replace(**{name: parallel.put(getattr(p, name)) for name in fixed})


def arguments(p):
  return p.route, p.backbone, p.shared, p.source, p.task


def on_all_devices(name):
  """Arrays that must not depend on the number of devices."""
  p = put(problem(name))
  state, metrics = parallel.over_batches(p.chunk)(
      *arguments(p), p.state, parallel.split_batch(p.index))
  return trees.flatten(parallel.to_host(
      {'metrics': metrics._asdict(), 'scores': state.trainable,
       'stats': state.stats, 'step': state.step}))


def plain(p):
  return jax.jit(p.chunk, static_argnums=0)(*arguments(p), p.state, p.index)


NAMES = ('plain', 'augmented', 'norm')


def write(path):
  """For the other processes: everything under its name, in one file."""
  np.savez(path, devices=jax.device_count(), **{
      f'{name}:{leaf}': array for name in NAMES
      for leaf, array in on_all_devices(name).items()})


@contextlib.contextmanager
def quick_compilation():
  """Compiles the ResNet in half the time."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture(scope='module')
def others(tmp_path_factory):
  """Results of processes with one and with two devices."""
  folder, started = tmp_path_factory.mktemp('devices'), []
  for count in (1, 2):
    code = ('import sys; sys.path.insert(0, "tests"); import test_parallel; '
            f'test_parallel.write({str(folder / f"{count}.npz")!r})')
    flags = f'--xla_force_host_platform_device_count={count}'
    started.append(subprocess.Popen(
        [sys.executable, '-c', code], cwd=ROOT, env=os.environ | {
            'XLA_FLAGS': flags, 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}))
  here = {name: on_all_devices(name) for name in NAMES[:2]}
  with quick_compilation():
    here['norm'] = on_all_devices('norm')
  for process in started:
    assert process.wait() == 0
  return here, {count: np.load(folder / f'{count}.npz') for count in (1, 2)}


def assert_close(found, expected, name, atol):
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=atol,
                             err_msg=name)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('count', [1, 2])
def test_one_and_two_devices_equal_eight(others, count, name):
  here, there = others
  assert int(there[count]['devices']) == count and jax.device_count() == 8
  for leaf, array in here[name].items():
    assert_close(there[count][f'{name}:{leaf}'], array, leaf, TOLERANCE)
  # The problem is not too easy: all scores have moved by more than that.
  for leaf, start in trees.flatten(problem(name).state.trainable).items():
    moved = np.abs(here[name][f'scores/{leaf}'] - start)
    assert np.max(moved) > 2 * TOLERANCE, leaf


@pytest.mark.parametrize('name', ['plain', 'augmented'])
def test_pmap_equals_plain_jit(others, name):
  state, metrics = plain(problem(name))
  for leaf, array in trees.flatten(
      {'metrics': metrics._asdict(), 'scores': state.trainable}).items():
    assert_close(others[0][name][leaf], array, leaf, TOLERANCE)


# Tracing and donation.


def leaves(tree):
  return jax.tree.leaves(tree)


@pytest.mark.parametrize('many', [False, True])
def test_a_second_call_and_a_second_task_trace_nothing(many):
  p = problem('plain')
  wrap, split = ((parallel.over_tasks, many_tasks) if many else
                 (parallel.over_batches, one_task))
  mapped = wrap(p.chunk)
  fixed = (p.route, *(parallel.put(x) for x in (p.backbone, {}, p.source)))
  task, state, index = split(0)
  state, _ = mapped(*fixed, task, state, index)
  first = len(p.traces)
  assert first >= 1
  mapped(*fixed, task, state, index)
  assert len(p.traces) == first, 'its own output as input was traced again'
  mapped(*fixed, *split(100))
  assert len(p.traces) == first, 'the second task was traced again'
  longer = np.concatenate([index, index], -2)
  mapped(*fixed, *split(200)[:2], longer)
  assert len(p.traces) > first, 'the counter counts nothing'


def one_task(first):
  p = put(problem('plain', first))
  return p.task, p.state, parallel.split_batch(p.index)


def many_tasks(first, count=16):
  """As `train` puts a group of tasks on the devices."""
  several = [problem('plain', first + i) for i in range(count)]
  return (parallel.split_tasks(parallel.stack([p.task for p in several])),
          parallel.split_tasks(parallel.stack([p.state for p in several])),
          parallel.split_tasks(np.stack([p.index for p in several])))


@pytest.mark.parametrize('many', [False, True])
def test_only_the_state_is_donated(many):
  p = put(problem('plain'))
  held = p.backbone, p.source, {'basis': parallel.put(np.ones((2, 3), bool))}
  before = trees.fingerprint(held)
  task, state, index = many_tasks(0) if many else one_task(0)
  mapped = (parallel.over_tasks if many else parallel.over_batches)(p.chunk)
  for _ in range(2):
    given = state
    state, _ = mapped(p.route, held[0], held[2], held[1], task, given, index)
    assert all(leaf.is_deleted() for leaf in leaves(given.trainable)
               if isinstance(leaf, jax.Array))
    assert isinstance(leaves(state.trainable)[0], jax.Array)
  assert not any(leaf.is_deleted() for leaf in leaves((held, task, state))
                 if isinstance(leaf, jax.Array))
  assert trees.fingerprint(held) == before


def test_put_copies_so_that_donation_leaves_the_callers_arrays():
  mine = {'x': jnp.arange(4.), 'key': jax.random.key(3), 'n': np.int32(5)}
  copy = parallel.put(mine)
  jax.jit(lambda t: jax.tree.map(lambda x: x, t), donate_argnums=0)(copy)
  np.testing.assert_array_equal(mine['x'], [0., 1., 2., 3.])
  copy = parallel.put(mine)
  assert copy['x'].sharding.is_fully_replicated
  assert len(copy['x'].sharding.device_set) == 8
  assert jax.random.key_impl(copy['key']) == jax.random.key_impl(mine['key'])
  host = parallel.to_host(copy)
  np.testing.assert_array_equal(host['key'], jax.random.key_data(mine['key']))
  assert isinstance(host['x'], np.ndarray) and int(host['n']) == 5


# Many tasks at once.


def test_tasks_at_once_equal_one_at_a_time():
  p = put(problem('plain'))
  state, metrics = parallel.over_tasks(p.chunk)(
      p.route, p.backbone, p.shared, p.source, *many_tasks(0))
  state, metrics = parallel.join_tasks((state, metrics))
  losses, program = [], jax.jit(p.chunk, static_argnums=0)
  for i in range(16):
    own = problem('plain', i)
    alone, measured = program(*arguments(own), own.state, own.index)
    losses.append(np.asarray(measured.loss))
    assert_close(metrics.loss[i], measured.loss, f'loss of task {i}', TOLERANCE)
    np.testing.assert_array_equal(metrics.accuracy[i], measured.accuracy)
    for name, scores in trees.flatten(alone.trainable).items():
      assert_close(trees.flatten(state.trainable)[name][i], scores, name,
                   TOLERANCE)
  assert np.std(losses, axis=0).min() > 1e-3  # the tasks do differ


def test_splits_by_hand():
  index = np.arange(2 * 16).reshape(2, 16)  # two steps of sixteen
  split = parallel.split_batch(index)
  assert split.shape == (8, 2, 2)
  np.testing.assert_array_equal(split[1], [[2, 3], [18, 19]])
  tasks = parallel.split_tasks({'x': np.arange(24).reshape(24, 1)})
  assert tasks['x'].shape == (8, 3, 1)
  np.testing.assert_array_equal(parallel.join_tasks(tasks)['x'].ravel(),
                                np.arange(24))
  gathered = parallel.gather_tasks(tasks)['x']
  assert isinstance(gathered, np.ndarray) and gathered.shape == (24, 1)
  np.testing.assert_array_equal(gathered.ravel(), np.arange(24))
  batches = parallel.split_evaluation(np.arange(48).reshape(16, 3))
  assert batches.shape == (8, 2, 3)
  np.testing.assert_array_equal(batches.reshape(16, 3).ravel(), np.arange(48))


def test_tasks_are_padded_with_the_last_one():
  keys = jax.random.split(jax.random.key(0), 10)
  padded = parallel.pad_tasks({'x': np.arange(10), 'key': keys, 'no': None})
  np.testing.assert_array_equal(padded['x'], [*range(10), *[9] * 6])
  assert padded['key'].shape == (16,)
  assert jnp.all(padded['key'][9:] == keys[9])
  whole = np.arange(16)
  assert parallel.pad_tasks(whole) is whole
  np.testing.assert_array_equal(
      parallel.join_tasks(parallel.split_tasks(padded))['x'], padded['x'])


def test_evaluation_over_devices_equals_plain_jit():
  p = problem('plain')
  rows = np.arange(41)
  evaluate = single.make_evaluate(p.network)
  index = batches_lib.padded(rows, 3, parallel.device_count())
  mapped = parallel.evaluate_over_batches(evaluate)
  fixed = [parallel.put(x) for x in (p.backbone, {}, p.source, p.task)]
  loss, right = mapped(p.route, *fixed, parallel.split_evaluation(index))
  alone = jax.jit(evaluate, static_argnums=0)(
      p.route, p.backbone, {}, p.source, p.task, rows[None])
  np.testing.assert_allclose(loss, alone[0], rtol=1e-5)
  assert int(right) == int(alone[1])


# Refusals.


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match=(
      'batch_size is 12 but there are 8 devices; choose a multiple of 8')):
    parallel.split_batch(np.zeros((4, 12), np.int32))


def test_tasks_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match=(
      'tasks_at_once is 12, which cannot be divided over 8 devices; choose')):
    parallel.split_tasks({'x': np.zeros((12, 3))})


def test_a_coordinator_needs_numbers():
  parallel.initialize(None, None, None)  # no coordinator: nothing happens
  for numbers in ((None, 0), (2, None)):
    with pytest.raises(ValueError, match='--coordinator=HOST:PORT as well'):
      parallel.initialize(None, *numbers)
  for numbers in ((None, 0), (2, None)):
    with pytest.raises(ValueError, match='--num_processes, --process_id'):
      parallel.initialize('localhost:1234', *numbers)


def test_one_process_agrees_with_itself():
  assert parallel.is_primary() and parallel.device_count() == 8
  assert parallel.agree(True) is True and parallel.agree(False) is False
  parallel.barrier('alone')
