"""`verify` re-derives every task and names what was changed."""

import contextlib
import json
import shutil

import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax.commands import verify
from mtl_jax.serving import system as system_lib
from mtl_jax.serving import verification
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records


@pytest.fixture(name='run')
def _run(tmp_path):
  return tiny.learned(tmp_path / 'run', 'few')


def faults(run):
  return verification.check(system_lib.load(run)).faults


@contextlib.contextmanager
def nothing_else_changes(run, *but):
  """All files stay as they are, but those below the given names."""
  before = tiny.files(run)
  yield
  after = tiny.files(run)
  for files in (before, after):
    for name in [n for n in files if n.startswith(but or ('?',))]:
      del files[name]
  assert before == after


def test_a_good_run_passes_and_is_not_touched(run):
  with nothing_else_changes(run):
    result = verification.check(system_lib.load(run))
  assert result == verification.Result(tasks=3, faults=[], notes=[])


@pytest.mark.parametrize('kind, tasks', [
    ('lenet', 15), pytest.param('norm', 3, marks=pytest.mark.slow)])
def test_every_kind_of_task_passes(tmp_path, kind, tasks):
  run = tiny.learned(tmp_path / 'run', kind)
  assert verification.check(
      system_lib.load(run)) == verification.Result(tasks, [], [])


def test_the_command_passes_on_a_good_run(run):
  # Made on eight devices and checked on one.
  done = tiny.verify(run)
  assert done.returncode == 0, done.stdout + done.stderr
  assert '3 tasks verified' in done.stdout


@pytest.mark.parametrize('tasks, partly, said', [
    (1, 0, '1 task verified: all hashes and outputs are those of its commit'),
    (3, 0, '3 tasks verified: all hashes and outputs are those of their '
           'commits'),
    (0, 0, '0 tasks verified: all hashes and outputs are those of their '
           'commits'),
    (1, 1, '1 task verified in part: all hashes are those of its commit; the '
           'notes say what is lacking')])
def test_one_task_is_no_tasks(tasks, partly, said):
  assert str(verification.Result(tasks, [], [], partly)) == said


def flip(leaf):
  def change(arrays):
    arrays[leaf].view(np.uint8).reshape(-1)[0] ^= 1
  return change


def test_one_flipped_bit_fails_the_command_with_task_and_leaf(run):
  tiny.rewrite(run / 'tasks/permuted-01', flip('masks/Dense_1/kernel'))
  with nothing_else_changes(run):
    done = tiny.verify(run)
  assert done.returncode == 1
  assert 'FAULT: task permuted-01: ' in done.stdout
  assert 'leaf masks/Dense_1/kernel was changed' in done.stdout
  assert 'task permuted-00' not in done.stdout
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('task, leaf', [
    ('permuted-12', 'coefficients/Dense_0/kernel'),
    ('permuted-01', 'probe')])
def test_one_flipped_bit_names_task_and_leaf(run, task, leaf):
  tiny.rewrite(run / 'tasks' / task, flip(leaf))
  fault, = faults(run)
  assert task in fault and f'leaf {leaf} was changed' in fault


def test_changed_basis_is_a_fault_of_all_that_use_it(run):
  tiny.rewrite(run / 'tasks/permuted-00', flip('masks/Dense_0/kernel'))
  found = faults(run)
  assert [f.split(':')[0] for f in found] == [
      'task permuted-00', 'task permuted-12']
  assert all('permuted-00: leaf masks/Dense_0/kernel' in f for f in found)


@pytest.mark.parametrize('task, leaf', [
    ('permuted-00', 'masks/Dense_2/kernel'),
    ('permuted-12', 'coefficients/Dense_2/kernel')])
def test_forged_hashes_do_not_hide_a_change(run, task, leaf):
  """With digests made anew the outputs still differ."""
  path = run / 'tasks' / task
  metadata = checkpoint.load_metadata(path)

  def change(arrays):
    if arrays[leaf].dtype == np.uint8:
      arrays[leaf][:] ^= 255
    else:
      arrays[leaf] += 0.5
  tiny.rewrite(path, change, metadata)
  found = faults(run)
  assert f'task {task}: its outputs on the probe images differ' in found[0]


def test_changed_transform_is_a_fault(run):
  path = run / 'tasks/permuted-01'
  metadata = checkpoint.load_metadata(path)
  rest = metadata['transforms'][1:]
  metadata['transforms'] = [['permute', {'seed': 4}], *rest]
  tiny.rewrite(path, lambda arrays: None, metadata)
  fault, = faults(run)
  assert fault.startswith('task permuted-01: its outputs')


def data_files(path):
  """The files of a checkpoint from large to small."""
  return sorted((p for p in path.rglob('*') if p.is_file()),
                key=lambda p: -p.stat().st_size)


