"""The state of a search, and how it is saved.

Paths are saved as references: components of the root or of a committed path
are not written again.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax import trees
from mtl_jax.evolution import networks
from mtl_jax.storage import checkpoint
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import progress

Path = networks.Path
_FIELDS = ('name', 'task', 'parent', 'hyper', 'score', 'quality', 'record')


@dataclasses.dataclass(frozen=True)
class State:
  """The state of a task's search between two calls of its program.

  Attributes:
    generation: number of the current generation.
    paths: the task's own paths in the order in which they were made, up to the
      end of the last generation.
    children: by name of a path, the number of its children for this task, up
      to the end of the last generation.
    seeds: names of the other tasks' paths in their order.
    log: JSON lines of all trained children.
    trained: paths of the children of this generation so far; `None` for a
      child that wasn't kept.
    rounds: what each round measured of the children in training.
    learners: arrays of the children in training by name, or `None` before the
      first round.
    seconds: time spent so far.
  """
  generation: int = 0
  paths: list[Path] = dataclasses.field(default_factory=list)
  children: Mapping[str, int] = dataclasses.field(default_factory=dict)
  seeds: tuple[str, ...] = ()
  log: list[dict] = dataclasses.field(default_factory=list)
  trained: list[Path | None] = dataclasses.field(default_factory=list)
  rounds: list = dataclasses.field(default_factory=list)
  learners: dict[str, Any] | None = None
  seconds: float = 0.

  @property
  def position(self) -> int:
    """A number that grows with every save."""
    return (self.generation * 1000 + len(self.trained)) * 100 + len(self.rounds)


def with_components(path: Path, known: Mapping[str, Any]) -> Path:
  """The path with its components replaced by the known objects of equal id."""
  return dataclasses.replace(path, components={
      name: known.get(part.id, part)
      for name, part in path.components.items()})


def to_arrays(state: State, known: Sequence[Path]) -> tuple[dict, dict]:
  """A state as (named arrays, JSON values).

  Args:
    state: the state to save.
    known: the root and the committed paths; their components are left out.
  """
  stored = {part.id for path in known for part in path.components.values()}
  arrays: dict[str, Any] = {}
  for path in [*state.paths, *state.trained]:
    for part in () if path is None else path.components.values():
      if part.id not in stored:
        arrays |= _named(f'part/{part.id}', {part.name: part.tree})
        if part.trace is not None:
          arrays |= _named(f'trace/{part.id}', {part.name: part.trace})
  arrays |= {f'learners/{name}': leaf
             for name, leaf in (state.learners or {}).items()}
  values = {name: getattr(state, name) for name in (
      'generation', 'children', 'seeds', 'log', 'rounds', 'seconds')}
  return arrays, values | {
      'paths': [_describe(path) for path in state.paths],
      'trained': [None if path is None else _describe(path)
                  for path in state.trained]}


def _named(prefix, tree):
  return {f'{prefix}/{name}': np.asarray(leaf)
          for name, leaf in trees.flatten(tree).items()}


def _describe(path):
  found = {name: getattr(path, name) for name in _FIELDS}
  return found | {'components': {name: part.id for name, part in
                                 path.components.items()}}


def from_arrays(arrays: dict, values: dict, known: Sequence[Path]) -> State:
  """Inverse of `to_arrays`.

  Raises:
    CheckpointError: a path refers to a component that does not exist.
  """
  parts = {part.id: part for path in known
           for part in path.components.values()}
  tree = trees.unflatten(arrays)
  for identity, content in tree.get('part', {}).items():
    (name, leaves), = content.items()
    trace = tree.get('trace', {}).get(identity, {}).get(name)
    parts[identity] = networks.Component(name, identity, leaves,
                                         trees.size(leaves), trace)

  def path(described):
    if described is None:
      return None
    missing = sorted(set(described['components'].values()) - set(parts))
    if missing:
      raise checkpoint.CheckpointError(
          f'path {described["name"]} needs component {missing[0]}, which no '
          'finished task holds any more; restore the tasks from a copy')
    return Path(**{k: described[k] for k in _FIELDS}, components={
        name: parts[i] for name, i in described['components'].items()})

  learners = {name.removeprefix('learners/'): leaf
              for name, leaf in arrays.items() if name.startswith('learners/')}
  return State(
      values['generation'], [path(p) for p in values['paths']],
      dict(values['children']), tuple(values['seeds']), list(values['log']),
      [path(p) for p in values['trained']], list(values['rounds']),
      learners or None, values['seconds'])


def save(work: workdir_lib.Workdir, name: str, known: Sequence[Path],
         state: State, defined_in: dict) -> None:
  """Saves the progress of a search (see `progress.save`)."""
  arrays, values = to_arrays(state, known)
  arrays['there'] = np.zeros(1)  # a checkpoint holds at least one array
  progress.save(work, name, state.position, arrays, values, defined_in)


def restore(work: workdir_lib.Workdir, name: str, known: Sequence[Path],
            start: State, defined_in: dict) -> State:
  """The newest saved state of a search, or `start`."""
  found = progress.newest(work, name, defined_in)
  return from_arrays(*found, known) if found else start


def remove(work: workdir_lib.Workdir, name: str) -> None:
  """Removes the progress of a committed search."""
  progress.remove(work, name)
