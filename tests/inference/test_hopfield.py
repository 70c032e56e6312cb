"""Masks in a Hopfield network: its rules by hand, and what it recovers."""

import importlib.util
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax import masks
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.inference import hopfield


def stored(patterns, rule='storkey'):
  """A memory of vectors of -1 and 1 in one leaf."""
  memory = hopfield.empty({'m': np.zeros(len(patterns[0]))})
  for z in patterns:
    memory = hopfield.store(memory, {'m': np.asarray(z) > 0}, rule)
  return memory


def correlated(count, size, differ, seed=0):
  """Vectors that differ from a common one in a fraction of places."""
  rng = np.random.RandomState(seed)
  common = rng.choice([-1., 1.], size)
  return np.where(rng.rand(count, size) < differ, -common[None],
                  common[None]).astype(np.float32)


def unstable(memory, patterns):
  """How many places of the patterns the network would turn over."""
  fields = patterns @ np.asarray(memory.weights['m'])
  return int(np.sum(np.sign(fields) != patterns))


# Storage.


def test_the_rules_by_hand():
  one = stored([[1, 1]])
  np.testing.assert_array_equal(one.weights['m'], [[0., .5], [.5, 0.]])
  # h = W z = (-.5, .5) for z = (1, -1); z z^T - I - z h^T - h z^T is
  # [[1, -2], [-2, 1]], and d is 2.
  two = stored([[1, 1], [1, -1]])
  np.testing.assert_array_equal(two.weights['m'], [[.5, -.5], [-.5, .5]])
  both = stored([[1, 1], [1, -1]], 'hebb')
  np.testing.assert_array_equal(both.weights['m'], [[0., 0.], [0., 0.]])


def test_the_mean_is_that_of_all_that_was_stored():
  patterns = [[1, 1, -1], [1, -1, -1], [1, -1, -1], [1, -1, 1]]
  memory = stored(patterns)
  np.testing.assert_allclose(memory.mean['m'], np.mean(patterns, 0),
                             rtol=1e-6)
  assert int(memory.count) == 4


@pytest.mark.parametrize('rule', hopfield.RULES)
def test_unrelated_masks_are_fixed_points(rule):
  patterns = np.random.RandomState(0).choice([-1., 1.], (5, 128))
  memory = stored(patterns, rule)
  assert unstable(memory, patterns) == 0
  turned = patterns.copy()
  turned[:, :3] *= -1
  assert unstable(memory, turned) == 15  # and these places are turned back


def test_storkeys_rule_holds_correlated_masks_that_hebbs_loses():
  patterns = correlated(6, 128, differ=.2)
  assert unstable(stored(patterns), patterns) == 0
  assert unstable(stored(patterns, 'hebb'), patterns) > 50


def test_the_energy_by_hand_and_over_leaves():
  w = np.array([[0., 2.], [2., 0.]], np.float32)
  z = np.array([1., -1.], np.float32)
  assert float(hopfield.energy({'a': w, 'b': None}, {'a': z, 'b': None})) == 2
  assert float(hopfield.energy({'a': w, 'b': -3 * w},
                               {'a': z, 'b': z})) == 2 - 6


def test_the_energy_is_lower_at_a_stored_mask_than_anywhere_near():
  patterns = correlated(6, 64, differ=.4)
  memory = stored(patterns)
  at = lambda z: float(hopfield.energy(memory.weights, {'m': z}))
  for z in patterns:
    around = [at(np.where(np.arange(64) == i, -z, z)) for i in range(64)]
    assert at(z) < min(around)


def test_every_leaf_has_a_matrix_of_its_own():
  like = {'a': np.zeros(3, bool), 'b': np.zeros(5, bool), 'kernel': None}
  memory = hopfield.empty(like)
  assert jax.tree.map(jnp.shape, memory.weights) == {
      'a': (3, 3), 'b': (5, 5), 'kernel': None}
  after = hopfield.store(memory, dict(like, a=np.ones(3, bool)))
  np.testing.assert_allclose(after.weights['a'],
                             (np.ones((3, 3)) - np.eye(3)) / 3, rtol=1e-6)


# Recovery.


def first_logit(params, stats, x):
  """The logits (x . scale, 0)."""
  del stats
  a = x @ params['m']
  return jnp.stack([a, jnp.zeros_like(a)], -1)


