"""Figures of a network that an evolutionary search grew (mu2Net).

Reads `record['search']` of the tasks (written by `mtl_jax.training.search`):
the components of the path as [name, id, weights], its parent, the quality of
all children of the search, and the cost of the path.
"""

import numpy as np

from mtl_jax.report import drawing
from mtl_jax.report import vector

_ROOT = drawing.ROOT
_SIDE = 12.  # side of a node in points, if few paths use it
_MOST = 24  # tasks in one drawing of the network


def _grown(records, controls=False):
  return [r for r in records if r.get('search')
          and (controls or not r['control'])]


def _last(records):
  """The last path of every task, in the order of learning."""
  return list({r['task']: r for r in _grown(records)}.values())


def _colours(records):
  tasks = list(dict.fromkeys(r['task'] for r in _grown(records, True)))
  scale = drawing.colours(min(len(tasks), drawing.COLOURS))
  return {task: scale[i % len(scale)] for i, task in enumerate(tasks)}


def network(records, summary):
  """Components as nodes, from the images (bottom) to the heads (top), and a
  chain for each task."""
  del summary
  paths = _last(records)[:_MOST]
  if not paths:
    return None
  colours = _colours(records)
  rows = _rows(paths)
  first, places = _nodes(_grown(records), paths, rows)
  canvas, ax = drawing.axes(9.4, max(3.4, .42 * len(rows) + 1.4))
  ax.set_yticks(list(rows.values()), list(rows), fontsize=7.5)
  ax.set_xticks([])
  ax.set_ylim(-.6, len(rows) + .1)
  columns = [x for x, _ in places.values()]
  ax.set_xlim(min(columns) - .6, max(columns) + .6)
  ax.grid(visible=False)
  ax.spines[:].set_visible(False)
  for record in paths:
    private = ' (private)' if record['search'].get('private') else ''
    ax.plot([], [], color=colours[record['task']], lw=1.6,
            label=drawing.short(record['task'] + private))
  drawing.legend(canvas, ax)
  drawing.settle(canvas)
  _draw_chains(ax, paths, rows, places, colours)
  _draw_nodes(ax, paths, places, first, colours)
  return canvas, (
      'Every square is a component; a chain is the path of one task, from the '
      'images at the bottom to its head, with the test accuracy above. The '
      'colour of a component is that of the first task that trained it; '
      'components of the root are grey. Where chains meet, tasks share a '
      'component.')


def _draw_chains(ax, paths, rows, places, colours):
  """Draws the path of each task through its nodes, in a lane of its own."""
  wide, high = drawing.points(ax)
  half = _SIDE / 2
  for i, record in enumerate(paths):
    lane = wide * (half - 1) * (2 * (i + .5) / len(paths) - 1)
    x, y = np.array([places[c[1]] for c in sorted(
        record['search']['components'], key=lambda c: rows[c[0]])]).T
    # A chain enters a node at the lower border and leaves it at the upper one.
    # It starts in the first node and ends in the last.
    ends = np.stack([y - high * half, y + high * half], 1).ravel()[1:-1]
    private = record['search'].get('private')
    line, = ax.plot(np.repeat(x + lane, 2)[1:-1], ends, lw=1.6, zorder=1,
                    color=colours[record['task']], alpha=.45 if private else 1,
                    solid_capstyle='butt')
    vector.tips(line, record['entry'] + (' (private)' if private else ''),
                'chain')


def _draw_nodes(ax, paths, places, first, colours):
  """Draws a square for each component, and accuracies above the heads."""
  from matplotlib import patches
  wide, high = (_SIDE * point for point in drawing.points(ax))
  users: dict[str, list] = {}
  for record in paths:
    for name, identity, _ in record['search']['components']:
      users.setdefault(identity, [name]).append(record)
  for identity, (x, y) in places.items():
    owner, (name, *own) = first[identity], users[identity]
    node = patches.Rectangle(
        (x - wide / 2, y - high / 2), wide, high, zorder=2, lw=.8,
        ec=drawing.RC['xtick.color'], fc=colours.get(owner, _ROOT))
    by = f'trained first by {owner}' if owner else 'of the root'
    vector.tips(ax.add_patch(node), f'{name}, {by}; used by ' + ', '.join(
        r['task'] for r in own), 'node')
    if name == 'head':
      shown = f'{100 * own[0]["accuracy"]["test"]:.1f}'
      ax.text(x, y + high * .7, shown + ' %' * (len(paths) < 13),
              ha='center', va='bottom', fontsize=7.5 if len(paths) < 13 else 6)


def _rows(paths) -> dict[str, int]:
  """The row of every component name, in the order of the signal."""
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
  """({id: first task that trained it}, {id: (x, y)}); the root is leftmost."""
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
    found.sort(key=lambda i: first[i] is not None)  # root components first
    for x, identity in enumerate(found):
      places[identity] = (x - (len(found) - 1) / 2, rows[name])
  return first, places


