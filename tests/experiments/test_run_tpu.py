"""The script for Cloud TPU, with a stand-in for gcloud."""

import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / 'experiments' / 'run_tpu.sh'
# It says the state that the last line of STATES has, and a line is taken away
# whenever it is asked. The run ends with the codes in RUNS, one after another.
GCLOUD = r'''#!/usr/bin/env bash
printf '%s\n' "$*" >> calls
next() { head -1 "$1"; [ "$(wc -l < "$1")" -eq 1 ] || sed -i 1d "$1"; }
case "$*" in
  *' describe '*)
    now=$(next states)
    [ "$now" != absent ] || { echo 'ERROR: NOT_FOUND: no such' >&2; exit 1; }
    [ "$now" != denied ] || { echo 'ERROR: you may not' >&2; exit 1; }
    echo "$now" ;;
  *'mtl_jax run'*) exit "$(next runs)" ;;
esac
'''


def call(folder, *words, states='ACTIVE', runs='0'):
  """Calls the script; returns its result and the calls of gcloud."""
  for name, text in (('gcloud', GCLOUD), ('sleep', '#!/bin/sh\n')):
    (folder / name).write_text(text.replace('calls', f'{folder}/calls').replace(
        'next states', f'next {folder}/states').replace(
            'next runs', f'next {folder}/runs'))
    (folder / name).chmod(0o755)
  (folder / 'states').write_text('\n'.join(states.split()) + '\n')
  (folder / 'runs').write_text('\n'.join(runs.split()) + '\n')
  done = subprocess.run(
      [SCRIPT, *words], check=False, capture_output=True, text=True,
      env=os.environ | {'PATH': f'{folder}:{os.environ["PATH"]}'})
  calls = folder / 'calls'
  return done, calls.read_text().splitlines() if calls.exists() else []


def verbs(calls):
  """What was asked of gcloud, without the questions for the state."""
  found = []
  for line in calls:
    verb = line.split()[3]
    if verb == 'ssh':
      verb = 'run' if 'mtl_jax run' in line else (
          'install' if 'uv pip' in line else 'setup')
    if verb != 'describe':
      found.append(verb)
  return found


RUN = ('slice', 'us-east5-b', 'quickstart', '/mnt/disk/my run')


def test_a_dry_run_prints_every_step_and_does_none(tmp_path):
  done, calls = call(tmp_path, '--dry_run', '--spot', '--type=v5litepod-8',
                     '--runtime=v2-alpha-tpuv5-lite', '--setup=sudo mount x',
                     *RUN, '--config.seed=1')
  assert done.returncode == 0 and done.stderr == '' and not calls
  steps = done.stdout.splitlines()
  assert steps[0] == (
      '+ gcloud compute tpus queued-resources create slice --zone=us-east5-b '
      '--node-id=slice --accelerator-type=v5litepod-8 '
      '--runtime-version=v2-alpha-tpuv5-lite --spot')
  assert steps[1] == '# wait until it is ACTIVE'
  assert 'git' in steps[2]
  assert '/mtl_jax.tar.gz slice:mtl_jax.tar.gz --zone' in steps[3]
  assert 'uv' in steps[4] and 'sudo' in steps[5]
  run = steps[6].replace('\\', '')
  assert run.endswith(
      '--worker=all --command=cd mtl_jax && .venv/bin/python -m mtl_jax run '
      '--coordinator=auto --config=quickstart --workdir=/mnt/disk/my run '
      '--config.seed=1')
  assert steps[7].startswith('# after a preemption')
  assert ' delete slice --zone=us-east5-b --force --quiet' in steps[8]
  assert len(steps) == 9


def test_a_workdir_in_a_bucket_brings_what_reads_buckets(tmp_path):
  for workdir, package in (('gs://b/run', './mtl_jax[remote]'),
                           ('/mnt/run', './mtl_jax')):
    done, _ = call(tmp_path, '--dry_run', *RUN[:3], workdir)
    install, run = (line.replace('\\', '') for line in
                    done.stdout.splitlines()[4:6])
    assert f"-e '{package}' 'jax[tpu]'" in install
    assert run.endswith(f'--workdir={workdir}')
  extras = (ROOT / 'setup.cfg').read_text()
  assert '\nremote =\n    fsspec\n    gcsfs\n' in extras


