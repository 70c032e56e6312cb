"""GG, GNs and GNu against a loop over batches that asks the system."""

import dataclasses
import shutil
import zlib

import jax
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax import experiment
from mtl_jax import impressions
from mtl_jax import validate
from mtl_jax.config import parts as config_parts
from mtl_jax.config import plan
from mtl_jax.data import pipeline
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.data import transforms
from mtl_jax.evaluation import final
from mtl_jax.evaluation import scenarios
from mtl_jax.inference import identify
from mtl_jax.serving import candidates
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import run as run_lib


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  return tiny.learned(tmp_path_factory.mktemp('scenarios') / 'run', 'infer')


@pytest.fixture(name='system', scope='module')
def _system(folder):
  return mtl_jax.load(folder)


def learned(kind='infer'):
  """(the suite, the candidates, and all that is tested) of a tiny run.

  A task that nobody learned is tested too; its inferences are all wrong.
  """
  config = tiny.make(kind)
  suite = suites.make(config.suite.kind, **dict(config.suite.options))
  entries = [e for phase in config.phases if not phase.control
             for e in plan.entries(phase, suite)]
  unknown = [plan.Entry(task.name, task, config.phases[-1])
             for task in suite.tasks[len(entries):][:1]]
  return suite, entries, entries + unknown


DATA = run_lib.Data()


def measure(system, scenario, known=(), kind='infer'):
  _, entries, tested = learned(kind)
  return list(scenarios.measure(system, entries, tested, DATA, scenario,
                                known))


def logits_of(system, name, shown):
  """Outputs of a stored task for images as some task shows them."""
  stored = system.task(name)
  params = impressions.materialise(system.backbone.params, stored.impression,
                                   stored.shared.get('basis'))
  x = pipeline.apply((('normalise',),), stored.parameters[-1:], shown)
  return np.asarray(system.backbone.network.apply(
      params, stored.impression.stats or {}, x)[0])[:, :stored.classes]


def by_hand(system, scenario, count, kind='infer'):
  """The figures, one batch after another."""
  _, entries, tested = learned(kind)
  tested, names = tested[:count], [e.name for e in entries[:count]]
  right, pairs = dict(GG=0, GNs=0, GNu=0), []
  total = 0
  for entry in tested:
    test = sources.load(entry.task.source).test
    order = np.arange(len(test.labels))
    if scenario.batches_per_task:
      order = np.random.default_rng(zlib.crc32(
          entry.task.name.encode())).permutation(order)
    starts = range(0, len(test.labels), scenario.batch_size)
    for start in list(starts)[:scenario.batches_per_task or None]:
      part = order[start:start + scenario.batch_size]
      shown = pipeline.observed(
          transforms.kinds(entry.task.transforms), pipeline.parameters(
              entry.task.transforms, test.images.shape[1:]),
          test.images[part])
      found = system.identify(shown[:scenario.images_per_inference],
                              scenario.rule,
                              scenario.objective, names).task
      hits = lambda name: int(np.sum(logits_of(system, name, shown).argmax(1)
                                     == test.labels[part]))
      right['GG'] += hits(entry.name) if entry.name in names else 0
      right['GNs'] += hits(found)
      right['GNu'] += hits(found) if found == entry.name else 0
      pairs.append((entry.name, found))
      total += len(shown)
  return {k: v / total for k, v in right.items()}, pairs, total


# 359 test images: batches of 128, 128 and 103.
CASES = {
    'one_image': dict(batch_size=128, task_counts=(2, 6), batches_per_task=2),
    'a_batch': dict(rule='binary', images_per_inference=110, batch_size=128,
                    task_counts=(4,)),
    'other_objective': dict(objective='superfluous', images_per_inference=20,
                            batch_size=60,
                            batches_per_task=2),
    'every_task': dict(rule='brute_force', images_per_inference=50,
                       batch_size=359,
                       task_counts=(3,)),
}


