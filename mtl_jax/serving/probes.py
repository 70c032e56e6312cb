"""Probe inputs: a stored task's outputs on them are kept as proof.

A run keeps images of its data in the workdir. An exported task holds no images,
because data have licences and size: its probe is drawn from a seed.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mtl_jax.storage import checkpoint
from mtl_jax.storage import workdir as workdir_lib

MOST_ROWS, MOST_BYTES, LARGEST = 4, 1024, 1 << 28


def of_task(read: Callable[[str], np.ndarray], metadata: dict) -> np.ndarray:
  """The raw inputs on which a task's outputs were stored.

  Args:
    read: (source) -> probe images in the workdir.
    metadata: metadata of the task.

  Returns:
    [n, *shape of the task's source], with the source's dtype.

  Raises:
    CheckpointError: the inputs are missing.
  """
  if metadata.get('drawn_probe'):
    return draw(metadata['drawn_probe'], metadata)
  return read(metadata['source'])


def is_here(work: workdir_lib.Workdir, metadata: dict) -> bool:
  """Whether the workdir has the probe inputs of a task."""
  return bool(metadata.get('drawn_probe')) or checkpoint.exists(
      work.probe_of(metadata['source']))


def describe(work: workdir_lib.Workdir, read: Callable[[str], np.ndarray],
             metadata: dict) -> dict[str, Any]:
  """The argument of `draw` for a task: few rows, so that outputs are small."""
  rows = max(1, min(MOST_ROWS, MOST_BYTES // (4 * metadata['classes'])))
  dtype = np.dtype(metadata.get('source_dtype', 'uint8'))
  if dtype.kind == 'f':
    return {'rows': rows}
  if dtype == np.uint8:
    return {'rows': rows, 'below': 256}
  # Word numbers: not larger than those known from the data.
  most = (int(np.max(of_task(read, metadata)))
          if is_here(work, metadata) else 0)
  return {'rows': rows, 'below': most + 1}


def draw(described: dict, metadata: dict) -> np.ndarray:
  """Raw inputs from a seed: the same bits everywhere.

  Args:
    described: from `describe`.
    metadata: metadata of the task, with its source's shape and dtype.

  Raises:
    CheckpointError: the described inputs are unreasonably large.
  """
  shape = (described['rows'], *metadata['source_shape'])
  dtype = np.dtype(metadata.get('source_dtype', 'uint8'))
  if not 0 < math.prod(shape) <= LARGEST:
    raise checkpoint.CheckpointError(
        f'task {metadata["name"]} has a probe of shape {shape}, which cannot '
        'be meant; get its file again')
  random = np.random.RandomState(0)
  if 'below' not in described:
    return random.uniform(size=shape).astype(dtype)
  return random.randint(0, described['below'], shape).astype(dtype)
