"""The documentation: Sphinx, MyST and furo.

    pip install ".[docs]" && sphinx-build -W docs docs/_build

Tables of config fields are made from the dataclasses, and the results pages
from `experiments/*/README.md`, while it builds.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'docs')]

import tables  # noqa: E402 pylint: disable=wrong-import-position

from mtl_jax import _version  # noqa: E402 pylint: disable=wrong-import-position

project = 'mtl_jax'
author = 'The mtl_jax authors'
release = version = _version.__version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon',
              'sphinx.ext.viewcode', 'sphinx_copybutton']
myst_enable_extensions = ['colon_fence', 'deflist']
myst_heading_anchors = 3
copybutton_prompt_text = r'>>> |\.\.\. |\$ '
copybutton_prompt_is_regexp = True
default_role = 'code'
exclude_patterns = ['_build']
suppress_warnings = ['ref.python']  # fields of one name in several classes

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_default_options = {'members': True, 'undoc-members': False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True

html_theme = 'furo'
html_title = 'mtl_jax'
html_static_path = ['_static']
html_css_files = ['wide.css']
html_show_sphinx = False
html_show_copyright = False


def setup(app):
  """Hooks: tables in pages, and examples in docstrings."""
  app.connect('builder-inited', lambda app: tables.write_results(
      ROOT / 'experiments', pathlib.Path(app.srcdir) / 'results'))
  app.connect('source-read', tables.fill)
  app.connect('autodoc-process-docstring', tables.literal_blocks, 400)
