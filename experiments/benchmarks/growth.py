"""How the costs of a run and of its system grow with the number of tasks.

    python experiments/benchmarks/growth.py \
        --out=experiments/benchmarks/results/growth.jsonl

Tiny synthetic tasks go through the public API: supermasks of a small network,
50 trained at once, and dense networks, trained one after another. Every row is
the cost at 250, 1,000 and 2,000 tasks: milliseconds of the clock and of the
processor, and the number of function calls, which does not depend on the load
of the machine. The exponent is computed from the calls at the fewest and the
most tasks.
"""

import argparse
import cProfile
import math
import os
import pathlib
import pstats
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import timing
from mtl_jax import experiment
from mtl_jax import models
from mtl_jax import validate
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.evaluation import final
from mtl_jax.models import mlp
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import group_commit
from mtl_jax.training import resume
from mtl_jax.training import run as run_lib

TASKS = (250, 1000, 2000)
AT_ONCE = 50
COMPILED = '/jax/core/compile/backend_compile_duration'


class Cost(NamedTuple):
  """The cost of one piece of work.

  Attributes:
    seconds: of the clock.
    busy: of the processor, all cores together.
    calls: number of function calls, of Python's and built-in ones.
  """
  seconds: float
  busy: float
  calls: int


def cost(work: Callable[[], Any]) -> Cost:
  """Does a piece of work once and returns its cost."""
  profile = cProfile.Profile()
  start, busy = time.perf_counter(), time.process_time()
  profile.enable()
  try:
    work()
  finally:
    profile.disable()
  seconds, busy = time.perf_counter() - start, time.process_time() - busy
  return Cost(seconds, busy, pstats.Stats(profile).total_calls)


def dots() -> sources.Source:
  """Forty images of 4 x 4 of two classes."""
  labels = np.arange(40) % 2
  images = np.random.RandomState(0).randint(0, 156, (40, 4, 4, 1))
  return sources.from_arrays(
      'dots', (images + 99 * labels[:, None, None, None]).astype(np.uint8),
      labels)


def make_config(tasks: int, method: str) -> config_lib.Config:
  """A run of `tasks` tiny tasks; of the method 'dedicated' one by one."""
  sources.register('dots', dots)
  models.register('tiny', lambda outputs: models.from_linen(
      lambda **_: mlp.MLP((48, outputs))))
  return config_lib.from_dict(dict(
      seed=0, suite=dict(kind='permuted', source='dots', num_tasks=tasks),
      backbone=dict(model='tiny', outputs=4), progress_seconds=1e6,
      phases=dict(learn=dict(
          method=method, tasks=(0, tasks), steps=1, batch_size=8,
          tasks_at_once=AT_ONCE if method == 'supsup' else 1)),
      schedule=('learn',)))


def start(config: config_lib.Config, folder) -> run_lib.Run:
  """The start of a run, before it learns."""
  suite = suites.make(config.suite.kind, **dict(config.suite.options))
  plan.check(config, suite)
  data, work = run_lib.Data(), workdir_lib.Workdir(folder)
  validate.check_config(work, config)
  backbone = experiment.make_backbone(config, suite, data, work)
  validate.check_fit(config, suite, data, backbone)
  lines = list(json_records.read_lines(work.metrics))
  versions = validate.check_sources(work, suite, data, lines)
  validate.check_backbone(work, backbone)
  resume.check_tasks(work, config, suite, backbone.recipe['fingerprint'])
  work.prepare()
  resume.write_plan(work, config, suite)
  experiment.claim(work, config, backbone, '', versions, lines)
  run = run_lib.Run(config, suite, backbone, data, work,
                    system_lib.System(work, backbone), lambda *_: None)
  resume.restore_probes(run)
  return run


def learn(run: run_lib.Run) -> tuple[list[Cost], int]:
  """Learns all tasks.

  Returns:
    (what each commit of a group took, how many programs were compiled after
    the second group).
  """
  costs, compiled = [], []
  commit = group_commit.commit

  def counted(*args):
    given = []
    costs.append(cost(lambda: given.append(commit(*args))))
    return given[0]

  def listen(name, *_, **__):
    if name == COMPILED and len(costs) > 1:
      compiled.append(name)
  jax.monitoring.register_event_duration_secs_listener(listen)
  group_commit.commit = counted
  try:
    for phase in run.config.phases:
      experiment.learn_phase(run, phase)
  finally:
    group_commit.commit = commit
    jax.monitoring.unregister_event_duration_listener(listen)
  return costs, len(compiled)


