"""What a user's function computes, as a value that can be compared."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core


def program(function: Callable, *args) -> tuple:
  """The program that a function is traced to, with the constants in it.

  Nothing is computed. A function that draws numbers without a key that it is
  given, or that keeps something in Python, is another program each time.

  Args:
    function: of trees of arrays.
    *args: its arguments, trees of arrays or shapes.
  """
  # A function of its own, as JAX keeps what it traced by the function.
  closed = jax.make_jaxpr(lambda *given: function(*given))(*args)
  return re.sub(r'\b0x[0-9a-f]+', '', str(closed.jaxpr)), tuple(
      map(_bits, _constants(closed)))


def _constants(closed: core.ClosedJaxpr) -> Iterator[Any]:
  """The constants of a program, also in functions that it compiles."""
  yield from closed.consts
  for equation in closed.jaxpr.eqns:
    for inner in jax.tree.leaves(list(equation.params.values())):
      if isinstance(inner, core.ClosedJaxpr):
        yield from _constants(inner)


def _bits(constant) -> bytes:
  if jax.dtypes.issubdtype(constant.dtype, jax.dtypes.extended):
    constant = jax.random.key_data(constant)
  return np.asarray(constant).tobytes()
