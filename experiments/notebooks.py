"""Writes the form that opens a notebook in Colab, and executes notebooks.

    python experiments/notebooks.py            writes the form into all of them
    python experiments/notebooks.py execute examples/five_methods.ipynb

The form is the first code cell. It differs between notebooks only in the
folder. In Colab it installs the package and goes to the notebook's folder;
where the package is installed it does nothing.
"""

import json
import pathlib
import sys

from mtl_jax import json_files

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ('examples', 'experiments/*')
_FORM = '''\
#@title Open in Colab: install the package {{ display-mode: "form" }}
REPOSITORY = ''  #@param {{type: "string"}}
import importlib.util, os, subprocess, sys

if importlib.util.find_spec('mtl_jax') is None:
  if not REPOSITORY:
    raise SystemExit('REPOSITORY is empty: give the address that git clones, '
                     'or install the package: pip install ".[notebooks]"')
  subprocess.run(['git', 'clone', '--depth=1', REPOSITORY, 'mtl_jax_clone'],
                 check=True)
  subprocess.run([sys.executable, '-m', 'pip', 'install', '-q',
                  './mtl_jax_clone[notebooks]'], check=True)
  os.chdir('mtl_jax_clone/{folder}')'''


def paths() -> list[pathlib.Path]:
  """All notebooks of the repository."""
  return sorted(path for folder in FOLDERS
                for path in ROOT.glob(f'{folder}/*.ipynb'))


def form(path: pathlib.Path) -> str:
  """The text of a notebook's first code cell."""
  return _FORM.format(folder=path.parent.relative_to(ROOT).as_posix())


def write_form(path: pathlib.Path) -> None:
  """Puts the form before a notebook's first code cell, or renews it."""
  notebook = json_files.read(path, {'cells': list}, 'the notebook')
  cells = notebook['cells']
  first = next(i for i, cell in enumerate(cells)
               if cell['cell_type'] == 'code')
  cell = {'cell_type': 'code', 'execution_count': None, 'id': 'colab-form',
          'metadata': {'cellView': 'form'}, 'outputs': [],
          'source': form(path).splitlines(keepends=True)}
  if cells[first].get('id') == 'colab-form':
    cell['execution_count'] = cells[first].get('execution_count')
    cells[first] = cell
  else:
    cells.insert(first, cell)
  path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + '\n')


def execute(path: pathlib.Path, save: bool = True) -> None:
  """Runs a notebook from its first cell to its last in a new kernel.

  Args:
    path: of the notebook.
    save: whether its outputs are kept in it.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell failed.
  """
  import nbclient
  import nbformat
  notebook = nbformat.read(path, as_version=4)
  nbclient.NotebookClient(notebook, timeout=1800, resources={
      'metadata': {'path': str(path.parent)}}).execute()
  for cell in notebook.cells:
    cell.metadata.pop('execution', None)  # times of the day
  if save:
    nbformat.write(notebook, path)


if __name__ == '__main__':
  if sys.argv[1:2] == ['execute']:
    for name in sys.argv[2:]:
      execute(pathlib.Path(name).resolve())
  else:
    for found in paths():
      write_form(found)
