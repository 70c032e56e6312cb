"""Tasks that take turns on shared segments: PaRT's schedule and its steps."""

import functools

import jax
import numpy as np
import pytest

from mtl_jax import methods
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.steps import optimizers
from mtl_jax.steps import rounds
from mtl_jax.steps import single

HEADS = (3, 2)
RECIPE = optimizers.Recipe(steps=8, batch_size=4, optimizer='adam',
                           learning_rate=1e-2)
RANDOM = np.random.RandomState(0)
SOURCE = single.Source(RANDOM.randint(0, 255, (40, 8, 8, 1)).astype(np.uint8),
                      RANDOM.randint(0, 2, 40).astype(np.int32))
SPEC = (transforms.normalise(.5, .25),)
KINDS = transforms.kinds(SPEC)


# The schedule.


@pytest.mark.parametrize('batches, sets, last', [(313, 32, 3), (625, 63, 5)])
def test_rounds_of_the_published_runs(batches, sets, last):
  order = rounds.sequence((0, 1), [batches] * 10, 10)
  assert len(order) == 10 * batches
  for number in range(sets):
    now = order[number * 100:(number + 1) * 100]
    size = last if number == sets - 1 else 10
    assert len(now) == 10 * size
    firsts = now[::size]
    assert sorted(firsts) == list(range(10))
    np.testing.assert_array_equal(now, np.repeat(firsts, size))
  drawn = order[:100:10], order[100:200:10]
  assert not np.array_equal(*drawn)


def test_tasks_of_different_length_run_out_and_a_sequence_is_one():
  assert rounds.sequence((0,), [5, 1], 2, 'sequence').tolist() == [
      0, 0, 1, 0, 0, 0]
  assert rounds.sequence((0,), [3, 3], 3, 'sequence').tolist() == [
      0, 0, 0, 1, 1, 1]
  np.testing.assert_array_equal(rounds.sequence((4,), [9, 9], 2),
                                rounds.sequence((4,), [9, 9], 2))
  with pytest.raises(ValueError, match='sequence'):
    rounds.sequence((0,), [1], 1, 'shuffled')


def test_batches_do_not_depend_on_where_a_chunk_starts():
  order = rounds.sequence((3,), [7, 7, 7], 2)
  draw = lambda task, first, count: (
      100 * task + first + np.arange(count))[:, None] * np.ones((1, 4), int)
  whole = rounds.batches(order, 0, 21, draw)
  parts = [rounds.batches(order, a, b, draw)
           for a, b in ((0, 5), (5, 6), (6, 21))]
  np.testing.assert_array_equal(np.concatenate(parts), whole)
  for task in range(3):
    assert whole[order == task, 0].tolist() == [
        100 * task + i for i in range(7)]


def test_the_rate_is_halved_at_the_milestones():
  rate = optimizers.make_schedule(optimizers.Recipe(
      steps=60 * 313, learning_rate=1e-3, schedule='halved',
      milestones=(20 / 60, 30 / 60, 40 / 60)))
  epochs = [float(rate(epoch * 313)) for epoch in (0, 19, 21, 31, 41, 59)]
  np.testing.assert_allclose(
      epochs, [1e-3, 1e-3, 5e-4, 2.5e-4, 1.25e-4, 1.25e-4], rtol=1e-6)


# Steps.


@functools.lru_cache(maxsize=None)
def parts(moments, tasks=2, **options):
  """What trains a group: (method, backbone, stats, start, chunk)."""
  method = methods.make('part', active=2, **options)
  network = models.make('part_resnet', 3, heads=HEADS, modules=4, active=2,
                        width=2, blocks=(1,))
  backbone, stats = network.init(jax.random.key(0), (8, 8, 1))
  optimizer, rate = rounds.make_optimizer(RECIPE)
  first = options.get('first', 0)
  routes = tuple(methods.Route(HEADS[first + k], KINDS, loss='classes',
                               member=k) for k in range(tasks))
  keys = jax.numpy.stack([jax.random.key(first + k) for k in range(tasks)])
  start = rounds.init_state(method, optimizer, moments, keys, backbone, {},
                            stats, routes)
  chunk = jax.jit(rounds.make_chunk(rounds.make_step(
      method, network, optimizer, rate, moments), method), static_argnums=0)
  normalise = pipeline.parameters(SPEC, (8, 8, 1))
  arrays = rounds.stack_tasks(
      [single.TaskArrays(normalise, np.arange(3, dtype=np.int32)[:2 + k])
       for k in range(tasks)], HEADS[first:first + tasks])
  run = functools.partial(chunk, routes[0], backbone, {}, SOURCE, arrays)
  return method, backbone, stats, start, run


