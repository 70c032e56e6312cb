"""What a killed start has cost is counted whole, and once."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import filelock
import jax
import numpy as np
import pytest
import tiny

from mtl_jax import experiment
from mtl_jax.evaluation import final
from mtl_jax.storage import checkpoint
from mtl_jax.storage import folders
from mtl_jax.storage import json_records
from mtl_jax.storage import removal
from mtl_jax.storage import staging
from mtl_jax.storage import workdir as workdir_lib

RUN = {'kind': 'run', 'started': '2026-01-01T00:00:00+00:00'}
SUMMARY = {'kind': 'summary', 'seconds': 1.}


def lines(folder, *kinds):
  return [line for line in json_records.read_lines(folder / 'metrics.jsonl')
          if line['kind'] in kinds]


def test_what_a_start_did_outside_of_finished_tasks_counts(
    tmp_path, monkeypatch):
  config = tiny.make('few')

  def stop(running):
    time.sleep(.4)  # as a long inference would
    raise KeyboardInterrupt
  began = time.perf_counter()
  with monkeypatch.context() as patch:
    patch.setattr(final, 'infer_tasks', stop)
    with pytest.raises(KeyboardInterrupt):
      tiny.learn(config, tmp_path)
  spent = time.perf_counter() - began
  summary = tiny.learn(config, tmp_path)
  killed, = lines(tmp_path, 'killed')
  tasks = sum(sum(line['seconds'].values()) for line in lines(tmp_path, 'task'))
  assert tasks + .4 < killed['seconds'] <= spent
  assert summary['seconds_in_all'] == pytest.approx(
      killed['seconds'] + summary['seconds'])
  assert not (tmp_path / 'start.json').exists()
  # Once more: three starts, of which each counts once.
  again = tiny.learn(config, tmp_path)
  assert len(lines(tmp_path, 'killed')) == 1
  assert again['seconds_in_all'] == pytest.approx(
      summary['seconds_in_all'] + again['seconds'])


_CHILD = """
import sys, time
from mtl_jax.storage import workdir
work = workdir.Workdir(sys.argv[1])
with work.timed(time.perf_counter() - 100., every=.02):
  print('begun', flush=True)
  time.sleep(60.)
