"""Sources, and how they are divided into train, validation and test.

The splits are fixed and equal on every machine:

  * Official train and test splits are used if they exist. Validation is the
    official one, or else 10 % of train, at most 5,000: the first of
    `np.random.RandomState(0).permutation(len(train))`. MNIST has 55,000 /
    5,000 / 10,000.
  * Without a test split (digits, arrays, folders), the first 20 % of
    `np.random.RandomState(0).permutation(n)` are test, and the next 10 % of the
    rest (at most 5,000) are validation.
  * If a class would have no training images, it is divided separately, in the
    same order: a fifth of its images (at least one of two) is test, the others
    are for training. The report lists these classes.
  * If train and test have no class in common (Omniglot: other characters, other
    alphabets), they can't be used for classification as they are: the splits
    are pooled, train first, and divided as if there were no test split.
  * For TFDS sets with a validation split but no labelled test split, the
    validation split is the test split.
  * '!FEATURE': all splits are pooled, train first, then validation and test,
    and divided within each value of the feature: a tenth (at least one image)
    is test, another tenth validation. In Omniglot each of the 1,623 characters
    ('label') has 20 drawings: 2 are test, 2 validation, 16 train. Folders
    accept '!label': each class is divided in the same proportions.

Within a split the original order is kept, and so are images that occur twice in
the original data. `leaks` counts test images that are also in other splits; a
suite's `drop_shared` leaves them out of training.
"""

import dataclasses
import functools
import hashlib
import numbers
from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

import numpy as np

from mtl_jax import messages
from mtl_jax import trees


class Arrays(NamedTuple):
  """One split.

  Attributes:
    images: uint8 [n, H, W, C]; or float32 [n, features] of a table; or int32
      [n, length], tokens of texts.
    labels: int32 [n]; or float32 [n, targets] of a regression.
  """

  images: np.ndarray
  labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """A data set in memory, with read-only arrays.

  Attributes:
    name: the name given to `load`.
    version: version of the original data.
    classes: int; labels are in [0, classes). For a regression, the number of
      targets.
    train, valid, test: `Arrays` of one image shape.
    class_names: str of every class, or `None` if classes have no names.
    notes: sentences about the data that a run's report repeats.

  Raises:
    ValueError: a type, rank, length, label or class name is wrong; names
      source and split.
  """

  name: str
  version: str
  classes: int
  train: Arrays
  valid: Arrays
  test: Arrays
  class_names: tuple[str, ...] | None = None
  notes: tuple[str, ...] = ()

  def __post_init__(self):
    require_name(self.name)
    if not isinstance(self.classes, numbers.Integral) or isinstance(
        self.classes, bool) or self.classes < 1:
      raise ValueError(f'source {self.name!r}: classes is {self.classes!r}; it '
                       'must be a whole number above 0')
    if not isinstance(self.version, str):
      raise ValueError(f'source {self.name!r}: version is {self.version!r}; '
                       'it must be a string')
    object.__setattr__(self, 'classes', int(self.classes))
    object.__setattr__(self, 'class_names', _class_names(self))
    for split in ('train', 'valid', 'test'):
      where = f'source {self.name!r}, split {split!r}'
      images, labels = (np.asarray(a) for a in getattr(self, split))
      _check(where, images, labels, self.classes)
      if images.shape[1:] != np.shape(self.train[0])[1:]:
        raise ValueError(f'{where}: images are {images.shape[1:]} but those '
                         f'of train are {np.shape(self.train[0])[1:]}')
      views = images.view(), labels.view()
      for view in views:
        view.flags.writeable = False
      object.__setattr__(self, split, Arrays(*views))

  @property
  def image_shape(self):
    """(H, W, C) of every image; (features,) or (length,) of other inputs."""
    return tuple(self.train.images.shape[1:])

  @property
  def regression(self):
    """Whether the labels are numbers to predict, not classes."""
    return self.train.labels.dtype == np.float32

  @property
  def tokens(self):
    """Whether inputs are tokens of texts."""
    return self.train.images.dtype == np.int32

  @functools.cached_property
  def repeated(self):
    """Inputs that are both in test and in another split, as bool [n] each.

    'test' marks those that are also in train or validation, pixel by pixel;
    'train' and 'valid' mark those that are also in test.
    """
    found = self._digests
    known = {*found['train'], *found['valid']}
    tested = set(found['test'])
    return {split: np.fromiter((d in (known if split == 'test' else tested)
                                for d in digests), bool, len(digests))
            for split, digests in found.items()}

  @functools.cached_property
  def contradicted(self):
    """Which test inputs also stand in another class, as bool [n]."""
    seen: dict[bytes, int] = {}
    other: set[bytes] = set()
    for split, digests in self._digests.items():
      for digest, label in zip(digests, getattr(self, split).labels.tolist()):
        if seen.setdefault(digest, label) != label:
          other.add(digest)
    return np.array([d in other for d in self._digests['test']], bool)

  @functools.cached_property
  def _digests(self):
    return {split: [hashlib.blake2b(i.tobytes(), digest_size=16).digest()
                    for i in getattr(self, split).images]
            for split in ('train', 'valid', 'test')}


