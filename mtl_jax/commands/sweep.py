"""`mtl-jax sweep`: many runs of configs, settings and seeds, and one table."""

import argparse
import ast
import contextlib
import csv
import io
import itertools
import re
import shlex
import sys
from collections.abc import Iterable, Sequence

from mtl_jax import experiment
from mtl_jax import registry
from mtl_jax.commands import engines
from mtl_jax.commands import sweep_place
from mtl_jax.config import config as config_lib
from mtl_jax.config import files
from mtl_jax.config import overrides
from mtl_jax.report import seeds as seeds_lib
from mtl_jax.report import terminal
from mtl_jax.storage import json_records
from mtl_jax.storage import whole_files
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import sizing

DESCRIPTION = (
    'Runs configs with every combination of settings and seeds, each as a '
    '`run` in its own folder below the workdir, and prints one table. The '
    'same command again resumes the runs that are not finished. If a run '
    'fails, the sweep names it and continues.')
EXAMPLES = (
    ('{} --config=quickstart --seeds=0,1,2 --workdir=runs/sweep',
     'three seeds, one after another'),
    ('{} --config=quickstart --seeds=0,1,2 --workdir=runs/rates '
     '--config.phases.basis.learning_rate=1e-3,3e-3 --engine=ray --gpus=1',
     'six runs on a Ray cluster, a GPU each'),
    ('{} --config=quickstart --seeds=0,1,2 --workdir=/shared/sweep '
     '--engine=slurm --slurm=partition=gpu --dry_run',
     'what a job array of SLURM would run'),
)
OVERRIDES = True
LONGEST = 255  # bytes of a file's name


def flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of a sweep."""
  parser.add_argument('--config', action='append', required=True,
                      metavar='FILE', help=(
                          'as for `run`; may be given several times'))
  parser.add_argument('--config.FIELD', metavar='A,B', dest='_', help=(
      'values of a field, separated by commas (those in brackets or quotes '
      'belong to a value); each is run'))
  parser.add_argument('--seeds', default='0', metavar='0,1,2',
                      help='seeds to run; 0 by default')
  parser.add_argument('--workdir', required=True, metavar='DIR',
                      help='a folder, or gs://BUCKET/SWEEP, for the workdirs '
                           'of the runs')
  parser.add_argument('--engine', default='local', choices=engines.ENGINES,
                      help='what starts the runs; local by default')
  parser.add_argument('--jobs', type=int, metavar='N', help=(
      'largest number of runs at once: by default one on this machine, and as '
      'many as there are resources on Ray and SLURM'))
  parser.add_argument('--cpus', type=int, metavar='N',
                      help='cores of a run, on Ray and SLURM; 1 by default')
  parser.add_argument('--gpus', type=int, metavar='N',
                      help='GPUs of a run, on Ray and SLURM; 0 by default')
  parser.add_argument('--slurm', action='append', default=[],
                      metavar='NAME=VALUE', help=(
                          'an option of the SLURM job, such as partition=gpu '
                          'or time=120 (minutes); may be given several times'))
  parser.add_argument('--dry_run', action='store_true',
                      help='print the commands and exit')
  given = parser.add_argument_group('passed to every run')
  given.add_argument('--plugins', action='append', metavar='FILE')
  given.add_argument('--compilation_cache', metavar='DIR')
  given.add_argument('--cpu_devices', type=int, metavar='N')


def main(given: argparse.Namespace) -> int | None:
  """Runs a sweep; returns 1 if a run failed."""
  place = sweep_place.Place.of(given.workdir)
  folder = place.folder
  _check_engine(given)
  options = engines.Options(
      _at_least('jobs', given.jobs, 1), _at_least('cpus', given.cpus, 1) or 1,
      _at_least('gpus', given.gpus, 0) or 0, _slurm(given.slurm), folder)
  _at_least('cpu_devices', given.cpu_devices, 1)
  registry.load_plugins(given.plugins)
  jobs, done = plan(given, place), set()
  for job, config in jobs:
    if _finished(job.workdir, config):
      done.add(job)
  todo = [job for job, _ in jobs if job not in done]
  if given.dry_run:
    for job, _ in jobs:
      print(f'{"finished" if job in done else given.engine}: '
            f'{shlex.join(job.words)}')
    return None
  (folder / 'logs').mkdir(parents=True, exist_ok=True)
  failed = _process(todo, given.engine, options, place)
  gather(place, [job for job, config in jobs
                 if _finished(job.workdir, config)])
  if failed:
    raise ValueError(f'{len(failed)} of {len(jobs)} runs failed: '
                     f'{", ".join(failed)}. What they said is in '
                     f'{folder / "logs"}; the same command runs them again')
  return None


def _process(todo: Sequence[engines.Job], engine: str,
             options: engines.Options, place: sweep_place.Place) -> list[str]:
  """Runs the unfinished jobs; returns the names of those that failed."""
  failed: list[str] = []
  if not todo:
    return failed
  # A log also has what earlier starts said.
  begun = {job: job.log.stat().st_size if job.log.exists() else 0
           for job in todo}
  # Closed at once, so that an interrupted engine ends its processes.
  with contextlib.closing(engines.ENGINES[engine](todo, options)) as ended:
    for number, (job, code) in enumerate(ended, 1):
      said = '' if code == 0 else f': {_reason(job, code, begun[job])}'
      failed += [job.name] if said else []
      place.send(job.log)
      print(f'{number}/{len(todo)} {job.name} '
            f'{"failed" if said else "is finished"}{said}', file=sys.stderr)
  return failed


def plan(given: argparse.Namespace, place: sweep_place.Place
         ) -> list[tuple[engines.Job, config_lib.Config]]:
  """All runs of a sweep with their configs.

  Raises:
    ValueError: a value is refused, or two runs would be the same.
  """
  fields = [(name, values_of(name, text)) for name, text in given.overrides]
  for name, _ in fields:
    if [other for other, _ in fields].count(name) > 1:
      raise ValueError(f'--config.{name} is given twice; give it once, with '
                       'its values separated by commas')
  seeds = values_of('seeds', given.seeds)
  if 'seed' in dict(fields):
    raise ValueError('--config.seed: seeds of a sweep are given by --seeds')
  varied = [name for name, values in fields if len(values) > 1]
  found = []
  for path in given.config:
    for point in itertools.product(*(values for _, values in fields)):
      setting = dict(zip((name for name, _ in fields), point))
      for seed in seeds:
        pairs = [*setting.items(), ('seed', seed)]
        config = config_lib.from_dict(
            overrides.apply(files.load(path), pairs))
        parts = [*([_stem(path)] if len(given.config) > 1 else []),
                 *(f'{_short(name, varied)}={_plain(setting[name])}'
                   for name in varied)]
        name = '_'.join([*parts, f'seed={seed}'])
        workdir = place.workdir(name)
        found.append((engines.Job(
            name, '_'.join(parts) or _stem(path),
            _words(given, path, pairs, workdir), workdir, place.log(name)),
                      config))
  _require_names([job.name for job, _ in found])
  _require_different(found)
  return found


def values_of(name: str, text: str) -> list[str]:
  """The values of a flag, split at commas outside of brackets and quotes.

  >>> values_of('a', '1,2'), values_of('a', '(0, 2),(2, 4)')
  (['1', '2'], ['(0, 2)', '(2, 4)'])
  """
  found, depth, quote = [''], 0, ''
  for letter in text:
    if letter == ',' and not depth and not quote:
      found.append('')
      continue
    found[-1] += letter
    if letter in '\'"' and quote in ('', letter):
      quote = '' if quote else letter
    elif not quote:
      depth += (letter in '([{') - (letter in ')]}')
  found = [value.strip() for value in found if value.strip()]
  if not found:
    raise ValueError(f'--{name} has no value; give one, or several separated '
                     'by commas')
  return found


def gather(place: sweep_place.Place, jobs: Iterable[engines.Job]) -> None:
  """Prints one table of the finished runs, and writes it to sweep.csv."""
  by_setting: dict[str, list] = {}
  for job in jobs:
    work = workdir_lib.Workdir(job.workdir)
    by_setting.setdefault(job.setting, []).append(
        list(json_records.read_lines(work.metrics)))
  if not by_setting:
    return
  rows = seeds_lib.table(by_setting)
  table = place.folder / 'sweep.csv'
  text = io.StringIO()
  csv.writer(text).writerows([seeds_lib.COLUMNS, *rows])
  whole_files.write(table, text.getvalue().encode())
  place.send(table)
  terminal.print_table(seeds_lib.COLUMNS, rows)


def _words(given, path, pairs, workdir) -> tuple[str, ...]:
  words = [sys.executable, '-m', 'mtl_jax', 'run', f'--config={path}',
           f'--workdir={workdir}',
           *(f'--config.{name}={value}' for name, value in pairs),
           *(f'--plugins={plugin}' for plugin in given.plugins or ()),
           *(f'--jax_{name}={value}' for name, value in given.jax_flags)]
  for name in ('compilation_cache', 'cpu_devices'):
    if getattr(given, name) is not None:
      words.append(f'--{name}={getattr(given, name)}')
  return tuple(words)


def _short(name: str, varied: Sequence[str]) -> str:
  """The last word of a field's name, if it is unique among the fields."""
  last = [other.rpartition('.')[2] for other in varied]
  word = name.rpartition('.')[2]
  return word if last.count(word) == 1 else name


