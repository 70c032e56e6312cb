"""The published numbers of continual learning, one function per definition.

Everything is computed from the accuracy matrix R of shape [T, T] (an array, or
a `Sparse` that holds the measured entries alone): `R[i, j]` is the accuracy on
task j after learning task i, tasks in learning order, NaN (or `None`) where it
was not measured. Forward transfer also needs b of shape [T]:
the accuracy on every task before anything was learned. Accuracies are
fractions, so are results. Indices count from 0; the papers count from 1.

The word *forgetting* stands for several formulas in papers and libraries. Each
formula has its own name here, and its citation is printed with every number:

* `forgetting`: Chaudhry et al. 2018 (RWalk). The *best* accuracy of a task in
  any earlier row minus that in the last row. The maximum starts at the row in
  which the task was learned and leaves out the last row; unmeasured entries do
  not count as 0. The mean is over the first T-1 tasks, because the last one
  can't have been forgotten yet.
* `experience_forgetting` and its mean `stream_forgetting`: the accuracy *right
  after learning* minus that in the last row. Never above `forgetting`, and
  exactly minus `backward_transfer`.

A task that never changes has forgetting 0 under both. A function raises an
error if it needs an entry that was not measured, and names the entry.

  https://arxiv.org/abs/1706.08840  Lopez-Paz and Ranzato 2017 (GEM)
  https://arxiv.org/abs/1801.10112  Chaudhry et al. 2018 (RWalk)
  https://arxiv.org/abs/1812.00420  Chaudhry et al. 2019 (A-GEM)
  https://arxiv.org/abs/1810.11910  Riemer et al. 2019 (MER)
  https://arxiv.org/abs/1810.13166  Diaz-Rodriguez et al. 2018
  https://arxiv.org/abs/2104.00405  Lomonaco et al. 2021 (Avalanche)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mtl_jax import messages
from mtl_jax.evaluation import anytime
from mtl_jax.evaluation import entries


class Definition(NamedTuple):
  """A published metric; `needs` names the inputs of `function`."""
  title: str
  citation: str
  function: Callable[..., float]
  needs: tuple[str, ...] = ('matrix',)


def average_accuracy(matrix) -> float:
  """Mean accuracy over all tasks at the end (GEM, eq. 2, ACC).

  >>> round(average_accuracy([[.8, .1], [.6, .9]]), 4)  # (.6 + .9) / 2
  0.75
  """
  r = entries.square(matrix)
  last = entries.count(r) - 1
  return float(np.mean(entries.at(r, last, np.arange(last + 1))))


def learning_accuracy(matrix) -> float:
  """Mean accuracy of a task right after learning it (Riemer et al. 2019, LA).

  >>> round(learning_accuracy([[.8, None], [.6, .9]]), 4)  # (.8 + .9) / 2
  0.85
  """
  r = entries.square(matrix)
  return float(np.mean(entries.at(r, *entries.diagonal(entries.count(r)))))


def backward_transfer(matrix) -> float:
  """Effect of later tasks on earlier ones (GEM, eq. 3, BWT).

  The mean over the first T-1 tasks of R[T-1, j] - R[j, j].

  >>> round(backward_transfer([[.8, None], [.6, .9]]), 4)  # .6 - .8
  -0.2
  """
  return 0. - stream_forgetting(matrix)  # 0, not -0


def forward_transfer(matrix, before) -> float:
  """Effect of earlier tasks on a task not yet learned (GEM, eq. 4, FWT).

  The mean over the last T-1 tasks of R[j-1, j] - b[j].

  >>> round(forward_transfer([[.8, .3], [.6, .9]], [.1, .1]), 4)  # .3 - .1
  0.2
  """
  r = entries.square(matrix, at_least=2)
  b = entries.baseline(before, entries.count(r))
  missing = 1 + np.flatnonzero(np.isnan(b[1:]))
  if missing.size:
    raise ValueError(f'before was not measured for task {missing[0]}')
  later = np.arange(1, entries.count(r))
  ahead = entries.at(r, later - 1, later)
  return float(np.mean(ahead - b[1:]))


def forgetting(matrix) -> float:
  """Best accuracy so far minus final (Chaudhry et al. 2018, F at k = T).

  f[j] = max over l in j..T-2 of R[l, j], minus R[T-1, j]; the mean is over
  j in 0..T-2. The paper defines accuracies for tasks learned so far only
  (j <= l), hence the maximum begins at row j. Negative if the end is better.

  >>> m = [[.8, None, None], [.9, .7, None], [.6, .5, .9]]
  >>> round(forgetting(m), 4)  # ((.9 - .6) + (.7 - .5)) / 2
  0.25
  """
  r = entries.square(matrix, at_least=2)
  last = entries.count(r) - 1
  rows, columns = entries.triangle(r, last)
  earlier = np.full((last, last), -np.inf)
  earlier[rows, columns] = entries.at(r, rows, columns)
  final = entries.at(r, last, np.arange(last))
  return float(np.mean(earlier.max(0) - final))


def intransigence(matrix, joint: float) -> float:
  """Inability to learn the last task (Chaudhry et al. 2018, I at k = T).

  `joint` is the accuracy on the last task of a reference model of the same
  architecture trained on the data of all T tasks together.

  >>> round(intransigence([[.8, None], [.6, .9]], joint=.95), 4)  # .95 - .9
  0.05
  """
  r = entries.square(matrix)
  reference = entries.floats(joint, 'the accuracy joint')
  if reference.ndim or not np.isfinite(reference):
    raise ValueError(f'joint is {messages.shown(joint)}; it must be a measured '
                     'accuracy')
  entries.fractions(reference)
  last = entries.count(r) - 1
  return float(reference - entries.at(r, last, last))


def triangular_accuracy(matrix) -> float:
  """Mean accuracy over R's lower triangle (Diaz-Rodriguez et al. 2018, A).

  Counts every task learned so far after every task, diagonal included.

  >>> round(triangular_accuracy([[.8, None], [.6, .9]]), 4)  # 2.3 / 3
  0.7667
  """
  r = entries.square(matrix)
  places = entries.triangle(r, entries.count(r))
  return float(np.mean(entries.at(r, *places)))


def triangular_backward_transfer(matrix) -> float:
  """Mean of R[i, j] - R[j, j] over all i > j (Diaz-Rodriguez 2018, BWT).

  >>> m = [[.8, None, None], [.9, .7, None], [.6, .5, .9]]
  >>> round(triangular_backward_transfer(m), 4)  # (.1 - .2 - .2) / 3
  -0.1
  """
  r = entries.square(matrix, at_least=2)
  rows, columns = entries.triangle(r, entries.count(r), -1)
  learned = entries.at(r, columns, columns)
  return float(np.mean(entries.at(r, rows, columns) - learned))


def remembering(matrix) -> float:
  """1 - |min(BWT, 0)|, BWT the triangular one (Diaz-Rodriguez 2018, REM).

  >>> m = [[.8, None, None], [.9, .7, None], [.6, .5, .9]]
  >>> round(remembering(m), 4)  # 1 - .1
  0.9
  """
  return 1. - abs(min(triangular_backward_transfer(matrix), 0.))


def triangular_forward_transfer(matrix) -> float:
  """Mean of R[i, j] over all i < j (Diaz-Rodriguez et al. 2018, FWT).

  It is an accuracy on tasks not yet learned; nothing is subtracted.

  >>> round(triangular_forward_transfer([[.8, .3], [.6, .9]]), 4)
  0.3
  """
  r = entries.square(matrix, at_least=2)
  columns, rows = entries.triangle(r, entries.count(r), -1, upper=True)
  return float(np.mean(entries.at(r, rows, columns)))


def experience_forgetting(matrix) -> np.ndarray:
  """R[j, j] - R[T-1, j] for each of the first T-1 tasks (as in Avalanche).

  >>> m = [[.8, None, None], [.9, .7, None], [.6, .5, .9]]
  >>> experience_forgetting(m).round(4)  # .8 - .6 and .7 - .5
  array([0.2, 0.2])
  """
  r = entries.square(matrix, at_least=2)
  last = entries.count(r) - 1
  learned = entries.at(r, *entries.diagonal(last))
  return learned - entries.at(r, last, np.arange(last))


def stream_forgetting(matrix) -> float:
  """The mean of `experience_forgetting` (Avalanche's StreamForgetting).

  >>> m = [[.8, None, None], [.9, .7, None], [.6, .5, .9]]
  >>> round(stream_forgetting(m), 4)
  0.2
  """
  return float(np.mean(experience_forgetting(matrix)))


_GEM = 'Lopez-Paz & Ranzato 2017 (GEM), arXiv:1706.08840'
_RWALK = 'Chaudhry et al. 2018 (RWalk), arXiv:1801.10112'
_AGEM = 'Chaudhry et al. 2019 (A-GEM), arXiv:1812.00420'
_DIAZ = 'Díaz-Rodríguez et al. 2018, arXiv:1810.13166'

DEFINITIONS: dict[str, Definition] = {
    'average_accuracy': Definition(
        'Average accuracy', f'{_GEM}, eq. 2 (ACC)', average_accuracy),
    'learning_accuracy': Definition(
        'Learning accuracy', 'Riemer et al. 2019 (MER), arXiv:1810.11910 (LA)',
        learning_accuracy),
    'backward_transfer': Definition(
        'Backward transfer', f'{_GEM}, eq. 3 (BWT)', backward_transfer),
    'forward_transfer': Definition(
        'Forward transfer', f'{_GEM}, eq. 4 (FWT)', forward_transfer,
        ('matrix', 'before')),
    'forgetting': Definition(
        'Forgetting', f'{_RWALK}, forgetting measure (F)', forgetting),
    'stream_forgetting': Definition(
        'Forgetting since learning', 'Lomonaco et al. 2021 (Avalanche), '
        'arXiv:2104.00405, StreamForgetting', stream_forgetting),
    'worst_task': Definition(
        'Worst task', 'Sagawa et al. 2020 (group DRO), arXiv:1911.08731, '
        'worst-group accuracy, a group per task', anytime.worst_task),
    'worst_case_accuracy': Definition(
        'Worst-case accuracy', 'De Lange et al. 2023, arXiv:2205.13452, '
        'WC-ACC, measured after each task', anytime.worst_case_accuracy),
    'anytime_average_accuracy': Definition(
        'Anytime average accuracy', 'Caccia et al. 2022 (ER-ACE), '
        'arXiv:2104.05025 (AAA), measured after each task',
        anytime.anytime_average_accuracy),
    'triangular_accuracy': Definition(
        'Accuracy over time', f'{_DIAZ} (A)', triangular_accuracy),
    'triangular_backward_transfer': Definition(
        'Backward transfer over time', f'{_DIAZ} (BWT)',
        triangular_backward_transfer),
    'remembering': Definition('Remembering', f'{_DIAZ} (REM)', remembering),
    'triangular_forward_transfer': Definition(
        'Accuracy on tasks not yet learned', f'{_DIAZ} (FWT)',
        triangular_forward_transfer),
    'learning_curve_area': Definition(
        'Learning-curve area, first 10 batches',
        f'{_AGEM} (LCA, β = 10), on validation images',
        anytime.learning_curve_area, ('curves',)),
    'whole_learning_curve_area': Definition(
        'Learning-curve area, whole training',
        f'{_AGEM} (LCA, β = steps of the shortest training), on validation '
        'images; straight lines between those measured',
        anytime.whole_learning_curve_area, ('curves',)),
}


def summarise(matrix, before=None, curves=None) -> list[dict]:
  """Every metric of `DEFINITIONS` whose inputs were measured, in that order.

  Takes the accuracy matrix [T, T] and, if measured, the accuracies [T] before
  learning and the validation curves of all T tasks (see `anytime`). Returns
  rows {'name', 'title', 'citation', 'value'} for JSON.

  >>> [row['name'] for row in summarise([[.9]])][:3]
  ['average_accuracy', 'learning_accuracy', 'worst_task']
  """
  r = entries.square(matrix)  # a malformed matrix raises
  b = None if before is None else entries.baseline(before, entries.count(r))
  inputs = {'matrix': r, 'before': b, 'curves': curves}
  rows = []
  for name, definition in DEFINITIONS.items():
    arguments = [inputs[need] for need in definition.needs]
    if any(argument is None for argument in arguments):
      continue
    try:
      value = definition.function(*arguments)
    except ValueError:
      continue
    rows.append({'name': name, 'title': definition.title,
                 'citation': definition.citation, 'value': value})
  return rows


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
  """Mean and sample standard deviation (ddof=1; `None` for one value).

  >>> mean_and_std([1., 3.])
  (2.0, 1.4142135623730951)
  >>> mean_and_std([1.])
  (1.0, None)
  """
  array = entries.floats(values, 'what is averaged')
  if array.ndim != 1 or not array.size:
    raise ValueError(f'need at least one value, got shape {array.shape}')
  std = float(np.std(array, ddof=1)) if len(array) > 1 else None
  return float(np.mean(array)), std