def by_hand(memory, batches, recipe):
  """`recover` for `first_logit` in NumPy, with the entropy's derivative."""
  w, scores = np.asarray(memory.weights['m']), np.asarray(memory.mean['m'])
  velocity, found, total = np.zeros_like(scores), [], len(batches)
  for t, x in enumerate(batches, 1):
    m = (scores >= 0).astype(float)
    a = x @ m
    p = 1 / (1 + np.exp(-a))
    entropy = -a * p * (1 - p) @ x / len(x)  # dH/da = -a p (1 - p)
    energy = -2 * w @ (2 * m - 1)
    gradient = (1 - t / total) * entropy + recipe.gamma * t / total * energy
    velocity = (recipe.momentum * velocity + gradient
                + recipe.weight_decay * scores)
    scores = scores - recipe.learning_rate * velocity
    found.append(scores >= 0)
  return np.array(found)


def test_each_step_is_the_one_by_hand():
  rng = np.random.RandomState(1)
  memory = stored(correlated(3, 24, differ=.4))
  batches = rng.randn(8, 6, 24).astype(np.float32) / 2
  recipe = hopfield.Recipe(10., .8, .02, .05)
  found = hopfield.recover(first_logit, {'m': np.ones(24, np.float32)}, {},
                           memory, batches, recipe)
  expected = by_hand(memory, batches, recipe)
  assert len(np.unique(expected, axis=0)) > 3  # the mask does move
  np.testing.assert_array_equal(found.masks['m'], expected)
  np.testing.assert_array_equal(found.mask['m'], expected[-1])
  assert found.entropy.shape == found.energy.shape == (8,)


def clues(z, seen, steps=20):
  """Batches that tell a mask from its opposite in some places alone."""
  return np.tile(np.where(seen, z, 0.)[None, None] / 4, (steps, 4, 1)).astype(
      np.float32)


@pytest.mark.parametrize('number', range(4))
def test_the_mask_is_recovered_from_a_part_of_it(number):
  patterns = correlated(4, 64, differ=.5)
  memory, seen = stored(patterns), np.arange(64) < 32
  arguments = (first_logit, {'m': np.ones(64, np.float32)}, {}, memory,
               clues(patterns[number], seen))
  found = hopfield.recover(*arguments, hopfield.Recipe(10., .9, 0., .05))
  np.testing.assert_array_equal(found.mask['m'], patterns[number] > 0)
  # What no image tells is the memory's part.
  alone = hopfield.recover(*arguments, hopfield.Recipe(10., .9, 0., 0.))
  wrong = np.asarray(alone.mask['m']) != (patterns[number] > 0)
  assert wrong[~seen].sum() > 5


def test_another_recipe_or_stream_compiles_nothing_and_deletes_nothing():
  traces = []

  def apply_fn(params, stats, x):
    traces.append(x.shape)
    return first_logit(params, stats, x)

  patterns = correlated(2, 8, differ=.5)
  memory, backbone = stored(patterns), {'m': jnp.ones(8)}
  before = trees.fingerprint((memory, backbone))
  batches = clues(patterns[0], np.ones(8, bool))
  hopfield.recover(apply_fn, backbone, {}, memory, batches)
  count = len(traces)
  hopfield.recover(apply_fn, backbone, {}, memory, 2 * batches,
                   hopfield.Recipe(gamma=1.))
  assert count and len(traces) == count
  assert trees.fingerprint((memory, backbone)) == before


# Bad input.


MEMORY = stored([[1, -1, 1]])


@pytest.mark.parametrize('call, message', [
    (lambda: hopfield.empty({'a': {'kernel': np.zeros((3, 4))}}),
     r"a/kernel has shape \(3, 4\): .*holds vectors.*masked="),
    (lambda: hopfield.empty({'a': None}), 'cover nothing'),
    (lambda: hopfield.store(MEMORY, {'m': np.zeros(4, bool)}),
     r'mask has shape \(4,\) but m is \(3,\)'),
    (lambda: hopfield.store(MEMORY, {'m': None}),
     'm is in the memory but not in the mask; make both'),
    (lambda: hopfield.store(MEMORY, {'n': np.zeros(3, bool)}), 'leaf m '),
    (lambda: hopfield.store(MEMORY, {'m': np.zeros(3, bool)}, 'storkley'),
     r"'storkley' \(did you mean: storkey\?\); known: hebb, storkey"),
    (lambda: hopfield.recover(
        first_logit, {'m': np.ones(3)}, {}, hopfield.empty({'m': np.ones(3)}),
        np.ones((2, 1, 3))), 'the memory is empty'),
    (lambda: hopfield.recover(first_logit, {'m': np.ones(4)}, {}, MEMORY,
                              np.ones((2, 1, 4))),
     r'memory has shape \(3,\) but m is \(4,\)')])
