"""Checkpoints; the only module that uses Orbax to write them.

A checkpoint is a folder with named arrays and JSON metadata. Orbax writes the
arrays under a temporary name, the metadata are added, and the folder is renamed
once everything is on the disk: a folder with its final name is complete. The
metadata hold the SHA-256 of every array, which each load checks: a checkpoint
is read as it was written, or refused.
"""

import asyncio
import concurrent.futures
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorstore
from orbax.checkpoint import type_handlers
from orbax.checkpoint import v1 as ocp

from mtl_jax import json_files
from mtl_jax import messages
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.parallel import writing
from mtl_jax.storage import array_files
from mtl_jax.storage import disk_errors
from mtl_jax.storage import folders
from mtl_jax.storage import remedies
from mtl_jax.storage import removal
from mtl_jax.storage import whole_files

# Format 1: tasks did not name their method. Format 2: every array had its own
# folder; these checkpoints can still be read.
FORMAT = 3
_READ = (2, FORMAT)
# The file with `custom_metadata` as JSON, where Orbax's own tools put them.
METADATA = '_CHECKPOINT_METADATA'
# Keys of the metadata that `save` adds.
OWN = ('format', 'hashes', 'layout')


class CheckpointError(ValueError):
  """A checkpoint can't be trusted; the message says why, and the remedy.

  One that only can't be read now is another error, `json_files.Unreadable`:
  nobody may remove it.
  """


def exists(path: pathlib.Path) -> bool:
  """Whether there is a finished checkpoint at `path`."""
  return removal.is_final(path.name) and os.path.isfile(path / METADATA)


def require_readable(path: pathlib.Path) -> None:
  """Refuses a folder that is there, but not for this process.

  Raises:
    Unreadable: names it.
  """
  if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
    raise json_files.Unreadable(
        f'{path} cannot be read by this process; change its permissions '
        '(chmod), or ask its owner')


def has_metadata(path: pathlib.Path) -> bool:
  """Whether a folder looks like a checkpoint, intact or damaged."""
  return (path / METADATA).is_file()


class Made(NamedTuple):
  """A checkpoint to be written.

  Attributes:
    path: a folder that doesn't exist yet.
    arrays: arrays by name; `None` leaves are left out.
    metadata: JSON values.
  """
  path: pathlib.Path
  arrays: dict[str, Any]
  metadata: dict


class _Part(NamedTuple):
  """A partly written checkpoint: its folder, bytes and metadata."""
  path: pathlib.Path
  folder: pathlib.Path
  packed: np.ndarray
  leaves: dict[str, list]
  metadata: dict


def save(path: pathlib.Path, arrays: dict[str, Any], metadata: dict) -> None:
  """Writes a checkpoint; every process of a run must call it.

  Args:
    path: a folder that doesn't exist yet.
    arrays: arrays by name; `None` leaves are left out.
    metadata: JSON values.

  Raises:
    CheckpointError: `path` exists; nothing is overwritten.
  """
  save_all([Made(path, arrays, metadata)])


def save_all(made: Sequence[Made]) -> None:
  """`save` of many checkpoints, at hardly more than the cost of one.

  If the process is killed, each of them is complete or does not exist.
  """
  # No process may start to write before all have asked what exists already.
  parallel.barrier('saving')
  if parallel.is_primary():  # Orbax writes in no other
    parts = [_part_of(*one) for one in made]
    try:
      with disk_errors.named(made[0].path):
        for width in sorted({part.packed.shape[1] for part in parts}):
          _write([part for part in parts if part.packed.shape[1] == width])
        array_files.flush(file for part in parts
                          for file in part.folder.iterdir())
      for part in parts:
        part.folder.rename(part.path)
    except BaseException:
      for part in parts:
        shutil.rmtree(part.folder, ignore_errors=True)
      raise
  writing.copy([(one.path, one.path.name + removal.UNFINISHED) for one in made])
  parallel.barrier('saved')


def _part_of(path, arrays, metadata) -> _Part:
  if path.exists():
    raise CheckpointError(f'{path} exists already and is never overwritten; '
                          'choose another workdir or remove it')
  arrays = {name: np.asarray(a) for name, a in arrays.items()
            if a is not None}
  full = dict(metadata, format=FORMAT, hashes=trees.digests(arrays))
  return _Part(path, path.with_name(path.name + removal.UNFINISHED),
               *array_files.pack(arrays), full)


