"""Checkpoints: the only file that knows of Orbax.

A checkpoint is a folder with named arrays and JSON metadata. Orbax writes it
under a temporary name and renames it when it is whole, so a folder with its
final name is complete. Every array's SHA-256 is kept in the metadata and
checked at each load: a checkpoint is read as it was written or refused.
"""

import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from orbax.checkpoint import v1 as ocp

from mtl_jax import json_files
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.storage import array_files

FORMAT = 2  # 1: tasks did not name the method that made them
_UNFINISHED = '.orbax-checkpoint-tmp'
_REMOVED = '.removed'
# Orbax keeps `custom_metadata` here, as JSON, beside facts of its own.
_METADATA = '_CHECKPOINT_METADATA'


def _worth_saying(record: logging.LogRecord) -> bool:
  """Not that there is nothing to merge of a store that wasn't asked for.

  Nor that arrays of nested names lie deeper than Orbax looks for them: `load`
  holds every array against its hash.
  """
  text = record.getMessage()
  return not ('Skipping merge of OCDBT' in text
              or 'TensorStore data files not found' in text)


logging.getLogger('absl').addFilter(_worth_saying)


class CheckpointError(ValueError):
  """A checkpoint that can't be trusted; says what is wrong and the remedy."""


def exists(path: pathlib.Path) -> bool:
  """Whether a finished checkpoint stands at `path`."""
  return is_final(path.name) and os.path.isfile(path / _METADATA)


def is_final(name: str) -> bool:
  """Whether a folder's name is none that a kill leaves behind."""
  return not name.startswith('.') and _UNFINISHED not in name


def has_metadata(path: pathlib.Path) -> bool:
  """Whether a folder looks like a checkpoint, sound or not."""
  return (path / _METADATA).is_file()


def save(path: pathlib.Path, arrays: dict[str, Any], metadata: dict) -> None:
  """Writes a checkpoint; every process of a run must call it.

  Args:
    path: a folder that doesn't exist yet.
    arrays: by name; `None` leaves are left out.
    metadata: JSON values.

  Raises:
    CheckpointError: something stands at `path`; nothing is overwritten.
  """
  if path.exists():
    raise CheckpointError(f'{path} exists already and is never overwritten; '
                          'choose another workdir or remove it')
  arrays = {name: np.asarray(a) for name, a in arrays.items()
            if a is not None}
  full = dict(metadata, format=FORMAT, hashes=trees.digests(arrays))
  full['digest'] = json_files.digest(full)
  # One file per array instead of a key-value store: for arrays as small as
  # these it takes 2 to 3 kB less, and nearly always the same number of bytes.
  context = ocp.Context()
  context.array.saving.use_ocdbt = False
  context.array.saving.use_zarr3 = False
  with context:
    ocp.save(path.absolute(), arrays, custom_metadata=full)


def load(path: pathlib.Path, names: Sequence[str] | None = None,
         expected: Mapping[str, Any] | None = None
         ) -> tuple[dict[str, np.ndarray], dict]:
  """The arrays and metadata of a checkpoint, checked against its hashes.

  Args:
    path: its folder.
    names: the arrays to read; `None` reads all.
    expected: see `load_metadata`.

  Raises:
    CheckpointError: missing, unfinished, unreadable, of another format or
      place, or an array isn't the one that was written; names it.
  """
  metadata = load_metadata(path, expected)
  try:
    arrays = _read(path, names)
  except Exception as error:  # Orbax and TensorStore raise many kinds.
    raise CheckpointError(f'{path} cannot be read: {_brief(error)}'
                          f'{remedy(path)}') from error
  arrays = {name: np.asarray(a) for name, a in (arrays or {}).items()}
  hashes = metadata['hashes']
  wanted = set(hashes) if names is None else set(names)
  for name in sorted(wanted | set(arrays)):
    if name not in arrays or name not in hashes:
      raise CheckpointError(f'{path}: leaf {name} is missing or was added'
                            f'{remedy(path)}')
    if trees.digest(arrays[name]) != hashes[name]:
      raise CheckpointError(f'{path}: leaf {name} was changed since it was '
                            f'written (its SHA-256 differs){remedy(path)}')
  return arrays, metadata


