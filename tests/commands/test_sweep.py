"""Many runs as one command: what is run, on what, and what comes of it."""

import csv
import importlib.util
import signal
import subprocess
import sys
import time

import buckets
import pytest
import tiny

from mtl_jax import commands
from mtl_jax.commands import engines
from mtl_jax.commands import sweep
from mtl_jax.commands import sweep_place

ONE = f'--config={tiny.ROOT}/tests/fixtures/tiny.py:one'
RATES = '--config.phases.basis.learning_rate=1e-2,3e-2'


def needs(package):
  """Skips where an engine is not installed; it is not imported here."""
  if importlib.util.find_spec(package) is None:
    pytest.skip(f'{package} is not installed')


def call(*words):
  """`sweep` in a process of its own."""
  return tiny.call([sys.executable, '-m', 'mtl_jax', 'sweep', *words])


def rows(folder):
  with (folder / 'sweep.csv').open(encoding='utf-8') as file:
    return list(csv.DictReader(file))


@pytest.mark.parametrize('text, values', [
    ('1,2', ['1', '2']), ('(0, 2)', ['(0, 2)']), ('a', ['a']),
    ('(0, 2),(2, (4, 5)), None', ['(0, 2)', '(2, (4, 5))', 'None']),
    ('''{'a': "x,'y"},'b,c' ''', ['''{'a': "x,'y"}''', "'b,c'"])])
def test_commas_in_brackets_and_quotes_belong_to_a_value(text, values):
  assert sweep.values_of('x', text) == values


@pytest.mark.parametrize('engine', engines.ENGINES)
def test_a_dry_run_prints_every_command_and_starts_nothing(tmp_path, engine):
  done = tiny.call([  # no device is needed for it
      sys.executable, '-m', 'mtl_jax', 'sweep', ONE, RATES, '--seeds=0,1',
      f'--workdir={tmp_path}/s', f'--engine={engine}', '--dry_run',
      '--config.eval_batch_size=40', '--cpu_devices=2',
      *(['--slurm=partition=gpu'] if engine == 'slurm' else [])],
                   JAX_PLATFORMS='none')
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert len(lines) == 4 and not (tmp_path / 's').exists()
  assert all(line.startswith(f'{engine}: ') for line in lines)
  assert lines[1].endswith(
      f'-m mtl_jax run {ONE} '
      f"--workdir={tmp_path}/s/learning_rate=1e-2_seed=1 "
      '--config.phases.basis.learning_rate=1e-2 --config.eval_batch_size=40 '
      '--config.seed=1 --cpu_devices=2')


@pytest.mark.parametrize('words, said', [
    (['--seeds='], '--seeds has no value'),
    (['--seeds=0,0'], 'the name seed=0; give each'),
    (['--seeds=x'], 'seed'),
    (['--seeds=1,0x1'], 'seed=1 and seed=0x1 of the sweep have the same conf'),
    (['--config.phases.basis.learning_rate=1e-2,.01'], 'have the same config'),
    (['--config.eval_batch_size=5', '--config.eval_batch_size=6'],
     '--config.eval_batch_size is given twice; give it once, with its values'),
    ([f'--config.wandb={"x" * 300},b'], 'names of files have 255 at most'),
    (['--cpu_devices=0'], '--cpu_devices is 0; it must be at least 1'),
    (['--workdir='], "the path is ''; give that of a folder"),
    (['--config.seed=1'], 'seeds of a sweep are given by --seeds'),
    (['--config.phases.basis.stepz=1,2'], 'stepz'),
    (['--config.phases.basis.steps=5,-1'], 'steps'),
    (['--jobs=0'], '--jobs is 0; it must be at least 1'),
    (['--slurm=gpu', '--engine=slurm'], 'write NAME=VALUE'),
    (['--slurm=partition=gpu'], '--slurm has no effect with --engine=local; '),
    (['--gpus=0'], '--gpus has no effect with --engine=local; leave it out, or'
     ' give --engine=slurm or --engine=ray'),
    (['--cpus=1'], '--cpus has no effect with --engine=local'),
    (['--engine=ray', '--slurm=a=b'], '--slurm has no effect with --engine=ra'),
    (['--workdir=nowhere://bucket/x'], "fsspec knows no protocol 'nowhere'"),
])
def test_what_is_refused_before_anything_starts(
    tmp_path, words, said, capsys):
  assert commands.main(['sweep', ONE, f'--workdir={tmp_path}/s', *words]) == 1
  err = capsys.readouterr().err
  assert err.startswith('error: ') and said in err
  assert not (tmp_path / 's').exists()


def test_a_sweep_needs_a_folder_that_is_no_run(tmp_path, capsys):
  folder, file = tiny.learned(tmp_path / 'run'), tmp_path / 'file'
  file.touch()
  before = tiny.files(folder)
  for place, said in ((folder, 'is the workdir of one run; give another'),
                      (file, 'is a file; name a folder')):
    for more in ([], ['--dry_run']):
      assert commands.main(['sweep', ONE, f'--workdir={place}', *more]) == 1
      assert said in capsys.readouterr().err
  assert tiny.files(folder) == before


