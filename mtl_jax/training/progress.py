"""Mid-task progress, from which a killed run resumes.

`progress/` holds one checkpoint, named by the task or search and by its
position. A new checkpoint replaces the old one once it is complete. A process
that was asked to stop does so after a save (see `host.stoppable`).
"""

import logging
import time

from mtl_jax import host
from mtl_jax import parallel
from mtl_jax import registry
from mtl_jax.storage import checkpoint
from mtl_jax.storage import removal
from mtl_jax.storage import workdir as workdir_lib


class Clock:
  """Decides when to save; all processes follow the clock of the first one."""

  def __init__(self, every: float):
    host.may_stop()
    self.every, self.start = every, time.perf_counter()
    self.last = self.start

  def total(self) -> float:
    return time.perf_counter() - self.start

  def due(self) -> bool:
    due = bool(parallel.agree(host.asked_to_stop() or (
        time.perf_counter() - self.last >= self.every)))
    if due:
      self.last = time.perf_counter()
    return due


def _pattern(name: str) -> str:
  return f'{name}.{"[0-9]" * 9}'


def save(work: workdir_lib.Workdir, name: str, position: int, arrays: dict,
         values: dict, defined_in: dict) -> None:
  """Saves progress, then removes the older checkpoint.

  Args:
    work: the workdir.
    name: of the group, stream or search in training.
    position: grows with every save. A checkpoint that already exists at this
      position is kept.
    arrays: arrays by name.
    values: JSON values.
    defined_in: the user's file that defines each of 'method' and 'model'; see
      `registry.origin`.
  """
  new = f'{name}.{position:09d}'
  if not checkpoint.exists(work.progress / new):
    checkpoint.save(work.progress / new, arrays, values | {
        'name': new, 'defined_in': defined_in})
    removal.remove_all(work.progress, _pattern(name), keep=[new])
  host.may_stop()


def begun(work: workdir_lib.Workdir, name: str) -> bool:
  """Whether any progress was saved, even if damaged; changes nothing."""
  return any(work.progress.glob(_pattern(name)))


def newest(work: workdir_lib.Workdir, name: str,
           defined_in: dict) -> tuple[dict, dict] | None:
  """The (arrays, values) saved last, or `None`.

  Damaged progress is removed: its steps are run again, with the same bits.

  Args:
    work: the workdir.
    name: of the group, stream or search in training.
    defined_in: as in `save`, for today's files.

  Raises:
    ValueError: a user's file has changed since; the message names it.
  """
  for path in sorted(work.progress.glob(_pattern(name)), reverse=True):
    try:
      found = checkpoint.load(path, expected={'name': path.name})
      _require_same_files(path, found[1].get('defined_in'), defined_in)
      return found
    except checkpoint.CheckpointError as error:
      logging.warning('%s. It is left out: its steps are made again',
                      str(error).split(';')[0])
      parallel.barrier(f'{path.name} is damaged')
      removal.remove_all(work.progress, path.name)
  return None


def _require_same_files(path, then: dict | None, now: dict) -> None:
  """Refuses to mix steps of two versions of a user's file in one network."""
  for what, file in (then or {}).items():  # earlier versions kept none
    said = registry.changed(file, now.get(what))
    if said:
      raise ValueError(
          f'{path} was trained with another {what}: {said}. Bring that file '
          f'back, or remove {path}: its steps are then made again with the '
          'new one')


def remove(work: workdir_lib.Workdir, name: str) -> None:
  """Removes the progress of a committed group, stream or search."""
  removal.remove_all(work.progress, _pattern(name))
  host.may_stop()