def test_one_raw_byte_on_the_disk(run):
  file = data_files(run / 'tasks/permuted-01')[0]
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 16
  file.write_bytes(content)
  with nothing_else_changes(run):
    done = tiny.verify(run)
  assert done.returncode == 1
  assert 'FAULT: task permuted-01: ' in done.stdout
  assert ('leaf masks/' in done.stdout or file.name in done.stdout)
  assert done.stdout.count('FAULT') == 1


def test_truncated_file_fails_the_command_with_a_remedy(run):
  file = data_files(run / 'tasks/permuted-01')[0]
  file.write_bytes(file.read_bytes()[:100])
  with nothing_else_changes(run):
    done = tiny.verify(run)
  assert done.returncode == 1
  line, = [x for x in done.stdout.splitlines() if 'FAULT' in x]
  assert 'task permuted-01: ' in line and 'cannot be read' in line
  assert 'restore the folder from a copy, or remove it' in line
  assert 'Traceback' not in done.stdout


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('which, damage', [
    (0, 'truncated'), (1, 'truncated'), (0, 'gone'), (0, 'empty'),
    (1, 'empty')])
def test_every_large_file_is_watched(run, which, damage):
  file = data_files(run / 'tasks/permuted-01')[which]
  if damage == 'gone':
    file.unlink()
  else:
    file.write_bytes(file.read_bytes()[:40 if damage == 'truncated' else 0])
  with nothing_else_changes(run):
    found = faults(run)
  assert len(found) == 1 and found[0].startswith('task permuted-01: ')
  assert 'remove it' in found[0] or 'trains it again' in found[0]


@pytest.mark.parametrize('how', ['removed', 'emptied'])
def test_lost_task_is_named(run, how):
  path = run / 'tasks/permuted-00'
  shutil.rmtree(path)
  if how == 'emptied':
    path.mkdir()
  found = faults(run)
  assert found[0].startswith('task permuted-00: ')
  assert 'gone' in found[0] or 'remove it' in found[0]
  # Its mask was in the basis.
  assert [f.split(':')[0] for f in found[1:]] == [
      'task permuted-12']
  assert all('tasks/permuted-00' in f for f in found[1:])


@pytest.mark.parametrize('name, value, text', [
    ('seed', 1, "the backbone's fingerprint is "),
    ('init', 'default', "the backbone's fingerprint is "),
    ('outputs', 11, "the backbone's fingerprint is "),
    ('model', 'lenet_300_10', 'unknown model .*did you mean: lenet_300_100'),
    ('fingerprint', 'f' * 64, 'but fff.* was recorded')])
def test_changed_backbone_is_refused(run, name, value, text):
  recipe = json.loads((run / 'backbone.json').read_text())
  json_records.write_json(run / 'backbone.json', recipe | {name: value})
  with nothing_else_changes(run):
    with pytest.raises(ValueError, match=text):
      system_lib.load(run)


@pytest.mark.parametrize('text', ['', '{"model": ', '{}', '[]', 'null'])
def test_malformed_backbone_is_named(run, text):
  (run / 'backbone.json').write_text(text)
  with pytest.raises(ValueError, match='backbone.json.* the recipe of the '
                     'backbone (is malformed|lacks).*restore it'):
    system_lib.load(run)


def test_changed_backbone_fails_the_command(run):
  recipe = json.loads((run / 'backbone.json').read_text())
  json_records.write_json(run / 'backbone.json', recipe | {'seed': 1})
  done = tiny.verify(run)
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert "error: the backbone's fingerprint is" in done.stderr


def test_task_of_another_backbone_is_refused(run, tmp_path):
  other = tmp_path / 'other'
  tiny.learn(tiny.only('basis', seed=7), other)
  shutil.copytree(other / 'tasks/permuted-00', run / 'tasks/permuted-99')
  with pytest.raises(checkpoint.CheckpointError,
                     match='permuted-99 was made on the backbone'):
    system_lib.load(run).task('permuted-99')
  fault, = faults(run)
  assert 'permuted-99 was made on the backbone' in fault


def test_another_basis_under_the_same_name_is_refused(run, tmp_path):
  """As a lost task, learned again elsewhere, may come out otherwise."""
  other = tmp_path / 'other'
  tiny.learn(tiny.only('basis', kind='few', phases__basis__learning_rate=.5),
             other)
  shutil.rmtree(run / 'tasks/permuted-00')
  shutil.copytree(other / 'tasks/permuted-00', run / 'tasks/permuted-00')
  for ask in (lambda s: s.predict(s.probe('digits'), task='permuted-12'),
              lambda s: s.predict_mixed(s.probe('digits')[:1],
                                        ['permuted-12'])):
    with pytest.raises(checkpoint.CheckpointError,
                       match='permuted-12 was made with the task permuted-00'):
      ask(system_lib.load(run))
  assert any('permuted-12 was made with' in fault for fault in faults(run))


def test_lost_or_changed_probe_is_a_fault(run):
  tiny.rewrite(run / 'probe/digits', flip('images'))
  found = faults(run)
  assert len(found) == 3
  assert all('probe/digits: leaf images was changed' in f for f in found)
  shutil.rmtree(run / 'probe')
  assert 'no checkpoint at ' in faults(run)[0]


