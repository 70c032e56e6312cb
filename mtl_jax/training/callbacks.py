"""What looks at the validation data after every epoch, and may stop or prune.

A `Watch` is three pure functions of its own memory, a pytree of arrays that is
saved with mid-task progress:

    start(state, shared)                            -> memory
    after_epoch(memory, state, shared, loss, accuracy)
                                                    -> (memory, state, shared)
    finish(memory, state, shared)                   -> (state, shared)

Training ends when `memory['stop']` is set. `loss` is the sum over the group's
tasks of their validation losses (as the official code of arXiv 2207.08821
watches it), `accuracy` the mean accuracy, or `None` if no task has one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from mtl_jax.config import parts as config_parts
from mtl_jax.methods import allocation


class Watch(NamedTuple):
  """See the module docstring."""
  start: Callable[..., dict]
  after_epoch: Callable[..., tuple]
  finish: Callable[..., tuple]


def _snapshot(state) -> dict:
  """A copy of what a network is made of: the state's arrays are donated."""
  return jax.tree.map(lambda x: np.array(x), {
      'trainable': state.trainable, 'stats': state.stats})


def _return_to(state, kept: dict):
  return state._replace(trainable=kept['trainable'], stats=kept['stats'])


def _number(value, dtype=np.float32):
  return np.asarray(value, dtype)


def early_stop(settings: config_parts.EarlyStop) -> Watch:
  """Stops when the loss stops falling, and goes back to its best epoch.

  As Keras does: an epoch is better if its loss is below the best by more than
  `min_delta`; after `patience` epochs in a row that aren't, it ends.
  """
  def start(state, shared):
    del shared
    return {'best': _number(np.inf), 'waited': _number(0, np.int32),
            'stop': _number(False, bool), 'kept': _snapshot(state)}

  def after_epoch(memory, state, shared, loss, accuracy):
    del accuracy
    if loss < memory['best'] - settings.min_delta:
      memory = memory | {'best': _number(loss), 'kept': _snapshot(state),
                         'waited': _number(0, np.int32)}
    else:
      waited = memory['waited'] + np.int32(1)
      memory = memory | {'waited': _number(waited, np.int32),
                         'stop': _number(waited >= settings.patience, bool)}
    return memory, state, shared

  def finish(memory, state, shared):
    if np.isfinite(memory['best']):
      state = _return_to(state, memory['kept'])
    return state, shared

  return Watch(start, after_epoch, finish)


DENSE, PRUNING, LAST = 0, 1, 2


def sparsify(settings: config_parts.Sparsify,
             stopping: config_parts.EarlyStop) -> Watch:
  """Prunes a task's own weights further while validation holds.

  With a `cutoff`, the rule of the official code's ActiveSparsification: an
  epoch whose validation accuracy reaches it is kept and the subnetwork pruned
  by `rate`; after `patience` epochs that don't, the last one that did comes
  back and is trained on until early stopping. Without one, the iterative rule
  per task: trained to its best loss first, then pruned as long as the loss
  stays below the last accepted one + `tolerance`.

  Only the watched task's weights are pruned, and only what it owns: those of
  other tasks stay. The smallest magnitudes go first, as many in each leaf.
  The last training keeps the epoch of the smallest loss, which may reach a
  `cutoff` no longer.
  """
  stop = early_stop(stopping)

  def start(state, shared):
    return stop.start(state, shared) | {
        'stage': _number(DENSE if settings.cutoff is None else PRUNING,
                         np.int32),
        'density': _number(_owned(shared, settings.start)),
        'accepted': _number(np.inf),
        'failed': _number(0, np.int32),
        'good': _snapshot(state) | {'owner': shared['owner']},
        'any': _number(False, bool)}

  def holds(memory, loss, accuracy):
    if settings.cutoff is None:
      return loss < memory['accepted'] + settings.tolerance
    if accuracy is None:
      raise ValueError('sparsify.cutoff is an accuracy, but the task is a '
                       'regression; leave it out and give a tolerance')
    return accuracy >= settings.cutoff

  def prune_further(memory, state, shared):
    density = float(memory['density']) - settings.rate
    if density < settings.least - 1e-6:
      return _last(memory, state, shared)
    owner = allocation.prune(
        _host(state.trainable['weights']), _host(shared['owner']),
        int(shared['number']), round(density, 6))
    return (memory | {'density': _number(density)}, state,
            shared | {'owner': owner})

  def _last(memory, state, shared):
    fresh = stop.start(state, shared)
    return memory | fresh | {'stage': _number(LAST, np.int32)}, state, shared

  def pruning(memory, state, shared, loss, accuracy):
    if holds(memory, loss, accuracy):
      memory = memory | {
          'accepted': _number(loss), 'any': _number(True, bool),
          'good': _snapshot(state) | {'owner': _host(shared['owner'])}}
      return prune_further(memory, state, shared)
    failed = int(memory['failed']) + 1
    memory = memory | {'failed': _number(failed, np.int32)}
    if failed < settings.patience:
      return memory, state, shared
    if bool(memory['any']):
      state = _return_to(state, memory['good'])
      shared = shared | {'owner': memory['good']['owner']}
    return _last(memory, state, shared)

  def after_epoch(memory, state, shared, loss, accuracy):
    if int(memory['stage']) == PRUNING:
      return pruning(memory, state, shared, loss, accuracy)
    memory, state, shared = stop.after_epoch(memory, state, shared, loss,
                                             accuracy)
    if int(memory['stage']) == DENSE and bool(memory['stop']):
      state, shared = stop.finish(memory, state, shared)
      memory = memory | {
          'stage': _number(PRUNING, np.int32), 'stop': _number(False, bool),
          'accepted': memory['best'], 'any': _number(True, bool),
          'good': _snapshot(state) | {'owner': _host(shared['owner'])}}
      return prune_further(memory, state, shared)
    return memory, state, shared

  def finish(memory, state, shared):
    if int(memory['stage']) in (DENSE, LAST):
      return stop.finish(memory, state, shared)
    if bool(memory['any']):  # the epochs ran out: the last one that held
      state = _return_to(state, memory['good'])
      shared = shared | {'owner': memory['good']['owner']}
    return state, shared

  return Watch(start, after_epoch, finish)


def _owned(shared, start: float) -> float:
  """`start`, or the least fraction of a leaf that the watched task owns.

  Numbers of weights are whole: a leaf's fraction may be a little off `start`.
  """
  mine = [np.asarray(o) == int(shared['number'])
          for o in jax.tree.leaves(shared['owner'])]
  wanted = jax.tree.leaves(allocation.counts(shared['owner'], start))
  if all(np.sum(m) == k for m, k in zip(mine, wanted, strict=True)):
    return start
  return min(float(np.mean(m)) for m in mine)


def _host(tree):
  return jax.tree.map(np.asarray, tree)


def make(phase) -> Watch | None:
  """The watch that a phase asks for, if any."""
  if phase.sparsify is not None:
    return sparsify(phase.sparsify, phase.early_stop)
  return None if phase.early_stop is None else early_stop(phase.early_stop)
