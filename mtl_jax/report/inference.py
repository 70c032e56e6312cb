"""Figures and table rows of runs without task names.

Reads `summary['identity']` (lines of `scenarios.measure`), `['streams']`
(lines of `stream.learn`) and `['mixed']` (of `final.mixed_batch`).
"""

import numpy as np

from mtl_jax import trees
from mtl_jax.report import drawing

_SCENARIOS = {'GG': 'task given (GG)', 'GNs': 'inferred, labels shared (GNs)',
              'GNu': 'inferred, labels not shared (GNu)'}
_OBJECTIVES = {'entropy': 'H', 'superfluous': 'G'}


def rows(summary: dict) -> list[dict]:
  """One row of printable values per evaluation."""
  return [{
      'name': line['name'], 'tasks': line['tasks'],
      'rule': _rule(line),
      'images': f'{line["images"]} of {line["batch_size"]}',
      'identified': _percent(line['identified']),
      'passes': f'{line["passes"]:.0f}',
      **{name: _percent(line['accuracy'][name]) for name in _SCENARIOS}}
          for line in summary.get('identity') or []]


def _rule(line: dict) -> str:
  rule = f'{line["rule"].replace("_", "-")}, {_OBJECTIVES[line["objective"]]}'
  last = line.get('rerank')
  return f'{rule}, last {last} reranked' if last else rule


def sentences(summary: dict) -> list[str]:
  """One sentence per evaluation, for the terminal and the page."""
  found = []
  for row in rows(summary):
    found.append(
        f'{row["name"]}: task inferred ({row["rule"]}) from {row["images"]} '
        f'images, {trees.counted(row["tasks"], "task")}: {row["identified"]} '
        'of the inferences are right; accuracy '
        f'{row["GG"]} if the task is given, {row["GNs"]} if it is inferred, '
        f'{row["GNu"]} if task and class must both be right')
  for line in summary.get('streams') or []:
    returned = line['right_on_return']
    found.append(
        f'{line["phase"]}: a stream of '
        f'{trees.counted(line["tasks"], "unnamed task")} was learned with '
        f'{trees.counted(line["masks"], "mask")}; '
        f'{_percent(line["right_at_first"])} of the decisions were right'
        + ('' if returned is None else
           f', {_percent(returned)} when tasks returned'))
  mixed = summary.get('mixed')
  if mixed:
    found.append(
        f'one mixed batch: {trees.counted(mixed["rows"], "row")} of '
        f'{trees.counted(mixed["tasks"], "task")} in one call: accuracy '
        f'{_percent(mixed["accuracy"])}, largest difference from separate '
        f'calls {mixed["difference"]:.1g}')
  return found


def _percent(fraction):
  return f'{100 * fraction:.2f} %'


def curves(records, summary):
  """Accuracy with and without task names against the number of tasks."""
  del records
  lines: dict[str, list] = {}
  for line in summary.get('identity') or []:
    lines.setdefault(line['name'], []).append(line)
  lines = {name: sorted(found, key=lambda x: x['tasks'])
           for name, found in lines.items()}
  if not any(len(found) > 1 for found in lines.values()):
    return None
  canvas, ax = drawing.axes(9.4, 3.8)
  for i, (name, found) in enumerate(lines.items()):
    colour = drawing.PALETTE[i % len(drawing.PALETTE)]
    tasks = [x['tasks'] for x in found]
    for key, style in zip(('identified', *_SCENARIOS), (':', '--', '-.', '-')):
      values = [100 * (x['accuracy'] | x)[key] for x in found]
      label = _SCENARIOS.get(key, 'task identified')
      ax.plot(tasks, values, style, color=colour, marker='o', ms=4,
              label=drawing.short(f'{name}: {label}', 60))
  ax.set_xlabel('tasks learned')
  ax.set_ylabel('%')
  drawing.legend(canvas, ax)
  return canvas, ('Test accuracy if the task is given and if it is inferred, '
                  'and how often it is inferred correctly, against the number '
                  'of tasks.')


def confusion(records, summary):
  """How often the images of each task were assigned to each task."""
  del records
  found = [x for x in summary.get('identity') or [] if x.get('confusion')]
  if not found:
    return None
  line = max(found, key=lambda x: x['tasks'])
  counts = np.array(line['confusion']['counts'], float)
  shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
  canvas, ax = drawing.axes(4.9, 4.3)
  drawing.heat_map(canvas, ax, shares, line['confusion']['names'],
                   'inferences (%)', '.0f', (0, 100))
  ax.set_ylabel('images of …')
  return canvas, (f'“{line["name"]}”, '
                  f'{trees.counted(line["tasks"], "task")}. Row: the true '
                  'task of a test batch; column: the inferred task. On the '
                  'diagonal the inference is right.')
