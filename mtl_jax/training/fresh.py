"""A user's method as a new process finds it.

What its functions keep in Python (a dict of the module, an attribute of a
class, a variable of a closure) is not stored with a task.
"""

import collections
import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from mtl_jax import methods
from mtl_jax import registry
from mtl_jax.config import config as config_lib
from mtl_jax.training import calls
from mtl_jax.training import method_errors

WrongMethod = method_errors.WrongMethod
# (a method) -> {name of a function: (the function, its arguments)}.
Uses: TypeAlias = Callable[[methods.Method], dict[str, tuple]]
_LISTS = (list, collections.deque)
_MOST = 10_000  # places of a method; larger things are taken for data
_FEW = 1_000  # entries of one, or numbers of an array


class Place(NamedTuple):
  """Where Python keeps something.

  Attributes:
    holder: a dict, list, set, class, variable of a closure, or array.
    values: what it held, in a container of its own.
  """
  holder: Any
  values: Any


def state(phase: config_lib.Phase) -> list[Place]:
  """What can be reached from a phase's method and its modules, as it is."""
  factory = methods.METHODS[phase.method]
  spaces = registry.namespaces(factory)
  own = {space.get('__name__') for space in spaces}
  found: dict[int, Place] = {}
  left = collections.deque([*spaces, factory])
  seen: dict[int, Any] = {}  # with the values, so that no number is given again
  while left and len(found) < _MOST:
    value = left.popleft()
    if id(value) in seen:
      continue
    seen[id(value)] = value
    holder, inside = _opened(value, own)
    if holder is not None:
      found[id(holder)] = Place(holder, _held(holder))
    left.extend(inside)
  return list(found.values())


def _opened(value: Any, own: set) -> tuple[Any, list]:
  """(the holder that a value is or has, or `None`; what to look into)."""
  if isinstance(value, dict):
    entries = [inner for name, inner in list(value.items())
               if not str(name).startswith('__')]
    return value, entries if len(entries) <= _FEW else []
  if isinstance(value, (*_LISTS, set)):
    return value, list(value) if len(value) <= _FEW else []
  if isinstance(value, types.CellType):
    try:
      return value, [value.cell_contents]
    except ValueError:  # it is empty
      return None, []
  if isinstance(value, np.ndarray):
    few = value.size <= _FEW and value.flags.writeable
    return value if few else None, []
  if isinstance(value, (tuple, frozenset)):
    return None, list(value) if len(value) <= _FEW else []
  if isinstance(value, functools.partial):
    return None, [value.func, value.args, value.keywords]
  if isinstance(value, types.MethodType):
    return None, [value.__self__, value.__func__]
  mine = getattr(value, '__module__', None) in own
  if isinstance(value, types.FunctionType):
    return None, [*(value.__closure__ or ()), vars(value),
                  value.__defaults__ or (), value.__kwdefaults__ or {},
                  ] if mine else []
  if isinstance(value, type):
    return (value, list(_held(value).values())) if mine else (None, [])
  if mine or isinstance(value, types.SimpleNamespace):
    inner = getattr(value, '__dict__', None)
    return None, [inner] if isinstance(inner, dict) else []
  return None, []


def _held(holder: Any) -> Any:
  """A copy of what a holder holds now."""
  if isinstance(holder, types.CellType):
    return [holder.cell_contents]
  if isinstance(holder, type):
    return {name: value for name, value in vars(holder).items()
            if not name.startswith('__')}
  if isinstance(holder, np.ndarray):
    return holder.copy()
  if isinstance(holder, dict):
    return dict(holder)
  return set(holder) if isinstance(holder, set) else list(holder)


def _fill(holder: Any, values: Any) -> None:
  """Lets a holder hold what `_held` copied; what is the same stays."""
  if isinstance(holder, types.CellType):
    holder.cell_contents, = values
  elif isinstance(holder, np.ndarray):
    holder[...] = values
  elif isinstance(holder, (dict, type)):
    now = _held(holder)
    put, drop = (
        (functools.partial(type.__setattr__, holder),
         functools.partial(type.__delattr__, holder))
        if isinstance(holder, type) else
        (holder.__setitem__, holder.__delitem__))
    for name in now.keys() - values.keys():
      drop(name)
    for name, value in values.items():
      if name not in now or now[name] is not value:
        put(name, value)
  else:
    holder.clear()
    (holder.update if isinstance(holder, set) else holder.extend)(values)


def require_same(method: methods.Method, phase: config_lib.Phase,
                 before: list[Place], uses: Uses) -> None:
  """Refuses functions that compute something else than in a new process.

  A run that goes on after a kill calls them there, and a system that loads the
  task calls `materialise` alone. What they compute is compared as a program,
  with the constants in it; no array is computed.

  Args:
    method: the method, whose functions were called.
    phase: its phase.
    before: `state` before they were called.
    uses: (method) -> those functions in their order, by name, with arguments.

  Raises:
    WrongMethod: one fails, or computes something else.
  """
  now = {name: calls.program(name, *use) for name, use in uses(method).items()}
  name = 'materialise'
  if calls.program(name, *uses(method)[name]) != now[name]:
    raise WrongMethod(_impure(name, 'computes something else'))
  for names in (now.keys() - {name}, {name}):
    with as_before(before):
      anew = uses(methods.anew(phase.method, phase.options))
      for function in (function for function in anew if function in names):
        _require_program(function, now[function], *anew[function])


def _require_program(name: str, wanted: tuple, *use) -> None:
  try:
    if calls.program(name, *use) == wanted:
      return
    found = 'computes something else'
  except WrongMethod as error:
    found = f'fails ({error.__cause__!r})'
  raise WrongMethod(
      f'{name} {found} where neither init nor bind nor commit was called '
      'before, as in the process that loads a task: what it needs must be in '
      'the impression, not in Python variables'
      if name == 'materialise' else _impure(name, found))


def _impure(name: str, found: str) -> str:
  return (f'{name} {found} when it is called again with the same arguments, or '
          'in a new process: it must be a pure function of them. Draw with the '
          "key of init or of prepare's context, not with random or "
          'numpy.random, and keep nothing in Python variables')


@contextlib.contextmanager
def as_before(before: list[Place]) -> Iterator[None]:
  """Everything is as `state` found it, until the context ends."""
  now = [Place(holder, _held(holder)) for holder, _ in before]
  try:
    for place in before:
      _fill(*place)
    yield
  finally:
    for place in now:
      _fill(*place)
