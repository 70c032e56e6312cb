"""CIFAR's configs without CIFAR: images of the same shapes, drawn here.

    python experiments/part/stand_in.py --config=configs/part_cifar100.py \
        --workdir=DIR --config.backbone.options.width=8 \
        --config.phases.part.epochs=1 --config.transparency=0

Every class has a pattern of 4 x 4 coloured fields. An image is its pattern,
shifted, with noise. Flags are those of `mtl_jax.main`. The run measures time
and bytes. Its accuracies show that the network learns; they say nothing about
CIFAR.
"""

import functools

import jax
import numpy as np
from absl import app
from absl import flags

from mtl_jax import main
from mtl_jax.data import sources

IMAGES = (50_000, 10_000)  # of CIFAR's train and test splits


def make(name: str, classes: int, counts=IMAGES) -> sources.Source:
  """A source with the name and the sizes of cifar10 or cifar100.

  A suite looks up images and normalisation by that name. The version, which a
  run records, says that the images are drawn.
  """
  random = np.random.RandomState(classes)
  fields = random.randint(0, 256, (classes, 4, 4, 3))
  patterns = fields.repeat(8, 1).repeat(8, 2)

  def split(count):
    labels = random.permutation(np.arange(count) % classes)
    shift = random.randint(-4, 5, (count, 2))
    rows = (np.arange(32) + shift[:, :1]) % 32
    columns = (np.arange(32) + shift[:, 1:]) % 32
    images = patterns[labels[:, None, None], rows[:, :, None],
                      columns[:, None, :]].astype(np.float32)
    for start in range(0, count, 1000):
      part = images[start:start + 1000]
      part += random.normal(0, 64, part.shape)
    return np.clip(images, 0, 255).astype(np.uint8), labels
  train, test = split(counts[0]), split(counts[1])
  return sources.from_arrays(name, *train, classes, test, version='drawn')


def register(counts=IMAGES) -> None:
  """Replaces cifar10 and cifar100 by drawn sources."""
  for classes in (10, 100):
    name = f'cifar{classes}'
    sources.register(name, functools.partial(make, name, classes, counts))


if __name__ == '__main__':
  register()
  jax.config.config_with_absl()
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main.main, flags_parser=main.parse)
