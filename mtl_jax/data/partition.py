"""Divides classes and data sets into tasks."""

import itertools

import numpy as np

from mtl_jax import trees
from mtl_jax.data import options


def require_classes(found, labels):
  """Refuses labels that are not classes of a source."""
  for label in labels:
    if not options.whole(label) or not 0 <= label < found.classes:
      raise ValueError(f'groups: {label!r} is no class of {found.name!r}; its '
                       f'classes are 0 to {found.classes - 1}')


def given(found, groups, *others):
  """Classes of every task from `groups`, int [num_tasks, classes]."""
  if any(other is not None for other in others):
    raise ValueError('split: groups are the tasks; give no other way to make '
                     'them')
  if not options.listed(groups) or not all(map(options.listed, groups)):
    raise ValueError(f'suite.groups is {groups!r}; it must be a sequence of '
                     'the sequences of classes that make a task, such as '
                     '((0, 1), (2, 3))')
  flat = [label for group in groups for label in group]
  require_classes(found, flat)
  if len(set(flat)) != len(flat) or len({len(g) for g in groups}) != 1:
    raise ValueError(f'split: groups {groups} must be disjoint and of equal '
                     'size')
  return np.array(groups)


def drawn(found, classes_per_task, num_tasks, seed):
  """Classes of every task, in order or at random, int [num_tasks, classes]."""
  if classes_per_task is None:
    raise ValueError("suite 'split' needs classes_per_task, or groups")
  options.positive('classes_per_task', classes_per_task)
  if num_tasks is None:
    num_tasks, left = divmod(found.classes, classes_per_task)
    if not num_tasks:
      raise ValueError(
          f'split: classes_per_task is {classes_per_task}, but {found.name!r} '
          f'has {trees.counted(found.classes, "class")}; give at most '
          f'{found.classes}')
    if left:
      raise ValueError(
          f'split: the {trees.counted(found.classes, "class")} of '
          f'{found.name!r} cannot be divided '
          f'into groups of {classes_per_task}; give num_tasks={num_tasks} to '
          f'leave {left} out')
  options.positive('num_tasks', num_tasks)
  if num_tasks * classes_per_task > found.classes:
    raise ValueError(
        f'split: {trees.counted(num_tasks, "task")} of '
        f'{trees.counted(classes_per_task, "class")} need more '
        f'than the {found.classes} of {found.name!r}')
  order = (np.arange(found.classes) if seed is None
           else np.random.RandomState(seed).permutation(found.classes))
  return order[:num_tasks * classes_per_task].reshape(num_tasks, -1)


def refuse_copies(found):
  """Refuses sources that hold the same test images in the same classes."""
  for a, b in itertools.combinations(found, 2):
    if np.array_equal(a.test.images, b.test.images) and (
        _same_partition(a.test.labels, b.test.labels)):
      raise ValueError(
          f'sources {a.name!r} and {b.name!r} hold the same test images in the '
          'same classes: their tasks would be one task twice; prepare the data '
          'anew, or leave one out')


def _same_partition(a, b) -> bool:
  """Whether two lists of labels are equal up to the numbering of classes."""
  if a.ndim > 1 or b.ndim > 1:  # numbers, not classes
    return np.array_equal(a, b)
  pairs = {*zip(a.tolist(), b.tolist())}
  return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))
