"""A table of several runs: means over tasks, spread over seeds."""

import collections
from collections.abc import Iterable, Mapping, Sequence

from mtl_jax.evaluation import metrics
from mtl_jax.report import rows as rows_lib

COLUMNS = ('run', 'phase', 'tasks', 'seeds', 'test, %', 'run time')


def phase_accuracy(records: Iterable[Mapping]) -> dict[str, float]:
  """Mean test accuracy of every phase of a run, in percent.

  Args:
    records: the run's lines of kind 'task'; regressions have no accuracy.

  >>> phase_accuracy([{'phase': 'a', 'accuracy': {'test': .5}},
  ...                 {'phase': 'a', 'accuracy': {'test': 1.}}])
  {'a': 75.0}
  """
  found = collections.defaultdict(list)
  for record in records:
    if record['accuracy']['test'] is not None:
      found[record['phase']].append(100 * record['accuracy']['test'])
  return {phase: sum(v) / len(v) for phase, v in found.items()}


def spread(values: Sequence[float], digits: int = 2) -> str:
  """Mean and standard deviation over seeds as text.

  >>> spread([1., 3.]), spread([1.], 1)
  ('2.00 ± 1.41', '1.0')
  """
  mean, std = metrics.mean_and_std(values)
  return f'{mean:.{digits}f}' + ('' if std is None
                                 else f' ± {std:.{digits}f}')


def table(runs: Mapping[str, Sequence[Sequence[Mapping]]]) -> list[list[str]]:
  """Rows of `COLUMNS`: one for every phase of every setting.

  Args:
    runs: by setting, the lines of finished runs that differ only in the seed.
  """
  rows = []
  for setting, seeds in runs.items():
    tasks = [_last_lines(lines) for lines in seeds]
    accuracies = [phase_accuracy(records) for records in tasks]
    seconds = [[line for line in lines if line['kind'] == 'summary'][-1][
        'seconds_in_all'] for lines in seeds]
    for phase in dict.fromkeys(r['phase'] for each in tasks for r in each):
      there = [a[phase] for a in accuracies if phase in a]
      counts = sorted({len({r['task'] for r in each if r['phase'] == phase})
                       for each in tasks})
      rows.append([
          setting, phase, '-'.join(map(str, counts)), str(len(seeds)),
          spread(there) if there else _losses(tasks, phase),
          rows_lib.readable_seconds(sum(seconds) / len(seconds))])
  return rows


def _last_lines(lines: Iterable[Mapping]) -> list[dict]:
  """The last line of every task; an earlier start may have left another."""
  return rows_lib.last_paths(list({
      line['entry']: dict(line) for line in lines
      if line['kind'] == 'task'}.values()))


def _losses(tasks: Sequence[Sequence[Mapping]], phase: str) -> str:
  """The mean squared error of a regression."""
  means = [sum(found) / len(found) for found in (
      [r['loss']['test'] for r in each if r['phase'] == phase
       and (r.get('loss') or {}).get('test') is not None]
      for each in tasks) if found]
  return f'MSE {spread(means, 4)}' if means else '–'
