"""Many tasks in one network that is never changed.

`import mtl_jax` loads the core (trees, masks, impressions) and needs jax
alone. `mtl_jax.load(workdir)` reads what a run left.
"""

from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import trees
from mtl_jax._version import __version__

__all__ = ['__version__', 'impressions', 'load', 'masks', 'trees']


def load(workdir, plugins=None, **options):
  """The system that a run left in a workdir.

  Args:
    workdir: the folder.
    plugins: a Python file, or several, that register what the run used of your
      own methods and models.
    **options: of `mtl_jax.serving.system.load`.

  Returns:
    `mtl_jax.serving.system.System`, which any number of threads may share.
  """
  from mtl_jax.serving import system as system_lib
  return system_lib.load(workdir, plugins, **options)
