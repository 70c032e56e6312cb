"""Folders of this machine: paths to them, and what they hold."""

import errno
import functools
import os
import pathlib
import stat
from collections.abc import Callable, Iterator
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from mtl_jax import host
from mtl_jax import messages
from mtl_jax.storage import removal

P = ParamSpec('P')
R = TypeVar('R')


def local(path) -> pathlib.Path:
  """A path of this machine, with `~` as the user's home.

  Raises:
    ValueError: it is no path, or the address of a bucket or another machine.
  """
  if not isinstance(path, (str, os.PathLike)) or not os.fspath(path) or (
      '\0' in os.fspath(path)):
    raise ValueError(f'the path is {messages.shown(path)}; give that of a '
                     'folder or file')
  if protocol := host.protocol(path):
    raise ValueError(
        f'{os.fspath(path)} is a remote address ({protocol}:), which only '
        'workdirs and exported files can have; give a folder or file of this '
        'machine')
  return host.expanded(path)


_OF_A_WORKDIR = ('backbone', 'backbone.json', 'config.json', 'format.json',
                 'metrics.jsonl', 'plan.json', 'probe', 'progress', 'shared',
                 'start.json', 'tasks', '.lock')


def require_outside(path: pathlib.Path) -> None:
  """Refuses to write an output over what a workdir relies on.

  Raises:
    ValueError: the path is that of a file of a workdir; names both.
  """
  path = path.resolve()
  for folder in path.parents:
    if (folder / 'backbone.json').is_file() and path.relative_to(
        folder).parts[0] in _OF_A_WORKDIR:
      raise ValueError(f'{path} belongs to the files of the workdir {folder}, '
                       'which would be damaged; name another file')


def storable(path: pathlib.Path) -> pathlib.Path:
  """A path as checkpoints need it: absolute, as the process may change its
  current folder later, and of letters.
  """
  path = path.absolute()
  try:
    str(path).encode()
  except UnicodeEncodeError as error:
    raise ValueError(
        f'the path {str(path)!r} has bytes that are no letters in UTF-8, so no '
        'checkpoint can be written there; choose another name, or start Python '
        'with PYTHONUTF8=1') from error
  return reachable(path)


def reachable(path: pathlib.Path) -> pathlib.Path:
  """The path, which may not exist yet.

  Raises:
    ValueError: a link on it leads nowhere, so that nothing can be made there.
  """
  for link in (path, *path.parents):
    if link.is_symlink() and not link.exists():
      raise ValueError(f'{link} is a link to {os.readlink(link)}, which does '
                       'not exist; bring that back, or remove the link')
  return path


class Stamp(NamedTuple):
  """Of a file or folder: equal as long as it is the same and unchanged.

  One of its times alone may be set back, by a clock or a copy, or be that of
  the next change too.

  Attributes:
    changed: time of the last change of its content, in nanoseconds.
    touched: time of the last change of anything.
    inode: its number on the disk; it may be given again.
    size: in bytes.
    links: number of its names; of a folder, of folders in it.
  """
  changed: int
  touched: int
  inode: int
  size: int
  links: int


def stamp(path: str | os.PathLike[str]) -> Stamp:
  """The stamp of a file or folder that is there."""
  return _stamp(os.stat(path))


def _stamp(found: os.stat_result) -> Stamp:
  return Stamp(found.st_mtime_ns, found.st_ctime_ns, found.st_ino,
               found.st_size, found.st_nlink)


# Errors that say that there is no such file.
_NONE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP,
         errno.EINVAL)


def version(folder: pathlib.Path) -> Stamp | None:
  """The stamp of a folder; `None` if it is none.

  Raises:
    OSError: the system does not say.
  """
  try:
    found = os.stat(folder)
  except ValueError:  # a name with a zero byte
    return None
  except OSError as error:
    if error.errno not in _NONE:
      raise
    return None
  if not stat.S_ISDIR(found.st_mode):
    return None
  return _stamp(found)


def listed(folder: pathlib.Path) -> Iterator[tuple[str, Stamp]]:
  """(name, version) of all folders in a folder.

  Raises:
    OSError: the system does not list them.
  """
  try:
    names = os.listdir(folder)
  except (FileNotFoundError, NotADirectoryError):
    return
  for name in filter(removal.is_final, names):
    found = version(folder / name)
    if found is not None:  # otherwise no folder, or removed meanwhile
      yield name, found


def of_one(read: Callable[Concatenate[pathlib.Path, P], R]
           ) -> Callable[Concatenate[pathlib.Path, P], R]:
  """A function that reads a folder again if it was exchanged meanwhile.

  Files of two folders would not fit together, as if the folder were damaged.
  """
  @functools.wraps(read)
  def call(path: pathlib.Path, *args: P.args, **options: P.kwargs) -> R:
    while True:
      there = version(path)
      try:
        return read(path, *args, **options)
      except (ValueError, FileNotFoundError):
        if version(path) == there:
          raise
  return call
