"""The process: its memory, its signals, systems without POSIX modules."""

import os
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import pytest
import tiny

import mtl_jax
from mtl_jax import commands
from mtl_jax import host
from mtl_jax import masks
from mtl_jax.commands import ends


@pytest.mark.parametrize('system, counted', [
    ('darwin', 500 * 2 ** 20), ('linux', 500 * 2 ** 10)])
def test_memory_in_bytes_whatever_the_system_counts(
    monkeypatch, system, counted):
  resource = pytest.importorskip('resource')
  monkeypatch.setattr(host.sys, 'platform', system)
  monkeypatch.setattr(resource, 'getrusage',
                      lambda who: types.SimpleNamespace(ru_maxrss=counted))
  assert host.memory_bytes() == 500 * 2 ** 20


def test_without_posix_modules_everything_imports():
  """As on Windows."""
  code = (
      'import sys, os, numpy, jax\n'
      'class Absent:\n'
      '  def find_spec(self, name, *_):\n'
      "    if name in ('fcntl', 'resource', 'pwd', 'grp'):\n"
      '      raise ModuleNotFoundError(name)\n'
      'sys.meta_path.insert(0, Absent())\n'
      "for name in ('fcntl', 'resource', 'pwd', 'grp'):\n"
      '  sys.modules.pop(name, None)\n'
      'del os.uname, os.sched_getaffinity\n'
      'import pathlib, importlib\n'
      "root = pathlib.Path('mtl_jax')\n"
      "for path in sorted(root.rglob('*.py')):\n"
      "  source = path.read_text(encoding='utf-8')\n"
      "  assert 'import fcntl' not in source, path\n"
      'from mtl_jax import host\n'
      'from mtl_jax.storage import provenance, workdir\n'
      'assert host.memory_bytes() is None and host.cores()\n'
      "assert provenance.hardware()['cores']\n")
  done = subprocess.run([sys.executable, '-c', code], cwd=tiny.ROOT, text=True,
                        env=tiny.environment(), capture_output=True,
                        check=False)
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_at_once_where_nothing_is_saved(number):
  before = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP
  try:
    with pytest.raises(host.Stopped) as found, host.stoppable():
      os.kill(os.getpid(), number)
    assert found.value.number == number
    assert signal.getsignal(number) is signal.SIG_DFL
  finally:
    signal.signal(number, before)


def test_a_signal_waits_for_the_next_save_and_a_second_one_does_not():
  with host.stoppable(), host.saves():
    os.kill(os.getpid(), signal.SIGTERM)
    assert host.asked_to_stop()
    with pytest.raises(host.Stopped):
      host.may_stop()
    with pytest.raises(host.Stopped):
      os.kill(os.getpid(), signal.SIGTERM)
  assert not host.asked_to_stop()
  host.may_stop()  # nothing waits any more


def test_a_signal_waits_though_nobody_reads_what_it_says(monkeypatch):
  """As after Ctrl-C with `2>&1 | tee`, which ends first."""
  def gone(*_):
    raise BrokenPipeError
  monkeypatch.setattr(host.os, 'write', gone)
  with host.stoppable(), host.saves():
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(host.Stopped):
      host.may_stop()


class Ending:
  """Signals the process when it is collected."""

  def __del__(self):
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_is_not_lost_where_exceptions_are_ignored():
  with host.stoppable():
    with pytest.raises(host.Stopped) as found:
      Ending()
      for _ in range(1000):
        time.sleep(.01)
    assert found.value.number == 15
    with host.saves():
      Ending()  # it waits, as nothing was raised
    with pytest.raises(host.Stopped):
      host.may_stop()


def test_an_ignored_signal_stays_ignored():
  """As with nohup, or in the background of a script."""
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with host.stoppable():
      os.kill(os.getpid(), signal.SIGINT)
  finally:
    signal.signal(signal.SIGINT, before)


def test_a_guard_of_transfers_is_named_before_anything_is_made(
    tmp_path, capsys):
  folder = tiny.learned(tmp_path / 'run', 'one')
  with jax.transfer_guard('disallow'):
    with pytest.raises(ValueError, match='JAX_TRANSFER_GUARD forbids .* unset'):
      mtl_jax.load(folder)
    with pytest.raises(ValueError, match='JAX_TRANSFER_GUARD forbids'):
      tiny.learn(tiny.make('one'), tmp_path / 'new')
    assert commands.call('verify', [f'--workdir={folder}'], 'verify') == 1
  said = capsys.readouterr()
  assert said.err.startswith('error: JAX_TRANSFER_GUARD forbids')
  assert not (tmp_path / 'new').exists()
  with jax.transfer_guard('log'):  # the remedy
    assert commands.call('verify', [f'--workdir={folder}'], 'verify') == 0


