"""`mtl-jax configs`: the shipped configs, and every field of one."""

import argparse
import shlex
from collections.abc import Iterator
from typing import Any

from mtl_jax.config import files
from mtl_jax.config import overrides
from mtl_jax.config import schema

DESCRIPTION = (
    'Lists the shipped configs, or every field of one (or of a file of your '
    'own) with its value; what the file leaves out has its default.')
EXAMPLES = (
    ('{}', 'the shipped configs, a line each'),
    ('{} quickstart', 'every field that can be set with --config.FIELD=VALUE'),
    ('{} quickstart --source', 'the file, as a start for your own'),
)
OVERRIDES = True


def flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that select a config."""
  parser.add_argument('name', nargs='?', help=(
      'of a shipped config, or a Python file; after a colon its argument'))
  parser.add_argument('--source', action='store_true',
                      help='print the file itself')


def main(given: argparse.Namespace) -> int | None:
  """Prints the list of configs, or the fields or the file of one."""
  if given.name is None:
    show_list()
    return None
  if given.source:
    print(files.find(given.name).path.read_text(encoding='utf-8'), end='')
    return None
  for line in every_field(overrides.apply(files.load(given.name),
                                          given.overrides)):
    print(line)
  return None


def every_field(given: dict) -> list[str]:
  """A line for every field, in the form of a flag of `run`.

  A '#' precedes fields of parts that are off, such as `early_stop`.
  """
  there = dict(_leaves(schema.filled(given)))
  off = {name: field.default for name, field in schema.known(given).items()
         if field.inside and name not in there}
  lines = []
  for name in sorted({**there, **off}):
    value = there.get(name, off.get(name))
    if value is schema.REQUIRED:
      value = '...'
    text = _quoted(value if isinstance(value, str) else repr(_tuples(value)))
    mark = '' if name in there else '# '
    lines.append(f'{mark}--config.{name}={text}')
  return lines


def _quoted(text: str) -> str:
  """The text as one word of a shell.

  >>> print(_quoted("('a', 'b')"), _quoted('$a'), _quoted('a'))
  "('a', 'b')" '$a' a
  """
  if "'" in text and not set('"$`\\\\!') & set(text):
    return f'"{text}"'
  return shlex.quote(text)


def _leaves(node: dict, above: str = '') -> Iterator[tuple[str, Any]]:
  """(dotted name, value) of all fields."""
  for name, value in node.items():
    if isinstance(value, dict) and value:
      yield from _leaves(value, f'{above}{name}.')
    else:
      yield f'{above}{name}', value


def _tuples(value: Any) -> Any:
  """Lists as tuples, the form of flags."""
  return (tuple(map(_tuples, value)) if isinstance(value, (list, tuple))
          else value)


def show_list() -> None:
  """A line for every shipped config."""
  known = files.shipped()
  width = max(map(len, known), default=0)
  for name, path in known.items():
    print(f'{name:{width}}  {files.summary(path)}')
