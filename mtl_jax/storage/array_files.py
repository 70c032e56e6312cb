"""How the arrays of a checkpoint are laid out in files, and how to read them.

All arrays of a checkpoint are the bytes of one zarr array, leaf after leaf, so
that a small checkpoint takes one file. The checkpoint's metadata hold its
`layout`: zarr's own metadata and the position of each leaf. A checkpoint of
format 2 has one zarr array for every leaf, in a folder with the leaf's name.

TensorStore reads the files without Orbax: Orbax's event loops take 30 to 80 ms
for a few kilobytes, and its threads print the errors of damaged files.
"""

import concurrent.futures
import math
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import tensorstore

from mtl_jax import json_files

# Bytes of a file before compression: the smallest unit that can be read.
LARGEST = 2 ** 22
_THREADS = 64  # that may wait for the disk at the same time
_ITEM, _SPEC = 'state', '.zarray'


def pack(arrays: Mapping[str, np.ndarray]
         ) -> tuple[np.ndarray, dict[str, list]]:
  """The bytes of arrays in the order of their names, with dtypes and shapes.

  Returns:
    (uint8 [files, bytes of a file], {name: [dtype, shape]}). The last file is
    padded with zeros; there is at least one byte.
  """
  names = sorted(arrays)
  size = sum(arrays[name].nbytes for name in names)
  width = max(1, min(size, LARGEST))
  packed = np.zeros((max(1, -(-size // width)), width), np.uint8)
  whole, begin = packed.reshape(-1), 0
  for name in names:
    part = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8)
    whole[begin:begin + len(part)] = part
    begin += len(part)
  return packed, {name: [_name_of(arrays[name].dtype),
                         list(arrays[name].shape)] for name in names}


def layout(spec: dict, files: int, leaves: dict[str, list]) -> dict:
  """The information that `read` needs, as JSON values.

  Args:
    spec: the spec of the zarr array [files of all checkpoints, bytes of a
      file] that was written; each row is a file.
    files: number of files of this checkpoint.
    leaves: from `pack`.
  """
  width = spec['shape'][1]
  return {'leaves': leaves, 'zarr': spec | {'shape': [files * width],
                                            'chunks': [width]}}


def file_names(files: int) -> list[str]:
  """Names of a checkpoint's files, in the order of its bytes."""
  return [str(i) for i in range(files)]


def flush(files: Iterable[pathlib.Path]) -> None:
  """Waits until all files are on the disk; they are flushed in parallel."""
  def wait(file):
    with open(file, 'rb') as opened:
      os.fsync(opened.fileno())
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    list(pool.map(wait, files))


def read(path: pathlib.Path, how: dict | None,
         names: Collection[str] | None) -> dict[str, np.ndarray]:
  """Arrays of a checkpoint by name; names that it lacks are left out.

  Args:
    path: the checkpoint.
    how: its `layout`; `None` for format 2.
    names: names of the arrays; `None` reads all.

  Raises:
    ValueError: a file is damaged or missing; names the array.
  """
  if how is None:
    there = _names(path)
    return _read_apart(path / _ITEM, there if names is None else [
        name for name in names if name in there])
  leaves, begin, ranges = how['leaves'], 0, {}
  for name, (dtype, shape) in leaves.items():
    size = np.dtype(dtype).itemsize * math.prod(shape)
    ranges[name] = begin, begin + size
    begin += size
  wanted = list(leaves) if names is None else [
      name for name in names if name in leaves]
  if not wanted:
    return {}
  said = (f'leaf {wanted[0]}' if len(leaves) == 1 else
          f'leaves {min(leaves)} to {max(leaves)}')
  _require_chunks(path, how['zarr'], said)
  store = tensorstore.open(
      {'driver': 'zarr', 'metadata': how['zarr'],
       'kvstore': {'driver': 'file', 'path': f'{path}/'}},
      open=True, read=True, assume_metadata=True)
  # If all leaves are asked for, a file with several leaves is read only once.
  parts = ({'': (0, begin)} if len(wanted) == len(leaves)
           else {name: ranges[name] for name in wanted})
  found = _results({name: store.result()[start:stop].read()
                    for name, (start, stop) in parts.items()}, said)
  return {name: _leaf(found[''][slice(*ranges[name])] if '' in found
                      else found[name], *leaves[name]) for name in wanted}


def _leaf(part: np.ndarray, dtype: str, shape: list) -> np.ndarray:
  return part.copy().view(np.dtype(dtype)).reshape(shape)


def _name_of(dtype: np.dtype) -> str:
  """A name from which `np.dtype` makes the dtype, also for JAX's dtypes."""
  return dtype.name if dtype.kind == 'V' else dtype.str


def _results(reads: Mapping[str, Any], said: str) -> dict[str, np.ndarray]:
  result = {}
  for name, reading in reads.items():
    try:
      result[name] = np.asarray(reading.result())
    except Exception as error:  # TensorStore raises several kinds
      raise ValueError(
          f'the files of {f"leaf {name}" if name else said} are damaged '
          f'({str(error).splitlines()[0][:160]})') from error
  return result


def _names(path: pathlib.Path) -> list[str]:
  """Names of the arrays of a checkpoint of format 2."""
  root = path / _ITEM
  return sorted(pathlib.Path(folder).relative_to(root).as_posix()
                for folder, _, files in os.walk(root) if _SPEC in files)


def _read_apart(root: pathlib.Path,
                names: Collection[str]) -> dict[str, np.ndarray]:
  """Reads arrays that each have a folder of their own (format 2)."""
  opened = {}
  for name in names:
    try:
      spec = json_files.read(root / name / _SPEC, {
          'shape': list, 'chunks': list}, 'the shape', '')
    except (OSError, ValueError) as error:
      raise ValueError(f'the files of leaf {name} are damaged ({error})'
                       ) from error
    _require_chunks(root / name, spec, f'leaf {name}')
    opened[name] = tensorstore.open(
        {'driver': 'zarr', 'kvstore': {'driver': 'file',
                                       'path': f'{root / name}/'}},
        open=True, read=True)
  return _results({name: store.result().read()
                   for name, store in opened.items()}, '')


def _require_chunks(folder: pathlib.Path, spec: dict, said: str) -> None:
  """Checks that all chunks exist before memory is allocated for the shape."""
  try:
    size, chunk = math.prod(spec['shape']), math.prod(spec['chunks'])
    there = sum(file.is_file() for file in folder.iterdir()
                if file.name[0].isdigit())
  except (OSError, TypeError, KeyError) as error:
    raise ValueError(f'the files of {said} are damaged ({error})'
                     ) from error
  if not 0 <= size <= there * chunk:
    raise ValueError(f'of the files of {said} some are missing: of '
                     f'its {size} numbers {there * chunk} are there')


def stored_bytes(path: pathlib.Path) -> int:
  """Sum of the sizes of all files of a checkpoint."""
  return sum(os.stat(os.path.join(folder, file)).st_size
             for folder, _, files in os.walk(path) for file in files)
