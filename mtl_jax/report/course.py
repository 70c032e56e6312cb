"""Figures of learning: curves, averages after each task, accuracy and bytes.

Each function takes (records, summary) and returns (figure, caption), or `None`
if the run has no such data; see `mtl_jax.report.figures`.
"""

import numpy as np

from mtl_jax.evaluation import anytime
from mtl_jax.report import drawing
from mtl_jax.report import vector


def curves(records, summary):
  """Training loss and accuracy per batch, and validation at the end."""
  del summary
  found = drawing.groups(
      records, lambda r: (r.get('curve') or {}).get('step'))
  panels = [key for key in ('loss', 'accuracy')
            if any(r['curve'].get(key) for m in found.values() for r in m)]
  if not panels:
    return None
  canvas, axes = drawing.axes(9.4, 3.4, len(panels), squeeze=False)
  styles = drawing.styles(records)
  validated = False
  for ax, key in zip(axes[0], panels):
    for label, members in found.items():
      own = [r['curve'] for r in members if r['curve'].get(key)]
      if own:
        drawing.plot_curves(ax, own, key, styles[label][0],
                            drawing.short(label, 40),
                            '--' if members[0]['control'] else '-')
      validated |= _validation(ax, members, key, *styles[label])
    ax.set_xlabel('training step')
    ax.set_ylabel('loss' if key == 'loss' else 'accuracy (%)')
  drawing.legend(canvas, axes[0][0])
  end = (' Marks at the end are the validation results of single tasks after '
         'training.' if validated else '')
  return canvas, ('Means over training batches. Thick lines are means over '
                  f'tasks, dashed lines are controls; {_singles(found)}{end}')


def _validation(ax, members, key, colour, marker) -> bool:
  """Marks each task's validation after its last step; `True` if any has one."""
  shown = [r for r in members if (r.get(key) or {}).get('valid') is not None]
  if not shown:
    return False
  scale = 100 if key == 'accuracy' else 1
  marks, = ax.plot([r['curve']['step'][-1] for r in shown],
                   [scale * r[key]['valid'] for r in shown], marker, ms=5,
                   mfc='none', color=colour, clip_on=False, zorder=3)
  vector.tips(marks, [
      f'{r["entry"]}: validation {key} '
      + (f'{100 * r[key]["valid"]:.2f} %' if scale == 100
         else f'{r[key]["valid"]:.4g}') for r in shown])
  return True


def validation(records, summary):
  """Loss and accuracy on validation images, measured during training."""
  del summary
  found = drawing.groups(
      records, lambda r: (r.get('validation') or {}).get('step'))
  panels = [key for key in ('loss', 'accuracy') if any(
      any(v is not None for v in r['validation'].get(key) or ())
      for m in found.values() for r in m)]
  if not panels:
    return None
  canvas, axes = drawing.axes(9.4, 3.4, len(panels), squeeze=False)
  styles = drawing.styles(records)
  for ax, key in zip(axes[0], panels):
    for label, members in found.items():
      drawing.plot_curves(
          ax, [r['validation'] for r in members], key, styles[label][0],
          drawing.short(label, 40), '--' if members[0]['control'] else '-',
          [r['entry'] for r in members])
    ax.set_xlabel('training step')
    ax.set_ylabel('validation loss' if key == 'loss'
                  else 'validation accuracy (%)')
  drawing.legend(canvas, axes[0][0])
  return canvas, (
      'Measured on each task’s validation images during training; step 0 is '
      'before the first batch. Thick lines are means over tasks, dashed lines '
      'are controls; ' + _singles(found))


def _singles(found) -> str:
  """The part of a caption that says how single tasks are drawn."""
  return ('bands go from the lowest to the highest task.'
          if any(len(members) > drawing.FAINT for members in found.values())
          else 'faint lines are single tasks.')


def seen(records, summary):
  """The mean accuracy over the tasks learned so far, after each task."""
  found = {label: [r for r in members if _test(r) is not None]
           for label, members in drawing.groups(records).items()}
  if max(map(len, found.values()), default=0) < 2:
    return None
  canvas, ax = drawing.axes(9.4, 3.4)
  styles = drawing.styles(records)
  for label, members in found.items():
    if members:
      _line(ax, label, [r['entry'] for r in members], _means(members),
            styles[label], '--' if members[0]['control'] else '-')
  again = _of_rows(summary, anytime.average_so_far)
  if again is not None:
    _line(ax, 'all, measured again after each task', summary['names'],
          again, (drawing.RC['text.color'], '.'), ':')
  ax.set_xlabel('tasks learned, or learned again')
  ax.set_ylabel('mean test accuracy (%)')
  ax.xaxis.get_major_locator().set_params(integer=True)
  drawing.legend(canvas, ax)
  caption = ('The mean test accuracy over the tasks that a phase has learned '
             'so far, each measured when it was learned; dashed lines are '
             'controls.')
  if again is not None:
    caption += (' The dotted line is the mean over the tasks of all phases, '
                'measured again after each.')
  return canvas, caption


