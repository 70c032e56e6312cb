"""The functions of a system that users call: what they can't take is named."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

from mtl_jax import host
from mtl_jax import trees

P = ParamSpec('P')
R = TypeVar('R')


def public(function: Callable[P, R]) -> Callable[P, R]:
  """The function, which names a wrong keyword, or a forbidden transfer.

  Raises:
    ValueError: it has no such keyword (gives the nearest), or
      `jax.transfer_guard` forbids what it does.

  >>> public(lambda path, name=None: name)('a', nme=3)
  Traceback (most recent call last):
    ...
  ValueError: <lambda> has no option nme (did you mean: name?); it takes path, \
name
  """
  given = inspect.signature(function).parameters.values()
  known = [one.name for one in given if one.name != 'self']
  any_other = any(one.kind is one.VAR_KEYWORD for one in given)

  @functools.wraps(function)
  def call(*args: P.args, **options: P.kwargs) -> R:
    for name in options if not any_other else ():
      if name not in known:
        raise ValueError(
            f'{function.__name__} has no option {name}'
            f'{trees.nearest(name, known)}; it takes {", ".join(known)}')
    try:
      return function(*args, **options)
    except jax.errors.JaxRuntimeError as error:
      said = host.guarded(error)
      if said:
        raise ValueError(said) from error
      raise
  return call