def require_name(name) -> None:
  """Refuses the name of a source that is no string, or empty."""
  if not isinstance(name, str) or not name:
    raise ValueError(f'a source is named {messages.shown(name)}; its name must '
                     'be a string that is not empty')


def parts(source):
  """The train, validation and test split of a source."""
  return source.train, source.valid, source.test


def ordered_names(name, given):
  """The names of a source's classes as a tuple."""
  names = given if isinstance(given, (str, Set, Mapping)) or not isinstance(
      given, Iterable) else tuple(given)  # a set has no order
  if not isinstance(names, tuple) or not all(
      isinstance(n, str) for n in names):
    raise ValueError(f'source {name!r}: class_names is '
                     f'{messages.shown(names)}; it must be a sequence of '
                     'strings, the first for class 0')
  return tuple(map(str, names))


def _class_names(source):
  if source.class_names is None:
    return None
  names = ordered_names(source.name, source.class_names)
  if len(names) != source.classes or len(set(names)) != len(names):
    raise ValueError(
        f'source {source.name!r}: class_names are {len(names)}, '
        f'{len(set(names))} of them different, but there are {source.classes} '
        'classes; give each a name of its own')
  return names


def _check(where, images, labels, classes):
  if images.dtype in (np.float32, np.int32) and images.ndim == 2:
    if images.dtype == np.float32 and not np.isfinite(images).all():
      raise ValueError(f'{where}: features are not finite')
    if images.dtype == np.int32 and images.size and images.min() < 0:
      raise ValueError(f'{where}: there is a token {images.min()}; tokens are '
                       'numbers of words, from 0')
  elif images.dtype != np.uint8 or images.ndim != 4:
    raise ValueError(
        f'{where}: images must be uint8 [n, H, W, C], not {images.dtype} '
        f'{list(images.shape)}; scale to 0..255, then .astype(np.uint8)')
  if labels.dtype == np.float32 and labels.shape == (len(images), classes):
    if not len(labels) or not np.isfinite(labels).all():
      raise ValueError(f'{where}: there are no targets, or not finite ones')
    return
  if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
    raise ValueError(f'{where}: labels must be int32 [{len(images)}], one per '
                     f'image, not {labels.dtype} {list(labels.shape)}')
  if not len(images):
    raise ValueError(f'{where}: there are no images')
  wrong = np.flatnonzero((labels < 0) | (labels >= classes))
  if len(wrong):
    raise ValueError(f'{where}: label {labels[wrong[0]]} in row {wrong[0]} is '
                     f'not in [0, {classes}); {len(wrong)} such rows')


def leaks(source):
  """Number of test images that are also in train or validation, by pixels.

  >>> same = Arrays(np.zeros((10, 2, 2, 1), np.uint8), np.zeros(10, np.int32))
  >>> leaks(divide('same', '1', 1, same))
  2
  """
  return int(source.repeated['test'].sum())


