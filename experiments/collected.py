"""Committed results: reads `experiments/*/results`, writes Markdown."""

import collections
import json
import pathlib
import re

from mtl_jax.evaluation import metrics

HERE = pathlib.Path(__file__).parent
NONE = 'No run is committed yet; `./run.sh` makes them.'


def read(path: pathlib.Path) -> list[dict]:
  """All lines of one file."""
  return [json.loads(line) for line in path.read_text().splitlines()]


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
        'tasks': [x for x in lines if x['kind'] == 'task']})
  require_seeds(prefix, [r['run'].get('config', {}) for r in found])
  return found


def require_seeds(prefix: str, configs: list[dict]) -> None:
  """Refuses runs that differ in more than a seed, or in what is measured."""
  free = ('seed', 'path_seed', 'identify', 'mixed_rows', 'transparency',
          'tensorboard', 'progress_seconds')

  def flat(value, name=''):
    if not isinstance(value, dict):
      return {name: value}
    return {leaf: v for k, part in value.items() if k not in free
            for leaf, v in flat(part, f'{name}.{k}').items()}
  if len({tuple(config.get('schedule', ())) for config in configs}) > 1:
    raise SystemExit(f'{prefix}: runs that are to be seeds of one config have '
                     'different phases')
  first, *others = map(flat, configs or [{}])
  for other in others:
    for name in first.keys() & other.keys():
      if first[name] != other[name]:
        raise SystemExit(f'{prefix}: runs that are to be seeds of one config '
                         f'differ in {name[1:]}: {first[name]!r} and '
                         f'{other[name]!r}')


def phase_accuracy(run: dict) -> dict[str, float]:
  """Mean test accuracy (last step) of every phase of a run, in percent."""
  found = collections.defaultdict(list)
  for task in run['tasks']:
    if task['accuracy']['test'] is not None:  # a regression has none
      found[task['phase']].append(100 * task['accuracy']['test'])
  return {phase: sum(v) / len(v) for phase, v in found.items()}


def spread(values: list[float], digits: int = 2) -> str:
  """Mean and standard deviation over seeds as text."""
  mean, std = metrics.mean_and_std(values)
  return f'{mean:.{digits}f}' + ('' if std is None
                                 else f' ± {std:.{digits}f}')


def where(found: list[dict]) -> str:
  """Hardware of runs; all of it."""
  names = {f"{r['run']['hardware']['cpu']}, {r['run']['hardware']['cores']} "
           'cores' if r['run']['hardware']['platform'] == 'cpu' else
           f"{r['run']['hardware']['count']} x "
           f"{r['run']['hardware']['device']}" for r in found}
  return ' / '.join(sorted(names))


def commits(found: list[dict]) -> str:
  return ', '.join(sorted({
      f'`{commit[:8]}`' for r in found
      for commit in r['run'].get('commits', [r['run']['commit']])}))


def replace_table(path: pathlib.Path, name: str, table: str) -> None:
  """Replaces what stands between `<!-- name -->` and `<!-- /name -->`."""
  text = path.read_text()
  start, stop = f'<!-- {name} -->', f'<!-- /{name} -->'
  if text.count(start) != 1 or text.count(stop) != 1:
    raise SystemExit(f'{path} needs the markers {start} and {stop} once each')
  head, rest = text.split(start)
  path.write_text(f'{head}{start}\n{table}\n{stop}{rest.split(stop)[1]}')


def markdown(columns: list[str], rows: list[list[str]]) -> str:
  """A table, or the words in place of an empty one."""
  if not rows:
    return NONE
  lines = ['| ' + ' | '.join(columns) + ' |', '|' + ' --- |' * len(columns)]
  return '\n'.join(lines + ['| ' + ' | '.join(r) + ' |' for r in rows])


def command(run: dict) -> str:
  """A run's command for any seed."""
  text = re.sub(r' --config.seed=\d+', '', run['run']['command'])
  return f"`{re.sub(r'_s[0-9]+[.]', '_sSEED.', text)}`"
