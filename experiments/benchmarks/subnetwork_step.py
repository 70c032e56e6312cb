"""Times T subnetworks of one weight tree against T separate dense networks.

    python experiments/benchmarks/subnetwork_step.py \
        --out=experiments/benchmarks/results/subnetwork_step.jsonl

784-6x1000-10 (E1 of arXiv 2207.08821), batch 512, Adam; density 1 / T, all T
tasks in one step, against T steps of a dedicated dense network on the same
batches. Memory is what the compiled programs hold beside their arguments.
"""

import argparse
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import timing
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.methods import allocation
from mtl_jax.methods import subnetworks
from mtl_jax.steps import joint as joint_lib
from mtl_jax.steps import single


def setup(tasks: int, batch: int, width: int):
  """(network, backbone, routes, batches, shared) of `tasks` random tasks."""
  network = models.make('fully_connected', 10, widths=(width,) * 6, scale=.05)
  backbone, _ = network.init(jax.random.key(0), (28, 28, 1))
  routes = tuple(methods.Route(10, member=i) for i in range(tasks))
  rng = np.random.RandomState(0)
  batches = tuple((jnp.asarray(rng.rand(batch, 28, 28, 1), jnp.float32),
                   jnp.asarray(rng.randint(0, 10, batch)))
                  for _ in range(tasks))
  like = subnetworks.parts(backbone, None)[1]
  owner = allocation.unowned(like)
  for number in range(1, tasks + 1):
    scores = trees.map_leaves(
        lambda w: None if w is None else rng.rand(*w.shape), like)
    owner = allocation.allocate(scores, owner, number, int(100 / tasks) / 100)
  return network, backbone, routes, batches, {
      'owner': jax.tree.map(jnp.asarray, owner), 'number': np.uint8(1)}


def together_run(network, backbone, routes, batches, shared):
  """(a function of no arguments that does one step; bytes of its temporaries).
  """
  method, optimizer = methods.make('subnetworks'), optax.adam(1e-3)
  state = jax.jit(lambda: joint_lib.init_state(
      method, optimizer, [jax.random.key(0)] * len(routes), backbone, shared,
      {}, routes))()
  step = jax.jit(functools.partial(
      joint_lib.make_step(method, network, optimizer), routes),
                 donate_argnums=2)
  held = [state]

  def run():
    held[0], metrics = step(backbone, shared, held[0], batches)
    jax.block_until_ready(metrics)
  return run, _temporaries(step, backbone, shared, state, batches)


def dedicated_run(network, backbone, routes, batches):
  """The same of one step of each of T dense networks, one after another."""
  method, optimizer = methods.make('dedicated'), optax.adam(1e-3)
  step = jax.jit(functools.partial(
      single.make_step(method, network, optimizer), routes[0]),
                 donate_argnums=2)
  held = [single.init_state(method, optimizer, jax.random.key(i),
                           jax.tree.map(jnp.copy, backbone), {}, {}, routes[0])
          for i in range(len(routes))]

  def run():
    for i, batch in enumerate(batches):
      held[i], metrics = step(backbone, {}, held[i], batch)
    jax.block_until_ready(metrics)
  return run, _temporaries(step, backbone, {}, held[0], batches[0])


def _temporaries(step, *arguments) -> int:
  return step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def measure(counts, batch: int, width: int, rounds: int) -> list[dict]:
  lines = []
  for tasks in counts:
    made = setup(tasks, batch, width)
    parallel, own_bytes = together_run(*made)
    dense, dense_bytes = dedicated_run(*made[:4])
    name = f'{tasks} tasks'
    cases = [timing.Case(f'{name}: a dense step each', dense, 1),
             timing.Case(f'{name}: one step of subnetworks', parallel, 1,
                         f'{name}: a dense step each', 1.2)]
    before = os.getloadavg()[0]
    times = timing.interleave(cases, rounds)
    weights = trees.nbytes(made[1])
    for line, temporaries, copies in zip(
        timing.summarise(cases, times), (dense_bytes, own_bytes),
        (3 * tasks, 3)):
      lines.append(line | {
          'group': name, 'load': [before, os.getloadavg()[0]],
          'temporary_bytes': temporaries, 'state_bytes': copies * weights})
  return lines


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--tasks', type=int, nargs='+', default=[2, 4, 8])
  parser.add_argument('--batch', type=int, default=512)
  parser.add_argument('--width', type=int, default=1000)
  parser.add_argument('--rounds', type=int, default=7)
  given = parser.parse_args()
  lines = measure(given.tasks, given.batch, given.width, given.rounds)
  timing.write(given.out, lines)
  for line in lines:
    print(f'{line["name"]:40} {line["ms_median"]:9.1f} ms '
          f'{line.get("ratio", 1):5.2f}x '
          f'{line["temporary_bytes"] / 1e6:8.1f} MB beside '
          f'{line["state_bytes"] / 1e6:.1f}')


if __name__ == '__main__':
  main()
