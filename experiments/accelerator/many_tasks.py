"""Times the threshold step of many tasks at once, and PyTorch's beside it.

    python experiments/accelerator/many_tasks.py --out=many_tasks.jsonl

LeNet-300-100, batch 128, RMSProp 1e-4 (`experiments/benchmarks/jax_cases.py`):
our chunk of steps for T tasks under one vmap (`parallel.over_tasks`: rows
gathered from uint8 images, permuted, normalised, trained), then PyTorch on the
same device with ready batches: one task eager and compiled, and T tasks under
`torch.func.vmap`. PyTorch's products are TF32 on a GPU, as JAX's are. Every
result is written as soon as it is measured.
"""

import argparse
import json
import pathlib
import sys
import time

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'benchmarks'))

import jax_cases  # noqa: E402 pylint: disable=wrong-import-position
import supermask_step  # noqa: E402 pylint: disable=wrong-import-position
from mtl_jax.methods import supsup  # noqa: E402


def seconds_of(run, rounds: int) -> list[float]:
  """Seconds of each call, after one call that compiles."""
  run()
  found = []
  for _ in range(rounds):
    start = time.perf_counter()
    run()
    found.append(time.perf_counter() - start)
  return found


def line(name, tasks, steps, found) -> dict:
  """One result: `us` is the time of a step of one task."""
  each = np.array(found) / steps / tasks * 1e6
  return {'kind': 'many_tasks', 'name': name, 'tasks': tasks, 'steps': steps,
          'rounds': len(found), 'us': float(np.median(each)),
          'us_min': float(each.min()), 'us_max': float(each.max())}


def torch_vmapped(setup, tasks: int, count: int, device: str):
  """A step of `tasks` scores each, under torch.func.vmap, for every batch.

  Every task has its own images. RMSProp is written out, as for all tensors at
  once.
  """
  import torch  # pylint: disable=import-outside-toplevel
  from torch.nn import functional  # pylint: disable=import-outside-toplevel
  kernels = lambda tree: [np.asarray(layer['kernel'])
                          for _, layer in sorted(tree.items())]
  weights = kernels(setup.backbone)
  scores = kernels(jax_cases.start(setup, supsup.supsup(), {}).trainable)
  put = lambda w: torch.tensor(np.ascontiguousarray(w.T), device=device)
  weights = [put(w) for w in weights]
  state = [torch.stack([put(s)] * tasks) for s in scores]
  squares = [torch.zeros_like(s) for s in state]
  random = np.random.RandomState(0)
  images = torch.tensor(random.randn(tasks, 128, 784).astype(np.float32),
                        device=device)
  labels = torch.tensor(random.randint(0, 10, (tasks, 128)), device=device)

  def loss(scores, x, y):
    for i, (weight, s) in enumerate(zip(weights, scores)):
      mask = (s >= 0).float().detach() + s - s.detach()  # straight through
      x = functional.linear(functional.relu(x) if i else x, weight * mask)
    return functional.cross_entropy(x, y)

  gradients = torch.func.vmap(torch.func.grad(loss))

  def run():
    for _ in range(count):
      found = gradients(state, images, labels)
      torch._foreach_mul_(squares, .99)
      torch._foreach_addcmul_(squares, found, found, .01)
      roots = torch._foreach_sqrt(squares)
      torch._foreach_add_(roots, 1e-8)
      torch._foreach_addcdiv_(state, found, roots, -1e-4)
    return float(state[0].sum())  # waits for the device
  return run


def rows(given, setup):
  """Yields every result."""
  for tasks in given.tasks:
    steps = max(given.steps // max(1, tasks // 64), 4)
    run = jax_cases.chunk_run(setup, steps, tasks, at_once=tasks > 1)
    yield line('over_tasks' if tasks > 1 else 'over_batches', tasks, steps,
               seconds_of(run, given.rounds))
  device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
  for name, compiled in (('eager', False), ('torch.compile', True),
                         ('torch.compile, CUDA graphs', 'reduce-overhead')):
    yield line(f'PyTorch {name}', 1, given.short, seconds_of(
        supermask_step.torch_run(setup, given.short, compiled), given.rounds))
  for tasks in given.torch_tasks:
    yield line('PyTorch torch.func.vmap', tasks, given.short, seconds_of(
        torch_vmapped(setup, tasks, given.short, device), given.rounds))


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--tasks', type=int, nargs='+',
                      default=[1, 8, 64, 256, 1024])
  parser.add_argument('--torch_tasks', type=int, nargs='+', default=[64, 256])
  parser.add_argument('--steps', type=int, default=200)
  parser.add_argument('--short', type=int, default=30)
  parser.add_argument('--rounds', type=int, default=5)
  given = parser.parse_args()
  where, setup = supermask_step.origin(), jax_cases.make_setup(given.short)
  given.out.parent.mkdir(parents=True, exist_ok=True)
  with given.out.open('w') as stream:
    for found in rows(given, setup):
      stream.write(json.dumps(found | where) + '\n')
      stream.flush()
      print(found, flush=True)


if __name__ == '__main__':
  main()
