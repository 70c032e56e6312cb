"""Committed results: reads `experiments/*/results`, writes Markdown."""

import pathlib
import re

from mtl_jax import json_files
from mtl_jax.report import seeds
from mtl_jax.storage import provenance

HERE = pathlib.Path(__file__).parent
_REMEDY = 'collect the run again, or restore the file with git'
NONE = 'No run is committed yet; `./run.sh` makes them.'
spread = seeds.spread


def read(path: pathlib.Path) -> list[dict]:
  """All lines of one file."""
  return list(json_files.read_lines(path, {}, 'the file of results', _REMEDY,
                                    may_be_cut=False))


def runs(folder: pathlib.Path, prefix: str) -> list[dict]:
  """The finished runs whose file name is `prefix` + '_s' + seed.

  Returns:
    Dicts {'run', 'tasks', 'summary'} in the order of seeds.
  """
  found = []
  for path in sorted((folder / 'results').glob(f'{prefix}_s[0-9]*.jsonl')):
    lines = read(path)
    found.append({
        'run': next(x for x in lines if x['kind'] == 'run'),
        'summary': next(x for x in lines if x['kind'] == 'summary'),
        'tasks': [x for x in lines if x['kind'] == 'task'],
        'identity': [x for x in lines if x['kind'] == 'identity']})
  require_seeds(prefix, [r['run'] for r in found])
  return found


def require_seeds(prefix: str, starts: list[dict]) -> None:
  """Refuses runs that differ in more than a seed, or in what is measured.

  Args:
    prefix: name of the runs in the message.
    starts: their lines of kind 'run'.
  """
  if len({tuple(start.get('config', {}).get('schedule', ()))
          for start in starts}) > 1:
    raise SystemExit(f'{prefix}: runs that are to be seeds of one config have '
                     'different phases')
  first, *others = map(_origin, starts or [{}])
  for other in others:
    for name in first:
      if name in other and first[name] != other[name]:
        raise SystemExit(f'{prefix}: runs that are to be seeds of one config '
                         f'differ in {name}: {first[name]!r} and '
                         f'{other[name]!r}; make them alike, or give one of '
                         'them another name')


def _origin(start: dict) -> dict:
  """The facts that must be equal among averaged runs, by name."""
  free = ('seed', 'path_seed', 'identify', 'mixed_rows', 'transparency',
          'tensorboard', 'wandb', 'progress_seconds', 'validate_every')

  def flat(value, name=''):
    if not isinstance(value, dict):
      return {name[1:]: value}
    return {leaf: v for k, part in value.items() if k not in free
            for leaf, v in flat(part, f'{name}.{k}').items()}
  found = flat(start.get('config', {}))
  versions, hardware = (start.get(name, {}) for name in
                        ('versions', 'hardware'))
  found |= {name: hardware[name] for name in ('platform', 'device')
            if name in hardware}
  found |= {name: versions[name] for name in ('jax', 'jaxlib')
            if name in versions}
  # Before they were recorded they were not changed either.
  found |= {name: versions.get(name, unrecorded)
            for name, (unrecorded, _) in provenance.SETTINGS.items()}
  return found


def phase_accuracy(run: dict) -> dict[str, float]:
  """Mean test accuracy (last step) of every phase of a run, in percent."""
  return seeds.phase_accuracy(run['tasks'])


def minutes(found: list[dict], digits: int = 1) -> str:
  """Minutes of runs, summed over all their starts.

  Earlier versions recorded only the finished tasks of a killed run. The minutes
  of such results are a lower bound.
  """
  lost = any(r['run'].get('starts', 1) > 1
             and not r['summary'].get('seconds_whole') for r in found)
  return ('at least ' if lost else '') + spread(
      [r['summary']['seconds'] / 60 for r in found], digits)


def where(found: list[dict]) -> str:
  """All hardware on which the runs were made."""
  names = {f"{r['run']['hardware']['cpu']}, {r['run']['hardware']['cores']} "
           'cores' if r['run']['hardware']['platform'] == 'cpu' else
           f"{r['run']['hardware']['count']} x "
           f"{r['run']['hardware']['device']}" for r in found}
  return ' / '.join(sorted(names))


def ran(found: list[dict]) -> str:
  """How runs were made: their command, hardware and minutes."""
  return f'{command(found)} on {where(found)}, {minutes(found)} min'


def commits(found: list[dict]) -> str:
  return ', '.join(sorted({
      f'`{commit[:8]}`' for r in found
      for commit in r['run'].get('commits', [r['run']['commit']])}))


def replace_table(path: pathlib.Path, name: str, table: str) -> None:
  """Replaces the text between `<!-- name -->` and `<!-- /name -->`."""
  text = path.read_text()
  start, stop = f'<!-- {name} -->', f'<!-- /{name} -->'
  if text.count(start) != 1 or text.count(stop) != 1:
    raise SystemExit(f'{path} needs the markers {start} and {stop} once each')
  head, rest = text.split(start)
  path.write_text(f'{head}{start}\n{table}\n{stop}{rest.split(stop)[1]}')


def markdown(columns: list[str], rows: list[list[str]]) -> str:
  """A Markdown table, or the given text if there are no rows."""
  if not rows:
    return NONE
  lines = ['| ' + ' | '.join(columns) + ' |', '|' + ' --- |' * len(columns)]
  return '\n'.join(lines + ['| ' + ' | '.join(r) + ' |' for r in rows])


def command(found: list[dict]) -> str:
  """The command of one run with its seed, or of several for any seed."""
  run = found[0]['run']
  seed = run.get('seed', 0) if len(found) == 1 else 'SEED'
  text = re.sub(r' --config.seed=\d+', '', run['command'])
  text = re.sub(r'_s[0-9]+[.]', f'_s{seed}.', text)
  text = re.sub(r'(part_five_tasks[.]py:)\d+', rf'\g<1>{seed}', text)
  if '-m mtl_jax.main' in text and 'part_five_tasks' not in text:
    text += f' --config.seed={seed}'
  return f'`{text}`'
