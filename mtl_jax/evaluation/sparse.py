"""An accuracy matrix of which few entries were measured.

If T tasks are learned one at a time, 3 T of the T^2 entries are known: each
task's accuracy before and after it was learned, and at the end.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Sparse(NamedTuple):
  """Measured entries of a matrix [size, size]; the others count as NaN.

  Attributes:
    size: number of tasks.
    places: int64 [n], row x size + column, ascending.
    values: float64 [n].
  """
  size: int
  places: np.ndarray
  values: np.ndarray

  def at(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The entries at the given places; NaN if not measured.

    >>> of_entries(3, {(0, 0): .5, (2, 1): .25}).at([0, 1, 2], [0, 0, 1])
    array([0.5 ,  nan, 0.25])
    """
    wanted = np.asarray(rows, np.int64) * self.size + np.asarray(columns)
    found = np.searchsorted(self.places, wanted)
    inside = np.minimum(found, max(len(self.places) - 1, 0))
    if not len(self.places):
      return np.full(wanted.shape, np.nan)
    return np.where(self.places[inside] == wanted, self.values[inside], np.nan)

  def dense(self) -> np.ndarray:
    """The whole matrix, float64 [size, size]."""
    matrix = np.full(self.size * self.size, np.nan)
    matrix[self.places] = self.values
    return matrix.reshape(self.size, self.size)


def of_entries(size: int, entries: Mapping[tuple[int, int], float]) -> Sparse:
  """A matrix [size, size] from its entries by (row, column)."""
  places = np.array([i * size + j for i, j in entries], np.int64)
  values = np.array(list(entries.values()), float)
  order = np.argsort(places, kind='stable')
  return Sparse(size, places[order], values[order])
