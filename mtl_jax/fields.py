"""Frozen dataclasses from plain dicts, and back.

Configs, the options of methods and their records in checkpoints are all read
here: an unknown key, a value of another type or NaN is refused by name. A
single string instead of a tuple of strings is accepted.
"""

import dataclasses
import decimal
import enum
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mtl_jax import messages
from mtl_jax import trees

_KINDS = {int: (numbers.Integral, 'a whole number'),
          float: (numbers.Real, 'a number'), bool: (bool, 'True or False'),
          str: (str, 'a string')}


def frozen(value: Any) -> Any:
  """A value in a form that JSON can represent; lists and dicts become tuples.

  Arrays, and numbers of other libraries, become Python's; paths become strings.

  >>> frozen({'a': [1, np.float32(2)], 'b': decimal.Decimal('0.5')})
  (('a', (1, 2.0)), ('b', 0.5))
  """
  if isinstance(value, Mapping):
    return tuple(sorted((str(k), frozen(v)) for k, v in value.items()))
  if isinstance(value, (list, tuple, range)):
    return tuple(frozen(v) for v in value)
  if hasattr(value, '__array__'):
    try:
      return frozen(np.asarray(value).tolist())
    except TypeError:  # a key of JAX has no numbers
      return value
  if isinstance(value, (numbers.Rational, decimal.Decimal)) and (
      not isinstance(value, int)):
    return _as_float(value)
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if isinstance(value, enum.Enum) and isinstance(value, (int, str)):
    return value.value
  return value


def _as_float(value: int | numbers.Rational | decimal.Decimal) -> float:
  """The nearest float; infinity beyond the largest, NaN of every NaN."""
  if isinstance(value, decimal.Decimal) and value.is_nan():
    return math.nan  # `float` refuses a signaling one
  try:
    return float(value)
  except OverflowError:
    return math.inf if getattr(value, 'numerator', 1) > 0 else -math.inf


def require_plain(value: Any, where: str) -> None:
  """Refuses values that a config's JSON can't represent.

  Args:
    value: nested dicts and lists.
    where: its name, for messages; '' for the config itself.

  Raises:
    ValueError: a value of another kind than None, True, False, a finite
      number, a string, or dicts and lists of them; names it.
  """
  if isinstance(value, Mapping):
    for name, part in value.items():
      require_plain(part, f'{where}.{name}' if where else name)
  elif isinstance(value, (list, tuple)):
    for i, part in enumerate(value):
      require_plain(part, f'{where}[{i}]')
  elif isinstance(value, float) and not math.isfinite(value):
    raise ValueError(f'{where} is {value}; it must be finite')
  elif isinstance(value, int) and abs(value) >= 1 << 63:
    raise ValueError(f'{where} has {len(str(value))} digits; whole numbers '
                     'must be below 2 ** 63')
  elif not (value is None or isinstance(value, (bool, int, float, str))):
    raise ValueError(
        f'{where} is {messages.shown(value)}, of type '
        f'{type(value).__name__}; config.json keeps None, True, False, '
        'numbers, strings, and lists and dicts of them: give one of those')


def as_dict(value: Any, where: str) -> dict:
  """A mapping, or pairs, as a dict.

  Raises:
    ValueError: it is neither; names the field.
  """
  pairs = isinstance(value, (tuple, list)) and all(
      isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in value)
  if not isinstance(value, Mapping) and not pairs:
    raise ValueError(f'{where} is {messages.shown(value)}; it must be a dict '
                     'of fields')
  for name in dict(value):
    if not isinstance(name, str):
      raise ValueError(f'{where} has a field {name!r}; names of fields are '
                       'strings')
  return dict(value)


def kinds_of(hint: Any) -> tuple:
  """The types of a hint: several for a union."""
  union = isinstance(hint, types.UnionType) or (
      typing.get_origin(hint) is typing.Union)
  return typing.get_args(hint) if union else (hint,)


def hints_of(cls: Callable) -> dict[str, Any]:
  """The type hints of a dataclass's fields, by name.

  Raises:
    ValueError: one names a type that its module doesn't know.
  """
  try:
    return typing.get_type_hints(cls)
  except (NameError, TypeError) as error:
    name = getattr(cls, '__name__', cls)
    raise ValueError(f'the type hints of {name} cannot be read: {error}; name '
                     'types that its file imports') from error


def part_of(hint: Any) -> type | None:
  """The dataclass in a type hint, alone or in a union with None."""
  found = [kind for kind in kinds_of(hint) if dataclasses.is_dataclass(kind)]
  return found[0] if len(found) == 1 and isinstance(found[0], type) else None


def _item(hint: Any) -> Any:
  """The item type of a hint for a tuple of any length, or `None`."""
  for kind in kinds_of(hint):
    arguments = typing.get_args(kind)
    if (typing.get_origin(kind) is tuple and arguments[1:] == (...,)
        and arguments[0] in _KINDS):
      return arguments[0]
  return None


def _is(value: Any, kind: Any) -> bool:
  """Whether a value has a plain type and is not NaN."""
  return (isinstance(value, _KINDS[kind][0]) and value == value
          and isinstance(value, bool) == (kind is bool))


