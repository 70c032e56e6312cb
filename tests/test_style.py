"""Functions and files are short."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(p.relative_to(ROOT).as_posix() for folder in (
    'mtl_jax', 'examples', 'configs') for p in (ROOT / folder).rglob('*.py'))
LINES, LENGTH = 60, 375


def functions(source):
  """(name, lines without the docstring) of all functions, nested ones too."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      lines = node.end_lineno - node.lineno + 1
      if ast.get_docstring(node, clean=False) is not None:
        first = node.body[0]
        lines -= first.end_lineno - first.lineno + 1
      yield node.name, lines


@pytest.mark.parametrize('path', FILES)
def test_functions_are_short(path):
  for name, lines in functions((ROOT / path).read_text()):
    assert lines <= LINES, f'{path}: {name} has {lines} lines'


def test_files_are_short():
  long = [path for path in FILES
          if len((ROOT / path).read_text().splitlines()) > LENGTH]
  assert not long, f'split these by meaning: {long}'


def test_no_two_test_files_share_a_name():
  names = [path.name for path in (ROOT / 'tests').rglob('test_*.py')]
  twice = {name for name in names if names.count(name) > 1}
  assert not twice, 'pytest collects neither of two; rename one'


def test_the_probe_counts_without_docstrings():
  body = '\n'.join(['  x = 1'] * 5)
  assert list(functions(f'def f():\n  """A\n  b."""\n{body}')) == [('f', 6)]
  assert list(functions(f'def f():\n{body}\n  def g(): pass')) == [
      ('f', 7), ('g', 1)]
