"""Keeps other processes of this machine out of a workdir."""

import contextlib
import errno
import logging
import os
import pathlib
import platform
from collections.abc import Iterator

import filelock

from mtl_jax import parallel
from mtl_jax.storage import disk_errors


@contextlib.contextmanager
def held(root: pathlib.Path) -> Iterator[None]:
  """Holds `.lock` in a folder, which it makes; a kill gives it back too.

  Of several processes the first one does.

  Raises:
    ValueError: another process works there; names it.
  """
  if not parallel.is_primary():
    yield
    return
  above = (root, *root.parents)
  if file := next((path for path in above if path.is_file()), None):
    raise ValueError(f'{file} is a file, so that {root} cannot be a '
                     'folder; name another one')
  made = [folder for folder in above if not folder.exists()]
  root.mkdir(parents=True, exist_ok=True)
  file = root / '.lock'
  begun = file.exists()
  lock = filelock.FileLock(file, timeout=0)
  holder = root / '.holder'
  try:
    lock.acquire()
  except filelock.Timeout:
    try:
      name = holder.read_text().strip()
    except OSError:  # written later, or removed by now
      name = ''
    who = ('another thread of this process' if name == _own_name() else
           f'another process ({name or "unknown"})')
    raise ValueError(
        f'{who} works in {root}; wait for it, or choose another workdir. '
        'Nothing was changed') from None
  except (OSError, NotImplementedError) as error:
    code = error.errno if isinstance(error, OSError) else None
    if code is not None and code in (errno.EACCES, errno.EPERM, errno.EROFS,
                                     errno.ENOSPC):
      raise ValueError(
          f'{root} cannot be changed: {file}: {os.strerror(code)}; '
          'see to it that this process may write the file and the folder, or '
          'choose another workdir. Nothing was changed') from error
    # A file system without locks.
    logging.warning('%s cannot be locked (%s): see to it that one process '
                    'works there at a time', root, error)
  try:
    with disk_errors.named(holder):
      holder.write_text(_own_name())
    yield
  finally:
    if lock.is_locked:
      holder.unlink(missing_ok=True)
      if not begun and set(os.listdir(root)) <= {file.name}:
        # What was refused leaves nothing behind.
        with contextlib.suppress(OSError):
          file.unlink()
          for folder in made:
            folder.rmdir()
      lock.release()


def _own_name() -> str:
  return f'{platform.node()}, pid {os.getpid()}'
