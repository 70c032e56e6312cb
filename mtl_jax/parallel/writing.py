"""Which of several processes write files: the first, or each its own."""

import contextlib
from collections.abc import Iterator

import jax


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


def own_part() -> str:
  """What ends the name of a process's own folder; '' of the first one."""
  return f'-{jax.process_index()}' if jax.process_index() else ''


def several() -> bool:
  """Whether there are several processes."""
  return jax.process_count() > 1