"""


def test_a_process_that_is_ended_from_outside_leaves_its_seconds(tmp_path):
  work = workdir_lib.Workdir(tmp_path)
  json_records.write_lines(work.metrics, [RUN])
  with subprocess.Popen([sys.executable, '-c', _CHILD, str(tmp_path)],
                        env=tiny.environment(), text=True,
                        stdout=subprocess.PIPE) as child:
    assert child.stdout.readline() == 'begun\n'
    time.sleep(.5)
    os.kill(child.pid, signal.SIGKILL)
  line, = work.killed([RUN])
  assert line['kind'] == 'killed' and 100.2 < line['seconds'] < 110.


@pytest.mark.parametrize('found', [
    [], [RUN, SUMMARY], [RUN, {'kind': 'killed', 'seconds': 9.}],
    [RUN, RUN], [RUN | {'started': 'at another time'}],
    [RUN, SUMMARY, RUN],
], ids=['nothing', 'it ended', 'counted before', 'another start',
        'another time', 'a start before it ended'])
def test_seconds_count_for_the_start_that_left_them_alone(tmp_path, found):
  work = workdir_lib.Workdir(tmp_path)
  work.start.write_text(json.dumps({'start': [1, RUN['started']],
                                    'seconds': 7.}))
  assert work.killed(found) == []
  assert work.killed([RUN]) == [{'kind': 'killed', 'seconds': 7.}]


def test_a_finished_task_without_its_line_is_not_counted_twice(tmp_path):
  """The line is made up at the next start, before that of the kill."""
  run = tiny.learned(tmp_path / 'run', 'few')
  work = workdir_lib.Workdir(run)
  kept = [line for line in json_records.read_lines(work.metrics)
          if line['kind'] != 'summary' and line.get('entry') != 'permuted-12']
  json_records.write_lines(work.metrics, kept)
  started = [line for line in kept if line['kind'] == 'run'][0]['started']
  work.start.write_text(json.dumps({'start': [1, started], 'seconds': 50.}))
  config = tiny.make('few')
  summary = tiny.learn(config, run)
  assert [line['kind'] for line in lines(run, 'run', 'killed', 'summary')] == [
      'run', 'killed', 'run', 'summary']
  assert summary['seconds_in_all'] == pytest.approx(50. + summary['seconds'])


def test_a_start_that_is_refused_leaves_the_seconds_for_the_next(tmp_path):
  run = tiny.learned(tmp_path / 'run', 'few')
  work = workdir_lib.Workdir(run)
  json_records.write_lines(work.metrics, lines(run, 'run', 'task'))
  started = lines(run, 'run')[0]['started']
  work.start.write_text(json.dumps({'start': [1, started], 'seconds': 50.}))
  with pytest.raises(ValueError):
    experiment.run(tiny.make('few', seed=8), run, quiet=True)
  assert work.killed(lines(run, 'run'))


# Times that tell nothing.


def test_a_change_that_keeps_the_time_is_seen(tmp_path):
  """As by a copy that keeps times, or with a clock that was set back."""
  work = workdir_lib.Workdir(tmp_path / 'run')
  work.prepare()
  for name in 'ab':
    checkpoint.save(work.task(name), {'x': np.zeros(3)}, {})
  file = work.task('a') / '0'

  def stamps(*changes):
    for change in changes:
      change()
    for path in (file, file.parent, work.tasks):
      os.utime(path, (1, 1))
    return {'file': staging.stamp_of(file), 'task': work.version('a'),
            'tasks': folders.version(work.tasks)}
  content, found = file.read_bytes(), stamps()
  for changes in ([lambda: file.write_bytes(content[::-1])],
                  [file.unlink, lambda: file.write_bytes(content)],
                  [lambda: removal.remove(work.task('b'))]):
    before, found = found, stamps(*changes)
    assert all(found[name] != before[name] for name in found)
  assert work.task_names() == ['a']


# A folder that is none.


def photos(folder):
  folder.mkdir(exist_ok=True)
  for i in range(5):
    (folder / f'IMG_{i}.jpg').write_bytes(b'x')
  (folder / '.DS_Store').write_bytes(b'x')


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path):
  photos(tmp_path / 'holidays')
  before = tiny.files(tmp_path)
  config = tiny.make('few')
  with pytest.raises(ValueError, match=(
      r'holidays is neither a workdir nor empty: it holds IMG_0.jpg, IMG_1.jpg,'
      r' IMG_2.jpg and 2 more; choose another folder, or a new one in it '
      r'\(.*holidays/run\)')):
    tiny.learn(config, tmp_path / 'holidays')
  assert tiny.files(tmp_path) == before
  # The remedy.
  workdir_lib.Workdir(tmp_path / 'holidays/run').require_own()


@pytest.mark.parametrize('make', [
    lambda run: None, lambda run: run.mkdir(),
    lambda run: (run / '.git').mkdir(parents=True),
    # As a kill leaves it before, and while, the first file is written.
    lambda run: [(run / name).mkdir(parents=True) for name in (
        'tasks', 'probe', 'progress', 'shared')],
    lambda run: [run.mkdir(), (run / '.format.json.x1').write_text('{')],
    lambda run: workdir_lib.Workdir(run).prepare()])
def test_new_empty_and_barely_begun_folders_are_fine(tmp_path, make):
  make(tmp_path / 'run')
  workdir_lib.Workdir(tmp_path / 'run').require_own()


def test_a_compilation_cache_may_lie_in_a_new_workdir(tmp_path, monkeypatch):
  (tmp_path / 'run/cache').mkdir(parents=True)
  work = workdir_lib.Workdir(tmp_path / 'run')
  with pytest.raises(ValueError, match='it holds cache; choose'):
    work.require_own()
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', f'{tmp_path}/run/cache/jax')
  try:
    work.require_own()
  finally:
    jax.config.update('jax_compilation_cache_dir', before)


def test_own_folders_with_something_in_them_are_none_without_a_format(tmp_path):
  (tmp_path / 'tasks').mkdir()
  (tmp_path / 'tasks/todo.txt').write_text('milk')
  with pytest.raises(ValueError, match='it holds tasks; choose'):
    workdir_lib.Workdir(tmp_path).require_own()


@pytest.mark.parametrize('there', [False, True])
def test_what_is_refused_under_the_lock_leaves_nothing(tmp_path, there):
  root = tmp_path / 'a/b'
  if there:
    root.mkdir(parents=True)
  before = sorted(tmp_path.rglob('*'))
  with pytest.raises(ValueError), workdir_lib.Workdir(root).locked():
    raise ValueError
  assert sorted(tmp_path.rglob('*')) == before
  work = workdir_lib.Workdir(root)
  with work.locked():
    work.prepare()
  assert work.format.exists() and (root / '.lock').exists()


def test_a_path_that_no_checkpoint_can_have(tmp_path):
  wrong = os.fsdecode(os.fsencode(str(tmp_path)) + b'/\xc3')
  with pytest.raises(ValueError, match=(
      r"the path '.*\\udcc3' has bytes that are no letters .*PYTHONUTF8=1")):
    workdir_lib.Workdir(wrong)
  assert not list(tmp_path.iterdir())
  right = tmp_path / 'été 猫'
  assert workdir_lib.Workdir(right).root == right


@pytest.mark.parametrize('place', ['', 'run', 'run/tasks', 'run/tasks/a'])
def test_a_link_that_leads_nowhere_is_named(tmp_path, place):
  link = tmp_path / 'here' / place
  link.parent.mkdir(parents=True, exist_ok=True)
  link.symlink_to(tmp_path / 'gone')
  with pytest.raises(ValueError, match=(
      f'{link} is a link to {tmp_path}/gone, which does not exist; bring that '
      'back, or remove the link')):
    workdir_lib.Workdir(tmp_path / 'here/run').prepare()
  assert link.is_symlink() and not (tmp_path / 'gone').exists()
  link.unlink()  # the remedy
  workdir_lib.Workdir(tmp_path / 'here/run').prepare()


@pytest.mark.parametrize('code', ['EACCES', 'EROFS'])
def test_a_workdir_of_another_user_is_not_worked_in_without_its_lock(
    tmp_path, monkeypatch, caplog, code):
  number = getattr(errno, code)

  def refuse(*_, **__):
    raise OSError(number, os.strerror(number))
  monkeypatch.setattr(filelock.FileLock, 'acquire', refuse)
  with pytest.raises(ValueError, match=(
      f'{tmp_path} cannot be changed: {tmp_path}/.lock: '
      f'{os.strerror(number)}; see to it that this process may write .* '
      'Nothing was changed')), workdir_lib.Workdir(tmp_path).locked():
    assert False
  assert not caplog.messages and not list(tmp_path.iterdir())


def test_a_note_that_a_full_disk_refuses_hides_no_error(tmp_path, monkeypatch):
  work, noted, printed = workdir_lib.Workdir(tmp_path), [], []
  monkeypatch.setattr(threading, 'excepthook', printed.append)

  def write(*_):
    noted.append(1)
    if len(noted) > 1:
      raise OSError(28, 'No space left on device')
  monkeypatch.setattr(json_records, 'write_json', write)
  with pytest.raises(ValueError, match='the loss is nan'):
    with work.timed(0., [], every=.001):
      for _ in range(10_000):
        if len(noted) < 4:
          time.sleep(.001)
      assert len(noted) > 3  # the thread goes on
      raise ValueError('the loss is nan')
  assert not printed
