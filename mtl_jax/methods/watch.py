"""Watches validation after every epoch, and may stop training or prune.

A `Watch` is three pure functions of its memory, a pytree of arrays that is
saved with mid-task progress:

    start(state, shared)                            -> memory
    after_epoch(memory, state, shared, loss, accuracy)
                                                    -> (memory, state, shared)
    finish(memory, state, shared)                   -> (state, shared)

Training ends when `memory['stop']` is set. `loss` is the sum of the validation
losses of the group's tasks (as in the official code of arXiv 2207.08821).
`accuracy` is their mean accuracy, or `None` if no task has one.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class EarlyStop:
  """Ends training when the validation loss stops falling.

  What is kept is the state after the epoch with the best loss. Tasks that are
  trained together='joint' have one loss, the sum of theirs.

  Attributes:
    min_delta: a loss is better if it is below the best by more than this.
    patience: training ends after this many epochs in a row without a better
      loss.
  """
  min_delta: float = 0.01
  patience: int = 3

  def __post_init__(self):
    if self.min_delta < 0 or self.patience < 1:
      raise ValueError('early_stop: min_delta must not be negative and '
                       f'patience at least 1; got {self}')


class Watch(NamedTuple):
  """The functions of a watch; see the module docstring."""
  start: Callable[..., dict]
  after_epoch: Callable[..., tuple]
  finish: Callable[..., tuple]


def snapshot(state) -> dict:
  """A copy of a network's arrays, as those of the state will be donated."""
  return jax.tree.map(lambda x: np.array(x), {
      'trainable': state.trainable, 'stats': state.stats})


def return_to(state, kept: dict):
  return state._replace(trainable=kept['trainable'], stats=kept['stats'])


def number(value, dtype=np.float32):
  return np.asarray(value, dtype)


def early_stop(settings: EarlyStop) -> Watch:
  """Stops when the loss stops falling, and restores the best epoch.

  As in Keras, an epoch is better if its loss is below the best by more than
  `min_delta`. Training ends after `patience` epochs in a row without one.
  """
  def start(state, shared):
    del shared
    return {'best': number(np.inf), 'waited': number(0, np.int32),
            'stop': number(False, bool), 'kept': snapshot(state)}

  def after_epoch(memory, state, shared, loss, accuracy):
    del accuracy
    if loss < memory['best'] - settings.min_delta:
      memory = memory | {'best': number(loss), 'kept': snapshot(state),
                         'waited': number(0, np.int32)}
    else:
      waited = memory['waited'] + np.int32(1)
      memory = memory | {'waited': number(waited, np.int32),
                         'stop': number(waited >= settings.patience, bool)}
    return memory, state, shared

  def finish(memory, state, shared):
    if np.isfinite(memory['best']):
      state = return_to(state, memory['kept'])
    return state, shared

  return Watch(start, after_epoch, finish)


def checked(watch: Watch) -> Watch:
  """The watch, held to return what the module's docstring says.

  Raises:
    ValueError: by its functions; names the one that returns something else.
  """
  def start(state, shared):
    return _memory('start', watch.start(state, shared))

  def after_epoch(*given):
    memory, state, shared = _values(
        'after_epoch', watch.after_epoch(*given), 3, '(memory, state, shared)')
    return _memory('after_epoch', memory), state, shared

  def finish(*given):
    return _values('finish', watch.finish(*given), 2, '(state, shared)')
  return Watch(start, after_epoch, finish)


def _values(name: str, found, count: int, wanted: str) -> tuple:
  if not isinstance(found, tuple) or len(found) != count:
    raise ValueError(f'{name} of the watch must return {wanted}; it returned '
                     f'{found!r:.80}')
  return found


def _memory(name: str, memory) -> dict:
  if not isinstance(memory, dict) or 'stop' not in memory or not all(
      isinstance(leaf, (np.ndarray, np.generic, jax.Array))
      for leaf in jax.tree.leaves(memory)):
    raise ValueError(f'{name} of the watch must return its memory as a dict of '
                     "arrays, with a bool 'stop' among them; it returned "
                     f'{memory!r:.80}')
  return memory
