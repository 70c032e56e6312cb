"""Data: sources of images, and how one source becomes many tasks.

  sources     images and labels in memory, with fixed splits
  cache       decoded images on disk, so that a second start is immediate
  transforms  what a task does to an image
  pipeline    applies a task's transforms on the device
  suites      ordered lists of tasks, made from sources and transforms

No other part of mtl_jax uses TensorFlow Datasets. Importing this package
imports neither TensorFlow Datasets nor scikit-learn nor Pillow.
"""

from mtl_jax.data import cache
from mtl_jax.data import pipeline
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.data import transforms

__all__ = ['cache', 'pipeline', 'sources', 'suites', 'transforms']
