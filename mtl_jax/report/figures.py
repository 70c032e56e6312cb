"""The figures of a report, as SVG text for one self-contained HTML page.

Each `_name(records, summary)` returns a figure and its caption, or `None` if
the run has no data for it; `draw` calls all of them.
"""

import warnings
from typing import NamedTuple

import numpy as np

from mtl_jax.report import capacity as capacity_report
from mtl_jax.report import course
from mtl_jax.report import drawing
from mtl_jax.report import inference as inference_report
from mtl_jax.report import rows as rows_lib
from mtl_jax.report import search as search_report
from mtl_jax.report import segments as segments_report
from mtl_jax.report import vector


class Figure(NamedTuple):
  """A figure as SVG text, with its title and caption."""
  name: str
  title: str
  caption: str
  svg: str
  wide: bool


def draw(records: list[dict], summary: dict) -> list[Figure]:
  """All figures for which there is data; `page` describes the inputs."""
  import matplotlib
  drawings = []
  with matplotlib.rc_context(), warnings.catch_warnings():
    warnings.filterwarnings('ignore', message='Glyph')  # the browser has fonts
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(drawing.RC)  # type: ignore[arg-type]
    for name, (title, wide, function) in _FIGURES.items():
      drawn = function(records, summary)
      if drawn is not None:
        figure, caption = drawn
        matplotlib.rcParams['svg.hashsalt'] = name
        drawings.append(Figure(name, title, caption, vector.svg(figure), wide))
  return drawings


def _accuracy(records, summary):
  del summary
  found = drawing.groups(records, lambda r: _test(r) is not None)
  if not found:
    return None
  names = dict.fromkeys(r['task'] for m in found.values() for r in m)
  tasks = {name: i for i, name in enumerate(names)}
  canvas, ax = drawing.axes(9.4, 3.6)
  for label, members in found.items():
    colour, marker = drawing.styles(records)[label]
    control = members[0]['control']
    marks, = ax.plot(
        [tasks[r['task']] for r in members],
        [100 * _test(r) for r in members], marker, color=colour,
        label=drawing.short(label, 40), ms=6 if len(tasks) < 41 else 4,
        mfc='none' if control else colour, zorder=2 if control else 3)
    vector.tips(marks, [f'{r["entry"]} ({label}): {100 * _test(r):.2f} %'
                        for r in members])
  drawing.name_ticks(ax, list(tasks))
  ax.set_ylabel('test accuracy (%)')
  drawing.legend(canvas, ax)
  caption = ('Each dot is the test accuracy of one task with its stored '
             'impression; the axis may start above 0.')
  if any(r['control'] for r in records):
    caption += (' Hollow marks are controls: the same task learned by '
                'another method, for comparison.')
  return canvas, caption


def _matrix(records, summary):
  del records
  matrix = np.array(summary.get('matrix') or [[]], float) * 100
  size = len(matrix)
  if matrix.shape != (size, size):
    return None
  if not np.isfinite(matrix[~np.eye(size, dtype=bool)]).any():
    return None
  canvas, ax = drawing.axes(4.9, 4.3)
  drawing.heat_map(canvas, ax, matrix, summary['names'], 'test accuracy (%)',
                   '.0f')
  ax.set_ylabel('after learning …')
  caption = ('Row: the task just learned; column: the task tested. A column '
             'shows whether the accuracy of a task changes while later tasks '
             'are learned; without forgetting, it keeps one colour. The cell '
             'above the diagonal is the accuracy before the task was learned.')
  if np.isnan(matrix).any():
    caption += ' Empty cells were not measured.'
  return canvas, caption


def _overlap(records, summary):
  overlap = summary.get('overlap')
  matrix = np.array((overlap or {}).get('matrix') or [[]], float)
  size = len(matrix)
  if size < 2 or matrix.shape != (size, size):
    return None
  np.fill_diagonal(matrix, np.nan)
  if not np.isfinite(matrix).any():
    return None
  chance = _chance_overlap(records, overlap['names'])
  values = np.append(matrix[np.isfinite(matrix)], chance or [])
  limits = max(values.min() - .02, 0.), min(values.max() + .02, 1.)
  canvas, ax = drawing.axes(4.9, 4.3)
  drawing.heat_map(canvas, ax, matrix, overlap['names'], 'Jaccard overlap',
                   '.2f', limits)
  caption = ('Overlap of the masks of two tasks: the number of weights in '
             'both masks divided by the number in either mask (Jaccard index); '
             'the diagonal is left out.')
  if chance:
    low, high = (f'{value:.2f}' for value in chance)
    expected = low if low == high else f'between {low} and {high}'
    caption += (f' Two independent random masks of these densities would '
                f'give {expected}.')
  return canvas, caption


