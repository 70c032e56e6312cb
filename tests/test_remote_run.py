"""Runs whose workdir lies in a bucket: any machine goes on, to the same bits.
"""

import contextlib
import functools
import shutil
import signal
import socket
import subprocess
import threading
import time

import buckets
import numpy as np
import pytest
import tiny
import tiny_subnetworks

import mtl_jax
from mtl_jax import commands
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
  buckets.Recorded.clear()
  monkeypatch.setenv('MTL_JAX_STAGING', str(tmp_path / 'machine'))
  monkeypatch.setattr(mirror, 'WAITS', (0.,))
  yield
  buckets.Recorded.clear()


@contextlib.contextmanager
def sent_at_once():
  """Whatever is written or removed is sent before the next step."""
  with buckets.found() as made, pytest.MonkeyPatch.context() as patch:
    def then_sent(do):
      @functools.wraps(do)
      def done(*args, **kwargs):
        result = do(*args, **kwargs)
        # Not by the thread that notes the time, which would die of an error.
        if threading.current_thread() is threading.main_thread() and (
            made[-1] and made[-1]._lock):  # pylint: disable=protected-access
          made[-1].push()
        return result
      return done
    for module, name in ((checkpoint, 'save_all'), (removal, 'remove'),
                         (json_records, 'append_lines'),
                         (json_records, 'write_atomic')):
      patch.setattr(module, name, then_sent(getattr(module, name)))
    patch.setattr(mirror, 'EVERY', 1e6)  # no other send
    patch.setattr(bucket, 'BEAT', 1e6)
    patch.setattr(staging, 'WORKERS', 1)  # in an order
    yield


@functools.lru_cache(maxsize=None)
def recorded(kind):
  """All changes of a bucket that a run makes, and the bits of its tasks."""
  config = configured(kind)
  with sent_at_once(), buckets.found() as made:
    tiny.learn(config, RUN)
  return tuple(buckets.Recorded.changes), tiny.bits(made[-1].root)


def configured(kind):
  if kind == 'subnetworks':  # which keeps books beside its tasks
    config = tiny_subnetworks.get_config(net={})
    config.progress_seconds = 0.
    return tiny_subnetworks.make(config)
  return tiny.make(kind)


def goes_on(changes, kind, monkeypatch, folder):
  """A new machine goes on from a bucket with these changes; its bits."""
  buckets.replayed(changes)
  monkeypatch.setenv('MTL_JAX_STAGING', str(folder))
  monkeypatch.setattr(bucket, 'STALE', 0.)
  monkeypatch.setattr(bucket, 'BEAT', 0.001)
  summary = tiny.learn(configured(kind), RUN)
  assert summary['verified']['ok']
  work = workdir_lib.Workdir(RUN)
  assert buckets.objects(RUN) == buckets.visible(work.root)
  assert not list(work.progress.iterdir()) and not work.start.exists()
  lines = list(json_records.read_lines(work.metrics))
  entries = [line['entry'] for line in lines if line['kind'] == 'task']
  assert sorted(entries) == work.task_names()
  assert not [path for path in buckets.Recorded.store if '.lock' in path]
  return tiny.bits(work.root)


def killed_at(kind, counts, monkeypatch, tmp_path):
  changes, bits = recorded(kind)
  for count in counts(len(changes)):
    found = goes_on(changes[:count], kind, monkeypatch, tmp_path / str(count))
    assert found == bits, f'after {count} changes, the last {changes[count-1]}'
    shutil.rmtree(tmp_path / str(count))


