"""What training needs: the run, and its data on the devices."""

import copy
import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mtl_jax import methods
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.data import labels
from mtl_jax.data import pipeline
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.data import transforms
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.serving import cache
from mtl_jax.serving import system as system_lib
from mtl_jax.steps import single
from mtl_jax.storage import workdir as workdir_lib


class Data:
  """Sources, on the host and (each split once) on the devices.

  Images are fitted to the suite's shape once, when they are put there; what
  is left of a task's transforms runs with every batch.

  Attributes:
    unlearned: the backbone's own accuracy by (tasks, loss), which is the same
      in all phases.
  """

  def __init__(self, load: Callable[[str], sources.Source] = sources.load):
    self.source = functools.lru_cache(maxsize=None)(load)
    self.host_arrays = cache.Cache(self._host_arrays, nbytes=2 ** 26,
                                   size=trees.nbytes)
    self.task_arrays = functools.lru_cache(maxsize=4)(self._task_arrays)
    self._on_device = functools.lru_cache(maxsize=None)(self._put)
    self._views = functools.lru_cache(maxsize=32)(self._view)
    self._facts = functools.lru_cache(maxsize=None)(self._facts_of)
    self.unlearned: dict[tuple, float | None] = {}

  def view(self, task: suites.Task) -> suites.View:
    """Where its images lie; tasks that differ by transforms have one."""
    try:
      return self._views(_rows_of(task))
    except ValueError:
      return self._view(task)  # says the task's own name

  def _view(self, task) -> suites.View:
    return suites.view(task, self.source(task.source))

  def facts(self, task: suites.Task) -> dict:
    """`labels.facts`, a copy."""
    return copy.deepcopy(self._facts(_rows_of(task)))

  def _facts_of(self, task) -> dict:
    return labels.facts(task, self.source(task.source))

  def rows(self, entry: plan.Entry, split: str = 'train') -> np.ndarray:
    """Rows of the source; of a pool, task number x images + row."""
    found = [getattr(self.view(task), split) for task in entry.tasks]
    if not entry.pooled:
      return found[0]
    images = len(getattr(self.source(entry.task.source), split).images)
    return np.concatenate([i * images + rows for i, rows in enumerate(found)])

  def entry_arrays(self, entry: plan.Entry) -> single.TaskArrays:
    """Of its task; of a pool, those of all its tasks, stacked."""
    return (parallel.put(self.on_host(entry)) if entry.pooled else
            self.task_arrays(entry.task))

  def on_host(self, entry: plan.Entry) -> single.TaskArrays:
    """`entry_arrays` as NumPy arrays; none may be changed."""
    if not entry.pooled:
      return self.host_arrays(entry.task)
    return parallel.stack_on_host(
        [self.host_arrays(task) for task in entry.pooled])

  def split(self, task: suites.Task, split: str) -> single.Source:
    """A whole split of the task's source, on the devices."""
    return self._on_device(task.source, plan.once(task.transforms), split)

  def nbytes(self, task: suites.Task, split: str) -> int:
    """Bytes of `split` on a device."""
    source = self.source(task.source)
    images, labels = getattr(source, split)
    shape = pipeline.output_shape(
        transforms.kinds(plan.once(task.transforms)), source.image_shape)
    return (len(images) * int(np.prod(shape)) * images.dtype.itemsize
            + np.asarray(labels).nbytes)

  def _put(self, name, fits, split):
    images, labels = getattr(self.source(name), split)
    return parallel.put(single.Source(pipeline.prepare(fits, images)[0],
                                     labels))

  def _task_arrays(self, task: suites.Task) -> single.TaskArrays:
    return parallel.put(self.host_arrays(task))

  def _host_arrays(self, task: suites.Task) -> single.TaskArrays:
    fits = plan.once(task.transforms)
    shape = pipeline.output_shape(transforms.kinds(fits),
                                  self.source(task.source).image_shape)
    rest = task.transforms[len(fits):]
    return single.TaskArrays(pipeline.parameters(rest, shape),
                             self.view(task).label_map)

  def parameters(self, task: suites.Task) -> pipeline.Parameters:
    """`pipeline.parameters` of all its transforms."""
    fits = plan.once(task.transforms)
    return ({},) * len(fits) + tuple(self.host_arrays(task).transforms)


def _rows_of(task: suites.Task) -> suites.Task:
  """The same for tasks that differ only in how their images are shown."""
  return dataclasses.replace(task, name='task', index=0, transforms=(), key='')


class Run(NamedTuple):
  """Everything that training needs, made once.

  Attributes:
    config: of the run.
    suite: its tasks.
    backbone: on the devices.
    data: sources.
    workdir: where results go.
    system: reads the tasks that are finished.
    advance: called with the number of steps done and a description.
    earlier: impressions that the config doesn't plan and its methods may rely
      on, in the order in which they were learned.
    validated: by entry, the steps of the validation that the log has already.
  """
  config: config_lib.Config
  suite: suites.Suite
  backbone: backbone_lib.Backbone
  data: Data
  workdir: workdir_lib.Workdir
  system: system_lib.System
  advance: Callable[..., None]
  earlier: tuple[methods.Earlier, ...] = ()
  validated: Mapping[str, set[int]] = types.MappingProxyType({})

  def defined_in(self, phase: config_lib.Phase) -> dict[str, dict | None]:
    """The user's files that define a phase's method, and the model."""
    return {'method': methods.METHODS.origin(phase.method),
            'model': self.backbone.recipe.get('defined_in')}
