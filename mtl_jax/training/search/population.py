"""Paths as impressions: what a search starts from, and what it leaves."""

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
  """The path of the backbone itself; `run` is `train.Run`."""
  return networks.path_of(
      jax.tree.map(np.asarray, run.system.backbone.params),
      name=networks.ROOT, task=None, parent=None, hyper={})


def retained(run: run_lib.Run, entry: plan.Entry,
             stored: dict[str, networks.Path]) -> list[networks.Path]:
  """The root and the newest path of every task before an entry.

  A control starts from the root alone, and no control is a parent. Equal
  components are one object.

  Args:
    run: the run.
    entry: what is to be learned.
    stored: by entry, paths that were read for an earlier one; grows. Of one
      that its task has replaced, nothing but the names is kept.
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
  """(name, task) of all paths that are no controls, in order."""
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
  """Of every stored path the one with which its line began.

  Of one that its task kept, as no child was better, the name under which it
  was stored again.

  Args:
    stored: (name, seed, name in its search) in the order of their commits.

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
  """Paths whose parents are the nearest ones that are still there.

  Args:
    paths: the newest of every task.
    above: see `lines`.
  """
  there = {networks.ROOT, *(path.name for path in paths)}

  def parent(path):
    name = above[path.name]
    while name not in there:
      name = above.get(name, networks.ROOT)  # of one that was deleted
    return name
  return [dataclasses.replace(path, parent=parent(path)) for path in paths]


def offspring(known: Iterable[networks.Path], task: str) -> dict[str, int]:
  """By name of a stored path, the children it has had for a task so far.

  Args:
    known: the root and the newest path of every task; of a path that its task
      kept, the name under which it was stored before counts too.
    task: whose earlier iterations are meant.
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
  """What the record of a path says besides what every record says.

  Args:
    run: the run.
    entry: whose path it is.
    known: what the search started from, the root first.
    state: its last state.
    best: the path that is committed.
    flops: of one image's forward pass.
  """
  view = run.data.view(entry.task)
  labels = run.data.source(entry.task.source).test.labels
  # A new head is all zeros: it answers with class 0.
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
  """Children of what stays: the known paths, and the best one as `name`."""
  counts = {path.name: state.children.get(path.name, 0) for path in known}
  counts[name] = state.children.get(best.name, 0)
  return {name: count for name, count in counts.items() if count}


def _seed(state: state_lib.State, path: networks.Path, known) -> str:
  """The stored path with which a path's line began."""
  own = {p.name: p for p in state.paths}
  stored = {p.name for p in known}
  while path.name not in stored and path.parent in own:
    path = own[path.parent]
  return path.name if path.name in stored else path.parent or networks.ROOT
