"""Which format a workdir has, and which version of mtl_jax made it.

`format.json` is read before anything else of a workdir, and stays as it is in
all formats: {"format": number, "mtl_jax": version}.
"""

import json
import pathlib

from mtl_jax import _version
from mtl_jax import json_files

FORMAT = 1  # one more whenever an older version could not read a workdir
FILE = 'format.json'


def text() -> str:
  """What stands in the file of a workdir that this version makes."""
  return json.dumps({'format': FORMAT, 'mtl_jax': _version.__version__}) + '\n'


def require(root: pathlib.Path) -> None:
  """Refuses a workdir of another format; one that isn't begun has none.

  Args:
    root: the workdir.

  Raises:
    ValueError: says which version made it, and what to do.
  """
  path = root / FILE
  own = f'mtl_jax {_version.__version__} reads format {FORMAT}'
  if not path.exists():
    if (root / 'backbone.json').exists():
      raise ValueError(
          f'{root} has no {FILE}: it was made before workdirs had a format, or '
          f'the file was removed. {own}; restore the file from a copy, read '
          'the workdir with the version that made it, or choose another '
          'workdir')
    return
  number, version = _read(path)
  if number != FORMAT:
    raise ValueError(
        f'{root} has format {number}, made by mtl_jax {version}, but {own}; '
        f'install mtl_jax {version} to read it, or choose another workdir')


def _read(path: pathlib.Path) -> tuple[int, str]:
  found = json_files.read(path, {'format': int, 'mtl_jax': str}, 'the format')
  return found['format'], found['mtl_jax']
