"""Many tasks in one network that is never changed.

`import mtl_jax` loads the core (trees, masks, impressions) and needs jax
alone. `mtl_jax.load(workdir)` reads what a run left, or one task's file.
"""

from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import trees
from mtl_jax._version import __version__

__all__ = ['__version__', 'import_task', 'impressions', 'load', 'masks',
           'trees']


def load(path, plugins=None):
  """The system that a run left in a workdir, or that of one exported task.

  Args:
    path: the folder, or the file that `System.export` wrote.
    plugins: a Python file, or several, that register what was used of your
      own methods and models.

  Returns:
    `mtl_jax.lifecycle.System`.
  """
  from mtl_jax import lifecycle
  return lifecycle.load(path, plugins)


def import_task(workdir, path, name=None):
  """Puts the task of an exported file into a workdir; returns its name.

  Args:
    workdir: of a run on the same backbone, or a new folder.
    path: the file.
    name: under which it goes there; `None` keeps its own.
  """
  from mtl_jax.serving import artifact
  return artifact.import_task(workdir, path, name)
