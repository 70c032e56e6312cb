"""Notebooks: one form for Colab, words for titles, and cells that run."""

import json
import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'experiments'))

import notebooks  # noqa: E402 pylint: disable=wrong-import-position

TUTORIALS = ('mask_your_model', 'five_methods')
PATHS = pytest.mark.parametrize('path', notebooks.paths(), ids=lambda path: (
    f'{path.parent.name}-{path.stem}'))


def cells(path, kind):
  return [cell for cell in json.loads(path.read_text())['cells']
          if cell['cell_type'] == kind]


def test_all_notebooks_are_known():
  found = {path for path in ROOT.rglob('*.ipynb')
           if '.ipynb_checkpoints' not in path.parts
           and 'build' not in path.parts}
  assert found == set(notebooks.paths())
  assert {path.stem for path in found if path.parent.name == 'examples'
          } == set(TUTORIALS)


@PATHS
def test_the_first_code_cell_is_the_form(path):
  form = ''.join(cells(path, 'code')[0]['source'])
  assert form == notebooks.form(path)
  assert form.startswith('#@title') and 'REPOSITORY' in form
  folder = path.parent.relative_to(ROOT).as_posix()
  assert f"os.chdir('mtl_jax_clone/{folder}')" in form


@PATHS
def test_writing_the_form_again_changes_nothing(path, tmp_path, monkeypatch):
  monkeypatch.setattr(notebooks, 'ROOT', tmp_path)
  copy = tmp_path / path.relative_to(ROOT)
  copy.parent.mkdir(parents=True)
  copy.write_text(path.read_text())
  notebooks.write_form(copy)
  assert copy.read_text() == path.read_text()
  # And a notebook without one gets it.
  bare = json.loads(path.read_text())
  bare['cells'] = [cell for cell in bare['cells']
                   if cell.get('id') != 'colab-form']
  copy.write_text(json.dumps(bare))
  notebooks.write_form(copy)
  assert len(cells(copy, 'code')) == len(cells(path, 'code'))


@PATHS
def test_the_form_does_nothing_where_the_package_is(path, monkeypatch):
  monkeypatch.setattr('subprocess.run', None)
  here = os.getcwd()
  exec(notebooks.form(path), {})  # pylint: disable=exec-used
  assert os.getcwd() == here


def test_the_form_asks_for_an_address(monkeypatch):
  import importlib.util
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(SystemExit, match='REPOSITORY is empty: give the address'):
    exec(notebooks.form(notebooks.paths()[0]), {})  # pylint: disable=exec-used


@PATHS
def test_a_notebook_begins_with_a_title_in_words(path):
  title = ''.join(cells(path, 'markdown')[0]['source']).splitlines()[0]
  assert title.startswith('# ') and ' ' in title[2:]
  assert '_' not in title and '.' not in title


@pytest.mark.parametrize('name', ['mask_your_model', 'five_methods'])
def test_a_tutorial_has_the_outputs_of_its_cells(name):
  code = cells(ROOT / 'examples' / f'{name}.ipynb', 'code')[1:]
  assert all(cell['execution_count'] for cell in code)
  shown = [output for cell in code for output in cell['outputs']]
  assert any('image/png' in output.get('data', {}) for output in shown)
  assert any('text/html' in output.get('data', {}) for output in shown)
  assert not [output for output in shown if output['output_type'] == 'error'
              or output.get('name') == 'stderr']


@pytest.mark.slow
@pytest.mark.parametrize('name', TUTORIALS)
def test_a_tutorial_runs_from_its_first_cell_to_its_last(name):
  pytest.importorskip('nbclient')
  notebooks.execute(ROOT / 'examples' / f'{name}.ipynb', save=False)
