"""Registers users' functions by name, and records the file that defines them.

`Registry` is the table of methods, and that of models. Sources and suites have
plain tables (`data.sources`, `data.suites`): a stored task needs neither, and a
run compares the version of a source's data. A name may be registered again: the
new value replaces the old one, and cached results of the old one are dropped.
"""

import contextvars
import functools
import hashlib
import inspect
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mtl_jax import host
from mtl_jax import messages
from mtl_jax import neighbours
from mtl_jax import trees

_PACKAGE = pathlib.Path(__file__).parent


class Registry(Mapping):
  """Values by name; a read-only mapping with `register`.

  Attributes:
    kind: kind of its values, for messages.
  """

  def __init__(self, kind: str, known: dict[str, Any] | None = None):
    self.kind = kind
    self._known: dict[str, Any] = dict(known or {})
    self._origins: dict[str, dict | None] = {}
    self._caches: list[Callable[[], None]] = []

  def __getitem__(self, name: str) -> Any:
    if name not in self:
      raise ValueError(
          f'unknown {self.kind} {messages.shown(name)}'
          f'{trees.nearest(str(name), self._known)}; known: '
          f'{", ".join(sorted(self._known))}')
    return self._known[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._known)

  def __len__(self) -> int:
    return len(self._known)

  def __contains__(self, name: object) -> bool:
    return isinstance(name, str) and name in self._known

  def register(self, name: str, value: Any) -> None:
    """Adds a value, or replaces an older one of this name.

    Raises:
      ValueError: see `check`; nothing is changed in this case.
    """
    self.check(name, value)
    claim(self.kind, name)
    self._known[name] = value
    self._origins[name] = origin(value)
    for clear in self._caches:
      clear()

  def check(self, name: str, value: Any) -> None:
    """Raises ValueError if the name is not valid or the value not callable."""
    if not isinstance(name, str) or not re.fullmatch(r'\w[\w.-]*', name):
      raise ValueError(f'{self.kind} {name!r}: a name has letters, digits, _, '
                       '. and -')
    if not callable(value):
      raise ValueError(f'{self.kind} {name!r}: {messages.shown(value)} cannot '
                       'be called; register a function')

  def origin(self, name: str) -> dict | None:
    """The `origin` of a value at the time when it was registered.

    It does not change if the file is edited later.
    """
    return self._origins.get(name)

  def on_change(self, clear: Callable[[], None]) -> None:
    """Registers a function that clears a cache after every registration."""
    self._caches.append(clear)


def origin(function: Callable) -> dict | None:
  """The files that define a function outside of this package.

  Returns:
    {'file': name of its file, 'sha256': of its content, 'beside': {name:
    sha256} of the files of its folder that were imported, if there are any},
    or `None`.
  """
  found = _source(function)
  if found is None:
    return {'file': getattr(_inner(function), '__module__', 'unknown'),
            'sha256': ''}
  path = pathlib.Path(found)
  if path.is_relative_to(_PACKAGE):
    return None
  beside = {other.relative_to(path.parent).as_posix(): neighbours.digest(other)
            for other in neighbours.imported(path)}
  return {'file': path.name, 'sha256': neighbours.digest(path)} | (
      {'beside': beside} if beside else {})


def namespaces(function: Callable) -> list[dict[str, Any]]:
  """The variables of the module that defines a function, and of the modules
  that it imports from its own folder."""
  inner, found = _inner(function), _source(function)
  own = getattr(inner, '__globals__', None)
  if own is None:
    own = getattr(sys.modules.get(getattr(inner, '__module__', '')),
                  '__dict__', {})
  beside = {os.path.realpath(path) for path in neighbours.imported(
      pathlib.Path(found))} if found else set()
  return [own] + [vars(module) for module in list(sys.modules.values())
                  if neighbours.file_of(module) in beside]


def _inner(function: Callable) -> Callable:
  while isinstance(function, functools.partial):
    function = function.func
  return inspect.unwrap(function)


def _source(function: Callable) -> str | None:
  try:
    found = inspect.getsourcefile(_inner(function))
  except TypeError:
    return None
  return found if found is not None and os.path.exists(found) else None


def check_origin(found: Any, what: str) -> None:
  """Refuses what can't come from `origin`.

  Args:
    found: as a file says it.
    what: whose origin it is, for messages.
  """
  if found is not None and not (isinstance(found, dict) and all(
      isinstance(found.get(key), str) for key in ('file', 'sha256'))):
    raise ValueError(f"{what} has 'defined_in' {found!r}; expected null, or "
                     "the strings 'file' and 'sha256'")