@pytest.mark.parametrize('case', CASES)
def test_the_figures_are_those_of_a_loop(system, case):
  scenario = config_parts.Scenario(case, **CASES[case])
  lines = measure(system, scenario)
  assert [line['tasks'] for line in lines] == list(scenario.task_counts or (6,))
  wrong = 0
  for line in lines:
    count = line['tasks']
    accuracy, pairs, total = by_hand(system, scenario, count)
    assert line['accuracy'] == pytest.approx(accuracy, abs=1e-9)
    assert line['test_images'] == total and line['inferences'] == len(pairs)
    assert line['identified'] == pytest.approx(np.mean([a == b
                                                        for a, b in pairs]))
    names = line['confusion']['names']
    assert names == [f'permuted-{i:02d}' for i in range(count)]
    assert line['confusion']['counts'] == [
        [pairs.count((a, b)) for b in names] for a in names]
    mistakes = {(a, b): pairs.count((a, b)) for a, b in pairs if a != b}
    assert {(a, b): n for a, b, n in line['mistaken']} == mistakes
    times = [n for *_, n in line['mistaken']]
    assert times == sorted(times, reverse=True)
    assert line['candidates'] == min(count, 5)
    assert line['passes'] == {'one_shot': 1, 'brute_force': 0,
                              'binary': 2}[scenario.rule]
    assert line['accuracy']['GNu'] <= min(line['accuracy']['GG'],
                                          line['accuracy']['GNs'])
    tiny.parse(tiny.json.dumps(line))
    wrong += len(mistakes)
  # Not only what goes well was compared.
  assert wrong or case in ('a_batch', 'every_task')


def test_many_calls_are_one(system, monkeypatch):
  scenario = config_parts.Scenario('x', batch_size=60, batches_per_task=3,
                                   task_counts=(3,))
  whole, = measure(system, scenario)
  calls, infer = [], candidates.infer
  monkeypatch.setattr(scenarios, 'GRADIENT_WEIGHTS',
                      4 * sum(x.size for x in jax.tree.leaves(
                          system.backbone.params)))
  monkeypatch.setattr(candidates, 'infer', lambda *a: calls.append(
      a[8].shape[0]) or infer(*a))
  parts, = measure(system, scenario)
  assert calls == [4, 4, 4]  # nine inferences; the last call repeats some
  for key in ('accuracy', 'identified', 'confusion', 'mistaken'):
    assert parts[key] == whole[key]


def test_an_inference_sees_its_batchs_images_and_no_padding(system,
                                                           monkeypatch):
  calls, infer = [], candidates.infer
  monkeypatch.setattr(candidates, 'infer', lambda *a: calls.append(
      a[8:]) or infer(*a))
  measure(system, config_parts.Scenario('x', images_per_inference=110,
                                        task_counts=(2,)))
  (short, real), (full, all_real) = calls
  assert short.shape[:2] == (2, 103) and full.shape[:2] == (4, 110)
  assert real.all() and all_real.all()
  images = sources.load('digits').test.images
  for i, name in enumerate(['permuted-00', 'permuted-01']):
    shown = system.observe(images, name)
    np.testing.assert_array_equal(short[i], shown[256:])
    np.testing.assert_array_equal(full[2 * i], shown[:110])
    np.testing.assert_array_equal(full[2 * i + 1], shown[128:238])


def test_a_confusion_of_many_tasks_is_not_kept(system, monkeypatch):
  monkeypatch.setattr(scenarios, 'CONFUSION_LIMIT', 2)
  scenario = config_parts.Scenario('x', batches_per_task=1, task_counts=(2, 3))
  assert [line['confusion'] is None for line in measure(system, scenario)
          ] == [False, True]


