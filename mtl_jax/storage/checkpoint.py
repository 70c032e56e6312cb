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
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import parallel
from mtl_jax import trees

_METADATA = '_CHECKPOINT_METADATA'
FORMAT = 2  # 1: tasks did not name the method that made them


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
  return path.is_dir() and bool(ocp.is_orbax_checkpoint(path))


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
  full['digest'] = _json_digest(full)
  # One file per array instead of a key-value store: for arrays as small as
  # these it takes 2 to 3 kB less, and nearly always the same number of bytes.
  context = ocp.Context()
  context.array.saving.use_ocdbt = False
  context.array.saving.use_zarr3 = False
  with context:
    ocp.save(path.absolute(), arrays, custom_metadata=full)


def load(path: pathlib.Path, names: Sequence[str] | None = None
         ) -> tuple[dict[str, np.ndarray], dict]:
  """The arrays and metadata of a checkpoint, checked against its hashes.

  Args:
    path: its folder.
    names: the arrays to read; `None` reads all.

  Raises:
    CheckpointError: missing, unfinished, unreadable, of another format, or an
      array isn't the one that was written; names it.
  """
  metadata = load_metadata(path)
  try:
    arrays = _read(path, names)
  except Exception as error:  # Orbax and TensorStore raise many kinds.
    raise CheckpointError(f'{path} cannot be read: {_brief(error)}'
                          f'{_REMEDY}') from error
  arrays = {name: np.asarray(a) for name, a in (arrays or {}).items()}
  hashes = metadata['hashes']
  wanted = set(hashes) if names is None else set(names)
  for name in sorted(wanted | set(arrays)):
    if name not in arrays or name not in hashes:
      raise CheckpointError(f'{path}: leaf {name} is missing or was added'
                            f'{_REMEDY}')
    if trees.digest(arrays[name]) != hashes[name]:
      raise CheckpointError(f'{path}: leaf {name} was changed since it was '
                            f'written (its SHA-256 differs){_REMEDY}')
  return arrays, metadata


def _read(path: pathlib.Path, names: Sequence[str] | None):
  if names is None:
    return ocp.load(path.absolute())
  found = ocp.metadata(path.absolute()).metadata
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with context:
    return ocp.load(path.absolute(), {
        name: np.empty(found[name].shape, found[name].dtype)
        for name in names if name in found})


_REMEDY = ('; restore the folder from a copy, or remove it to have it made '
           'again')


def fingerprint(path: pathlib.Path) -> str:
  """Of all that a task left but its outputs: what others rely on."""
  hashes = {name: digest for name, digest in load_metadata(path)[
      'hashes'].items() if name != 'probe'}
  return hashlib.sha256(
      json.dumps(sorted(hashes.items())).encode()).hexdigest()[:16]


def load_metadata(path: pathlib.Path) -> dict:
  """The metadata alone, without reading any array."""
  if not path.is_dir():
    raise CheckpointError(f'no checkpoint at {path}')
  if not exists(path):
    raise CheckpointError(f'{path} is not a finished checkpoint{_REMEDY}')
  try:
    metadata = ocp.metadata(path.absolute()).custom_metadata
  except Exception as error:
    raise CheckpointError(f'the metadata of {path} cannot be read: '
                          f'{_brief(error)}{_REMEDY}') from error
  if not isinstance(metadata, dict) or metadata.get('format') != FORMAT:
    found = metadata.get('format') if isinstance(metadata, dict) else None
    raise CheckpointError(f'{path} has format {found}; this version reads '
                          f'format {FORMAT}{_REMEDY}')
  digest = metadata.pop('digest', None)
  if digest != _json_digest(metadata):
    raise CheckpointError(f'the metadata of {path} was changed since it was '
                          f'written (its SHA-256 differs){_REMEDY}')
  return metadata


def change_metadata(path: pathlib.Path, changes: dict) -> None:
  """Puts other values into a checkpoint's metadata, at once or not at all.

  Raises:
    CheckpointError: it can't be read, or does not lie as Orbax writes it.
  """
  full = load_metadata(path) | changes
  full['digest'] = _json_digest(full)
  file = path / _METADATA
  try:
    whole = json.loads(file.read_text())
    whole['custom_metadata']  # pylint: disable=pointless-statement
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise CheckpointError(f'the metadata of {path} are not where this version '
                          f'of Orbax keeps them: {_brief(error)}') from error
  whole['custom_metadata'] = full
  handle, part = tempfile.mkstemp(dir=path.parent, prefix='.metadata.')
  with os.fdopen(handle, 'w') as out:
    out.write(json.dumps(whole))
    out.flush()
    os.fsync(out.fileno())
  os.chmod(part, 0o644)
  os.replace(part, file)


def _json_digest(value: dict) -> str:
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


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
        doomed = path.with_name(f'.{path.name}.removed')
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)
  parallel.barrier(f'removed {pattern} from {folder.name}')


def remove_unfinished(folder: pathlib.Path) -> None:
  """Removes what killed runs left half written in `folder`."""
  if parallel.is_primary() and folder.is_dir():
    for path in folder.iterdir():
      removed = path.name.startswith('.') and path.name.endswith('.removed')
      if removed or '.orbax-checkpoint-tmp' in path.name:
        shutil.rmtree(path, ignore_errors=True)
  parallel.barrier(f'remove unfinished {folder.name}')


def stored_bytes(path: pathlib.Path) -> int:
  """Sum of the sizes of all files of a checkpoint."""
  return sum(p.stat().st_size for p in path.rglob('*') if p.is_file())


