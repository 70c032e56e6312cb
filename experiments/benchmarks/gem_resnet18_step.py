"""Times edge-popup on GEM's ResNet-18 against PyTorch's.

    python experiments/benchmarks/gem_resnet18_step.py \
        --out=experiments/benchmarks/results/gem_resnet18_step.jsonl

SplitCIFAR-100's step: batch 128, top-k masks with Erdos-Renyi budgets (eps 16),
Adam 1e-3 with weight decay 1e-4, inside a scan. With `--devices=2`, JAX takes
the cores for two devices, and our chunk divides each batch between them. See
README.md.
"""

import argparse
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import timing
from mtl_jax import masks
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.steps import optimizers
from mtl_jax.steps import single

EPS, CLASSES = 16., 5
RECIPE = optimizers.Recipe(steps=1000, optimizer='adam', learning_rate=1e-3,
                           weight_decay=1e-4)
OURS, CHUNK = 'our step', 'our chunk (uint8, augmented)'
THREADS = 2
# Ours takes at most PyTorch's time.
RIVALS = {f'PyTorch {form}, {mode}': (form == 'channels-last',
                                      mode == 'torch.compile')
          for mode in ('eager', 'torch.compile')
          for form in ('nchw', 'channels-last')}


class Setup(NamedTuple):
  """What both libraries use.

  Attributes:
    network: pure functions of GEM's ResNet-18.
    method: edge-popup.
    backbone: signed constant weights.
    state: before the first step.
    images: float32 [steps, batch, 32, 32, 3], ready batches.
    labels: int32 [steps, batch].
  """
  network: models.Network
  method: methods.Method
  backbone: Any
  state: single.State
  images: Any
  labels: Any


def make_setup(count: int, batch: int = 128, width: int = 20,
               side: int = 32) -> Setup:
  """`count` batches of noise for a network of that width."""
  network = models.make('gem_resnet18', CLASSES, width=width)
  params, stats = network.init(jax.random.key(0), (side, side, 3))
  backbone = masks.signed_constant(jax.random.key(1), params)
  method = methods.make('supsup', sampler='top_k', eps=EPS)
  state = single.init_state(method, optimizers.make_optimizer(RECIPE),
                            jax.random.key(2), backbone, {}, stats,
                            methods.Route(CLASSES))
  random = np.random.RandomState(0)
  shape = (count, batch, side, side, 3)
  return Setup(network, method, backbone, state,
               jnp.asarray(random.standard_normal(shape), jnp.float32),
               jnp.asarray(random.randint(0, CLASSES, shape[:2]), jnp.int32))


def make_run(setup: Setup):
  """A function that does all steps from one state; returns the losses."""
  step = single.make_step(setup.method, setup.network,
                          optimizers.make_optimizer(RECIPE))
  route = methods.Route(CLASSES)

  @jax.jit
  def run(backbone, state, batches):
    body = lambda state, batch: step(route, backbone, {}, state, batch)
    return lax.scan(body, state, batches)

  return lambda: jax.block_until_ready(run(
      setup.backbone, setup.state, (setup.images, setup.labels))[1].loss)


def make_chunk_run(setup: Setup, source_size: int = 2500):
  """The library's chunk: uint8 rows gathered, cropped, flipped, normalised.

  Returns:
    run(), which goes on from where the last call ended.
  """
  pieces = (transforms.crop_flip(4), transforms.normalise((.5,) * 3, (.2,) * 3))
  shape = setup.images.shape[2:]
  random = np.random.RandomState(1)
  source = single.Source(
      random.randint(0, 256, (source_size, *shape)).astype(np.uint8),
      random.randint(0, CLASSES, source_size).astype(np.int32))
  task = single.TaskArrays(pipeline.parameters(pieces, shape),
                           np.arange(CLASSES, dtype=np.int32))
  chunk = parallel.over_batches(single.make_chunk(single.make_step(
      setup.method, setup.network, optimizers.make_optimizer(RECIPE))))
  backbone, source, task, state = parallel.put(
      (setup.backbone, source, task, setup.state))
  rows = parallel.split_batch(random.randint(
      0, source_size, setup.labels.shape).astype(np.int32))
  route, states = methods.Route(CLASSES, transforms.kinds(pieces)), [state]

  def run():
    states[0], measured = chunk(route, backbone, {}, source, task, states[0],
                                rows)
    return jax.block_until_ready((states[0], measured))
  return run