def test_one_cache_for_scenarios_of_other_rows(system):
  """As many batches, of the whole split in order and drawn by each task."""
  _, entries, tested = learned()
  whole = config_parts.Scenario('x', images_per_inference=1, batch_size=32)
  count = len(DATA.view(tested[0].task).test)
  drawn = dataclasses.replace(whole, name='y', batches_per_task=-(-count // 32))
  shared = scenarios.Networks(system, DATA)
  lines = [list(scenarios.measure(system, entries, tested, DATA, s, (), n))[-1]
           for s, n in ((whole, shared), (drawn, shared),
                        (drawn, scenarios.Networks(system, DATA)))]
  for part in ('accuracy', 'identified'):
    assert lines[1][part] == lines[2][part]
  assert lines[0]['accuracy'] != lines[1]['accuracy']


def test_numbers_of_tasks_beyond_the_last_are_the_last(system):
  scenario = config_parts.Scenario('x', batches_per_task=1,
                                   task_counts=(2, 6, 60, 600))
  lines = measure(system, scenario)
  assert [line['tasks'] for line in lines] == [2, 6]
  # Known results are not measured again, those of other settings are.
  assert not measure(system, scenario, lines)
  assert [line['tasks'] for line in measure(system, scenario, lines[:1])
          ] == [6]
  reranked = dataclasses.replace(scenario, task_counts=(2,), rule='binary',
                                 rerank=2)
  (found,) = measure(system, reranked, lines)
  plain = dataclasses.replace(reranked, rerank=0)
  assert len(measure(system, plain, [found])) == 1
  assert found['passes'] == 0 and not measure(system, reranked, [found])
  earlier = [{k: v for k, v in line.items() if k != 'rerank'} for line in lines]
  assert not measure(system, dataclasses.replace(scenario, task_counts=(2,)),
                     earlier)
  for change in (dict(name='y'), dict(rule='binary'), dict(normalise=True),
                 dict(batches_per_task=2), dict(images_per_inference=2)):
    other = dataclasses.replace(scenario, task_counts=(2,), **change)
    assert len(measure(system, other, lines)) == 1, change


@pytest.mark.slow
def test_short_batches_keep_their_own_norm_statistics(tmp_path):
  system = mtl_jax.load(tiny.learned(tmp_path / 'run', 'norm'))
  scenario = config_parts.Scenario('x', images_per_inference=16, batch_size=17)
  images = len(sources.load('blobs').test.labels)
  assert 0 < images % 17 < 16
  line, = measure(system, scenario, kind='norm')
  accuracy, pairs, _ = by_hand(system, scenario, 3, 'norm')
  assert line['accuracy'] == pytest.approx(accuracy, abs=1e-9)
  assert line['identified'] == np.mean([a == b for a, b in pairs])


def test_nan_is_an_error(folder, tmp_path):
  copy = shutil.copytree(folder, tmp_path / 'copy')
  path = copy / 'tasks/permuted-03'
  tiny.rewrite(path, lambda a: a['coefficients/Dense_0/kernel'].fill(np.nan),
               checkpoint.load_metadata(path))
  scenario = config_parts.Scenario('x', batches_per_task=1)
  with pytest.raises(FloatingPointError, match='images of permuted-00 met NaN'):
    measure(mtl_jax.load(copy), scenario)


def test_batches_that_tell_nothing_apart_are_no_result(folder, tmp_path):
  copy = shutil.copytree(folder, tmp_path / 'copy')
  masks = checkpoint.load(copy / 'tasks/permuted-00')[0]
  path = copy / 'tasks/permuted-01'
  tiny.rewrite(path, lambda a: a.update({
      n: x for n, x in masks.items() if n.startswith('masks/')}),
      checkpoint.load_metadata(path))
  system = mtl_jax.load(copy)
  for rule in identify.RULES:
    scenario = config_parts.Scenario('x', rule=rule, batches_per_task=1,
                                     task_counts=(2,))
    with pytest.raises(ValueError, match='identify.x: no batch tells the '):
      measure(system, scenario)
  # Three: the third one is told from the others.
  assert measure(system, config_parts.Scenario('x', batches_per_task=1,
                                               task_counts=(3,)))


def test_a_part_of_the_test_split_is_drawn_by_each_task():
  entries = learned()[2]
  scenario = config_parts.Scenario('x', batches_per_task=2, batch_size=60)
  first, second = (scenarios._test_batches(e, DATA, scenario)
                   for e in entries[:2])
  assert first.shape == (2, 60) and len(np.unique(first)) == 120
  assert set(first.flat) != set(second.flat) != set(range(120))
  np.testing.assert_array_equal(
      first, scenarios._test_batches(entries[0], DATA, scenario))
  whole = scenarios._test_batches(
      entries[0], DATA, dataclasses.replace(scenario, batches_per_task=0))
  np.testing.assert_array_equal(whole[whole >= 0], np.arange(359))


# Within a run.


def again(folder, **identify):
  """What a start of a finished run does about `identify`."""
  config = tiny.make('infer', identify=identify)
  work = workdir_lib.Workdir(folder)
  system = mtl_jax.load(folder)
  validate.check_config(work, config)
  experiment.claim(work, config, system.backbone, '')
  suite = suites.make(config.suite.kind, **dict(config.suite.options))
  return final.infer_tasks(run_lib.Run(
      config, suite, system.backbone, DATA, work, system, None))


def lines_of(folder):
  return [line for line in json_records.read_lines(folder / 'metrics.jsonl')
          if line['kind'] == 'identity']


def test_results_are_kept_and_new_ones_added(folder, tmp_path, monkeypatch):
  copy = shutil.copytree(folder, tmp_path / 'copy')
  first = dict(batches_per_task=1, task_counts=(2, 4))
  found = again(copy, a=first)
  assert [(line['name'], line['tasks']) for line in found
          ] == [('a', 2), ('a', 4)]
  assert lines_of(copy) == tiny.json.loads(tiny.json.dumps(found))
  before = tiny.bits(copy)
  infer = candidates.infer
  with monkeypatch.context() as patched:
    patched.setattr(candidates, 'infer', None)
    assert again(copy, a=first) == lines_of(copy)  # nothing is inferred
  more = again(copy, a=first, b=dict(batches_per_task=1, task_counts=(2,),
                                     images_per_inference=9))
  assert [line['name'] for line in more] == ['a', 'a', 'b']
  assert candidates.infer is infer
  # Another meaning of the same name: the old figures are not passed off.
  other = again(copy, a=dict(first, rule='binary'))
  assert {(line['name'], line['rule']) for line in other
          } == {('a', 'binary')} and len(other) == 2
  assert again(copy) == []
  assert tiny.bits(copy) == before


def test_results_of_other_tasks_are_not_taken(folder, tmp_path):
  """An earlier phase that gets tasks moves those of later phases."""
  copy = shutil.copytree(folder, tmp_path / 'copy')
  asked = dict(batches_per_task=1, task_counts=(2, 4))
  two, four = again(copy, a=asked)
  log = copy / 'metrics.jsonl'
  *others, own, last = log.read_text().splitlines(keepends=True)
  assert two['of'] in own and four['of'] in last
  log.write_text(''.join(others))
  for line in (dict(two, of='of others'), four):
    json_records.append_line(log, line)
  found = again(copy, a=asked)
  assert [line['of'] for line in found] == [four['of'], two['of']]
  assert len(lines_of(copy)) == 3
  assert again(copy, a=asked) == lines_of(copy)[1:]


@pytest.mark.parametrize('change', [
    {'phases__basis__steps': 61}, {'seed': 1}, {'chunk_steps': 2}])
def test_only_identify_may_change(folder, change):
  config = tiny.make('infer', **change)
  with pytest.raises(ValueError, match='another config: '
                     + next(iter(change)).replace('__', '.')):
    validate.check_config(workdir_lib.Workdir(folder), config)


@pytest.mark.slow
def test_a_finished_run_may_be_asked_more(folder, tmp_path):
  copy = shutil.copytree(folder, tmp_path / 'copy')
  config = tiny.make('infer', identify={'a': {'batches_per_task': 1,
                                              'task_counts': (2,)}})
  before = tiny.bits(copy)
  summary = tiny.learn(config, copy)
  assert [line['name'] for line in summary['identity']] == ['a']
  assert summary['verified']['ok'] and tiny.bits(copy) == before
  assert tiny.learn(config, copy)['identity'] == lines_of(copy)
  assert len(lines_of(copy)) == 1
