"""The published numbers of continual learning, one function per definition.

Everything is computed from the accuracy matrix R of shape [T, T] (an array, or
a `Sparse` that holds the measured entries alone): `R[i, j]` is the accuracy on
task j after learning task i, tasks in learning order, NaN (or `None`) where it
was not measured. Forward transfer also needs b of shape [T]:
the accuracy on every task before anything was learned. Accuracies are
fractions, so are results. Indices count from 0; the papers count from 1.

The word *forgetting* stands for several formulas in papers and libraries, so
each has a name of its own here, and its citation stands beside every printed
number:

* `forgetting`: Chaudhry et al. 2018 (RWalk). From the *best* accuracy that a
  task had in any earlier row to the last row. The maximum starts at the row
  in which the task was learned and leaves out the last row; unmeasured entries
  do not count as 0. The mean is over the first T-1 tasks, because the last one
  can't have been forgotten yet.
* `experience_forgetting` and its mean `stream_forgetting`: from the accuracy
  *right after learning* to the last row. Never above `forgetting`, and
  exactly minus `backward_transfer`.

A task that never changes has forgetting 0 under both. A function that
needs an entry that was not measured raises, and names it.

  https://arxiv.org/abs/1706.08840  Lopez-Paz and Ranzato 2017 (GEM)
  https://arxiv.org/abs/1801.10112  Chaudhry et al. 2018 (RWalk)
  https://arxiv.org/abs/1810.11910  Riemer et al. 2019 (MER)
  https://arxiv.org/abs/1810.13166  Diaz-Rodriguez et al. 2018
  https://arxiv.org/abs/2104.00405  Lomonaco et al. 2021 (Avalanche)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mtl_jax.evaluation import sparse


class Definition(NamedTuple):
  """A published metric: `function` of the inputs that `needs` names."""
  title: str
  citation: str
  function: Callable[..., float]
  needs: tuple[str, ...] = ('matrix',)


def average_accuracy(matrix) -> float:
  """Mean accuracy over all tasks at the end (GEM, eq. 2, ACC).

  >>> round(average_accuracy([[.8, .1], [.6, .9]]), 4)  # (.6 + .9) / 2
  0.75
  """
  r = _square(matrix)
  last = _size(r) - 1
  return float(np.mean(_entries(r, last, np.arange(last + 1))))


def learning_accuracy(matrix) -> float:
  """Mean accuracy of a task right after learning it (Riemer et al. 2019, LA).

  >>> round(learning_accuracy([[.8, None], [.6, .9]]), 4)  # (.8 + .9) / 2
  0.85
  """
  r = _square(matrix)
  return float(np.mean(_entries(r, *_diagonal(_size(r)))))


def backward_transfer(matrix) -> float:
  """What later tasks did to earlier ones (GEM, eq. 3, BWT).

  The mean over the first T-1 tasks of R[T-1, j] - R[j, j].

  >>> round(backward_transfer([[.8, None], [.6, .9]]), 4)  # .6 - .8
  -0.2
  """
  return 0. - stream_forgetting(matrix)  # 0, not -0


def forward_transfer(matrix, before) -> float:
  """What earlier tasks did for a task not yet learned (GEM, eq. 4, FWT).

  The mean over the last T-1 tasks of R[j-1, j] - b[j].

  >>> round(forward_transfer([[.8, .3], [.6, .9]], [.1, .1]), 4)  # .3 - .1
  0.2
  """
  r = _square(matrix, at_least=2)
  b = _baseline(before, _size(r))
  missing = 1 + np.flatnonzero(np.isnan(b[1:]))
  if missing.size:
    raise ValueError(f'before was not measured for task {missing[0]}')
  ahead = _entries(r, np.arange(_size(r) - 1), np.arange(1, _size(r)))
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
  r = _square(matrix, at_least=2)
  last = _size(r) - 1
  rows, columns = _triangle(r, last)
  earlier = np.full((last, last), -np.inf)
  earlier[rows, columns] = _entries(r, rows, columns)
  final = _entries(r, last, np.arange(last))
  return float(np.mean(earlier.max(0) - final))


def intransigence(matrix, joint: float) -> float:
  """Inability to learn the last task (Chaudhry et al. 2018, I at k = T).

  `joint` is the accuracy on the last task of a reference model of the same
  architecture trained on the data of all T tasks together.

  >>> round(intransigence([[.8, None], [.6, .9]], joint=.95), 4)  # .95 - .9
  0.05
  """
  r = _square(matrix)
  if not np.isfinite(joint):
    raise ValueError(f'joint is {joint}; it must be a measured accuracy')
  last = _size(r) - 1
  return float(joint - _entries(r, last, last))


def triangular_accuracy(matrix) -> float:
  """Mean accuracy over R's lower triangle (Diaz-Rodriguez et al. 2018, A).

  Counts every task learned so far after every task, diagonal included.

  >>> round(triangular_accuracy([[.8, None], [.6, .9]]), 4)  # 2.3 / 3
  0.7667
  """
  r = _square(matrix)
  return float(np.mean(_entries(r, *_triangle(r, _size(r)))))


def triangular_backward_transfer(matrix) -> float:
  """Mean of R[i, j] - R[j, j] over all i > j (Diaz-Rodriguez 2018, BWT).

  >>> m = [[.8, None, None], [.9, .7, None], [.6, .5, .9]]
  >>> round(triangular_backward_transfer(m), 4)  # (.1 - .2 - .2) / 3
  -0.1
  """
  r = _square(matrix, at_least=2)
  rows, columns = _triangle(r, _size(r), -1)
  learned = _entries(r, columns, columns)
  return float(np.mean(_entries(r, rows, columns) - learned))


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
  r = _square(matrix, at_least=2)
  columns, rows = _triangle(r, _size(r), -1, upper=True)
  return float(np.mean(_entries(r, rows, columns)))


def experience_forgetting(matrix) -> np.ndarray:
  """R[j, j] - R[T-1, j] for each of the first T-1 tasks (as in Avalanche).

  >>> m = [[.8, None, None], [.9, .7, None], [.6, .5, .9]]
  >>> experience_forgetting(m).round(4)  # .8 - .6 and .7 - .5
  array([0.2, 0.2])
  """
  r = _square(matrix, at_least=2)
  last = _size(r) - 1
  learned = _entries(r, *_diagonal(last))
  return learned - _entries(r, last, np.arange(last))


def stream_forgetting(matrix) -> float:
  """The mean of `experience_forgetting` (Avalanche's StreamForgetting).

  >>> m = [[.8, None, None], [.9, .7, None], [.6, .5, .9]]
  >>> round(stream_forgetting(m), 4)
  0.2
  """
  return float(np.mean(experience_forgetting(matrix)))


_GEM = 'Lopez-Paz & Ranzato 2017 (GEM), arXiv:1706.08840'
_RWALK = 'Chaudhry et al. 2018 (RWalk), arXiv:1801.10112'
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
    'triangular_accuracy': Definition(
        'Accuracy over time', f'{_DIAZ} (A)', triangular_accuracy),
    'triangular_backward_transfer': Definition(
        'Backward transfer over time', f'{_DIAZ} (BWT)',
        triangular_backward_transfer),
    'remembering': Definition('Remembering', f'{_DIAZ} (REM)', remembering),
    'triangular_forward_transfer': Definition(
        'Accuracy on tasks not yet learned', f'{_DIAZ} (FWT)',
        triangular_forward_transfer),
}


def summarise(matrix, before=None) -> list[dict]:
  """Every metric of `DEFINITIONS` whose inputs were measured, in its order.

  Takes the accuracy matrix [T, T] and, if measured, the accuracies [T] before
  learning; returns rows {'name', 'title', 'citation', 'value'} for JSON.

  >>> [row['name'] for row in summarise([[.9]])]
  ['average_accuracy', 'learning_accuracy', 'triangular_accuracy']
  """
  r = _square(matrix)  # a malformed matrix raises
  b = None if before is None else _baseline(before, _size(r))
  inputs = {'matrix': r, 'before': b}
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
  array = np.asarray(values, float)
  if array.ndim != 1 or not array.size:
    raise ValueError(f'need at least one value, got shape {array.shape}')
  std = float(np.std(array, ddof=1)) if len(array) > 1 else None
  return float(np.mean(array)), std


def _square(matrix, at_least: int = 1) -> np.ndarray | sparse.Sparse:
  """The matrix as floats [T, T], T >= at_least; else raises ValueError."""
  r: np.ndarray | sparse.Sparse
  if isinstance(matrix, sparse.Sparse):
    _fractions(matrix.values)
    r = matrix
  else:
    dense = np.asarray(matrix, float)
    if dense.ndim != 2 or dense.shape[0] != dense.shape[1] or not dense.size:
      raise ValueError(f'the accuracy matrix must be [T, T], got {dense.shape}')
    r = _fractions(dense)
  if _size(r) < at_least:
    raise ValueError(
        f'undefined for {_size(r)} task: it compares a task with what was '
        f'learned before or after it, so it needs at least {at_least}')
  return r


def _size(r: np.ndarray | sparse.Sparse) -> int:
  return r.size if isinstance(r, sparse.Sparse) else len(r)


def _diagonal(size: int) -> tuple[np.ndarray, np.ndarray]:
  return np.arange(size), np.arange(size)


def _triangle(r, size: int, offset: int = 0,
              upper: bool = False) -> tuple[np.ndarray, np.ndarray]:
  """Rows and columns of a lower triangle; its transpose is looked up, if
  `upper`. One that can't have been measured whole is refused at once: T^2
  places are then never made.
  """
  if isinstance(r, sparse.Sparse):
    needed = (size + offset) * (size + offset + 1) // 2
    if len(r.values) < needed:
      for i in range(size):
        columns = np.arange(max(0, i + offset + 1))
        _entries(r, columns, i) if upper else _entries(r, i, columns)
  return np.tril_indices(size, offset)


def _fractions(values: np.ndarray) -> np.ndarray:
  if np.any((values < -1e-6) | (values > 1 + 1e-6)):
    raise ValueError('accuracies must lie in [0, 1]; got '
                     f'{np.nanmin(values):g} to {np.nanmax(values):g}. Divide '
                     'percentages by 100')
  return values


def _baseline(before, size: int) -> np.ndarray:
  b = np.asarray(before, float)
  if b.shape != (size,):
    raise ValueError(f'before has shape {b.shape}; expected ({size},)')
  return _fractions(b)


def _entries(r, rows, columns) -> np.ndarray:
  """R at some places; raises ValueError naming the unmeasured ones."""
  rows, columns = np.broadcast_arrays(rows, columns)
  values = (r.at(rows, columns) if isinstance(r, sparse.Sparse)
            else r[rows, columns])
  missing = np.flatnonzero(np.isnan(values))
  if missing.size:
    named = ', '.join(f'({np.ravel(rows)[n]}, {np.ravel(columns)[n]})'
                      for n in missing[:5])
    more = f' and {missing.size - 5} more' if missing.size > 5 else ''
    raise ValueError(
        f'needs accuracy R[i, j] (on task j after learning task i) that was '
        f'not measured: (i, j) = {named}{more}')
  return values
