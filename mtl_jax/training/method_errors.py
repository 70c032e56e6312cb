"""Errors in the functions of a user's method."""

import contextlib
import pathlib
import traceback
from collections.abc import Iterator

import jax

from mtl_jax import methods
from mtl_jax.config import config as config_lib

_PACKAGE = pathlib.Path(__file__).parents[1]
# Python's errors for mistakes in code.
_PYTHONS = (ArithmeticError, AssertionError, AttributeError, LookupError,
            NameError, NotImplementedError, TypeError)
# Errors that have their own sentence.
_OWN = (FloatingPointError, ValueError, OSError, MemoryError, ImportError,
        jax.errors.JaxRuntimeError)


class WrongMethod(ValueError):
  """A method breaks the contract; the message says which function, and how."""


def failed(name: str, error: BaseException) -> WrongMethod:
  """The error for a function of a method that raised an exception."""
  return WrongMethod(f'{name} fails: {type(error).__name__}: '
                     f'{" ".join(str(error).split())[:400]}')


@contextlib.contextmanager
def named(phase: config_lib.Phase) -> Iterator[None]:
  """While a phase is learned: names what fails in a method of a user's own.

  The check before training calls its functions for the first group alone.

  Raises:
    WrongMethod: names the phase, the function and the line.
  """
  origin = methods.METHODS.origin(phase.method)
  try:
    yield
  except _OWN:
    raise
  except Exception as error:  # pylint: disable=broad-except
    own = [] if origin is None else [
        frame for frame in traceback.extract_tb(error.__traceback__)
        if pathlib.Path(frame.filename).name == origin['file']
        and not pathlib.Path(frame.filename).is_relative_to(_PACKAGE)]
    if origin is None or not (own or isinstance(error, _PYTHONS)):
      raise
    where = (f'{own[-1].name} (line {own[-1].lineno} of {origin["file"]})'
             if own else f'a function of {origin["file"]}')
    raise WrongMethod(
        f'phase {phase.name}: method {phase.method}: '
        f'{failed(where, error)}. What is finished is kept: correct the '
        'function, and start again') from error


def raised_in(error: BaseException) -> str:
  """The package that raised an error."""
  frame, module = error.__traceback__, ''
  while frame is not None:
    module = frame.tb_frame.f_globals.get('__name__', '')
    frame = frame.tb_next
  return module.split('.')[0]