def _read(path: pathlib.Path, names: Sequence[str] | None):
  there = array_files.names(path)
  if there is not None:
    return array_files.read(path, there if names is None else [
        name for name in names if name in there])
  # As a version of Orbax lays them that `array_files` doesn't know.
  if names is None:
    return ocp.load(path.absolute())
  found = ocp.metadata(path.absolute()).metadata
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with context:
    return ocp.load(path.absolute(), {
        name: np.empty(found[name].shape, found[name].dtype)
        for name in names if name in found})


def read_foreign(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of a folder that any program wrote with Orbax, by path.

  Raises:
    CheckpointError: it can't be read as one.
  """
  try:
    tree = ocp.load(path.absolute())
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(tree).items()
            if leaf is not None}
  except Exception as error:  # Orbax and TensorStore raise many kinds.
    raise CheckpointError(
        f'{path} cannot be read as a checkpoint of Orbax ({_brief(error)}); '
        'of a manager with several steps, give the folder of one') from error


# What helps, by the folder in which a damaged checkpoint lies.
_REMEDIES = {
    'probe': '; restore the folder from a copy, or start the run\'s command, '
             'which makes it again',
    'progress': '; restore the folder from a copy, or remove it: what was not '
                'finished is then learned again from its start',
    'shared': '; restore the folder from a copy: it cannot be made again, but '
              'by a new run in another workdir',
}


def remedy(path: pathlib.Path) -> str:
  """The end of a sentence that says a checkpoint of a workdir is damaged."""
  if path.parent.name in _REMEDIES:
    return _REMEDIES[path.parent.name]
  kept = path.parent.parent / 'shared'
  if path.parent.name == 'tasks' and kept.is_dir() and any(kept.iterdir()):
    # Of a phase whose tasks go on from what the one before them kept.
    return ('; restore the folder from a copy. Without one, remove it and '
            'start the run\'s command: it makes the task again or says why it '
            'cannot')
  return '; restore the folder from a copy, or remove it to have it made again'


_OF_A_TASK = {'backbone', 'classes', 'method', 'source_shape', 'transforms'}


def require_task(path: pathlib.Path, metadata: dict,
                 expected: Mapping[str, Any]) -> None:
  """`require` of a checkpoint in whose place a task belongs."""
  lacking = sorted(_OF_A_TASK - metadata.keys())
  if lacking:
    raise CheckpointError(
        f'{path} is not what belongs there: it is no task, for its metadata '
        f'lack {lacking[0]!r}. Give each folder its own name back, or restore '
        'it from a copy')
  require(path, metadata, expected)


def task_metadata(path: pathlib.Path) -> dict:
  """The metadata of a task with its record, held against its folder's name.

  Raises:
    CheckpointError: as `load_metadata`, or it is no task that a run stored.
  """
  metadata = load_metadata(path)
  require_task(path, metadata, {'name': path.name})
  if not isinstance(metadata.get('record'), dict):
    raise CheckpointError(f'{path} is not what belongs there: it has no record '
                          'of a task. Restore it from a copy')
  return metadata


def fingerprint(path: pathlib.Path,
                expected: Mapping[str, Any] | None = None) -> str:
  """Of all that a task left but its outputs: what others rely on."""
  hashes = {name: digest for name, digest in load_metadata(path, expected)[
      'hashes'].items() if name != 'probe'}
  return hashlib.sha256(
      json.dumps(sorted(hashes.items())).encode()).hexdigest()[:16]


def load_metadata(path: pathlib.Path,
                  expected: Mapping[str, Any] | None = None) -> dict:
  """The metadata alone, without reading any array.

  Args:
    path: of the checkpoint.
    expected: what the metadata must say of itself where it says anything:
      'name', 'suite', 'source', 'backbone', ... A checkpoint that was moved
      to another's place doesn't.

  Raises:
    CheckpointError: missing, unfinished, changed, of another format, or not
      the one that is expected here.
  """
  if not path.exists():
    raise CheckpointError(f'no checkpoint at {path}')
  if not exists(path):
    raise CheckpointError(f'{path} is not a finished checkpoint{remedy(path)}')
  try:
    metadata = json_files.read(path / _METADATA, {'custom_metadata': dict},
                               'the metadata', '')['custom_metadata']
  except ValueError as error:
    raise CheckpointError(f'the metadata of {path} cannot be read: {error}'
                          f'{remedy(path)}') from error
  if metadata.get('format') != FORMAT:
    found = metadata.get('format')
    raise CheckpointError(
        (f'{path} says no format, so another program wrote it' if found is None
         else f'{path} has format {found}') + f'; this version reads format '
        f'{FORMAT}{remedy(path)}')
  digest = metadata.pop('digest', None)
  if digest != json_files.digest(metadata):
    raise CheckpointError(f'the metadata of {path} was changed since it was '
                          f'written (its SHA-256 differs){remedy(path)}')
  require(path, metadata, expected or {})
  return metadata


def require(path: pathlib.Path, metadata: dict,
            expected: Mapping[str, Any]) -> None:
  """Refuses a checkpoint that isn't what its place says; see `load_metadata`.
  """
  for key, wanted in expected.items():
    if metadata.get(key, wanted) != wanted:
      raise CheckpointError(
          f'{path} is not what belongs there: its {key} is '
          f'{metadata[key]!r}, not {wanted!r}. It was renamed, or another was '
          'put in its place; give each folder its own name back, or restore '
          'it from a copy')


def change_metadata(path: pathlib.Path, changes: dict) -> None:
  """Puts other values into a checkpoint's metadata, at once or not at all.

  Raises:
    CheckpointError: it can't be read, or does not lie as Orbax writes it.
  """
  full = load_metadata(path) | changes
  full['digest'] = json_files.digest(full)
  file = path / _METADATA
  whole = json_files.read(file, {'custom_metadata': dict}, 'the metadata')
  whole['custom_metadata'] = full
  handle, part = tempfile.mkstemp(dir=path.parent, prefix='.metadata.')
  with os.fdopen(handle, 'w') as out:
    out.write(json.dumps(whole))
    out.flush()
    os.fsync(out.fileno())
  os.chmod(part, 0o644)
  os.replace(part, file)


def _brief(error: Exception) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def remove_all(folder: pathlib.Path, pattern: str,
               keep: Sequence[str] = ()) -> None:
  """Removes checkpoints by name pattern, all but those in `keep`.

  Each is renamed first, so that it never stands there half removed.
  """
  if parallel.is_primary():
    for path in sorted(folder.glob(pattern)):
      if path.name not in keep and not path.name.startswith('.'):
        remove(path)
  parallel.barrier(f'removed {pattern} from {folder.name}')


def remove(path: pathlib.Path) -> None:
  """Removes a folder or file that never stands there half removed."""
  doomed = path.with_name(f'.{path.name}{_REMOVED}')
  shutil.rmtree(doomed, ignore_errors=True)
  path.rename(doomed)
  if doomed.is_dir():
    shutil.rmtree(doomed)
  else:
    doomed.unlink()


def remove_unfinished(folder: pathlib.Path) -> None:
  """Removes what killed runs left half written in `folder`."""
  if parallel.is_primary() and folder.is_dir():
    for path in folder.iterdir():
      removed = path.name.startswith('.') and path.name.endswith(_REMOVED)
      if removed or _UNFINISHED in path.name:
        if path.is_dir():
          shutil.rmtree(path, ignore_errors=True)
        else:
          path.unlink(missing_ok=True)
  parallel.barrier(f'remove unfinished {folder.name}')


def stored_bytes(path: pathlib.Path) -> int:
  """Sum of the sizes of all files of a checkpoint."""
  return sum(p.stat().st_size for p in path.rglob('*') if p.is_file())
