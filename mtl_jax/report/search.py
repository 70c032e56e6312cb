"""Figures of a network that grew by evolution (mu2Net).

Reads `record['search']` of the tasks (`mtl_jax.training.search` writes it): the
components of the path as [name, id, weights], its parent, the quality of every
child of the search, and the cost of the path.
"""

import numpy as np

from mtl_jax.report import drawing

_ROOT = '#c9ccd1'
_MOST = 24  # tasks in one drawing of the network


def _grown(records, controls=False):
  return [r for r in records if r.get('search')
          and (controls or not r['control'])]


def _last(records):
  """The path that every task ends with, in the order of learning."""
  return list({r['task']: r for r in _grown(records)}.values())


def _colours(records):
  import matplotlib
  tasks = list(dict.fromkeys(r['task'] for r in _grown(records, True)))
  scale = matplotlib.colormaps['turbo']
  places = np.linspace(.08, .92, max(2, len(tasks)))
  return {task: scale(place) for task, place in zip(tasks, places)}


def network(records, summary):
  """Components as nodes, from the images below to the heads above; a chain
  per task."""
  del summary
  paths = _last(records)[:_MOST]
  if not paths:
    return None
  colours = _colours(records)
  rows = _rows(paths)
  first, places = _nodes(_grown(records), paths, rows)
  canvas, ax = drawing.axes(9.4, max(3.4, .42 * len(rows) + 1.4))
  for i, record in enumerate(paths):
    shift = .16 * (i - (len(paths) - 1) / 2) / max(1, len(paths) - 1) * 2
    chain = [places[c[1]] for c in sorted(
        record['search']['components'], key=lambda c: rows[c[0]])]
    ax.plot([x + shift for x, _ in chain], [y for _, y in chain], lw=1.6,
            color=colours[record['task']], zorder=1,
            alpha=.45 if record['search'].get('private') else .95,
            label=drawing.short(record['task'] + (
                ' (private)' if record['search'].get('private') else '')))
  for identity, (x, y) in places.items():
    ax.scatter([x], [y], s=150, marker='s', zorder=2, linewidths=.8,
               edgecolors='#57606a',
               color=[colours.get(first[identity], _ROOT)])
  for record in paths:
    head = next(c for c in record['search']['components'] if c[0] == 'head')
    x, y = places[head[1]]
    ax.annotate(f'{100 * record["accuracy"]["test"]:.1f} %', (x, y + .28),
                ha='center', va='bottom', fontsize=7.5)
  ax.set_yticks(list(rows.values()), list(rows), fontsize=7.5)
  ax.set_xticks([])
  ax.set_ylim(-.6, len(rows) + .1)
  ax.grid(visible=False)
  ax.spines[:].set_visible(False)
  drawing.legend(canvas, ax)
  return canvas, (
      'Every square is a component; a chain is the path of one task, from the '
      'images at the bottom to its head, with the test accuracy above. A '
      'component has the colour of the task that trained it first; the root’s '
      'are grey. Where chains meet, tasks share a component.')


def _rows(paths) -> dict[str, int]:
  """A row for every component name, in the order of the signal."""
  names = {c[0] for r in paths for c in r['search']['components']}

  def order(name):
    fixed = {'embedding': -3, 'cls': -2, 'posembed_input': -1,
             'encoder_norm': 10 ** 6, 'head': 10 ** 6 + 1}
    if name in fixed:
      return fixed[name]
    kind, _, number = name.rpartition('_')
    return 2 * int(number) + (kind == 'encoderblock')
  return {name: i for i, name in enumerate(sorted(names, key=order))}


def _nodes(records, paths, rows):
  """({id: task that trained it first}, {id: (x, y)}); the root's is left."""
  first: dict[str, str | None] = {}
  for record in records:
    roots = set(record['search']['from_root'])
    for name, identity, _ in record['search']['components']:
      first.setdefault(identity, None if name in roots else record['task'])
  columns: dict[str, list[str]] = {name: [] for name in rows}
  for record in paths:
    for name, identity, _ in record['search']['components']:
      if identity not in columns[name]:
        columns[name].append(identity)
  places = {}
  for name, found in columns.items():
    found.sort(key=lambda i: first[i] is not None)  # the root's first
    for x, identity in enumerate(found):
      places[identity] = (x - (len(found) - 1) / 2, rows[name])
  return first, places


