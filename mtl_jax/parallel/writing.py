"""Which of several processes write files: the first, or each its own."""

import contextlib
import io
import pathlib
import tarfile
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils


class _Files:
  """Whether each process has a folder of its own."""
  apart = False


@contextlib.contextmanager
def apart() -> Iterator[None]:
  """Within it every process writes: each has a folder of its own."""
  before, _Files.apart = _Files.apart, True
  try:
    yield
  finally:
    _Files.apart = before


def here() -> bool:
  """Whether this process writes what all of them work on."""
  return _Files.apart or jax.process_index() == 0


def copy(folders: Iterable[tuple[pathlib.Path, str]]) -> None:
  """Gives folders of the first process to all others, if they are apart.

  Args:
    folders: each with the name that it has there until it is whole.
  """
  for path, name in folders if _Files.apart and several() else ():
    packed, first = io.BytesIO(), jax.process_index() == 0
    if first:
      with tarfile.open(fileobj=packed, mode='w') as files:
        files.add(path, arcname='.')
    data = from_first(packed.getvalue())
    if not first:
      part = path.with_name(name)
      with tarfile.open(fileobj=io.BytesIO(data)) as files:
        files.extractall(part, filter='data')
      part.rename(path)


def from_first(data: bytes) -> bytes:
  """What the first process gives, in every one; of others, it is not read."""
  send = lambda array: np.asarray(multihost_utils.broadcast_one_to_all(array))
  high, low = send(np.array(divmod(len(data), 1 << 24), np.int32))
  size, given = (int(high) << 24) + int(low), np.frombuffer(data, np.uint8)
  block = 1 << (16 if size <= 1 << 16 else 22)  # two programs, whatever comes
  parts = []
  for start in range(0, size, block):
    part = np.zeros(block, np.uint8)
    own = given[start:start + block]
    part[:len(own)] = own
    parts.append(send(part)[:size - start].tobytes())
  return b''.join(parts)


def own_part() -> str:
  """What ends the name of a process's own folder; '' of the first one."""
  return f'-{jax.process_index()}' if jax.process_index() else ''


def several() -> bool:
  """Whether there are several processes."""
  return jax.process_count() > 1
