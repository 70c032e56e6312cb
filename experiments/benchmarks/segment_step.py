"""Times a step on parallel modules, in both forms, and a step in rounds.

    python experiments/benchmarks/segment_step.py \
        --out=experiments/benchmarks/results/segment_step.jsonl

PaRT's nine levels, N modules on a path, Adam 1e-3, random images 32x32x1. See
README.md for what each row is; `models.segments` chooses its form by this.
"""

import argparse
import functools
import math
import os
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import timing
from mtl_jax import methods
from mtl_jax import models
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.models import convolution
from mtl_jax.steps import optimizers
from mtl_jax.steps import rounds
from mtl_jax.steps import single

SHAPE = (32, 32, 1)
SPEC = (transforms.normalise(.5, .25),)
TASKS, MODULES = 4, 8
FORMS = ('loop', 'blocks', 'fused')
RECIPE = optimizers.Recipe(steps=1000, batch_size=16, optimizer='adam',
                           learning_rate=1e-3)


def ready(count: int, batch: int):
  """Float batches [count, batch, ...] and labels [count, batch]."""
  random = np.random.RandomState(0)
  return (random.rand(count, batch, *SHAPE).astype(np.float32),
          random.randint(0, 10, (count, batch)).astype(np.int32))


def network(form: str, modules: int, active: int, width: int):
  return models.make('part_cifar', 10, heads=(10,) * TASKS, modules=modules,
                     active=active, width=width, form=form)


def own_step(form: str, active: int, width: int, count: int, batch: int):
  """Steps of one network with `active` modules on each level, all its own."""
  own = network(form, active, active, width)
  params, stats = own.init(jax.random.key(0), SHAPE)
  params['head'] = params['head']['task00']
  optimizer = optax.adam(1e-3)
  images, labels = ready(count, batch)

  @jax.jit
  def run(params, stats, images, labels):
    def body(carry, now):
      params, stats, state = carry

      def loss(params):
        logits, new = own.apply(params, stats, now[0], train=True)
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, now[1]).mean(), new
      (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
      updates, state = optimizer.update(gradient, state)
      return (optax.apply_updates(params, updates), stats, state), value
    return jax.lax.scan(body, (params, stats, optimizer.init(params)),
                        (images, labels))
  return lambda: jax.block_until_ready(run(params, stats, images, labels))


def round_step(form: str, active: int, width: int, count: int, batch: int,
               moments: str = 'own'):
  """Steps of four tasks that take turns on eight modules a level."""
  own = network(form, MODULES, active, width)
  method = methods.make('part', active=active)
  params, stats = own.init(jax.random.key(0), SHAPE)
  optimizer, rate = rounds.make_optimizer(RECIPE)
  routes = tuple(methods.Route(10, transforms.kinds(SPEC),
                               loss='classes', member=k) for k in range(TASKS))
  keys = jnp.stack([jax.random.key(k) for k in range(TASKS)])
  state = rounds.init_state(method, optimizer, moments, keys, params, {},
                            stats, routes)
  tasks = rounds.stack_tasks([single.TaskArrays(
      pipeline.parameters(SPEC, SHAPE), np.arange(10, dtype=np.int32))
      for _ in range(TASKS)], [10] * TASKS)
  random = np.random.RandomState(0)
  source = single.Source(
      random.randint(0, 256, (1000, *SHAPE)).astype(np.uint8),
      random.randint(0, 10, 1000).astype(np.int32))
  order = rounds.sequence((0,), [-(-count // TASKS)] * TASKS, 10)[:count]
  index = random.randint(0, 1000, (count, batch)).astype(np.int32)
  chunk = jax.jit(functools.partial(rounds.make_chunk(rounds.make_step(
      method, own, optimizer, rate, moments), method), routes[0], {}, {}))
  return lambda: jax.block_until_ready(
      chunk(source, tasks, state, (order, index)))


def with_lax_gradients(run):
  """`run`, not called yet, with `lax`'s own gradients of convolutions."""
  plain = functools.partial(lax.conv_general_dilated,
                            dimension_numbers=convolution.LAYOUT)
  with mock.patch.object(convolution, 'convolve', plain):
    run()
  return run


def cases(active: int, width: int, count: int, batch: int) -> list:
  """All rows; the ordinary network has as many multiply-adds as a path."""
  steps_of = functools.partial(own_step, count=count, batch=batch)
  ordinary = 'ordinary network'
  found = [timing.Case(ordinary, steps_of('loop', 1, round(
      width * math.sqrt(active))), count)]
  for form in FORMS:
    found.append(timing.Case(f'path, {form}', steps_of(form, active, width),
                             count, ordinary, 1.3))
  if jax.default_backend() == 'cpu':  # elsewhere they are lax's anyway
    found.append(timing.Case(
        "path, loop, lax's gradients",
        with_lax_gradients(steps_of('loop', active, width)), count,
        'path, loop'))
  for form in FORMS:
    found.append(timing.Case(
        f'in rounds, {form}', round_step(form, active, width, count, batch),
        count, f'path, {form}', 1.1))
  return found


def measure(active: int, width: int, count: int, batch: int,
            repeats: int) -> list[dict]:
  """One dict per row."""
  before = os.getloadavg()[0]
  members = cases(active, width, count, batch)
  times = timing.interleave(members, repeats)
  lines = []
  for row in timing.summarise(members, times):
    lines.append(dict(row, active=active, width=width, batch=batch,
                      group=f'N = {active}, width {width}, batch {batch}, '
                      f'{jax.default_backend()}',
                      load=[before, os.getloadavg()[0]]))
    print(f'{row["name"]:28s} {row["ms_median"]:9.2f} ms '
          + (f'{row["ratio"]:6.2f}x' if 'ratio' in row else ''), flush=True)
  return lines


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--out', type=pathlib.Path, help='JSON lines; replaced')
  parser.add_argument('--rounds', type=int, default=11)
  parser.add_argument('--active', type=int, default=4)
  parser.add_argument('--width', type=int, nargs='+', default=[4])
  parser.add_argument('--batch', type=int, default=16)
  parser.add_argument('--steps', type=int, default=5)
  options = parser.parse_args()
  lines = []
  for width in options.width:
    lines += measure(options.active, width, options.steps, options.batch,
                     options.rounds)
  if options.out:
    timing.write(options.out, lines)


if __name__ == '__main__':
  main()