def _plain(text: str) -> str:
  """A value as a part of a folder's name."""
  return re.sub(r'[^\w.+-]+', '-', text).strip('-')


def _stem(config: str) -> str:
  """A config as a part of a folder's name."""
  return _plain(re.sub(r'\.py\b', '', config).rpartition('/')[2])


def _require_names(names: Sequence[str]) -> None:
  """Refuses names that can't be those of folders, each of one run."""
  for name in names:
    if len(f'{name}.log'.encode()) > LONGEST:
      raise ValueError(f'a run would have the name {name[:40]}..., of '
                       f'{len(name.encode())} bytes, and names of files have '
                       f'{LONGEST} at most; write the long value into a config '
                       'of its own')
  twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
  if twice:
    raise ValueError(f'two runs of the sweep would have the name {twice[0]}; '
                     'give each config, value and seed once')


def _require_different(
    found: Sequence[tuple[engines.Job, config_lib.Config]]) -> None:
  """Refuses two runs of one config, such as of the seeds 1 and 0x1."""
  known: dict[config_lib.Config, str] = {}
  for job, config in found:
    other = known.setdefault(config, job.name)
    if other != job.name:
      raise ValueError(f'the runs {other} and {job.name} of the sweep have the '
                       'same config; give each config, value and seed once')


def _finished(workdir: str, config: config_lib.Config) -> bool:
  """Whether a run ended as its config asks, without faults."""
  work = workdir_lib.Workdir(workdir)
  work.read(required=False)
  try:
    if not experiment.complete(work, sizing.recorded(work, config)):
      return False
    *_, last = json_records.read_lines(work.metrics)
  except ValueError:  # the run's own command reports the error
    return False
  return last['verified']['ok']


def _reason(job: engines.Job, code: int | str, begun: int) -> str:
  """The last error in a run's log since a byte of it, or how its process ended.
  """
  said = (job.log.read_bytes()[begun:].decode(errors='replace')
          if job.log.exists() else '')
  errors = [line for line in said.splitlines() if line.startswith('error: ')]
  if errors and code != 0:
    return errors[-1].removeprefix('error: ')
  if isinstance(code, str):
    return code
  # An error is always said, if there is room for it.
  return f'its process ended with {code}' + (
      f'; see {job.log}' if said or code != 1 else
      f' and could write nothing into {job.log}; make room on that disk')


def _at_least(name: str, value: int | None, least: int):
  if value is not None and value < least:
    raise ValueError(f'--{name} is {value}; it must be at least {least}')
  return value


def _check_engine(given: argparse.Namespace) -> None:
  """Refuses flags that the engine does not read."""
  unread = (('cpus', 'gpus', 'slurm') if given.engine == 'local' else
            ('slurm',) if given.engine != 'slurm' else ())
  for name in unread:
    if getattr(given, name) not in (None, []):
      raise ValueError(f'--{name} has no effect with --engine={given.engine}; '
                       'leave it out, or give --engine=slurm'
                       + ('' if name == 'slurm' else ' or --engine=ray'))


def _slurm(given: Iterable[str]) -> dict:
  """Parameters of submitit, with its prefix for options of SLURM."""
  found = {}
  for word in given:
    name, equals, text = word.partition('=')
    if not name or not equals:
      raise ValueError(f'--slurm={word}: write NAME=VALUE, such as '
                       '--slurm=partition=gpu')
    try:
      value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      value = text
    found[f'slurm_{name}'] = value
  return found