def tree_to_arrays(tree: Any) -> dict[str, Any]:
  """Any tree as named arrays (typed keys as their data), for `save`."""
  return trees.flatten(parallel.to_host(tree))


def arrays_to_tree(arrays: dict[str, Any], like: Any) -> Any:
  """Inverse of `tree_to_arrays`; `like` gives structure, shapes and dtypes.

  Raises:
    CheckpointError: names, shapes or dtypes differ from `like`.
  """
  wanted = {name: leaf for name, leaf in trees.flatten(like).items()
            if leaf is not None}
  if set(wanted) != set(arrays):
    name = sorted(set(wanted) ^ set(arrays))[0]
    raise CheckpointError(f'leaf {name} stands only in the checkpoint or only '
                          'in the state to restore; the config has changed')

  def leaf(name, old):
    if old is None:
      return None
    new = arrays[name]
    if jax.dtypes.issubdtype(old.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(new, impl=jax.random.key_impl(old))
    if new.shape != old.shape or new.dtype != old.dtype:
      raise CheckpointError(f'leaf {name} is {new.dtype}{new.shape} in the '
                            f'checkpoint but {old.dtype}{old.shape} here')
    return new
  return trees.map_named(leaf, like)


def impression_to_arrays(impression: impressions.Impression) -> dict:
  """Named arrays with packed masks, for `save`.

  Of a leaf that has both a mask and a value only the values under the mask
  are kept, in the order of their indices: what a subnetwork owns.
  """
  packed = (None if impression.masks is None
            else masks.pack(impression.masks))
  arrays = tree_to_arrays(impression._replace(masks=packed)._asdict())
  kept = {} if impression.masks is None else trees.flatten(
      parallel.to_host(impression.masks))
  for name, mask in kept.items():
    if mask is not None and arrays.get(f'values/{name}') is not None:
      arrays[f'values/{name}'] = arrays[f'values/{name}'][mask]
  if impression.path is not None:
    text = json.dumps(impression.path.parts, separators=(',', ':'))
    arrays['path'] = np.frombuffer(text.encode(), np.uint8)
  return arrays


def impression_metadata(impression: impressions.Impression) -> dict:
  """What an impression has beside arrays, as JSON values for its metadata."""
  impressions.check_parts(impression)
  found: dict[str, Any] = {}
  if impression.structure is not None:
    found['structure'] = list(impression.structure.parts)
  absent = [name for name, a in trees.flatten(impression.parts or {}).items()
            if a is None]
  return found | ({'absent': absent} if absent else {})


def arrays_to_impression(arrays: dict, backbone: Any, stats: Any,
                         metadata: dict) -> impressions.Impression:
  """The impression in a task's arrays.

  Args:
    arrays: as `load` gives them; names outside the impression are ignored.
    backbone: tree that gives the structure and the shapes of masks.
    stats: tree that gives the structure of norm statistics.
    metadata: holds what `impression_metadata` gave. With a 'structure', values
      may have leaves that the backbone lacks.
  """
  if metadata.get('structure') is not None:
    return _grown(arrays, metadata['structure'])
  parts: dict[str, Any] = {}
  own = {name.removeprefix('parts/'): a for name, a in arrays.items()
         if name.startswith('parts/')}
  if own:
    parts['parts'] = trees.unflatten(
        own | dict.fromkeys(metadata.get('absent') or ()))
  if 'path' in arrays:
    parts['path'] = impressions.Path(tuple(
        (own, name) for own, name in json.loads(arrays['path'].tobytes())))
  for part in ('masks', 'coefficients', 'values', 'stats'):
    like = stats if part == 'stats' else backbone
    found = {name.removeprefix(f'{part}/'): a for name, a in arrays.items()
             if name.startswith(f'{part}/')}
    unknown = sorted(set(found) - set(trees.flatten(like)))
    if unknown:
      raise CheckpointError(f'leaf {part}/{unknown[0]} has no counterpart in '
                            'the backbone: this is another network')
    parts[part] = trees.map_named(
        lambda name, _, found=found: found.get(name), like) if found else None
  if parts['masks'] is not None:
    parts['masks'] = masks.unpack(parts['masks'], backbone)
    if parts['values'] is not None:
      parts['values'] = trees.map_named(_scatter, parts['values'],
                                        parts['masks'])
  return impressions.Impression(**parts)


def _grown(arrays, structure) -> impressions.Impression:
  """An impression whose network has a structure of its own."""
  found = {name: a for name, a in arrays.items() if name.startswith('values/')}
  other = sorted(name for name in arrays if name.startswith(
      ('masks/', 'coefficients/', 'stats/')))
  if other:
    raise CheckpointError(f'leaf {other[0]} does not belong to a task with a '
                          f'structure of its own{_REMEDY}')
  values = trees.unflatten({name.removeprefix('values/'): a
                            for name, a in found.items()})
  return impressions.Impression(
      values=values, structure=impressions.Structure(tuple(structure)))


def _scatter(name, value, mask):
  """The dense leaf of values that lie under a mask, 0 elsewhere."""
  if value is None or mask is None:
    return value
  mask = np.asarray(mask)
  if value.shape != (np.count_nonzero(mask),):
    raise CheckpointError(f'leaf values/{name} has shape {value.shape}, but '
                          f'its mask keeps {np.count_nonzero(mask)} weights'
                          f'{_REMEDY}')
  dense = np.zeros(mask.shape, value.dtype)
  dense[mask] = value
  return dense
