"""The state of a run, and its data on the devices."""

import copy
import dataclasses
import functools
import types
from collections.abc import Callable, Mapping, Sequence
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

  Images are fitted to the suite's shape once, when they are put on the
  devices; the rest of a task's transforms runs with every batch.

  Attributes:
    unlearned: the backbone's own accuracy by (tasks, loss); all phases share
      it.
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
    """The task's images; tasks that differ only in transforms share a view."""
    try:
      return self._views(_rows_of(task))
    except ValueError:
      return self._view(task)  # its error has the task's own name

  def _view(self, task) -> suites.View:
    return suites.view(task, self.source(task.source))

  def facts(self, tasks: Sequence[suites.Task]) -> dict:
    """A copy of `labels.facts` of a task, or of all tasks of a pool."""
    return labels.in_all([copy.deepcopy(self._facts(_rows_of(task)))
                          for task in tasks])

  def _facts_of(self, task) -> dict:
    return labels.facts(task, self.source(task.source))

  def rows(self, entry: plan.Entry, split: str = 'train') -> np.ndarray:
    """Rows of the source; for a pool, task number x images + row."""
    found = [getattr(self.view(task), split) for task in entry.tasks]
    if not entry.pooled:
      return found[0]
    images = len(getattr(self.source(entry.task.source), split).images)
    return np.concatenate([i * images + rows for i, rows in enumerate(found)])

  def entry_arrays(self, entry: plan.Entry) -> single.TaskArrays:
    """Arrays of the entry's task; for a pool, of all its tasks, stacked."""
    return (parallel.put(self.on_host(entry)) if entry.pooled else
            self.task_arrays(entry.task))

  def on_host(self, entry: plan.Entry) -> single.TaskArrays:
    """`entry_arrays` as NumPy arrays, which callers must not change."""
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
  """A key that is equal for tasks that differ only in their transforms."""
  return dataclasses.replace(task, name='task', index=0, transforms=(), key='')


class Run(NamedTuple):
  """Everything that training needs, made once.

  Attributes:
    config: the config of the run.
    suite: the tasks of the run.
    backbone: the backbone, on the devices.
    data: the sources of the tasks.
    workdir: where results go.
    system: reads the finished tasks.
    advance: called with the number of steps done and a description.
    earlier: impressions that are not part of the config but on which its
      methods may rely, in the order in which they were learned.
    validated: by entry, the steps whose validation is already in the log.
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
    """The user's files that define a phase's method and the model."""
    return {'method': methods.METHODS.origin(phase.method),
            'model': self.backbone.recipe.get('defined_in')}
