"""A user's method as a new process finds it.

What its functions keep in Python (a dict of the module, an attribute of an
object, a variable of the factory) is not stored with a task.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from mtl_jax import methods
from mtl_jax import registry
from mtl_jax.config import config as config_lib
from mtl_jax.training import calls
from mtl_jax.training import method_errors

WrongMethod = method_errors.WrongMethod
_SMALL = (bool, int, float, complex, str, bytes, type(None))


class Variable(NamedTuple):
  """A variable of a module at some time.

  Attributes:
    variables: all those of its module.
    name: its name.
    value: a number or a text; or a copy of the dict, list or set, or of the
      attributes of an object, in which something can be kept.
  """
  variables: dict[str, Any]
  name: str
  value: Any


def state(phase: config_lib.Phase) -> list[Variable]:
  """The variables of the modules that define a phase's method, as they are."""
  found = []
  for variables in registry.namespaces(methods.METHODS[phase.method]):
    for name, value in list(variables.items()):
      kept = _kept(value, variables)
      if name.startswith('__'):
        continue
      if kept is not None:
        found.append(Variable(variables, name, type(kept)(kept)))
      elif isinstance(value, _SMALL):
        found.append(Variable(variables, name, value))
  return found


def _kept(value: Any, variables: dict[str, Any]) -> Any:
  """The dict, list or set in which a variable keeps something, or `None`."""
  if type(value) in (dict, list, set):
    return value
  own = type(value).__module__ == variables.get('__name__')
  found = getattr(value, '__dict__', None) if own else None
  return found if isinstance(found, dict) else None


@contextlib.contextmanager
def _as_before(before: list[Variable]) -> Iterator[None]:
  """Variables have the values of `state`, until the context ends."""
  with contextlib.ExitStack() as stack:
    for variables, name, old in before:
      value = variables.get(name)
      kept = _kept(value, variables)
      if kept is not None and type(kept) is type(old):
        stack.callback(_fill, kept, type(kept)(kept))
        _fill(kept, old)
      else:
        stack.callback(variables.__setitem__, name, value)
        variables[name] = old
    yield


def _fill(container, values) -> None:
  container.clear()
  (container.extend if isinstance(container, list) else container.update)(
      values)


def require_stored(method: methods.Method, phase: config_lib.Phase,
                   before: list[Variable], params, made,
                   there: dict) -> None:
  """Refuses a `materialise` that needs what other functions kept in Python.

  Args:
    method: the method, whose other functions were called.
    phase: its phase.
    before: `state` before they were called.
    params: the backbone's parameters, as what follows as shapes.
    made: the impression of a task.
    there: `shared` as a stored task is read with it.

  Raises:
    WrongMethod: it fails, or computes something else, where nothing was called
      before it.
  """
  given = 'materialise', params, made, there
  now = calls.program(given[0], method.materialise, *given[1:])
  with _as_before(before):
    anew = methods.anew(phase.method, phase.options)
    try:
      same = now == calls.program(given[0], anew.materialise, *given[1:])
      found = 'computes something else'
    except WrongMethod as error:
      same, found = False, f'fails ({error.__cause__!r})'
  if not same:
    raise WrongMethod(
        f'materialise {found} where neither init nor bind nor commit was '
        'called before, as in the process that loads a task: what it needs '
        'must be in the impression, not in Python variables')