@pytest.fixture(name='in_this_process')
def _in_this_process(monkeypatch, tmp_path):
  """Runs of the local engine stay in this process, with its stores."""
  def engine(todo, _):
    for job in todo:
      job.log.parent.mkdir(parents=True, exist_ok=True)
      job.log.write_text(f'the output of {job.name}')
      yield job, commands.main([*job.words[3:], '--quiet']) or 0
  monkeypatch.setitem(engines.ENGINES, 'local', engine)
  monkeypatch.setenv('MTL_JAX_STAGING', str(tmp_path / 'machine'))
  buckets.Recorded.clear()
  yield
  buckets.Recorded.clear()


def test_a_sweep_lies_in_a_bucket(
    tmp_path, monkeypatch, in_this_process, capsys):
  del in_this_process
  words = ['sweep', ONE, '--workdir=recorded://b/s/']
  assert not commands.main([*words, '--seeds=0'])
  store = {path.removeprefix('/b/s/'): file.getvalue()
           for path, file in buckets.Recorded.store.items()}
  assert store['logs/seed=0.log'] == b'the output of seed=0'
  assert b'tiny-one,basis,1,1,' in store['sweep.csv']
  assert 'seed=0/metrics.jsonl' in store
  capsys.readouterr()
  # Another machine finds what is finished.
  monkeypatch.setenv('MTL_JAX_STAGING', str(tmp_path / 'another'))
  assert not commands.main([*words, '--seeds=0,1', '--dry_run'])
  first, second = capsys.readouterr().out.splitlines()
  assert first.startswith('finished: ') and second.startswith('local: ')
  assert '--workdir=recorded://b/s/seed=1 ' in second
  assert not commands.main([*words, '--seeds=0,1'])
  assert '1/1 seed=1 is finished' in capsys.readouterr().err


def test_a_log_that_a_bucket_refuses_does_not_end_a_sweep(
    in_this_process, capsys):
  del in_this_process

  def full(what, path):
    if path.endswith(('.log', '.csv')):
      raise OSError(f'no {what} today')
  buckets.Recorded.fails = staticmethod(full)
  assert not commands.main(['sweep', ONE, '--workdir=recorded://b/s'])
  err = capsys.readouterr().err
  assert 'seed=0.log could not be copied to recorded://b/s (' in err
  assert 'sweep.csv could not be copied' in err and 'no write today' in err


@pytest.mark.parametrize('engine, package', [('ray', 'ray'),
                                             ('slurm', 'submitit')])
def test_an_engine_that_is_missing_is_named_with_the_command(
    tmp_path, engine, package, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, package, None)
  assert commands.main(['sweep', ONE, f'--workdir={tmp_path}/s',
                        f'--engine={engine}']) == 1
  err = capsys.readouterr().err
  assert f"pip install '{package}'" in err and err.count('\n') == 1


def test_slurm_without_its_programs_is_said_in_a_sentence(tmp_path):
  needs('submitit')
  # In a process of its own: its import replaces the handlers of logging.
  done = call(ONE, f'--workdir={tmp_path}/s', '--engine=slurm')
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert '--engine=slurm: ' in done.stderr and '--engine=local' in done.stderr


@pytest.fixture(name='swept', scope='module')
def _swept(tmp_path_factory):
  """(folder, the first call, the second): one of three runs fails at first."""
  folder = tmp_path_factory.mktemp('sweep')
  words = [ONE, '--seeds=0,1,2', f'--workdir={folder}', '--jobs=2']
  (folder / 'seed=1').write_text('in the way')
  first = call(*words)
  (folder / 'seed=1').unlink()
  return folder, first, call(*words)


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_go_on(swept):
  folder, first, _ = swept
  assert first.returncode == 1
  assert f'seed=1 failed: --workdir={folder}/seed=1 is a file' in first.stderr
  assert '1 of 3 runs failed: seed=1. ' in first.stderr
  assert 'Traceback' not in first.stderr
  # The table has the other two.
  row, = [line for line in first.stdout.splitlines() if 'basis' in line]
  assert row.split()[:4] == ['tiny-one', 'basis', '1', '2']


@pytest.mark.slow
def test_a_second_start_runs_what_is_left(swept):
  folder, _, second = swept
  assert second.returncode == 0, second.stderr
  assert second.stderr == '1/1 seed=1 is finished\n'
  found = rows(folder)
  assert [(r['run'], r['phase'], r['tasks'], r['seeds']) for r in found] == [
      ('tiny-one', 'basis', '1', '3')]
  assert ' ± ' in found[0]['test, %']
  assert float(found[0]['test, %'].split()[0]) > 0
  for seed in range(3):
    assert tiny.verify(folder / f'seed={seed}').returncode == 0


@pytest.mark.slow
def test_a_third_start_runs_nothing(swept):
  folder, _, second = swept
  before = tiny.files(folder)
  done = call(ONE, '--seeds=0,1,2', f'--workdir={folder}', '--engine=ray')
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout == second.stdout
  assert tiny.files(folder) == before


