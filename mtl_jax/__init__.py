"""Many tasks in one network that is never changed.

`import mtl_jax` loads the core (trees, masks, impressions) and needs jax
alone. `mtl_jax.load(workdir)` reads what a run left. `mtl_jax.data`,
`mtl_jax.methods` and `mtl_jax.models` are imported when they are first used;
each has a `register` for what is your own.
"""

import importlib
from typing import TYPE_CHECKING

from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import trees
from mtl_jax._version import __version__

if TYPE_CHECKING:
  from mtl_jax.serving import system as system_lib

__all__ = ['__version__', 'data', 'impressions', 'load', 'masks', 'methods',
           'models', 'trees']
_LAZY = ('data', 'methods', 'models')


def __getattr__(name: str):
  if name in _LAZY:
    return importlib.import_module(f'mtl_jax.{name}')
  raise AttributeError(f"module 'mtl_jax' has no attribute {name!r}"
                       f'{trees.nearest(name, __all__)}')


def __dir__() -> list[str]:
  return sorted(__all__)


def load(workdir, plugins=None) -> 'system_lib.System':
  """The system that a run left in a workdir.

  Args:
    workdir: the folder.
    plugins: a Python file, or several, that register what the run used of your
      own methods and models.

  Returns:
    `mtl_jax.serving.system.System`.
  """
  from mtl_jax.serving import system as system_lib
  return system_lib.load(workdir, plugins)
