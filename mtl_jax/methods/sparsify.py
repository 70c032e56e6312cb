"""Prunes a subnetwork during training, as long as validation permits.

Renn et al. 2022, https://arxiv.org/abs/2207.08821 (ActiveSparsification).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np

from mtl_jax.methods import allocation
from mtl_jax.methods import watch


@dataclasses.dataclass(frozen=True)
class Sparsify:
  """Prunes a subnetwork further, as long as validation permits.

  Attributes:
    start: density at the start, equal to that of the allocation.
    rate: fraction of all weights that one step of pruning frees.
    least: density at which pruning ends.
    cutoff: validation accuracy that must be reached; with `None`, the loss
      must stay below the last accepted one + `tolerance`, at first that of the
      task's own training before it is pruned.
    tolerance: see `cutoff`.
    patience: number of epochs below the cutoff, since the last pruning, after
      which the last good epoch is restored; without a cutoff, all failed epochs
      count.
  """
  start: float
  rate: float = 0.05
  least: float = 0.01
  cutoff: float | None = None
  tolerance: float = 0.01
  patience: int = 10

  def __post_init__(self):
    if not 0 < self.least <= self.start <= 1 or not 0 < self.rate < 1:
      raise ValueError('sparsify: 0 < least <= start <= 1 and 0 < rate < 1; '
                       f'got {self}')
    if self.cutoff is not None and not 0 < self.cutoff <= 1:
      raise ValueError('sparsify.cutoff is an accuracy and lies in (0, 1]; got '
                       f'{self.cutoff}')
    if self.patience < 1 or self.tolerance < 0:
      raise ValueError('sparsify: patience must be at least 1 and tolerance '
                       f'not negative; got {self}')


DENSE, PRUNING, LAST = 0, 1, 2


class Rules(NamedTuple):
  """When a watched subnetwork is pruned, and when its training ends.

  Attributes:
    settings: settings of the pruning.
    stopping: early stopping of the first and the last training.
    stop: the watch of `stopping`.
  """
  settings: Sparsify
  stopping: watch.EarlyStop
  stop: watch.Watch


def sparsify(settings: Sparsify,
             stopping: watch.EarlyStop) -> watch.Watch:
  """Prunes a task's own weights further, as long as validation permits.

  With a `cutoff` it follows the official code's ActiveSparsification. When an
  epoch's validation accuracy reaches the cutoff, the weights are kept and the
  subnetwork is pruned by `rate`. After `patience` epochs below the cutoff since
  the last pruning, the last kept weights are restored and trained further.
  This ends when the accuracy has not risen by `min_delta` for the early
  stopping's patience, with the weights of the best epoch, which reach the
  cutoff. If no epoch ever reached it, the current weights are trained further
  (the official code restores the untrained ones).

  Without a cutoff it follows the official code's iterative rule for each task.
  The task is trained to its best loss, then pruned as long as the loss stays
  below the last accepted loss + `tolerance`. `patience` counts all failed
  epochs, and the count is never reset. The last training keeps the epoch with
  the smallest loss.

  Only weights that the watched task owns are pruned, smallest magnitudes first,
  the same fraction in each leaf.
  """
  rules = Rules(settings, stopping, watch.early_stop(stopping))
  return watch.Watch(functools.partial(_start, rules),
                     functools.partial(_after_epoch, rules),
                     functools.partial(_finish, rules))


def _start(rules: Rules, state, shared) -> dict:
  settings = rules.settings
  return rules.stop.start(state, shared) | {
      'stage': watch.number(DENSE if settings.cutoff is None else PRUNING,
                            np.int32),
      'density': watch.number(_owned(shared, settings.start)),
      'accepted': watch.number(np.inf),
      'failed': watch.number(0, np.int32),
      'good': watch.snapshot(state) | {'owner': shared['owner']},
      'any': watch.number(False, bool)}


def _after_epoch(rules: Rules, memory, state, shared, loss, accuracy):
  if int(memory['stage']) == PRUNING:
    return _pruning(rules, memory, state, shared, loss, accuracy)
  if int(memory['stage']) == LAST and rules.settings.cutoff is not None:
    return _last_by_accuracy(rules, memory, state, shared, accuracy)
  memory, state, shared = rules.stop.after_epoch(memory, state, shared, loss,
                                                 accuracy)
  if int(memory['stage']) == DENSE and bool(memory['stop']):
    state, shared = rules.stop.finish(memory, state, shared)
    memory = memory | {
        'stage': watch.number(PRUNING, np.int32),
        'stop': watch.number(False, bool),
        'accepted': memory['best'], 'any': watch.number(True, bool),
        'good': watch.snapshot(state) | {'owner': _host(shared['owner'])}}
    return _prune_further(rules, memory, state, shared)
  return memory, state, shared


def _pruning(rules: Rules, memory, state, shared, loss, accuracy):
  """An epoch of the pruning stage, which is accepted or fails."""
  settings = rules.settings
  held = _holds(settings, memory, loss, accuracy)
  seen = loss if settings.cutoff is None else accuracy
  first = settings.cutoff is not None and np.isinf(memory['accepted'])
  if held or first:
    memory = memory | {'accepted': watch.number(seen)}
  if held:
    memory = memory | {
        'any': watch.number(True, bool),
        'good': watch.snapshot(state) | {'owner': _host(shared['owner'])}}
    return _prune_further(rules, memory, state, shared)
  failed = int(memory['failed']) + 1
  memory = memory | {'failed': watch.number(failed, np.int32)}
  if failed < settings.patience:
    return memory, state, shared
  return _begin_last(rules, memory, *_last_good(memory, state, shared))


def _holds(settings: Sparsify, memory, loss, accuracy):
  if settings.cutoff is None:
    return loss < memory['accepted'] + settings.tolerance
  if accuracy is None:
    raise ValueError('sparsify.cutoff is an accuracy, but the task is a '
                     'regression; leave it out and give a tolerance')
  return accuracy >= settings.cutoff


def _prune_further(rules: Rules, memory, state, shared):
  """Prunes by one rate, or begins the last training if it would be too much."""
  settings = rules.settings
  density = float(memory['density']) - settings.rate
  if density < settings.least - 1e-6:
    return _begin_last(rules, memory, state, shared)
  if settings.cutoff is not None:
    memory = memory | {'failed': watch.number(0, np.int32)}
  owner = allocation.prune(
      _host(state.trainable['weights']), _host(shared['owner']),
      int(shared['number']), round(density, 6))
  return (memory | {'density': watch.number(density)}, state,
          shared | {'owner': owner})


def _begin_last(rules: Rules, memory, state, shared):
  fresh = rules.stop.start(state, shared)
  if rules.settings.cutoff is not None:
    fresh['best'] = memory['accepted']
  memory = memory | fresh | {'stage': watch.number(LAST, np.int32)}
  return memory, state, shared


def _last_by_accuracy(rules: Rules, memory, state, shared, accuracy):
  """An epoch of the last training: early stopping by accuracy."""
  if accuracy >= float(memory['best']) + rules.stopping.min_delta:
    memory = memory | {
        'best': watch.number(accuracy), 'kept': watch.snapshot(state),
        'waited': watch.number(0, np.int32)}
  else:
    waited = int(memory['waited']) + 1
    memory = memory | {
        'waited': watch.number(waited, np.int32),
        'stop': watch.number(waited >= rules.stopping.patience, bool)}
  return memory, state, shared


def _last_good(memory, state, shared):
  """The last accepted epoch, or the current one if there is none."""
  if not bool(memory['any']):
    return state, shared
  return (watch.return_to(state, memory['good']),
          shared | {'owner': memory['good']['owner']})


def _finish(rules: Rules, memory, state, shared):
  if int(memory['stage']) in (DENSE, LAST):
    return rules.stop.finish(memory, state, shared)
  return _last_good(memory, state, shared)  # there are no epochs left


def _owned(shared, start: float) -> float:
  """`start`, or the smallest fraction of any leaf that the task owns.

  Weights are counted in whole numbers, so a fraction may differ a little from
  `start`.
  """
  mine = [np.asarray(o) == int(shared['number'])
          for o in jax.tree.leaves(shared['owner'])]
  wanted = jax.tree.leaves(allocation.counts(shared['owner'], start))
  if all(np.sum(m) == k for m, k in zip(mine, wanted, strict=True)):
    return start
  return min(float(np.mean(m)) for m in mine)


def _host(tree):
  return jax.tree.map(np.asarray, tree)