def test_other_draws_from_a_seed_are_refused_before_anything_is_made(
    tmp_path, capsys):
  folder = tiny.learned(tmp_path / 'run', 'one')
  with jax.threefry_partitionable(False):
    with pytest.raises(ValueError, match='JAX_THREEFRY_PARTITIONABLE is off'):
      mtl_jax.load(folder)
    with pytest.raises(ValueError, match='JAX_THREEFRY_PARTITIONABLE is off'):
      tiny.learn(tiny.make('one'), tmp_path / 'new')
    assert commands.call('verify', [f'--workdir={folder}'], 'verify') == 1
  assert 'unset it, or set it to 1' in capsys.readouterr().err
  assert not (tmp_path / 'new').exists()


def test_an_offset_of_all_seeds_is_refused_before_anything_is_made(tmp_path):
  folder = tiny.learned(tmp_path / 'run', 'one')
  jax.config.update('jax_random_seed_offset', 7)
  try:
    for call in (lambda: mtl_jax.load(folder),
                 lambda: tiny.learn(tiny.make('one'), tmp_path / 'new')):
      with pytest.raises(ValueError, match='JAX_RANDOM_SEED_OFFSET is 7.*unset '
                                           'it, and change the seed of the'):
        call()
  finally:
    jax.config.update('jax_random_seed_offset', 0)
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('name', ['jax_disable_jit', 'jax_no_tracing'])
def test_what_compiles_nothing_is_refused_before_anything_is_made(
    tmp_path, capsys, name):
  folder = tiny.learned(tmp_path / 'run', 'one')
  said = f'{name.upper()} is on, so that .* compile.* unset it'
  system = mtl_jax.load(folder)
  jax.config.update(name, True)
  try:
    for call in (lambda: mtl_jax.load(folder),
                 lambda: tiny.learn(tiny.make('one'), tmp_path / 'new'),
                 lambda: system.learn('digits', method='supsup', steps=1)):
      with pytest.raises(ValueError, match=said):
        call()
    assert commands.call('verify', [f'--workdir={folder}'], 'verify') == 1
  finally:
    jax.config.update(name, False)
  assert capsys.readouterr().err.startswith(f'error: {name.upper()} is on')
  assert not (tmp_path / 'new').exists() and system.tasks == ['permuted-00']
  with jax.disable_jit():  # what is not a run
    assert masks.density(masks.top_k({'w': jnp.arange(4.)}, .5)) == .5


def test_a_transfer_that_is_refused_later_ends_with_the_same_sentence(capsys):
  def late():
    with jax.transfer_guard('disallow'):
      return int(jnp.zeros(3)[1])
  assert ends.guarded(late) == 1
  assert capsys.readouterr().err.startswith('error: JAX_TRANSFER_GUARD forbids')


_FORK = '''
import os, sys
import numpy as np
import mtl_jax
x = np.zeros((1, 8, 8, 1), np.uint8)
if sys.argv[2] == 'before':  # has computed nothing yet
  calls = [lambda: mtl_jax.load(sys.argv[1]).predict(x, task='permuted-00')]
else:
  system = mtl_jax.load(sys.argv[1])
  calls = [lambda: mtl_jax.load(sys.argv[1]),
           lambda: system.predict(x, task='permuted-00'),
           lambda: system.predict_mixed(x, ['permuted-00'])]
child = os.fork()
if not child:
  for call in calls:
    try:
      print('answered', call().shape, flush=True)
    except ValueError as error:
      print(error, flush=True)
  os._exit(0)
os.waitpid(child, 0)
'''


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='a system without fork')
def test_a_fork_of_a_process_that_used_jax_is_refused(tmp_path):
  """It would wait for threads that it does not have."""
  folder = tiny.learned(tmp_path / 'run', 'one')
  ask = lambda when: subprocess.run(
      [sys.executable, '-W', 'ignore', '-c', _FORK, str(folder), when],
      capture_output=True, text=True, check=True, timeout=300).stdout
  said = ask('after').splitlines()
  assert len(said) == 3
  for line in said:
    assert 'was forked from one that had computed with JAX' in line
    assert "get_context('spawn')" in line
  assert ask('before') == 'answered (1, 10)\n'
