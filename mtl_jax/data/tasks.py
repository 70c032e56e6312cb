"""Tasks of a suite, and the rows of their images in a source."""

import dataclasses
import operator
import re
import unicodedata
from typing import NamedTuple

import numpy as np

from mtl_jax import messages
from mtl_jax import trees
from mtl_jax.data import transforms

LONGEST = 100  # bytes of a name; a folder's name has some more


@dataclasses.dataclass(frozen=True)
class Task:
  """One task: its images, their transforms, and its labels.

  Attributes:
    name: unique in its suite; usable as a folder's name.
    index: position in its suite.
    source: name for `sources.load`.
    transforms: tuple of `transforms.Transform`.
    labels: the source's classes that are kept, which become 0, 1, ... in
      this order; None keeps all as they are. -1 stands for an output that
      only classes of other tasks have.
    classes: number of outputs among which a prediction is chosen; for a
      regression, the number of its targets.
    regression: whether the task predicts one or more numbers, not a class.
    key: seed of its random numbers, so that they depend neither on the number
      of tasks nor on their names; '' takes the name.
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
            '.orbax-' in self.name):  # marks an unfinished folder
      raise ValueError(
          f'task name {self.name!r} may hold only letters, digits, "_", "-" '
          f'and ".", and begins with none of the last two, at most {LONGEST} '
          'bytes; give another (suite.names, or name= of learn)')
    chain = self.transforms
    if not isinstance(chain, (list, tuple)) or not all(
        isinstance(step, transforms.Transform) for step in chain):
      raise ValueError(
          f'task {self.name!r}: transforms is {messages.shown(chain)}; give a '
          'tuple of what the functions of mtl_jax.data.transforms return')
    object.__setattr__(self, 'transforms', tuple(chain))
    object.__setattr__(self, 'classes', operator.index(self.classes))
    if self.labels is not None:
      object.__setattr__(self, 'labels', tuple(
          map(operator.index, self.labels)))
    kept = [label for label in self.labels or () if label != -1]
    if self.labels is not None and (
        len(set(kept)) != len(kept) or not kept
        or len(self.labels) != self.classes):
      raise ValueError(f'task {self.name!r}: labels {self.labels} must be '
                       f'{self.classes} different classes')

  @property
  def drawn_by(self) -> str:
    """The seed of its random numbers."""
    return self.key or self.name


class View(NamedTuple):
  """The rows of a task's images in its source.

  Attributes:
    train, valid, test: int32 [n], rows of the source's split.
    label_map: int32 [source.classes], -1 for other tasks' classes.
    dropped: number of images that `drop_shared` leaves out, by split.
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
    object.__setattr__(self, 'tasks', tuple(self.tasks))
    wrong = [task for task in self.tasks if not isinstance(task, Task)]
    if wrong or not self.tasks:
      raise ValueError(f'suite {self.name!r} has '
                       f'{messages.shown(wrong[0]) if wrong else "no task"}; '
                       'give it tasks, each a suites.Task')
    seen: dict[str, str] = {}
    for i, task in enumerate(self.tasks):
      # Some disks are case-insensitive.
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
    ValueError: the source is another one, classes are unknown, or a split has
      no images.

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