def quality(records, summary):
  """Validation accuracy of every child, and the best so far."""
  del summary
  paths = _grown(records)
  if not paths:
    return None
  colours, at = _colours(records), 0
  canvas, ax = drawing.axes(9.4, 3.6)
  named: set[str] = set()
  quality_of: dict[str, float] = {}
  for record in paths:
    children = record['search']['children']
    best = [100 * max([0., *child['evals']]) for child in children]
    before = 100 * quality_of.get(record['task'], 0.)
    kept = np.maximum.accumulate([before, *(
        value if child['improved'] else 0.
        for value, child in zip(best, children))])[1:]
    quality_of[record['task']] = record['search']['quality']
    x = at + np.arange(len(best))
    colour, task = colours[record['task']], record['task']
    ax.plot(x, best, 'o', color=colour, ms=3, alpha=.35)
    ax.plot(x, np.where(kept > 0, kept, np.nan), color=colour,
            drawstyle='steps-post',
            label=None if task in named else drawing.short(task))
    named.add(task)
    at += len(best)
  ax.set_xlabel('children trained')
  ax.set_ylabel('validation accuracy (%)')
  drawing.legend(canvas, ax)
  return canvas, ('Each dot is the best validation of one child, in the order '
                  'in which they were trained; the line is the best path that '
                  'the search has kept.')


def costs(records, summary):
  """Weights that a task added, weights that it shares, and its operations."""
  del summary
  paths = _last(records)
  if not paths:
    return None
  new = introduced(_grown(records))
  canvas, (left, right) = drawing.axes(9.4, 3.2, columns=2)
  x = np.arange(len(paths))
  total = np.array([r['search']['weights'] for r in paths]) / 1e6
  own = np.array([new[r['task']] for r in paths]) / 1e6
  left.bar(x, own, color=drawing.PALETTE[0], label='introduced by the task')
  left.bar(x, np.maximum(total - own, 0), bottom=own, color=_ROOT,
           label='shared with earlier tasks or the root')
  left.plot(x, [r['search']['accounted'] / 1e6 for r in paths], 'D', ms=4,
            color=drawing.PALETTE[1],
            label='accounted: divided by users when it was learned')
  left.set_ylabel('million weights')
  right.bar(x, [r['search']['flops'] / 1e6 for r in paths],
            color=drawing.PALETTE[2])
  right.set_ylabel('million operations per image')
  for ax in (left, right):
    drawing.name_ticks(ax, [r['task'] for r in paths])
  drawing.legend(canvas, left)
  return canvas, ('What a task activates and what it added. The more it '
                  'shares, the less it adds.')


def introduced(records) -> dict[str, int]:
  """By task, the number of weights that it added to the tasks' last paths.

  A component belongs to the task that trained it. If that task's last path no
  longer has it, it belongs to the first task that still uses it. So the sum is
  the number of weights that are in the last paths but not in the root.

  Args:
    records: of the paths of one network in the order of their commits.
  """
  owner: dict[str, str] = {}
  for record in records:
    roots = set(record['search']['from_root'])
    for name, identity, _ in record['search']['components']:
      owner.setdefault(identity, '' if name in roots else record['task'])
  last = {r['task']: {c[1]: c[2] for c in r['search']['components']}
          for r in records}
  found = dict.fromkeys(last, 0)
  for identity, task in owner.items():
    users = [t for t, own in last.items() if identity in own]
    if task and users:
      user = task if task in users else users[0]
      found[user] += last[user][identity]
  return found


def inheritance(records, summary):
  """The stored path that is the parent of each path."""
  del summary
  paths = _grown(records)
  if len(paths) < 2:
    return None
  colours = _colours(records)
  names = ['root', *(r['entry'] for r in paths)]
  column, rows = {'root': 0}, {'root': 0}
  for i, record in enumerate(paths):
    seed = record['search']['seed']
    column[record['entry']] = column.get(seed, 0) + 1
    rows[record['entry']] = i + 1
  canvas, ax = drawing.axes(9.4, max(2.4, .32 * len(names) + .6))
  for record in paths:
    seed, entry = record['search']['seed'], record['entry']
    ax.annotate('', (column[entry] - .03, -rows[entry]),
                (column.get(seed, 0) + .03, -rows.get(seed, 0)),
                arrowprops={'arrowstyle': '-|>', 'lw': .9, 'color': '#9aa0a6',
                            'connectionstyle': 'angle,angleA=-90,angleB=0'})
  for name in names:
    task = next((r['task'] for r in paths if r['entry'] == name), None)
    ax.plot([column[name]], [-rows[name]], 'o', ms=7,
            color=colours.get(task, _ROOT))
    ax.annotate(drawing.short(name), (column[name] + .06, -rows[name]),
                va='center', fontsize=8)
  ax.set_xlim(-.2, max(column.values()) + .9)
  ax.set_ylim(-len(names) + .4, .6)
  ax.set_xticks([])
  ax.set_yticks([])
  ax.grid(visible=False)
  ax.spines[:].set_visible(False)
  return canvas, ('Inheritance: an arrow leads from a stored path to the task '
                  'whose best child descends from it. '
                  'Numbers after “~” are earlier iterations.')
