"""What the threshold step does beside its eight products, in processor time.

    python experiments/benchmarks/threshold_parts.py

Every row is compared with the products in alternating pairs of one process, so
that other processes on the machine disturb both alike. Beside the times stand
the passes over the largest kernel that XLA makes of a step's arithmetic.
"""

import argparse
import functools
import re
import time

import jax
import numpy as np
from jax import lax

import jax_cases
from mtl_jax import methods
from mtl_jax.steps import optimizers
from mtl_jax.steps import single

# (name, method, optimizer)
ROWS = (('weights, SGD', 'dedicated', 'sgd'),
        ('threshold masks, SGD', 'supsup', 'sgd'),
        ('threshold masks, RMSProp', 'supsup', 'rmsprop'))


def compiled(setup, method: str, optimizer: str):
  """(program of a scan over all batches, its arguments)."""
  made = methods.make(method)
  chosen = optimizers.make_optimizer(optimizers.Recipe(
      setup.labels.shape[0], setup.labels.shape[1], optimizer=optimizer))
  step = single.make_step(made, setup.network, chosen)

  @jax.jit
  def scan(backbone, state, batches):
    return lax.scan(lambda state, batch: step(
        jax_cases.ROUTE, backbone, {}, state, batch), state, batches)
  state = single.init_state(made, chosen, jax.random.key(2), setup.backbone,
                            {}, {}, jax_cases.ROUTE)
  given = setup.backbone, state, (setup.images, setup.labels)
  return scan.lower(*given).compile(), given


def passes(text: str, shape: str = '784,300') -> list[str]:
  """Fused loops of a program that write an array of a shape, at each step."""
  found = re.findall(
      rf'= f32\[{shape}\]\S* fusion\((.*?)\), kind=kLoop.*?op_name="[^"]*/body'
      r'/[^"]*?/(\w+)"', text)
  return [f'{name} of {arrays.count("%")} arrays' for arrays, name in found]


def processor_time(run) -> float:
  """Seconds of all threads of this process."""
  start = time.process_time()
  jax.block_until_ready(run())
  return time.process_time() - start


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--rounds', type=int, default=15)
  rounds = parser.parse_args().rounds
  setup = jax_cases.make_setup(50)
  products = jax_cases.product_scan(setup, True)
  products()
  for name, method, optimizer in ROWS:
    program, given = compiled(setup, method, optimizer)
    program(*given)
    step = functools.partial(program, *given)
    pairs = [(processor_time(products), processor_time(step))
             for _ in range(rounds)]
    ratios = [whole / alone for alone, whole in pairs]
    alone, whole = np.median(pairs, 0) * 1e3 / len(setup.labels)
    print(f'{name}: {np.median(ratios):.2f}x the eight products (quartiles '
          f'{np.quantile(ratios, .25):.2f} to {np.quantile(ratios, .75):.2f}; '
          f'{whole:.2f} and {alone:.2f} ms of processor time a step); passes: '
          f'{", ".join(passes(program.as_text())) or "none"}')


if __name__ == '__main__':
  main()
