"""Fields of a config that are set on the command line.

    --config.seed=3 --config.phases.masks.learning_rate=3e-4

Every field can be set, even one that the config's file leaves out.
"""

import ast
import contextlib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from mtl_jax import fields
from mtl_jax import trees
from mtl_jax.config import schema

_TRUTH = {'true': True, 'yes': True, '1': True,
          'false': False, 'no': False, '0': False}
# Set first, as they determine which other fields exist.
_CHOOSING = ('kind', 'method', 'model')


def apply(made: Any, given: Iterable[tuple[str, str]]) -> dict:
  """A config's plain dicts, with fields set by name.

  Args:
    made: the result of `get_config`; its references follow new values.
    given: (dotted name, text of the value) pairs.

  Raises:
    ValueError: a field is unknown (names the nearest and the known ones), or a
      value can't be read.
  """
  order = sorted(given, key=lambda pair: pair[0].split('.')[-1]
                 not in _CHOOSING)
  for name, text in order:
    plain = to_dict(made)
    name, field = _field(name, schema.known(plain), plain)
    value = parse(name, text, field, _at(plain, name))
    if _at(plain, name) is None and value == field.default and (
        not field.inside):
      continue  # unchanged: the workdir of the same config stays valid
    made = _set(made, name, value)
  return to_dict(made)


def to_dict(made: Any) -> dict:
  """A config as plain nested dicts."""
  return made.to_dict() if hasattr(made, 'to_dict') else _copied(made)


def _copied(value):
  return ({str(k): _copied(v) for k, v in value.items()}
          if isinstance(value, Mapping) else value)


def parse(name: str, text: str, field: schema.Field, now: Any) -> Any:
  """Reads the value of a field from its text.

  Args:
    name: name of the field, for messages.
    text: the value's text on the command line.
    field: the field's type.
    now: the field's value in the config, or `None`.

  Raises:
    ValueError: the text is not a value of the field's type.

  >>> parse('seed', '3', schema.Field(int, 0), None)
  3
  >>> parse('private', 'mnist', schema.Field(tuple[str, ...], ()), None)
  ('mnist',)
  """
  kinds = fields.kinds_of(field.hint)
  if text.strip() in ('None', 'none') and (
      types.NoneType in kinds or Any in kinds or field.default is None):
    return None
  if bool in kinds or isinstance(field.default, bool):
    if text.strip().lower() not in _TRUTH:
      raise ValueError(f'--config.{name} is {text!r}; it must be True or False')
    return _TRUTH[text.strip().lower()]
  if (str in kinds and int not in kinds) or (Any in kinds and (
      isinstance(now, str) or isinstance(field.default, str))):
    return text
  try:
    value = ast.literal_eval(text.strip())
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    if (int in kinds or float in kinds) and str not in kinds:
      kind = 'a whole number' if int in kinds else 'a number'
      raise ValueError(
          f'--config.{name} is {text!r}; it must be {kind}') from None
    value = text
  wanted = field.default if now is None else now
  if isinstance(value, str) and (isinstance(wanted, (tuple, list)) or any(
      typing.get_origin(kind) is tuple for kind in kinds)):
    return (value,)
  return value


def _field(name: str, known: dict[str, schema.Field],
           plain: dict) -> tuple[str, schema.Field]:
  """The full name of a field, and its type and default."""
  for other in (name, *_spelled(name)):
    if other in known:
      return other, known[other]
    if other and any(field.startswith(f'{other}.') for field in known):
      return other, schema.Field(Any, None)  # a whole part
  words = name.split('.')
  if words[0] == 'identify' and len(words) == 3 and (
      words[2] in schema.scenario()):
    return name, schema.scenario()[words[2]]._replace(inside=True)
  if name in ('identify', 'backbone.options') or _free(name, known, plain):
    return name, schema.Field(Any, None)
  raise ValueError(_unknown(words, known))


def _spelled(name: str) -> tuple[str, ...]:
  """Other spellings of a method's option: with or without `options.`."""
  words = name.split('.')
  if words[0] != 'phases' or len(words) < 3:
    return ()
  if words[2] == 'options':
    return ('.'.join([*words[:2], *words[3:]]),)
  return ('.'.join([*words[:2], 'options', *words[2:]]),)


def _free(name: str, known: dict[str, schema.Field], plain: dict) -> bool:
  """Whether a field is in a part that accepts any name."""
  if _at(plain, name) is not None:
    return True
  above = name.rpartition('.')[0]
  field = known.get(above)
  return field is not None and above.endswith('.fixed')


def _unknown(words: list[str], known: dict[str, schema.Field]) -> str:
  """The error message for an unknown field."""
  for i in range(len(words)):
    start = ''.join(f'{word}.' for word in words[:i])
    beside = sorted({name.removeprefix(start).split('.')[0] for name in known
                     if name.startswith(start)})
    if words[i] not in beside:
      break
  where = f'{start[:-1]} of the config' if start else 'the config'
  if not beside:
    return f'--config.{".".join(words)}: {where} has no fields'
  return (f'--config.{".".join(words)}: {where} has no field {words[i]}'
          f'{trees.nearest(words[i], beside)}; known: {", ".join(beside)}')


def _at(plain: Any, name: str) -> Any:
  """The value of a field, or `None`."""
  for word in name.split('.'):
    plain = plain.get(word) if isinstance(plain, Mapping) else None
  return plain


def _set(made: Any, name: str, value: Any) -> Any:
  """Sets a field, and creates the parts that contain it."""
  *parents, last = name.split('.')
  with contextlib.ExitStack() as free:
    if hasattr(made, 'unlocked'):  # ml_collections: types are checked later
      free.enter_context(made.unlocked())
      free.enter_context(made.ignore_type())
    else:
      made = _copied(made)
    node = made
    for word in parents:
      if node.get(word) is None:
        node[word] = {}
      node = node[word]
      if not hasattr(node, '__setitem__') or not hasattr(node, 'get'):
        raise ValueError(f'--config.{name}: {word} is {node!r} in the config, '
                         'which has no fields')
    node[last] = value
  return made
