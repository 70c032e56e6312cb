"""Tasks of a suite, and where their images lie in a source."""

import dataclasses
import re
import unicodedata
from typing import NamedTuple

import numpy as np

from mtl_jax import trees
from mtl_jax.data import transforms

LONGEST = 100  # bytes of a name; more is added where it names a folder


@dataclasses.dataclass(frozen=True)
class Task:
  """One task: which images, what is done to them, and its labels.

  Attributes:
    name: unique in its suite; fit for a folder's name.
    index: place in its suite.
    source: name for `sources.load`.
    transforms: tuple of `transforms.Transform`.
    labels: the source's classes that are kept, which become 0, 1, ... in
      this order; None keeps all as they are. -1 stands in the place of an
      output that only other tasks' classes have.
    classes: among how many outputs its answer is chosen; of a regression,
      the number of its targets.
    regression: whether the answer is a number (or several) and not a class.
    key: what its random numbers come from, so that they depend neither on how
      many tasks there are nor on what they are called; '' takes the name.
    drop_shared: leave images out of training and validation that are also
      test images of the source.
  """

  name: str
  index: int
  source: str
  transforms: tuple[transforms.Transform, ...]
  labels: tuple[int, ...] | None
  classes: int
  regression: bool = False
  key: str = ''
  drop_shared: bool = False

  def __post_init__(self):
    if not isinstance(self.name, str) or not re.fullmatch(
        r'\w[\w.-]*', self.name) or len(self.name.encode()) > LONGEST or (
            '.orbax-' in self.name):  # of folders that are half written
      raise ValueError(
          f'task name {self.name!r} may hold only letters, digits, "_", "-" '
          f'and ".", at most {LONGEST} bytes; give suite.names')
    kept = [label for label in self.labels or () if label != -1]
    if self.labels is not None and (
        len(set(kept)) != len(kept) or not kept
        or len(self.labels) != self.classes):
      raise ValueError(f'task {self.name!r}: labels {self.labels} must be '
                       f'{self.classes} different classes')

  @property
  def drawn_by(self) -> str:
    """What its random numbers come from."""
    return self.key or self.name


class View(NamedTuple):
  """Where a task's images lie in its source.

  Attributes:
    train, valid, test: int32 [n], rows of the source's split.
    label_map: int32 [source.classes], -1 for other tasks' classes.
    dropped: by split, how many images `drop_shared` leaves out.
  """

  train: np.ndarray
  valid: np.ndarray
  test: np.ndarray
  label_map: np.ndarray
  dropped: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Suite:
  """Tasks in the order in which they arrive."""

  name: str
  tasks: tuple[Task, ...]

  def __post_init__(self):
    seen: dict[str, str] = {}
    for i, task in enumerate(self.tasks):
      # Some disks do not tell capital letters apart.
      other = seen.setdefault(
          unicodedata.normalize('NFC', task.name).casefold(), task.name)
      if len(seen) == i:
        raise ValueError(
            f'suite {self.name!r} has two tasks {task.name!r}'
            f'{"" if other == task.name else f" and {other!r}"}; give each a '
            'name of its own, on disks that do not tell capitals apart too')
      if task.index != i:
        raise ValueError(f'suite {self.name!r}: task {task.name!r} stands at '
                         f'{i} but says {task.index}')


def view(task, source):
  """The rows of the source that belong to a task, and its label map.

  Args:
    task: `Task`.
    source: the `sources.Source` that `task.source` names.

  Returns:
    A `View`; a row's label in the task is `label_map[labels[row]]`.

  Raises:
    ValueError: another source, unknown classes, or a split without images.

  >>> from mtl_jax.data import sources
  >>> task = Task('pair', 0, 'digits', (), (3, 2), 2)
  >>> view(task, sources.load('digits')).label_map.tolist()
  [-1, -1, 1, 0, -1, -1, -1, -1, -1, -1]
  """
  if task.source != source.name:
    raise ValueError(f'task {task.name!r} is of source {task.source!r}, not '
                     f'{source.name!r}')
  kept = range(source.classes) if task.labels is None else task.labels
  if len(kept) != task.classes or not all(
      -1 <= label < source.classes for label in kept):
    raise ValueError(f'task {task.name!r} has '
                     f'{trees.counted(task.classes, "class")} '
                     f'{list(kept)[:20]}, but source {source.name!r} has '
                     f'{source.classes}')
  label_map = np.full(source.classes, -1, np.int32)
  for output, label in enumerate(kept):
    if label != -1:
      label_map[label] = output
  if task.regression != source.regression:
    raise ValueError(f'task {task.name!r} and source {source.name!r} disagree '
                     'on whether this is a regression')
  rows, dropped = {}, {'train': 0, 'valid': 0}
  for split in ('train', 'valid', 'test'):
    labels = getattr(source, split).labels
    kept = (np.ones(len(labels), bool) if source.regression
            else label_map[labels] >= 0)
    if task.drop_shared and split in dropped:
      dropped[split] = int(np.sum(kept & source.repeated[split]))
      kept &= ~source.repeated[split]
    if not kept.any():
      raise ValueError(f'task {task.name!r} has no images in split {split!r} '
                       f'of source {source.name!r}')
    rows[split] = np.flatnonzero(kept).astype(np.int32)
  if source.regression:
    label_map = np.zeros(0, np.int32)
  return View(**rows, label_map=label_map, dropped=dropped)
