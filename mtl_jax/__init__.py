"""Many tasks in one network that is never changed.

`import mtl_jax` loads the core (trees, masks, impressions) and needs jax
alone. `mtl_jax.load(workdir)` loads the tasks of a run, or one exported task.
`mtl_jax.data`, `mtl_jax.methods` and `mtl_jax.models` are imported when they
are first used; each has a function `register` for your own.
"""

import importlib
from typing import TYPE_CHECKING

from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import trees
from mtl_jax._version import __version__
from mtl_jax.serving import doors as _doors

if TYPE_CHECKING:
  from mtl_jax import lifecycle

__all__ = ['__version__', 'data', 'import_task', 'impressions', 'load', 'masks',
           'methods', 'models', 'trees']
_LAZY = ('data', 'methods', 'models')


def __getattr__(name: str):
  if name in _LAZY:
    return importlib.import_module(f'mtl_jax.{name}')
  raise AttributeError(f"module 'mtl_jax' has no attribute {name!r}"
                       f'{trees.nearest(name, __all__)}')


def __dir__() -> list[str]:
  return sorted(__all__)


@_doors.public
def load(path, plugins=None, **options) -> 'lifecycle.System':
  """Loads the system of a workdir, or of one exported task.

  Args:
    path: the folder, or the file that `System.export` wrote.
    plugins: a Python file, or several, that register your own methods and
      models that the tasks use.
    **options: `cache_bytes` of `mtl_jax.serving.system.load`.

  Returns:
    `mtl_jax.lifecycle.System`; any number of threads may share it.
  """
  from mtl_jax import lifecycle
  return lifecycle.load(path, plugins, **options)


@_doors.public
def import_task(workdir, path, name=None):
  """Imports the task of an exported file into a workdir; returns its name.

  Args:
    workdir: workdir of a run on the same backbone, or a new folder.
    path: the exported file.
    name: its new name; `None` keeps its own.
  """
  from mtl_jax.serving import artifact
  return artifact.import_task(workdir, path, name)
