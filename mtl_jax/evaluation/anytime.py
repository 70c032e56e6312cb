"""Metrics over the whole course of learning, and of the worst task.

`matrix` is the accuracy matrix [T, T] of `mtl_jax.evaluation.metrics`. Every
function reads only the entries in its formula: T entries of the last row, or
T (T + 1) / 2 entries of the lower triangle.

`curves` has the validation curve of each task: pairs (steps, accuracies), the
steps ascending from 0, which is before the first batch. Accuracies are
fractions.

  https://arxiv.org/abs/1801.10112  Chaudhry et al. 2018 (RWalk)
  https://arxiv.org/abs/1812.00420  Chaudhry et al. 2019 (A-GEM)
  https://arxiv.org/abs/1911.08731  Sagawa et al. 2020 (group DRO)
  https://arxiv.org/abs/2104.05025  Caccia et al. 2022 (ER-ACE)
  https://arxiv.org/abs/2205.13452  De Lange et al. 2023
"""

import numbers
from collections.abc import Sequence

import numpy as np

from mtl_jax import messages
from mtl_jax.evaluation import entries

Curve = tuple[Sequence[int], Sequence[float | None]]


def average_so_far(matrix) -> np.ndarray:
  """A_k, the mean accuracy over the first k tasks after the k-th: [T].

  Chaudhry et al. 2018 (RWalk), average accuracy: A_k is the mean of R[k-1, j]
  over j < k.

  >>> average_so_far([[.8, None], [.6, .9]]).round(4)
  array([0.8 , 0.75])
  """
  r = entries.square(matrix)
  size = entries.count(r)
  rows, columns = entries.triangle(r, size)
  sums = np.bincount(rows, entries.at(r, rows, columns), size)
  return sums / np.arange(1, size + 1)


def anytime_average_accuracy(matrix) -> float:
  """The mean of A_k over k (Caccia et al. 2022, AAA; here after each task).

  The same number is iCaRL's average incremental accuracy
  (https://arxiv.org/abs/1611.07725).

  >>> round(anytime_average_accuracy([[.8, None], [.6, .9]]), 4)
  0.775
  """
  return float(np.mean(average_so_far(matrix)))


def forgetting_so_far(matrix) -> np.ndarray:
  """F_k, the forgetting measure after the k-th task, k = 2 to T: [T - 1].

  Chaudhry et al. 2018 (RWalk), forgetting measure: F_k is the mean over
  j < k - 1 (counting from 0) of the maximum of R[l, j] over l in j..k-2, minus
  R[k-1, j]. The last one is `metrics.forgetting`.

  >>> m = [[.8, None, None], [.9, .7, None], [.6, .5, .9]]
  >>> forgetting_so_far(m).round(4)  # .8 - .9, and (.3 + .2) / 2
  array([-0.1 ,  0.25])
  """
  r = entries.square(matrix, at_least=2)
  size = entries.count(r)
  rows, columns = entries.triangle(r, size)
  lower = np.full((size, size), -np.inf)
  lower[rows, columns] = entries.at(r, rows, columns)
  best = np.maximum.accumulate(lower, 0)[:-1, :-1]
  known = np.tri(size - 1, dtype=bool)
  lost = np.subtract(best, lower[1:, :-1], out=np.zeros_like(best), where=known)
  return lost.sum(1) / np.arange(1, size)


def worst_task(matrix) -> float:
  """The lowest accuracy of any task at the end.

  Sagawa et al. 2020, worst-group accuracy, with a group for each task.

  >>> worst_task([[.8, None], [.6, .9]])
  0.6
  """
  r = entries.square(matrix)
  last = entries.count(r) - 1
  return float(np.min(entries.at(r, last, np.arange(last + 1))))


def worst_case_accuracy(matrix) -> float:
  """The last task's accuracy averaged with the minima of earlier tasks.

  De Lange et al. 2023, WC-ACC = R[T-1, T-1] / T + (1 - 1/T) min-ACC; min-ACC
  is the mean over j in 0..T-2 of the minimum of R[l, j] over l > j. The paper
  measures after every step; here it is after each task.

  >>> m = [[.8, None, None], [.5, .7, None], [.6, .6, .9]]
  >>> round(worst_case_accuracy(m), 4)  # (.9 + .5 + .6) / 3
  0.6667
  """
  r = entries.square(matrix)
  size = entries.count(r)
  last = float(entries.at(r, size - 1, size - 1))
  if size == 1:
    return last
  rows, columns = entries.triangle(r, size, -1)
  lower = np.full(size - 1, np.inf)
  np.minimum.at(lower, columns, entries.at(r, rows, columns))
  return float((last + lower.sum()) / size)


