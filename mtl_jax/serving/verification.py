"""Re-derives every stored task and compares it with its commit, bit for bit.

It also checks that everything in the workdir is in its place: tasks against the
plan, the log against the records in the checkpoints, and the content of
`shared/` and `progress/` against its own hashes.
"""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mtl_jax import trees
from mtl_jax.serving import checks
from mtl_jax.serving import probes
from mtl_jax.serving import stored_tasks
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import provenance
from mtl_jax.storage import remedies
from mtl_jax.storage import removal
from mtl_jax.storage import workdir as workdir_lib


class Result(NamedTuple):
  """The result of a verification.

  Attributes:
    tasks: number of checked tasks.
    faults: one sentence per fault, with the names of task and leaf.
    notes: what can't be compared bit for bit here, and why; tasks of the
      config that are not there yet, and tasks that are not in the config.
    partly: number of tasks whose arrays are unchanged, but whose outputs
      can't be derived; a note says what is missing.
  """
  tasks: int
  faults: list[str]
  notes: list[str]
  partly: int = 0

  def __str__(self) -> str:
    """One line, for a result without faults."""
    whole = self.tasks - self.partly
    said = []
    if whole or not self.partly:
      said.append(f'{trees.counted(whole, "task")} verified: all hashes and '
                  f'outputs are those of {_commits(whole)}')
    if self.partly:
      said.append(f'{trees.counted(self.partly, "task")} verified in part: all '
                  f'hashes are those of {_commits(self.partly)}; the notes say '
                  'what is lacking')
    return '\n'.join(said)


def _commits(count: int) -> str:
  return 'its commit' if count == 1 else 'their commits'


def _of_lost(path: pathlib.Path) -> str:
  """What became of a task that was finished, and the remedy."""
  try:
    checkpoint.require_readable(path)
  except ValueError as error:
    return str(error)
  if path.exists():
    return f'{path} is not a finished checkpoint{remedies.of(path)}'
  return ('it was finished once, but its folder is gone; restore it from a '
          "copy, or start the run's command, which makes the task again or "
          'says why it cannot')


def lost(work: workdir_lib.Workdir) -> dict[str, str]:
  """What became of each task that was finished and is not there, by name.

  Raises:
    ValueError: the log, or the plan, can't be read.
  """
  return {name: f'task {name}: {_of_lost(work.task(name))}'
          for name in work.lost_tasks() if not _was_taken(work, name)}


def require_all(work: workdir_lib.Workdir) -> None:
  """Refuses to pass over tasks that were finished and are not there.

  Raises:
    ValueError: names some of them, and the remedy; or the log, or the plan,
      can't be read.
  """
  if faults := list(lost(work).values()):
    raise ValueError(
        f'{work.root} lacks {trees.counted(len(faults), "task")}: '
        f'{"; ".join(faults[:3])}' + (
            f'; verify names {len(faults) - 3} more' if len(faults) > 3
            else ''))


def check(system: system_lib.System,
          visit: Callable[[str], None] = lambda name: None) -> Result:
  """Checks every finished task of a system.

  Args:
    system: from `mtl_jax.load`.
    visit: called with the name of every task that could be read, while it
      is in memory: a large system is then read once for several purposes.
  """
  faults, notes, partly, gone = [], [], 0, 0
  names = sorted(system.tasks, key=lambda name: _basis_of(system, name))
  try:
    away = lost(system.workdir)
    logged, _ = json_records.came_and_went(json_records.read_lines(
        system.workdir.metrics))
  except ValueError as error:  # the log, or the plan
    away, logged = {}, set(names)
    faults.append(str(error))
  faults += away.values()
  records: dict[str, dict] = {}
  for name in names:
    try:
      lacking = [] if name in logged else _lacking(system, name)
      if lacking:
        partly += 1
        notes.append(_in_part(system.workdir.task(name), lacking))
        continue
      stored = system.task(name)
      records[name] = stored.metadata.get('record', {})
      probe = probes.of_task(system.probe, stored.metadata)
      found = np.asarray(system.outputs(stored, probe))
      visit(name)
    except ValueError as error:
      if _was_taken(system.workdir, name):
        gone += 1
      else:
        faults.append(f'task {name}: {error}')
      continue
    fault, note = _compare(name, found, stored)
    faults += fault
    notes += note
  faults += _log_faults(system.workdir, records)
  faults += _folder_faults(system.workdir,
                           system.backbone.recipe['fingerprint'])
  there = set(filter(system.workdir.has_task, names))
  notes += _plan_notes(system.workdir, there, set(away))
  return Result(len(names) - gone, faults, sorted(set(notes)), partly)


