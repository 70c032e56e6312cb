"""Labels that VTAB derives from the content of an image.

From google-research/task_adaptation: counts of objects, and distances divided
into classes by thresholds. A maker takes one row of a prepared TFDS set.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_CYLINDER = 2  # CLEVR's shapes are cube, sphere, cylinder in TFDS's order
_LAST_VEHICLE = 2  # KITTI's types begin with car, van, truck
_NOTHING = 1000.  # metres, used if an image shows no vehicle


class Maker(NamedTuple):
  """A function that makes a label, and the number of classes."""
  make: Callable[[Any], int]
  classes: int


def above(value: float, thresholds) -> int:
  """The number of the last threshold that a value exceeds.

  >>> above(8.2, (0, 8, 8.5, 9))
  1
  """
  return int(np.flatnonzero(np.asarray(thresholds) < value)[-1])


def _clevr_distance(row):
  return above(np.min(row['objects']['pixel_coords'][:, 2]),
               (0., 8., 8.5, 9., 9.5, 10., 100.))


def _kitti_vehicles(row):
  return np.asarray(row['objects']['type']) <= _LAST_VEHICLE


def _kitti_vehicle_distance(row):
  depth = np.asarray(row['objects']['location'])[_kitti_vehicles(row), 2]
  return above(np.min(depth, initial=_NOTHING), (-100., 8., 20., 999.))


def _kitti_object_distance(row):
  return above(np.min(np.asarray(row['objects']['location'])[:, 2]),
               (-100., 5.6, 8.4, 13.4, 23.4))


MAKERS = {
    'clevr_count_all': Maker(
        lambda row: len(row['objects']['size']) - 3, 8),
    'clevr_count_cylinders': Maker(
        lambda row: int(np.sum(np.asarray(row['objects']['shape'])
                               == _CYLINDER)), 11),
    'clevr_distance': Maker(_clevr_distance, 6),
    'kitti_count_vehicles': Maker(
        lambda row: min(3, int(np.sum(_kitti_vehicles(row)))), 4),
    'kitti_vehicle_distance': Maker(_kitti_vehicle_distance, 4),
    'kitti_object_distance': Maker(_kitti_object_distance, 5),
}