def test_a_machine_that_dies_between_two_changes(monkeypatch, tmp_path):
  killed_at('norm', lambda n: range(4, n, n // 5), monkeypatch, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('part', range(4))
def test_a_machine_that_dies_between_any_two_changes(part, monkeypatch,
                                                     tmp_path):
  killed_at('norm', lambda n: range(part, n + 1, 4), monkeypatch, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('part', range(4))
def test_bookkeeping_that_dies_between_any_two_changes(part, monkeypatch,
                                                       tmp_path):
  killed_at('subnetworks', lambda n: range(part, n + 1, 4), monkeypatch,
            tmp_path)


@pytest.mark.parametrize('changes', [20, *(
    pytest.param(n, marks=pytest.mark.slow) for n in range(3, 46, 3))])
def test_a_store_that_dies_leaves_an_error_and_the_same_folder_goes_on(changes):
  """As does a process that is killed on a machine that lives."""
  with sent_at_once():
    count = [0]

    def dies(what, path):
      count[0] += 1
      if count[0] > changes:
        raise OSError(f'cannot {what}')
    buckets.Recorded.fails = staticmethod(dies)
    with pytest.raises((OSError, ValueError), match='cannot'):
      tiny.learn(tiny.make('norm'), RUN)
  buckets.Recorded.fails = staticmethod(lambda *_: None)
  assert tiny.learn(tiny.make('norm'), RUN)['verified']['ok']
  root = workdir_lib.Workdir(RUN).root
  assert buckets.objects(RUN) == buckets.visible(root)
  assert tiny.bits(root) == recorded('norm')[1]


def test_what_was_not_sent_ends_the_command_with_an_error(
    monkeypatch, capsys):
  words = ['run', f'--config={tiny.ROOT}/tests/fixtures/tiny.py:norm',
           f'--workdir={RUN}', '--quiet']

  def unreachable(what, path):
    if '/tasks/' in path:
      raise OSError('the network is gone')
  buckets.Recorded.fails = staticmethod(unreachable)
  assert commands.main(words) == 1
  err = capsys.readouterr().err
  assert 'error: what has changed last was not sent to' in err
  assert 'the network is gone' in err and 'the same command on this' in err
  buckets.Recorded.fails = staticmethod(lambda *_: None)
  assert commands.main(words) == 0  # the remedy
  assert 'tasks/permuted-02/0' in buckets.objects(RUN)


def test_what_is_refused_changes_nothing_there(capsys):
  words = ['run', f'--config={tiny.ROOT}/tests/fixtures/tiny.py:norm',
           f'--workdir={RUN}', '--quiet']
  assert commands.main([*words, '--config.phases.basis.tasks=(0, 9)']) == 1
  assert not buckets.Recorded.store
  assert commands.main(words) == 0
  before = buckets.objects(RUN)
  assert commands.main([*words, '--config.seed=7']) == 1
  assert 'seed' in capsys.readouterr().err
  assert buckets.objects(RUN) == before


@pytest.fixture(name='run')
def _run():
  """A finished run in the bucket, made elsewhere."""
  changes, _ = recorded('norm')
  buckets.replayed(changes)
  return RUN


def test_readers_fetch_it(run, tmp_path, capsys):
  np.savez(tmp_path / 'x.npz', images=tiny.blobs().test.images[:3])
  for words in (['verify'], ['inspect'], ['report'],
                ['predict', str(tmp_path / 'x.npz'), '--task=permuted-01'],
                ['export', '--task=permuted-01',
                 f'--output={tmp_path}/x.safetensors']):
    assert commands.main([*words, f'--workdir={run}']) == 0, words
  out, err = capsys.readouterr()
  assert '3 tasks verified' in out and 'permuted-02' in out
  assert (tmp_path / 'x.safetensors').exists() and err == ''
  lone = tmp_path / 'x.safetensors'
  assert mtl_jax.load(lone).tasks == ['permuted-01']


def test_edits_lock_and_send(run, tmp_path, monkeypatch):
  system = mtl_jax.load(run)
  before = buckets.objects(run)
  system.rename('permuted-01', 'second')
  system.delete('permuted-02')
  system.merge(['permuted-00', 'second'], name='both', how='union')
  system.export('second', tmp_path / 'x.safetensors')
  mtl_jax.import_task(run, tmp_path / 'x.safetensors', name='third')
  images = tiny.blobs()
  system.learn((images.train.images, images.train.labels), name='own',
               method='supsup', steps=4, batch_size=16)
  monkeypatch.setenv('MTL_JAX_STAGING', str(tmp_path / 'other'))
  other = mtl_jax.load(run)
  assert other.tasks == ['both', 'own', 'permuted-00', 'second', 'third']
  for name in ('tasks/permuted-00/0', 'probe/blobs/0', 'backbone.json'):
    assert buckets.objects(run)[name] == before[name]
  assert commands.main(['verify', f'--workdir={run}']) == 0
  with workdir_lib.Workdir(run).held():
    with pytest.raises(bucket.Held, match='works in recorded://b/run'):
      system.delete('own')


def test_a_task_that_a_call_learns_is_known_as_this_call_s(
    run, tmp_path, monkeypatch):
  """On a new machine, too, whenever the first one dies."""
  images = tiny.blobs()
  learn = lambda: mtl_jax.load(run).learn(
      (images.train.images, images.train.labels), name='own', steps=4,
      method='supsup', batch_size=16)
  first = len(buckets.Recorded.changes)
  base = tuple(buckets.Recorded.changes)
  with sent_at_once():
    learn()
  changes = [*base, *buckets.Recorded.changes[first:]]
  bits = tiny.bits(workdir_lib.Workdir(run).root)
  monkeypatch.setattr(bucket, 'STALE', 0.)
  monkeypatch.setattr(bucket, 'BEAT', 0.001)
  for count in range(first + 1, len(changes), 3):
    buckets.replayed(changes[:count])
    monkeypatch.setenv('MTL_JAX_STAGING', str(tmp_path / str(count)))
    learn()
    assert tiny.bits(workdir_lib.Workdir(run).root) == bits, changes[count - 1]


@pytest.mark.slow
@pytest.mark.parametrize('number, code', [(signal.SIGKILL, -9),
                                          (signal.SIGTERM, 143)])
def test_a_process_that_is_ended_and_another_machine(tmp_path, number, code):
  """The real command with its threads, on a folder that stands for a bucket."""
  address = f'file://{tmp_path}/bucket/run'
  words = [*tiny.command(address), '--quiet']
  env = tiny.environment(MTL_JAX_STAGING=str(tmp_path / 'one'))
  with subprocess.Popen(words, env=env, cwd=tiny.ROOT, text=True,
                        stderr=subprocess.PIPE) as child:
    tasks = tmp_path / 'bucket/run/tasks'
    until = time.monotonic() + 120
    while not (tasks.exists() and list(tasks.iterdir())):
      assert child.poll() is None and time.monotonic() < until
      time.sleep(0.05)
    child.send_signal(number)
    said = child.communicate(timeout=120)[1]
  assert child.returncode == code, said
  held = list((tmp_path / 'bucket/run/.lock').glob('*'))
  assert bool(held) == (number == signal.SIGKILL)
  for lock in held:  # it is old by now
    when, rest = lock.read_text().split(' ', 1)
    lock.write_text(f'{float(when) - 100} {rest}')
  done = tiny.call(words, MTL_JAX_STAGING=str(tmp_path / 'two'))
  assert done.returncode == 0, done.stderr
  assert ('is taken over' in done.stderr) == bool(held)
  done = tiny.call(tiny.command(tmp_path / 'whole', '--quiet'))
  assert done.returncode == 0, done.stderr
  assert tiny.bits(tmp_path / 'bucket/run') == tiny.bits(tmp_path / 'whole')


@pytest.fixture(name='emulator')
def _emulator(monkeypatch):
  """A bucket `emulated` of a server on loopback, for gcsfs.

  The server takes no notice of `ifGenerationMatch`: an exclusive creation
  overwrites, and the lock is then whose token stands there.
  """
  pytest.importorskip('gcsfs', reason='needs pip install "mtl_jax[remote]"')
  servers = pytest.importorskip('gcp_storage_emulator.server')
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  monkeypatch.setenv('STORAGE_EMULATOR_HOST', f'http://localhost:{port}')
  server = servers.create_server('localhost', port, in_memory=True,
                                 default_bucket='emulated')
  server.start()
  import gcsfs
  gcsfs.GCSFileSystem.clear_instance_cache()
  yield
  gcsfs.GCSFileSystem.clear_instance_cache()
  server.stop()


@pytest.mark.usefixtures('emulator')
def test_google_cloud_storage(monkeypatch, tmp_path, caplog):
  address = 'gs://emulated/runs/one'
  tiny.learn(tiny.make('norm'), address)
  first = workdir_lib.Workdir(address)
  assert buckets.objects(address) == buckets.visible(first.root)
  monkeypatch.setenv('MTL_JAX_STAGING', str(tmp_path / 'other'))
  system = mtl_jax.load(address)
  assert tiny.bits(system.workdir.root) == recorded('norm')[1]
  system.delete('permuted-02')
  assert 'tasks/permuted-02/0' not in buckets.objects(address)
  read = []
  store = bucket.Bucket.read
  monkeypatch.setattr(bucket.Bucket, 'read', lambda self, path: (
      read.append(path), store(self, path))[1])
  assert mtl_jax.load(address).tasks == ['permuted-00', 'permuted-01']
  assert not [path for path in read if '/' in path]  # its listing has MD5
  buckets.assert_others_are_refused(
      monkeypatch, tmp_path / 'third', system.workdir,
      lambda where: tiny.learn(tiny.make('norm'), where), 'gs://missing/run')


@pytest.mark.usefixtures('emulator')
def test_what_the_emulator_does_not_do():
  """Should it heed preconditions one day, the test above means more."""
  store = bucket.Bucket('gs://emulated/x')
  store.create('a', b'1')
  store.create('a', b'2')  # Google's own answers 412: FileExistsError
  assert store.read('a') == b'2'
