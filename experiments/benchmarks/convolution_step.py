"""Times a training step of a convolutional network on a CPU.

    python experiments/benchmarks/convolution_step.py \
        --out=experiments/benchmarks/results/convolution_step.jsonl

E2's network of arXiv 2207.08821 (32-32-64-64, pools of stride 1, 256-256), a
dense step with Adam inside a scan, with `models.convolution` and
`models.pooling`, and with the gradients that XLA derives for either of them.
"""

import argparse
import contextlib
import functools
import os
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax

import timing
from mtl_jax import methods
from mtl_jax import models
from mtl_jax.models import convolution
from mtl_jax.models import pooling
from mtl_jax.steps import single

CONVOLUTION = mock.patch.object(
    convolution, 'convolve', functools.partial(
        lax.conv_general_dilated, dimension_numbers=convolution.LAYOUT))
POOL = mock.patch.object(
    pooling, 'max_pool', lambda x, window=2, stride=2: nn.max_pool(
        x, (window, window), (stride, stride)))
OURS = 'our gradients'
FORMS = {OURS: (), "XLA's gradient of the pools": (POOL,),
         "XLA's gradients of the convolutions": (CONVOLUTION,),
         "XLA's gradients of both": (CONVOLUTION, POOL)}


def make_run(form: str, channels, batch: int, count: int):
  """A function that does `count` steps from one state; returns the losses."""
  network = models.make('convolutional', 10, channels=channels, scale=.05)
  params, _ = network.init(jax.random.key(0), (28, 28, 1))
  random = np.random.RandomState(0)
  images = jnp.asarray(random.rand(count, batch, 28, 28, 1), jnp.float32)
  labels = jnp.asarray(random.randint(0, 10, (count, batch)))
  method, optimizer = methods.make('dedicated'), optax.adam(1e-3)
  route = methods.Route(10)
  step = single.make_step(method, network, optimizer)

  @jax.jit
  def run(state, batches):
    return lax.scan(lambda s, b: step(route, params, {}, s, b), state, batches)

  state = single.init_state(method, optimizer, jax.random.key(0), params, {},
                           {}, route)

  def timed():
    with contextlib.ExitStack() as stack:  # what counts is the first call
      for patch in FORMS[form]:
        stack.enter_context(patch)
      return jax.block_until_ready(run(state, (images, labels))[1].loss)
  return timed


def measure(channels, batch: int, count: int, rounds: int) -> list[dict]:
  """One dict per form."""
  before = os.getloadavg()[0]
  cases = [timing.Case(form, make_run(form, channels, batch, count), count,
                       '' if form == OURS else OURS) for form in FORMS]
  times = timing.interleave(cases, rounds)
  return [row | {'group': f'{"-".join(map(str, channels))} channels, batch '
                 f'{batch}, {jax.default_backend()}',
                 'load': [before, os.getloadavg()[0]]}
          for row in timing.summarise(cases, times)]


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--out', type=pathlib.Path, help='JSON lines; replaced')
  parser.add_argument('--channels', type=int, nargs='+', default=[32, 64])
  parser.add_argument('--batch', type=int, default=64)
  parser.add_argument('--steps', type=int, default=2)
  parser.add_argument('--rounds', type=int, default=3)
  given = parser.parse_args()
  lines = measure(tuple(given.channels), given.batch, given.steps,
                  given.rounds)
  if given.out:
    timing.write(given.out, lines)
  for line in lines:
    print(f'{line["name"]:36} {line["ms_median"]:9.1f} ms '
          f'{line.get("ratio", 1):6.2f}x')


if __name__ == '__main__':
  main()
