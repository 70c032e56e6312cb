"""The functions of a system that users call: what they can't take is named."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

from mtl_jax import host
from mtl_jax import trees

P = ParamSpec('P')
R = TypeVar('R')
_GONE = (
    'an array that {name} needs was deleted, as .delete() and donate_argnums '
    'do: give an array that is still there, and delete or donate copies of '
    'what a system returns, as apply_fn makes; if it was one of the '
    "system's own, load the system again")


def public(function: Callable[P, R], traceable: bool = False
           ) -> Callable[P, R]:
  """The function, which names what it can't take.

  Args:
    function: of a system.
    traceable: whether it may be called while JAX traces another function, as
      it only computes with the images that it is given.

  Raises:
    ValueError: it has no such keyword (gives the nearest), an argument is
      missing, is given twice or is one too many, `jax.transfer_guard` forbids
      what it does, JAX traces the function that calls it, an array was deleted,
      or this process was forked from one that used JAX.

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
    host.require_process()
    try:
      if not traceable and (host.tracing() or any(
          isinstance(x, jax.core.Tracer)
          for x in (*args, *options.values()))):
        raise ValueError(host.untraceable(function.__name__))
      return function(*map(_text, args), **{
          name: _text(value) for name, value in options.items()})
    except TypeError as error:
      if error.__traceback__ is None or error.__traceback__.tb_next:
        raise  # from within the function
      raise ValueError(_misfit(function.__name__, list(given), args,
                               options)) from error
    except RuntimeError as error:  # JaxRuntimeError is one
      said = host.guarded(error) or (
          _GONE.format(name=function.__name__)
          if 'has been deleted' in str(error) else '')
      if said:
        raise ValueError(said) from error
      raise
  return call


def _text(value: Any) -> Any:
  """A `numpy.str_` as a string: paths can't have it."""
  return str(value) if isinstance(value, str) else value


def _misfit(called: str, given: list[inspect.Parameter], args: tuple,
            options: dict) -> str:
  """Says which arguments a function lacks, has twice, or doesn't take."""
  named = [one for one in given if one.kind is not one.VAR_KEYWORD]
  twice = [one.name for one in named[:len(args)] if one.name in options]
  lacking = [one.name for one in named[len(args):]
             if one.default is one.empty and one.name not in options]
  takes = f'it takes {", ".join(n.name for n in named if n.name != "self")}' + (
      ', and others by name' if len(named) < len(given) else '')
  if twice:
    return (f'{called} has {twice[0]} twice, with and without its name; '
            f'{takes}')
  if lacking:
    return f'{called} lacks {" and ".join(lacking)}; {takes}'
  own = named[:1] and named[0].name == 'self'
  return (f'{called} has {trees.counted(len(args) - bool(own), "argument")} '
          f'without names, which are too many; {takes}')