def test_what_does_not_fit_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


# From a run's scale masks to the experiment's table.


@pytest.fixture(scope='module', name='workdir')
def fixture_workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  spec = tiny.ROOT / 'configs' / 'hopsupsup_split_mnist.py'
  fields = _module(spec).get_config().to_dict()
  fields['suite'].update(source='digits', num_tasks=3)
  fields['backbone']['options'] = {'width': 96}
  fields['phases']['supermasks'].update(
      tasks=(0, 3), epochs=0, steps=60, batch_size=16)
  tiny.learn(config_lib.from_dict(fields), folder)
  return folder


def _module(path: pathlib.Path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_a_run_leaves_masks_of_the_scales_alone(workdir):
  system = mtl_jax.load(workdir)
  scales = {'hidden1_norm/scale', 'hidden2_norm/scale'}
  seen = set()
  for name in system.tasks:
    impression = system.task(name).impression
    found = {leaf: mask for leaf, mask in trees.flatten(
        impression.masks).items() if mask is not None}
    assert set(found) == scales
    assert {mask.shape for mask in found.values()} == {(96,)}
    assert 0 < float(masks.density(impression.masks)) < 1
    seen.add(trees.fingerprint(impression.masks))
    assert impression.stats is not None
    record = system.task(name).metadata['record']
    assert record['bytes']['masks'] == 24
    # Among six outputs, of which the other tasks' were never right.
    assert record['accuracy']['test'] > .8 > record['accuracy']['before']
  assert len(seen) == 3


@pytest.fixture(scope='module', name='program')
def fixture_program():
  return _module(tiny.ROOT / 'experiments' / 'hopsupsup' / 'evaluate.py')


def evaluate(program, monkeypatch, workdir, out, *flags):
  monkeypatch.setattr('sys.argv', [
      'evaluate.py', f'--workdir={workdir}', f'--out={out}',
      '--batch_size=16', *flags])
  program.main()
  return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.slow
def test_the_experiment_compares_bank_and_memory(program, workdir, tmp_path,
                                                 monkeypatch):
  lines = evaluate(program, monkeypatch, workdir, tmp_path / 'o.jsonl',
                   '--split=test', '--orders=2')
  assert [line['kind'] for line in lines] == ['run', *['task'] * 3, 'summary']
  run, *tasks, summary = lines
  assert str(tmp_path) not in json.dumps(lines)
  assert not re.search(r'=/', run['command'])
  for line in tasks:
    found = line['hopfield']
    assert line['accuracy']['known'] > .8
    assert found['hamming_by_step'][-1] == sum(found['hamming'].values())
    at, path = found['steps_to_converge'], found['hamming_by_step']
    if at is not None:
      assert not any(path[at - 1:]) and (at == 1 or path[at - 2])
  orders = summary['orders']
  assert orders['streams'] == len(orders['steps']) == 6
  assert orders['steps'][:3] == [
      line['hopfield']['steps_to_converge'] for line in tasks]
  assert set(summary['accuracy']) == set(program.METHODS)
  assert summary['bytes']['bank'] == 3 * 24
  assert summary['bytes']['memory'] == 2 * 4 * (96 * 96 + 96) + 4


def test_a_stream_holds_every_image_of_its_task_once(program):
  suite = suites.make('split', source='digits', classes_per_task=2,
                      shared_outputs=False)
  test = sources.load('digits').test
  mine = np.flatnonzero(np.isin(test.labels, (4, 5)))
  assert len(mine) % 16  # the last batch is filled up
  stream = program.make_stream(suite.tasks[2], 'test', 0, 16, steps=9)
  kept = np.asarray(stream.counted)
  assert kept.sum() == len(mine) and kept[:-1].all()
  shown = np.asarray(stream.images)[kept].reshape(len(mine), -1)
  given = test.images[mine].reshape(len(mine), -1) / 127.5 - 1
  order = lambda rows: rows[np.lexsort(rows.T)]
  np.testing.assert_allclose(order(shown), order(given), atol=1e-6)
  np.testing.assert_array_equal(
      np.bincount(np.asarray(stream.labels)[kept], minlength=10),
      np.bincount(test.labels[mine], minlength=10))
  whole = len(mine) // 16
  np.testing.assert_array_equal(stream.first[whole], stream.images[0])


def test_settings_are_not_chosen_on_the_test_split(program, workdir, tmp_path,
                                                   monkeypatch):
  with pytest.raises(SystemExit):
    evaluate(program, monkeypatch, workdir, tmp_path / 'o.jsonl', '--grid',
             '--split=test')
