"""Reads the inputs of a prediction: image files, folders, npz files."""

import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mtl_jax import host
from mtl_jax import messages
from mtl_jax import npz
from mtl_jax.data import folders
from mtl_jax.data import pictures


class Inputs(NamedTuple):
  """Inputs of one task.

  Attributes:
    names: name of each row: the file's path, with '[3]' for a row of an array.
    rows: [n, ...], in the form of the task's source.
  """
  names: list[str]
  rows: np.ndarray


def read(paths: Iterable[str], shape: tuple[int, ...], dtype: str) -> Inputs:
  """Reads inputs; images are resized to the size of a task's source.

  Args:
    paths: image files, folders (their images at every depth, except hidden
      ones), or npz files: the array `images`, or the only array.
    shape: shape of one input of the source, such as (H, W, C).
    dtype: dtype of the source.

  Raises:
    ValueError: a file is missing or not an image, a folder has no images, an
      array has another shape or dtype, or images are given for a task that
      takes none; names it.
  """
  names: list[str] = []
  parts: list[np.ndarray] = []
  for given in paths:
    path = host.expanded(given)
    if path.is_dir():
      files = [f for f in sorted(path.rglob('*')) if f.is_file()
               and not any(folders.is_hidden(part) for part in
                           f.relative_to(path).parts) and folders.is_image(f)]
      if not files:
        raise ValueError(f'{path} holds no image')
      names += map(str, files)
      parts += [_picture(f, shape, dtype) for f in files]
    elif not path.exists():
      raise ValueError(f'there is no file or folder {path}')
    elif path.suffix == '.npz':
      rows = _arrays(path, shape, dtype)
      names += [f'{path}[{i}]' for i in range(len(rows))]
      parts.append(rows)
    else:
      names.append(str(path))
      parts.append(_picture(path, shape, dtype))
  if not names:
    raise ValueError('there is nothing to predict: give image files, folders '
                     'or npz files')
  return Inputs(names, np.concatenate(parts))


def require_other(output: str | None, paths: Iterable[str]) -> None:
  """Refuses to write what was predicted over an input.

  Raises:
    ValueError: the output is one of the inputs, or in a folder of them.
  """
  if output is None:
    return
  for given in paths:
    path, target = host.expanded(given), host.expanded(output)
    if target.is_file() and (
        path.is_dir() and target.resolve().is_relative_to(path.resolve())
        and folders.is_image(target) or path.exists()
        and target.samefile(path)):
      raise ValueError(f'--output={output} is an input, which it would replace;'
                       ' name another file')


def _picture(file: pathlib.Path, shape, dtype) -> np.ndarray:
  """One image as uint8 [1, H, W, C], resized."""
  if dtype != 'uint8' or len(shape) != 3:
    raise ValueError(f'{file}: the task takes {dtype} {list(shape)}, no '
                     'pictures; give an npz file with such rows')
  if shape[-1] not in (1, 3):
    raise ValueError(f'{file}: the task takes images of {shape[-1]} channels; '
                     'give an npz file with such rows')
  image = pictures.read('predict', file, file,
                        'L' if shape[-1] == 1 else 'RGB')
  return pictures.resize(image, shape)[None]


def _arrays(path: pathlib.Path, shape, dtype) -> np.ndarray:
  """The rows of an npz file."""
  try:
    with path.open('rb') as stream:
      # NumPy would take another file for one of pickled objects.
      npz.require_whole(stream)
      file = np.load(stream, allow_pickle=False)
      names = file.files
      name = 'images' if 'images' in names else names[0] if (
          len(names) == 1) else None
      rows = None if name is None else file[name]
  except Exception as error:  # zipfile and NumPy raise many kinds
    why = ('it holds pickled objects, which could run code'
           if 'allow_pickle' in str(error) else messages.brief(error))
    raise ValueError(
        f'{path} can not be read as npz: {why}; write it with '
        'numpy.savez(FILE, images=...), as an array of numbers') from error
  if rows is None:
    raise ValueError(f'{path} holds {", ".join(names) or "nothing"}; call '
                     "the array to predict 'images'")
  if not isinstance(rows, np.ndarray):  # a member that is no array: its bytes
    raise ValueError(f'{path}: {name} is no array; write it with numpy.savez')
  if shape[-1:] == (1,) and rows.shape[1:] == shape[:-1]:  # grey [n, H, W]
    rows = rows[..., None]
  if rows.shape[1:] != shape or rows.dtype != np.dtype(dtype):
    raise ValueError(
        f'{path}: {name} is {rows.dtype} {list(rows.shape)}, but the task '
        f'takes {dtype} [n, {", ".join(map(str, shape))}]')
  return rows
