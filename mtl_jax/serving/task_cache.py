"""Shelves: many tasks' impressions stacked in memory, masks as packed bits.

A shelf holds impressions of one structure with a leading axis of capacity, so
a compiled function takes a task as a traced index. The capacity is a power of
two that doubles when it is full: until then, a new task changes no shape and
compiles nothing.

On a shelf, the bits of a mask are stored in eight *planes*, not in the order of
`masks.pack`: bit j (the highest is 0) of byte i is weight j B + i of a leaf
with B bytes. Neighbouring weights are then in neighbouring bytes, and a CPU
expands them with vector instructions: five times faster, measured on 784 x
300 weights. A plane consists of whole rows of a kernel (its last axis), which
adds at most seven rows of bits and makes kernels faster whose rows don't divide
evenly.
"""

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import aliases
from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.serving import stored_tasks

Tree = trees.Tree
SMALLEST = 8
StoredTask = stored_tasks.StoredTask
# (backbone's parameters, impression, shared) -> the task's parameters.
Materialise: TypeAlias = Callable[[Tree, impressions.Impression, dict], Tree]
# The static part of a shelf's transforms, and `materialise` of its method.
Kind: TypeAlias = tuple[transforms.Kinds, Materialise]


class Slot(NamedTuple):
  """A task's entry on a shelf; with a leading axis, those of all its tasks.

  Attributes:
    impression: impression with its masks packed in planes, uint8 leaves
      [bytes].
    parameters: arrays of the task's transforms.
    classes: int32 scalar, number of classes.
  """
  impression: impressions.Impression
  parameters: pipeline.Parameters
  classes: aliases.Images | np.integer


