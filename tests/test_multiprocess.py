"""Two processes on loopback share one workdir, through the real command."""

import shutil
import socket
import subprocess

import numpy as np
import pytest
import tiny

from mtl_jax.storage import checkpoint
from mtl_jax.storage import workdir as workdir_lib

pytestmark = pytest.mark.slow


def together(folder, *flags, processes=2, timeout=500):
  """Runs the command in processes that find each other; their outputs."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  started = [subprocess.Popen(
      tiny.command(folder, *flags, f'--coordinator=localhost:{port}',
                   f'--num_processes={processes}', f'--process_id={i}'),
      env=tiny.environment(), cwd=tiny.ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
      for i in range(processes)]
  try:
    said = [p.communicate(timeout=timeout)[0] for p in started]
  finally:
    for process in started:
      process.kill()
  return [p.returncode for p in started], said


@pytest.fixture(name='runs', scope='module')
def _runs(tmp_path_factory):
  """(by one process, by two, what the two said)."""
  folder = tmp_path_factory.mktemp('processes')
  done = tiny.call(tiny.command(folder / 'one'))
  assert done.returncode == 0, done.stderr
  codes, said = together(folder / 'two')
  assert codes == [0, 0], '\n'.join(said)
  return folder / 'one', folder / 'two', said


def test_both_finish_and_one_reports(runs):
  _, two, said = runs
  assert 'Traceback' not in said[0] + said[1]
  assert 'Average accuracy' in said[0] and 'Average accuracy' not in said[1]
  work = workdir_lib.Workdir(two)
  lines = [tiny.parse(line) for line in work.metrics.read_text().splitlines()]
  entries = [line['entry'] for line in lines if line['kind'] == 'task']
  assert sorted(entries) == work.task_names() and len(entries) == 15
  run, = [line for line in lines if line['kind'] == 'run']
  assert run['hardware']['processes'] == run['hardware']['count'] == 2
  assert lines[-1]['verified']['ok']
  assert list(work.progress.iterdir()) == []


def test_results_equal_those_of_one_process(runs):
  one, two = (workdir_lib.Workdir(folder) for folder in runs[:2])
  assert one.task_names() == two.task_names()
  for name in one.task_names():
    alone, first = checkpoint.load(one.task(name))
    together_, second = checkpoint.load(two.task(name))
    assert sorted(alone) == sorted(together_)
    for leaf, array in alone.items():
      other = together_[leaf]
      if array.dtype == np.uint8:  # scores near 0 may round to either side
        bits = int(np.bitwise_count(array ^ other).sum())
        assert bits <= 1e-3 * 8 * array.size, (name, leaf)
      elif leaf.startswith('coefficients/'):
        np.testing.assert_allclose(other, array, rtol=1e-3, atol=1e-4)
    accuracies = (m['record']['accuracy']['test'] for m in (first, second))
    assert abs(np.subtract(*accuracies)) <= 0.01


def test_one_process_verifies_and_predicts(runs):
  done = tiny.verify(runs[1])
  assert done.returncode == 0, done.stdout + done.stderr
  assert '15 tasks verified' in done.stdout


def test_two_devices_in_each_of_two_processes(tmp_path):
  """As on a TPU slice, or a node with several cards for each process."""
  codes, said = together(tmp_path / 'run', '--cpu_devices=2')
  assert codes == [0, 0], '\n'.join(said)
  done = tiny.verify(tmp_path / 'run')
  assert done.returncode == 0, done.stdout + done.stderr
  assert '15 tasks verified' in done.stdout


def test_a_mistake_ends_both(tmp_path):
  codes, said = together(tmp_path / 'run', '--config.phases.basis.batch_size=3',
                         timeout=100)
  assert all(code != 0 for code in codes)
  assert all('batch_size is 3 but there are 2 devices' in text
             for text in said)


def test_a_bucket_of_which_each_process_has_a_copy(runs, tmp_path, monkeypatch):
  """As on hosts that share no disk: the first sends, all fetch."""
  address = f'file://{tmp_path}/bucket/run'
  for machines in ('first', 'second'):
    monkeypatch.setenv('MTL_JAX_STAGING', str(tmp_path / machines))
    codes, said = together(address)
    assert codes == [0, 0], '\n'.join(said)
    folders = sorted((tmp_path / machines).iterdir())
    assert len(folders) == 2 and folders[1].name == f'{folders[0].name}-1'
    one, two = (tiny.bits(folder / 'workdir') for folder in folders)
    assert one == two == tiny.bits(runs[1])
    assert tiny.bits(tmp_path / 'bucket/run') == one
    # The next machines have one task less to begin with.
    shutil.rmtree(tmp_path / 'bucket/run/tasks/permuted-12@dedicated')
  assert not list((tmp_path / 'bucket/run/.lock').iterdir())
