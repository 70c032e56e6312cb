"""The system that `mtl_jax.load` returns; tasks can be added and removed.

    system.export('a', 'a.safetensors')      mtl_jax.import_task(workdir, file)
    system.export_network('a', 'w.safetensors')      # for backbone.weights
    system.learn('digits', method='supsup', steps=500)
    system.merge(['a', 'b'])  system.rename('a', 'c')  system.delete('b')
    system.parameters('a')    system.apply_fn('a')

Prediction is inherited from `serving.system.System`. `verify` succeeds after
each of these calls, and the bits of all other tasks stay the same.
"""

import os
import pathlib
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from mtl_jax import aliases
from mtl_jax import trees
from mtl_jax.serving import artifact
from mtl_jax.serving import doors
from mtl_jax.serving import edits
from mtl_jax.serving import merging
from mtl_jax.serving import programs
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import bucket
from mtl_jax.storage import folders


class System(system_lib.System):
  """Tasks that share one backbone; iteration gives their names."""

  task = doors.public(system_lib.System.task, traceable=True)
  record = doors.public(system_lib.System.record, traceable=True)
  metadata = doors.public(system_lib.System.metadata, traceable=True)
  predict = doors.public(system_lib.System.predict, traceable=True)
  observe = doors.public(system_lib.System.observe, traceable=True)
  identify = doors.public(system_lib.System.identify)
  predict_mixed = doors.public(system_lib.System.predict_mixed)

  def __iter__(self) -> Iterator[str]:
    return iter(self.tasks)

  def __len__(self) -> int:
    return len(self.tasks)

  def __contains__(self, task: object) -> bool:
    return task in self.tasks

  @doors.public
  def export(self, task: str, path, with_basis: bool = False,
             licence: str = '', text: str = '') -> aliases.Path:
    """Writes a task as one file; see `serving.artifact.export`."""
    self.require(task)
    return artifact.export(self, task, path, with_basis, licence, text)

  @doors.public
  def export_network(self, task: str, path, licence: str = '',
                     text: str = '') -> aliases.Path:
    """Writes a task's network as a file of weights, for `backbone.weights`.

    See `serving.artifact.export_network`.
    """
    self.require(task)
    return artifact.export_network(self, task, path, licence, text)

  @doors.public
  def delete(self, task: str) -> None:
    """Removes a task on which no other relies; see `serving.edits.delete`."""
    self.require(task)
    edits.delete(self, task)

  @doors.public
  def rename(self, task: str, name: str) -> None:
    """Renames a task; see `serving.edits.rename`."""
    self.require(task)
    edits.rename(self, task, name)

  @doors.public
  def merge(self, tasks: Sequence[str], weights: Sequence[float] | None = None,
            how: str = 'combination',
            name: str | None = None) -> merging.Merged:
    """Merges several tasks into one; see `serving.merging.merge`."""
    for task in tasks if isinstance(tasks, (list, tuple)) else ():
      self.require(task)
    return merging.merge(self, tasks, weights, how, name)

  @doors.public
  def parameters(self, task: str) -> programs.Parameters:
    """Counts a task's numbers; see `serving.programs.Parameters`."""
    self.require(task)
    return programs.parameters(self, task)

  @doors.public
  def apply_fn(self, task: str
               ) -> tuple[Callable[[Any, Any], jax.Array], trees.Tree]:
    """A task as (apply, params); see `serving.programs.apply_fn`."""
    self.require(task)
    return programs.apply_fn(self, task)

  @doors.public
  def learn(self, source, **options) -> float | None:
    """Adds one task and returns its accuracy; see `learning.learn`."""
    from mtl_jax import learning  # imports optax, which serving doesn't need
    return learning.learn(self, source, **options)


def is_file(path) -> bool:
  """Whether a path or address is that of an exported file, not of a workdir."""
  if bucket.is_remote(path):
    return os.fspath(path).endswith('.safetensors')
  return folders.local(path).is_file()


def load(path, plugins=None, **options) -> System:
  """The system of a workdir, or of a file that `export` wrote.

  Args:
    path: a workdir or its address (neither its data nor its config are
      needed), or an exported file, for which a temporary folder is made (in a
      bucket, its name ends with .safetensors).
    plugins: a Python file, or several, that register your own methods and
      models that the tasks use. Nothing is ever imported from a workdir.
    **options: `cache_bytes` of `serving.system.load`.

  Raises:
    ValueError: the path is neither, an option is unknown, the backbone can't
      be made again, or a plugin is missing or fails.
  """
  for name in sorted(options.keys() - {'cache_bytes'}):
    raise ValueError(f'load has no option {name}'
                     f'{trees.nearest(name, ("plugins", "cache_bytes"))}; it '
                     'takes plugins and cache_bytes')
  if not is_file(path):
    return system_lib.load(path, plugins, kind=System, **options)
  folder = tempfile.TemporaryDirectory(prefix='mtl_jax-')
  root = pathlib.Path(folder.name) / 'system'
  try:
    artifact.unpack(root, path)
    system = system_lib.load(root, plugins, kind=System, **options)
  except BaseException:
    folder.cleanup()
    raise
  weakref.finalize(system, folder.cleanup)
  return system