def changed(then: dict | None, now: dict | None) -> str:
  """The message if another file defines a function than was recorded.

  Args:
    then: the recorded result of `origin`.
    now: the current result of `origin`.

  Returns:
    A sentence without its end, or '' if the file is the same.
  """
  if now == then:
    return ''
  if then and now and all(then[key] == now[key] for key in ('file', 'sha256')):
    if 'beside' not in then:  # recorded by a version that did not look there
      return ''
    files, there = ({**found.get('beside', {})} for found in (then, now))
    name = min(name for name in files | there
               if files.get(name) != there.get(name))
    return f'{name}, which {now["file"]} imports, is another file now'
  named = [f'{found["file"]} (SHA-256 {found["sha256"][:12] or "unknown"})'
           if found else 'mtl_jax itself' for found in (now, then)]
  return f'{named[0]} now defines what {named[1]} defined then'


def called(what: str, function: Callable, **options) -> Any:
  """Calls a user's function.

  Args:
    what: of what it is, for the message.
    function: registered by the user.
    **options: its arguments.

  Raises:
    ValueError: it failed by another error than one that says itself what is
      wrong with the data; names the error and the line.
  """
  try:
    return function(**options)
  except (ValueError, OSError, ImportError, MemoryError):
    raise
  except Exception as error:  # pylint: disable=broad-except # a user's code
    frame = traceback.extract_tb(error.__traceback__)[-1]
    path = pathlib.Path(frame.filename)
    where = ('' if path.is_relative_to(_PACKAGE) else
             f' (line {frame.lineno} of {path.name})')
    raise ValueError(f'the function registered as {what} fails: '
                     f'{type(error).__name__}: {error}{where}') from error


class _Loading(NamedTuple):
  """The file that `load_plugins` runs, and what its files have registered."""
  path: pathlib.Path
  claimed: dict[tuple[str, str], pathlib.Path]


_LOADING: contextvars.ContextVar[_Loading | None] = contextvars.ContextVar(
    'loading', default=None)


def claim(kind: str, name: str) -> None:
  """Refuses a name that another file of the same `load_plugins` registered.

  Which of the two would be used would depend on their order.
  """
  loading = _LOADING.get()
  if loading is None:
    return
  other = loading.claimed.setdefault((kind, name), loading.path)
  if other != loading.path:
    raise ValueError(f'{other} registers the {kind} {name!r} too; give one of '
                     'the two files, or another name')


def import_remedy(path: pathlib.Path, error: BaseException) -> str:
  """The end of a message if a user's file can't import a file beside it."""
  if not isinstance(error, ImportError):
    return ''
  start = f'start Python with PYTHONPATH={path.absolute().parent}'
  if 'relative import' in str(error):
    return f'; import a file beside it by its name, and {start}'
  name = (error.name or '').split('.')[0]
  beside = [path.parent / name, path.parent / f'{name}.py']
  return (f'; to import what is beside it, {start}'
          if name and any(other.exists() for other in beside) else '')


def load_plugins(paths: Iterable[Any] | str | os.PathLike | None) -> None:
  """Runs Python files that register methods, models, sources or suites.

  Args:
    paths: one path, or several; `None` for none.

  Raises:
    ValueError: a file is missing, fails, or registers what another of them
      registers; names it.
  """
  if paths is None:
    return
  given = [paths] if isinstance(paths, (str, os.PathLike)) or not isinstance(
      paths, Iterable) else list(paths)
  claimed: dict[tuple[str, str], pathlib.Path] = {}
  for given_path in given:
    if not isinstance(given_path, (str, os.PathLike)):
      raise ValueError(f'plugins: {given_path!r} is no path; give that of a '
                       'Python file')
    if not os.fspath(given_path):
      raise ValueError("plugins: the path is ''; give that of a Python file")
    path = host.expanded(given_path).resolve()
    if not path.is_file():
      raise ValueError(f'plugins: there is no file {path}')
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f'mtl_jax_plugin_{path.stem}_{digest}'
    try:
      module = neighbours.module_of(name, path)
    except ValueError as error:
      raise ValueError(f'plugins: {error}') from error
    sys.modules[name] = module
    token = _LOADING.set(_Loading(path, claimed))
    try:
      neighbours.run(module, path)
    except (Exception, SystemExit) as error:
      del sys.modules[name]
      raise ValueError(f'plugins: {path} failed: {type(error).__name__}: '
                       f'{error}{import_remedy(path, error)}') from error
    finally:
      _LOADING.reset(token)
