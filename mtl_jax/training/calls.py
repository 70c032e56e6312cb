"""Calls a method's functions on shapes alone, and names what is wrong."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from mtl_jax import tracing
from mtl_jax import trees
from mtl_jax.training import method_errors

_CONCRETE = (jax.errors.TracerArrayConversionError,
             jax.errors.ConcretizationTypeError,
             jax.errors.TracerIntegerConversionError,
             jax.errors.TracerBoolConversionError,
             jax.errors.NonConcreteBooleanIndexError)
WrongMethod = method_errors.WrongMethod
# Errors of these packages don't say which function of the method failed.
_BELOW = ('jax', 'jaxlib', 'numpy', 'scipy', 'opt_einsum', 'flax', 'optax')


class NeedsValues(WrongMethod):
  """A function can't be called on shapes alone."""


def traced(name: str, function: Callable, *args) -> Any:
  """The shapes that a function returns.

  Args:
    name: its name in the contract, for messages.
    function: of the method.
    *args: trees of arrays or shapes.

  Raises:
    NeedsValues: it needs the values of its arrays.
    WrongMethod: it fails, or changes the trees that it is given.
    ValueError: the function itself raised it.
  """
  try:
    return jax.eval_shape(_unchanged(name, function), *args)
  except _CONCRETE as error:
    raise NeedsValues(
        f'{name} reads the values of its arrays, but the check before training '
        'has none: use jax.numpy and lax in it, not Python or NumPy '
        f'({str(error).splitlines()[0]})') from error
  except (Exception, SystemExit) as error:
    if (isinstance(error, ValueError)
        and method_errors.raised_in(error) not in _BELOW):
      raise
    raise method_errors.failed(name, error) from error


def _unchanged(name: str, function: Callable) -> Callable:
  """The function, held to leave the trees that it is given as they are.

  Outside of jit they are those of the backbone and of stored tasks.
  """
  @functools.wraps(function)
  def call(*args):
    before, structure = jax.tree.flatten(args)
    result = function(*args)
    after, now = jax.tree.flatten(args)
    if now != structure or any(a is not b for a, b in zip(before, after)):
      raise WrongMethod(
          f'{name} changes a dict that it is given, from which other tasks are '
          'made too: build a new one, such as {**given, name: value}')
    return result
  return call


def program(name: str, function: Callable, *args) -> tuple:
  """What a function computes; see `tracing.program`."""
  try:
    return tracing.program(function, *args)
  except Exception as error:  # pylint: disable=broad-except
    raise method_errors.failed(f'{name}, called once more,', error) from error


def reads(function: Callable, args: tuple, which: int) -> bool:
  """Whether what a function computes depends on one of its arguments.

  Args:
    function: of trees of arrays.
    args: its arguments, trees of arrays or shapes.
    which: index of the argument.
  """
  return any(read(function, args, which))


def read(function: Callable, args: tuple, which: int) -> list[bool]:
  """`reads`, for each leaf of the argument."""
  counts = [len(jax.tree.leaves(arg)) for arg in args]
  jaxpr = jax.make_jaxpr(lambda *given: function(*given))(*args).jaxpr
  needed = {id(v) for v in jaxpr.outvars}
  for equation in reversed(jaxpr.eqns):
    if any(id(v) in needed for v in equation.outvars):
      needed |= {id(v) for v in equation.invars}
  first = sum(counts[:which])
  return [id(v) in needed for v in jaxpr.invars[first:first + counts[which]]]


def said(leaf) -> str:
  """A leaf by its dtype and shape, for messages."""
  return (f'{leaf.dtype}{leaf.shape}' if hasattr(leaf, 'dtype') else
          f'a {type(leaf).__name__}')


def require_equal(one: trees.Tree, other: trees.Tree, names: tuple[str, str],
                  why: str) -> None:
  """Refuses two functions that give trees of other leaves, shapes or dtypes.

  Args:
    one: from the first function, as shapes.
    other: from the second one.
    names: of the two functions.
    why: end of the message.
  """
  given = [trees.flatten(one), trees.flatten(other)]
  for name in sorted(set(given[0]) ^ set(given[1])):
    where = names[name not in given[0]]
    raise WrongMethod(f'{where} gives the leaf {name}, which the other one of '
                      f'{" and ".join(names)} does not; {why}')
  for name, leaf in given[0].items():
    found = given[1][name]
    if leaf is None and found is None:
      continue
    if (getattr(leaf, 'shape', None), getattr(leaf, 'dtype', None)) != (
        getattr(found, 'shape', None), getattr(found, 'dtype', None)):
      raise WrongMethod(f'{names[1]} gives {name} as {said(found)}, but '
                        f'{names[0]} as {said(leaf)}; {why}')
