"""The files that a user's file imports from its own folder."""

import sys

import pytest

from mtl_jax import neighbours


@pytest.fixture
def folder(tmp_path):
  """Files by name; each imports nothing, and the one above is not of them."""
  (tmp_path / 'one.py').write_text('')
  tmp_path = tmp_path / 'own'
  for name in ('one', 'two', 'three', 'pack/__init__', 'pack/inner',
               'pack/deep/__init__', 'pack/deep/last', 'bare/of_bare'):
    path = tmp_path / f'{name}.py'
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text('')
  return tmp_path


def imported(folder, text, **others):
  """Names of the files that a file with a text imports."""
  (folder / 'mine.py').write_text(text)
  for name, other in others.items():
    (folder / f'{name.replace("__", "/")}.py').write_text(other)
  return [str(path.relative_to(folder).with_suffix(''))
          for path in neighbours.imported(folder / 'mine.py')]


@pytest.mark.parametrize('text, names', [
    ('', []), ('import no_such_module, json, one', ['one']),
    ('import two, one as two', ['one', 'two']),
    ('def late():\n  import one', ['one']),
    ('from one import two', ['one']),  # a name in it, no file
    ('from . import one, two', ['one', 'two']), ('import mine', []),
    ('from .one import x', ['one']), ('from .. import one', []),
    (f'from {"." * 99} import one', []),
    ('import pack', ['pack/__init__']),
    ('from pack import inner', ['pack/__init__', 'pack/inner']),
    ('import pack.deep.last', ['pack/__init__', 'pack/deep/__init__',
                               'pack/deep/last']),
    ('from pack.deep import last', ['pack/__init__', 'pack/deep/__init__',
                                    'pack/deep/last']),
    ('import bare.of_bare', ['bare/of_bare'])])
def test_what_a_file_imports(folder, text, names):
  assert imported(folder, text) == names


def test_what_is_imported_by_way_of_others(folder):
  assert imported(folder, 'import one', one='import two', two='import mine, '
                  'three') == ['one', 'three', 'two']
  inner = 'from . import deep\nfrom .deep.last import x\nfrom .. import two'
  assert imported(folder, 'import pack.inner', two='', pack__inner=inner) == [
                      'pack/__init__', 'pack/deep/__init__', 'pack/deep/last',
                      'pack/inner', 'two']


@pytest.mark.parametrize('text', ['import (', '\0', b'\xff'.decode('latin-1')])
def test_a_file_that_can_not_be_read_says_so_when_it_is_imported(folder, text):
  (folder / 'one.py').write_bytes(text.encode('latin-1'))
  assert imported(folder, 'import one') == ['one']


def test_a_module_from_elsewhere_is_not_the_file_of_that_name(folder,
                                                              monkeypatch):
  """Where a folder of the path has that name first."""
  (folder / 'json.py').write_text('')
  assert imported(folder, 'import json') == []
  monkeypatch.delitem(sys.modules, 'json')
  assert imported(folder, 'import json') == ['json']


@pytest.mark.parametrize('name', ['site-packages', 'dist-packages', 'own'])
def test_installed_files_are_known_by_their_version(tmp_path, name):
  (tmp_path / name).mkdir()
  for file in ('mine', 'one'):
    (tmp_path / name / f'{file}.py').write_text('import one\n')
  assert len(neighbours.imported(tmp_path / name / 'mine.py')) == (
      name == 'own')


def test_the_package_itself_is_no_neighbour(folder, monkeypatch):
  """A file beside a checkout of it, as in its examples."""
  monkeypatch.setattr(neighbours, '_PACKAGE', folder / 'pack')
  assert imported(folder, 'import pack.inner, one', pack__inner='import two'
                  ) == ['one']
