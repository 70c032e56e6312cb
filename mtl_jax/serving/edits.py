"""Deletes and renames stored tasks, without changing any other task's bits.

If a process is killed during an edit, the tasks are as they were before or as
they are after it, and `verify` passes. The same call again finishes the edit.
"""

from mtl_jax.parallel import writing
from mtl_jax.serving import artifact
from mtl_jax.serving import checks
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import checkpoint
from mtl_jax.storage import deduplicate
from mtl_jax.storage import json_records
from mtl_jax.storage import removal
from mtl_jax.storage import workdir as workdir_lib


def dependents(work: workdir_lib.Workdir, name: str) -> list[str]:
  """Names of the tasks that need a task's masks or values stored with it."""
  return [other for other in work.task_names() if other != name and (
      name in _uses(checkpoint.load_metadata(work.task(other))))]


def _uses(metadata: dict) -> set[str]:
  found = set(metadata.get('relies_on') or {})
  return found | {reference['task'] for reference in (
      metadata.get('references') or {}).values()}


def delete(system: system_lib.System, name: str) -> None:
  """Removes a task on which no other task relies.

  If the run's command is started again, it learns the task again.

  Raises:
    ValueError: other tasks rely on it (names them), or its folder holds
      another task.
  """
  work = system.workdir
  with work.locked():
    _require_not_another(work, name)
    users = dependents(work, name)
    if users:
      raise ValueError(
          f'task {name} stays: {checks.some(users)} {_relies(users)} on it; '
          f'delete {"that" if len(users) == 1 else "those"} first')
    _drop(work, name, {'kind': 'deleted', 'entry': name})
  system.refresh()


def rename(system: system_lib.System, old: str, new: str) -> None:
  """Renames a task, also in the tasks that rely on it.

  If the run's command is started again, it learns a task with the old name.

  Raises:
    ValueError: the name is not valid or belongs to another task, or the folder
      of the old name holds another task.
  """
  work = system.workdir
  work.require_free(new, leaving=old)
  with work.locked():
    # `metadata` refuses the folder of another task.
    checks.require_new_name(work, new, system.metadata(old), leaving=old)
    _copy(work, old, new)
    for other in dependents(work, old):
      metadata = checkpoint.load_metadata(work.task(other))
      checkpoint.change_metadata(work.task(other),
                                 _with_name(metadata, old, new))
    _drop(work, old, {'kind': 'renamed', 'entry': new, 'from': old})
  system.refresh()


def _require_not_another(work: workdir_lib.Workdir, name: str) -> None:
  """Refuses to remove another task; a damaged task may be removed."""
  try:
    metadata = checkpoint.load_metadata(work.task(name))
  except checkpoint.CheckpointError:
    return
  checkpoint.require(work.task(name), metadata, {'name': name})


def _copy(work: workdir_lib.Workdir, old: str, new: str) -> None:
  """Copies a task under its new name."""
  taken = deduplicate.content_at(work, new)
  if old != new and taken is not None and (
      taken == deduplicate.content(work.task(old))):
    return  # a killed call has copied it
  if taken is not None or work.task(new).exists():
    raise ValueError(f'there is a task {new} already, which stays; choose '
                     'another name, or delete it')
  arrays, metadata = checkpoint.load(work.task(old))
  checkpoint.save(work.task(new), arrays, {
      key: value for key, value in artifact.renamed(metadata, new).items()
      if key not in checkpoint.OWN})


def _with_name(metadata: dict, old: str, new: str) -> dict:
  """The changed metadata of a task that relies on a renamed task."""
  changes = {}
  if old in (metadata.get('relies_on') or {}):
    # Keeps the order, which is that of a basis.
    changes['relies_on'] = {
        new if name == old else name: digest
        for name, digest in metadata['relies_on'].items()}
  if metadata.get('references'):
    changes['references'] = {
        leaf: found | {'task': new} if found['task'] == old else found
        for leaf, found in metadata['references'].items()}
  return changes


def _drop(work: workdir_lib.Workdir, name: str, said: dict) -> None:
  """Removes a task's folder and its lines in the log."""
  lines = json_records.of_tasks(json_records.read_lines(work.metrics),
                                lambda other: other != name)
  json_records.write_lines(work.metrics, [*lines, said])
  if writing.here():
    removal.remove_all(work.tasks, name)


def _relies(names: list[str]) -> str:
  return 'relies' if len(names) == 1 else 'rely'
