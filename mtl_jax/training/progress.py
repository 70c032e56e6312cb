"""Mid-task progress: what a killed run goes on from.

One checkpoint under `progress/`, named by what is being learned and by how far
it has come; the older one goes when a new one is whole. A process that was
asked to end does so after a save (see `host.stoppable`).
"""

import logging
import time

from mtl_jax import host
from mtl_jax import parallel
from mtl_jax import registry
from mtl_jax.storage import checkpoint
from mtl_jax.storage import workdir as workdir_lib


class Clock:
  """When to save progress; every process follows the first one's clock."""

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
  """Saves progress, then drops the older one.

  Args:
    work: the workdir.
    name: of what is being learned.
    position: how far it has come; grows with every save. What was saved at
      this position already stays.
    arrays: by name.
    values: JSON values.
    defined_in: by what it defines ('method', 'model'), the user's file; see
      `registry.origin`.
  """
  new = f'{name}.{position:09d}'
  if not checkpoint.exists(work.progress / new):
    checkpoint.save(work.progress / new, arrays, values | {
        'name': new, 'defined_in': defined_in})
    checkpoint.remove_all(work.progress, _pattern(name), keep=[new])
  host.may_stop()


def begun(work: workdir_lib.Workdir, name: str) -> bool:
  """Whether something was saved, sound or not; changes nothing."""
  return any(work.progress.glob(_pattern(name)))


def newest(work: workdir_lib.Workdir, name: str,
           defined_in: dict) -> tuple[dict, dict] | None:
  """(arrays, values) that were saved last, or `None`.

  What is damaged is removed: its steps are made again, with the same bits.

  Args:
    work: the workdir.
    name: of what is being learned.
    defined_in: as in `save`, now.

  Raises:
    ValueError: a user's file has changed since; names it.
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
      checkpoint.remove_all(work.progress, path.name)
  return None


def _require_same_files(path, then: dict | None, now: dict) -> None:
  """Other steps than the first ones were would make a network of neither."""
  for what, file in (then or {}).items():  # earlier versions kept none
    said = registry.changed(file, now.get(what))
    if said:
      raise ValueError(
          f'{path} was trained with another {what}: {said}. Bring that file '
          f'back, or remove {path}: its steps are then made again with the '
          'new one')


def remove(work: workdir_lib.Workdir, name: str) -> None:
  """Removes the progress of what has committed."""
  checkpoint.remove_all(work.progress, _pattern(name))
  host.may_stop()
