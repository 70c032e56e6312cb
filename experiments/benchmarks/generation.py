"""Times mu2Net's task iteration, and children trained together or in turn.

    python experiments/benchmarks/generation.py \
        --out=experiments/benchmarks/results/generation.jsonl

`iteration` times the second task iteration of a run with 32 children, from the
sampling of its first child to the committed path, compilation included. It is
compared with 32 times the steps of one child, already compiled. The number of
programs that XLA compiled is counted. `at once` counts children per minute when
a device trains them in turn (lax.map) or together (vmap); `search` chooses
between the two by these results. Processor seconds are less sensitive to other
work on the machine. ViT-Ti with 3 layers at 32 pixels; see README.md.
"""

import argparse
import functools
import os
import pathlib
import tempfile
import time

import jax
import numpy as np

import timing
from mtl_jax import experiment
from mtl_jax import parallel
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import run as run_lib
from mtl_jax.training.search import iteration
from mtl_jax.training.search import state as state_lib

PROGRAMS, TIMES = 6, 1.3  # targets
COMPILED = '/jax/core/compile/backend_compile_duration'


def make_run(folder, steps: int, batch: int, images: int) -> run_lib.Run:
  """Two tasks of random images and different numbers of classes."""
  for name, classes in (('one', 10), ('two', 11)):
    random = np.random.RandomState(classes)
    sources.register(name, functools.partial(
        sources.from_arrays, name, random.randint(
            0, 256, (images, 32, 32, 3)).astype(np.uint8),
        np.arange(images) % classes))
  config = config_lib.from_dict(dict(
      seed=0, eval_batch_size=256, progress_seconds=60.,
      suite=dict(kind='datasets', sources=('one', 'two'),
                 image_shape=(32, 32, 3)),
      backbone=dict(model='vit_ti', outputs=11, init='default',
                    options=dict(num_layers=3)),
      phases=dict(grow=dict(
          method='munet', tasks=(0, 2), batch_size=batch, steps=steps,
          search=dict(space='mu2net_ti0', generations=4, children=8,
                      validations=4, valid_cap=128))),
      schedule=('grow',)))
  work = workdir_lib.Workdir(folder)
  suite = suites.make(config.suite.kind, **dict(config.suite.options))
  data = run_lib.Data()
  backbone = experiment.make_backbone(config, suite, data, work)
  work.prepare()
  experiment.claim(work, config, backbone, '')
  return run_lib.Run(config, suite, backbone, data, work,
                  system_lib.System(work, backbone), lambda *_: None)


def one_iteration(run: run_lib.Run) -> dict:
  """The second task's iteration against 32 times one child's steps."""
  first, second = plan.entries(run.config.phases[0], run.suite)
  iteration._TaskIteration(run, first, {}).run()
  compiled: list[float] = []
  listen = lambda name, seconds, **_: name == COMPILED and compiled.append(
      seconds)
  jax.monitoring.register_event_duration_secs_listener(listen)
  started, used = time.perf_counter(), time.process_time()
  iteration._TaskIteration(run, second, {}).run()
  seconds, used = time.perf_counter() - started, time.process_time() - used
  programs, compiling = len(compiled), sum(compiled)
  alone, alone_used = child_seconds(run, second)
  return {'case': 'iteration', 'children': 32, 'seconds': seconds,
          'compile_seconds': compiling, 'programs': programs,
          'programs_target': PROGRAMS, 'child_seconds': alone,
          'times': seconds / (32 * alone), 'times_target': TIMES,
          'cpu_seconds': used, 'child_cpu_seconds': alone_used,
          'times_of_cpu': used / (32 * alone_used),
          'load': list(os.getloadavg())}


def _wave(work, each):
  """Learners of so many children on each device, and their images."""
  count = each * parallel.device_count()
  children, _, _, images = work._children(state_lib.State(seeds=tuple(
      path.name for path in work.others)))
  children = (children * count)[:count]
  news = [work.maker.new(child, jax.random.key(i))
          for i, child in enumerate(children)]
  return parallel.split_tasks(work._learners(children, news)), images


def _rounds(work, learners, images, together):
  for number in range(work.search.validations):
    learners, measured = work._round(state_lib.State(), learners, number,
                                     images, together)
  return jax.block_until_ready(measured)


def child_seconds(run, entry, rounds: int = 3) -> tuple[float, float]:
  """Median seconds, and processor seconds, of one child's steps and
  validations, compiled before."""
  work, times = iteration._TaskIteration(run, entry, {}), []
  for _ in range(rounds + 1):
    learners, images = _wave(work, 1)
    started, used = time.perf_counter(), time.process_time()
    _rounds(work, learners, images, False)
    times.append((time.perf_counter() - started, time.process_time() - used))
  wall, processor = np.median(times[1:], axis=0)
  return float(wall), float(processor)


def at_once(run, counts, rounds: int) -> list[dict]:
  """Children per minute, in turn and together."""
  work = iteration._TaskIteration(run, plan.entries(
      run.config.phases[0], run.suite)[0], {})
  lines = []
  for count in counts:
    for together in (False, True):
      times = []
      for _ in range(rounds + 1):
        learners, images = _wave(work, count)
        started = time.perf_counter()
        _rounds(work, learners, images, together)
        times.append(time.perf_counter() - started)
      lines.append({'case': 'at once', 'children': count,
                    'how': 'vmap' if together else 'map',
                    'compile_and_first_seconds': times[0],
                    'children_per_minute': 60 * count * parallel.device_count()
                    / min(times[1:]),
                    'load': list(os.getloadavg())})
      print(lines[-1], flush=True)
  return lines


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--steps', type=int, default=10,
                      help='between two validations')
  parser.add_argument('--batch', type=int, default=128)
  parser.add_argument('--images', type=int, default=2000)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--at_once', type=int, nargs='*', default=(1, 4, 16, 32))
  given = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    run = make_run(pathlib.Path(folder), given.steps, given.batch, given.images)
    lines = [one_iteration(run)]
    print(lines[0], flush=True)
    with tempfile.TemporaryDirectory() as empty:
      fresh = make_run(pathlib.Path(empty), given.steps, given.batch,
                       given.images)
      lines += at_once(fresh, given.at_once, given.rounds)
  options = {k: getattr(given, k) for k in ('steps', 'batch', 'images')}
  timing.write(given.out, [line | options for line in lines])


if __name__ == '__main__':
  main()