def test_a_slice_is_made_and_waited_for(tmp_path):
  done, calls = call(
      tmp_path, *RUN, states='absent WAITING_FOR_RESOURCES ACTIVE')
  assert done.returncode == 0, done.stderr
  assert verbs(calls) == ['create', 'scp', 'install', 'run']
  assert 'experiments/run_tpu.sh --delete slice us-east5-b' in done.stdout


def test_one_that_is_there_is_used(tmp_path):
  done, calls = call(tmp_path, '--setup=true', *RUN)
  assert done.returncode == 0, done.stderr
  assert verbs(calls) == ['scp', 'install', 'setup', 'run']


@pytest.mark.parametrize('code', ['255', '143'])
def test_a_preempted_slice_is_made_again_and_the_run_goes_on(tmp_path, code):
  done, calls = call(
      tmp_path, *RUN, runs=f'{code} 0',
      states='ACTIVE ACTIVE SUSPENDING SUSPENDING SUSPENDED absent ACTIVE')
  assert done.returncode == 0, done.stderr
  assert verbs(calls) == ['scp', 'install', 'run', 'delete', 'create', 'scp',
                          'install', 'run']
  runs = [line for line in calls if 'mtl_jax run' in line]
  assert runs[0] == runs[1]


def test_a_run_that_fails_is_not_started_again(tmp_path):
  done, calls = call(tmp_path, *RUN, runs='1')
  assert done.returncode == 1 and 'the run ended with 1' in done.stderr
  assert verbs(calls) == ['scp', 'install', 'run']


def test_hosts_that_do_not_answer_on_a_slice_that_is_there(tmp_path):
  done, calls = call(tmp_path, *RUN, runs='255')
  assert done.returncode == 255 and 'slice is still there' in done.stderr
  assert verbs(calls) == ['scp', 'install', 'run']


def test_what_gcloud_refuses_ends_it(tmp_path):
  done, calls = call(tmp_path, *RUN, states='denied')
  assert done.returncode == 1 and 'you may not' in done.stderr
  assert not verbs(calls)


def test_delete_deletes_and_nothing_else(tmp_path):
  done, calls = call(tmp_path, '--delete', 'slice', 'us-east5-b')
  assert done.returncode == 0, done.stderr
  assert verbs(calls) == ['delete'] and len(calls) == 1


@pytest.mark.parametrize('words', [
    (), ('slice', 'zone', 'quickstart'), ('--delete', 'slice'),
    ('--delete', *RUN), ('--dry-run', *RUN)])
def test_what_is_no_command_line_shows_the_usage(tmp_path, words):
  done, calls = call(tmp_path, *words)
  assert done.returncode == 2 and not calls
  assert 'run_tpu.sh --delete [--dry_run] NAME ZONE' in done.stderr


@pytest.mark.parametrize('config', ['quickstrat', 'configs/none.py:x', '/a.py'])
def test_a_config_that_is_not_there_costs_nothing(tmp_path, config):
  done, calls = call(tmp_path, *RUN[:2], config, RUN[3])
  assert done.returncode == 2 and not calls
  assert f'CONFIG is {config}; give the name' in done.stderr


@pytest.mark.parametrize('config', [
    'comparison:rotated', 'quickstart.py', 'examples/lora.py'])
def test_a_config_is_a_name_or_a_file(tmp_path, config):
  done, _ = call(tmp_path, '--dry_run', *RUN[:2], config, RUN[3])
  assert done.returncode == 0, done.stderr
  assert f'--config={config} ' in done.stdout.replace('\\', '')


def test_a_config_that_git_does_not_know_is_not_left_behind(tmp_path):
  new = ROOT / f'{tmp_path.name}_config.py'
  new.write_text('')
  try:
    done, calls = call(tmp_path, *RUN[:2], new.name, RUN[3])
  finally:
    new.unlink()
  assert done.returncode == 2 and not calls
  assert f'call git add {new.name}' in done.stderr


@pytest.mark.parametrize('flag', ['--help', '-h'])
def test_help_is_no_error(tmp_path, flag):
  done, calls = call(tmp_path, flag)
  assert done.returncode == 0 and not calls and done.stderr == ''
  assert 'run_tpu.sh --delete [--dry_run] NAME ZONE' in done.stdout


def test_what_is_installed_is_what_the_package_says():
  """The Python that is made there is one that the package supports."""
  version = re.search(r'--python=(\d+\.\d+)', SCRIPT.read_text())[1]
  assert (f'Programming Language :: Python :: {version}'
          in (ROOT / 'setup.cfg').read_text())