@pytest.mark.slow
def test_a_signal_saves_what_runs_and_the_next_start_goes_on(tmp_path):
  words = [ONE, '--seeds=0,1', f'--workdir={tmp_path}/s',
           '--config.phases.basis.steps=1500', '--config.chunk_steps=20',
           '--config.progress_seconds=1000.']
  child = subprocess.Popen([sys.executable, '-m', 'mtl_jax', 'sweep', *words],
                           env=tiny.environment(), stderr=subprocess.PIPE,
                           stdout=subprocess.PIPE, text=True)
  end = time.monotonic() + 120
  metrics = tmp_path / 's/seed=0/metrics.jsonl'
  while not metrics.exists() and time.monotonic() < end:
    time.sleep(.1)
  time.sleep(2)
  child.send_signal(signal.SIGTERM)
  _, err = child.communicate(timeout=120)
  assert child.returncode == 143 and 'to go on, start it again' in err
  assert 'stopped by SIGTERM' in (
      tmp_path / 's/logs/seed=0.log').read_text()
  assert not (tmp_path / 's/seed=1').exists()
  done = call(*words)
  assert done.returncode == 0, done.stderr
  assert {r['seeds'] for r in rows(tmp_path / 's')} == {'2'}


def jobs(folder, *commands_):
  """Jobs of plain commands, by name."""
  return [engines.Job(str(i), '', tuple(words), folder / str(i),
                      folder / f'{i}.log')
          for i, words in enumerate(commands_)]


PRINTS = [sys.executable, '-c', 'print("done")']
FAILS = [sys.executable, '-c', 'raise SystemExit("error: no luck")']


def test_the_local_engine_reports_each_process(tmp_path):
  todo = jobs(tmp_path, PRINTS, FAILS, PRINTS)
  assert {job.name: code for job, code in engines.local(
      todo, engines.Options(2, 1, 0, {}, tmp_path))} == {
          '0': 0, '1': 1, '2': 0}
  assert todo[0].log.read_text() == 'done\n'
  assert todo[1].log.read_text() == 'error: no luck\n'


def test_the_reason_is_of_this_start_and_not_of_an_earlier_one(
    tmp_path, capsys):
  job, = jobs(tmp_path, [sys.executable, '-c', 'raise SystemExit(3)'])
  job.log.write_text('error: no luck\n')
  assert sweep._process([job], 'local', engines.Options(
      1, 1, 0, {}, tmp_path), sweep_place.Place(tmp_path, None)) == ['0']
  assert capsys.readouterr().err == (
      f'1/1 0 failed: its process ended with 3; see {job.log}\n')


def test_a_log_without_an_error_is_no_advice(tmp_path):
  """The disk was full, and the log could not take the error."""
  job, = jobs(tmp_path, PRINTS)
  job.log.write_text('error: earlier\n')
  said = sweep._reason(job, 1, job.log.stat().st_size)
  assert said == (f'its process ended with 1 and could write nothing into '
                  f'{job.log}; make room on that disk')


# Jobs that print and that fail, as an array on this machine.
ARRAY = '''
import pathlib, sys
from mtl_jax.commands import engines
folder, parameter = pathlib.Path(sys.argv[1]), sys.argv[2]
todo = [engines.Job(str(i), '', (sys.executable, '-c', code), folder / str(i),
                    folder / f'{i}.log')
        for i, code in enumerate(('print(1)', 'raise SystemExit(3)'))]
for job, code in sorted(engines.slurm(todo, engines.Options(
    2, 1, 0, {parameter: 5}, folder), cluster='local')):
  print(job.name, code, job.log.read_text())
'''


@pytest.mark.slow
def test_a_job_array_on_the_local_executor_of_submitit(tmp_path):
  needs('submitit')
  done = tiny.call([sys.executable, '-c', ARRAY, str(tmp_path), 'slurm_time'])
  assert done.stdout.split() == ['0', '0', '1', '1', '3'], done.stderr


@pytest.mark.slow
def test_parameters_that_slurm_does_not_know(tmp_path):
  needs('submitit')
  done = tiny.call([sys.executable, '-c', ARRAY, str(tmp_path), 'slurm_tmie'])
  assert 'ValueError: --slurm: submitit refuses it: ' in done.stderr
  assert 'slurm_tmie' in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_two_workers_of_ray(tmp_path):
  needs('ray')
  done = tiny.call([
      sys.executable, '-m', 'mtl_jax', 'sweep', ONE, '--seeds=0,1',
      f'--workdir={tmp_path}', '--engine=ray', '--jobs=2'],
                   RAY_TMPDIR='/tmp', RAY_USAGE_STATS_ENABLED='0')
  assert done.returncode == 0, done.stderr
  assert {r['seeds'] for r in rows(tmp_path)} == {'2'}
  for seed in range(2):
    assert tiny.verify(tmp_path / f'seed={seed}').returncode == 0
