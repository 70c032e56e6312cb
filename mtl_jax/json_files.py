"""The only reader of JSON and of JSON lines: it checks schemas and seals.

Files that the library writes for itself hold the SHA-256 of their own content
under the key 'sha256'. A file or line whose content was edited is refused by
name. Files of other programs and of earlier versions have no seal; only the
schema is checked for them.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

SEAL = 'sha256'
NUMBER = (int, float)

# The type or types of each key's value.
Schema = Mapping[str, Any]


class Unreadable(ValueError):
  """The system did not let something be read; it need not be damaged."""


def unreadable(path: Any, error: OSError) -> Unreadable:
  """The error for what the system refuses: permissions, a disk that fails."""
  return Unreadable(f'{path} cannot be read: {error.strerror or error}; see to '
                    'it that this process can read it, and try again')


def sealed(value: dict) -> dict:
  """The value with its seal.

  >>> sealed({'a': 1})['sha256'][:8]
  'f9d86028'
  """
  return without_seal(value) | {SEAL: digest(without_seal(value))}


def without_seal(value: dict) -> dict:
  """The value without its seal."""
  return {key: v for key, v in value.items() if key != SEAL}


def digest(value: Any) -> str:
  """SHA-256 of a JSON value; it does not depend on the layout in a file."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
  """A value as JSON would return it: tuples as lists, keys as strings.

  >>> plain({'a': (1, 2)})
  {'a': [1, 2]}
  """
  return json.loads(json.dumps(value))


def parse(text: str | bytes, types: Any, where: str, what: str,
          remedy: str = '') -> Any:
  """A JSON value that is part of another kind of file.

  Args:
    text: the JSON.
    types: type or types of the value; a dict is the schema of an object.
    where, what, remedy: for errors: `where` is the file; others as in `read`.

  Raises:
    ValueError: as in `read`.

  >>> parse('[1]', list, 'x.npz', 'the path')
  [1]
  """
  found = _parsed(text, where, what, remedy)
  if isinstance(types, dict):
    return check(found, types, where, what, remedy)
  if not _is(found, types):
    raise ValueError(f'{where}: {what} is malformed: expected {_named(types)}, '
                     f'got {_shown(found)}{_end(remedy)}')
  return found


def read(path: pathlib.Path, schema: Schema, what: str,
         remedy: str = 'restore it from a copy') -> dict:
  """The object in a JSON file, without its seal.

  Args:
    path: path of the file.
    schema: required keys, with the types of their values.
    what: description of the file for errors: "the recipe of the backbone".
    remedy: advice for errors.

  Raises:
    FileNotFoundError: the file doesn't exist.
    Unreadable: the system does not let it be read.
    ValueError: it is a folder, isn't UTF-8, isn't JSON, doesn't match the
      schema, or was changed; names the file, the line and what was expected.
  """
  return check(_parsed(_text(path, what, remedy), path, what, remedy),
               schema, str(path), what, remedy)


def read_lines(path: pathlib.Path, kinds: Mapping[str, Schema] | None,
               what: str,
               remedy: str = 'restore it from a copy, or remove the line',
               may_be_cut: bool = True) -> Iterator[dict]:
  """The objects of a file of JSON lines, without seals.

  If a line is sealed, all later lines must be sealed.

  Args:
    path: path of the file.
    kinds: required keys by the line's 'kind'; other kinds have no schema.
      `None`: lines have no kind.
    what: as in `read`.
    remedy: as in `read`.
    may_be_cut: whether an incomplete last line, as a kill leaves it, is
      skipped.

  Raises:
    FileNotFoundError: the file doesn't exist.
    ValueError: a line is malformed; names file and line, and what was expected.
  """
  seals = False
  lines = _text(path, what, remedy).split('\n')
  for number, text in enumerate(lines, 1):
    if not text.strip():
      continue
    where = f'{path}, line {number}'
    try:
      found = json.loads(text)
    except (ValueError, RecursionError) as error:
      if may_be_cut and number == len(lines):
        return
      raise ValueError(f'{where}: {what} is malformed: {_brief(error)}'
                       f'{_end(remedy)}') from error
    line = check(found, _schema_of(found, kinds), where, what, remedy)
    if seals and SEAL not in found:
      raise ValueError(f'{where}: {what} was changed since it was written (a '
                       f'line without its seal {SEAL!r}){_end(remedy)}')
    seals = SEAL in found
    yield line


def _schema_of(found, kinds) -> Schema:
  """The schema of a line, by its kind."""
  if kinds is None:
    return {}
  kind = found.get('kind') if isinstance(found, dict) else None
  return {'kind': str} | dict(
      kinds.get(kind, {}) if isinstance(kind, str) else {})


def _text(path, what, remedy) -> str:
  try:
    content = path.read_bytes()
  except FileNotFoundError:
    raise
  except (IsADirectoryError, NotADirectoryError) as error:
    raise ValueError(f'{path}: {what} cannot be read: {error.strerror}'
                     f'{_end(remedy)}') from error
  except OSError as error:
    raise unreadable(path, error) from error
  try:
    return content.decode()
  except UnicodeDecodeError as error:
    line = content[:error.start].count(b'\n') + 1
    raise ValueError(f'{path}, line {line}: {what} is malformed: byte '
                     f'{error.start} is not UTF-8{_end(remedy)}') from error


def _parsed(text, path, what, remedy) -> Any:
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as error:
    line = getattr(error, 'lineno', 1)
    raise ValueError(f'{path}, line {line}: {what} is malformed: '
                     f'{_brief(error)}{_end(remedy)}') from error


def check(found: Any, schema: Schema, where: str, what: str,
          remedy: str = '') -> dict:
  """Checks an object against a schema, and returns it without its seal.

  Raises:
    ValueError: it doesn't match the schema, or was changed; see `read`.
  """
  if not isinstance(found, dict):
    raise ValueError(f'{where}: {what} is malformed: expected an object, got '
                     f'{_shown(found)}{_end(remedy)}')
  for key, types in schema.items():
    if key not in found:
      raise ValueError(f'{where}: {what} lacks {key!r} ({_named(types)})'
                       f'{_end(remedy)}')
    if not _is(found[key], types):
      raise ValueError(f'{where}: {what} is malformed: {key!r} is '
                       f'{_shown(found[key])}, expected {_named(types)}'
                       f'{_end(remedy)}')
  content = without_seal(found)
  if SEAL in found and found[SEAL] != digest(content):
    raise ValueError(f'{where}: {what} was changed since it was written (its '
                     f'SHA-256 differs){_end(remedy)}')
  return content


def _is(value, types) -> bool:
  known = types if isinstance(types, tuple) else (types,)
  # In Python, JSON's true is also an int.
  return isinstance(value, known) and (
      bool in known or not isinstance(value, bool))


_NAMES = {dict: 'an object', list: 'a list', str: 'a string', int: 'an integer',
          float: 'a number', bool: 'true or false', type(None): 'null'}


def _named(types) -> str:
  known = types if isinstance(types, tuple) else (types,)
  return ' or '.join(_NAMES[kind] for kind in known
                     if not (kind is int and float in known))


def _shown(value) -> str:
  text = json.dumps(value)
  return text if len(text) <= 40 else f'{text[:40]}...'


def _end(remedy) -> str:
  return f'; {remedy}' if remedy else ''


def _brief(error) -> str:
  return ' '.join(str(error).split())[:200]
