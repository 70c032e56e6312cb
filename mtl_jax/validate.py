"""Checks a run before it writes anything."""

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from mtl_jax import json_files
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.config import growth
from mtl_jax.config import plan
from mtl_jax.data import batches
from mtl_jax.data import labels
from mtl_jax.data import transforms
from mtl_jax.methods import heads
from mtl_jax.parallel import mesh
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import provenance
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import drivers
from mtl_jax.training import method_errors
from mtl_jax.training import progress
from mtl_jax.training import trace
from mtl_jax.training.search import iteration


def check_config(work: workdir_lib.Workdir, config) -> None:
  """Refuses a workdir of an unknown format, or of another config.

  The config may add phases, tasks of the suite, or tasks of a phase that learns
  them one after another (see `growth`).
  """
  work.require_own()
  if not work.config.exists():
    if work.tasks.is_dir() and any(work.tasks.iterdir()):
      raise ValueError(f'{work.root} has tasks but no config.json; choose '
                       'another workdir')
    return
  kept = json_records.read_json(work.config)
  given = json_files.plain(config_lib.to_dict(config))
  if _learned_by(kept) == _learned_by(given):
    return
  try:
    old = config_lib.from_dict(dict(kept or {}))
  except ValueError as error:
    _refuse_other(work, kept, given, str(error))
  try:
    growth.check(old, config)
    check_growth(work, old, config)
  except growth.Other as other:
    more = f' (and {other.more} more)' if other.more else ''
    raise ValueError(
        f'{work.root} holds a run of another config: {other.name} is '
        f'{other.before!r} there and {other.now!r} now{more}; '
        f'{other.why + ", or " if other.why else ""}choose another workdir'
        f'{"" if other.why else ", or the old value"}. Nothing was changed'
    ) from None


def _learned_by(given: Any) -> dict:
  return {k: v for k, v in dict(given or {}).items() if k not in growth.FREE}


def _refuse_other(work, kept, given, why: str) -> NoReturn:
  """The refusal if this version can't read the stored config."""
  old, new = (trees.flatten(_learned_by(c)) for c in (kept, given))
  changed = sorted(name for name in old.keys() | new.keys()
                   if old.get(name) != new.get(name)) or ['config.json']
  name = changed[0]
  raise ValueError(
      f'{work.root} holds a run of another config: {name} is '
      f'{old.get(name)!r} there and {new.get(name)!r} now'
      f'{f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""}; '
      f'choose another workdir, or the old value ({why}). Nothing was '
      'changed')


def check_growth(work: workdir_lib.Workdir, old, new) -> None:
  """Refuses added tasks for which the workdir is not ready.

  Raises:
    ValueError: a new task has the name of a task that is not part of the run,
      a half-trained group would get another member, or what a phase would
      start from is gone.
  """
  suite = growth.make_suite(new)
  planned = {e.name for phase in old.phases
             for e in plan.entries(phase, suite)}
  for phase in new.phases:
    for entry in plan.entries(phase, suite):
      if entry.name not in planned and checkpoint.exists(
          work.task(entry.name)):
        raise ValueError(
            f'{work.root} has a task {entry.name} that this run did not learn, '
            'and the config has a new one of that name; rename either '
            '(system.rename, suite.names). Nothing was changed')
  before = {phase.name: phase for phase in old.phases}
  for phase in growth.grown(old, new):
    was = before[phase.name]
    last = plan.groups(was, suite)[-1]
    if (progress.begun(work, last[0].name)
        and last[0].name not in work.task_names()
        and [e.name for e in last] not in [
            [e.name for e in group] for group in plan.groups(phase, suite)]):
      raise ValueError(
          f'{work.root}: {last[0].name} is half trained beside other tasks '
          'than it would be now; finish the run of the old config first. '
          'Nothing was changed')
    if checkpoint.exists(work.task(last[-1].name)):
      by = checkpoint.load_metadata(work.task(last[-1].name)).get('kept_by')
      if by is not None and not checkpoint.exists(work.shared / by):
        raise ValueError(
            f'phase {phase.name} goes on from what it kept after task {by}, '
            f'and {work.shared / by} is gone: give the new tasks a phase of '
            'their own. Nothing was changed')


def check_backbone(work: workdir_lib.Workdir, backbone) -> None:
  """Refuses a workdir with another backbone."""
  if work.backbone.exists():
    kept = dict(json_records.read_json(work.backbone) or {}).get('fingerprint')
    if kept != backbone.recipe['fingerprint']:
      raise ValueError(
          f'{work.root} has the backbone {kept}, not '
          f'{backbone.recipe["fingerprint"]}; choose another workdir. '
          'Nothing was changed')


