"""Kill it at any instant: the same command ends with the same bits.

Processes are killed at chosen file operations: the one that a child is about
to do when it dies is matched by its text, such as "os.rename tasks/a". With
a delay the kernel ends it that much later, in the middle of what follows.
"""

import random
import shutil
import signal
import subprocess
import sys
import typing

import numpy as np
import pytest
import tiny

from mtl_jax import experiment
from mtl_jax import registry
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import workdir as workdir_lib

# The audit hook stands before each operation; SIGALRM has no handler.
_CHILD = """
import os, re, runpy, signal, sys
pattern, nth, delay = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
folder, sys.argv[1:5] = sys.argv[4], []
left = nth
writes = os.O_WRONLY | os.O_RDWR
def watch(event, args):
  global left
  if event == 'open' and isinstance(args[2], int) and args[2] & writes:
    text = f'open {args[0]} {args[1]}'
  elif event in ('os.mkdir', 'os.rename', 'os.remove', 'os.rmdir'):
    text = f'{event} {args[0]}'
  else:
    return
  if re.search(pattern, text.replace(folder + '/', '')):
    left -= 1
    if left == 0 and delay:
      signal.setitimer(signal.ITIMER_REAL, delay)
    elif left == 0:
      os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
runpy.run_module('mtl_jax.main', run_name='__main__', alter_sys=True)
"""


class Kill(typing.NamedTuple):
  """Dies at the nth operation whose text the pattern finds, or later."""
  pattern: str
  nth: int = 1
  delay: float = 0.


# In the order of one run: every start dies at the next of these.
INSTANTS = (
    Kill(r'os.rename \.backbone\.json'),
    Kill(r'os.rename \.config\.json'),
    Kill(r'open metrics\.jsonl a'),  # before the line of the run
    Kill(r'os.mkdir progress/.*tmp$', 1, 0.002),
    Kill(r'os.rename progress/.*tmp$'),  # whole, without its name
    Kill(r'os.rename progress/.*tmp$', 2),
    Kill(r'os.rename progress/permuted-00\.0*2$'),  # the older one still there
    Kill(r'os.mkdir probe/.*tmp$', 1, 0.002),
    Kill(r'os.rename probe/.*tmp$'),
    Kill(r'os.mkdir tasks/.*tmp$', 1, 0.004),
    Kill(r'os.rename tasks/.*tmp$'),
    Kill(r'open metrics\.jsonl a', 2),  # between the commit and its line
    Kill(r'open metrics\.jsonl a'),  # the line that was missing is there
    Kill(r'os.rename \.metrics\.jsonl'),
    Kill(r'os.rmdir', 2),  # progress that is half removed
    Kill(r'os.rename progress/permuted-01\.'),
    Kill(r'os.mkdir shared/.*tmp$', 1, 0.002),
    Kill(r'os.rename shared/.*tmp$'),
    Kill(r'os.mkdir tasks/permuted-02\..*tmp$'),  # bookkeeping before its task
    Kill(r'os.rename shared/permuted-02$'),  # bookkeeping of two tasks
    Kill(r'os.rename tasks/.*tmp$', 3),  # two of the eight tasks at once
    Kill(r'os.mkdir tasks/.*tmp$', 2, 0.003),
    Kill(r'os.rename progress/permuted-12\.'),
    Kill(r'os.rename tasks/permuted-12@dedicated\..*tmp$'),
    Kill(r'os.rename \.report\.html'),
)


def start(folder, kill, config, warm):
  """Runs the command in a child that dies; its return code."""
  words = tiny.command(folder, config=config)
  child = [sys.executable, '-c', _CHILD, kill.pattern, str(kill.nth),
           str(kill.delay), str(folder), *words[3:]]
  return subprocess.run(child, env=warm, cwd=tiny.ROOT, check=False,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                        text=True)


def finish(folder, config, warm):
  words = tiny.command(folder, config=config)
  done = subprocess.run(words, env=warm, cwd=tiny.ROOT, check=False, text=True,
                        capture_output=True)
  assert done.returncode == 0, done.stderr


