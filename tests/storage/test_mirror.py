"""A bucket and the folder that is worked on, without any training."""

import contextlib
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import buckets
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax.storage import bucket
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import mirror
from mtl_jax.storage import removal
from mtl_jax.storage import staging
from mtl_jax.storage import workdir as workdir_lib

RUN = 'recorded://b/run'


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
  """Sends are asked for, no thread makes any; takes over at once."""
  buckets.Recorded.clear()
  machine(monkeypatch, tmp_path / 'machine')
  monkeypatch.setattr(mirror, 'EVERY', 1e6)
  monkeypatch.setattr(mirror, 'WAITS', (0.,))
  monkeypatch.setattr(bucket, 'BEAT', 0.1)
  yield
  buckets.Recorded.clear()


def machine(monkeypatch, folder):
  """From now on this is another machine, with a disk of its own."""
  monkeypatch.setenv('MTL_JAX_STAGING', str(folder))


def task(work, name, value=1, **metadata):
  work.prepare()
  checkpoint.save(work.task(name), {'a': np.full(5, value, np.uint8)},
                  {'name': name} | metadata)


def new(*names, address=RUN, **metadata):
  """A workdir in a bucket that has tasks of these names."""
  work = workdir_lib.Workdir(address)
  with work.held():
    for name in names:
      task(work, name, **metadata)
  return work


def fetched(monkeypatch, folder, address=RUN):
  """The same, on another machine."""
  machine(monkeypatch, folder)
  work = workdir_lib.Workdir(address)
  work.read()
  return work


def test_another_machine_has_what_was_sent(monkeypatch, tmp_path):
  work = new('a', 'b')
  other = fetched(monkeypatch, tmp_path / 'other')
  assert other.root != work.root and other.task_names() == ['a', 'b']
  assert buckets.visible(other.root) == buckets.visible(work.root)
  assert buckets.objects(RUN) == buckets.visible(work.root)
  assert not [path for path in buckets.Recorded.store if '.lock' in path]


def test_what_is_there_is_not_fetched_again(monkeypatch):
  work, read = new('a', 'b'), []
  store = bucket.Bucket.read
  monkeypatch.setattr(bucket.Bucket, 'read', lambda self, path: (
      read.append(path), store(self, path))[1])
  work.read()
  # This store's listing has no MD5.
  assert sorted(path for path in read if path.startswith('tasks')) == [
      f'tasks/{name}/_CHECKPOINT_METADATA' for name in 'ab']
  before = len(buckets.changes())
  with work.held():
    work.mirror.push()
  assert not buckets.changes()[before:]


def test_what_changes_is_sent_and_nothing_else():
  work = new('a', 'b')
  with work.held():
    task(work, 'c')
    checkpoint.change_metadata(work.task('a'), {'more': 1})
    removal.remove_all(work.tasks, 'b')
    before = len(buckets.changes())
    work.mirror.push()
    sent = [(what[0], what[1].removeprefix('/b/run/'))
            for what in buckets.changes()[before:]]
  assert sorted(sent[:4]) == [
      ('write', '.writer'), ('write', 'tasks/a/_CHECKPOINT_METADATA'),
      ('write', 'tasks/c/0'), ('write', 'tasks/c/_CHECKPOINT_METADATA')]
  assert sent.index(('write', 'tasks/c/0')) < sent.index(
      ('write', 'tasks/c/_CHECKPOINT_METADATA'))
  assert sent[4:] == [('remove', 'tasks/b/_CHECKPOINT_METADATA'),
                      ('remove', 'tasks/b/0')]


def test_unfinished_names_never_travel():
  work = new('a')
  with work.held():
    for name in ('b.orbax-checkpoint-tmp', '.c.removed'):
      shutil.copytree(work.task('a'), work.tasks / name)
    (work.root / 'profile').mkdir()
    (work.root / 'profile/trace').write_text('x')
  assert {path.split('/')[1] for path in buckets.objects(RUN)
          if path.startswith('tasks/')} == {'a'}
  assert 'profile/trace' not in buckets.objects(RUN)


def test_tasks_come_after_those_that_they_were_made_from(monkeypatch):
  """However the folder lists them, with many transfers at once."""
  monkeypatch.setattr(staging, 'WORKERS', 4)
  work = workdir_lib.Workdir(RUN)
  with work.held():
    for name in 'zyxa':
      task(work, name)
    for name, needs in (('m', 'z'), ('c', 'm'), ('k', 'c')):
      time.sleep(0.01)
      task(work, name, relies_on={needs: ''})
  whole = [path.split('/')[-2] for what, path, *_ in buckets.changes()
           if '/tasks/' in path and path.endswith('METADATA')]
  assert whole[4:] == ['m', 'c', 'k'] and set(whole[:4]) == set('zyxa')


