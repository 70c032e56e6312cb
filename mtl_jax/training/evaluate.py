"""Loss and accuracy of a network on a split of a task."""

import functools
from typing import Any, NamedTuple

import numpy as np

from mtl_jax import models
from mtl_jax import parallel
from mtl_jax.config import plan
from mtl_jax.data import batches
from mtl_jax.data import suites
from mtl_jax.serving import system as system_lib
from mtl_jax.steps import single
from mtl_jax.training import run as run_lib


class Score(NamedTuple):
  """Mean loss and accuracy (fraction) on a split.

  The loss is cross-entropy in nats, or the mean squared error of a
  regression, which has no accuracy.
  """
  loss: float
  accuracy: float | None


@functools.lru_cache(maxsize=64)
def _program(network: models.Network):
  return parallel.evaluate_over_batches(single.make_evaluate(network))


def score(network: models.Network, params: Any, stats: Any, data: run_lib.Data,
          task: suites.Task, split: str, batch_size: int,
          kind: str = 'softmax') -> Score:
  """Loss (of a `kind` as in `Route`) and accuracy on a split of a task."""
  rows = getattr(data.view(task), split)
  devices = parallel.device_count()
  per_device = max(1, min(batch_size, -(-len(rows) // devices)))
  index = batches.padded(rows, per_device, devices)
  # The phase is left out: all phases share one executable.
  route = plan.route_of(task, kind)
  params, stats = parallel.everywhere((params, stats))
  loss, right = _program(network)(
      route, params, stats, data.split(task, split),
      data.task_arrays(task), parallel.split_evaluation(index))
  return Score(float(parallel.to_host(loss)) / len(rows),
               None if task.regression else
               int(parallel.to_host(right)) / len(rows))


def score_entry(network: models.Network, params: Any, stats: Any,
                data: run_lib.Data, entry: plan.Entry, split: str,
                batch_size: int) -> Score:
  """`score`, and of a pool the mean over its tasks."""
  found = [score(network, params, stats, data, task, split, batch_size,
                 entry.phase.loss) for task in entry.tasks]
  return found[0] if len(found) == 1 else Score(
      *(float(np.mean(values)) for values in zip(*found)))


def stored_accuracy(system: system_lib.System, entry: plan.Entry,
                    data: run_lib.Data, batch_size: int) -> float | None:
  """Test accuracy of a task as it lies on the disk; none of a regression."""
  params, stats = system.effective(system.task(entry.name))
  return score_entry(system.backbone.network, params, stats, data, entry,
                     'test', batch_size).accuracy


def row(system: system_lib.System, earlier: list, data: run_lib.Data,
        batch_size: int) -> dict[str, float | None]:
  """Test accuracy of the given entries, measured now from the disk."""
  return {e.name: stored_accuracy(system, e, data, batch_size)
          for e in earlier}
