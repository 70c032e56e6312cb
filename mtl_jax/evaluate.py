"""Accuracy on splits, the accuracy matrix, overlap of masks."""

import functools
from typing import Any, NamedTuple

import numpy as np

from mtl_jax import checkpoint
from mtl_jax import config as config_lib
from mtl_jax import metrics
from mtl_jax import models
from mtl_jax import parallel
from mtl_jax import plan
from mtl_jax import steps
from mtl_jax import system as system_lib
from mtl_jax.data import batches
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.data import transforms

OVERLAP_LIMIT = 60
MATRIX_LIMIT = 100  # tasks; a larger matrix is kept if it was measured whole


class Score(NamedTuple):
  """Mean loss and accuracy (fraction) on a split.

  The loss is cross-entropy in nats, or the mean squared error of a
  regression, which has no accuracy.
  """
  loss: float
  accuracy: float | None


class Data:
  """Sources, on the host and (each split once) on the devices.

  Images are fitted to the suite's shape once, when they are put there; what
  is left of a task's transforms runs with every batch.

  Attributes:
    unlearned: the backbone's own accuracy by (tasks, loss), which is the same
      in all phases.
  """

  def __init__(self):
    self.source = functools.lru_cache(maxsize=None)(sources.load)
    self.task_arrays = functools.lru_cache(maxsize=4)(self._task_arrays)
    self._on_device = functools.lru_cache(maxsize=None)(self._put)
    self.unlearned: dict[tuple, float | None] = {}

  def view(self, task: suites.Task) -> suites.View:
    return suites.view(task, self.source(task.source))

  def rows(self, entry: plan.Entry, split: str = 'train') -> np.ndarray:
    """Rows of the source; of a pool, task number x images + row."""
    found = [getattr(self.view(task), split) for task in entry.tasks]
    if not entry.pooled:
      return found[0]
    images = len(getattr(self.source(entry.task.source), split).images)
    return np.concatenate([i * images + rows for i, rows in enumerate(found)])

  def entry_arrays(self, entry: plan.Entry) -> steps.TaskArrays:
    """Of its task; of a pool, those of all its tasks, stacked."""
    if not entry.pooled:
      return self.task_arrays(entry.task)
    return parallel.put(parallel.stack(
        [parallel.local(self._task_arrays(task)) for task in entry.pooled]))

  def split(self, task: suites.Task, split: str) -> steps.Source:
    """A whole split of the task's source, on the devices."""
    return self._on_device(task.source, plan.once(task.transforms), split)

  def _put(self, name, fits, split):
    images, labels = getattr(self.source(name), split)
    return parallel.put(steps.Source(transforms.prepare(fits, images)[0],
                                     labels))

  def _task_arrays(self, task: suites.Task) -> steps.TaskArrays:
    fits = plan.once(task.transforms)
    shape = transforms.output_shape(transforms.kinds(fits),
                                    self.source(task.source).image_shape)
    rest = task.transforms[len(fits):]
    return parallel.put(steps.TaskArrays(transforms.parameters(rest, shape),
                                         self.view(task).label_map))


@functools.lru_cache(maxsize=None)
def _program(network: models.Network):
  return parallel.evaluate_over_batches(steps.make_evaluate(network))


