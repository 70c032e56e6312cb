"""Times the inference of the task against the number of tasks.

    python experiments/benchmarks/identify_cost.py \
        --out=experiments/benchmarks/results/identify_cost.jsonl

LeNet-300-100 with 500 outputs, random masks, one image and one gradient per
inference: one inference, and 64 in one call. Takes about three minutes.
"""

import argparse
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import timing
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.inference import identify
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.serving import candidates

SHAPE = (28, 28, 1)
TASKS = (10, 100, 500, 1000, 2500)
RECIPE = {'model': 'lenet_300_100', 'outputs': 500, 'options': {},
          'init': 'signed_constant', 'seed': 0, 'image_shape': SHAPE}
RULE = identify.Rule('one_shot', 'entropy')


def random_bank(backbone: backbone_lib.Backbone, tasks: int):
  """Packed random masks of density 0.5, uint8 leaves [tasks, bytes]."""
  rng = np.random.RandomState(0)
  return candidates.Bank(jax.tree.map(lambda w: jnp.asarray(rng.randint(
      0, 256, (tasks, -(-w.size // 8))).astype(np.uint8)), backbone.params),
                         None, None, None)


def inference(backbone, bank, inferences: int):
  """(function, bytes that it needs) of `inferences` inferences in a call."""
  chain = (transforms.normalise(0.1307, 0.3081),)
  images = np.random.RandomState(1).randint(
      0, 256, (inferences, 1, *SHAPE)).astype(np.uint8)
  arguments = (backbone.params, backbone.stats, bank,
               pipeline.parameters(chain, SHAPE), jnp.asarray(images),
               np.ones((inferences, 1), bool))
  compiled = candidates.infer.lower(
      RULE, backbone.network, transforms.kinds(chain), 10,
      *arguments).compile()
  memory = compiled.memory_analysis()
  needed = (memory.temp_size_in_bytes + memory.argument_size_in_bytes
            + memory.output_size_in_bytes)
  return lambda: jax.block_until_ready(compiled(*arguments)), needed


def one_gradient(backbone, inferences: int):
  """The forward and backward passes alone, with respect to the weights."""
  images = jnp.asarray(np.random.RandomState(1).rand(inferences, 1, *SHAPE),
                       jnp.float32)

  @jax.jit
  def gradients(params, images):
    def loss(p, x):
      logits, _ = backbone.network.apply(p, backbone.stats, x, train=False)
      return identify.entropy(logits, jnp.ones(1, bool))
    return jax.vmap(jax.grad(loss), (None, 0))(params, images)

  return lambda: jax.block_until_ready(gradients(backbone.params, images))


def measure(tasks=TASKS, rounds: int = 11) -> list[dict]:
  """One dict for each number of tasks, inferences per call and case."""
  backbone, lines = backbone_lib.make(RECIPE), []
  for at_once in (1, 64):
    name = f'gradient alone, {at_once} at once'
    cases = [timing.Case(name, one_gradient(backbone, at_once), at_once)]
    needed = {name: None}
    for count in tasks:
      run, size = inference(backbone, random_bank(backbone, count), at_once)
      cases.append(timing.Case(f'{count}', run, at_once, name))
      needed[f'{count}'] = size
    before = os.getloadavg()[0]
    for row in timing.summarise(cases, timing.interleave(cases, rounds)):
      lines.append(dict(row, at_once=at_once, bytes=needed[row['name']],
                        load=[before, os.getloadavg()[0]]))
      print(f"{at_once:3d} at once  {row['name']:26s} "
            f"{row['ms_median']:9.3f} ms", flush=True)
  return lines


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--out', type=pathlib.Path, help='JSON lines; replaced')
  parser.add_argument('--rounds', type=int, default=11)
  options = parser.parse_args()
  lines = measure(rounds=options.rounds)
  if options.out:
    timing.write(options.out, lines)


if __name__ == '__main__':
  main()
