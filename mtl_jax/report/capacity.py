"""Sentences and figures on folded trees, ensembles, sizes and fine-tuning.

Reads `summary['capacity']` (of `capacity.measure`), `['ensembles']` and
`['carried']` (of `finetuning.measure`).
"""

import numpy as np

from mtl_jax import trees
from mtl_jax.report import drawing

_NAMED = drawing.COLOURS  # number of tasks named in the legend of owners


def sentences(summary: dict) -> list[str]:
  """Sentences for the terminal and the page."""
  found = []
  for tree in summary.get('capacity') or []:
    leaves = tree['leaves'].values()
    size, free = (sum(leaf[key] for leaf in leaves) for key in
                  ('size', 'free'))
    both = max((n for i, row in enumerate(tree['overlap'])
                for j, n in enumerate(row) if i != j), default=0)
    sizes = {key: drawing.readable_bytes(n) for key, n in
             tree['bytes'].items()}
    found.append(
        f'tree {tree["tree"]}: '
        f'{trees.counted(len(tree["tasks"]), "subnetwork")} '
        f'{"owns" if len(tree["tasks"]) == 1 else "own"} '
        f'{100 * (1 - free / size):.1f} % of {size:,} weights, and any two '
        f'have at most {both} in common; the folded tree takes '
        f'{sizes["folded"]}, the stored tasks {sizes["stored"]} on disk, and '
        f'separate networks would take {sizes["dedicated"]}')
  for line in summary.get('ensembles') or []:
    found.append(
        f'{line["phase"]}: an ensemble of {len(line["members"])} on '
        f'{line["task"]}: accuracy {100 * line["accuracy"]:.2f} %; its members '
        + ', '.join(f'{100 * a:.2f}' for a in line['members']) + ' %')
  for line in summary.get('carried') or []:
    matrix = line['matrix']
    if len(matrix) > 1:
      learned = np.mean([row[-1] for row in matrix])
      found.append(
          f'{line["phase"]}: one network fine-tuned in sequence ends with '
          f'a mean accuracy of {100 * np.mean(line["end"]):.2f} % over its '
          f'{trees.counted(len(matrix), "task")}; '
          f'right after each was learned, it was {100 * learned:.2f} %')
  return found


def owners(records, summary):
  """The share of each layer's weights that each task owns."""
  del records
  found = summary.get('capacity') or []
  if not found:
    return None
  tree = max(found, key=lambda t: len(t['tasks']))
  leaves, tasks = tree['leaves'], tree['tasks']
  canvas, ax = drawing.axes(9.4, 1.2 + .34 * len(leaves))
  left = np.zeros(len(leaves))
  colours = drawing.colours(min(len(tasks), drawing.COLOURS))
  for i, task in enumerate(tasks):
    width = np.array([100 * leaf['owned'][i] / leaf['size']
                      for leaf in leaves.values()])
    ax.barh(range(len(leaves)), width, left=left, edgecolor='white', lw=.4,
            color=colours[i % len(colours)],
            label=drawing.short(task) if i < _NAMED else None)
    left += width
  ax.set_yticks(range(len(leaves)), [drawing.short(n, 40) for n in leaves],
                fontsize=7.5)
  ax.set_ylim(len(leaves) - .4, -.6)
  ax.set_xlim(0, 100)
  ax.set_xlabel('weights owned (%); the rest is free')
  drawing.legend(canvas, ax)
  more = (f' (the first {_NAMED} of {len(tasks)} tasks are named; later tasks '
          'repeat the colours)' if len(tasks) > _NAMED else '')
  return canvas, (f'Tree “{tree["tree"]}”: the weights of each layer by the '
                  f'task that owns them{more}. Each weight has at most one '
                  'owner.')


def forgotten(records, summary):
  """Accuracy of every task while one network is fine-tuned in sequence."""
  del records
  found = [line for line in summary.get('carried') or []
           if len(line['matrix']) > 1]
  if not found:
    return None
  line = found[0]
  names = line['names']
  matrix = np.full((len(names), len(names)), np.nan)
  for i, row in enumerate(line['matrix']):
    matrix[i, :len(row)] = 100 * np.array(row)
  canvas, ax = drawing.axes(4.9, 4.3)
  drawing.heat_map(canvas, ax, matrix, names, 'test accuracy (%)', '.0f',
                   (0, 100))
  ax.set_ylabel('after …')
  return canvas, (f'“{line["phase"]}”: one dense network, fine-tuned on one '
                  'task after another. It forgets; stored impressions do not.')
