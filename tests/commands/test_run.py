"""`run` from its flags to its last line."""

import functools
import os
import signal
import subprocess
import sys
import time

from rich import console as console_lib
import pytest
import tiny

from mtl_jax import commands
from mtl_jax import experiment
from mtl_jax import host
from mtl_jax.config import config as config_lib
from mtl_jax.config import files
from mtl_jax.config import overrides
from mtl_jax.storage import json_records

FEW = f'--config={tiny.ROOT}/tests/fixtures/tiny.py:few'


def test_a_second_start_says_in_one_line_that_nothing_is_left(
    tmp_path, capsys, monkeypatch):
  folder = tiny.learned(tmp_path / 'run', 'few')
  assert commands.main(['run', FEW, f'--workdir={folder}']) == 0
  out, err = capsys.readouterr()
  assert out == (f'nothing left to learn: the 3 tasks in {folder} are '
                 f'verified; report: {folder}/report.html\n')
  assert err == ''
  # No bar either, where there is a terminal to show it.
  monkeypatch.setattr(experiment.console_lib, 'Console', functools.partial(
      console_lib.Console, force_terminal=True))
  assert commands.main(['run', FEW, f'--workdir={folder}']) == 0
  out, err = capsys.readouterr()
  assert out.count('\n') == 1 and err == ''
  # And from the home folder.
  monkeypatch.setenv('HOME', str(tmp_path))
  assert commands.main(['run', FEW, '--workdir=~/run', '--quiet']) == 0
  assert capsys.readouterr() == ('', '')


def test_piped_output_is_a_whole_table_without_a_bar(tmp_path):
  folder = tiny.learned(tmp_path / 'run')
  done = tiny.call([sys.executable, '-m', 'mtl_jax', 'report',
                    f'--workdir={folder}'], PYTHONIOENCODING='ascii')
  assert done.returncode == 0 and done.stderr == ''
  line, = [line for line in done.stdout.splitlines()
           if 'permuted-12@dedicated' in line]
  assert 'supsup (control)' in line
  assert '"of own": compared' in done.stdout


def test_new_evaluations_are_shown(tmp_path, capsys):
  folder = tiny.learned(tmp_path / 'run', 'few')
  assert commands.main(['run', FEW, f'--workdir={folder}',
                        '--config.mixed_rows=8']) == 0
  assert 'one mixed batch' in capsys.readouterr().out


def test_fields_from_flags_are_what_is_run(tmp_path):
  flags = ['--config.eval_batch_size=40', '--config.schedule=basis']
  made = overrides.to_dict(files.load(FEW.removeprefix('--config=')))
  assert 'eval_batch_size' not in made
  del made['phases']['impress']
  path = tmp_path / 'c.py'
  path.write_text(f'get_config = lambda: {made}')
  assert commands.main(['run', f'--config={path}', '--quiet',
                        f'--workdir={tmp_path}/run', *flags]) == 0
  kept = config_lib.from_dict(json_records.read_json(
      tmp_path / 'run/config.json'))
  assert kept.eval_batch_size == 40 and len(kept.phases) == 1


@pytest.mark.slow
def test_profile_and_cache(tmp_path):
  done = tiny.call([
      sys.executable, '-m', 'mtl_jax', 'run', FEW, f'--workdir={tmp_path}/run',
      f'--compilation_cache={tmp_path}/cache', '--profile'])
  assert done.returncode == 0, done.stderr
  assert f'profile: {tmp_path}/run/profile (tensorboard' in done.stdout
  assert list((tmp_path / 'run/profile').rglob('*.xplane.pb'))
  assert list((tmp_path / 'cache').iterdir())


@pytest.mark.parametrize('flag', ['profile', 'compilation_cache'])
def test_folders_of_flags_are_no_files(tmp_path, capsys, flag):
  (tmp_path / 'file').write_text('mine')
  for given in ('file', 'file/in'):
    assert commands.main(['run', FEW, f'--workdir={tmp_path}/run',
                          f'--{flag}={tmp_path}/{given}']) == 1
    assert capsys.readouterr().err == (
        f'error: --{flag}={tmp_path}/{given}: {tmp_path}/file is a file; name '
        'a folder\n')
  assert [path.name for path in tmp_path.iterdir()] == ['file']
  assert (tmp_path / 'file').read_text() == 'mine'


LONG = ['--config.phases.basis.steps=1500', '--config.chunk_steps=20',
        '--config.progress_seconds=1000.']


def started(folder, *flags):
  """A run of its own process, which has trained some chunks."""
  child = subprocess.Popen(
      [sys.executable, '-m', 'mtl_jax', 'run', FEW, f'--workdir={folder}',
       *flags], env=tiny.environment(), text=True, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE)
  end = time.monotonic() + 60
  while not (folder / 'metrics.jsonl').exists() and time.monotonic() < end:
    assert child.poll() is None, child.communicate()
    time.sleep(.05)
  return child


@pytest.mark.parametrize('chunk', [1, 2, 3, 4, 5, 6])
def test_a_signal_waits_until_the_chunk_is_saved(tmp_path, chunk):
  """And what is trained afterwards has the bits of a run without it."""
  config = tiny.make('few', progress_seconds=1000.)
  seen = []

  def after_chunk():
    seen.append(1)
    if len(seen) == chunk:
      os.kill(os.getpid(), signal.SIGTERM)
  with pytest.raises(host.Stopped), host.stoppable():
    experiment.run(config, tmp_path, quiet=True, after_chunk=after_chunk)
  assert len(seen) in (chunk, chunk + 1)  # the last chunk is committed
  left = [path.name for path in (tmp_path / 'progress').iterdir()]
  done = [path.name for path in (tmp_path / 'tasks').iterdir()]
  assert left or done or chunk == 1  # of the first call nothing is trained
  tiny.learn(config, tmp_path)
  assert tiny.bits(tmp_path) == tiny.bits(tiny.learned(tmp_path / 'x', 'few'))


@pytest.fixture(name='interrupts')
def _interrupts():
  """Children take Ctrl-C even if these tests run in the background."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures('interrupts')
@pytest.mark.parametrize('number, code, said', [
    (signal.SIGINT, 130, 'stopped by Ctrl-C'),
    (signal.SIGTERM, 143, 'stopped by SIGTERM')])
def test_a_signal_saves_and_the_command_goes_on_with_the_same_bits(
    tmp_path, number, code, said):
  folder = tmp_path / 'run'
  with started(folder, *LONG) as child:
    os.kill(child.pid, number)
    out, err = child.communicate(timeout=120)
  assert child.returncode == code and out == ''
  assert 'Traceback' not in err
  assert f'{said}; to go on, start it again: python -m mtl_jax run' in err
  assert not (folder / '.holder').exists()
  for at in (folder, tmp_path / 'whole'):
    done = tiny.call([sys.executable, '-m', 'mtl_jax', 'run', FEW, '--quiet',
                      f'--workdir={at}', *LONG])
    assert done.returncode == 0, done.stderr
  assert tiny.bits(folder) == tiny.bits(tmp_path / 'whole')
