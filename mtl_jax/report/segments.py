"""Figures of tasks on shared segments, from `transparency.measure`.

Each function takes (records, summary) and returns (figure, caption), or `None`
if the run has no such data; see `mtl_jax.report.figures`.
"""

import numpy as np

from mtl_jax.report import drawing
from mtl_jax.report import vector


def _segments(summary) -> dict:
  return summary.get('segments') or {}


def graph(records, summary):
  """Levels and modules with the paths of the tasks, each in a colour.

  More tasks than `drawing.COLOURS` can't be told apart and get no figure.
  """
  del records
  found = _segments(summary)
  if not found or len(found['names']) > drawing.COLOURS:
    return None
  colours = drawing.colours(len(found['names']))
  levels, modules = len(found['paths'][0]), found['modules']
  canvas, ax = drawing.axes(9.4, .9 + .34 * modules)
  from matplotlib import patches
  for level in range(levels):
    for m in range(modules):
      ax.add_patch(patches.Rectangle(
          (level + .55, m - .36), .9, .72, fc='none', ec='#d0d4d9', zorder=1))
  users: dict[tuple, list[int]] = {}
  for k, path in enumerate(found['paths']):
    for level, row in enumerate(path):
      for m in row:
        users.setdefault((level, m), []).append(k)
  apart = min(.16, .8 / max(len(own) for own in users.values()))
  for k, name in enumerate(found['names']):
    spots = [(level + 1 + apart * (own.index(k) - (len(own) - 1) / 2), m)
             for (level, m), own in users.items() if k in own]
    dots, = ax.plot(*zip(*spots), 'o', ms=6, color=colours[k],
                    label=drawing.short(name), zorder=2)
    vector.tips(dots, [f'{name}: level {round(x)}, module {m}'
                       for x, m in spots], 'users')
  ax.set_xticks(range(1, levels + 1))
  ax.set_yticks(range(modules))
  ax.set_xlim(.4, levels + .6)
  ax.set_ylim(modules - .4, -.6)
  ax.set_xlabel('level')
  ax.set_ylabel('module')
  ax.grid(visible=False)
  drawing.legend(canvas, ax)
  shared = sum(len(own) > 1 for own in users.values())
  return canvas, (
      'Each square is a module; a dot marks a module that the task of that '
      f'colour uses. {shared} modules serve several tasks, '
      f'{len(users) - shared} one task and {levels * modules - len(users)} '
      'none.')


def _cka(found) -> str:
  """The estimate of CKA in a record; older records do not name it."""
  return found.get('cka', 'biased')


def relation(records, summary):
  """CKA of the tasks' features, and the overlap of their paths."""
  del records
  found = _segments(summary)
  if not found:
    return None
  names = found['names']
  canvas, (left, right) = drawing.axes(9.4, 4., 2)
  cka = np.array(found['relation'], float)
  np.fill_diagonal(cka, np.nan)
  drawing.heat_map(canvas, left, cka, names, f'linear CKA, {_cka(found)}',
                   '.2f')
  overlap = np.array(found['overlap'], float)
  np.fill_diagonal(overlap, np.nan)
  drawing.heat_map(canvas, right, overlap, names, 'common modules', '.0f')
  pairs = np.triu_indices(len(names), 1)
  text = ''
  if len(pairs[0]) > 2 and np.std(cka[pairs]) > 0 < np.std(overlap[pairs]):
    text = (' The correlation of the two over pairs is '
            f'{np.corrcoef(cka[pairs], overlap[pairs])[0, 1]:.2f}.')
  return canvas, (
      'Left: similarity of the last features of two tasks’ networks on images '
      'of all tasks. Right: the number of modules that their paths have in '
      'common; shared modules make features similar, whatever the tasks.'
      + text)


def similarity(records, summary):
  """CKA between each module and the same module of the controls."""
  del records
  found = _segments(summary)
  phases = (found or {}).get('similarity') or {}
  if not phases:
    return None
  canvas, axes = drawing.axes(9.4, 3.4, len(phases), squeeze=False)
  for ax, (phase, values) in zip(axes[0], phases.items()):
    means = np.ma.masked_invalid(np.array(values, float)).mean(axis=2)
    image = ax.imshow(means, vmin=0, vmax=1, cmap='viridis', aspect='auto')
    ax.set_title(drawing.short(f'and {phase}'), fontsize=9)
    ax.set_xticks(range(0, means.shape[1], 2),
                  range(1, means.shape[1] + 1, 2))
    ax.set_yticks(range(len(found['names'])),
                  [drawing.short(n) for n in found['names']], fontsize=7.5)
    ax.set_xlabel('level')
    ax.grid(visible=False)
  canvas.colorbar(image, ax=axes[0].tolist(),
                  label=f'linear CKA, {_cka(found)}', shrink=.8)
  return canvas, (
      'Similarity of a module’s outputs on the task’s own test images to those '
      'of the same module trained by another method from the same weights; '
      'means over the modules of a level.')


def ablation(records, summary):
  """Accuracy lost without a module, for private and for shared modules."""
  del records
  lines = _segments(summary).get('ablation') or []
  if not lines:
    return None
  levels = sorted({line['level'] for line in lines})
  canvas, ax = drawing.axes(9.4, 3.2)
  kinds = (('one task', lambda n: n == 1), ('several tasks', lambda n: n > 1))
  for i, (label, chosen) in enumerate(kinds):
    means = [np.mean([100 * line['lost'] for line in lines if
                      line['level'] == level and chosen(line['users'])]
                     or [np.nan]) for level in levels]
    ax.bar(np.array(levels) + .4 * i - .2, means, .38, label=label,
           color=drawing.PALETTE[i])
  ax.set_xticks(levels)
  ax.set_xlabel('level')
  ax.set_ylabel('accuracy lost (points)')
  drawing.legend(canvas, ax)
  return canvas, ('The accuracy that a task loses if the outputs of one module '
                  'of its path are set to 0, for modules used by one task and '
                  'by several; means over tasks.')


def probe(records, summary):
  """Linear probes of each task on each task's features."""
  del records
  found = _segments(summary)
  if not found:
    return None
  canvas, ax = drawing.axes(4.9, 4.3)
  drawing.heat_map(canvas, ax, 100 * np.array(found['probe'], float),
                   found['names'], 'accuracy (%)', '.0f')
  ax.set_ylabel('features of …')
  return canvas, ('Row: the task whose network computes the features; column: '
                  'the task that logistic regression learns from them.')


def robustness(records, summary):
  """Accuracy against the strength of each corruption."""
  del records
  found = _segments(summary).get('robustness') or {}
  if not found:
    return None
  canvas, ax = drawing.axes(4.9, 4.3)
  colours = drawing.colours(len(found))
  kinds = sorted(set().union(*found.values()) - {'none'})
  styles = dict(zip(kinds, ('-', '--', ':')))
  for kind, style in styles.items():  # for the legend
    ax.plot([], style, color='#57606a', label=kind)
  for colour, (phase, values) in zip(colours, found.items()):
    ax.plot([], 's', color=colour, label=phase or 'shared')
    for kind, style in styles.items():
      ax.plot(range(6), [100 * v for v in [values['none'], *values[kind]]],
              style, color=colour)
  ax.set_xlabel('strength')
  ax.set_ylabel('mean accuracy (%)')
  drawing.legend(canvas, ax)
  return canvas, ('Mean test accuracy of the tasks on corrupted images. '
                  "PaRT's paper has no such measurement.")
