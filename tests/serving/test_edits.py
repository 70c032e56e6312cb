"""Tasks that are deleted, renamed and merged; all others keep their bits."""

import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax.serving import edits
from mtl_jax.serving import verification
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records


@pytest.fixture(name='system')
def _system(tmp_path):
  return mtl_jax.load(tiny.learned(tmp_path / 'run', 'few'))


def assert_sound(system, tasks):
  """As this object sees it, and as a new one does."""
  for seen in (system, mtl_jax.load(system.workdir.root)):
    assert list(seen) == sorted(tasks) and len(seen) == len(tasks)
    assert verification.check(seen) == verification.Result(len(tasks), [], [])


def probe(system, task):
  return np.asarray(system.predict(system.probe('digits'), task=task))


def test_a_task_that_another_relies_on_stays(system):
  before = tiny.files(system.workdir.root)
  with pytest.raises(ValueError, match='permuted-00 stays: permuted-12 relies '
                                       'on it; delete that first'):
    system.delete('permuted-00')
  after = tiny.files(system.workdir.root)
  assert {k: v for k, v in after.items() if k != '.lock'} == {
      k: v for k, v in before.items() if k != '.lock'}
  system.delete('permuted-12')  # the remedy
  system.delete('permuted-00')
  assert_sound(system, ['permuted-01'])
  assert 'permuted-00' not in system


def test_what_was_deleted_is_learned_again(system):
  bits = tiny.bits(system.workdir.root)
  system.delete('permuted-12')
  summary = tiny.learn(tiny.make('few'), system.workdir.root)
  assert summary['verified']['ok'] and tiny.bits(system.workdir.root) == bits


def test_those_that_rely_on_a_renamed_task_know_it(system):
  bits, before = tiny.bits(system.workdir.root), probe(system, 'permuted-12')
  system.predict_mixed(system.probe('digits')[:1], ['permuted-00'])
  system.rename('permuted-00', 'first@x~1')
  assert_sound(system, ['first@x~1', 'permuted-01', 'permuted-12'])
  np.testing.assert_array_equal(probe(system, 'permuted-12'), before)
  after = tiny.bits(system.workdir.root)
  assert after['first@x~1'] == bits['permuted-00']
  assert after['permuted-12'] == bits['permuted-12']
  for ask in (lambda: probe(system, 'permuted-00'),
              lambda: system.predict_mixed(system.probe('digits')[:1],
                                           ['permuted-00'])):
    with pytest.raises(ValueError, match='unknown task'):
      ask()
  lines = list(json_records.read_lines(system.workdir.metrics))
  assert lines[-1] == {'kind': 'renamed', 'entry': 'first@x~1',
                       'from': 'permuted-00'}


def test_names_that_a_task_had_for_a_while_are_not_missed(system):
  system.rename('permuted-12', 'a')
  system.rename('a', 'b')
  assert_sound(system, ['b', 'permuted-00', 'permuted-01'])
  system.delete('b')
  assert_sound(system, ['permuted-00', 'permuted-01'])
  bits = tiny.bits(system.workdir.root)
  assert tiny.learn(tiny.make('few'), system.workdir.root)['verified']['ok']
  assert bits.items() < tiny.bits(system.workdir.root).items()


def test_another_task_may_take_the_name_that_one_had(system):
  learn = lambda steps: system.learn('digits', method='supsup', name='new',
                                     steps=steps, batch_size=16)
  learn(1)
  system.rename('new', 'old')
  learn(2)
  assert_sound(system, [
      'new', 'old', 'permuted-00', 'permuted-01', 'permuted-12'])


def test_a_workdir_that_moved_is_not_made_anew(system, tmp_path):
  here, there = system.workdir.root, tmp_path / 'moved'
  x = system.probe('digits')
  here.rename(there)
  for ask in (lambda: system.predict(x, task='permuted-00'),
              lambda: system.predict_mixed(x[:1], ['permuted-00']),
              lambda: system.identify(x, names=['permuted-00', 'permuted-01']),
              lambda: system.delete('permuted-12'),
              lambda: system.export('permuted-00', tmp_path / 'file'),
              lambda: system.merge(['permuted-00', 'permuted-01']),
              lambda: system.learn('digits', method='supsup', steps=1)):
    with pytest.raises(ValueError, match='run was moved or removed after it '
                                         'was loaded.*load it from where'):
      ask()
  assert not here.exists()
  assert probe(mtl_jax.load(there), 'permuted-00').shape == (16, 10)  # remedy


def test_values_that_lie_with_a_renamed_task_are_found(system):
  """References: tasks that share a value store it once."""
  metadata = {'references': {'values/a': {'task': 'old', 'sha256': 'x'},
                             'values/b': {'task': 'other', 'sha256': 'y'}},
              'relies_on': {'c': '1', 'old': '2', 'a': '3'}}
  changed = edits._with_name(metadata, 'old', 'new')
  assert list(changed['relies_on'].items()) == [
      ('c', '1'), ('new', '2'), ('a', '3')]
  assert [r['task'] for r in changed['references'].values()] == ['new', 'other']


@pytest.mark.parametrize('name, text', [
    ('permuted-01', 'there is a task permuted-01 already'),
    ('permuted-00', 'there is a task permuted-00 already'),
    ('../up', 'a name has letters'), ('', 'a name has letters'),
    ('a/b', 'a name has letters'), (None, 'a name has letters')])