def start_again(config, folder) -> None:
  """The start of a finished run, up to its last evaluation."""
  run = start(config, folder)
  for phase in config.phases:
    experiment.learn_phase(run, phase)


def end(run: run_lib.Run) -> None:
  """The end of a run, after its last task."""
  final.summarise(run, final.collect(run), {})


def served(folder, names: list[str]) -> Iterator[tuple[str, Cost]]:
  """The costs of a loaded system, by row."""
  system = system_lib.load(folder)
  x = dots().test.images[:1]
  yield 'bank of new candidates', cost(lambda: system.identify(x))
  yield 'identify without names', cost(lambda: system.identify(x))

  def round_robin():
    for name in names:
      system.predict(x, task=name)
  round_robin()  # read and compiled
  yield 'predict, task after task', cost(round_robin)


def measure(tasks: int, folder: pathlib.Path) -> Iterator[dict]:
  """A row for each operation on that number of tasks."""
  config = make_config(tasks, 'supsup')
  run = start(config, folder / 'masks')
  groups, compiled = learn(run)
  work = run.workdir
  # As if it had been finished a while ago: see `workdir._TICK`.
  os.utime(work.tasks, (1, 1))
  names = work.task_names()
  last = groups[-1]
  yield _row('commit of a task in a group', tasks, Cost(
      last.seconds / AT_ONCE, last.busy / AT_ONCE, last.calls // AT_ONCE),
             compiled=compiled)
  yield _row('load_metadata of all tasks', tasks, cost(
      lambda: [checkpoint.load_metadata(work.task(name)) for name in names]))
  yield _row('start of a finished run', tasks, cost(
      lambda: start_again(config, folder / 'masks')))
  for name, found in served(folder / 'masks', names):
    yield _row(name, tasks, found)
  yield _row('end of a run', tasks, cost(lambda: end(run)))
  values = start(make_config(tasks, 'dedicated'), folder / 'values')
  commits, _ = learn(values)
  yield _row('commit that leaves values', tasks, commits[-1])


def _row(name: str, tasks: int, found: Cost, **more) -> dict:
  return {'name': name, 'tasks': tasks, 'ms': found.seconds * 1e3,
          'ms_busy': found.busy * 1e3, 'calls': found.calls,
          'load': [os.getloadavg()[0]]} | more


# Costs of one task, which should stay as they are.
OF_ONE = ('commit of a task in a group', 'commit that leaves values')


def exponents(rows: list[dict]) -> dict[str, float]:
  """By name, the exponent of the number of calls in the number of tasks."""
  found: dict[str, list[dict]] = {}
  for row in rows:
    found.setdefault(row['name'], []).append(row)
  result = {}
  for name, own in found.items():
    few, many = min(own, key=_tasks), max(own, key=_tasks)
    of_all = 1. if name in OF_ONE else 0.
    result[name] = of_all + math.log(many['calls'] / few['calls']) / math.log(
        many['tasks'] / few['tasks'])
  return result


def _tasks(row: dict) -> int:
  return row['tasks']


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--out', type=pathlib.Path, help='JSON lines; replaced')
  parser.add_argument('--tasks', type=int, nargs='+', default=TASKS)
  options = parser.parse_args()
  rows = []
  for tasks in options.tasks:
    with tempfile.TemporaryDirectory() as folder:
      for row in measure(tasks, pathlib.Path(folder)):
        rows.append(row)
        print(f'{tasks:6d} {row["name"]:28s} {row["ms"]:10.1f} ms '
              f'{row["ms_busy"]:10.1f} busy {row["calls"]:10d} calls',
              flush=True)
  found = exponents(rows)
  for name, exponent in found.items():
    print(f'{name:28s} exponent {exponent:.2f}')
  if options.out:
    timing.write(options.out, [dict(row, exponent=found[row['name']])
                               for row in rows])


if __name__ == '__main__':
  main()
