"""Checks a system's inputs, and formulates its errors."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mtl_jax import aliases
from mtl_jax import trees
from mtl_jax.data import repairs
from mtl_jax.storage import workdir as workdir_lib


def check_images(x: aliases.Images, shape: tuple[int, ...], task: str,
                 dtype: str = 'uint8') -> None:
  """Refuses inputs that don't have the dtype and the shape [n, *shape]."""
  if is_array(x, dtype) and tuple(x.shape[1:]) == shape and (
      len(x.shape) == 1 + len(shape)):
    return
  what = 'raw images' if dtype == 'uint8' else 'inputs'
  raise ValueError(
      f'task {task} takes {what} {dtype} [n, {", ".join(map(str, shape))}]; '
      f'got {described(x)}; {repairs.remedy(x, shape, dtype)}')


def require_images(x: Any, task: str, metadata: Callable[[str], dict]) -> None:
  """Refuses other inputs than images for inference among tasks of these."""
  dtype = ('uint8' if is_array(x, 'uint8') else
           metadata(task).get('source_dtype', 'uint8'))
  if dtype != 'uint8':
    raise ValueError(f'task {task} takes {dtype} inputs, and only a task of '
                     'images is inferred; name the task')


def is_array(x: Any, dtype: str) -> bool:
  """Whether `x` is an array of a dtype without masked entries.

  Arrays of other libraries count whose parts NumPy can read, such as those of
  h5py.
  """
  known = isinstance(x, (np.ndarray, jax.Array)) or all(
      hasattr(x, name) for name in ('__array__', '__getitem__', 'shape'))
  return known and not np.ma.is_masked(x) and (
      getattr(x, 'dtype', None) == np.dtype(dtype))


def described(x: Any) -> str:
  """The dtype and the shape of an array for messages, else the type."""
  if np.ma.is_masked(x):
    return f'{x.dtype} {x.shape} with masked entries'
  if not hasattr(x, 'dtype'):
    return f'{type(x).__name__}, which is no array'
  return f'{x.dtype} {getattr(x, "shape", "")}'.strip()


def needed(metadata: dict, named: list[str]) -> str:
  """Describes what a task needs of other tasks.

  Args:
    metadata: metadata of the task.
    named: names of the other tasks.

  >>> needed({'record': {'basis': {'kind': 'random', 'size': 1}}}, ['a'])
  'its random basis of 1 mask: that of the task a'
  """
  one = len(named) == 1
  basis = metadata['record'].get('basis')
  if basis:
    what = (f'its {basis["kind"]} basis of '
            f'{trees.counted(basis["size"], "mask")}: '
            f'{"that" if basis["size"] == 1 else "those"}')
  else:
    what = f'the impression{"" if one else "s"}'
  return f'{what} of the task{"" if one else "s"} {some(named)}'


def some(names: list[str]) -> str:
  """At most 20 names, and the number of further names."""
  more = f' and {len(names) - 20} more' if len(names) > 20 else ''
  return (', '.join(names[:20]) or 'none') + more


def require_new_name(work: workdir_lib.Workdir, name: str, metadata: dict,
                     leaving: str | None = None) -> None:
  """Refuses a name that a task cannot get beside the others of a workdir.

  Args:
    work: the workdir.
    name: the name.
    metadata: the task's; `{}` if it is not of a run.
    leaving: as in `Workdir.require_free`.

  Raises:
    ValueError: as in `Workdir.require_free`, or the run in the workdir learns
      another task of that name.
  """
  work.require_free(name, leaving)
  plan, record = work.read_plan(), metadata.get('record', {})
  if work.has_task(name):
    return  # the caller says that it is there
  if name in plan.get('entries', ()) and not (
      metadata.get('suite') == plan['suite'] and 'merged' not in record
      and record.get('task') == name.partition('@')[0]):
    raise ValueError(f'{name} is a task of the run in {work.root}, which '
                     'learns it itself; give another name')
