"""Reads arrays of weights, whichever program wrote them; executes no code.

Three forms are read: `.npz` without pickled objects, `.safetensors`, and a
folder written by Orbax. In a nested tree, a name is the path joined by '/'.
"""

import os
import pathlib
import zipfile

import numpy as np

from mtl_jax import host
from mtl_jax import npz
from mtl_jax.storage import anywhere
from mtl_jax.storage import bucket
from mtl_jax.storage import checkpoint
from mtl_jax.storage import disk_errors
from mtl_jax.storage import tensor_file

_FORMS = 'an .npz, a .safetensors or an Orbax folder'


def read(path) -> dict[str, np.ndarray]:
  """The arrays of a file or folder, by name.

  Args:
    path: the file or folder, or the address of a file in a bucket; its suffix
      says its form.

  Raises:
    FileNotFoundError: the path doesn't exist.
    ValueError: the form is unknown, the file is damaged, or it has no arrays.
  """
  if not bucket.is_remote(path):
    return _read(host.expanded(path))
  with anywhere.near(path) as copy:
    if not copy.exists():
      raise FileNotFoundError(
          f'there are no weights at {path}; backbone.weights is the address of '
          'an .npz or .safetensors file, or a path on this machine')
    try:
      return _read(copy)
    except ValueError as error:
      raise ValueError(str(error).replace(str(copy), str(path))) from error


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The same of a file or folder of this machine."""
  if not os.path.exists(path):  # False of a name that is too long, too
    raise FileNotFoundError(f'there are no weights at {path}; backbone.weights '
                            f'is the path of {_FORMS}')
  disk_errors.require_readable(path)
  if path.is_dir():
    arrays = checkpoint.read_foreign(path)
  elif path.suffix == '.npz':
    arrays = _npz(path)
  elif path.suffix == '.safetensors':
    arrays = tensor_file.read_weights(path)
  else:
    raise ValueError(
        f'{path} has none of the forms in which weights are read: {_FORMS}. '
        'Nothing that could run code, such as a pickle (.pt, .bin, .pkl), is '
        'opened: write its arrays with safetensors, or numpy.savez')
  if not arrays:
    raise ValueError(f'{path} holds no arrays; give a file of weights')
  return arrays


def _npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  if not zipfile.is_zipfile(path):
    raise ValueError(f'{path} cannot be read as .npz: it is no archive, or a '
                     'part of one; copy it again from where it was written')
  try:
    with path.open('rb') as stream:
      npz.require_whole(stream)
      members = np.load(stream, allow_pickle=False)
      return {name: np.asarray(members[name]) for name in members.files}
  except Exception as error:  # zipfile and NumPy raise many kinds
    if 'allow_pickle' in str(error):
      raise ValueError(
          f'{path} holds pickled objects, which could run code and are not '
          'read: write arrays of numbers with numpy.savez') from error
    raise ValueError(f'{path} cannot be read as .npz: {error}; copy it again '
                     'from where it was written') from error