def test_a_folder_that_changes_under_the_send_is_looked_at_again(monkeypatch):
  """Progress goes, and its task is there: not before it in the bucket."""
  work = new('a')
  with work.held():
    shutil.copytree(work.task('a'), work.progress / 'b.000000001')
    look, left = staging.Staging.here, [1]

    def here(self):
      seen = look(self)
      if left:
        left.pop()
        task(work, 'b')
        removal.remove_all(work.progress, 'b.*')
      return seen
    monkeypatch.setattr(staging.Staging, 'here', here)
    work.mirror.push()
  assert 'tasks/b/0' in buckets.objects(RUN)
  assert not [p for p in buckets.objects(RUN) if p.startswith('progress')]


def test_a_task_that_is_made_anew_is_never_of_two_halves(monkeypatch,
                                                         tmp_path):
  work = new('a')
  with work.held():
    removal.remove_all(work.tasks, 'a')
    task(work, 'a', value=2)
  changes = buckets.changes()
  for count in range(len(changes)):
    buckets.replayed(changes[:count])
    other = workdir_lib.Workdir(RUN)
    machine(monkeypatch, tmp_path / str(count))
    other = workdir_lib.Workdir(RUN)
    other.read(required=False)
    for name in other.task_names():
      checkpoint.load(other.task(name))  # held against its SHA-256


def test_what_is_removed_is_no_longer_whole_first():
  work = new('a')
  with work.held():
    work.mirror.there['tasks/a'] = dict(sorted(
        work.mirror.there['tasks/a'].items()))  # '0' comes before
    removal.remove_all(work.tasks, 'a')
  assert [path.rpartition('/')[2] for what, path, *_ in buckets.changes()
          if what == 'remove'] == ['_CHECKPOINT_METADATA', '0']


def test_what_is_made_anew_between_two_looks_is_not_removed(monkeypatch):
  work = new('a')
  with work.held():
    removal.remove_all(work.tasks, 'a')
    look, left = staging.Staging.here, [1]

    def here(self):
      seen = look(self)
      if left:
        left.pop()
        task(work, 'a', value=2)
      return seen
    monkeypatch.setattr(staging.Staging, 'here', here)
    work.mirror.push()
    assert 'tasks/a/_CHECKPOINT_METADATA' in buckets.objects(RUN)


def test_what_a_killed_send_left_is_taken_away():
  """Arrays without metadata, of a task that nobody finishes."""
  work = new('a')
  store = work.mirror.bucket
  store.write('tasks/b/0', b'half')
  work.read()
  assert work.task_names() == ['a']
  with work.held():
    work.mirror.push()
  assert 'tasks/b/0' not in buckets.objects(RUN)


def test_objects_that_are_none_of_a_workdir_stay():
  work = new('a')
  for path in ('notes.txt', 'profile/x', 'tasks/../../evil', 'tasks/.x/0'):
    work.mirror.bucket.write(path, b'x')
  with work.held():
    task(work, 'b')
  found = buckets.objects(RUN)
  assert {'notes.txt', 'profile/x', 'tasks/.x/0'} <= set(found)
  assert not (work.root.parent / 'evil').exists()
  assert not (work.root / 'notes.txt').exists()


def test_a_bucket_of_other_things_is_refused():
  bucket.Bucket(RUN).write('photos/1.png', b'x')
  with pytest.raises(ValueError, match='neither a workdir nor empty: it holds '
                                       'photos') as said:
    new('a')
  assert f'{RUN}/run' in str(said.value)
  assert list(buckets.objects(RUN)) == ['photos/1.png']
  new('a', address=f'{RUN}/run')  # the remedy


# Which side wins.


def fail(what, path):
  if '/.lock/' not in path:
    raise OSError(f'no network for {what}')


def test_what_could_not_be_sent_is_said_and_sent_by_the_next_start():
  work = new('a')
  with pytest.raises(ValueError, match='no network for write') as said:
    with work.held():
      task(work, 'b')
      buckets.Recorded.fails = staticmethod(fail)
  assert str(work.root) in str(said.value)
  assert 'the same command on this machine' in str(said.value)
  buckets.Recorded.fails = staticmethod(lambda *_: None)
  assert 'tasks/b/0' not in buckets.objects(RUN)
  work.read()  # readers see it meanwhile
  assert work.task_names() == ['a', 'b']
  with work.held():
    pass
  assert 'tasks/b/0' in buckets.objects(RUN)