def _line(ax, label, names, values, style, dashes):
  colour, marker = style
  line, = ax.plot(np.arange(len(values)) + 1, values, dashes, color=colour,
                  marker=marker, ms=4, label=drawing.short(label, 40))
  vector.tips(line, [f'{label}, after {name}: {value:.2f} %' for name, value
                     in zip(names, values)])


def _means(members):
  """Means after each entry; a task learned again counts with its last result.
  """
  last, means = {}, []
  for record in members:
    last[record['task']] = 100 * _test(record)
    means.append(np.mean(list(last.values())))
  return means


def _of_rows(summary, function):
  """A metric after each task, in percent; needs a complete matrix."""
  matrix = np.array(summary.get('matrix') or [[]], float)
  size = len(matrix)
  if size < 2 or matrix.shape != (size, size) or np.isnan(
      matrix[np.tril_indices(size)]).any():
    return None
  return 100 * function(matrix)


def forgetting(records, summary):
  """The forgetting measure after each task (Chaudhry et al. 2018)."""
  del records
  lost = _of_rows(summary, anytime.forgetting_so_far)
  if lost is None:
    return None
  canvas, ax = drawing.axes(9.4, 2.6)
  line, = ax.plot(np.arange(2, len(lost) + 2), lost, '-', marker='o', ms=4,
                  color=drawing.PALETTE[0])
  vector.tips(line, [f'after {name}: {value + 0.:.2f} %' for name, value in
                     zip(summary['names'][1:], lost)])
  edge = max(1., 1.1 * np.abs(lost).max())
  ax.set_ylim(-edge, edge)
  ax.set_xlabel('tasks learned')
  ax.set_ylabel('forgetting (%)')
  ax.xaxis.get_major_locator().set_params(integer=True)
  return canvas, (
      'The forgetting measure after each task (Chaudhry et al. 2018, '
      'arXiv:1801.10112): the best earlier accuracy of a task minus its '
      'accuracy now, averaged over all earlier tasks. 0 means that nothing is '
      'forgotten.')


def against_bytes(records, summary):
  """Accuracy against bytes, one mark per task, for runs with several methods.
  """
  del summary
  shown = lambda r: _test(r) is not None and (r.get('bytes') or {}).get('total')
  found = drawing.groups(records, shown)
  if len({r['method'] for m in found.values() for r in m}) < 2:
    return None
  canvas, ax = drawing.axes(9.4, 3.8)
  for label, members in found.items():
    colour, marker = drawing.styles(records)[label]
    control = members[0]['control']
    marks, = ax.plot([_bytes(r) for r in members],
                     [100 * _test(r) for r in members], marker, ms=6,
                     color=colour, mfc='none' if control else colour,
                     alpha=1 if control else .7, zorder=2 if control else 3,
                     label=drawing.short(label, 40))
    vector.tips(marks, [
        f'{r["entry"]} ({label}): {100 * _test(r):.2f} %, '
        f'{drawing.readable_bytes(_bytes(r))}' for r in members])
  ax.set_xscale('log')
  sizes = np.log10([_bytes(r) for m in found.values() for r in m])
  low, high = np.floor(sizes.min() - .05), np.ceil(sizes.max() + .05)
  ax.set_xlim(10 ** low, 10 ** high)
  ax.set_xticks(10. ** np.arange(low, high + 1))
  ax.set_xticks([], minor=True)
  ax.xaxis.set_major_formatter(lambda value, _: drawing.readable_bytes(value))
  ax.set_xlabel('bytes of one task (each grid line is ten times the last)')
  ax.set_ylabel('test accuracy (%)')
  drawing.legend(canvas, ax)
  caption = ('One mark per task: its test accuracy and the size of its '
             'impression in memory. Values that several tasks share count '
             'with each of them.')
  if any(m[0]['control'] for m in found.values()):
    caption += ' Hollow marks are controls.'
  return canvas, caption


def _test(record):
  return (record.get('accuracy') or {}).get('test')


def _bytes(record):
  return record['bytes']['total'] + (record['bytes'].get('referenced') or 0)
