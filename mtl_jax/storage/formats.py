"""The format of a workdir, and the version of mtl_jax that made it.

`format.json` is read before all other files of a workdir. Its own form is the
same in all formats: {"format": number, "mtl_jax": version}.
"""

import json
import pathlib

from mtl_jax import _version
from mtl_jax import json_files

# Increased whenever older versions can't read a workdir any more.
# 2: the arrays of a checkpoint are one zarr array (`storage.array_files`).
FORMAT = 2
OLDEST = 1  # the oldest format that this version reads
FILE = 'format.json'


def text() -> str:
  """Content of the file in a workdir that this version makes."""
  return json.dumps({'format': FORMAT, 'mtl_jax': _version.__version__}) + '\n'


def require(root: pathlib.Path) -> None:
  """Refuses a workdir of an unknown format; a new one has no format yet.

  Args:
    root: the workdir.

  Raises:
    ValueError: says which version made the workdir, and the remedy.
  """
  path = root / FILE
  own = f'mtl_jax {_version.__version__} reads formats {OLDEST} to {FORMAT}'
  if not path.exists():
    if (root / 'backbone.json').exists():
      raise ValueError(
          f'{root} has no {FILE}: it was made before workdirs had a format, or '
          f'the file was removed. {own}; restore the file from a copy, read '
          'the workdir with the version that made it, or choose another '
          'workdir')
    return
  number, version = _read(path)
  if not OLDEST <= number <= FORMAT:
    raise ValueError(
        f'{root} has format {number}, made by mtl_jax {version}, but {own}; '
        f'install mtl_jax {version} to read it, or choose another workdir')


def is_older(root: pathlib.Path) -> bool:
  """Whether a workdir has an earlier format that this version reads."""
  path = root / FILE
  return path.exists() and _read(path)[0] < FORMAT


def _read(path: pathlib.Path) -> tuple[int, str]:
  found = json_files.read(path, {'format': int, 'mtl_jax': str}, 'the format')
  return found['format'], found['mtl_jax']
