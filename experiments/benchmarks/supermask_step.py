"""Times the supermask step against its matrix products and against PyTorch.

    python experiments/benchmarks/supermask_step.py \
        --out=experiments/benchmarks/results/supermask_step.jsonl

LeNet-300-100, batch 128, RMSProp 1e-4. See README.md for what each row is.
"""

import argparse
import os
import pathlib
import sys

import jax
import rich.console
import rich.table

import jax_cases
import timing
from mtl_jax.methods import supsup


ON_CPU = (('PyTorch eager', False, 2, 3.),
          ('PyTorch eager, 1 thread', False, 1, None),
          ('PyTorch torch.compile', True, 2, 2.),
          ('PyTorch torch.compile, 1 thread', True, 1, None))
ON_GPU = (('PyTorch eager', False, 2, 3.),
          ('PyTorch torch.compile', True, 2, 2.),
          ('PyTorch torch.compile, CUDA graphs', 'reduce-overhead', 2, None))


def torch_cases(setup, short: int = 30):
  """The threshold step in this library and in PyTorch.

  Returns:
    (cases, {name: why it could not be timed}).
  """
  threshold = timing.Case(
      'threshold step', jax_cases.step_scan(
          setup, supsup.supsup(), count=short), short)
  cases, failed = [threshold], {}
  on_gpu = jax.default_backend() == 'gpu'
  for name, compiled, threads, target in ON_GPU if on_gpu else ON_CPU:
    try:
      run = torch_run(setup, short, compiled, threads)
      run()  # compiles
    except Exception as error:  # pylint: disable=broad-exception-caught
      failed[name] = f'{type(error).__name__}: {str(error)[:300]}'
      continue
    cases.append(timing.Case(name, run, short, 'threshold step', target,
                             at_least=True))
  return cases, failed


def torch_run(setup, count: int, compiled: bool | str, threads: int = 2):
  """PyTorch's step from the scores and batches that ours starts with.

  On the device that JAX computes on: the GPU, or else the CPU.
  """
  import torch_step  # pylint: disable=import-outside-toplevel
  state = jax_cases.start(setup, supsup.supsup(), {})
  kernels = lambda tree: [layer['kernel'] for _, layer in sorted(tree.items())]
  return torch_step.make_run(
      kernels(setup.backbone), kernels(state.trainable), setup.images[:count],
      setup.labels[:count], compiled, threads,
      'cuda' if jax.default_backend() == 'gpu' else 'cpu')


def measure(setup, rounds: int, report=lambda rows: None) -> list[dict]:
  """All rows: those of each group come from one interleaved run."""
  rows = []
  beside_torch, failed = torch_cases(setup)
  cases = {'pytorch': beside_torch} | jax_cases.groups(setup)
  for group, members in cases.items():
    before = os.getloadavg()[0]
    times = timing.interleave(members, rounds)
    new = [dict(row, group=group, load=[before, os.getloadavg()[0]])
           for row in timing.summarise(members, times)]
    report(new)
    rows += new
  rows += [{'group': 'pytorch', 'name': name, 'failed': why}
           for name, why in failed.items()]
  return rows


def origin() -> dict:
  """As `timing.origin`, with PyTorch's version."""
  where = timing.origin()
  try:
    import torch_step  # pylint: disable=import-outside-toplevel
    where['versions']['torch'] = torch_step.torch.__version__
  except ImportError:
    where['versions']['torch'] = 'not installed'
  return where


def print_table(rows: list[dict]) -> None:
  """The rows of one group in the terminal."""
  table = rich.table.Table(
      rows[0]['group'], 'ms (median)', 'ms (min)', 'ratio to', 'ratio',
      'of the min', 'target')
  for row in rows:
    has = 'ratio' in row
    table.add_row(
        row['name'], f'{row["ms_median"]:.3f}', f'{row["ms_min"]:.3f}',
        row.get('reference', ''), f'{row["ratio"]:.2f}' if has else '',
        f'{row["ratio_of_min"]:.2f}' if has else '',
        str(row.get('target', '')))
  rich.console.Console(width=None if sys.stdout.isatty() else 110).print(table)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--out', type=pathlib.Path, help='JSON lines; replaced')
  parser.add_argument('--rounds', type=int, default=11)
  options = parser.parse_args()
  rows = measure(jax_cases.make_setup(), options.rounds, print_table)
  for row in rows:
    if 'failed' in row:
      print(f'{row["name"]} failed: {row["failed"]}')
  if options.out:
    timing.write(options.out, rows, origin())


if __name__ == '__main__':
  main()
