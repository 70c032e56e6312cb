"""Finds config files by path or by the name of a shipped config.

A config is a Python file with `get_config()` or `get_config(argument)`. The
argument is the text after a colon, as in `part_five_tasks.py:2,4`.
"""

import ast
import inspect
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mtl_jax import host
from mtl_jax import neighbours
from mtl_jax import registry
from mtl_jax import trees

_PACKAGE = pathlib.Path(__file__).parents[1]


class Given(NamedTuple):
  """The value of `--config`.

  Attributes:
    path: path of the config's file.
    argument: the text after the colon, or `None`.
  """
  path: pathlib.Path
  argument: str | None


def folder() -> pathlib.Path:
  """The folder of the shipped configs: in the package, or beside it in a
  checkout."""
  inside = _PACKAGE / 'configs'
  return inside if inside.is_dir() else _PACKAGE.parent / 'configs'


def shipped() -> dict[str, pathlib.Path]:
  """The shipped configs by name, sorted."""
  return {path.stem: path for path in sorted(folder().glob('*.py'))
          if not path.name.startswith('_')}


def summary(path: pathlib.Path) -> str:
  """The first line of a config's docstring, read without running the file."""
  said = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
  return said.partition('\n')[0]


def find(given: str) -> Given:
  """The file that `--config` names.

  Args:
    given: a path to a Python file, or the name of a shipped config with or
      without `.py` and `configs/`; optionally a colon and an argument.

  Raises:
    ValueError: there is no such file or config; names the nearest ones.
  """
  if not given:
    raise ValueError('--config is empty; give a Python file, or a name of '
                     '--list_configs')
  known = shipped()
  for name, argument in _readings(given):
    short = re.sub(r'^configs[/\\]', '', name).removesuffix('.py')
    if short in known and host.nowhere():  # no file is beside the process
      return Given(known[short], argument)
    path = host.expanded(name)
    if path.is_file() and path.suffix == '.py':
      return Given(path, argument)
    if short in known:
      return Given(known[short], argument)
  name, _ = _readings(given)[0]
  path = host.expanded(name)
  if path.exists():
    raise ValueError(f'--config: {path} is no Python file; a config is one '
                     'with get_config()')
  raise ValueError(
      f'--config: there is no file {name}, and no shipped config of that name'
      f'{trees.nearest(pathlib.PurePath(name).stem, known)}; --list_configs '
      'lists them')


def _readings(given: str) -> list[tuple[str, str | None]]:
  """Possible (file, argument) pairs, since a path may itself have colons."""
  behind = re.fullmatch(r'(.*?\.py):(.*)', given, re.DOTALL)
  found = [(behind[1], behind[2])] if behind else []
  name, colon, argument = given.partition(':')
  return [*found, *([(name, argument)] if colon else []), (given, None)]


def load(given: str) -> Any:
  """Calls the `get_config` of a config.

  Args:
    given: as in `find`.

  Returns:
    A mapping: plain dicts, or an object with `to_dict` (ml_collections).

  Raises:
    ValueError: the file doesn't exist, has no `get_config`, or fails; names
      the file and the error.
  """
  path, argument = find(given)
  module = neighbours.module_of(f'config_{path.stem}', path)
  try:
    neighbours.run(module, path)
  except (Exception, SystemExit) as error:
    raise ValueError(_failed(path, error)) from error
  make = getattr(module, 'get_config', None)
  if not callable(make):
    raise ValueError(f'--config: {path} has no function get_config()')
  _require_argument(path, make, argument)
  try:
    made = make() if argument is None else make(argument)
  except (Exception, SystemExit) as error:
    raise ValueError(_failed(path, error)) from error
  if not isinstance(made, Mapping) and not hasattr(made, 'to_dict'):
    raise ValueError(f'--config: get_config() of {path} returned a '
                     f'{type(made).__name__}; it must return a dict or an '
                     'ml_collections.ConfigDict')
  return made


def _require_argument(path, make, argument) -> None:
  """Refuses a surplus or missing argument of `get_config`."""
  try:
    found = inspect.signature(make)
  except ValueError:  # builtins have no signature
    return
  try:
    found.bind(*(() if argument is None else (argument,)))
  except TypeError as error:
    wanted = ('needs an argument after a colon: '
              f'--config={path}:ARGUMENT' if argument is None else
              f'takes no argument, but {argument!r} is given after the colon')
    raise ValueError(f'--config: get_config of {path} {wanted}') from error


def _failed(path, error) -> str:
  said = ' '.join(str(error).split())
  return (f'--config: {path} failed: {type(error).__name__}'
          f'{f": {said}" if said else ""}{registry.import_remedy(path, error)}')
