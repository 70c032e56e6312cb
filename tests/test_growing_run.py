"""A finished run goes on with more: earlier tasks keep their bits."""

import json

import numpy as np
import pytest
import tiny
import tiny_rounds
import tiny_search
import tiny_subnetworks

import mtl_jax
from mtl_jax import lifecycle
from mtl_jax.config import config as config_lib
from mtl_jax.serving import checks
from mtl_jax.serving import verification
from mtl_jax.storage import json_records


def grow(old, new, folder):
  """Learns one config and then the other; returns the last summary."""
  tiny.learn(old, folder)
  before, files = tiny.bits(folder), tiny.files(folder / 'tasks')
  summary = tiny.learn(new, folder)
  assert before.items() < tiny.bits(folder).items()
  assert files.items() < tiny.files(folder / 'tasks').items()
  assert summary['verified']['ok']
  return summary


def permuted(count, **phase):
  return config_lib.from_dict(dict(
      seed=0, suite=dict(kind='permuted', source='digits', num_tasks=count),
      backbone=dict(model='lenet_300_100', outputs=10), matrix='full',
      phases=dict(m=dict(method='supsup', tasks=(0, count), steps=2,
                         batch_size=32) | phase), schedule=('m',)))


def test_a_task_that_comes_later(tmp_path):
  summary = grow(permuted(1), permuted(2), tmp_path / 'run')
  assert summary['names'] == ['permuted-00', 'permuted-01']
  assert all(value is not None for value in summary['matrix'][1])
  # What a run from the start leaves.
  whole = tiny.train_alone(permuted(2), tmp_path / 'whole')[0].workdir
  assert tiny.bits(whole.root) == tiny.bits(tmp_path / 'run')
  # The history of configs.
  lines = json_records.read_lines(tmp_path / 'run' / 'metrics.jsonl')
  assert [line['config']['suite']['num_tasks'] for line in lines
          if line['kind'] == 'run'] == [1, 2]
  kept = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert kept['suite']['num_tasks'] == 2
  with pytest.raises(ValueError, match='another config: phases/m/tasks/1 is 2 '
                                       'there and 1 now'):
    tiny.learn(permuted(1), tmp_path / 'run')


def test_a_growing_run_is_killed_and_goes_on(tmp_path):
  tiny.train_alone(permuted(1), tmp_path / 'run')
  with pytest.raises(tiny.Stopped):
    tiny.train_alone(permuted(3), tmp_path / 'run',
                     stop=lambda seen: len(seen) > 4)
  run = tiny.train_alone(permuted(3), tmp_path / 'run')[0]
  whole = tiny.train_alone(permuted(3), tmp_path / 'whole')[0]
  assert tiny.bits(run.workdir.root) == tiny.bits(whole.workdir.root)


def test_a_half_trained_group_gets_no_more_members(tmp_path):
  """Of tasks that are trained at once, each on a device of its own."""
  at_once = dict(tasks_at_once=16, steps=6)
  old, new = (config_lib.from_dict(dict(
      seed=0, suite=dict(kind='permuted', source='digits', num_tasks=count),
      backbone=dict(model='lenet_300_100', outputs=10), chunk_steps=2,
      progress_seconds=0., phases=dict(m=dict(
          method='supsup', tasks=(0, count), batch_size=32, **at_once)),
      schedule=('m',))) for count in (8, 16))
  with pytest.raises(tiny.Stopped):
    tiny.train_alone(old, tmp_path / 'run', stop=lambda seen: len(seen) > 2)
  with pytest.raises(ValueError, match='permuted-00 is half trained beside '
                                       'other tasks .*finish the run of the '
                                       'old config first'):
    tiny.train_alone(new, tmp_path / 'run')
  tiny.train_alone(old, tmp_path / 'run')
  before = tiny.bits(tmp_path / 'run')
  tiny.train_alone(new, tmp_path / 'run')
  after = tiny.bits(tmp_path / 'run')
  assert before.items() < after.items() and len(after) == 16


def test_a_name_that_something_else_has(tmp_path):
  run = tiny.train_alone(permuted(1), tmp_path / 'run')[0]
  system = lifecycle.load(run.workdir.root)
  system.rename('permuted-00', 'permuted-01')
  with pytest.raises(ValueError, match='has a task permuted-01 that this run '
                                       'did not learn'):
    tiny.train_alone(permuted(2), tmp_path / 'run')
  system.rename('permuted-01', 'mine')  # the remedy
  tiny.train_alone(permuted(2), tmp_path / 'run')