def score(network: models.Network, params: Any, stats: Any, data: Data,
          task: suites.Task, split: str, batch_size: int,
          kind: str = 'softmax') -> Score:
  """Loss (of a `kind` as in `Route`) and accuracy on a split of a task."""
  rows = getattr(data.view(task), split)
  devices = parallel.device_count()
  per_device = max(1, min(batch_size, -(-len(rows) // devices)))
  index = batches.padded(rows, per_device, devices)
  # The phase is left out: all phases share one executable.
  route = plan.route_of('', task, kind)
  params, stats = parallel.everywhere((params, stats))
  loss, right = _program(network)(
      route, params, stats, data.split(task, split),
      data.task_arrays(task), parallel.split_evaluation(index))
  return Score(float(parallel.to_host(loss)) / len(rows),
               None if task.regression else
               int(parallel.to_host(right)) / len(rows))


def score_entry(network: models.Network, params: Any, stats: Any, data: Data,
                entry: plan.Entry, split: str, batch_size: int) -> Score:
  """`score`, and of a pool the mean over its tasks."""
  found = [score(network, params, stats, data, task, split, batch_size,
                 entry.phase.loss) for task in entry.tasks]
  return found[0] if len(found) == 1 else Score(
      *(float(np.mean(values)) for values in zip(*found)))


def stored_accuracy(system: system_lib.System, entry: plan.Entry, data: Data,
                    batch_size: int) -> float | None:
  """Test accuracy of a task as it lies on the disk; none of a regression."""
  params, stats = system.effective(system.task(entry.name))
  return score_entry(system.backbone.network, params, stats, data, entry,
                     'test', batch_size).accuracy


def summarise(config: config_lib.Config, records: list[dict],
              rows: dict[str, dict], final: dict[str, float],
              overlap: dict | None) -> dict:
  """The accuracy matrix and every published measure that it supports.

  Args:
    config: of the run.
    records: of all entries, in learning order.
    rows: by entry, test accuracies measured right after it was learned.
    final: test accuracies measured at the end of the run.
    overlap: as `mask_overlap` gives it.
  """
  main = [r for r in records if not r['control'] and r['repeat'] == 0
          and r['accuracy']['test'] is not None]
  names = [r['entry'] for r in main]
  matrix = np.full((len(names), len(names)), np.nan)
  for i, record in enumerate(main):
    for j, name in enumerate(names):
      measured = rows.get(record['entry'], {}).get(name)
      if measured is not None:
        matrix[i, j] = measured
    matrix[i, i] = record['accuracy']['test']
    if i:
      matrix[i - 1, i] = record['accuracy']['before']
  for j, name in enumerate(names):
    if name in final and len(names):
      matrix[-1, j] = final[name]
  keep = len(names) <= MATRIX_LIMIT or config.matrix == 'full'
  before = [r['accuracy']['backbone'] for r in main]
  return {
      'names': names,
      'matrix': [[None if np.isnan(v) else float(v) for v in row]
                 for row in matrix] if keep else None,
      'before': before,
      'metrics': metrics.summarise(matrix, np.array(before)) if names else [],
      'overlap': overlap,
      'matrix_measured': config.matrix,
  }


def mask_overlap(system: system_lib.System, names: list[str]) -> dict | None:
  """Jaccard index between the stored masks of (at most 60) tasks."""
  packed: list[np.ndarray] = []
  kept: list[str] = []
  for name in names:
    if len(kept) == OVERLAP_LIMIT:
      break
    arrays, _ = checkpoint.load(system.workdir.task(name))
    bits = [a for leaf, a in sorted(arrays.items())
            if leaf.startswith('masks/')]
    if bits and (not packed or sum(map(len, bits)) == packed[0].size):
      packed.append(np.concatenate(bits))
      kept.append(name)
  if len(kept) < 2:
    return None
  count = lambda x: int(np.bitwise_count(x).sum())
  matrix = np.ones((len(kept), len(kept)))
  for i, a in enumerate(packed):
    for j, b in enumerate(packed[:i]):
      matrix[i, j] = matrix[j, i] = count(a & b) / max(1, count(a | b))
  return {'names': kept, 'matrix': matrix.tolist()}


def row(system: system_lib.System, earlier: list, data: Data,
        batch_size: int) -> dict[str, float | None]:
  """Test accuracy of the given entries, measured now from the disk."""
  return {e.name: stored_accuracy(system, e, data, batch_size)
          for e in earlier}


def memory_bytes() -> int:
  """Peak resident memory of this process, in bytes."""
  import resource
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