def test_the_first_send_of_all_may_fail_too():
  buckets.Recorded.fails = staticmethod(fail)
  with pytest.raises(ValueError, match='was not sent'):
    new('a')
  buckets.Recorded.fails = staticmethod(lambda *_: None)
  work = workdir_lib.Workdir(RUN)
  with work.held():
    assert work.task_names() == ['a']
  assert 'tasks/a/0' in buckets.objects(RUN)


def test_an_error_keeps_its_own_words_where_the_send_fails_too(caplog):
  with pytest.raises(FloatingPointError, match='NaN'):
    with workdir_lib.Workdir(RUN).held() as _:
      task(workdir_lib.Workdir(RUN), 'a')
      buckets.Recorded.fails = staticmethod(fail)
      raise FloatingPointError('NaN')
  assert 'was not sent' in caplog.text


def test_a_send_that_fails_once_is_tried_again():
  left = [1, 1]
  work = workdir_lib.Workdir(RUN)
  with work.held():
    task(work, 'a')
    buckets.Recorded.fails = staticmethod(
        lambda what, path: left and left.pop() and fail(what, path)
        if 'tasks' in path and len(left) == 2 else None)
  assert 'tasks/a/_CHECKPOINT_METADATA' in buckets.objects(RUN)


def test_tasks_of_a_machine_that_was_left_behind_are_kept_aside(
    monkeypatch, tmp_path, caplog):
  """It could not send; another one has written since."""
  work = new('a')
  with pytest.raises(ValueError), work.held():
    task(work, 'mine', value=7)
    buckets.Recorded.fails = staticmethod(fail)
  buckets.Recorded.fails = staticmethod(lambda *_: None)
  machine(monkeypatch, tmp_path / 'other')
  new('theirs')
  machine(monkeypatch, tmp_path / 'machine')
  again = workdir_lib.Workdir(RUN)
  with caplog.at_level(logging.WARNING), again.held():
    assert again.task_names() == ['a', 'theirs']
  kept, = again.root.parent.glob('aside/*/mine')
  assert 'mine' in caplog.text and str(kept.parent) in caplog.text
  assert checkpoint.load(kept)[0]['a'].tolist() == [7] * 5
  assert not [path for path in buckets.objects(RUN) if 'mine' in path]


def test_what_others_removed_is_no_surplus_of_a_reader(monkeypatch, tmp_path,
                                                       caplog):
  writer = new('a', 'b')
  reader = fetched(monkeypatch, tmp_path / 'reader')
  with writer.held():
    removal.remove_all(writer.tasks, 'b')
  reader.read()
  assert reader.task_names() == ['a'] and not caplog.text
  assert not (reader.root.parent / 'aside').exists()


@pytest.mark.parametrize('more', ['plan.json', 'format.json'])
def test_files_that_the_folder_lost_are_fetched_and_not_removed_there(more):
  """A cache is cleaned; what is missing there was not taken away."""
  work = new('a', 'b')
  shutil.rmtree(work.task('b'))
  (work.task('a') / '0').unlink()
  (work.root / more).unlink(missing_ok=True)
  with work.held():
    assert work.task_names() == ['a', 'b']
    checkpoint.load(work.task('a'))
  assert {'tasks/b/0', 'tasks/a/0', 'format.json'} <= set(buckets.objects(RUN))


def test_a_folder_that_vanishes_takes_nothing_with_it():
  work = new('a')
  before = buckets.objects(RUN)
  with pytest.raises(ValueError, match='is gone, so that nothing more is sent'):
    with work.held():
      shutil.rmtree(work.root)
  assert buckets.objects(RUN) == before
  with work.held():  # the remedy
    assert work.task_names() == ['a']


# Who may write.


def test_a_second_one_is_refused_by_the_name_of_the_holder(monkeypatch,
                                                           tmp_path):
  work = new('a')
  with work.held():
    with work.held(), work.locked():  # within itself
      pass
    with pytest.raises(bucket.Held, match=f'pid {os.getpid()}.*works in {RUN}'):
      new('b')  # on the same machine
    machine(monkeypatch, tmp_path / 'other')
    with pytest.raises(bucket.Held, match=f'pid {os.getpid()}.*works in {RUN}'):
      new('b')
    work.mirror._lock.renew()  # pylint: disable=protected-access
  new('b')
  assert 'tasks/b/0' in buckets.objects(RUN)


def test_a_reader_beside_a_run_on_the_same_machine_sees_its_folder():
  work = new('a')
  with work.held():
    task(work, 'b')
    reader = workdir_lib.Workdir(RUN)
    reader.read()
    assert reader.task_names() == ['a', 'b']
    assert work.task('b').exists()


