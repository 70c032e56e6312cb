"""One loaded system for many threads, and a workdir that others read."""

import concurrent.futures
import contextlib
import random
import subprocess
import sys
import threading

import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax.data import sources

IMAGES = sources.load('digits').test.images[:4]
MASKED = [f'permuted-{i:02d}' for i in range(12)]
COMBINED = ['permuted-12', 'permuted-13']


@contextlib.contextmanager
def hasty_threads():
  """Threads take turns a thousand times as often as they do."""
  before = sys.getswitchinterval()
  sys.setswitchinterval(1e-5)
  try:
    yield
  finally:
    sys.setswitchinterval(before)


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  return tiny.learned(tmp_path_factory.mktemp('threads') / 'run')


class Asking:
  """Calls of every kind, and what each of them must answer."""

  def __init__(self, folder):
    self.folder, self.alone = folder, mtl_jax.load(folder)
    self.outputs = {name: np.asarray(self.alone.predict(IMAGES, task=name))
                    for name in self.alone.tasks}
    self.choices = [MASKED[:2], MASKED[3:8], COMBINED, MASKED]
    self.shown = self.alone.observe(IMAGES, MASKED[0])
    self.found = [self.alone.identify(self.shown, 'one_shot', names=names)
                  for names in self.choices]

  def predict(self, system, rng):
    name = rng.choice(system.tasks)
    np.testing.assert_array_equal(system.predict(IMAGES, task=name),
                                  self.outputs[name])

  def mixed(self, system, rng):
    names = rng.choices(system.tasks, k=4)
    found = np.asarray(system.predict_mixed(IMAGES, names))
    for row, name in enumerate(names):
      np.testing.assert_allclose(found[row], self.outputs[name][row],
                                 rtol=1e-4, atol=1e-4)

  def identify(self, system, rng):
    choice = rng.randrange(len(self.choices))
    found = system.identify(self.shown, names=self.choices[choice])
    np.testing.assert_allclose(
        list(found.gradient.values()),
        list(self.found[choice].gradient.values()), rtol=1e-4, atol=1e-5)

  def load(self, system, rng):
    del system
    self.predict(mtl_jax.load(self.folder), rng)

  def anything(self, system, rng):
    kinds = [self.predict, self.mixed, self.identify]
    rng.choice(kinds * 30 + [self.load])(system, rng)

  def run(self, threads, calls, ask=None):
    """Many threads ask one fresh system; raises what any of them raises."""
    # So small that tasks come and go; what is used is never taken away.
    system = mtl_jax.load(self.folder, cache_bytes=300_000)
    gate = threading.Barrier(threads)

    def work(seed):
      rng = random.Random(seed)
      gate.wait()
      for _ in range(calls // threads):
        (ask or self.anything)(system, rng)
    with hasty_threads(), concurrent.futures.ThreadPoolExecutor(
        threads) as pool:
      list(pool.map(work, range(threads)))
    return system


@pytest.fixture(name='asking', scope='module')
def _asking(folder):
  return Asking(folder)


def test_eight_threads_fill_the_shelves_at_once(asking):
  for _ in range(3):
    system = asking.run(8, 16, asking.mixed)
    for name in system.tasks:  # and afterwards in one thread
      found = np.asarray(system.predict_mixed(IMAGES, [name] * 4))
      np.testing.assert_allclose(found, asking.outputs[name], rtol=1e-4,
                                 atol=1e-4)


@pytest.mark.slow
def test_sixteen_threads_and_ten_thousand_calls(asking):
  asking.run(16, 10_000)


def test_caches_that_are_cleared_meanwhile(asking):
  """`refresh` is what learn, merge, delete and rename end with."""
  def ask(system, rng):
    if rng.random() < .3:
      system.refresh()
    else:
      rng.choice([asking.mixed, asking.identify])(system, rng)
  asking.run(4, 120, ask)  # raises what any of them raises


def test_a_stack_in_use_is_never_donated(asking):
  system = mtl_jax.load(asking.folder)
  system.predict_mixed(IMAGES[:1], MASKED[:1])
  with system.shelves.lend(MASKED[:1], (8, 8, 1)) as lent:
    before = np.asarray(lent.parts[0].stack.classes).copy()
    system.predict_mixed(IMAGES[:2], MASKED[1:3])  # more on the same shelf
    assert not lent.parts[0].stack.classes.is_deleted()
    np.testing.assert_array_equal(lent.parts[0].stack.classes, before)
  shelf, = system.shelves.of_shape((8, 8, 1))
  assert len(shelf) == 3 and shelf.lent == 0
  kept = shelf.stack
  system.predict_mixed(IMAGES[:1], MASKED[4:5])
  assert kept.classes.is_deleted()  # nobody had it any more


_READER = """
import sys, pathlib
import numpy as np
import mtl_jax
from mtl_jax.data import sources
from mtl_jax.serving import verification
folder = pathlib.Path(sys.argv[1])
x = sources.load('digits').test.images[:4]
while not (folder / 'backbone.json').exists():
  pass
system, seen = mtl_jax.load(folder), {}
while len(seen) < 3:
  for name in system.tasks:
    found = np.asarray(system.predict(x, task=name))
    mixed = np.asarray(system.predict_mixed(x, [name] * 4))
    np.testing.assert_allclose(found, mixed, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found, seen.setdefault(name, found))
  result = verification.check(mtl_jax.load(folder))
  assert not result.faults, result.faults
print(*sorted(seen))
"""


@pytest.mark.slow
def test_two_processes_read_what_a_third_trains(tmp_path):
  run = tmp_path / 'run'
  readers = [subprocess.Popen(
      [sys.executable, '-c', _READER, str(run)], env=tiny.environment(),
      text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
             for _ in range(2)]
  done = tiny.call(tiny.command(run, config='tests/fixtures/tiny.py:few'))
  assert done.returncode == 0, done.stderr
  for reader in readers:
    out, err = reader.communicate(timeout=300)
    assert out.split() == ['permuted-00', 'permuted-01', 'permuted-12'], err


def test_a_task_that_comes_goes_or_is_exchanged_is_noticed(folder, tmp_path):
  copy = tmp_path / 'run'
  copy = tiny.shutil.copytree(folder, copy)
  system = mtl_jax.load(copy)
  before = system.predict(IMAGES, task='permuted-01')
  system.predict_mixed(IMAGES[:1], ['permuted-01'])
  assert len(system.tasks) == 15
  (copy / 'tasks/permuted-01').rename(tmp_path / 'away')
  with pytest.raises(ValueError, match="unknown task 'permuted-01'"):
    system.predict(IMAGES, task='permuted-01')
  (copy / 'tasks/permuted-01').symlink_to(tmp_path / 'away')
  assert len(system.tasks) == 15
  np.testing.assert_array_equal(before,
                                system.predict(IMAGES, task='permuted-01'))
  (copy / 'tasks/permuted-01').unlink()
  tiny.shutil.copytree(folder / 'tasks/permuted-02', copy / 'tasks/permuted-01')
  for ask in (lambda: system.predict(IMAGES, task='permuted-01'),
              lambda: system.predict_mixed(IMAGES[:1], ['permuted-01'])):
    with pytest.raises(ValueError, match="its name is 'permuted-02', not 'per"):
      ask()
