"""Files that are replaced as a whole: a reader never sees half of one."""

import contextlib
import os
import pathlib
import uuid

from mtl_jax.storage import disk_errors


def replace(path: pathlib.Path, content: bytes,
            part: tuple[pathlib.Path, str] | None = None) -> None:
  """Replaces a file as a whole, or leaves it unchanged.

  An error leaves nothing behind; a kill may leave the part. Into a device or
  a pipe, which stay, the content is written.

  Args:
    path: path of the file.
    content: its new content.
    part: folder, and begin of the name, of the new file until it is whole;
      beside `path` by default, as `.NAME.`.
  """
  if path.exists() and not path.is_file():
    with disk_errors.named(path):
      path.write_bytes(content)
    return
  folder, prefix = part or (path.parent, f'.{path.name[:100]}.')
  name = folder / f'{prefix}{uuid.uuid4().hex[:8]}'
  try:
    with disk_errors.named(path), name.open('xb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(name, path)
  except BaseException as error:
    with contextlib.suppress(OSError):  # as on a disk that is read-only now
      name.unlink(missing_ok=True)
    if isinstance(error, OSError) and error.filename == str(name):
      error.filename = str(path)  # which the user knows
      del error.filename2
    raise


def write(path: pathlib.Path, content: bytes) -> None:
  """`replace`, which makes the folders, and keeps a link to the file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  replace(path.resolve(), content)
