"""The checked entries of an accuracy matrix, from which metrics are computed.

The matrix is an array [T, T] or a `Sparse` that holds only the measured
entries; entries that were not measured are NaN (or `None`).
"""

from typing import Any

import numpy as np

from mtl_jax import messages
from mtl_jax.evaluation import sparse


def floats(given: Any, what: str) -> np.ndarray:
  """Numbers as float64; `None` and masked entries become NaN.

  Raises:
    ValueError: there are texts, dates or other things among them, or rows of
      several lengths; gives the name and the value.

  >>> floats([1, None], 'joint')
  array([ 1., nan])
  """
  try:
    if isinstance(given, np.ma.MaskedArray):
      given = np.ma.filled(given.astype(float), np.nan)
    raw = np.asarray(given)
    if raw.dtype.kind in 'SUTcMm' or raw.dtype == object and any(
        isinstance(one, (str, bytes)) for one in raw.flat):
      raise TypeError  # NumPy would read a text, and drop imaginary parts
    return np.asarray(raw, float)
  except (TypeError, ValueError, OverflowError) as error:
    raise ValueError(
        f'{what} is {messages.shown(given)}; give real numbers in rows of one '
        'length, None where nothing was measured') from error


def square(matrix, at_least: int = 1) -> np.ndarray | sparse.Sparse:
  """The matrix as floats [T, T], T >= at_least; else raises ValueError."""
  r: np.ndarray | sparse.Sparse
  if isinstance(matrix, sparse.Sparse):
    fractions(matrix.values)
    r = matrix
  else:
    dense = floats(matrix, 'the accuracy matrix')
    if dense.ndim != 2 or dense.shape[0] != dense.shape[1] or not dense.size:
      raise ValueError(f'the accuracy matrix must be [T, T], got {dense.shape}')
    r = fractions(dense)
  if count(r) < at_least:
    raise ValueError(
        f'undefined for {count(r)} task: it compares a task with what was '
        f'learned before or after it, so it needs at least {at_least}')
  return r


def count(r: np.ndarray | sparse.Sparse) -> int:
  """The number of tasks."""
  return r.size if isinstance(r, sparse.Sparse) else len(r)


def diagonal(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Rows and columns of the first `size` entries of the diagonal."""
  return np.arange(size), np.arange(size)


def triangle(r, size: int, offset: int = 0,
             upper: bool = False) -> tuple[np.ndarray, np.ndarray]:
  """Rows and columns of a lower triangle; if `upper`, of its transpose.

  A `Sparse` without enough entries is refused first: T^2 indices are then
  never made.
  """
  if isinstance(r, sparse.Sparse):
    needed = (size + offset) * (size + offset + 1) // 2
    if len(r.values) < needed:
      for i in range(size):
        columns = np.arange(max(0, i + offset + 1))
        at(r, columns, i) if upper else at(r, i, columns)
  return np.tril_indices(size, offset)


def fractions(values: np.ndarray) -> np.ndarray:
  """The values; raises ValueError if they are not fractions."""
  if np.any((values < -1e-6) | (values > 1 + 1e-6)):
    raise ValueError('accuracies must lie in [0, 1]; got '
                     f'{np.nanmin(values):g} to {np.nanmax(values):g}. Divide '
                     'percentages by 100')
  return values


def baseline(before, size: int) -> np.ndarray:
  """The accuracies before learning, float64 [size]; else raises ValueError."""
  b = floats(before, 'before')
  if b.shape != (size,):
    raise ValueError(f'before has shape {b.shape}; expected ({size},)')
  return fractions(b)


def at(r, rows, columns) -> np.ndarray:
  """Entries of R; raises ValueError with the names of unmeasured ones."""
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
