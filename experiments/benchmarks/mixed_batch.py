"""Times a batch of many tasks in one call against a call for each task.

    python experiments/benchmarks/mixed_batch.py \
        --out=experiments/benchmarks/results/mixed_batch.jsonl

512 rows, LeNet-300-100, supermasks of density 0.5 and a permutation for each
task; 1 to 128 tasks in the batch. Takes about two minutes. See README.md.
"""

import argparse
import functools
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

import timing
from mtl_jax import impressions
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import checkpoint
from mtl_jax.storage import workdir as workdir_lib

SHAPE = (28, 28, 1)
TARGET_AT, TARGET = 64, 5.
RECIPE = {'model': 'lenet_300_100', 'outputs': 10, 'options': {},
          'init': 'signed_constant', 'seed': 0, 'image_shape': SHAPE}


def make_system(folder, tasks: int) -> system_lib.System:
  """A system of tasks with random masks, stored as a run stores them."""
  system = system_lib.System(workdir_lib.Workdir(folder),
                             backbone_lib.make(RECIPE))
  system.workdir.prepare()
  rng = np.random.RandomState(0)
  for i in range(tasks):
    bits = jax.tree.map(lambda w: rng.randint(
        0, 256, -(-w.size // 8)).astype(np.uint8), system.backbone.params)
    arrays = trees.flatten({'masks': bits, 'probe': np.zeros(1)})
    chosen = (transforms.permute(i), transforms.normalise(0.1307, 0.3081))
    checkpoint.save(system.workdir.task(f'task-{i:03d}'), arrays, {
        'backbone': system.backbone.recipe['fingerprint'],
        'transforms': transforms.to_json(chosen), 'source_shape': SHAPE,
        'classes': 10, 'method': {'name': 'supsup', 'options': {}}})
  # `predict` must not read a task again because others came between.
  system.task = functools.lru_cache(maxsize=None)(system.task)
  return system


@functools.partial(jax.jit, static_argnums=(0, 1))
def dense(network: models.Network, kinds, params, parameters, images):
  """A dense network for each task: its own float weights and transform."""
  x = pipeline.apply(kinds, parameters, images)
  return network.apply(params, {}, x)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def dense_at_once(network: models.Network, kinds, params, parameters, images):
  """`dense` for all tasks, with leading axes [tasks]."""
  one = functools.partial(dense, network, kinds)
  return jax.vmap(one)(params, parameters, images)


def cases(system: system_lib.System, tasks: int,
          rows: int) -> tuple[list[timing.Case], dict[str, int]]:
  """The rivals on one batch, and the bytes that a task keeps in memory.

  Only `predict_mixed` gets the rows as they come; for the others they are
  sorted and cut beforehand.
  """
  rng = np.random.RandomState(tasks)
  names = [f'task-{i:03d}' for i in range(tasks)]
  of_row = rng.permutation(np.arange(rows) % tasks)
  mixed_names = [names[i] for i in of_row]
  x = rng.randint(0, 256, (rows, *SHAPE)).astype(np.uint8)
  images = [x[of_row == i] for i in range(tasks)]
  stored = [system.task(name) for name in names]
  kinds = transforms.kinds(stored[0].transforms)
  params = [impressions.materialise(system.backbone.params, s.impression)
            for s in stored]
  stack = lambda trees_: jax.tree.map(lambda *leaves: jnp.stack(leaves),
                                      *trees_)
  parameters = [jax.tree.map(jnp.asarray, s.parameters) for s in stored]
  together, arrays = stack(params), stack(parameters)
  call = functools.partial(dense, system.backbone.network, kinds)
  at_once = functools.partial(dense_at_once, system.backbone.network, kinds)
  every_image = np.stack(images)
  wait, name = jax.block_until_ready, 'predict_mixed'
  target = TARGET if tasks == TARGET_AT else None
  found = [
      timing.Case(name, lambda: wait(system.predict_mixed(x, mixed_names)), 1),
      timing.Case('predict, call by call', lambda: wait(
          [system.predict(*a) for a in zip(images, names)]), 1, name, target,
          True),
      timing.Case('dense, call by call', lambda: wait(
          [call(*a) for a in zip(params, parameters, images)]), 1, name, None,
          True),
      timing.Case('dense, vmapped', lambda: wait(
          at_once(together, arrays, every_image)), 1, name, None, True)]
  floats = trees.nbytes(system.backbone.params)
  unpacked = trees.nbytes(stored[0].impression)
  system.predict_mixed(x, mixed_names)
  shelf, = system.shelves.of_shape(SHAPE)
  packed = trees.nbytes(shelf.stack.impression) // shelf.capacity
  return found, {found[0].name: packed, found[1].name: unpacked,
                 found[2].name: floats, found[3].name: floats}


def measure(system: system_lib.System, counts, rows: int,
            rounds: int) -> list[dict]:
  """One dict for each number of tasks and rival."""
  lines = []
  for tasks in counts:
    members, sizes = cases(system, tasks, rows)
    before = os.getloadavg()[0]
    times = timing.interleave(members, rounds)
    for row in timing.summarise(members, times):
      lines.append(dict(row, tasks=tasks, rows=rows,
                        bytes_per_task=sizes[row['name']],
                        load=[before, os.getloadavg()[0]]))
      print(f'{tasks:4d} tasks  {row["name"]:22s} {row["ms_median"]:8.2f} ms '
            + (f'{row["ratio"]:6.2f}x' if 'ratio' in row else ''), flush=True)
  return lines


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--out', type=pathlib.Path, help='JSON lines; replaced')
  parser.add_argument('--rounds', type=int, default=21)
  options = parser.parse_args()
  counts = [2 ** i for i in range(8)]
  with tempfile.TemporaryDirectory(prefix='mtl_jax-mixed-') as folder:
    system = make_system(folder, counts[-1])
    lines = measure(system, counts, 512, options.rounds)
  if options.out:
    timing.write(options.out, lines)


if __name__ == '__main__':
  main()
