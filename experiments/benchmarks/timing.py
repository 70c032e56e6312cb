"""Times cases in turn, so that every ratio comes from one run.

When the cases alternate, other load on the machine slows both sides of a ratio
alike. It does not when one case is timed after the other.
"""

import gc
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mtl_jax.storage import provenance


class Case(NamedTuple):
  """One thing to be timed.

  Attributes:
    name: of the row.
    run: does the steps and returns when they are done.
    steps: how many steps one call does.
    reference: name of the case it is compared with; '' for none.
    target: the ratio case / reference that is wanted at most, or `None`.
    at_least: the target is the smallest ratio wanted (the case is a rival).
    flops: of one step, if it is to be checked against the processor's peak.
  """
  name: str
  run: Callable[[], object]
  steps: int
  reference: str = ''
  target: float | None = None
  at_least: bool = False
  flops: float | None = None


def interleave(cases: Sequence[Case], rounds: int) -> dict[str, np.ndarray]:
  """Milliseconds per step of each case in each round.

  The order is reversed from one round to the next, so that no case always
  follows the same other case. Every case is called once before.
  """
  return interleave_clocks(cases, rounds)[0]


def interleave_clocks(cases: Sequence[Case], rounds: int) -> tuple[
    dict[str, np.ndarray], dict[str, np.ndarray]]:
  """`interleave`, and the same in milliseconds of all cores together.

  On a shared machine, the second measures what a step costs, whatever else
  runs on the cores.
  """
  times: dict[str, list[float]] = {case.name: [] for case in cases}
  work: dict[str, list[float]] = {case.name: [] for case in cases}
  for case in cases:
    case.run()
  gc.collect()
  for number in range(rounds):
    for case in cases[::-1 if number % 2 else 1]:
      start, busy = time.perf_counter(), time.process_time()
      case.run()
      seconds, busy = (time.perf_counter() - start, time.process_time() - busy)
      times[case.name].append(seconds / case.steps * 1e3)
      work[case.name].append(busy / case.steps * 1e3)
  return tuple({name: np.array(values) for name, values in found.items()}
               for found in (times, work))


def summarise(cases: Sequence[Case], times: dict[str, np.ndarray]) -> list:
  """One dict per case.

  `ratio` is the median over rounds of case / reference in the same round,
  `ratio_of_min` that of the two fastest rounds.
  """
  rows = []
  for case in cases:
    own = times[case.name]
    row = {'name': case.name, 'ms_median': float(np.median(own)),
           'ms_min': float(own.min()), 'rounds': len(own),
           'steps_per_round': case.steps}
    if case.reference:
      other = times[case.reference]
      row |= {'reference': case.reference, 'at_least': case.at_least,
              'ratio': float(np.median(own / other)),
              'ratio_of_min': float(own.min() / other.min())}
    if case.target is not None:
      row['target'] = case.target
    if case.flops:
      row['gflops_best'] = case.flops / own.min() / 1e6
    rows.append(row)
  return rows


def origin() -> dict:
  """Versions, hardware, command and commit, for every line."""
  return {'versions': provenance.versions(),
          'hardware': provenance.hardware(),
          'command': shlex.join(['python', *sys.argv]),
          'commit': provenance.commit()}


def write(path: pathlib.Path, lines: list[dict],
          where: dict | None = None) -> None:
  """Replaces a file of JSON lines, each with where it comes from.

  Args:
    path: of the file.
    lines: JSON values.
    where: `None` takes `origin()`.
  """
  where = where or origin()
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(json.dumps(line | where) + '\n' for line in lines))
