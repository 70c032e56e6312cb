"""`mtl-jax inspect`: lists the contents of a workdir."""

import argparse
import json
import sys
from typing import Any

import numpy as np

from mtl_jax import lifecycle
from mtl_jax.evaluation import matrix
from mtl_jax.report import drawing
from mtl_jax.report import rows as rows_lib
from mtl_jax.report import terminal
from mtl_jax.serving import system as system_lib
from mtl_jax.serving import verification
from mtl_jax.storage import array_files

DESCRIPTION = (
    'Lists the tasks of a workdir: method, classes, test accuracy, size in '
    'bytes, density of the masks, overlap of the masks with others, and the '
    'tasks on which each task relies.')
EXAMPLES = (
    ('{} --workdir=runs/quickstart', 'a table of all tasks'),
    ('{} --workdir=runs/quickstart --task=permuted-03',
     'all recorded facts of one task'),
    ('{} --workdir=runs/quickstart --json | jq .tasks', 'for a program'),
)


def flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags for the workdir and the output."""
  parser.add_argument('--workdir', required=True, metavar='DIR',
                      help='workdir of a run, or an exported file')
  parser.add_argument('--task', metavar='NAME', help='one task in full')
  parser.add_argument('--json', action='store_true', help='JSON, no table')
  parser.add_argument('--plugins', action='append', metavar='FILE', help=(
      'a Python file that registers your own methods or models'))


def main(given: argparse.Namespace) -> int | None:
  """Prints the table, JSON, or one task."""
  system = lifecycle.load(given.workdir, given.plugins)
  if given.task is not None:
    system.require(given.task)
    _print_json(system.metadata(given.task))
    return None
  found = describe(system)
  if not found['tasks']:
    verification.require_all(system.workdir)
    raise ValueError(f'no finished task in {given.workdir}')
  if given.json:
    _print_json(found)
  else:
    _print_tables(found)
  verification.require_all(system.workdir)
  return None


def _print_json(value: Any) -> None:
  json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
  print()


def describe(system: system_lib.System) -> dict:
  """The contents of a workdir, as JSON.

  Returns:
    backbone: its recipe.
    tasks: dicts of name, method, phase, control, classes, accuracy (a
      fraction), bytes {total, stored}, density (over all masked weights),
      relies_on (names) and child_of (a path's parent).
    overlap: {names, matrix}, the Jaccard index between masks; `None` without
      two masks of one kind.
  """
  tasks = []
  for name in system.tasks:
    metadata = system.metadata(name)
    record = metadata['record']
    used = {reference['task'] for reference in (
        metadata.get('references') or {}).values()}
    tasks.append({
        'name': name, 'method': record['method'], 'phase': record['phase'],
        'control': record['control'], 'classes': metadata['classes'],
        'accuracy': (record.get('accuracy') or {}).get('test'),
        'bytes': {'total': record['bytes']['total'],
                  'stored': array_files.stored_bytes(
                      system.workdir.task(name))},
        'density': matrix.density(record, system.backbone.params),
        'relies_on': sorted({*metadata.get('relies_on', {}), *used}),
        'child_of': (record.get('search') or {}).get('parent')})
  return {'backbone': system.backbone.recipe, 'tasks': tasks,
          'overlap': matrix.mask_overlap(
              system, [t['name'] for t in tasks if not t['control']])}


def _print_tables(found: dict) -> None:
  recipe = found['backbone']
  print(f'backbone: {recipe["model"]}, {recipe["outputs"]} outputs, seed '
        f'{recipe["seed"]}\nfingerprint: {recipe["fingerprint"]}\n')
  near = _nearest(found['overlap'])
  rows = [[
      t['name'], t['method'] + (' (control)' if t['control'] else ''),
      t['classes'], rows_lib.percent(t['accuracy'], 2),
      drawing.readable_bytes(t['bytes']['total']),
      drawing.readable_bytes(t['bytes']['stored']),
      rows_lib.percent(t['density']), near.get(t['name'], '–'),
      _lineage(t)] for t in found['tasks']]
  terminal.print_table(
      ('task', 'method', 'classes', 'test', 'size', 'on disk', 'density',
       'nearest mask', 'made from'), rows, optional=4)


def _lineage(task: dict) -> str:
  """The tasks from which a task was made."""
  names = [*([task['child_of']] if task['child_of'] else []),
           *task['relies_on']]
  more = f' and {len(names) - 3} more' if len(names) > 3 else ''
  return (', '.join(names[:3]) or '–') + more


def _nearest(overlap: dict | None) -> dict[str, str]:
  """For each task, the other task with the largest overlap of masks."""
  if overlap is None:
    return {}
  values = np.array(overlap['matrix'])
  np.fill_diagonal(values, -1.)
  return {name: f'{overlap["names"][int(row.argmax())]} {row.max():.2f}'
          for name, row in zip(overlap['names'], values)}
