"""Configs are found by path, or by name from any folder."""

import re

import pytest

from mtl_jax.config import files


@pytest.mark.parametrize('given', [
    'quickstart', 'quickstart.py', 'configs/quickstart.py'])
def test_shipped_ones_by_name(given, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert files.find(given).path.name == 'quickstart.py'
  assert files.load(given).seed == 0


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'quickstart.py').write_text('get_config = lambda: {"seed": 7}')
  assert files.load('quickstart.py') == {'seed': 7}
  assert files.load('quickstart').seed == 0


def test_arguments_and_colons(tmp_path):
  path = tmp_path / 'a:b.py'
  path.write_text('get_config = lambda x="none": {"x": x}')
  assert files.load(str(path)) == {'x': 'none'}
  assert files.load(f'{path}:1:2.py') == {'x': '1:2.py'}
  assert files.find('folder:/a/b.py:c').argument == '/a/b.py:c'


def test_home_and_what_is_listed(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'c.py').write_text('get_config = dict')
  assert files.load('~/c.py') == {}
  for name, path in files.shipped().items():
    assert files.summary(path), name


@pytest.mark.parametrize('text, said', [
    ('x = 1', 'has no function get_config'),
    ('get_config = lambda: 3', 'returned a int; it must return a dict'),
    ('get_config = lambda x: {}', 'needs an argument after a colon'),
    ('1 / 0', 'failed: ZeroDivisionError: division by zero'),
    ('def get_config(:', 'failed: SyntaxError'),
    ('import nothing_of_that_name', 'failed: ModuleNotFoundError'),
    ('raise SystemExit(3)', 'failed: SystemExit: 3'),
    ('get_config = lambda: 1 / 0', 'failed: ZeroDivisionError')])
def test_files_that_are_no_config(tmp_path, text, said):
  path = tmp_path / 'c.py'
  path.write_text(text)
  with pytest.raises(ValueError, match=re.escape(said)) as found:
    files.load(str(path))
  assert str(path) in str(found.value)


@pytest.mark.parametrize('given, said', [
    ('', '--config is empty'),
    ('quickstrt', 'did you mean: quickstart?'),
    ('/nowhere/x.py', 'there is no file /nowhere/x.py'),
    ('quickstart:3', "takes no argument, but '3' is given after the colon"),
    ('/', 'is no Python file')])
def test_names_that_are_none(given, said):
  with pytest.raises(ValueError, match=re.escape(said)):
    files.load(given)