def quality(records, summary):
  """Validation accuracy of all children, and the best path so far."""
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
    marks, = ax.plot(x, best, 'o', color=colour, ms=3, alpha=.35)
    vector.tips(marks, [f'{task}, child {i + 1}: {value:.2f} %'
                        for i, value in enumerate(best)])
    ax.plot(x, np.where(kept > 0, kept, np.nan), color=colour,
            drawstyle='steps-post',
            label=None if task in named else drawing.short(task))
    named.add(task)
    at += len(best)
  ax.set_xlabel('children trained')
  ax.set_ylabel('validation accuracy (%)')
  drawing.legend(canvas, ax)
  return canvas, ('Each dot is the best validation accuracy of one child, in '
                  'the order of training; the line is the best path that the '
                  'search has kept so far.')


def costs(records, summary):
  """Weights that a task adds, weights that it shares, and its operations."""
  del summary
  paths = _last(records)
  if not paths:
    return None
  new = introduced(_grown(records))
  canvas, (left, right) = drawing.axes(9.4, 3.2, columns=2)
  x = np.arange(len(paths))
  total = np.array([r['search']['weights'] for r in paths]) / 1e6
  own = np.array([new[r['task']] for r in paths]) / 1e6
  bars = left.bar(x, own, color=drawing.PALETTE[0],
                  label='introduced by the task')
  left.bar(x, np.maximum(total - own, 0), bottom=own, color=_ROOT,
           label='shared with earlier tasks or the root')
  left.plot(x, [r['search']['accounted'] / 1e6 for r in paths], 'D', ms=4,
            color=drawing.PALETTE[1],
            label='accounted: divided among users when it was learned')
  left.set_ylabel('million weights')
  operations = [r['search']['flops'] / 1e6 for r in paths]
  more = right.bar(x, operations, color=drawing.PALETTE[2])
  for record, bar, other, added, flops in zip(paths, bars, more, own,
                                              operations):
    vector.tips(bar, f'{record["task"]}: introduced {added:.3g} million of '
                f'{record["search"]["weights"] / 1e6:.3g} million weights')
    vector.tips(other, f'{record["task"]}: {flops:.3g} million operations')
  right.set_ylabel('million operations per image')
  for ax in (left, right):
    drawing.name_ticks(ax, [r['task'] for r in paths])
  drawing.legend(canvas, left)
  return canvas, ('The weights that each task added and those that it shares, '
                  'and its operations per image. The more a task shares, the '
                  'less it adds.')


def introduced(records) -> dict[str, int]:
  """Number of weights that each task added to the last paths of all tasks.

  A component belongs to the task that trained it. If that task's last path no
  longer has it, it belongs to the first task that still uses it. So the sum is
  the number of weights that are in the last paths but not in the root.

  Args:
    records: records of one network's paths, in the order of their commits.
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
  """A tree of the stored paths: an arrow from the parent to each path."""
  del summary
  paths = _grown(records)
  if len(paths) < 2:
    return None
  colours = _colours(records)
  column, names = _family(paths)
  rows = {name: i for i, name in enumerate(names)}
  parent = {r['entry']: _parent(r, column) for r in paths}
  canvas, ax = drawing.axes(9.4, max(2.4, .32 * len(names) + .6))
  for entry, seed in parent.items():
    # From the parent's lower border down, then right to the child's left.
    ax.annotate('', (column[entry], -rows[entry]), (column[seed], -rows[seed]),
                arrowprops={'arrowstyle': '-|>', 'lw': .9, 'shrinkA': 3.5,
                            'shrinkB': 3.5, 'color': '#9aa0a6',
                            'connectionstyle': 'angle,angleA=-90,angleB=0'})
  for name in names:
    task = next((r['task'] for r in paths if r['entry'] == name), None)
    ax.plot([column[name]], [-rows[name]], 'o', ms=7,
            color=colours.get(task, _ROOT))
    ax.annotate(drawing.short(name), (column[name], -rows[name]),
                (7, 0), textcoords='offset points', va='center', fontsize=8)
  ax.set_xlim(-.2, max(column.values()) + .9)
  ax.set_ylim(-len(names) + .4, .6)
  ax.set_xticks([])
  ax.set_yticks([])
  ax.grid(visible=False)
  ax.spines[:].set_visible(False)
  return canvas, ('An arrow leads from a stored path to each task whose best '
                  'child descends from it. '
                  'Numbers after “~” are earlier iterations.')


def _parent(record, known) -> str:
  """The stored path from which a path descends; the root if it is gone."""
  seed = record['search']['seed']
  return seed if seed in known else 'root'


def _family(paths) -> tuple[dict[str, int], list[str]]:
  """({entry: generation}, entries in an order with parents before children).

  The descendants of a parent follow it directly, so that no arrow crosses a
  node of another branch.
  """
  known = {'root', *(r['entry'] for r in paths)}
  children: dict[str, list[str]] = {}
  for record in paths:
    children.setdefault(_parent(record, known), []).append(record['entry'])
  column, names, left = {'root': 0}, [], ['root']
  while left:
    name = left.pop()
    names.append(name)
    for child in children.get(name, []):
      column[child] = column[name] + 1
    left += reversed(children.get(name, []))
  return column, names
