"""Times the gradient of a convolution's kernel inside a scan on a CPU.

    python experiments/benchmarks/kernel_gradient.py \
        --out=experiments/benchmarks/results/kernel_gradient.jsonl

`models.convolution` sums it over blocks of images. Here are blocks of several
sizes, the size that it takes, and the convolution itself for comparison.
"""

import argparse
import os
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import timing
from mtl_jax.models import convolution

# Images, side, channels, outputs, window, stride.
SHAPES = {
    'GEM ResNet-18, stem': (128, 32, 3, 20, 3, 1),
    'GEM ResNet-18, stage 1': (128, 32, 20, 20, 3, 1),
    'GEM ResNet-18, to stage 2': (128, 32, 20, 40, 3, 2),
    'GEM ResNet-18, stage 2': (128, 16, 40, 40, 3, 1),
    'GEM ResNet-18, stage 3': (128, 8, 80, 80, 3, 1),
    'GEM ResNet-18, stage 4': (128, 4, 160, 160, 3, 1),
    'E2, first': (128, 28, 1, 32, 3, 1),
    'E2, second': (128, 28, 32, 32, 3, 1),
    'E2, third': (128, 27, 64, 64, 3, 1),
    'LeNet-5, second': (128, 14, 32, 64, 5, 1),
    'PaRT at 1/8 of the width': (16, 32, 8, 8, 3, 1)}
BLOCKS = (4, 8, 16, 32)
TAKEN, FORWARD = 'taken', 'the convolution'


def arrays(shape, count: int):
  """`count` pairs of images and output gradients, stride and padding."""
  images, side, channels, outputs, window, stride = shape
  padding = (((window - 1) // 2, window // 2),) * 2
  out = (side - 1) // stride + 1
  random = np.random.RandomState(0)
  draw = lambda *shape: jnp.asarray(random.standard_normal((count, *shape)),
                                    jnp.float32)
  return (draw(images, side, side, channels), draw(images, out, out, outputs),
          (stride, stride), padding)


def make_run(shape, count: int, images: int | None):
  """A function that makes `count` gradients, in blocks of so many images.

  `None` leaves the size to `models.convolution`.
  """
  x, dy, strides, padding = arrays(shape, count)
  kernel = (shape[4], shape[4], *shape[2:4])

  @jax.jit
  def run(batches):
    def body(_, batch):
      found = convolution.kernel_gradient(strides, padding, batch[0], kernel,
                                          batch[1])
      return lax.optimization_barrier(found), None
    return lax.scan(body, jnp.zeros(kernel), batches)[0]
  if images is not None:
    with mock.patch.object(convolution, 'images_of_a_block',
                           lambda *_: images):
      run((x, dy))
  return lambda: jax.block_until_ready(run((x, dy)))


def make_forward(shape, count: int):
  """The same number of convolutions."""
  x, dy, strides, padding = arrays(shape, count)
  kernel = jnp.ones((shape[4], shape[4], *shape[2:4]), jnp.float32)

  @jax.jit
  def run(images):
    def body(_, x):
      return lax.optimization_barrier(
          convolution.convolve(x, kernel, strides, padding)), None
    return lax.scan(body, jnp.zeros(dy.shape[1:]), images)[0]
  return lambda: jax.block_until_ready(run(x))


def measure(name: str, shape, rounds: int, count: int = 4) -> list[dict]:
  """One dict per size of a block, and one for the convolution."""
  sizes = {str(size): size for size in BLOCKS if size < shape[0]}
  sizes |= {'all': shape[0], TAKEN: None}
  cases = [timing.Case(what, make_run(shape, count, size), count)
           for what, size in sizes.items()]
  cases.append(timing.Case(FORWARD, make_forward(shape, count), count))
  before = os.getloadavg()[0]
  times, work = timing.interleave_clocks(cases, rounds)
  x, dy, _, _ = arrays(shape, 1)
  return [row | {'group': name, 'shape': shape,
                 'images': convolution.images_of_a_block(x.shape[1:],
                                                         dy.shape[1:]),
                 'core_ms_median': float(np.median(work[row['name']])),
                 'load': [before, os.getloadavg()[0]]}
          for row in timing.summarise(cases, times)]


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--out', type=pathlib.Path, help='JSON lines; replaced')
  parser.add_argument('--rounds', type=int, default=7)
  given = parser.parse_args()
  lines = []
  for name, shape in SHAPES.items():
    lines += measure(name, shape, given.rounds)
    for line in lines:
      if line['group'] == name:
        print(f'{name:28} {line["name"]:16} {line["ms_median"]:8.1f} ms; of '
              f'cores {line["core_ms_median"]:8.1f} ms', flush=True)
  if given.out:
    timing.write(given.out, lines, timing.origin())


if __name__ == '__main__':
  main()