def plan(order):
  """Batches of both tasks, by the number of the task's own step."""
  rows = rounds.batches(np.array(order), 0, len(order), lambda k, first, n: (
      7 * k + 4 * np.arange(first, first + n)[:, None] + np.arange(4)) % 40)
  return np.array(order, np.int32), rows.astype(np.int32)


@pytest.mark.parametrize('moments', rounds.MOMENTS)
def test_a_step_changes_nothing_off_its_path(moments):
  method, _, _, start, run = parts(moments)
  rows = method.abilities.banks.rows(start.trainable)
  before, _ = run(start, plan([0, 1]))  # all moments are there
  after, _ = run(before, plan([1, 1]))
  assert after.step.tolist() == [1, 3]
  for bank in rows:
    for name, leaf in trees.flatten(after.trainable[bank]).items():
      old = trees.flatten(before.trainable[bank])[name]
      changed = {i for i in range(len(leaf))
                 if trees.digest(leaf[i]) != trees.digest(old[i])}
      assert changed == set(rows[bank][1].tolist()), (bank, name)
  for new, old in zip(*(jax.tree.leaves(s.stats) for s in (after, before))):
    assert trees.digest(new[0]) == trees.digest(old[0])
    assert trees.digest(new[1]) != trees.digest(old[1])


def test_shared_statistics_belong_to_modules():
  method, _, stats, start, run = parts('own', norm='shared')
  rows = method.abilities.banks.rows(start.trainable)
  after, _ = run(start, plan([1, 1]))
  for level in ('level1', 'level2'):
    mean = jax.tree.leaves(after.stats[level])[0]
    assert set(np.flatnonzero(np.any(mean, axis=1))) == set(rows[level][1])
  own = rounds.own_stats(method.abilities.banks, after.stats,
                         {bank: r[1] for bank, r in rows.items()}, 1)
  trees.check_same_structure(own, stats)
  np.testing.assert_array_equal(
      own['level1']['slot1']['bn1']['mean'],
      after.stats['level1']['bn1']['mean'][rows['level1'][1][1]])


@pytest.mark.parametrize('options', [
    dict(paths='disjoint'),
    pytest.param(dict(copies=True), marks=pytest.mark.slow)])
def test_tasks_without_common_modules_train_as_if_alone(options):
  method, backbone, _, start, run = parts('own', **options)
  order = [0, 1, 1, 0, 0, 1]
  together, measured = run(start, plan(order))
  for k in range(2):
    alone_method, _, _, start, run = parts('own', 1, first=k, **options)
    task, rows = plan(order)
    mine = task == k
    alone, losses = run(start, (np.zeros(3, np.int32), rows[mine]))
    # Two programs: threads may add in another order.
    np.testing.assert_allclose(measured.loss[mine], losses.loss, rtol=1e-5)
    route = methods.Route(HEADS[k], KINDS, loss='classes')
    found = [m.bind(backbone, s.trainable, {}, r) for m, s, r in (
        (method, together, methods.Route(HEADS[k], KINDS, loss='classes',
                                         member=k)),
        (alone_method, alone, route))]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
        a, b, rtol=1e-4, atol=1e-5), *found)


def test_padded_outputs_are_never_chosen_or_trained():
  _, _, _, start, run = parts('own')
  after, _ = run(start, plan([1, 1]))
  head = after.trainable['own']['head']
  assert head['kernel'].shape == (2, 8, 3)
  assert not np.any(head['kernel'][1, :, 2]) and not head['bias'][1, 2]


def test_weight_decay_and_unknown_moments_are_refused():
  with pytest.raises(ValueError, match='no weight decay'):
    rounds.make_optimizer(optimizers.Recipe(steps=1, weight_decay=.1))
  with pytest.raises(ValueError, match="'each'.*common, own"):
    parts('each')
