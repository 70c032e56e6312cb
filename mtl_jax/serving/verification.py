"""Re-derives every stored task and compares it with its commit, bit for bit."""

import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mtl_jax.serving import probes
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import checkpoint
from mtl_jax.storage import provenance


class Result(NamedTuple):
  """What was found.

  Attributes:
    tasks: how many were checked.
    faults: one sentence per fault, naming task and leaf.
    notes: what can't be compared bit for bit here, and why.
  """
  tasks: int
  faults: list[str]
  notes: list[str]


def check(system: system_lib.System,
          visit: Callable[[str], None] = lambda name: None) -> Result:
  """Checks every finished task of a system.

  Args:
    system: as `mtl_jax.load` gives it.
    visit: called with the name of every task that could be read, while it
      is in memory: a large system is then read once for several purposes.
  """
  faults, notes = [], []
  names = sorted(system.tasks, key=lambda name: _basis_of(system, name))
  for name in system.workdir.lost_tasks():
    faults.append(f'task {name}: it was finished once, but its folder is gone '
                  'or no longer a checkpoint; the same command trains it again')
  for name in names:
    try:
      stored = system.task(name)
      probe = probes.of_task(system, stored.metadata)
      found = np.asarray(system.outputs(stored, probe))
      visit(name)
    except ValueError as error:
      faults.append(f'task {name}: {error}')
      continue
    fault, note = _compare(name, found, stored)
    faults += fault
    notes += note
  return Result(len(names), faults, sorted(set(notes)))


def _basis_of(system, name) -> str:
  """Tasks of one basis stand together, so that it is read once."""
  try:
    metadata = checkpoint.load_metadata(system.workdir.task(name))
    return json.dumps(metadata.get('relies_on'))
  except ValueError:
    return ''  # found again, and reported, when the task is read


def _compare(name, found, stored) -> tuple[list[str], list[str]]:
  if np.array_equal(found, stored.probe):
    return [], []
  worst = float(np.max(np.abs(found - stored.probe)))
  made_on, here = stored.metadata['versions'], provenance.versions()
  elsewhere = {k: (made_on.get(k), v) for k, v in here.items()
               if made_on.get(k, v) != v}
  platforms = {made_on.get('platform', 'cpu'), here['platform']}
  # Products on an accelerator may have the precision of bfloat16 or TF32.
  near = 1e-4 if platforms == {'cpu'} else 2e-2 * float(
      np.max(np.abs(stored.probe)))
  rounds = elsewhere or platforms != {'cpu'}
  if rounds and np.allclose(found, stored.probe, rtol=1e-4, atol=near):
    why = (f'the run was made with another platform or versions {elsewhere}'
           if elsewhere else 'an accelerator may use other kernels in another '
           'process')
    return [], [f'outputs differ by rounding only (at most {worst:.1e}): {why}']
  return [f'task {name}: its outputs on the probe images differ from those at '
          f'its commit by up to {worst:.3g}'], []
