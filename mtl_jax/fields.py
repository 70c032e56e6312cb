"""Frozen dataclasses from plain dicts, and back.

Configs, the options of methods and what checkpoints record of them are all
read here: an unknown key, a value of another type or NaN is refused by name.
"""

import dataclasses
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mtl_jax import trees

_KINDS = {int: (numbers.Integral, 'a whole number'),
          float: (numbers.Real, 'a number'), bool: (bool, 'True or False'),
          str: (str, 'a string')}


def frozen(value: Any) -> Any:
  """A value with lists and dicts as tuples, and NumPy's numbers as Python's.

  >>> frozen({'a': [1, np.float32(2)]})
  (('a', (1, 2.0)),)
  """
  if isinstance(value, Mapping):
    return tuple(sorted((k, frozen(v)) for k, v in value.items()))
  if isinstance(value, (list, tuple)):
    return tuple(frozen(v) for v in value)
  if isinstance(value, np.ndarray):
    return frozen(value.tolist())
  if isinstance(value, np.generic):
    return value.item()
  return value


def as_dict(value: Any, where: str) -> dict:
  """A mapping, or pairs, as a dict.

  Raises:
    ValueError: it is neither; names where it stands.
  """
  pairs = isinstance(value, (tuple, list)) and all(
      isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in value)
  if not isinstance(value, Mapping) and not pairs:
    raise ValueError(f'{where} is {value!r}; it must be a dict of fields')
  return dict(value)


def _part(hint: Any) -> type | None:
  """The dataclass that a type hint names, alone or beside None."""
  kinds = typing.get_args(hint) if isinstance(
      hint, types.UnionType) or typing.get_origin(
          hint) is typing.Union else (hint,)
  found = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
  return found[0] if len(found) == 1 and isinstance(found[0], type) else None


def _check_types(hints: dict, given: dict, where: str) -> None:
  """Refuses a value that is not of its field's plain type, or is NaN."""
  for name, hint in hints.items():
    kinds = typing.get_args(hint) if isinstance(
        hint, types.UnionType) else (hint,)
    known = [kind for kind in kinds if kind in _KINDS]
    if not known or name not in given or (
        given[name] is None and types.NoneType in kinds):
      continue
    value = given[name]
    type_, words = _KINDS[known[0]]
    if not isinstance(value, type_) or value != value or (
        isinstance(value, bool) and known[0] is not bool):
      raise ValueError(f'{where}{name} is {value!r}; it must be {words}')


def build(cls: type, given: Mapping, where: str = '',
          known: typing.Iterable[str] = ()) -> Any:
  """A dataclass from a dict; fields that are dataclasses are built likewise.

  Args:
    cls: the dataclass.
    given: values by field.
    where: what stands before a field's name in a message, such as 'suite.'.
    known: further names that a message lists as known.

  Raises:
    ValueError: an unknown key (names the nearest and all known ones), a value
      of another type, or one that the dataclass refuses.
  """
  names = [f.name for f in dataclasses.fields(cls)]
  for name in sorted(set(given) - set(names)):
    every = sorted({*names, *known})
    raise ValueError(f'unknown key {where}{name}{trees.nearest(name, every)}; '
                     f'known: {", ".join(every)}')
  hints = typing.get_type_hints(cls)
  values = {}
  for name, value in given.items():
    part = _part(hints.get(name))
    if part is not None and value is not None and not isinstance(value, part):
      inner = f'{where}{name}'
      value = build(part, as_dict(value, inner), f'{inner}.')
    if not dataclasses.is_dataclass(value):
      value = frozen(value)
    values[name] = value
  _check_types(hints, values, where)
  try:
    return cls(**values)
  except TypeError as error:
    raise ValueError(f'{where.rstrip(".") or "config"}: {error}') from error


def plain(value: Any) -> Any:
  """A frozen value as JSON has it: dataclasses as dicts, tuples as lists."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {f.name: plain(getattr(value, f.name))
            for f in dataclasses.fields(value)}
  if isinstance(value, (tuple, list)):
    return [plain(v) for v in value]
  return value


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
  for argument in inspect.signature(function).parameters.values():
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
  return dataclasses.make_dataclass(f'{name}_options', found, frozen=True)