def torch_run(setup: Setup, channels_last: bool, compiled: bool):
  """PyTorch's step from the scores and batches that ours starts with."""
  import torch_resnet  # pylint: disable=import-outside-toplevel
  kept = trees.map_named(
      lambda name, x, d: masks.kept(name, x.shape, d), setup.backbone,
      masks.erdos_renyi(setup.backbone, EPS))
  counts = {name.removesuffix('/kernel').replace('/', '_'): count
            for name, count in trees.flatten(kept).items()}
  return torch_resnet.make_run(
      setup.backbone, setup.state.trainable, counts, setup.images,
      setup.labels, channels_last, compiled, THREADS, RECIPE.learning_rate,
      RECIPE.weight_decay)


def measure(setup: Setup, rounds: int, rivals=RIVALS) -> list[dict]:
  """One dict per case; all are timed in turn."""
  count = setup.labels.shape[0]
  devices = jax.device_count()
  cases = [timing.Case(OURS, make_run(setup), count),
           timing.Case(CHUNK + f' on {devices} devices' * (devices > 1),
                       make_chunk_run(setup), count, OURS)]
  failed = []
  for name, kind in rivals.items():
    try:
      run = torch_run(setup, *kind)
      run()  # compiles
    except Exception as error:  # pylint: disable=broad-exception-caught
      failed.append({'name': name, 'failed': f'{type(error).__name__}: '
                                             f'{str(error)[:300]}'})
      continue
    cases.append(timing.Case(name, run, count, OURS, 1., at_least=True))
  before = os.getloadavg()[0]
  times, work = timing.interleave_clocks(cases, rounds)
  rows = timing.summarise(cases, times)
  for row in rows:
    name = row['name']
    row |= {'load': [before, os.getloadavg()[0]],
            'omp_wait_policy': os.environ.get('OMP_WAIT_POLICY', ''),
            'ms_quartiles': _quartiles(times[name]),
            'core_ms_median': float(np.median(work[name])),
            'core_ms_min': float(work[name].min())}
    if 'reference' in row:
      other = row['reference']
      ratios = work[name] / work[other]
      row |= {'ratio_quartiles': _quartiles(times[name] / times[other]),
              'core_ratio': float(np.median(ratios)),
              'core_ratio_quartiles': _quartiles(ratios)}
  batch = setup.labels.shape[1]
  return [row | {'group': f'GEM ResNet-18, edge-popup, batch {batch}'}
          for row in rows + failed]


def _quartiles(values) -> list[float]:
  return np.percentile(values, (25, 75)).tolist()


def origin() -> dict:
  """As `timing.origin`, with PyTorch's version."""
  where = timing.origin()
  try:
    import torch_resnet  # pylint: disable=import-outside-toplevel
    where['versions']['torch'] = torch_resnet.torch.__version__
  except ImportError:
    where['versions']['torch'] = 'not installed'
  return where


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--out', type=pathlib.Path, help='JSON lines; replaced')
  parser.add_argument('--batch', type=int, default=128)
  parser.add_argument('--steps', type=int, default=4)
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--rivals', nargs='*', default=list(RIVALS),
                      choices=list(RIVALS))
  parser.add_argument('--devices', type=int, default=1)
  given = parser.parse_args()
  jax.config.update('jax_num_cpu_devices', given.devices)
  lines = measure(make_setup(given.steps, given.batch), given.rounds,
                  {name: RIVALS[name] for name in given.rivals})
  if given.out:
    timing.write(given.out, lines, origin())
  for line in lines:
    if 'failed' in line:
      print(f'{line["name"]} failed: {line["failed"]}')
    else:
      print(f'{line["name"]:34} {line["ms_median"]:8.1f} ms '
            f'{line.get("ratio", 1):6.2f}x; of cores '
            f'{line["core_ms_median"]:8.1f} ms '
            f'{line.get("core_ratio", 1):6.2f}x')


if __name__ == '__main__':
  main()
