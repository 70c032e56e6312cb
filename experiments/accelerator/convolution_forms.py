"""Times the forms that convolutions of many tasks can take, and picks a rule.

    python experiments/accelerator/convolution_forms.py --out=forms.jsonl \
        --rule=rule.txt

Times every convolution of the GEM ResNet-18 (`models.resnet`) and its two
gradients: batch 128, T tasks that each have their own kernel, each form of
`models.batched_convolution`. The rule takes, for every size of the output, the
form with the lowest total time. Afterwards the forms of the exact top-k are
timed on all kernels. Programs are compiled in parallel and timed one after
another. Every result is written as soon as it is measured.
"""

import argparse
import concurrent.futures
import functools
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'benchmarks'))

import timing  # noqa: E402 pylint: disable=wrong-import-position
from mtl_jax import _top_k  # noqa: E402 pylint: disable=wrong-import-position
from mtl_jax import masks  # noqa: E402 pylint: disable=wrong-import-position
from mtl_jax import models  # noqa: E402 pylint: disable=wrong-import-position
from mtl_jax import trees  # noqa: E402 pylint: disable=wrong-import-position
from mtl_jax.models import batched_convolution  # noqa: E402

FORMS = ('grouped', 'map', 'each', 'patches', 'blocks')


def convolutions(width: int, side: int):
  """(side, inputs, outputs, window, stride, how many) of the network."""
  found = [(side, 3, width, 3, 1, 1), (side, width, width, 3, 1, 4)]
  for stage in range(3):
    inputs, now = width << stage, side >> stage
    found += [(now, inputs, 2 * inputs, 3, 2, 1),
              (now // 2, 2 * inputs, 2 * inputs, 3, 1, 3)]
  return found  # without the three of one place, which are small


def program(form: str, tasks: int, batch: int, case):
  """(jitted function of (x, kernel, dy), their shapes)."""
  side, inputs, outputs, window, stride, _ = case
  edge = window // 2
  convolve = functools.partial(
      batched_convolution._convolve, (stride, stride), ((edge, edge),) * 2,
      batched_convolution.parse(form))

  def run(x, kernel, dy):
    def all_of_it(x, kernel, dy):
      y, back = jax.vjp(convolve, x, kernel)
      return (y, *back(dy))
    return jax.vmap(all_of_it)(x, kernel, dy)

  x = (tasks, batch, side, side, inputs)
  return jax.jit(run), (x, (tasks, window, window, inputs, outputs),
                        (*x[:2], side // stride, side // stride, outputs))


def top_k_program(form: str, tasks: int, width: int, side: int):
  """(jitted exact top-k of all kernels at eps 16, the scores' shapes)."""
  network = models.make('gem_resnet18', 5, width=width)
  params = jax.eval_shape(lambda key: network.init(key, (side, side, 3))[0],
                          jax.random.key(0))
  leaves = jax.tree.leaves(params)
  counts = [masks.kept('leaf', leaf.shape, d) for leaf, d in zip(
      leaves, trees.flatten(masks.erdos_renyi(params, 16.)).values())]
  select = lambda scores: _top_k.select_all(list(scores), counts, form)
  run = jax.jit(lambda *scores: jax.vmap(select)(scores))
  return run, tuple((tasks, *leaf.shape) for leaf in leaves)


def draw(shapes):
  """Random float32 arrays on the device."""
  return [jax.random.normal(jax.random.key(i), shape)
          for i, shape in enumerate(shapes)]


def measure(call, values, seconds: float) -> list[float]:
  """Milliseconds of each call, after one call that isn't counted."""
  jax.block_until_ready(call(*values))
  found, end = [], time.perf_counter() + seconds
  while len(found) < 3 or time.perf_counter() < end and len(found) < 20:
    start = time.perf_counter()
    jax.block_until_ready(call(*values))
    found.append((time.perf_counter() - start) * 1e3)
  return found


def choose(lines: list[dict]) -> str:
  """The rule of `batched_convolution` with the lowest times.

  A loop is preferred to an unrolled program that is less than a tenth faster:
  it compiles sooner.
  """
  best = {}
  for places in sorted({line['places'] for line in lines}):
    total: dict[str, float] = {}
    for form in FORMS:
      own = [line for line in lines if line['places'] == places
             and line['form'] == form]
      if own and all('ms' in line for line in own):
        total[form] = sum(line['ms'] * line['count'] for line in own)
    if 'map' in total and 'each' in total and (
        total['map'] < 1.1 * total['each']):
      del total['each']
    best[places] = min(total, key=lambda form: total[form])
  parts: list[str] = []
  for places, form in best.items():
    if parts and parts[-1].split(':')[0] == form:
      parts.pop()
    parts.append(f'{form}:{places}')
  return ','.join([*parts[:-1], parts[-1].split(':')[0]])


def work(given):
  """(fields of a result, function that makes program and shapes) pairs."""
  for case in convolutions(given.width, given.side):
    places = (case[0] // case[4]) ** 2
    for form in given.forms:
      yield {'kind': 'convolution', 'form': form, 'tasks': given.tasks,
             'batch': given.batch, 'case': list(case[:5]), 'places': places,
             'count': case[5]}, functools.partial(
                 program, form, given.tasks, given.batch, case)
  for form in ('digits', 'sorted', 'searched'):
    for tasks in sorted({1, given.tasks}):
      yield {'kind': 'top_k', 'form': form, 'tasks': tasks}, functools.partial(
          top_k_program, form, tasks, given.width, given.side)


def compiled(make):
  run, shapes = make()
  values = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  start = time.perf_counter()
  return run.lower(*values).compile(), shapes, time.perf_counter() - start


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--rule', type=pathlib.Path, required=True)
  parser.add_argument('--tasks', type=int, default=20)
  parser.add_argument('--batch', type=int, default=128)
  parser.add_argument('--width', type=int, default=20)
  parser.add_argument('--side', type=int, default=32)
  parser.add_argument('--seconds', type=float, default=.15)
  parser.add_argument('--patience', type=float, default=90,
                      help='seconds for compiling; what takes longer fails')
  parser.add_argument('--forms', nargs='+', default=FORMS)
  given = parser.parse_args()
  where, lines = timing.origin(), []
  given.out.parent.mkdir(parents=True, exist_ok=True)
  with concurrent.futures.ThreadPoolExecutor(12) as pool, (
      given.out.open('w')) as stream:
    jobs = [(line, pool.submit(compiled, make)) for line, make in work(given)]
    # Compiling tries kernels on the device: nothing is timed beside it.
    concurrent.futures.wait([job for _, job in jobs], given.patience)
    for _, job in jobs:
      job.cancel()
    for line, job in jobs:
      try:
        call, shapes, seconds = job.result(0)
        times = measure(call, draw(shapes), given.seconds)
        line |= {'ms': float(np.median(times)), 'ms_min': min(times),
                 'calls': len(times), 'compile_seconds': round(seconds, 2)}
      except Exception as error:  # pylint: disable=broad-exception-caught
        line['failed'] = f'{type(error).__name__}: {str(error)[:200]}'
      lines.append(line)
      stream.write(json.dumps(line | where) + '\n')
      stream.flush()
      print({k: v for k, v in line.items() if k != 'kind'}, flush=True)
  rule = choose([line for line in lines if line['kind'] == 'convolution'])
  given.rule.write_text(rule + '\n')
  print('rule', rule)


if __name__ == '__main__':
  main()