def learning_curve_area(curves: Sequence[Curve], beta: int = 10) -> float:
  """Speed of learning (Chaudhry et al. 2019, LCA at beta = 10).

  LCA_beta = (Z_0 + ... + Z_beta) / (beta + 1), where Z_b is the mean over tasks
  of a task's accuracy after its b-th batch. The paper's accuracies are those
  of test images; these are of validation images, which training may use.

  Args:
    curves: the curves of all tasks; see the module.
    beta: number of batches that count.

  Raises:
    ValueError: no curve, beta is no number of batches, or a step up to beta
      was not measured (names both).

  >>> round(learning_curve_area([((0, 1, 2), (.1, .5, .9))], beta=1), 4)
  0.3
  """
  if isinstance(beta, bool) or not isinstance(
      beta, numbers.Integral) or beta < 0:
    raise ValueError(f'beta is {messages.shown(beta)}; give a number of '
                     'batches, 0 or more')
  wanted, found = np.arange(beta + 1), []
  for task, (steps, accuracies) in enumerate(_given(curves)):
    places = np.searchsorted(steps, wanted)
    there = np.minimum(places, len(steps) - 1)
    missing = np.flatnonzero(steps[there] != wanted)
    if missing.size:
      raise ValueError(f'task {task} was not measured after batch '
                       f'{missing[0]}; validate after every one (validate_every'
                       f' = 1) of at least {beta}')
    found.append(accuracies[there])
  return float(np.mean(found))


def whole_learning_curve_area(curves: Sequence[Curve]) -> float:
  """`learning_curve_area` with beta = the steps of the shortest training.

  Accuracies between measured steps are interpolated linearly. If every step was
  measured, the result is the published sum.

  Raises:
    ValueError: no curve.

  >>> curve = (0, 2, 4), (.1, .3, .3)  # .1 .2 .3 .3 .3
  >>> round(whole_learning_curve_area([curve]), 4)
  0.24
  """
  given = _given(curves)
  beta = min(int(steps[-1]) for steps, _ in given)
  weights: dict[bytes, np.ndarray] = {}
  areas = []
  for steps, accuracies in given:
    known = steps.tobytes()
    if known not in weights:
      weights[known] = _weights(steps, beta)
    areas.append(accuracies @ weights[known])
  return float(np.mean(areas))


def _weights(steps: np.ndarray, beta: int) -> np.ndarray:
  """The weight of each measured step in the mean over 0..beta."""
  place = np.interp(np.arange(beta + 1), steps, np.arange(len(steps)))
  left = place.astype(int)
  right = np.minimum(left + 1, len(steps) - 1)
  both = (np.bincount(left, 1 - place + left, len(steps))
          + np.bincount(right, place - left, len(steps)))
  return both / (beta + 1)


def _given(curves) -> list[tuple[np.ndarray, np.ndarray]]:
  """The curves as arrays; refuses missing or incomplete curves."""
  try:
    pairs = [(steps, accuracies) for steps, accuracies in curves]
  except (TypeError, ValueError) as error:
    raise ValueError(f'curves is {messages.shown(curves)}; give a pair '
                     '(steps, accuracies) for each task') from error
  found = []
  for task, (steps, accuracies) in enumerate(pairs):
    given = entries.floats(steps, f'steps of the curve of task {task}')
    y = entries.floats(accuracies, f'accuracies of the curve of task {task}')
    x = np.nan_to_num(given, posinf=-1).astype(int)
    if not x.size or x.ndim != 1 or x.shape != y.shape or x[0] or (
        np.diff(x) <= 0).any() or (x != given).any():
      raise ValueError(f'the curve of task {task} must begin at step 0, with '
                       'ascending steps, each a whole number; got steps '
                       f'{given.ravel()[:5].tolist()} and {y.size} accuracies')
    if np.isnan(y).any():
      raise ValueError(f'the curve of task {task} has no accuracy at step '
                       f'{x[np.isnan(y)][0]}')
    found.append((x, entries.fractions(y)))
  if not found:
    raise ValueError('no task has a validation curve; set validate_every')
  return found
