"""Errors of the disk as Python's own, with the path: a full disk names no
file, and TensorStore raises ValueError.
"""

import contextlib
import logging
import os
import pathlib
import re
from collections.abc import Iterator

from mtl_jax import json_files

_CODE = re.compile(r"os_error_code='(\d+)'")  # in TensorStore's messages


@contextlib.contextmanager
def named(path: pathlib.Path) -> Iterator[None]:
  """Within it, errors of the disk are OSError and have a path.

  Orbax's threads print what they raise, with a traceback; not within it.

  Args:
    path: what is being written.
  """
  log = logging.getLogger('absl')
  before, log.disabled = log.disabled, True
  try:
    yield
  except OSError as error:
    if error.errno is not None and error.filename is None:
      error.filename = str(path)
    raise
  except ValueError as error:
    found = _of(error, path)
    if found is None:
      raise
    raise found from error
  finally:
    log.disabled = before


def _of(error: BaseException, path) -> OSError | None:
  """What the system said, if it said anything."""
  if isinstance(error, OSError):
    return error
  code = _CODE.search(str(error))
  return OSError(int(code[1]), os.strerror(int(code[1])),
                 str(path)) if code else None


def require_damaged(path, error: BaseException | None) -> None:
  """Raises `json_files.Unreadable` if an error, or its cause, is that the
  system refused to read what is there: that says nothing of its content.
  """
  while error is not None:
    if isinstance(error, json_files.Unreadable):
      raise error
    found = _of(error, path)
    if found is not None and not isinstance(
        found, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
      raise json_files.unreadable(path, found) from error
    error = error.__cause__


def require_readable(path: pathlib.Path) -> None:
  """Raises `json_files.Unreadable` if the system refuses to open a file."""
  try:
    path.open('rb').close()
  except OSError as error:
    require_damaged(path, error)
