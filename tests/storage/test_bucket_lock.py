"""Who may write to a bucket, one at a time."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import buckets
import pytest
import tiny

from mtl_jax.storage import bucket
from mtl_jax.storage import mirror
from mtl_jax.storage import workdir as workdir_lib


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
  with buckets.quick(monkeypatch, tmp_path / 'machine'):
    yield


# Who may write.


def test_a_second_one_is_refused_by_the_name_of_the_holder(monkeypatch,
                                                           tmp_path):
  work = buckets.new('a')
  with work.held():
    with work.held(), work.locked():  # within itself
      pass
    with pytest.raises(bucket.Held, match=(
        f'pid {os.getpid()}.*works in {buckets.RUN}')):
      buckets.new('b')  # on the same machine
    buckets.machine(monkeypatch, tmp_path / 'other')
    with pytest.raises(bucket.Held, match=(
        f'pid {os.getpid()}.*works in {buckets.RUN}')):
      buckets.new('b')
    work.mirror._lock.renew()  # pylint: disable=protected-access
  buckets.new('b')
  assert 'tasks/b/0' in buckets.objects(buckets.RUN)


def test_a_reader_beside_a_run_on_the_same_machine_sees_its_folder():
  work = buckets.new('a')
  with work.held():
    buckets.task(work, 'b')
    reader = workdir_lib.Workdir(buckets.RUN)
    reader.read()
    assert reader.task_names() == ['a', 'b']
    assert work.task('b').exists()


def test_the_lock_of_a_dead_machine_is_taken_over(monkeypatch, tmp_path,
                                                  caplog):
  monkeypatch.setattr(bucket, 'STALE', 0.05)
  dead = bucket.Lock(bucket.Bucket(buckets.RUN), 'elsewhere')
  dead.take()
  time.sleep(0.1)
  work = buckets.new('a')
  assert 'shows no sign of life: it is taken over' in caplog.text
  with work.held(), pytest.raises(bucket.Held):
    dead.renew()
  assert dead.lost
  buckets.machine(monkeypatch, tmp_path / 'other')
  assert workdir_lib.Workdir(buckets.RUN).read() is None


def test_a_lock_that_is_renewed_is_not_old_whatever_its_clock(monkeypatch):
  monkeypatch.setattr(bucket, 'BEAT', 0.2)
  monkeypatch.setattr(bucket, 'STALE', -1.)  # every clock is behind
  alive, ended = bucket.Lock(
      bucket.Bucket(buckets.RUN), 'elsewhere'), threading.Event()
  alive.take()

  def beats():
    while not ended.wait(0.05):
      alive.renew()
  thread = threading.Thread(target=beats)
  thread.start()
  with pytest.raises(bucket.Held):
    buckets.new('a')
  ended.set()
  thread.join()
  assert not alive.lost


def test_a_killed_process_of_this_machine_is_not_waited_for(caplog):
  """Its lock is fresh, but no living process has the folder."""
  work = buckets.new('a')
  place = f'{work.mirror.identity()}@{os.uname().nodename}'
  bucket.Lock(work.mirror.bucket, place).take()
  with work.held():
    pass
  assert 'is taken over' in caplog.text


@pytest.mark.parametrize('count', [2, 8])
def test_of_many_that_take_over_at_once_one_does(monkeypatch, count):
  monkeypatch.setattr(bucket, 'STALE', 0.)
  bucket.Lock(bucket.Bucket(buckets.RUN), 'dead').take()
  time.sleep(0.01)
  monkeypatch.setattr(bucket, 'STALE', 60.)
  dead = bucket._parts  # pylint: disable=protected-access
  monkeypatch.setattr(bucket, '_parts', lambda text: (
      0., *dead(text)[1:]) if ' dead ' in text else dead(text))
  locks = [bucket.Lock(bucket.Bucket(buckets.RUN), str(i))
           for i in range(count)]
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
  bucket.Lock(bucket.Bucket(buckets.RUN), 'next').take()


def test_who_has_lost_the_lock_sends_nothing_more(monkeypatch):
  work = buckets.new('a')
  monkeypatch.setattr(bucket, 'BEAT', 100.)  # found by the send itself
  with pytest.raises(ValueError, match='has taken it over'):
    with work.held():
      buckets.task(work, 'b')
      work.mirror.bucket.write('.lock/000000099', b'9e9 token place thief, 1')
      with pytest.raises(bucket.Held, match='thief'):
        work.mirror._lock.renew()  # pylint: disable=protected-access
  assert 'tasks/b/0' not in buckets.objects(buckets.RUN)


@pytest.mark.parametrize('ignored', [False, True])
def test_a_process_that_loses_the_lock_is_interrupted(monkeypatch, ignored):
  """Also one that ignores SIGINT, as a script's background jobs do."""
  handler = signal.SIG_IGN if ignored else signal.default_int_handler
  before = signal.signal(signal.SIGINT, handler)
  monkeypatch.setattr(bucket, 'BEAT', 0.05)
  try:
    work = buckets.new('a')
    others = signal.getsignal(signal.SIGUSR2)
    with pytest.raises(ValueError, match='thief, 1. has taken over recorded'):
      with work.held():
        work.mirror.bucket.write('.lock/000000099', b'9e9 token place thief, 1')
        for _ in range(400):
          time.sleep(0.05)
    assert signal.getsignal(signal.SIGINT) == handler
    assert signal.getsignal(signal.SIGUSR2) == others
  finally:
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize('hours', [-2, 2])
def test_the_lock_of_a_dead_machine_with_a_wrong_clock(hours):
  lock = f'{time.time() + 3600 * hours:.3f} token place dead, pid 1'
  bucket.Bucket(buckets.RUN).write('.lock/000000007', lock.encode())
  buckets.new('a')
  assert not [path for path in buckets.Recorded.store if '.lock' in path]


def test_what_is_no_lock_is_taken_over_too():
  bucket.Bucket(buckets.RUN).write('.lock/000000007', b'?')
  buckets.new('a')


def test_another_process_s_copy_is_what_the_bucket_is(monkeypatch):
  """Even if the bucket was emptied: it has nothing to say."""
  buckets.new('a')
  copy = mirror.Mirror(buckets.RUN, '-1')
  copy.read()
  assert [path.name for path in (copy.root / 'tasks').iterdir()] == ['a']
  buckets.Recorded.clear()
  copy.read(required=False)
  assert not list((copy.root / 'tasks').iterdir())
  assert not (copy.root / 'format.json').exists()


def test_a_folder_that_was_emptied_takes_progress_from_the_bucket():
  work = buckets.new('a')
  with work.held():
    shutil.copytree(work.task('a'), work.progress / 'b.000000001')
  shutil.rmtree(work.root)
  with work.held():
    assert (work.progress / 'b.000000001').exists()


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
    buckets.task(work, 'a')
    other = start()
  assert other.returncode and f'pid {os.getpid()}) works in' in other.stderr
  assert not start().returncode
  assert buckets.visible(pathlib.Path(tmp_path, 'bucket/run')) == (
      buckets.visible(work.root))
