"""Keeps the candidates of task inference on the device, for many choices.

A task is read once; its bits stay on the device in a row of a stack whose
capacity doubles when it is full. A choice of candidates is a list of rows. A
new choice reads nothing, and compiles only if it needs a larger power of two
of rows than all choices before. The bits are divided over a process's
accelerators, by the bytes of each mask.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import aliases
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.inference import identify
from mtl_jax.parallel import divided
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.serving import candidates
from mtl_jax.storage import folders

Tree = trees.Tree
SMALLEST = 8
# Name of a stored task, and the version of its folder.
Key: TypeAlias = tuple[str, folders.Stamp | None]


class Stack:
  """Arrays of one structure by row; rows are added and never changed.

  Attributes:
    tree: leaves [capacity, ...].
    rows: number of rows in use.
  """

  def __init__(self, row: Tree, devices: Sequence = ()) -> None:
    self._devices = devices
    self.tree = divided.divide_bits(jax.tree.map(
        lambda x: jnp.zeros((SMALLEST, *x.shape), x.dtype), row), devices)
    self.rows = 0

  def add(self, rows: list[Tree]) -> list[int]:
    """Appends rows; returns their indices.

    Arrays that a caller took from the stack earlier do not change.
    """
    first, count = self.rows, len(rows)
    capacity = jax.tree.leaves(self.tree)[0].shape[0]
    while capacity < first + count:
      capacity *= 2
    width = power_of_two(count)
    places = np.full(width, capacity, np.int32)  # beyond the end: left out
    places[:count] = np.arange(first, first + count)
    block = jax.tree.map(lambda *x: np.stack(
        x + (np.zeros_like(x[0]),) * (width - count)), *rows)
    self.tree = divided.divide_bits(
        _extended(self.tree, capacity, block, places), self._devices)
    self.rows += count
    return list(range(first, first + count))


@functools.partial(jax.jit, static_argnums=1)
def _extended(tree: Tree, capacity: int, block: Tree,
              places: aliases.Array) -> Tree:
  def leaf(x: aliases.Array, new: aliases.Array) -> aliases.Array:
    whole = jnp.zeros((capacity, *x.shape[1:]), x.dtype).at[:len(x)].set(x)
    return whole.at[places].set(new, mode='drop')
  return jax.tree.map(leaf, tree, block)


def power_of_two(count: int) -> int:
  """The smallest power of two that is not below `count`.

  >>> power_of_two(1), power_of_two(5), power_of_two(8)
  (1, 8, 8)
  """
  return 1 << max(0, count - 1).bit_length()


class _Member(NamedTuple):
  """A task on a shelf, and the rows of its arrays."""
  described: candidates.Described
  stack: tuple
  row: int


class Selection(NamedTuple):
  """Candidates of an inference, as rows of the shelves.

  Attributes:
    names: those with masks come first, as in `Candidates`.
    own, mixed: numbers of tasks with masks, and with coefficients.
    trees: (masks, coefficients and masks) of the shelves; `None` if empty.
    rows: int32 rows of both, padded to powers of two.
    basis: the basis that the coefficients combine, or `None`.
    transforms, image_shapes, classes, untrained: as in `Candidates`.
  """
  names: tuple[str, ...]
  own: int
  mixed: int
  trees: tuple
  rows: tuple
  basis: Tree
  transforms: transforms.Chain
  image_shapes: tuple[tuple[int, ...], ...]
  classes: int
  untrained: str | None

  def rule(self, outputs: int, rule: str, objective: str | None,
           normalise: bool, rerank: int) -> identify.Rule:
    """The rule that a call of `System.identify` asks for.

    Args:
      outputs: of the backbone.
      rule, objective, normalise, rerank: as in `System.identify`.

    Raises:
      ValueError: the candidates can't be told apart by it.
    """
    if normalise and not self.mixed:
      raise ValueError('normalise divides coefficients by the sum of their '
                       'magnitudes, but all candidates have masks; leave it '
                       'out')
    if objective is None:
      reached = outputs > self.classes and self.untrained is None
      objective = ('superfluous' if reached and rule != 'brute_force'
                   and not rerank else 'entropy')
    elif objective == 'superfluous' and self.untrained is not None:
      raise ValueError(
          'the objective superfluous reads outputs beyond the classes, which '
          f"the training of {self.untrained} did not reach: its loss was "
          "'classes'; take objective='entropy'")
    return identify.Rule(rule, objective, normalise, rerank)


class CandidateShelf:
  """All tasks that have been candidates; safe for threads.

  Args:
    read: (name) -> (arrays, metadata) of a stored task.
    shared_of: (name, metadata) -> the `shared` of the task's method.
    like: the backbone's parameters.
    devices: hold the bits together, and a backbone each; by default this
      process's accelerators.
  """

  def __init__(self, read: Callable[[str], tuple[dict, dict]],
               shared_of: Callable[[str, dict], dict], like: Tree,
               devices: Sequence | None = None) -> None:
    self._read, self._shared_of, self._like = read, shared_of, like
    self._devices = devices or divided.accelerators()
    self._copied: tuple = (None, None)
    self._lock = threading.Lock()
    self._members: dict[tuple, _Member] = {}
    self._stacks: dict[tuple, Stack] = {}
    self._last: tuple = (None, None)

  def select(self, keys: list[Key]) -> Selection:
    """The candidates with these names.

    Args:
      keys: (name, version) of stored tasks; a new version is read again.

    Raises:
      ValueError: as in `candidates.gather`.
    """
    with self._lock:
      known, selection = self._last
      if known == keys:
        return selection
      self._take([key for key in keys if key not in self._members])
      members = [self._members[key] for key in keys]
      selection = self._selected(members)
      self._last = list(keys), selection
      return selection

  def _take(self, keys: list[Key]) -> None:
    """Reads tasks and adds them to their shelves."""
    groups: dict[tuple, list] = {}
    for key in keys:
      arrays, metadata = self._read(key[0])
      described = candidates.describe(key[0], arrays, metadata)
      row = {part: described.arrays(arrays, part)
             for part in ('masks', 'coefficients')}
      structure = tuple((part, name, a.shape, a.dtype.str)
                        for part, leaves in row.items()
                        for name, a in sorted(leaves.items()))
      groups.setdefault(structure, []).append((key, described, row))
    for structure, members in groups.items():
      stack = self._stacks.get(structure)
      if stack is None:
        stack = self._stacks[structure] = Stack(members[0][2],
                                                self._devices)
      places = stack.add([row for _, _, row in members])
      for (key, described, _), place in zip(members, places):
        self._members[key] = _Member(described, structure, place)

  def _selected(self, members: list[_Member]) -> Selection:
    found = candidates.agreed([m.described for m in members])
    own = [m for m in members if not m.described.combines]
    mixed = [m for m in members if m.described.combines]
    basis = (self._shared_of(mixed[0].described.name,
                             mixed[0].described.metadata)['basis']
             if mixed else None)
    held = tuple(self._stacks[part[0].stack].tree if part else None
                 for part in (own, mixed))
    return Selection(
        tuple(m.described.name for m in own + mixed), len(own), len(mixed),
        held, tuple(_rows(part) for part in (own, mixed)), basis,
        found.transforms, found.image_shapes, found.classes, found.untrained)

  def infer(self, found: Selection, rule: identify.Rule,
            backbone: backbone_lib.Backbone, images: np.ndarray,
            counted: np.ndarray) -> tuple[str, np.ndarray, int]:
    """(name, float32 [candidates], passes) of one inference.

    Args:
      found: from `select`.
      rule: rule of the inference.
      backbone: backbone of the system.
      images: uint8 [1, n, H, W, C].
      counted: bool [1, n].
    """
    held = [None if tree is None else {
        part: trees.map_named(lambda name, _, leaves=leaves: leaves.get(name),
                              self._like) if leaves else None
        for part, leaves in tree.items()} for tree in found.trees]
    params, stats, basis = self._on_devices(backbone.params, backbone.stats,
                                            found.basis)
    inferred = jax.device_get(_infer(
        rule, backbone.network, transforms.kinds(found.transforms),
        found.classes, params, stats, *held, found.rows,
        (np.int32(found.own), np.int32(found.mixed)), basis,
        pipeline.parameters(found.transforms, np.shape(images)[2:]),
        images, counted))
    padded = len(found.rows[0]) if found.own else 0
    where = [*range(found.own), *range(padded, padded + found.mixed)]
    task = where.index(int(inferred.task[0]))
    return found.names[task], inferred.gradient[0][where], int(
        inferred.passes[0])

  def _on_devices(self, *trees_: Tree) -> tuple:
    """The trees on all devices; copies are kept until others are given."""
    with self._lock:
      given, copies = self._copied
      if given is None or any(a is not b for a, b in zip(given, trees_)):
        copies = divided.on_each(trees_, self._devices)
        self._copied = trees_, copies
      return copies


def _rows(members: list[_Member]) -> np.ndarray:
  rows = np.zeros(power_of_two(len(members)), np.int32)
  rows[:len(members)] = [m.row for m in members]
  return rows


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _infer(
    rule: identify.Rule, network: models.Network, kinds: transforms.Kinds,
    classes: int, backbone: aliases.Params, stats: aliases.Stats,
    own: dict[str, Tree] | None, mixed: dict[str, Tree] | None,
    rows: tuple[aliases.Array, aliases.Array],
    counts: tuple[aliases.Array, aliases.Array], basis: Tree,
    parameters: pipeline.Parameters, images: aliases.Array,
    counted: aliases.Array) -> identify.Inferred:
  """`candidates.infer` among chosen rows of stacks; see there."""
  def take(held: dict[str, Tree] | None, part: str,
           index: aliases.Array) -> Tree:
    return None if held is None or held[part] is None else jax.tree.map(
        lambda x: x[index], held[part])
  bank = candidates.Bank(
      take(own, 'masks', rows[0]), take(mixed, 'coefficients', rows[1]),
      take(mixed, 'masks', rows[1]), basis)
  used = jnp.concatenate([jnp.arange(len(index)) < count
                          for held, index, count in zip((own, mixed), rows,
                                                        counts)
                          if held is not None])
  return candidates.infer_used(rule, network, kinds, classes, backbone, stats,
                               bank, used, parameters, images, counted)
