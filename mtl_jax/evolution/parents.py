"""Chooses the parent of the next child (the official `PPDecay`).

A path with k children for a task is accepted with probability 0.5 ** k. The
task's own paths are tried first, from the best one on; then the other tasks'
paths (the seeds) in rotation. If none is accepted, a path is drawn at random.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtl_jax.evolution import networks

Path = networks.Path


class Choice(NamedTuple):
  """A parent, and the new order of the seeds."""
  parent: Path
  seeds: tuple[str, ...]


def shuffled(rng: np.random.Generator, names: Sequence[str]) -> tuple:
  """A random order of the seeds, for the start of a task."""
  return tuple(names[i] for i in rng.permutation(len(names)))


def choose(rng: np.random.Generator, own: Sequence[Path],
           others: Sequence[Path], seeds: Sequence[str],
           children: dict[str, int], uniform: bool = False) -> Choice:
  """Chooses a parent; see the module.

  Args:
    rng: generator of the acceptance.
    own: the task's paths, in the order in which they were made; among equal
      scores the oldest is tried first.
    others: the paths of other tasks that may be parents, and the root.
    seeds: names of `others` in their current order.
    children: number of a path's children for this task, by its name.
    uniform: as in mu2Net+: no rotation; if no own path is accepted, a path is
      drawn at random.

  Raises:
    ValueError: there is no path.
  """
  if not own and not others:
    raise ValueError('there is no path from which to start')
  accept = lambda name: rng.random() < 0.5 ** children.get(name, 0)
  for path in sorted(own, key=lambda path: -path.score):  # a stable sort
    if accept(path.name):
      return Choice(path, tuple(seeds))
  by_name = {path.name: path for path in others}
  for at, name in enumerate(() if uniform else seeds):
    if accept(name):
      return Choice(by_name[name], (*seeds[at + 1:], *seeds[:at + 1]))
  everyone = [*own, *others]
  return Choice(everyone[rng.integers(len(everyone))], tuple(seeds))
