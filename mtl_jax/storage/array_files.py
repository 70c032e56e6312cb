"""Reads the arrays of a checkpoint where Orbax put them, in one call.

Orbax reads through event loops of its own: that takes 30 to 80 ms for a few
kilobytes, and what it meets in a damaged file is printed by threads that
nobody can catch. An array lies in a folder of its name as zarr has it, which
TensorStore reads alone.
"""

import math
import os
import pathlib
from collections.abc import Collection

import numpy as np
import tensorstore

from mtl_jax import json_files

_ITEM, _SPEC = 'state', '.zarray'


def names(path: pathlib.Path) -> list[str] | None:
  """The arrays of a checkpoint; `None` if they do not lie as expected."""
  root = path / _ITEM
  found = [pathlib.Path(folder).relative_to(root).as_posix()
           for folder, _, files in os.walk(root) if _SPEC in files]
  return sorted(found) or None


def read(path: pathlib.Path, wanted: Collection[str]) -> dict[str, np.ndarray]:
  """Arrays of a checkpoint by name.

  Raises:
    ValueError: a file is damaged or missing; names the array.
  """
  opened = {}
  for name in wanted:
    folder = path / _ITEM / name
    _require_chunks(folder, name)
    opened[name] = tensorstore.open({
        'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': f'{folder}/'}},
                                    open=True, read=True)
  result = {}
  for name, store in opened.items():
    try:
      result[name] = np.asarray(store.result().read().result())
    except Exception as error:  # TensorStore's are of several kinds
      raise ValueError(f'the files of leaf {name} are damaged '
                       f'({str(error).splitlines()[0][:160]})') from error
  return result


def _require_chunks(folder: pathlib.Path, name: str) -> None:
  """Before memory is taken for a shape that no file fills."""
  try:
    spec = json_files.read(folder / _SPEC, {'shape': list, 'chunks': list},
                           'the shape', '')
    size, chunk = math.prod(spec['shape']), math.prod(spec['chunks'])
    there = sum(file.is_file() for file in folder.iterdir()) - 1
  except (OSError, ValueError, TypeError) as error:
    raise ValueError(f'the files of leaf {name} are damaged ({error})'
                     ) from error
  if not 0 <= size <= there * chunk:
    raise ValueError(f'of the files of leaf {name} some are missing: of '
                     f'its {size} numbers {there * chunk} are there')