def _chance_overlap(records, names):
  """Bounds of the expected Jaccard index d / (2 - d) of independent masks."""
  densities = [d for r in records if r['entry'] in set(names)
               for d in (r.get('density') or {}).values() if d]
  if not densities:
    return None
  return [d / (2 - d) for d in (min(densities), max(densities))]


def _basis(records, summary):
  del summary
  records = [r for r in records if _test(r) is not None]
  main = [r for r in records if r.get('basis') and not r['control']]
  sizes = sorted({r['basis']['size'] for r in main})
  if len(sizes) < 2:
    return None
  canvas, ax = drawing.axes(9.4, 3.8)
  for i, kind in enumerate(dict.fromkeys(r['basis']['kind'] for r in main)):
    points = {}
    for r in main:
      if r['basis']['kind'] == kind:
        points.setdefault(r['basis']['size'], []).append(100 * _test(r))
    x = sorted(points)
    colour = drawing.PALETTE[i % len(drawing.PALETTE)]
    ax.fill_between(x, [min(points[k]) for k in x], [max(points[k]) for k in x],
                    color=colour, alpha=.13, lw=0)
    ax.plot(x, [np.mean(points[k]) for k in x], 'o-', color=colour, ms=5,
            label=drawing.short(f'{kind} basis', 40))
  tasks = {r['task'] for r in main}
  controls = drawing.groups(
      records, lambda r: r['control'] and r['task'] in tasks)
  for i, (label, members) in enumerate(controls.items()):
    ax.axhline(100 * np.mean([_test(r) for r in members]), lw=1.2,
               ls=('--', ':', '-.')[i % 3], color=drawing.CONTROL,
               label=drawing.short(label, 40))
  if sizes[-1] >= 8 * sizes[0] > 0:
    ax.set_xscale('log')
  ax.set_xticks(sizes, [str(size) for size in sizes])
  ax.set_xticks([], minor=True)
  ax.set_xlabel('K, the number of masks in the basis')
  ax.set_ylabel('test accuracy (%)')
  drawing.legend(canvas, ax)
  return canvas, (
      'Tasks learned by combining K fixed masks: lines are means over tasks, '
      'bands go from the lowest to the highest task'
      + (', the dashed line is the mean of the controls on the same tasks.'
         if controls else '.'))


def _test(record):
  return (record.get('accuracy') or {}).get('test')


def _density(records, summary):
  del summary
  found = drawing.groups(records, lambda r: r.get('density'))
  if not found:
    return None
  layers = list(dict.fromkeys(
      layer for m in found.values() for r in m for layer in r['density']))
  canvas, ax = drawing.axes(9.4, min(1.1 + .3 * len(layers), 14))
  shift, styles = .5 / len(found), drawing.styles(records)
  for i, label in enumerate(found):
    colour, marker = styles[label]
    for y, layer in enumerate(layers):
      values = [100 * r['density'][layer] for r in found[label]
                if r['density'].get(layer) is not None]
      if values:
        y += (i - (len(found) - 1) / 2) * shift
        ax.plot([min(values), max(values)], [y, y], color=colour, lw=3,
                alpha=.3, solid_capstyle='round')
        ax.plot(np.mean(values), y, marker, color=colour, ms=6)
    ax.plot([], [], marker, color=colour, label=drawing.short(label, 40))
  ax.set_yticks(range(len(layers)), [drawing.short(n, 40) for n in layers],
                fontsize=7.5)
  ax.set_ylim(len(layers) - .4, -.6)
  high = ax.get_xlim()[1]
  ax.set_xlim(0, 101 if high > 40 else high)
  ax.set_xlabel('weights kept (%)')
  drawing.legend(canvas, ax)
  return canvas, ('The share of each layer’s weights that the masks keep: '
                  'dots are means over tasks, bars go from the lowest to the '
                  'highest task.')