def _as_hinted(value: Any, hint: Any) -> Any:
  """A whole number as a float where a float is meant: JAX refuses large ones.
  """
  kinds = kinds_of(hint)
  if float in kinds and int not in kinds and type(value) is int:
    return _as_float(value)
  if isinstance(value, tuple) and _item(hint) is float:
    return tuple(_as_hinted(item, float) for item in value)
  return value


def _has_nan(value: Any) -> bool:
  if isinstance(value, tuple):
    return any(map(_has_nan, value))
  return isinstance(value, float) and value != value


def check_types(hints: dict, given: dict, where: str) -> None:
  """Refuses a value that has another type than its field, or contains NaN.

  Args:
    hints: types of the fields, by name.
    given: values from `frozen`.
    where: as in `build`.
  """
  for name, value in given.items():
    hint, said = hints.get(name), (
        f'{where}{name} is {messages.shown(value)}; it must ')
    kinds, item = kinds_of(hint), _item(hint)
    known = [kind for kind in kinds if kind in _KINDS]
    if value is None and types.NoneType in kinds:
      continue
    if known and not any(_is(value, kind) for kind in known):
      said_kinds = ' or '.join(_KINDS[kind][1] for kind in known)
      raise ValueError(f'{said}be {said_kinds}')
    if item and not (isinstance(value, tuple)
                     and all(_is(v, item) for v in value)):
      raise ValueError(f'{said}be a tuple, and each of it '
                       f'{_KINDS[item][1]}')
    if _has_nan(value):
      raise ValueError(f'{said}not hold NaN')


def build(cls: type, given: Mapping, where: str = '',
          known: typing.Iterable[str] = ()) -> Any:
  """A dataclass from a dict; fields that are dataclasses are built likewise.

  Args:
    cls: the dataclass.
    given: values by field.
    where: prefix of a field's name in a message, such as 'suite.'.
    known: further names that a message lists as known.

  Raises:
    ValueError: a key is unknown (names the nearest and all known ones), or a
      value has another type or is refused by the dataclass.
  """
  names = [f.name for f in dataclasses.fields(cls)]
  for name in sorted(set(given) - set(names)):
    every = sorted({*names, *known})
    raise ValueError(f'unknown key {where}{name}{trees.nearest(name, every)}; '
                     f'known: {", ".join(every)}')
  hints = hints_of(cls)
  values = {}
  for name, value in given.items():
    part = part_of(hints.get(name))
    if part is not None and value is not None and not isinstance(value, part):
      inner = f'{where}{name}'
      value = build(part, as_dict(value, inner), f'{inner}.')
    if not dataclasses.is_dataclass(value):
      value = frozen(value)
    if isinstance(value, str) and _item(hints.get(name)) is str:
      value = (value,)
    value = _as_hinted(value, hints.get(name))
    values[name] = value
  check_types(hints, values, where)
  for field in dataclasses.fields(cls):
    if field.init and field.name not in values and (
        field.default is field.default_factory is dataclasses.MISSING):
      raise ValueError(f'{where}{field.name} is missing; give it')
  try:
    return cls(**values)
  except ValueError:
    raise
  except TypeError as error:
    raise ValueError(f'{where.rstrip(".") or "config"}: {error}') from error
  except Exception as error:  # pylint: disable=broad-except
    # A user's own options may raise anything.
    raise ValueError(f'{where.rstrip(".") or "config"} cannot be made: '
                     f'{type(error).__name__}: {error}') from error


def changed(given: Any, *names: str) -> list[str]:
  """The names of a dataclass's fields that don't have their defaults."""
  return [field.name for field in dataclasses.fields(given)
          if field.name in names
          and getattr(given, field.name) != field.default]


def plain(value: Any) -> Any:
  """A frozen value in JSON's form: dataclasses as dicts, tuples as lists."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {f.name: plain(getattr(value, f.name))
            for f in dataclasses.fields(value)}
  if isinstance(value, (tuple, list)):
    return [plain(v) for v in value]
  return value


def is_plain(value: Any) -> bool:
  """Whether JSON can represent a frozen value, so that it can be recorded.

  >>> is_plain((1, ('a', None))), is_plain({1}), is_plain(print)
  (True, False, False)
  """
  if isinstance(value, tuple):
    return all(map(is_plain, value))
  return value is None or isinstance(value, (bool, int, float, str))


def from_signature(name: str, function: Callable) -> type:
  """A frozen dataclass with a function's keyword arguments as its fields.

  Raises:
    ValueError: an argument has no default, or the function takes any number of
      arguments: options must be known by name.

  >>> cls = from_signature('lora', lambda rank=2: None)
  >>> cls(rank=3).rank
  3
  """
  found: list[Any] = []
  try:
    arguments = inspect.signature(function).parameters.values()
  except (TypeError, ValueError) as error:
    raise ValueError(f'{name}: {error}; give a function whose keyword '
                     'arguments are its options') from error
  for argument in arguments:
    if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD,
                         argument.POSITIONAL_ONLY):
      raise ValueError(f'{name}: the factory takes {argument}; its options '
                       'must be keyword arguments with names')
    hint = argument.annotation
    default = frozen(argument.default)
    if argument.default is argument.empty:
      found.append((argument.name, Any if hint is argument.empty else hint))
    else:
      found.append((argument.name, Any if hint is argument.empty else hint,
                    dataclasses.field(default=default)))
  return dataclasses.make_dataclass(f'{name}_options', found, frozen=True,
                                    kw_only=True)