def _write(parts: list[_Part]) -> None:
  """Writes the folders of checkpoints whose files have equal lengths.

  Orbax writes one array, with one file per row. Each checkpoint takes its own
  rows and copies zarr's metadata into its own, which saves a file.
  """
  for part in parts:
    if part.folder.exists():  # left by a killed process
      shutil.rmtree(part.folder)
    part.folder.mkdir()
  whole, row = parts[0].folder / 'arrays', 0
  with concurrent.futures.ThreadPoolExecutor(1) as apart:
    # The caller's thread may already run an event loop, as in a notebook.
    apart.submit(asyncio.run, _serialize(
        whole, [part.packed for part in parts])).result()
  spec = json_files.read(whole / '.zarray', {'shape': list}, 'the shape', '')
  for part in parts:
    files = array_files.file_names(len(part.packed))
    for name in files:
      os.rename(f'{whole}/{row}.0', f'{part.folder}/{name}')
      row += 1
    full = part.metadata | {'layout': array_files.layout(
        spec, len(files), part.leaves)}
    full['digest'] = json_files.digest(full)
    (part.folder / METADATA).write_text(json.dumps({'custom_metadata': full}))
  shutil.rmtree(whole)


@functools.cache
def _context() -> tensorstore.Context:
  """A TensorStore context that doesn't flush; threads are started once."""
  return tensorstore.Context({'file_io_sync': False})


async def _serialize(path: pathlib.Path, rows: list[np.ndarray]) -> None:
  """Writes arrays [files, bytes of a file] as one array with Orbax."""
  array = rows[0] if len(rows) == 1 else np.concatenate(rows)
  info = type_handlers.ParamInfo(
      name=path.name, parent_dir=path.parent.absolute(),
      is_ocdbt_checkpoint=False, ts_context=_context())
  handler = type_handlers.NumpyHandler(deepcopy_host_arrays=False)
  for written in await handler.serialize(
      [array], [info], [type_handlers.SaveArgs(shard_axes=(0,))]):
    written.result()


@folders.of_one
def load(path: pathlib.Path, names: Sequence[str] | None = None,
         expected: Mapping[str, Any] | None = None
         ) -> tuple[dict[str, np.ndarray], dict]:
  """The arrays and metadata of a checkpoint, checked against its hashes.

  Args:
    path: folder of the checkpoint.
    names: names of the arrays to read; `None` reads all.
    expected: see `load_metadata`.

  Raises:
    CheckpointError: the checkpoint is missing, unfinished, unreadable, in
      another format or place, or an array has changed; names it.
  """
  metadata = _metadata(path, expected)
  try:
    arrays = array_files.read(path, metadata.pop('layout', None), names)
  except Exception as error:  # TensorStore raises many kinds.
    disk_errors.require_damaged(path, error)
    raise CheckpointError(f'{path} cannot be read: {messages.brief(error)}'
                          f'{remedies.of(path)}') from error
  hashes = metadata['hashes']
  wanted = set(hashes) if names is None else set(names)
  for name in sorted(wanted | set(arrays)):
    if name not in arrays or name not in hashes:
      raise CheckpointError(f'{path}: leaf {name} is missing or was added'
                            f'{remedies.of(path)}')
    if trees.digest(arrays[name]) != hashes[name]:
      raise CheckpointError(f'{path}: leaf {name} was changed since it was '
                            f'written (its SHA-256 differs){remedies.of(path)}')
  return arrays, metadata