def check_sources(work: workdir_lib.Workdir, suite, data,
                  lines=None) -> dict[str, str]:
  """The versions of the suite's sources, equal to those of earlier starts.

  Args:
    work: the workdir, which may have log lines of earlier starts.
    suite: the tasks.
    data: the sources.
    lines: lines of the log, if they were read already.

  Raises:
    ValueError: a source has changed (names it and both versions), or two
      sources would share a folder.
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
  for name, before in _changed(work, lines, 'sources', found):
    raise ValueError(
        f'source {name} is version {found[name]}, but {work.root} was begun '
        f'with version {before}: bring that back (the data, or the mtl_jax '
        'that read them), or choose another workdir. Nothing was changed')
  return found


def _changed(work, lines, key: str, found: dict) -> Iterator[tuple[str, str]]:
  """(name, value before) of what earlier starts recorded otherwise."""
  for line in (json_records.read_lines(work.metrics) if lines is None
               else lines):
    for name, before in line.get(key, {}).items():
      if found.get(name, before) != before:
        yield name, before


def check_suite(work: workdir_lib.Workdir, suite, lines=None) -> dict[str, str]:
  """Digests of the suite's tasks, equal to those of earlier starts.

  The function that makes a suite may be a user's own, and the config does not
  change if it is edited.

  Args:
    work, suite, lines: as in `check_sources`.

  Raises:
    ValueError: a task of the same name has other images, labels or transforms.
  """
  found = {task.name: json_files.digest([
      task.source, transforms.to_json(task.transforms), labels.label_map(task),
      task.classes, task.regression, task.drawn_by, task.drop_shared])[:16]
           for task in suite.tasks}
  for name, _ in _changed(work, lines, 'suite_tasks', found):
    raise ValueError(
        f'task {name} has another source, other labels or other transforms now '
        f'than when {work.root} was begun: bring back the file that makes the '
        'suite, give the new task another name, or choose another workdir. '
        'Nothing was changed')
  return found


def check_settings(work: workdir_lib.Workdir, lines: list[dict]) -> None:
  """Refuses to train on under other settings of JAX than the first start.

  Raises:
    ValueError: names the setting, and how to set it as it was.
  """
  for line in lines:
    if line['kind'] == 'run':
      provenance.require_settings(line.get('versions') or {},
                                  f'the run in {work.root}',
                                  'choose another workdir')
      return


def check_fit(config, suite, data, backbone, earlier=(),
              read=None) -> dict[str, trace.Traced]:
  """Refuses, before anything is written, what would fail in a later phase.

  Args:
    config: config of the run.
    suite: tasks of the run.
    data: sources of the tasks.
    backbone: backbone on the devices.
    earlier: impressions in the workdir on which methods may rely.
    read: (name) -> one of these impressions.

  Returns:
    As in `check_methods`.
  """
  check_words(suite, data, backbone.params)
  traced = check_methods(config, suite, backbone, earlier, read)
  for phase in config.phases:
    if phase.search:
      iteration.check(phase, suite, backbone)
      continue
    size = phase.training.batch_size
    for group in plan.groups(phase.named, suite):
      for entry in group:
        with _named(phase, f'task {entry.task.name}'):
          batches.check_size(len(data.rows(entry)), size)
      if config.mesh is not None:
        mesh.check(config.mesh.axes(), size)
      elif not drivers.at_once(group, size):
        with _named(phase, f'phase {phase.name}'):
          parallel.split_batch(np.zeros(size))
      if len(group) > 1 and phase.training.epochs:
        try:
          batches.check_epochs({
              entry.task.name: len(data.rows(entry)) // size
              for entry in group})
        except ValueError as error:
          raise ValueError(f'phase {phase.name}: {error}') from error
  return traced


def check_methods(config, suite, backbone, earlier=(),
                  read=None) -> dict[str, trace.Traced]:
  """Calls `check` of every phase's method, and traces its functions.

  Nothing is computed. `materialise` of a committed impression must have the
  leaves, shapes and dtypes of `bind`, and the impression must be storable.

  Returns:
    By phase, shapes of `shared` and of an impression; a search has none.

  Raises:
    ValueError: names the phase, and the function or leaf.
  """
  left: dict[str, trace.Traced] = {}
  for phase in config.phases:
    method, known = phase.make_method(), plan.before(
        config, suite, phase, earlier)
    own = plan.planned(phase, suite)
    groups = plan.groups(phase.named, suite)
    group = groups[0]
    try:
      _call_check(method, phase.as_training(), backbone.params,
                  known[:len(known) - len(own)], own)
      if not phase.together:
        plan.require_apart(known, max(groups, key=len))
      if phase.search is None:
        relied = [read(e.name) if e in earlier else left[e.phase].impression
                  for e in plan.relied(known, group)]
        left[phase.name] = trace.of_group(
            method, backbone, relied, group, config.seed)
    except method_errors.WrongMethod as error:
      raise ValueError(f'phase {phase.name}: method {phase.method}: {error}'
                       f'{heads.note(phase.options)}') from error
    except ValueError as error:
      raise ValueError(f'phase {phase.name}: {error}') from error
  return left


def _call_check(method, *facts) -> None:
  try:
    method.check(*facts)
  except ValueError:
    raise
  except Exception as error:  # pylint: disable=broad-except
    raise method_errors.failed('check', error) from error


@contextlib.contextmanager
def _named(phase, whose: str):
  """Says of a refused batch whose it is, and how it is given."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{whose}: {error} ({phase.flag("batch_size")})') from (
        error)


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