def test_half_written_task_is_not_counted(run):
  shutil.copytree(run / 'tasks/permuted-00',
                  run / 'tasks/permuted-99.orbax-checkpoint-tmp')
  assert verification.check(
      system_lib.load(run)) == verification.Result(3, [], [])


@pytest.mark.parametrize('what', ['missing', 'empty'])
def test_no_workdir(tmp_path, what):
  folder = tmp_path / what
  if what == 'empty':
    folder.mkdir()
  done = tiny.verify(folder)
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert (f'error: {folder}/backbone.json is missing' if what == 'empty' else
          f'error: there is no file or folder {folder}; give') in done.stderr
  assert folder.exists() == (what == 'empty')


def test_no_finished_task_is_no_proof(run):
  shutil.rmtree(run / 'tasks')
  (run / 'metrics.jsonl').unlink()
  done = tiny.verify(run)
  assert done.returncode == 1 and 'no finished task' in done.stderr


@pytest.mark.parametrize('off, platform, fine', [
    (1e-5, None, False), (1e-5, 'tpu', True), (.01, 'tpu', True),
    (.1, 'tpu', False)])
def test_rounding_on_another_platform_is_a_note(run, off, platform, fine):
  system = system_lib.load(run)
  stored = system.task(system.tasks[0])
  if platform:
    stored.metadata['versions']['platform'] = platform
  found = stored.probe + off * np.abs(stored.probe).max()
  notes = verification._compare('a', found, stored)[1]
  assert bool(notes) == fine
  assert not fine or "'platform': ('tpu', 'cpu')" in notes[0]


def test_rounding_in_another_process_on_an_accelerator_is_a_note(
    run, monkeypatch):
  """The same versions and card; XLA may choose other kernels."""
  system = system_lib.load(run)
  stored = system.task(system.tasks[0])
  here = dict(stored.metadata['versions'], platform='gpu')
  stored.metadata['versions'] = here
  monkeypatch.setattr(verification.provenance, 'versions', lambda: here)
  largest = np.abs(stored.probe).max()
  faults, notes = verification._compare(
      'a', stored.probe + .01 * largest, stored)
  assert not faults and 'other kernels in another process' in notes[0]
  faults, notes = verification._compare(
      'a', stored.probe + .1 * largest, stored)
  assert faults and not notes


def test_a_folder_alone_says_what_it_lacks(run, tmp_path):
  alone = shutil.copytree(run / 'tasks/permuted-12', tmp_path / 'permuted-12')
  found = verify.check(alone)
  assert (found.tasks, found.partly, found.faults) == (1, 1, [])
  for text in ('its 4 arrays and its metadata are as they were written',
               'backbone 160b332c', 'heterogeneous basis of 1 mask: that of '
               'the task permuted-00 (', 'probe images of digits',
               'suite permuted-digits'):
    assert text in found.notes[0]
  assert str(found).startswith('1 task verified in part')
  tiny.rewrite(alone, flip('coefficients/Dense_0/kernel'))
  fault, = verify.check(alone).faults
  assert 'leaf coefficients/Dense_0/kernel was changed' in fault


def test_a_copied_task_lacks_things_and_is_no_fault(run, tmp_path):
  """Where it was learned, the same things missing would be one."""
  bare = tmp_path / 'bare'
  (bare / 'tasks').mkdir(parents=True)
  for name in ('backbone.json', 'format.json'):
    shutil.copy(run / name, bare)
  shutil.copytree(run / 'tasks/permuted-12', bare / 'tasks/permuted-12')
  found = verify.check(bare)
  assert not found.faults and found.partly == 1
  assert 'permuted-00' in found.notes[0] and 'probe' in found.notes[0]
  shutil.copytree(run / 'tasks/permuted-00', bare / 'tasks/permuted-00')
  assert verify.check(bare).partly == 2
  shutil.copytree(run / 'probe', bare / 'probe')
  assert verify.check(bare) == verification.Result(2, [], [])
  tiny.rewrite(bare / 'tasks/permuted-12', flip('probe'))
  shutil.rmtree(bare / 'probe')
  fault, = verify.check(bare).faults
  assert 'permuted-12: ' in fault and 'leaf probe was changed' in fault


def test_the_file_of_a_task_is_verified(run, tmp_path):
  path = mtl_jax.load(run).export('permuted-12', tmp_path / 'a', True)
  assert verify.check(path) == verification.Result(2, [], [])
  path.write_bytes(path.read_bytes()[:-1])
  done = tiny.verify(path)
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert done.stderr.startswith('error: ') and 'cannot be read' in done.stderr


@pytest.mark.slow
def test_the_command_on_a_folder_alone(run):
  done = tiny.verify(run / 'tasks/permuted-12')
  assert done.returncode == 0 and done.stdout.startswith('note: task permuted')