def _was_taken(work: workdir_lib.Workdir, name: str) -> bool:
  """Whether another process has deleted or renamed a task meanwhile: the log
  says so before the folder goes.
  """
  try:
    return not work.has_task(name) and name in json_records.came_and_went(
        json_records.read_lines(work.metrics))[1]
  except ValueError:  # the log is damaged, which is a fault of its own
    return False


def check_alone(path: pathlib.Path) -> Result:
  """Checks a copy of a task's folder, without its workdir.

  Args:
    path: path of the folder, copied from the `tasks` of a workdir.
  """
  try:
    metadata = checkpoint.load_metadata(path)
    checkpoint.require_task(path, metadata, {})
    if not {'record', 'name', 'source'} <= metadata.keys():
      raise checkpoint.CheckpointError(f'{path} has no record of a task')
    lacking = [f'its backbone {metadata["backbone"][:16]}',
               *_others(metadata, lambda name: False)]
    if not metadata.get('drawn_probe'):
      lacking.append(f'the probe images of {metadata["source"]}')
    return Result(1, [], [_in_part(path, lacking)], 1)
  except ValueError as error:
    return Result(1, [f'task {path.name}: {error}'], [])


def _lacking(system: system_lib.System, name: str) -> list[str]:
  """What an imported task needs and what is missing here."""
  path = system.workdir.task(name)
  system.require_place(name, checkpoint.load_metadata(path))
  metadata = checkpoint.task_metadata(path)
  found = _others(metadata, lambda other: checkpoint.exists(
      system.workdir.task(other)))
  if not probes.is_here(system.workdir, metadata):
    found.append(f'the probe images of {metadata["source"]}')
  return found


def _others(metadata: dict, is_here: Callable[[str], bool]) -> list[str]:
  """The missing tasks among those on which a task relies."""
  found = []
  relied = [f'{name} ({digest})' for name, digest in (
      metadata.get('relies_on') or {}).items() if not is_here(name)]
  if relied:
    found.append(checks.needed(metadata, relied))
  stored = sorted({found['task'] for found in (
      metadata.get('references') or {}).values()
      if not is_here(found['task'])})
  if stored:
    found.append('values that are stored with the '
                 f'task{"" if len(stored) == 1 else "s"} {checks.some(stored)}')
  return found


def _in_part(path: pathlib.Path, lacking: list[str]) -> str:
  """A note for a task of which only the arrays can be checked here.

  Raises:
    CheckpointError: the arrays have changed.
  """
  arrays, metadata = checkpoint.load(path)
  return (f'task {metadata["name"]}: its '
          f'{trees.counted(len(arrays), "array")} and its metadata are as they '
          'were written. Its outputs cannot be derived again '
          f'without {"; and ".join(lacking)}. Copy them from the workdir where '
          f'it was learned (suite {metadata.get("suite")}), or export the task '
          'there with with_basis=True (--with_basis)')


def _basis_of(system: system_lib.System, name: str) -> str:
  """A key that is equal for tasks of one basis, so that it is read once."""
  try:
    metadata = checkpoint.load_metadata(system.workdir.task(name))
    return json.dumps(metadata.get('relies_on'))
  except ValueError:
    return ''  # this fault is reported when the task is read