def test_names_of_the_run_are_for_its_own_tasks(tmp_path):
  """Else the run left out a task, or a learned task could not be read."""
  tiny.learn(permuted(2), tmp_path / 'run')
  system = lifecycle.load(tmp_path / 'run')
  system.export('permuted-01', tmp_path / 'own.safetensors')
  system.merge(['permuted-00', 'permuted-01'], how='union', name='both')
  system.export('both', tmp_path / 'both.safetensors')
  system.rename('permuted-01', 'mine')
  said = 'permuted-01 is a task of the run in .*; give another name'
  for call in (
      lambda: system.learn('digits', method='supsup', steps=1, batch_size=8,
                           name='permuted-01'),
      lambda: system.merge(['permuted-00', 'mine'], how='union',
                           name='permuted-01'),
      lambda: system.rename('both', 'permuted-01'),
      lambda: system.rename('permuted-00', 'permuted-01'),
      lambda: mtl_jax.import_task(tmp_path / 'run', tmp_path /
                                  'both.safetensors', 'permuted-01')):
    with pytest.raises(ValueError, match=said):
      call()
  assert system.tasks == ['both', 'mine', 'permuted-00']
  # Its own task may come back.
  system.rename('mine', 'permuted-01')
  system.delete('permuted-01')
  mtl_jax.import_task(tmp_path / 'run', tmp_path / 'own.safetensors')
  assert tiny.learn(permuted(2), tmp_path / 'run')['names'] == [
      'permuted-00', 'permuted-01']
  assert not verification.check(lifecycle.load(tmp_path / 'run')).faults


def test_a_merged_task_is_not_taken_for_the_runs_own(tmp_path, monkeypatch):
  """As an older version could leave it."""
  tiny.learn(permuted(2), tmp_path / 'run')
  system = lifecycle.load(tmp_path / 'run')
  system.merge(['permuted-00', 'permuted-01'], how='union', name='both')
  system.delete('permuted-01')
  monkeypatch.setattr(checks, 'require_new_name', lambda *_, **__: None)
  system.rename('both', 'permuted-01')
  with pytest.raises(ValueError, match='permuted-01 is of the phase merged, '
                     'but the config learns this task in m; rename it'):
    tiny.learn(permuted(2), tmp_path / 'run')
  system.rename('permuted-01', 'both')  # the remedy
  assert tiny.learn(permuted(2), tmp_path / 'run')['names'] == [
      'permuted-00', 'permuted-01']


def phases(**tasks):
  """Of `tiny`, by name the ranges of their tasks."""
  config = tiny.get_config()
  config.suite.num_tasks = 16
  config.phases = {name: dict(config.phases[name], tasks=own)
                   for name, own in tasks.items()}
  config.schedule = tuple(tasks)
  return config_lib.from_dict(config.to_dict())


def search(stop, **changes):
  return tiny_search.make(phases__grow__tasks=(0, stop),
                          phases__grow__search__iterations=1,
                          phases__grow__search__private=(), **changes)


def subnetworks(stop, **changes):
  return tiny_subnetworks.make(net=dict(tasks=(0, stop), **changes))


GROWING = {
    'masks': (phases(basis=(0, 2)), phases(basis=(0, 3))),
    'transfer': (phases(transfer=(2, 4)), phases(transfer=(2, 5))),
    'at once': (phases(many=(0, 8)), phases(many=(0, 16))),
    'coefficients': (phases(basis=(0, 2), impress=(12, 13)),
                     phases(basis=(0, 2), impress=(12, 14))),
    'more of a basis': (phases(basis=(0, 2), impress=(12, 13)),
                        phases(basis=(0, 3), impress=(12, 13))),
    'a control': (phases(basis=(0, 2)),
                  phases(basis=(0, 2), dedicated=(0, 2))),
    'subnetworks': (subnetworks(2), subnetworks(3)),
    'sharing': (subnetworks(2, sharing=True), subnetworks(3, sharing=True)),
    'search': (search(2), search(3)),
}


@pytest.mark.slow
@pytest.mark.parametrize('kind', GROWING)
def test_every_method_that_can_grows(tmp_path, kind):
  grow(*GROWING[kind], tmp_path / 'run')


@pytest.mark.slow
def test_parallel_training_grows_by_a_phase(tmp_path):
  """Its heads are there from the start: the backbone never changes."""
  def make(*names, first=1):
    config = tiny_rounds.make(
        suite__sources=('three', 'two'), phases__part__tasks=(0, first))
    given = config_lib.to_dict(config)
    given['phases']['later'] = given['phases']['part'] | {
        'tasks': (1, 2), 'options': given['phases']['part']['options'] | {
            'first': 1, 'after': 'part'}}
    given['phases'] = {name: given['phases'][name] for name in names}
    return config_lib.from_dict(given | {'schedule': names})
  with pytest.raises(ValueError, match='trained together: give the new tasks a '
                                       'phase of their own'):
    grow(make('part'), make('part', first=2), tmp_path / 'run')
  summary = tiny.learn(make('part', 'later'), tmp_path / 'run')
  assert summary['verified']['ok'] and np.size(summary['names']) == 2
