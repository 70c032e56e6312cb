"""Ends a command with one sentence and an exit code."""

import codecs
import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import jax

from mtl_jax import host
from mtl_jax.storage import provenance

# ASCII replacements of printed characters.
_ASCII = {'“': '"', '”': '"', '‘': "'", '’': "'", '–': '-', '—': '-',
          '…': '...', '×': 'x',
          '±': '+-', '→': '->', '·': '-', '≥': '>=', '≤': '<=',
          'μ': 'mu', 'µ': 'mu', '−': '-', '\u202f': ' ', '\xa0': ' '}


def _as_ascii(error):
  """Replaces characters that a terminal cannot show, as an error handler."""
  text = error.object[error.start:error.end]
  return ''.join(_ASCII.get(c, '?') for c in text), error.end


class _Output:
  """Standard output or error, whose reader may leave before the command ends.

  What is printed then goes nowhere: `| head -1` cuts what a command says, not
  what it does, nor its exit code.
  """

  def __init__(self, stream: Any, called: str, lost: type[OSError]):
    self._stream, self._called, self._lost = stream, called, lost

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    return self._surely(self._stream.write, text)

  def flush(self) -> None:
    self._surely(self._stream.flush)

  def _surely(self, function: Callable, *args: str) -> Any:
    try:
      return function(*args)
    except self._lost:
      nowhere = os.open(os.devnull, os.O_WRONLY)
      os.dup2(nowhere, self._stream.fileno())
      os.close(nowhere)
      return function(*args)
    except OSError as error:
      error.filename = self._called
      raise


def plain_output() -> None:
  """Makes output replace characters that a terminal cannot show.

  Output that is closed (`>&-`) goes nowhere; otherwise the next file that is
  opened would have its place. So does output whose reader has left, and what
  standard error cannot take.
  """
  while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
    pass
  os.close(opened)
  for name in ('stdout', 'stderr'):
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))
  codecs.register_error('mtl_jax_ascii', _as_ascii)
  for name, called, lost in (('stdout', 'standard output', BrokenPipeError),
                             ('stderr', 'standard error', OSError)):
    stream = getattr(sys, name)
    if hasattr(stream, 'reconfigure'):  # not where a test captures it
      stream.reconfigure(errors='mtl_jax_ascii')
    if not isinstance(stream, _Output):
      setattr(sys, name, _Output(stream, called, lost))


def guarded(command: Callable[[], int | None]) -> int:
  """Calls a command; an error becomes one sentence on stderr.

  Returns:
    The command's own code (0 for success), 1 after an error, 130 after Ctrl-C,
    143 after SIGTERM, or 129 after SIGHUP.
  """
  try:
    with host.stoppable():
      code = command() or 0
    sys.stdout.flush()
    return code
  except host.Stopped as stopped:
    return _say_stopped(stopped.number)
  except KeyboardInterrupt:
    return _say_stopped(2)
  except OSError as error:
    return _say_error(_of_system(error))
  except (ValueError, FloatingPointError, ImportError) as error:
    return _say_error(str(error) or type(error).__name__)
  except MemoryError:
    return _say_error(_memory('This machine has too little memory'))
  except jax.errors.JaxRuntimeError as error:
    if host.guarded(error):
      return _say_error(host.guarded(error))
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return _say_error(_memory(str(error).partition('\n')[0]))


_FULL = (errno.ENOSPC, getattr(errno, 'EDQUOT', errno.ENOSPC))


def _of_system(error: OSError) -> str:
  """A sentence for an error of the operating system, such as a full disk."""
  if error.filename is None or error.strerror is None:
    said = error.strerror or str(error) or type(error).__name__
    if error.errno == errno.ENOENT and host.nowhere():
      said = f'this command starts in {host.NOWHERE}, and give it again'
  else:
    said = f'{error.filename}: {error.strerror}'
  if error.errno in _FULL:
    said += ('; make room there, and give the same command again. What was '
             'finished is kept')
  return said


def _memory(said: str) -> str:
  return (f'{said}. Give a smaller eval_batch_size, batch_size or '
          'tasks_at_once; finished tasks are kept')


def _say_error(said: str) -> int:
  print(f'error: {said}', file=sys.stderr)
  return 1


def _say_stopped(number: int) -> int:
  """Prints how to continue; returns the shell's code for the signal."""
  what = 'Ctrl-C' if number == 2 else signal.Signals(number).name
  print(f'stopped by {what}; to go on, start it again: {provenance.command()}',
        file=sys.stderr)
  return 128 + number