def _compare(name: str, found: np.ndarray, stored: stored_tasks.StoredTask
             ) -> tuple[list[str], list[str]]:
  if np.array_equal(found, stored.probe):
    return [], []
  worst = float(np.max(np.abs(found - stored.probe)))
  made_on, here = stored.metadata['versions'], provenance.versions()
  # What was not recorded yet was as it is by default.
  elsewhere = {k: (before, v) for k, v in here.items()
               if (before := made_on.get(k, provenance.SETTINGS.get(
                   k, (v,))[0])) != v}
  platforms = {made_on.get('platform', 'cpu'), here['platform']}
  # Products on an accelerator may have the precision of bfloat16 or TF32.
  near = 1e-4 if platforms == {'cpu'} else 2e-2 * float(
      np.max(np.abs(stored.probe)))
  rounds = elsewhere or platforms != {'cpu'}
  if rounds and np.allclose(found, stored.probe, rtol=1e-4, atol=near):
    why = (f'the run was made with another platform or versions {elsewhere}'
           if elsewhere else 'an accelerator may use other kernels in another '
           'process')
    return [], [f'outputs differ by rounding only (at most {worst:.1e}): {why}']
  return [f'task {name}: its outputs on the probe images differ from those at '
          f'its commit by up to {worst:.3g}'], []


def _log_faults(work: workdir_lib.Workdir,
                records: dict[str, dict]) -> list[str]:
  """Differences between the log and a task's checkpoint."""
  faults = []
  try:
    lines = list(json_records.read_lines(work.metrics))
  except ValueError:
    return []  # already reported: the lost tasks are also read from the log
  for line in lines:
    if line['kind'] != 'task':
      continue
    for name, logged, recorded in _differences(
        line, records.get(line['entry'], {})):
      faults.append(
          f'task {line["entry"]}: {work.metrics} says {name} {logged!r}, but '
          f'its checkpoint records {recorded!r}, which counts; remove the line '
          'and start the run\'s command, which writes it again')
      break
  return faults


def _differences(line: Any, record: Any, name: str = '') -> Iterator[tuple]:
  """(name, in the log, in the record) for the values in the record."""
  if isinstance(record, dict) and isinstance(line, dict):
    for key, value in record.items():
      yield from _differences(line.get(key), value,
                              f'{name}.{key}' if name else key)
  elif line != record:
    yield name, line, record


def _folder_faults(work: workdir_lib.Workdir, fingerprint: str) -> list[str]:
  """Content for the next task or start that can't be read."""
  faults = []
  for folder in (work.shared, work.progress):
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
      if not removal.is_final(path.name):
        continue
      try:
        checkpoint.load(path, expected={'name': path.name,
                                        'backbone': fingerprint})
      except ValueError as error:
        if path.exists():  # otherwise a current run has removed it
          faults.append(f'{folder.name}: {error}')
  return faults


def _plan_notes(work: workdir_lib.Workdir, there: set[str],
                lost: set[str]) -> list[str]:
  """Notes on missing tasks of the config, and on tasks not in the config."""
  notes = []
  if work.tasks.is_dir():
    notes += [f'{path} is no folder, so no task; it is passed over'
              for path in work.tasks.iterdir() if not path.is_dir()
              and path.name not in lost and removal.is_final(path.name)]
  try:
    plan = work.read_plan()
    came, went = json_records.came_and_went(json_records.read_lines(
        work.metrics))
  except ValueError:
    return notes  # this fault is already reported
  if not plan:
    return notes
  missing = sorted(set(plan['entries']) - there - lost - went)
  if missing:
    notes.append(f'tasks of the config that are not learned yet: '
                 f'{checks.some(missing)}')
  surplus = sorted(there - work.planned(there) - came)
  if surplus:
    notes.append('tasks that neither the config asks for nor the log knows: '
                 f'{checks.some(surplus)}')
  return notes