def check(folder, whole):
  """The run is complete and equals the uninterrupted one in `whole`."""
  assert tiny.bits(folder) == tiny.bits(whole)
  work = workdir_lib.Workdir(folder)
  assert list(work.progress.iterdir()) == []
  left = [path for path in folder.rglob('.*')
          if path.name not in ('.zarray', '.lock')]
  assert not left and not list(folder.rglob('*tmp*'))
  lines = [tiny.parse(line) for line in work.metrics.read_text().splitlines()]
  assert sorted(line['entry'] for line in lines
                if line['kind'] == 'task') == work.task_names()
  assert lines[-1]['kind'] == 'summary' and lines[-1]['verified']['ok']
  proof = tiny.verify(folder)
  assert proof.returncode == 0, proof.stdout + proof.stderr


@pytest.fixture(name='warm', scope='module')
def _warm(tmp_path_factory):
  """Environments that write and that only read one cache of executables."""
  cache = dict(JAX_COMPILATION_CACHE_DIR=str(tmp_path_factory.mktemp('cache')),
               JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES='-1')
  return [tiny.environment(JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=seconds,
                           **cache) for seconds in ('0', '1000')]


def kill_all(tmp_path, kills, config, warm):
  """Kills one start after another; returns how many of them died."""
  folder, died, before = tmp_path / 'killed', 0, {}
  for kill in kills:
    done = start(folder, kill, config, warm)
    assert done.returncode in (0, -signal.SIGKILL, -signal.SIGALRM), done.stdout
    assert 'Traceback' not in done.stdout
    died += done.returncode != 0
    for name, hashes in before.items():
      assert tiny.bits(folder)[name] == hashes  # nothing finished is touched
    before = tiny.bits(folder)
  return folder, died


def test_three_kills_end_with_the_same_bits(tmp_path, warm):
  config = 'tests/fixtures/tiny.py:few'
  finish(tmp_path / 'whole', config, warm[0])
  kills = (Kill(r'os.rename progress/.*tmp$', 2),
           Kill(r'open metrics\.jsonl a', 2),
           Kill(r'os.mkdir tasks/.*tmp$', 1, 0.003))
  folder, died = kill_all(tmp_path, kills, config, warm[1])
  assert died == 3
  finish(folder, config, warm[1])
  check(folder, tmp_path / 'whole')


@pytest.fixture(name='whole', scope='module')
def _whole(tmp_path_factory, warm):
  folder = tmp_path_factory.mktemp('whole') / 'run'
  finish(folder, 'tests/fixtures/tiny.py', warm[0])
  return folder


@pytest.mark.slow
def test_chosen_kills_end_with_the_same_bits(tmp_path, warm, whole):
  config = 'tests/fixtures/tiny.py'
  folder, died = kill_all(tmp_path, INSTANTS, config, warm[1])
  assert died == len(INSTANTS) >= 20
  finish(folder, config, warm[1])
  check(folder, whole)


@pytest.mark.slow
def test_random_kills_end_with_the_same_bits(tmp_path, warm, whole):
  config, draw = 'tests/fixtures/tiny.py', random.Random(1)
  kills = [Kill('.', draw.randint(10, 150), draw.choice([0., 0.01, 0.03]))
           for _ in range(5)]
  folder, died = kill_all(tmp_path, kills, config, warm[1])
  assert died >= 3
  finish(folder, config, warm[1])
  check(folder, whole)


def learn(config, folder, stop_after=np.inf):
  """Stops after so many task-steps; returns those that were made."""
  return tiny.train_alone(
      config, folder,
      lambda seen: sum(count for _, count in seen) >= stop_after)[1]


@pytest.mark.parametrize('kind, phases, stops', [
    ('lenet', ('basis',), [(4, 2), (10, 2)]),  # in the first and second task
    *(pytest.param('lenet', *rest, marks=pytest.mark.slow) for rest in (
        (('transfer',), [(6, 4), (10, 2)]), (('many',), [(32, 16), (48, 32)]),
        (('basis', 'impress'), [(18, 4)]))),
    ('norm', ('basis',), [(4, 2), (10, 2)])])  # batch statistics
