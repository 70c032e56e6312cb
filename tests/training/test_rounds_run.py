"""PaRT: whole runs in rounds, later groups, and phases that are refused."""

import functools
import types
import zlib

import jax
import numpy as np
import pytest
import tiny
import tiny_rounds

import mtl_jax
from mtl_jax import methods
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan as plan_lib
from mtl_jax.data import batches
from mtl_jax.data import pipeline
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.data import transforms
from mtl_jax.methods import path_sampling
from mtl_jax.serving import verification
from mtl_jax.steps import rounds
from mtl_jax.steps import single
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.training import drivers
from mtl_jax.training import progress


# A whole run.


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('rounds') / 'run'
  tiny.learn(tiny_rounds.make(), folder)
  return folder


def test_a_run_stores_each_module_once(folder):
  system = mtl_jax.load(folder)
  assert system.tasks == ['three', 'two']
  first, second = (system.task(name).impression for name in system.tasks)
  drawn = path_sampling.overlapping(456, 2, path_sampling.Shape(2, 4, 2), 1)
  assert path_sampling.overlap(drawn)[0, 1] == 2
  stored = {name: checkpoint.load(system.workdir.task(name))
            for name in system.tasks}
  references = stored['two'][1]['references']
  large = 'conv1/kernel', 'block0_conv2/kernel'  # a reference pays for itself
  for i in range(2):
    common = set(drawn[0, i]) & set(drawn[1, i])
    for m in range(4):
      name = f'values/level{i + 1}/module{m:02d}/{large[i]}'
      assert (name in references) == (m in common)
      assert (name in stored['three'][0]) == (m in drawn[0, i])
      assert (name in stored['two'][0]) == (m in drawn[1, i]
                                            and m not in common)
    for m in common:
      for a, b in zip(*(jax.tree.leaves(x.values[f'level{i + 1}'][
          f'module{m:02d}']) for x in (first, second))):
        np.testing.assert_array_equal(a, b)
  assert {r['task'] for r in references.values()} == {'three'}
  result = verification.check(system)
  assert result.tasks == 2 and not result.faults


def test_one_batch_of_tasks_on_different_paths(folder):
  system = mtl_jax.load(folder)
  x = tiny_rounds.images_of('three', 3, 90).test.images[:6]
  names = ['three', 'two'] * 3
  mixed = np.asarray(system.predict_mixed(x, names))
  for row, image, name in zip(mixed, x, names):
    own = np.asarray(system.predict(image[None], task=name))[0]
    np.testing.assert_allclose(row[:len(own)], own, rtol=1e-3, atol=1e-4)
  assert np.abs(mixed[0, :2] - mixed[1, :2]).max() > 1e-3
  shelves = system.shelves.of_shape((8, 8, 1))
  assert [shelf.capacity for shelf in shelves] == [1, 1]  # a path of its own


def test_curves_belong_to_their_tasks(folder):
  lines = [line for line in json_records.read_lines(folder / 'metrics.jsonl')
           if line['kind'] == 'task']
  assert [line['steps'] for line in lines] == [8, 8]
  # The first loss of the run, computed without any of the schedule.
  config, system = tiny_rounds.make(), mtl_jax.load(folder)
  phase, = config.phases
  suite = suites.make(config.suite.kind, **dict(config.suite.options))
  entries = plan_lib.entries(phase, suite)
  method = phase.make_method()
  start = method.init(jax.random.key(0), system.backbone.params, {},
                      plan_lib.init_route(entries))
  first = rounds.sequence((0, zlib.crc32(phase.order_name.encode())), [8, 8],
                          2)[0]
  entry = entries[first]
  source = sources.load(entry.task.source)
  rows, = batches.of_epochs(suites.view(entry.task, source).train, 1, 8,
                            entry.seed(0))
  chain = entry.task.transforms
  x = pipeline.apply(transforms.kinds(chain), pipeline.parameters(
      chain, (8, 8, 1)), source.train.images[rows])
  logits, _ = jax.jit(functools.partial(
      system.backbone.network.apply, train=True))(
          method.bind(system.backbone.params, start, {}, entry.route),
          system.backbone.stats, x)
  loss = float(single.losses(entry.route, logits,
                            source.train.labels[rows]).mean())
  found = [line['curve']['loss'][0] for line in lines]
  assert found[first] == pytest.approx(loss, abs=2e-3)
  assert abs(found[1 - first] - loss) > 1e-2


def test_killed_in_the_middle_it_ends_with_the_same_bits(
    folder, tmp_path, monkeypatch):
  saved, real = [], progress.save

  def save(*arguments):
    real(*arguments)
    saved.append(arguments)
    if len(saved) == 2:
      raise KeyboardInterrupt
  monkeypatch.setattr(progress, 'save', save)
  with pytest.raises(KeyboardInterrupt):
    tiny.learn(tiny_rounds.make(progress_seconds=0.), tmp_path / 'killed')
  assert not list((tmp_path / 'killed' / 'tasks').glob('t*'))
  tiny.learn(tiny_rounds.make(progress_seconds=0.), tmp_path / 'killed')
  assert tiny.bits(tmp_path / 'killed') == tiny.bits(folder)


def in_a_row():
  """Three tasks, each a phase after the one before it, as a config's dict."""
  sources.register('more', functools.partial(
      tiny_rounds.images_of, 'more', 3, 90))
  fields = config_lib.to_dict(tiny_rounds.make())
  part, options = fields['phases']['part'], dict(active=2, path_seed=456)
  fields['suite']['sources'] = ('three', 'two', 'more')
  fields['backbone']['options']['heads'] = (3, 2, 3)
  fields['phases'] = {
      'a': dict(part, tasks=(0, 1), options=options),
      'b': dict(part, tasks=(1, 2), after='a', options=options | {'first': 1}),
      'c': dict(part, tasks=(2, 3), after='b', options=options | {'first': 2})}
  fields['schedule'] = ['a', 'b', 'c']
  return fields