def _require_pairs(name, split, pair):
  if pair and len(pair[0]) != len(pair[1]):
    raise ValueError(f'source {name!r}, split {split!r}: '
                     f'{trees.counted(len(pair[0]), "input")} but '
                     f'{trees.counted(len(pair[1]), "label")}; there must '
                     'be as many')


def divide(name, version, classes, train, valid=None, test=None,
           class_names=None, notes=()):
  """Splits off what is missing, as the module describes.

  Args:
    name, version, classes: as in `Source`.
    train: `Arrays`; missing splits are taken from it.
    valid, test: `Arrays`, or `None`.
    class_names, notes: as in `Source`.

  Returns:
    A `Source`.

  Raises:
    ValueError: there are too few images, or another number of labels.
  """
  for split, pair in (('train', train), ('valid', valid), ('test', test)):
    _require_pairs(name, split, pair)
  order = np.random.RandomState(0).permutation(len(train.labels))
  tests = 0 if test else max(1, len(order) // 5)
  valids = 0 if valid else max(1, min(5000, (len(order) - tests) // 10))
  if 0 < tests + valids >= len(order):
    raise ValueError(f'source {name!r}: '
                     f'{trees.counted(len(order), "image")} cannot be divided: '
                     'too few to split off validation and test')

  which = np.full(len(order), 'train')
  which[order[:tests]] = 'test'
  which[order[tests:tests + valids]] = 'valid'
  moved = train.labels.ndim == 1 and _give_to_training(
      which, order, train.labels, tests > 0)
  part = lambda split: Arrays(train.images[which == split],
                              train.labels[which == split])
  found = {'train': part('train') if tests or valids else train,
           'valid': valid or part('valid'), 'test': test or part('test')}
  if moved:
    notes = [*notes, f'source {name!r}: class '
             f'{", ".join(map(str, moved[:8]))}'
             f'{f" and {len(moved) - 8} more" if len(moved) > 8 else ""} '
             'divided by itself: no image would have been for training']
  return Source(name, version, classes, **found, class_names=class_names,
                notes=tuple(notes))


def _give_to_training(which, order, labels, tested):
  """Divides classes without training images separately; returns them.

  Args:
    which: str [n], the split of every row; changed in place.
    order: int [n], the order in which rows were drawn.
    labels: int [n].
    tested: whether test images are drawn too.
  """
  lacking = np.setdiff1d(labels, labels[which == 'train']).tolist()
  for label in lacking:
    rows = order[labels[order] == label]
    tests = max(len(rows) // 5, int(len(rows) > 1)) if tested else 0
    which[rows], which[rows[:tests]] = 'train', 'test'
  return lacking


def divide_within(name, version, classes, whole, groups, class_names=None,
                  notes=()):
  """Divides each group of rows into train, validation and test.

  Args:
    name, version, classes: as in `Source`.
    whole: `Arrays` of n images.
    groups: integers [n].
    class_names, notes: as in `Source`.

  Returns:
    A `Source`.

  Raises:
    ValueError: a group has fewer than three images.
  """
  _require_pairs(name, 'whole', whole)
  order = np.random.RandomState(0).permutation(len(groups))
  order = order[np.argsort(groups[order], kind='stable')]
  values, start, sizes = np.unique(groups[order], return_index=True,
                                   return_counts=True)
  if sizes.min() < 3:
    raise ValueError(
        f'source {name!r}: a group of '
        f'{trees.counted(sizes.min(), "image")} is too small for '
        f'train, validation and test (number {values[sizes.argmin()]}); give '
        'it more images, or leave it out')
  place = np.arange(len(order)) - np.repeat(start, sizes)
  tenth = np.repeat(np.maximum(1, sizes // 10), sizes)
  which = np.where(place < tenth, 'test',
                   np.where(place < 2 * tenth, 'valid', 'train'))
  rows = {s: np.sort(order[which == s]) for s in ('train', 'valid', 'test')}
  return Source(name, version, classes, class_names=class_names,
                notes=tuple(notes), **{
                    s: Arrays(whole.images[r], whole.labels[r])
                    for s, r in rows.items()})
