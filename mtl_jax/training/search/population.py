"""Stored paths: those a search starts from, and the one that it stores."""

import dataclasses
from collections.abc import Iterable

import jax
import numpy as np

from mtl_jax import methods
from mtl_jax.config import plan
from mtl_jax.evolution import networks
from mtl_jax.training import run as run_lib
from mtl_jax.training.search import state as state_lib


def root_of(run: run_lib.Run) -> networks.Path:
  """The path of the backbone itself."""
  return networks.path_of(
      jax.tree.map(np.asarray, run.system.backbone.params),
      name=networks.ROOT, task=None, parent=None, hyper={})


def retained(run: run_lib.Run, entry: plan.Entry,
             stored: dict[str, networks.Path]) -> list[networks.Path]:
  """The root and the newest path of every task before an entry.

  A control starts from the root alone, and a control is never a parent. Equal
  components are the same object.

  Args:
    run: the run.
    entry: the entry to be learned.
    stored: a cache of the paths read so far, by entry; it grows. For a path
      that a newer one of its task has replaced, it holds the names only.
  """
  root = root_of(run)
  found: dict[str, networks.Path] = {}
  if entry.phase.control:
    return [root]
  seeds: list[tuple[str, str, str]] = []
  parts = {part.id: part for part in root.components.values()}
  for name, task in _searched(run):
    if name == entry.name:
      return [root, *reparented(list(found.values()), lines(seeds))]
    old = found.pop(task, None)
    if old is not None:
      stored[old.name] = dataclasses.replace(old, components={})
    path = stored.get(name) or stored_path(run, name, task, root)
    seeds.append((path.name, path.parent or networks.ROOT,
                  path.record['path']))
    parts = {part.id: part for part in path.components.values()} | parts
    path = state_lib.with_components(path, parts)
    found[task] = stored[name] = path
  raise AssertionError(f'{entry.name} is not in the plan')


def _searched(run: run_lib.Run) -> Iterable[tuple[str, str]]:
  """(name, task) of all paths except controls, in order."""
  for other in run.earlier:
    able = methods.of_options(other.method, other.options).abilities
    if able.searched and not run.system.task(
        other.name).metadata['record']['control']:
      yield other.name, other.task
  for phase in run.config.phases:
    if phase.search is not None and not phase.control:
      for entry in plan.entries(phase, run.suite):
        yield entry.name, entry.task.name


def lines(stored: Iterable[tuple[str, str, str]]) -> dict[str, str]:
  """The seed of every stored path, by the path's name.

  A task may keep its path because no child was better; then the old name maps
  to the name under which the path was stored again.

  Args:
    stored: (name, seed, name in its search) in the order of the commits.

  >>> lines([('a~1', 'root', 'a~1#0.1'), ('b', 'a~1', 'b#0.0'),
  ...        ('a', 'a~1', 'a~1')])
  {'a~1': 'a', 'b': 'a~1', 'a': 'root'}
  """
  above: dict[str, str] = {}
  for name, seed, path in stored:
    above[name] = seed
    if path in above:
      above[name], above[path] = above[path], name
  return above


def reparented(paths: list[networks.Path],
               above: dict[str, str]) -> list[networks.Path]:
  """Sets each path's parent to its nearest ancestor that still exists.

  Args:
    paths: the newest path of every task.
    above: from `lines`.
  """
  there = {networks.ROOT, *(path.name for path in paths)}

  def parent(path):
    name = above[path.name]
    while name not in there:
      name = above.get(name, networks.ROOT)  # the ancestor was deleted
    return name
  return [dataclasses.replace(path, parent=parent(path)) for path in paths]


def offspring(known: Iterable[networks.Path], task: str) -> dict[str, int]:
  """Number of children that each stored path has had for a task so far.

  Args:
    known: the root and the newest path of every task. If a task kept its path,
      the children under the path's earlier name count too.
    task: the task whose earlier iterations are counted.
  """
  paths = list(known)
  before = [path.record.get('offspring', {}) for path in paths
            if path.task == task]
  counts = before[-1] if before else {}
  found = {path.name: counts.get(path.name, counts.get(
      path.record.get('path'), 0)) for path in paths}
  return {name: count for name, count in found.items() if count}


def stored_path(run: run_lib.Run, name: str, task: str,
                root: networks.Path) -> networks.Path:
  """The path of a committed entry."""
  stored = run.system.task(name)
  params = stored.method.materialise(root.params, stored.impression,
                                     stored.shared)
  found = stored.metadata['record']['search']
  return networks.path_of(
      jax.tree.map(np.asarray, params), name=name, task=task,
      parent=found['seed'], hyper=found['hyper'], score=found['score'],
      quality=found['quality'], record=found)


def record(run: run_lib.Run, entry: plan.Entry, known: list[networks.Path],
           state: state_lib.State, best: networks.Path,
           flops: float) -> dict:
  """The record of a path, beyond what every record holds.

  Args:
    run: the run.
    entry: the entry of the path.
    known: the paths from which the search started, the root first.
    state: the last state of the search.
    best: the path to commit.
    flops: operations of one image's forward pass.
  """
  view = run.data.view(entry.task)
  labels = run.data.source(entry.task.source).test.labels
  # A new head is all zeros, so it predicts class 0.
  first = float(np.mean(view.label_map[labels[view.test]] == 0))
  root = {part.id for part in known[0].components.values()}
  parts = list(best.components.values())
  others = [path for path in known if path.task != entry.task.name]
  search = entry.phase.search
  assert search is not None
  found = {
      'path': best.name, 'parent': best.parent,
      'seed': _seed(state, best, known), 'hyper': dict(best.hyper),
      'score': best.score, 'quality': best.quality,
      'iteration': search.iterations - entry.repeat,
      'private': entry.task.name in search.private,
      'components': [[part.name, part.id, part.weights] for part in parts],
      'offspring': _counts(state, best, known, entry.name),
      'from_root': [part.name for part in parts if part.id in root],
      'weights': sum(part.weights for part in parts),
      'accounted': networks.accounted(best, [*others, best]), 'flops': flops}
  found |= {name: best.record[name] for name in (
      'generation', 'loss', 'evals', 'trained', 'changed')}
  return {'accuracy': {'backbone': first, 'before': first},
          'search': found | {'children': state.log}}


def _counts(state, best, known, name) -> dict[str, int]:
  """Children of the known paths and of the best one, renamed to `name`."""
  counts = {path.name: state.children.get(path.name, 0) for path in known}
  counts[name] = state.children.get(best.name, 0)
  return {name: count for name, count in counts.items() if count}


def _seed(state: state_lib.State, path: networks.Path, known) -> str:
  """Name of the stored path from which a path descends."""
  own = {p.name: p for p in state.paths}
  stored = {p.name for p in known}
  while path.name not in stored and path.parent in own:
    path = own[path.parent]
  return path.name if path.name in stored else path.parent or networks.ROOT