@pytest.mark.slow
def test_later_tasks_reuse_modules_and_change_none(tmp_path):
  tiny.learn(config_lib.from_dict(in_a_row()), tmp_path / 'run')
  system = mtl_jax.load(tmp_path / 'run')
  values = [system.backbone.params] + [
      system.task(name).impression.values for name in ('three', 'two', 'more')]
  drawn = path_sampling.official(456, 3, path_sampling.Shape(2, 4, 2))
  sources_of = []
  for k, level, slot in np.ndindex(3, 2, 2):
    m = int(drawn[k, level, slot])
    # Who trained it last before task k: 0 is the backbone.
    before = max([0] + [j + 1 for j in range(k) if m in drawn[j, level]])
    old, new = (trees.fingerprint(values[i][f'level{level + 1}'][
        f'module{m:02d}']) for i in (before, k + 1))
    assert (old == new) == (before > 0), (k, level, m)
    sources_of.append((k, before))
  # The third task uses modules of the first alone, of the second and free ones.
  assert {(2, 0), (2, 1)} <= set(sources_of) and (1, 1) in sources_of
  assert not verification.check(system).faults


@pytest.mark.parametrize('phase, changes, text', [
    ('b', dict(after='other'), "after is 'other'.*earlier phases: a$"),
    ('b', dict(after='b'), "after is 'b', which must be an earlier"),
    ('b', dict(first=0), r'phase b: first is 0.* before number 1'),
    ('c', dict(first=1), r'phase c: first is 1.* before number 2'),
    ('b', dict(path_seed=36), 'path_seed is 36 but was 456'),
    ('b', dict(active=1), 'active is 1 but was 2'),
    ('b', dict(paths='identical'), "paths is 'identical' but was 'official'"),
    ('b', dict(norm='shared'), 'statistics of frozen modules anew'),
    ('b', dict(copies=True), 'the later group has copies=True'),
    ('a', dict(copies=True), 'the earlier group has copies=True')])
def test_a_phase_goes_on_where_the_one_before_it_ended(phase, changes, text):
  fields = in_a_row()
  for name, value in changes.items():
    place = fields['phases'][phase]
    (place if name == 'after' else place['options'])[name] = value
  with pytest.raises(ValueError, match=text):
    tiny.check(config_lib.from_dict(fields))


def test_a_phase_reuses_modules_of_its_own_method_alone():
  fields = in_a_row()
  fields['phases']['a'] = dict(method='dedicated', tasks=(0, 1), steps=1)
  with pytest.raises(ValueError, match="'a', a phase of the method dedicated"):
    tiny.check(config_lib.from_dict(fields))


@pytest.mark.parametrize('order', [('three', 'two'), ('two', 'three')])
@pytest.mark.parametrize('changes', [{}, dict(
    phases__part__together='joint', phases__part__rounds=None)])
def test_any_task_of_a_group_may_have_the_most_classes(order, changes):
  config = tiny_rounds.make(
      suite__sources=order, **changes,
      backbone__options__heads={'three': (3, 2), 'two': (2, 3)}[order[0]])
  tiny.check(config)


def test_epochs_of_different_length_are_refused_before_training(tmp_path):
  part = dict(phases__part__steps=0, phases__part__epochs=2)
  with pytest.raises(ValueError, match='phase part: an epoch of task three '
                     'has 8 batches but one of task two has 5.*give steps'):
    tiny.learn(tiny_rounds.make(**part), tmp_path)
  assert not (tmp_path / 'tasks').exists()
  with pytest.raises(ValueError, match='three has 100 .* two has 96'):
    batches.check_epochs({'three': 100, 'one': 103, 'two': 96})
  batches.check_epochs({'three': 100, 'one': 103, 'two': 97})


def test_a_loss_that_is_no_number_names_the_task_and_its_step():
  phase = tiny_rounds.make().phases[0]
  group = [types.SimpleNamespace(name=name, phase=phase)
           for name in ('three', 'two')]
  order = np.array([1, 1, 0, 0, 1, 0, 0, 1])
  drivers._require_finite_rounds(group, order, 3, np.ones(5))
  with pytest.raises(FloatingPointError, match='task two is nan at its step 2'):
    drivers._require_finite_rounds(group, order, 3, np.array(
        [1., np.nan, np.inf]))


@pytest.mark.parametrize('changes, text', [
    (dict(rounds=None), 'needs rounds'),
    (dict(loss='softmax'), "loss='classes'"),
    (dict(method='penalised', options={}), 'penalised has a penalty, which r'),
    (dict(weight_decay=.1), 'no weight decay'),
    (dict(method='dedicated', options={}), 'cannot train in rounds'),
    (dict(rounds=dict(set_batches=-1)), 'must not be negative'),
    (dict(rounds=dict(order='any')), "order is 'any'"),
    (dict(rounds=dict(size=2)), 'rounds.size'),
    (dict(together='joint', rounds=None,
          options=dict(active=2, norm='shared')), 'depends on the order')])
def test_bad_phases_are_refused(changes, text):
  methods.register('penalised', lambda: methods.make(
      'part', active=2)._replace(penalty=lambda trainable: 0.))
  fields = config_lib.to_dict(tiny_rounds.make())
  fields['phases']['part'] |= changes
  with pytest.raises(ValueError, match=text):
    tiny.check(config_lib.from_dict(fields))
