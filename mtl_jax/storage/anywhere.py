"""Single files, of this machine or in a bucket.

An address such as gs://bucket/folder/file names an object; see
`mtl_jax.storage.bucket`. What is read of one is a copy for a while.
"""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

from mtl_jax import host
from mtl_jax.storage import bucket
from mtl_jax.storage import folders
from mtl_jax.storage import whole_files


@contextlib.contextmanager
def near(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """A file as one of this machine; it need not exist.

  Raises:
    ValueError: the bucket cannot be read.
  """
  if not bucket.is_remote(path):
    yield host.expanded(path)
    return
  store, name = _parts(path)
  with tempfile.TemporaryDirectory(prefix='mtl_jax-') as folder:
    copy = pathlib.Path(folder) / name
    try:
      content = store.read_if_there(name)
    except Exception as error:  # of any protocol
      raise store.refused(error) from error
    if content is not None:
      copy.write_bytes(content)
    yield copy


def write(path: str | os.PathLike[str], content: bytes) -> None:
  """Writes or replaces a file as a whole, and makes its folders.

  Raises:
    ValueError: the bucket cannot be written.
  """
  if not bucket.is_remote(path):
    whole_files.write(host.expanded(path), content)
    return
  store, name = _parts(path)
  try:
    store.write(name, content)
  except Exception as error:  # of any protocol
    raise store.refused(error) from error


def size(path: str | os.PathLike[str]) -> int:
  """Bytes of a file that is there; one in a bucket is not read."""
  if not bucket.is_remote(path):
    return host.expanded(path).stat().st_size
  store, name = _parts(path)
  try:
    return store.size(name)
  except Exception as error:  # of any protocol
    raise store.refused(error) from error


def place(path: str | os.PathLike[str]) -> str | pathlib.Path:
  """Where a file is to be written: an address, or a path of this machine.

  Raises:
    ValueError: no file can have that address, or a workdir relies on the file.
  """
  if not bucket.is_remote(path):
    found = folders.local(path)
    folders.require_outside(found)
    return found
  _parts(path)
  return os.fspath(path)


def _parts(path: str | os.PathLike[str]) -> tuple[bucket.Bucket, str]:
  """The store of the folder in which an object lies, and its name there.

  Raises:
    ValueError: it names no object, or no store that is known.
  """
  folder, _, name = os.fspath(path).rpartition('/')
  if not name or name in ('.', '..') or not folder.partition('://')[2]:
    raise ValueError(f'{os.fspath(path)} names no file in a bucket; write '
                     'gs://BUCKET/FOLDER/FILE')
  return bucket.Bucket(folder), name
