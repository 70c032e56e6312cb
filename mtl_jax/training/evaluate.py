"""Loss and accuracy of a network on a split of a task."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
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
  """Loss (`kind` as in `Route`) and accuracy on a split of a task."""
  rows = getattr(data.view(task), split)
  devices = parallel.device_count()
  per_device = max(1, min(batch_size, -(-len(rows) // devices)))
  index = batches.padded(rows, per_device, devices)
  # The route does not depend on the phase: all phases share one executable.
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
  """`score` of an entry; for a pool, the mean over its tasks."""
  found = [score(network, params, stats, data, task, split, batch_size,
                 entry.phase.loss) for task in entry.tasks]
  rated = [own.accuracy for own in found if own.accuracy is not None]
  return Score(float(np.mean([own.loss for own in found])),
               float(np.mean(rated)) if rated else None)


@functools.lru_cache(maxsize=64)
def _group_program(network: models.Network, make: Callable[..., tuple]):
  evaluate = single.make_evaluate(network)

  def one(route, backbone, shared, source, own):
    state, task, index = own
    # Keeps XLA from fusing the parameters into a product, which would round
    # them otherwise than the stored parameters.
    params, stats = jax.lax.optimization_barrier(
        make(*backbone, shared, state))
    return evaluate(route, params, stats, source, task, index)
  return parallel.map_tasks(one)


class Group(NamedTuple):
  """Tasks of one route whose networks are evaluated in one program.

  Attributes:
    data: the data of the run.
    entries: entries of one phase, none of them pooled.
    tasks: the arrays of the tasks, from `place`.
    batch_size: number of images in a batch.
  """
  data: run_lib.Data
  entries: list[plan.Entry]
  tasks: single.TaskArrays
  batch_size: int

  @classmethod
  def of(cls, data, entries, batch_size) -> 'Group':
    return cls(data, entries, place(parallel.stack_on_host(
        [data.host_arrays(entry.task) for entry in entries])), batch_size)

  def score(self, network: models.Network, make: Callable[..., tuple],
            backbone: tuple, shared: dict, states: Any,
            split: str) -> list[Score]:
    """`score_entry` of each entry.

    Args:
      network: the network of all entries.
      make: ((backbone parameters, backbone statistics), shared, state of one
        entry) -> (parameters, norm statistics) of its network. It is compiled
        once for each function object.
      backbone: parameters and statistics of the backbone, on the devices.
      shared: the method's `shared`, on the devices.
      states: the states of the entries, from `place`.
      split: name of the split.
    """
    first = self.entries[0]
    rows = [getattr(self.data.view(entry.task), split)
            for entry in self.entries]
    size = max(1, min(self.batch_size, max(map(len, rows))))
    parts = [batches.padded(own, size) for own in rows]
    longest = max(map(len, parts))
    index = np.stack([np.pad(own, ((0, longest - len(own)), (0, 0)),
                             constant_values=-1) for own in parts])
    loss, right = parallel.gather_tasks(_group_program(network, make)(
        plan.route_of(first.task, first.phase.loss), backbone, shared,
        self.data.split(first.task, split), (states, self.tasks, place(index))))
    return [Score(float(loss[i]) / len(own), None if first.task.regression
                  else int(right[i]) / len(own)) for i, own in enumerate(rows)]


def place(tree: Any) -> Any:
  """Arrays [entries, ...] of a group, divided over the devices."""
  return parallel.split_tasks(parallel.pad_tasks(tree), donated=False)


def stored_accuracy(system: system_lib.System, entry: plan.Entry,
                    data: run_lib.Data, batch_size: int) -> float | None:
  """Test accuracy of a stored task; `None` for a regression."""
  params, stats = system.effective(system.task(entry.name))
  return score_entry(system.backbone.network, params, stats, data, entry,
                     'test', batch_size).accuracy


def row(system: system_lib.System, earlier: list, data: run_lib.Data,
        batch_size: int) -> dict[str, float | None]:
  """Test accuracy of the given entries, measured from their stored files."""
  return {e.name: stored_accuracy(system, e, data, batch_size)
          for e in earlier}