def _bytes(records, summary):
  del summary
  found = {}
  for label, members in drawing.groups(rows_lib.last_paths(records)).items():
    sizes = [r['bytes'] for r in members if (r.get('bytes') or {}).get('total')]
    if sizes:
      found[label] = [
          np.mean([s[key] for s in sizes if s.get(key)] or [np.nan])
          for key in ('total', 'stored', 'dedicated')]
  if not found:
    return None
  values = np.array(list(found.values()))
  canvas, ax = drawing.axes(9.4, 1.2 + .42 * len(found))
  y = range(len(found))
  ax.hlines(y, np.nanmin(values, axis=1), np.nanmax(values, axis=1),
            color='#d0d4d9', lw=2, zorder=1)
  for column, (label, marker, size, colour) in enumerate((
      ('impression in memory', 'o', 9, drawing.PALETTE[0]),
      ('impression on disk', 's', 4.5, drawing.PALETTE[4]),
      ('dedicated network', 'D', 8, drawing.CONTROL))):
    if np.isfinite(values[:, column]).any():
      marks, = ax.plot(
          values[:, column], y, marker, color=colour, ms=size, label=label,
          mfc=colour if column < 2 else 'none', zorder=3 + column % 2)
      vector.tips(marks, [
          f'{name}, {label}: {drawing.readable_bytes(value)}' for name, value
          in zip(found, values[:, column]) if np.isfinite(value)])
  for row, (total, stored, own) in enumerate(values):
    if own >= 1.5 * total:
      disk = (f', {drawing.readable_times(own / stored)}× on disk'
              if stored > 0 else '')
      ax.text(own * 1.3, row, f'{drawing.readable_times(own / total)}× '
              f'smaller{disk}', va='center', fontsize=8)
  ax.set_xscale('log')
  low, high = np.nanmin(values), np.nanmax(values)
  ax.set_xlim(low / 2, high * 20)
  ax.set_xticks([p for p in 10. ** np.arange(13) if low / 2 <= p <= high * 2])
  ax.xaxis.set_major_formatter(lambda value, _: drawing.readable_bytes(value))
  ax.set_yticks(y, [drawing.short(label, 40) for label in found])
  ax.set_ylim(len(found) - .5, -.5)
  ax.set_xlabel('bytes per task, mean (each grid line is ten times the last)')
  drawing.legend(canvas, ax)
  caption = ('The cost of one more task: the size of its impression in memory '
             'and on disk, and of a network trained for that task alone.')
  if any(r.get('basis') for r in records):
    caption += (' The masks of a basis count with the tasks that learned them, '
                'not with the tasks that combine them.')
  return canvas, caption


# The colour of each part of a task's time.
_PARTS = {'train': 0, 'validate': 3, 'evaluate': 4, 'save': 2}


def _seconds(records, summary):
  del summary
  keys = tuple(key for key in ('train', 'validate', 'evaluate', 'save')
               if any((r.get('seconds') or {}).get(key) for r in records))
  parts = np.array([[(r.get('seconds') or {}).get(key) or 0. for key in keys]
                    for r in records])
  if not parts.any():
    return None
  canvas, ax = drawing.axes(9.4, 3.2)
  base, edges = np.zeros(len(records)), np.arange(len(records) + 1) - .5
  for i, key in enumerate(keys):
    top = base + parts[:, i]
    ax.stairs(top, edges, baseline=base, fill=True, label=key,
              color=drawing.PALETTE[_PARTS[key]])
    marks, = ax.plot(range(len(records)), (base + top) / 2, 's', alpha=0,
                     ms=9)
    vector.tips(marks, [f'{r["entry"]}: {seconds:.3g} s to {key}'
                        for r, seconds in zip(records, parts[:, i])])
    base = top
  drawing.name_ticks(ax, [r['entry'] for r in records])
  ax.set_ylabel('seconds')
  drawing.legend(canvas, ax)
  return canvas, ('Wall time of every task in the order learned; the first '
                  'task of each kind also pays for compilation.')


_FIGURES = {
    'accuracy': ('Accuracy of every task', True, _accuracy),
    'against_bytes': ('Accuracy against bytes', True, course.against_bytes),
    'seen': ('Average over the tasks seen so far', True, course.seen),
    'forgetting': ('Forgetting after each task', True, course.forgetting),
    'matrix': ('Accuracy while learning', False, _matrix),
    'overlap': ('Overlap of masks', False, _overlap),
    'segments': ('Which tasks use which modules', True,
                 segments_report.graph),
    'relation': ('Similarity of features and overlap of paths', True,
                 segments_report.relation),
    'similarity': ('Similarity of modules between methods', True,
                   segments_report.similarity),
    'ablation': ('Accuracy without a module', True,
                 segments_report.ablation),
    'probe': ('Linear probes on the features of other tasks', False,
              segments_report.probe),
    'robustness': ('Accuracy under corruptions', False,
                   segments_report.robustness),
    'confusion': ('Confusion of tasks', False, inference_report.confusion),
    'identity': ('Accuracy without task names', True, inference_report.curves),
    'network': ('The evolved network', True, search_report.network),
    'quality': ('Quality during the search', True, search_report.quality),
    'costs': ('Cost of each path', True, search_report.costs),
    'inheritance': ('Ancestry of the paths', True,
                    search_report.inheritance),
    'curves': ('Learning curves', True, course.curves),
    'validation': ('Validation while training', True, course.validation),
    'basis': ('Accuracy against the size of the basis', True, _basis),
    'density': ('Density of masks', True, _density),
    'owners': ('Owners of the weights', True, capacity_report.owners),
    'forgotten': ('What fine-tuning forgets', False,
                  capacity_report.forgotten),
    'bytes': ('Size of a task', True, _bytes),
    'seconds': ('Time', True, _seconds),
}