def test_the_lock_of_a_dead_machine_is_taken_over(monkeypatch, tmp_path,
                                                  caplog):
  monkeypatch.setattr(bucket, 'STALE', 0.05)
  dead = bucket.Lock(bucket.Bucket(RUN), 'elsewhere')
  dead.take()
  time.sleep(0.1)
  work = new('a')
  assert 'shows no sign of life: it is taken over' in caplog.text
  with work.held(), pytest.raises(bucket.Held):
    dead.renew()
  assert dead.lost
  machine(monkeypatch, tmp_path / 'other')
  assert workdir_lib.Workdir(RUN).read() is None


def test_a_lock_that_is_renewed_is_not_old_whatever_its_clock(monkeypatch):
  monkeypatch.setattr(bucket, 'BEAT', 0.2)
  monkeypatch.setattr(bucket, 'STALE', -1.)  # every clock is behind
  alive, ended = bucket.Lock(bucket.Bucket(RUN), 'elsewhere'), threading.Event()
  alive.take()

  def beats():
    while not ended.wait(0.05):
      alive.renew()
  thread = threading.Thread(target=beats)
  thread.start()
  with pytest.raises(bucket.Held):
    new('a')
  ended.set()
  thread.join()
  assert not alive.lost


def test_a_killed_process_of_this_machine_is_not_waited_for(caplog):
  """Its lock is fresh, but no living process has the folder."""
  work = new('a')
  place = f'{work.mirror.identity()}@{os.uname().nodename}'
  bucket.Lock(work.mirror.bucket, place).take()
  with work.held():
    pass
  assert 'is taken over' in caplog.text


@pytest.mark.parametrize('count', [2, 8])
def test_of_many_that_take_over_at_once_one_does(monkeypatch, count):
  monkeypatch.setattr(bucket, 'STALE', 0.)
  bucket.Lock(bucket.Bucket(RUN), 'dead').take()
  time.sleep(0.01)
  monkeypatch.setattr(bucket, 'STALE', 60.)
  dead = bucket._parts  # pylint: disable=protected-access
  monkeypatch.setattr(bucket, '_parts', lambda text: (
      0., *dead(text)[1:]) if ' dead ' in text else dead(text))
  locks = [bucket.Lock(bucket.Bucket(RUN), str(i)) for i in range(count)]
  made, start = [], threading.Barrier(count)

  def take(lock):
    start.wait()
    with contextlib.suppress(bucket.Held):
      lock.take()
      made.append(lock)
  threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(made) <= 1
  for lock in made:
    lock.renew()
    lock.release()
  assert not buckets.Recorded.store
  bucket.Lock(bucket.Bucket(RUN), 'next').take()


def test_who_has_lost_the_lock_sends_nothing_more(monkeypatch):
  work = new('a')
  monkeypatch.setattr(bucket, 'BEAT', 100.)  # found by the send itself
  with pytest.raises(ValueError, match='has taken it over'):
    with work.held():
      task(work, 'b')
      work.mirror.bucket.write('.lock/000000099', b'9e9 token place thief, 1')
      with pytest.raises(bucket.Held, match='thief'):
        work.mirror._lock.renew()  # pylint: disable=protected-access
  assert 'tasks/b/0' not in buckets.objects(RUN)


def test_a_process_that_loses_the_lock_is_interrupted(monkeypatch):
  monkeypatch.setattr(bucket, 'BEAT', 0.05)
  work = new('a')
  with pytest.raises(ValueError, match='thief, 1. has taken over recorded'):
    with work.held():
      work.mirror.bucket.write('.lock/000000099', b'9e9 token place thief, 1')
      time.sleep(20)


@pytest.mark.parametrize('hours', [-2, 2])
def test_the_lock_of_a_dead_machine_with_a_wrong_clock(hours):
  lock = f'{time.time() + 3600 * hours:.3f} token place dead, pid 1'
  bucket.Bucket(RUN).write('.lock/000000007', lock.encode())
  new('a')
  assert not [path for path in buckets.Recorded.store if '.lock' in path]


def test_what_is_no_lock_is_taken_over_too():
  bucket.Bucket(RUN).write('.lock/000000007', b'?')
  new('a')


def test_another_process_s_copy_is_what_the_bucket_is(monkeypatch):
  """Even if the bucket was emptied: it has nothing to say."""
  new('a')
  copy = mirror.Mirror(RUN, '-1')
  copy.read()
  assert [path.name for path in (copy.root / 'tasks').iterdir()] == ['a']
  buckets.Recorded.clear()
  copy.read(required=False)
  assert not list((copy.root / 'tasks').iterdir())
  assert not (copy.root / 'format.json').exists()


