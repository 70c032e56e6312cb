"""The files that a user's Python file imports from its own folder."""

import ast
import pathlib
import sys
from collections.abc import Iterator

_PACKAGE = pathlib.Path(__file__).parent
_INSTALLED = ('site-packages', 'dist-packages')  # their versions are recorded


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
    elif isinstance(node, ast.ImportFrom):
      start = root if not node.level else path.parents[node.level - 1]
      for alias in node.names if start.is_relative_to(root) else ():
        yield from _files(start, f'{node.module or ""}.{alias.name}'.strip('.'))


def _files(start: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
  """The modules of a dotted name below a folder, which may end elsewhere."""
  parts = name.split('.')
  first = getattr(sys.modules.get(parts[0]), '__file__', None)
  for count in range(1, len(parts) + 1):
    here = start.joinpath(*parts[:count])
    for other in (here.with_name(f'{here.name}.py'), here / '__init__.py'):
      if other.is_file() and (first is None or pathlib.Path(
          first).is_relative_to(start)):
        yield other
