"""Ends a command with one sentence and an exit code."""

import codecs
import errno
import os
import sys
from collections.abc import Callable

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


def plain_output() -> None:
  """Makes output replace characters that a terminal cannot show.

  Output that is closed (`>&-`) goes nowhere; otherwise the next file that is
  opened would have its place.
  """
  while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
    pass
  os.close(opened)
  for name in ('stdout', 'stderr'):
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))
  codecs.register_error('mtl_jax_ascii', _as_ascii)
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, 'reconfigure'):  # not where a test captures it
      stream.reconfigure(errors='mtl_jax_ascii')


def guarded(command: Callable[[], int | None]) -> int:
  """Calls a command; an error becomes one sentence on stderr.

  Returns:
    The command's own code (0 for success), 1 after an error, 130 after Ctrl-C,
    or 143 after SIGTERM.
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
  except BrokenPipeError:  # the reader, such as `| head`, has closed the pipe
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
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
  what = {2: 'Ctrl-C', 15: 'SIGTERM'}.get(number, f'signal {number}')
  print(f'stopped by {what}; to go on, start it again: {provenance.command()}',
        file=sys.stderr)
  return 128 + number