def test_a_folder_that_was_emptied_takes_progress_from_the_bucket():
  work = new('a')
  with work.held():
    shutil.copytree(work.task('a'), work.progress / 'b.000000001')
  shutil.rmtree(work.root)
  with work.held():
    assert (work.progress / 'b.000000001').exists()


# What is said.


@pytest.mark.parametrize('address, error, said', [
    ('gx://b/run', ValueError, "fsspec knows no protocol 'gx'"),
    ('gs:/b/run', ValueError, 'is no address: write gs://BUCKET/RUN'),
    ('gs://', ValueError, 'is no address'),
    ('recorded://b/none', ValueError, 'there is no workdir at recorded://b/no'),
])
def test_addresses_that_are_none(address, error, said):
  with pytest.raises(error, match=said) as found:
    mtl_jax.load(address)
  assert '\n' not in str(found.value)
  assert not buckets.Recorded.store


def test_a_store_that_refuses_is_said_in_a_sentence():
  def denied(what, path):
    raise PermissionError(f'no right to {what}\nmore')
  buckets.Recorded.fails = staticmethod(denied)
  with pytest.raises(ValueError, match='cannot be used .no right to write.: '
                     'see that the bucket exists') as said:
    new('a')
  assert '\n' not in str(said.value) and not buckets.Recorded.store


def test_without_fsspec_the_remedy_is_said(monkeypatch):
  monkeypatch.setitem(sys.modules, 'fsspec', None)
  with pytest.raises(ImportError, match=r'pip install "mtl_jax\[remote\]"'):
    workdir_lib.Workdir('gs://b/run')


def test_the_package_of_a_protocol_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gcsfs', None)
  import fsspec  # pylint: disable=unused-import # noqa: F401
  monkeypatch.delitem(sys.modules['fsspec.registry']._registry, 'gs',
                      raising=False)
  with pytest.raises(ImportError, match=r'gcsfs.*pip install '
                                        r'"mtl_jax\[remote\]"'):
    workdir_lib.Workdir('gs://b/run')


# Growth.


def test_a_pass_without_news_costs_the_same_whatever_is_there(monkeypatch):
  """And one with news: as much as the news."""
  work = new(*(f't{i}' for i in range(60)))
  old = time.time() - 60
  for kind in (work.tasks, work.probe, work.shared, work.progress):
    os.utime(kind, (old, old))
  with work.held():
    work.mirror.push()
    calls = []
    stat = os.stat
    monkeypatch.setattr(os, 'stat', lambda *a, **k: (
        calls.append(a[0]), stat(*a, **k))[1])
    work.mirror.push()
    assert len([path for path in calls if 'tasks/' in str(path)]) == 0
    before = len(buckets.changes())
    task(work, 'new')
    work.mirror.push()
    assert len(buckets.changes()) - before == 3  # and the claim


def test_a_long_log_is_sent_less_often(monkeypatch):
  work = new('a')
  send = bucket.Bucket.write

  def write(self, path, data):
    time.sleep(0.05 if path == 'metrics.jsonl' else 0.)
    send(self, path, data)
  monkeypatch.setattr(bucket.Bucket, 'write', write)
  with work.held():
    began, count = time.monotonic(), 0
    while time.monotonic() - began < 1.:
      json_records.append_line(work.metrics, {'kind': 'x', 'n': count})
      work.mirror.push()
      count += 1
  sent = [what for what in buckets.changes()
          if what[1].endswith('metrics.jsonl')]
  assert 2 <= len(sent) <= 5 < count
  assert sent[-1][2] == work.metrics.read_bytes()


# Two processes, on a bucket that both see.


def test_two_processes_on_one_bucket(monkeypatch, tmp_path):
  address = f'file://{tmp_path}/bucket/run'
  code = ('import sys; from mtl_jax.storage import workdir\n'
          'with workdir.Workdir(sys.argv[1]).held(): pass')
  start = lambda: subprocess.run(
      [sys.executable, '-c', code, address], capture_output=True, text=True,
      check=False, env=tiny.environment(MTL_JAX_STAGING=str(tmp_path / 'two')))
  work = workdir_lib.Workdir(address)
  with work.held():
    task(work, 'a')
    other = start()
  assert other.returncode and f'pid {os.getpid()}) works in' in other.stderr
  assert not start().returncode
  assert buckets.visible(pathlib.Path(tmp_path, 'bucket/run')) == (
      buckets.visible(work.root))