def plane_bytes(shape: tuple[int, ...]) -> int:
  """Bytes of a mask of a shape on a shelf.

  >>> plane_bytes((300, 100)), plane_bytes((5,))
  (3800, 1)
  """
  row = shape[-1] if len(shape) > 1 else 1
  return -(-math.prod(shape) // max(1, 8 * row)) * row


def pack(mask: Tree) -> Tree:
  """The bits of a mask in planes, flat uint8 NumPy leaves.

  >>> mask = {'w': np.array([[True, False], [False, False], [True, True]])}
  >>> pack(mask)['w']  # a plane is one row: weights 0, 2 and 4 in byte 0
  array([160,  32], dtype=uint8)
  """
  def leaf(m: aliases.Images) -> np.ndarray:
    flat = np.asarray(m, bool).reshape(-1)
    planes = np.zeros((8, plane_bytes(m.shape)), bool)
    planes.reshape(-1)[:flat.size] = flat
    return np.packbits(planes, axis=0).reshape(-1)
  return jax.tree.map(leaf, mask)


def unpack(packed: Tree, like: Tree) -> Tree:
  """Inverse of `pack`, under jit and vmap.

  Args:
    packed: tree of uint8 leaves [bytes]; `None` leaves stay `None`.
    like: tree with the shapes, for example the backbone's parameters.

  Raises:
    ValueError: the number of bytes doesn't fit the shape; names the leaf.

  >>> mask = {'w': np.array([[True, False, True]])}
  >>> unpack(pack(mask), like={'w': np.zeros((1, 3))})
  {'w': Array([[ True, False,  True]], dtype=bool)}
  """
  bit = jnp.asarray(128 >> np.arange(8), jnp.uint8)[:, None]

  def leaf(name: str, bits: aliases.Array | None,
           x: aliases.Array) -> aliases.Array | None:
    if bits is None:
      return None
    needed = plane_bytes(x.shape)
    if bits.shape != (needed,):
      raise ValueError(f'packed mask has '
                       f'{trees.counted(bits.shape[0], "byte")} but {name} of '
                       f'shape {x.shape} needs {needed}')
    planes = (bits[None, :] & bit) != 0
    return planes.reshape(-1)[:math.prod(x.shape)].reshape(x.shape)
  return trees.map_named(leaf, packed, like)


class Shelf:
  """Impressions of one structure, by task name.

  Not safe for threads by itself: `Shelves` is.

  Attributes:
    kinds: static part of the tasks' transforms.
    materialise: `materialise` of the tasks' method.
    shared: what it needs of other tasks.
    names: names of the tasks, in the order of their slots.
    stack: a `Slot` whose leaves have a leading axis [capacity]; slots from
      `len(shelf)` on are zeros. Adding a task donates its buffers, unless
      they are `lent`: read it again after each `add`.
    lent: number of callers that use the current `stack`.
  """

  def __init__(self, kinds: transforms.Kinds, materialise: Materialise,
               shared: dict, slot: Slot) -> None:
    self.kinds = kinds
    self.materialise = materialise
    self.shared = shared
    self.names: list[str | None] = []
    self._slots: dict[str | None, int] = {}
    self._classes: list[int] = []
    # Other tasks rarely have the same path or structure of components.
    alone = slot.impression.path or slot.impression.structure
    self.stack = _zeros(slot, 1 if alone else SMALLEST)
    self.lent = 0

  def __len__(self) -> int:
    return len(self.names)

  def __contains__(self, name: str | None) -> bool:
    return name in self._slots

  @property
  def capacity(self) -> int:
    """Number of tasks that fit before the arrays grow."""
    return self.stack.classes.shape[0]

  def classes_at(self, slot: int) -> int:
    """The number of classes of the task in a slot."""
    return self._classes[slot]

  def forget(self, name: str | None) -> None:
    """Frees a task's name; its slot stays unused."""
    self._slots.pop(name, None)

  def reserve(self, count: int) -> None:
    """Makes room for `count` tasks in total."""
    capacity = self.capacity
    while capacity < count:
      capacity *= 2
    if capacity > self.capacity:
      self.stack, self.lent = _grow(self.stack, capacity), 0

  def add(self, name: str | None, slot: Slot) -> int:
    """Puts a task in the next free slot and returns its index.

    Raises:
      ValueError: the name is already on the shelf.
    """
    if name in self:
      raise ValueError(f'{name} is on the shelf already')
    self.reserve(len(self) + 1)
    index = len(self)
    write = _write_copy if self.lent else _write
    self.stack, self.lent = write(self.stack, slot, np.int32(index)), 0
    self.names.append(name)
    self._slots[name] = index
    self._classes.append(int(slot.classes))
    return index


def _zeros(slot: Slot, capacity: int) -> Slot:
  return jax.tree.map(
      lambda x: jnp.zeros((capacity, *np.shape(x)), x.dtype), slot)


@functools.partial(jax.jit, static_argnums=1)
def _grow(stack: Slot, capacity: int) -> Slot:
  return jax.tree.map(
      lambda x: jnp.zeros((capacity, *x.shape[1:]), x.dtype).at[
          :x.shape[0]].set(x), stack)


def _written(stack: Slot, slot: Slot, index: aliases.Array) -> Slot:
  return jax.tree.map(lambda x, new: x.at[index].set(new), stack, slot)


_write = jax.jit(_written, donate_argnums=0)
_write_copy = jax.jit(_written)  # for a stack that is still in use


class Place(NamedTuple):
  """The place of a task: `slot` of shelf `number` in its `Lent`."""
  number: int
  slot: int
  classes: int


class Part(NamedTuple):
  """A shelf's arrays, as arguments of a jitted call."""
  stack: Slot
  shared: dict


class Lent(NamedTuple):
  """The shelves for one shape of images at the time when they were lent.

  Attributes:
    kinds: for each shelf, the static part of its transforms and `materialise`.
    parts: arrays of each shelf.
    places: place of each requested task.
  """
  kinds: tuple[Kind, ...]
  parts: list[Part]
  places: dict[str | None, Place]


class Shelves:
  """The shelves of all structures, for tasks of type `StoredTask`.

  Safe for threads: lent arrays are never donated, whichever thread adds a task.
  """

  def __init__(self) -> None:
    self._lock = threading.RLock()
    self._shelves: dict[tuple, Shelf] = {}
    self._places: dict[tuple, tuple] = {}  # shelf, slot, the task's version

  @contextlib.contextmanager
  def lend(self, names: Sequence[str | None],
           shape: tuple[int, ...]) -> Iterator[Lent]:
    """Lends the shelves of tasks to a call, until the context ends.

    Args:
      names: names of tasks that were added for images of this shape.
      shape: shape of one raw image.
    """
    with self._lock:
      shelves = self.of_shape(shape)
      number = {id(shelf): i for i, shelf in enumerate(shelves)}
      places = {}
      for name in names:
        shelf, slot, _ = self._places[name, shape]
        places[name] = Place(number[id(shelf)], slot, shelf.classes_at(slot))
      lent = [(shelf, shelf.stack) for shelf in shelves]
      for shelf in shelves:
        shelf.lent += 1
      found = Lent(tuple((s.kinds, s.materialise) for s in shelves),
                   [Part(s.stack, s.shared) for s in shelves], places)
    try:
      yield found
    finally:
      with self._lock:
        for shelf, stack in lent:
          if shelf.stack is stack:
            shelf.lent -= 1

  def of_shape(self, shape: tuple[int, ...]) -> list[Shelf]:
    """The shelves whose tasks take raw images of a shape, oldest first."""
    return [shelf for key, shelf in self._shelves.items() if key[0] == shape]

  def outgrown(self, nbytes: int, wanted: int) -> bool:
    """Whether new shelves would be better: these hold more than `nbytes`, and
    at least twice the number of tasks that are wanted now."""
    with self._lock:
      return (len(self._places) >= 2 * wanted and nbytes < sum(
          leaf.nbytes for shelf in self._shelves.values()
          for leaf in jax.tree.leaves(shelf.stack)))

  def has(self, name: str | None, shape: tuple[int, ...],
          version: stored_tasks.Version | None = None) -> bool:
    """Whether a task that takes images of `shape` is on a shelf.

    Args:
      name: name of the task.
      shape: shape of one raw image.
      version: version of the task (see `StoredTask`); another one is absent.
    """
    found = self._places.get((name, shape))
    return found is not None and found[2] == version

  def add(self, stored: Sequence[StoredTask]) -> None:
    """Adds tasks that aren't on a shelf yet; grows a shelf at most once."""
    prepared = [(task, _slot(task)) for task in stored]
    with self._lock:
      self._add([(task, slot) for task, slot in prepared if not self.has(
          task.name, tuple(task.metadata['source_shape']), task.version)])

  def _add(self, prepared: Sequence[tuple[StoredTask, Slot]]) -> None:
    groups: dict[tuple, list[tuple[StoredTask, Slot]]] = {}
    for task, slot in prepared:
      groups.setdefault(_structure(task, slot), []).append((task, slot))
    for key, members in groups.items():
      if key not in self._shelves:
        first, slot = members[0]
        self._shelves[key] = Shelf(transforms.kinds(first.transforms),
                                   first.method.materialise, first.shared,
                                   slot)
      shelf = self._shelves[key]
      shelf.reserve(len(shelf) + len(members))
      for task, slot in members:
        shelf.forget(task.name)  # an older version of the task
        self._places[task.name, key[0]] = (
            shelf, shelf.add(task.name, slot), task.version)


def _slot(task: StoredTask) -> Slot:
  impression = task.impression
  if impression.masks is not None:
    impression = impression._replace(masks=pack(impression.masks))
  return Slot(impression, task.parameters, np.int32(task.classes))


def _structure(task: StoredTask, slot: Slot) -> tuple:
  """Equal for tasks that can share a shelf; the images' shape comes first."""
  leaves = tuple((np.shape(x), np.dtype(x.dtype).str)
                 for x in jax.tree.leaves(slot))
  return (tuple(task.metadata['source_shape']),
          transforms.kinds(task.transforms),
          task.method.materialise,
          stored_tasks.name_of_shared(task.metadata)
          if task.method.abilities.needs_earlier else '',
          jax.tree.structure(slot), leaves)