def test_names_that_cannot_be_given(system, name, text):
  with pytest.raises(ValueError, match=text):
    system.rename('permuted-00', name)
  assert_sound(system, ['permuted-00', 'permuted-01', 'permuted-12'])


@pytest.mark.parametrize('what', ['save', 'change_metadata', 'remove_all'])
def test_a_rename_that_is_killed_leaves_a_sound_system(system, monkeypatch,
                                                       what):
  def die(*_, **__):
    raise tiny.Stopped
  with monkeypatch.context() as patch:
    patch.setattr(edits.removal if what == 'remove_all' else
                  edits.checkpoint, what, die)
    with pytest.raises(tiny.Stopped):
      system.rename('permuted-00', 'first')
  found = verification.check(mtl_jax.load(system.workdir.root))
  assert not found.faults and not found.partly
  again = mtl_jax.load(system.workdir.root)
  again.rename('permuted-00', 'first')
  assert_sound(again, ['first', 'permuted-01', 'permuted-12'])


def test_an_edit_waits_for_no_other_process(system):
  with system.workdir.locked():
    for edit in (lambda: system.delete('permuted-12'),
                 lambda: system.rename('permuted-12', 'x'),
                 lambda: system.merge(['permuted-00', 'permuted-01'])):
      with pytest.raises(ValueError, match='another thread'):
        edit()
  assert_sound(system, ['permuted-00', 'permuted-01', 'permuted-12'])


def test_unknown_tasks_are_named(system):
  for edit in (lambda: system.delete('permuted-0'),
               lambda: system.rename('permuted-0', 'x'),
               lambda: system.merge(['permuted-00', 'permuted-0']),
               lambda: system.parameters('permuted-0'),
               lambda: system.apply_fn('permuted-0')):
    with pytest.raises(ValueError, match=r'did you mean: permuted-0'):
      edit()


def test_changed_metadata_are_sound(system):
  path = system.workdir.task('permuted-12')
  checkpoint.change_metadata(path, {'seed': 7})
  assert checkpoint.load(path)[1]['seed'] == 7
  (path / '_CHECKPOINT_METADATA').unlink()
  with pytest.raises(checkpoint.CheckpointError):
    checkpoint.change_metadata(path, {'seed': 8})


@pytest.mark.parametrize('name, said', [
    ('y' * 101, 'at most 100 bytes'), (7, 'the name of the task is 7'),
    ('a\n', 'a name has letters'),
    # A folder of that name would be taken for one that a kill left.
    ('a.orbax-checkpoint-tmp-1', 'no mark of a folder that is half written'),
    ('PERMUTED-00', 'has a task permuted-00, which would share its files')])
def test_names_that_the_disk_would_not_keep(system, tmp_path, name, said):
  file = system.export('permuted-01', tmp_path / 'x.safetensors')
  arrays = np.zeros((60, 8, 8, 1), np.uint8), np.arange(60) % 2
  for give in (lambda: system.rename('permuted-12', name),
               lambda: system.merge(['permuted-00', 'permuted-01'], name=name),
               lambda: mtl_jax.import_task(system.workdir.root, file, name)):
    with pytest.raises(ValueError, match=said):
      give()
  with pytest.raises(ValueError):
    system.learn(arrays, name=name, method='supsup', steps=1, batch_size=8)
  assert_sound(system, ['permuted-00', 'permuted-01', 'permuted-12'])
  system.rename('permuted-00', 'Permuted-00')  # its own, in other letters
  assert 'Permuted-00' in system


@pytest.mark.parametrize('given, said', [
    (dict(tasks=None), 'tasks is None; give a list of their names'),
    (dict(tasks='permuted-00'), "tasks is 'permuted-00'; give a list"),
    (dict(weights='ab'), "weights is 'ab': a combination takes a finite"),
    (dict(weights=[None, 1]), r'weights is .None, 1.: a combination takes'),
    (dict(weights=1.), 'weights is 1.0: a combination takes a finite number')])
def test_merges_of_other_types_are_refused(system, given, said):
  with pytest.raises(ValueError, match=said):
    system.merge(**{'tasks': ['permuted-00', 'permuted-01']} | given)


@pytest.mark.parametrize('ask, said', [
    (lambda system: mtl_jax.load(None), 'the path is None; give that of a'),
    (lambda system: mtl_jax.load('a\0b'), 'the path is .a.x00b.; give that'),
    (lambda system: mtl_jax.load(system.workdir.root, plugins=3),
     'plugins: 3 is no path; give that of a Python file'),
    (lambda system: mtl_jax.load(system.workdir.root, plugins=[None]),
     'plugins: None is no path'),
    (lambda system: system.export('permuted-00', None), 'the path is None'),
    (lambda system: mtl_jax.import_task('new', None), 'there is no file None')])
def test_what_is_no_path_is_said(system, ask, said):
  with pytest.raises(ValueError, match=said):
    ask(system)


def test_a_file_in_the_place_of_a_workdir(system, tmp_path):
  file = system.export('permuted-00', tmp_path / 'x.safetensors')
  for place in (file, file / 'run'):
    with pytest.raises(ValueError, match='is a file, so that'):
      mtl_jax.import_task(place, file)