def test_saved_progress_ends_with_the_same_bits(tmp_path, kind, phases, stops):
  config = tiny.only(*phases, kind=kind)
  learn(config, tmp_path / 'whole')
  for steps, saved in stops:
    folder = tmp_path / f'{steps}'
    with pytest.raises(tiny.Stopped):
      learn(config, folder, steps)
    kept, = (folder / 'progress').iterdir()
    counted = learn(config, folder)
    # It went on from the saved step and trained only what was left.
    assert (kept.name.split('.')[0], saved) in counted
    assert sum(count for _, count in counted) == tiny.steps(config)
    assert tiny.bits(folder) == tiny.bits(tmp_path / 'whole')
    assert list((folder / 'progress').iterdir()) == []


def test_progress_is_saved_every_so_many_seconds(tmp_path):
  config = tiny.only('basis', progress_seconds=1000.)
  with pytest.raises(tiny.Stopped):
    learn(config, tmp_path / 'run', stop_after=6)
  assert list((tmp_path / 'run/progress').iterdir()) == []


def test_killed_between_two_commits_of_a_group(tmp_path, monkeypatch):
  config = tiny.only('many')
  learn(config, tmp_path / 'whole')
  save, left = checkpoint.save, 3

  def stop(path, arrays, metadata):
    nonlocal left
    if path.parent.name == 'tasks':
      left -= 1
      if left < 0:
        raise tiny.Stopped
    save(path, arrays, metadata)
  monkeypatch.setattr(checkpoint, 'save', stop)
  with pytest.raises(tiny.Stopped):
    learn(config, tmp_path / 'run')
  monkeypatch.undo()
  before = tiny.bits(tmp_path / 'run')
  assert len(before) == 3
  learn(config, tmp_path / 'run')
  assert tiny.bits(tmp_path / 'run') == tiny.bits(tmp_path / 'whole')


