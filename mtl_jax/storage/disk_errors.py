"""Errors of the disk as Python's own, with the path: a full disk names no
file, and TensorStore raises ValueError.
"""

import contextlib
import logging
import os
import pathlib
import re
from collections.abc import Iterator

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
    code = _CODE.search(str(error))
    if code is None:
      raise
    number = int(code[1])
    raise OSError(number, os.strerror(number), str(path)) from error
  finally:
    log.disabled = before
