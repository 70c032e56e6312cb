"""A group that trained at once commits as its entries would one by one."""

import json
import zlib

import jax
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax.config import plan
from mtl_jax.data import suites
from mtl_jax.storage import checkpoint
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import group_commit

# Names of the files and folders of a task's checkpoint.
FILES = ['0', '_CHECKPOINT_METADATA']


def _config(**changes):
  """Five tasks, four of them at once."""
  return tiny.only('many', **({'phases__many__tasks': (4, 9),
                               'phases__many__tasks_at_once': 4} | changes))


def _one_by_one(monkeypatch):
  monkeypatch.setattr(group_commit, '_at_once', lambda *_: False)


def _records(folder):
  work = workdir_lib.Workdir(folder)
  return {name: checkpoint.task_metadata(work.task(name))['record']
          for name in work.task_names()}


def _measured(record):
  """What must be equal: all but times and losses."""
  return {key: value for key, value in record.items()
          if key not in ('seconds', 'loss')}


@pytest.fixture(name='apart', scope='module')
def _apart(tmp_path_factory):
  """A run whose entries were committed one by one."""
  folder = tmp_path_factory.mktemp('apart') / 'run'
  with pytest.MonkeyPatch.context() as patch:
    _one_by_one(patch)
    tiny.train_alone(_config(), folder)
  return folder


@pytest.fixture(name='together', scope='module')
def _together(tmp_path_factory):
  folder = tmp_path_factory.mktemp('together') / 'run'
  tiny.train_alone(_config(), folder)
  return folder


def test_keys_of_a_group_are_those_of_its_entries():
  config = _config()
  suite = suites.make(config.suite.kind, **dict(config.suite.options))
  entries = plan.entries(config.phases[0], suite)
  data = jax.random.key_data(plan.keys(7, entries))
  assert len(np.unique(data, axis=0)) == len(entries) == 5
  root = jax.random.key(7, impl='threefry2x32')
  for entry, own in zip(entries, data):
    named = zlib.crc32(f'{entry.task.name}/0'.encode())
    for key in (entry.key(7), jax.random.fold_in(root, named)):
      np.testing.assert_array_equal(own, jax.random.key_data(key))


def test_bits_and_records_are_those_of_single_commits(apart, together):
  assert tiny.bits(together) == tiny.bits(apart)  # masks, and the outputs
  mine, theirs = _records(together), _records(apart)
  assert len(mine) == 5
  for name, record in theirs.items():
    assert _measured(mine[name]) == _measured(record)
    # Another program may sum the rows' losses in another order.
    assert mine[name]['loss'] == pytest.approx(record['loss'], rel=2e-6)
    assert list(mine[name]) == list(record)
    assert sorted(mine[name]['seconds']) == sorted(record['seconds'])


def test_the_log_has_a_line_for_each(together):
  lines = [json.loads(line) for line in
           (together / 'metrics.jsonl').read_text().splitlines()]
  assert [line['entry'] for line in lines if line['kind'] == 'task'] == (
      workdir_lib.Workdir(together).task_names())


def test_a_task_of_a_group_lies_in_a_folder_of_its_own(together):
  work = workdir_lib.Workdir(together)
  for name in work.task_names():
    assert sorted(p.name for p in work.task(name).iterdir()) == FILES


def test_one_of_a_group_goes_and_the_others_stay(together, tmp_path):
  folder = tmp_path / 'run'
  tiny.shutil.copytree(together, folder)
  before = tiny.bits(folder)
  system = mtl_jax.load(folder)
  system.delete('permuted-05')
  system.rename('permuted-06', 'other')
  after = tiny.bits(folder)
  assert after == {('other' if name == 'permuted-06' else name): found
                   for name, found in before.items() if name != 'permuted-05'}
  x = np.zeros((2, 8, 8, 1), np.uint8)
  assert np.isfinite(system.predict(x, task='other')).all()


@pytest.mark.parametrize('kept', [0, 1, 3])
def test_a_kill_leaves_whole_tasks(kept, tmp_path, monkeypatch, apart):
  """After some of a group's folders have their names."""
  renamed = []
  rename = group_commit.commit_lib.checkpoint.pathlib.Path.rename

  def stop(self, target):
    if target.parent.name == 'tasks':
      if len(renamed) == kept:
        raise tiny.Stopped
      renamed.append(target.name)
    return rename(self, target)
  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.pathlib.Path, 'rename', stop)
    # A killed process tidies nothing up.
    remove = checkpoint.shutil.rmtree
    patch.setattr(
        checkpoint.shutil, 'rmtree', lambda path, ignore_errors=False:
        None if ignore_errors else remove(path))
    with pytest.raises(tiny.Stopped):
      tiny.train_alone(_config(), tmp_path / 'run')
  assert workdir_lib.Workdir(tmp_path / 'run').task_names() == renamed
  assert len(renamed) == kept
  _, seen = tiny.train_alone(_config(), tmp_path / 'run')
  assert seen  # what was left is trained again
  assert tiny.bits(tmp_path / 'run') == tiny.bits(apart)
  assert not list((tmp_path / 'run/tasks').glob('*tmp*'))


def test_numbers_that_are_not_finite_name_their_task(tmp_path, monkeypatch):
  driven = group_commit.drivers.make

  def spoilt(*args):
    driver = driven(*args)

    def whole(state):
      state = driver.whole(state)
      first = next(iter(state.trainable))
      kernel = np.array(state.trainable[first]['kernel'])
      kernel[2, 0] = np.nan
      return state._replace(trainable=dict(
          state.trainable, **{first: dict(state.trainable[first],
                                          kernel=kernel)}))
    return driver._replace(whole=whole)
  monkeypatch.setattr(group_commit.drivers, 'make', spoilt)
  with pytest.raises(FloatingPointError, match='task permuted-06 would leave'):
    tiny.train_alone(_config(), tmp_path / 'run')
  assert not workdir_lib.Workdir(tmp_path / 'run').task_names()


def test_what_cannot_be_compiled_is_committed_one_by_one(
    tmp_path, monkeypatch, apart):
  """And what a task keeps for the next one."""
  calls = []
  made = group_commit.commit_lib.commit
  monkeypatch.setattr(group_commit.commit_lib, 'commit', lambda *args, **kw: (
      calls.append(args[1].name), made(*args, **kw))[1])
  monkeypatch.setattr(
      group_commit.jax, 'eval_shape', lambda *_: (_ for _ in ()).throw(
          TypeError('an array whose numbers are not known')))
  tiny.train_alone(_config(), tmp_path / 'run')
  assert len(calls) == 5
  assert tiny.bits(tmp_path / 'run') == tiny.bits(apart)
