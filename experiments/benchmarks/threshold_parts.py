"""Processor time of the threshold step beyond its eight matrix products.

    python experiments/benchmarks/threshold_parts.py \
        --out=experiments/benchmarks/results/threshold_parts.jsonl

For each case it also counts the passes over the largest kernel in the program
that XLA compiles.
"""

import argparse
import os
import pathlib
import re

import jax
from jax import lax

import jax_cases
import timing
from mtl_jax import methods
from mtl_jax.steps import optimizers
from mtl_jax.steps import single

PRODUCTS = 'eight products'
TARGET = 1.15  # of the step that SupSup's recipe makes
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


def cases(setup) -> tuple[list[timing.Case], dict[str, list[str]]]:
  """(the products and every row, the passes of each row by its name)."""
  steps = len(setup.labels)
  made = [timing.Case(PRODUCTS, jax_cases.product_scan(setup, True), steps)]
  written = {}
  for name, method, optimizer in ROWS:
    program, given = compiled(setup, method, optimizer)
    written[name] = passes(program.as_text())
    made.append(timing.Case(
        name, lambda program=program, given=given: jax.block_until_ready(
            program(*given)), steps, PRODUCTS,
        TARGET if optimizer == 'rmsprop' else None))
  return made, written


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--rounds', type=int, default=15)
  parser.add_argument('--out', type=pathlib.Path, help='JSON lines; replaced')
  options = parser.parse_args()
  load = [os.getloadavg()[0]]
  made, written = cases(jax_cases.make_setup(50))
  _, work = timing.interleave_clocks(made, options.rounds)
  load.append(os.getloadavg()[0])
  rows = [row | {'group': 'processor time', 'load': load,
                 'passes': written.get(row['name'], [])}
          for row in timing.summarise(made, work)]
  for row in rows:
    print(f'{row["name"]}: {row["ms_median"]:.2f} ms, '
          f'{row.get("ratio", 1.):.2f}x the products; passes: '
          f'{", ".join(row["passes"]) or "none"}')
  if options.out:
    timing.write(options.out, rows)


if __name__ == '__main__':
  main()