def test_a_removed_task_is_trained_again(tmp_path):
  config = tiny.only('basis')
  learn(config, tmp_path / 'run')
  before = tiny.bits(tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run/tasks/permuted-00')
  learn(config, tmp_path / 'run')
  assert tiny.bits(tmp_path / 'run') == before
  entries = [line['entry'] for line in json_records.read_lines(
      tmp_path / 'run/metrics.jsonl') if line['kind'] == 'task']
  assert sorted(entries) == ['permuted-00', 'permuted-01']


@pytest.mark.parametrize('removed', ['permuted-03', 'permuted-02'])
def test_lost_bookkeeping_is_never_made_up(tmp_path, removed):
  config = tiny.only('transfer')
  learn(config, tmp_path / 'run')
  bookkeeping = tiny.files(tmp_path / 'run/shared')
  kept = ({'permuted-02', 'permuted-03'} - {removed}).pop()
  before = tiny.bits(tmp_path / 'run')
  shutil.rmtree(tmp_path / 'run/tasks' / removed)
  try:
    learn(config, tmp_path / 'run')
  except checkpoint.CheckpointError as error:
    assert f'after task {kept}' in str(error) and 'is gone' in str(error)
    assert list(tiny.bits(tmp_path / 'run')) == [kept]
  else:
    assert tiny.bits(tmp_path / 'run') == before
  # What the next task would start from is still there.
  assert bookkeeping.items() <= tiny.files(tmp_path / 'run/shared').items()


@pytest.mark.slow
def test_remade_first_task_leaves_the_mean_alone(tmp_path):
  config = tiny.only('transfer', phases__transfer__tasks=(2, 5))
  learn(config, tmp_path / 'whole')
  with pytest.raises(tiny.Stopped):
    learn(config, tmp_path / 'run', 14)  # in the third
  shutil.rmtree(tmp_path / 'run/tasks/permuted-02')
  learn(config, tmp_path / 'run')
  assert tiny.bits(tmp_path / 'run') == tiny.bits(tmp_path / 'whole')


def test_transfer_of_many_at_once_is_refused():
  with pytest.raises(ValueError, match='transfer: transfer starts'):
    tiny.check(tiny.only('transfer', phases__transfer__tasks_at_once=8))


def test_progress_of_a_longer_name_is_not_taken(tmp_path):
  config = tiny.only('basis')
  learn(config, tmp_path / 'whole')
  with pytest.raises(tiny.Stopped):
    learn(config, tmp_path / 'run', 10)  # in permuted-01
  kept, = (tmp_path / 'run/progress').iterdir()
  kept.rename(kept.with_name('permuted-00.v2.000000002'))
  shutil.rmtree(tmp_path / 'run/tasks/permuted-00')
  learn(config, tmp_path / 'run')
  assert tiny.bits(tmp_path / 'run') == tiny.bits(tmp_path / 'whole')


def test_progress_of_another_state_is_refused(tmp_path):
  config = tiny.only('basis')
  with pytest.raises(tiny.Stopped):
    learn(config, tmp_path / 'run', stop_after=4)
  kept, = (tmp_path / 'run/progress').iterdir()

  def shorten(arrays):
    arrays['state/trainable/Dense_2/kernel'] = np.zeros((3, 3), np.float32)
  tiny.rewrite(kept, shorten, {'step': 2, 'seconds': 0.})
  with pytest.raises(checkpoint.CheckpointError,
                     match=r'state/trainable/Dense_2/kernel is float32\(3, 3'):
    learn(config, tmp_path / 'run')


def test_damaged_progress_is_made_again(tmp_path):
  config = tiny.only('basis')
  learn(config, tmp_path / 'whole')
  with pytest.raises(tiny.Stopped):
    learn(config, tmp_path / 'run', stop_after=4)
  kept, = (tmp_path / 'run/progress').iterdir()
  tiny.rewrite(kept, lambda a: a.update({'state/step': np.array(3, np.int32)}))
  learn(config, tmp_path / 'run')
  assert tiny.bits(tmp_path / 'run') == tiny.bits(tmp_path / 'whole')


METHOD = (tiny.ROOT / 'examples/lora.py').read_text()
MODEL = """
from mtl_jax import models
from mtl_jax.models import mlp
models.register('own', lambda outputs: models.from_linen(
    lambda **_: mlp.MLP((16, outputs))))
"""


@pytest.mark.parametrize('what, content, changes', [
    ('method', METHOD, dict(method='lora')), ('model', MODEL, {})])
def test_progress_of_another_version_of_the_users_file_is_refused(
    tmp_path, what, content, changes):
  file, folder = tmp_path / 'own.py', tmp_path / 'run'
  model = 'own' if what == 'model' else 'lenet_300_100'

  def start(text, after_chunk=lambda: None):
    file.write_text(text)
    registry.load_plugins(file)
    config = tiny.only('basis', kind='few', backbone__model=model,
                       phases__basis__tasks=(0, 1), **{
                           f'phases__basis__{k}': v
                           for k, v in changes.items()})
    return experiment.run(config, folder, quiet=True, after_chunk=after_chunk)

  seen = []

  def stop():
    seen.append(1)
    if len(seen) == 3:  # after the first save
      raise tiny.Stopped
  with pytest.raises(tiny.Stopped):
    start(content, stop)
  left, = (folder / 'progress').iterdir()
  with pytest.raises(ValueError, match=(
      rf'{left.name} was trained with another {what}: own.py \(SHA-256 \w+\) '
      r'now defines what own.py \(SHA-256 \w+\) defined then. Bring that file '
      'back, or remove .*progress/permuted-00')):
    start(content + '# changed')
  shutil.copytree(folder, tmp_path / 'kept')
  assert start(content)['verified']['ok']  # the first remedy
  shutil.rmtree(folder)
  shutil.copytree(tmp_path / 'kept', folder)
  shutil.rmtree(left)
  assert start(content + '# changed')['verified']['ok']  # the second
