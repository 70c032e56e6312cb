"""What is refused before a run writes anything."""

import json
import re
from typing import Any

import numpy as np

from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.data import batches
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import trace
from mtl_jax.training.search import iteration


def check_config(work: workdir_lib.Workdir, config) -> None:
  """Refuses a workdir that belongs to another config.

  More phases may come after those that it has.
  """
  if not work.config.exists():
    if work.tasks.is_dir() and any(work.tasks.iterdir()):
      raise ValueError(f'{work.root} has tasks but no config.json; choose '
                       'another workdir')
    return
  kept = workdir_lib.read_json(work.config)
  given = _without_added(kept, json.loads(json.dumps(
      config_lib.to_dict(config))))
  # What is measured at the end changes nothing that is learned.
  old, new = (trees.flatten({
      k: v for k, v in c.items()
      if k not in ('identify', 'mixed_rows', 'transparency')})
              for c in (dict(kept or {}), given))
  changed = sorted(name for name in old.keys() | new.keys()
                   if old.get(name) != new.get(name))
  if changed:
    name = changed[0]
    raise ValueError(
        f'{work.root} holds a run of another config: {name} is '
        f'{old.get(name)!r} there and {new.get(name)!r} now'
        f'{f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""}; '
        'choose another --workdir, or the old value. Nothing was changed')


def _without_added(kept: Any, given: dict) -> dict:
  """A config without the phases that come after those of a kept one."""
  before = dict(kept or {}).get('schedule') or []
  if given['schedule'][:len(before)] != before:
    return given
  return given | {'schedule': before, 'phases': {
      name: phase for name, phase in given['phases'].items()
      if name in before}}


def check_backbone(work: workdir_lib.Workdir, backbone) -> None:
  """Refuses a workdir with another backbone than the one that was made."""
  if work.backbone.exists():
    kept = dict(workdir_lib.read_json(work.backbone) or {}).get('fingerprint')
    if kept != backbone.recipe['fingerprint']:
      raise ValueError(
          f'{work.root} has the backbone {kept}, not '
          f'{backbone.recipe["fingerprint"]}; choose another --workdir. '
          'Nothing was changed')


def check_sources(work: workdir_lib.Workdir, suite, data) -> dict[str, str]:
  """The versions of the suite's sources, which an earlier start had too.

  Raises:
    ValueError: a source has changed since (names it and both versions), or two
      sources can't be told apart by their folders.
  """
  found = {task.source: data.source(task.source).version
           for task in suite.tasks}
  probes: dict[Any, str] = {}
  for name in found:
    other = probes.setdefault(work.probe_of(name), name)
    if other != name:
      raise ValueError(f'sources {other!r} and {name!r} would share '
                       f'{work.probe_of(name)}; register one of them under '
                       'another name')
  for line in workdir_lib.read_lines(work.metrics):
    for name, before in line.get('sources', {}).items():
      now = found.get(name, before)
      # Of data sets the version once stood alone, without their content.
      if now != before and not (
          re.fullmatch(r'[\d.+]*\.[\d.+]*', before)
          and now.startswith(f'{before}-')):
        raise ValueError(
            f'source {name} is version {found[name]}, but {work.root} was '
            f'begun with version {before}: bring that back (the data, or the '
            'mtl_jax that read them), or choose another --workdir. Nothing was '
            'changed')
  return found


def check_fit(config, suite, data, backbone) -> None:
  """Refuses, before anything is written, what would fail in a later phase."""
  check_words(suite, data, backbone.params)
  check_methods(config, suite, backbone)
  for phase in config.phases:
    if phase.search:
      iteration.check(phase, suite, backbone)
      continue
    size = phase.training.batch_size
    for group in plan.groups(phase.named, suite):
      if len(group) > 1 and not phase.together:
        parallel.split_tasks(np.zeros(len(group)))
      else:
        parallel.split_batch(np.zeros(size))
      for entry in group:
        batches.check_size(len(data.rows(entry)), size)
      if len(group) > 1 and phase.training.epochs:
        try:
          batches.check_epochs({
              entry.task.name: len(data.rows(entry)) // size
              for entry in group})
        except ValueError as error:
          raise ValueError(f'phase {phase.name}: {error}') from error


def check_methods(config, suite, backbone) -> None:
  """Asks every phase's method what it can't do, and traces its functions.

  Nothing is computed. `materialise` of what `commit` leaves must have the
  leaves, shapes and dtypes of `bind`; an impression must be storable.

  Raises:
    ValueError: names the phase, and the function or leaf.
  """
  left: dict[str, Any] = {}  # by phase, a task's impression as shapes
  for phase in config.phases:
    method, known = phase.make_method(), plan.before(config, suite, phase)
    own = plan.planned(phase, suite)
    group = plan.groups(phase.named, suite)[0]
    try:
      method.check(phase.as_training(), backbone.params,
                   known[:len(known) - len(own)], own)
      if phase.search is None:
        relied = [left[e.phase] for e in plan.relied(known, group)]
        left[phase.name] = trace.impression(
            method, backbone, relied, group, config.seed)
    except ValueError as error:
      raise ValueError(f'phase {phase.name}: {error}') from error


def check_words(suite, data, params) -> None:
  """Refuses texts with more words than the network's embedding has vectors."""
  rows = [np.shape(x)[0] for name, x in trees.flatten(params).items()
          if x is not None and name.endswith('embedding/embedding')]
  for task in suite.tasks if rows else ():
    source = data.source(task.source)
    largest = max(int(np.max(split.images)) for split in (
        source.train, source.valid, source.test)) if source.tokens else 0
    if largest >= min(rows):
      raise ValueError(
          f'task {task.name} has words up to number {largest}, but the '
          f"embedding has {min(rows)}: give the backbone's option words="
          f'{largest + 1} or the source fewer words')
