"""Components, paths through them, and what a path costs.

A component is a sub-tree at the top of a network's tree. It is immutable and
identified by its content: two tasks use the same component if and only if all
its bits are equal. A path is a task's network: one component for each name.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from mtl_jax import trees

ROOT = 'root'
_DIGITS = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Component:
  """One immutable part of a network.

  Attributes:
    name: its place in the network, such as 'encoderblock_2'.
    id: the first digits of the SHA-256 of its content.
    tree: its leaves.
    weights: number of its weights.
    trace: momentum at the end of its training; `None` for zeros.
  """
  name: str
  id: str
  tree: Any
  weights: int
  trace: Any = None


def component(name: str, tree: Any, trace: Any = None) -> Component:
  """Makes a component from a sub-tree, identified by its content.

  >>> import numpy as np
  >>> component('head', {'bias': np.zeros(2)}).weights
  2
  """
  return Component(name, trees.fingerprint({name: tree})[:_DIGITS], tree,
                   trees.size(tree), trace)


@dataclasses.dataclass(frozen=True, eq=False)
class Path:
  """One network of the population.

  Attributes:
    name: unique; ROOT is the root's.
    task: name of its task; `None` for the root.
    parent: name of the path from which it was made.
    hyper: its hyper-parameters.
    components: components by name.
    score: the value by which paths are selected.
    quality: validation accuracy at its best validation.
    record: JSON values that are used only in reports.
  """
  name: str
  task: str | None
  parent: str | None
  hyper: Mapping[str, Any]
  components: Mapping[str, Component]
  score: float = 0.
  quality: float = 0.
  record: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def params(self) -> dict:
    """The network's parameters; leaves are the components' own."""
    return {name: part.tree for name, part in self.components.items()}


def path_of(params: Mapping, **fields) -> Path:
  """Makes a path from a parameter tree."""
  return Path(components={name: component(name, tree)
                          for name, tree in params.items()}, **fields)


def users(paths: Iterable[Path]) -> dict[str, set[str]]:
  """The tasks that use each component, by its id; the root is not a task.

  Args:
    paths: the retained path of every task, with or without the root's.
  """
  found: dict[str, set[str]] = {}
  for path in paths:
    for part in path.components.values():
      if path.task is not None:
        found.setdefault(part.id, set()).add(path.task)
  return found


def locked(task: str, retained: Iterable[Path]) -> set[str]:
  """Ids of the components that may not change when a task is learned.

  These are all components that the root or another task uses. Components that
  only the task's own retained path uses are trained further: its children
  always clone them. (Nothing is changed in place; the stored path stays.)
  """
  return {part.id for path in retained if path.task != task
          for part in path.components.values()}


def accounted(path: Path, retained: Iterable[Path]) -> float:
  """Weights of a path, each component's divided by its number of tasks.

  The root is not counted as a user. Summed over the retained paths of all
  tasks this is the number of weights in components that any task uses.
  """
  using = users(retained)
  return sum(part.weights / len(using.get(part.id, set()) | {path.task})
             for part in path.components.values())


@dataclasses.dataclass(frozen=True)
class Scale:
  """How cost lowers the score; the published mu2Net runs set both bases to 1.

  score = quality x size ** (accounted weights / weights)
                  x compute ** (operations / flops)

  Attributes:
    size: base of the size factor (`Size scale:98` is 0.98).
    weights: number of weights that counts as 1.
    compute: base of the compute factor.
    flops: operations of one image's forward pass that count as 1.
  """
  size: float = 1.
  weights: float = 1_484_162.
  compute: float = 1.
  flops: float = 15e6

  def __post_init__(self):
    if not (0 < self.size <= 1 and 0 < self.compute <= 1 and self.weights > 0
            and self.flops > 0):
      raise ValueError('scale: bases must lie in (0, 1] and weights and flops '
                       f'above 0; got {self}')

  @property
  def free(self) -> bool:
    """Whether the score does not depend on cost."""
    return self.size == 1 and self.compute == 1

  def factor(self, weights: float, flops: float) -> float:
    """The factor by which quality is multiplied.

    >>> Scale(size=.5, weights=10.).factor(20., 0.)
    0.25
    """
    return (self.size ** (weights / self.weights)
            * self.compute ** (flops / self.flops))


def best(paths: list[Path]) -> Path | None:
  """The path with the highest score; the most recent one among equals.

  Args:
    paths: paths in the order in which they were made.
  """
  return max(reversed(paths), key=lambda path: path.score, default=None)


def prune(paths: list[Path], size: int) -> list[Path]:
  """The paths with the highest scores, in their order; older ones win ties.

  If a path's parent is removed, its new parent is the nearest ancestor that
  stays or that is not among `paths`.

  Args:
    paths: paths of one task, in the order in which they were made.
    size: number of paths to keep; 0 keeps all.
  """
  if not size or len(paths) <= size:
    return paths
  ranked = sorted(range(len(paths)), key=lambda i: -paths[i].score)
  kept = [paths[i] for i in sorted(ranked[:size])]
  names, by_name = {path.name for path in kept}, {p.name: p for p in paths}

  def above(name):
    while name in by_name and name not in names:
      name = by_name[name].parent
    return name
  return [dataclasses.replace(path, parent=above(path.parent))
          for path in kept]
