"""Removes checkpoints so that a kill never leaves a half-removed one."""

import pathlib
import shutil
from collections.abc import Sequence

from mtl_jax import parallel
from mtl_jax.parallel import writing

UNFINISHED = '.orbax-checkpoint-tmp'  # in the name of a folder being written
PART = '.metadata.'  # begins the name of metadata that are being written
_REMOVED = '.removed'


def is_final(name: str) -> bool:
  """Whether a folder has a final name, not one that a kill leaves behind."""
  return not name.startswith('.') and UNFINISHED not in name


def remove_all(folder: pathlib.Path, pattern: str,
               keep: Sequence[str] = ()) -> None:
  """Removes checkpoints by name pattern, except those in `keep`.

  Each is renamed first, so that a half-removed one never has a final name.
  """
  if writing.here():
    for path in sorted(folder.glob(pattern)):
      if path.name not in keep and not path.name.startswith('.'):
        remove(path)
  parallel.barrier(f'removed {pattern} from {folder.name}')


def remove(path: pathlib.Path) -> None:
  """Removes a folder or file; a kill never leaves it half removed.

  Of a link, what it leads to stays.
  """
  doomed = path.with_name(f'.{path.name}{_REMOVED}')
  _erase(doomed, ignore_errors=True)
  path.rename(doomed)
  _erase(doomed)


def _erase(path: pathlib.Path, ignore_errors: bool = False) -> None:
  """Removes a folder or file that may be missing; of a link, the link alone."""
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path, ignore_errors=ignore_errors)
  else:
    path.unlink(missing_ok=True)


def remove_unfinished(folder: pathlib.Path) -> None:
  """Removes what killed runs left unfinished in `folder`."""
  if writing.here() and folder.is_dir():
    for path in folder.iterdir():
      removed = path.name.startswith('.') and path.name.endswith(_REMOVED)
      if removed or UNFINISHED in path.name or path.name.startswith(PART):
        _erase(path, ignore_errors=True)
  parallel.barrier(f'remove unfinished {folder.name}')