def read_foreign(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays by path in a folder that any program wrote with Orbax.

  Raises:
    CheckpointError: the folder can't be read as a checkpoint of Orbax.
  """
  if _is_own(path):
    raise CheckpointError(f'{path} is a part of a workdir, not a network: '
                          "write a task's network with system.export_network "
                          'or `mtl-jax export --network`')
  try:
    tree = ocp.load(path.absolute())
    return {name: np.asarray(leaf) for name, leaf in trees.flatten(tree).items()
            if leaf is not None}
  except Exception as error:  # Orbax and TensorStore raise many kinds.
    raise CheckpointError(
        f'{path} cannot be read as a checkpoint of Orbax '
        f'({messages.brief(error)}); '
        'of a manager with several steps, give the folder of one') from error


def _is_own(path: pathlib.Path) -> bool:
  """Whether `save` wrote a folder."""
  try:
    _metadata(path)
  except CheckpointError:
    return False
  return True


_OF_A_TASK = {'backbone', 'classes', 'method', 'source_shape', 'transforms'}


def require_task(path: pathlib.Path, metadata: dict,
                 expected: Mapping[str, Any]) -> None:
  """`require` for a checkpoint that should be a task."""
  lacking = sorted(_OF_A_TASK - metadata.keys())
  if lacking:
    raise CheckpointError(
        f'{path} is not what belongs there: it is no task, for its metadata '
        f'lack {lacking[0]!r}. Give each folder its own name back, or restore '
        'it from a copy')
  require(path, metadata, expected)


def task_metadata(path: pathlib.Path) -> dict:
  """The metadata of a task with its record, checked against its folder's name.

  Raises:
    CheckpointError: as `load_metadata`, or the checkpoint is not a task.
  """
  metadata = load_metadata(path)
  require_task(path, metadata, {'name': path.name})
  if not isinstance(metadata.get('record'), dict):
    raise CheckpointError(f'{path} is not what belongs there: it has no record '
                          'of a task. Restore it from a copy')
  return metadata


@folders.of_one
def load_metadata(path: pathlib.Path,
                  expected: Mapping[str, Any] | None = None) -> dict:
  """The metadata, without reading any array.

  Args:
    path: folder of the checkpoint.
    expected: expected values of 'name', 'suite', 'source', 'backbone', ...;
      keys that the metadata lack are not compared. A checkpoint moved to
      another place fails this check.

  Raises:
    CheckpointError: the checkpoint is missing, unfinished, changed, in another
      format, or not the expected one.
  """
  metadata = _metadata(path, expected)
  metadata.pop('layout', None)
  return metadata


def _metadata(path: pathlib.Path,
              expected: Mapping[str, Any] | None = None) -> dict:
  """`load_metadata`, including the layout of the arrays."""
  if not path.exists():
    raise CheckpointError(f'no checkpoint at {path}')
  require_readable(path)
  if not exists(path):
    raise CheckpointError(f'{path} is not a finished checkpoint'
                          f'{remedies.of(path)}')
  try:
    metadata = json_files.read(path / METADATA, {'custom_metadata': dict},
                               'the metadata', '')['custom_metadata']
  except json_files.Unreadable:
    raise
  except ValueError as error:
    raise CheckpointError(f'the metadata of {path} cannot be read: {error}'
                          f'{remedies.of(path)}') from error
  if metadata.get('format') not in _READ:
    found = metadata.get('format')
    raise CheckpointError(
        (f'{path} says no format, so another program wrote it' if found is None
         else f'{path} has format {found}') + '; this version reads formats '
        f'{" and ".join(map(str, _READ))}{remedies.of(path)}')
  digest = metadata.pop('digest', None)
  if digest != json_files.digest(metadata):
    raise CheckpointError(f'the metadata of {path} was changed since it was '
                          f'written (its SHA-256 differs){remedies.of(path)}')
  require(path, metadata, expected or {})
  return metadata


def require(path: pathlib.Path, metadata: dict,
            expected: Mapping[str, Any]) -> None:
  """Refuses a checkpoint that isn't the expected one; see `load_metadata`."""
  for key, wanted in expected.items():
    if metadata.get(key, wanted) != wanted:
      raise CheckpointError(
          f'{path} is not what belongs there: its {key} is '
          f'{metadata[key]!r}, not {wanted!r}. It was renamed, or another was '
          'put in its place; give each folder its own name back, or restore '
          'it from a copy')


def change_metadata(path: pathlib.Path, changes: dict) -> None:
  """Changes values of a checkpoint's metadata, atomically.

  Raises:
    CheckpointError: the checkpoint can't be read.
  """
  full = _metadata(path) | changes
  full['digest'] = json_files.digest(full)
  file = path / METADATA
  whole = json_files.read(file, {'custom_metadata': dict}, 'the metadata')
  whole['custom_metadata'] = full
  # On the disk of the folder, which a link may have put elsewhere.
  whole_files.replace(file, json.dumps(whole).encode(),
                      (path.resolve().parent, removal.PART))
