"""Validation during training, which gives the validation curves of a record.

It runs between two chunks of steps and only reads the state, so it changes
neither the steps nor their bits.
"""

import time
from collections.abc import Iterable

import numpy as np

from mtl_jax import parallel
from mtl_jax.config import plan
from mtl_jax.steps import single
from mtl_jax.storage import json_records
from mtl_jax.training import evaluate
from mtl_jax.training import run as run_lib

NAMES = ('loss', 'accuracy')


class Course:
  """The validation results of a group so far.

  Attributes:
    every: steps between two measurements; 0 turns validation off.
    steps: steps of the measurements; step 0 is before training.
    values: {'loss', 'accuracy'}: float32 [entries, measurements]; the accuracy
      of a regression is NaN.
    seconds: time that this start has spent on validation.
    before: time that earlier starts have spent on it.
  """

  def __init__(self, run: run_lib.Run, group: list[plan.Entry]):
    self.run, self.group = run, group
    self.every = group[0].phase.validate_every
    self.steps: list[int] = []
    self.values = {name: np.zeros((len(group), 0), np.float32)
                   for name in NAMES}
    self.seconds = self.before = 0.
    self._logged = {(entry.name, step) for entry in group
                    for step in run.validated.get(entry.name, ())}

  def due(self, step: int, last: bool) -> bool:
    """Whether to measure at this step; `False` if it was measured already."""
    return bool(self.every) and step not in self.steps and (
        last or step % self.every == 0)

  def measure(self, step: int, driver, shared, state) -> None:
    """Measures all entries and logs the results."""
    started = time.perf_counter()
    scores = measure(self.run, self.group, driver, shared, state)
    self.steps.append(step)
    for name in NAMES:
      column = np.array([[getattr(score, name)] for score in scores],
                        np.float32)  # None becomes NaN
      self.values[name] = np.concatenate([self.values[name], column], 1)
    self._log(-1)
    self.seconds += time.perf_counter() - started

  def template(self, values: dict) -> dict:
    """Arrays with the shapes of those saved with progress."""
    count = len(values.get('validated', ()))
    return {name: np.zeros((len(self.group), count), np.float32)
            for name in NAMES} if self.every else {}

  def restore(self, arrays: dict, values: dict) -> None:
    """Restores the results that were saved with progress."""
    self.steps = list(values.get('validated', ()))
    self.before = values.get('validation_seconds', 0.)
    if self.every:
      self.values = arrays
      for place in range(len(self.steps)):
        self._log(place)

  def saved(self) -> dict:
    """JSON values to save with progress."""
    return {'validated': self.steps, 'validation_seconds': self.total(),
            } if self.every else {}

  def total(self) -> float:
    """Seconds of validation in all starts."""
    return self.before + self.seconds

  def record(self, i: int) -> dict:
    """The validation part of entry i's record; {} without measurements."""
    if not self.steps:
      return {}
    return {'validation': {'step': self.steps} | {
        name: [_plain(value) for value in self.values[name][i]]
        for name in NAMES}}

  def _log(self, place: int) -> None:
    """Logs one measurement, unless an earlier start has logged it."""
    step = self.steps[place]
    lines = [{'kind': 'validation', 'entry': entry.name, 'step': step} | {
        name: _plain(self.values[name][i, place]) for name in NAMES}
             for i, entry in enumerate(self.group)
             if (entry.name, step) not in self._logged]
    json_records.append_lines(self.run.workdir.metrics, lines)
    self._logged |= {(str(line['entry']), step) for line in lines}


def _plain(value) -> float | None:
  return None if np.isnan(value) else round(float(value), 6)


def steps_of_log(lines: Iterable[dict]) -> dict[str, set[int]]:
  """Steps at which earlier starts measured each entry, by its name.

  Args:
    lines: lines of the log.
  """
  found: dict[str, set[int]] = {}
  for line in lines:
    if line['kind'] == 'validation':
      found.setdefault(line['entry'], set()).add(line['step'])
    elif line['kind'] in ('deleted', 'renamed'):
      found.pop(line['entry' if line['kind'] == 'deleted' else 'from'], None)
  return found


def measure(run: run_lib.Run, group: list[plan.Entry], driver, shared,
            state) -> list[evaluate.Score]:
  """Loss and accuracy of every entry on its validation images.

  Args:
    run: the run.
    group: the group in training.
    driver: the driver of the group.
    shared: the method's `shared`, on the devices.
    state: on the devices, as `driver.advance` returns it; it is not donated.
  """
  if driver.validate is not None:
    return driver.validate(shared, state)
  whole, given = driver.whole(state), parallel.local(shared)
  method, backbone = group[0].phase.make_method(), run.system.backbone
  scores = []
  for i, entry in enumerate(group):
    own = parallel.local(driver.member(whole, i))
    params = single.bind(method, backbone.params, own.trainable, given,
                         entry.route)
    scores.append(evaluate.score_entry(
        backbone.network, params, own.stats, run.data, entry, 'valid',
        run.config.eval_batch_size))
  return scores
