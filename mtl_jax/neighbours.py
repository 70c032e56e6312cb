"""Runs a user's Python file, and finds what it imports from its own folder."""

import ast
import hashlib
import importlib.machinery
import importlib.util
import os
import pathlib
import sys
import types
from collections.abc import Iterable, Iterator

_PACKAGE = pathlib.Path(__file__).parent
_INSTALLED = ('site-packages', 'dist-packages')  # their versions are recorded

# Digests of files beside those that were run, when they were imported.
_SEEN: dict[pathlib.Path, str] = {}


class _Source(importlib.machinery.SourceFileLoader):
  """Reads the file itself: Python's bytecode of an older version stays in use
  if that had the same size and time."""

  def get_code(self, fullname):
    return self.source_to_code(self.get_data(self.path), self.path)


class _Beside:
  """Lets `_Source` read the files beside those that were run, whenever they
  are imported."""

  def __init__(self):
    self.files: set[str] = set()
    self._names: set[str] = set()

  def add(self, paths: Iterable[pathlib.Path]) -> None:
    for path in paths:
      self.files.add(os.path.realpath(path))
      self._names.add(path.parent.name if path.stem == '__init__'
                      else path.stem)

  def find_spec(self, fullname, path=None, target=None):
    """As `importlib.abc.MetaPathFinder` has it; `None` of all other files."""
    if fullname.rpartition('.')[2] not in self._names:
      return None
    spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
    if not spec or os.path.realpath(spec.origin or '') not in self.files:
      return None
    spec.loader = _Source(fullname, spec.origin)
    return spec


_BESIDE = _Beside()


def module_of(name: str, path: pathlib.Path) -> types.ModuleType:
  """A new module of a Python file, for `run`.

  Raises:
    ValueError: it is not a Python file.
  """
  loader = _Source(name, str(path)) if path.suffix == '.py' else None
  spec = importlib.util.spec_from_file_location(name, path, loader=loader)
  if spec is None or spec.loader is None:
    raise ValueError(f'{path} is not a Python file')
  return importlib.util.module_from_spec(spec)


def run(module: types.ModuleType, path: pathlib.Path) -> None:
  """Runs a module's file, with the files beside it as they are now.

  Args:
    module: from `module_of`.
    path: its file.
  """
  beside = {other: digest(other) for other in imported(path)}
  if any(_SEEN.get(other, now) != now for other, now in beside.items()):
    files = {os.path.realpath(other) for other in beside}
    for name, other in list(sys.modules.items()):
      if file_of(other) in files:
        del sys.modules[name]
    importlib.invalidate_caches()
  _SEEN.update(beside)
  _BESIDE.add(beside)
  if _BESIDE not in sys.meta_path:
    sys.meta_path.insert(0, _BESIDE)
  assert module.__spec__ is not None and module.__spec__.loader is not None
  module.__spec__.loader.exec_module(module)


def file_of(module: object) -> str:
  """The file of a module, without links; '' of one that has none."""
  found = getattr(module, '__file__', None)
  return os.path.realpath(found) if isinstance(found, str) else ''


def digest(path: pathlib.Path) -> str:
  """SHA-256 of a file."""
  return hashlib.sha256(path.read_bytes()).hexdigest()


def imported(path: pathlib.Path) -> list[pathlib.Path]:
  """The files beside a file that it imports, directly or not; sorted.

  What is imported inside of a function counts too. Files of this package, and
  of a folder of installed packages, do not.

  Args:
    path: a Python file.
  """
  if path.parent.name in _INSTALLED:
    return []
  found, left = {path}, [path]
  while left:
    for other in _named_in(left.pop(), path.parent):
      if other not in found and not other.is_relative_to(_PACKAGE):
        found.add(other)
        left.append(other)
  return sorted(found - {path})


def _named_in(path: pathlib.Path, root: pathlib.Path
              ) -> Iterator[pathlib.Path]:
  """The files below `root` that the import statements of a file name."""
  try:
    parsed = ast.parse(path.read_bytes())
  except (OSError, SyntaxError, ValueError):
    return  # as its own import says
  for node in ast.walk(parsed):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield from _files(root, alias.name)
    elif isinstance(node, ast.ImportFrom) and (
        node.level <= len(path.parents)):  # as its own import says
      start = root if not node.level else path.parents[node.level - 1]
      for alias in node.names if start.is_relative_to(root) else ():
        yield from _files(start, f'{node.module or ""}.{alias.name}'.strip('.'))


def _files(start: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
  """The modules of a dotted name below a folder, which may end elsewhere."""
  parts = name.split('.')
  first = file_of(sys.modules.get(parts[0]))
  for count in range(1, len(parts) + 1):
    here = start.joinpath(*parts[:count])
    for other in (here.with_name(f'{here.name}.py'), here / '__init__.py'):
      if other.is_file() and (not first or pathlib.Path(
          first).is_relative_to(os.path.realpath(start))):
        yield other
