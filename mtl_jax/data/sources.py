"""Sources: images and labels in memory, with fixed splits.

    load('mnist')                     any TFDS image set prepared on disk
    load('cmaterdb/bangla')           ... with a config
    load('omniglot:alphabet')         ... with another feature as label
    load('omniglot:alphabet!label')   ... divided within another feature
    load('omniglot:alphabet@28x28x1') ... resized while it is decoded
    load('official:cmaterdb/bangla')  a task of mu2Net with its own splits
    load('digits')                    scikit-learn's UCI digits, 8 x 8
    load('folder:/path')              a folder of images, one folder a class
    load('table:/path')               numbers; the last column is the target of
                                      a regression
    load('text:imdb_reviews')         a TFDS set of texts, as tokens: the 10,000
                                      most frequent words, 128 of a text
    load('text:imdb_reviews@5000x64') ... other numbers of words
    from_arrays('mine', images, labels)

Splits, the same on every machine for ever:

  * Official train and test where they exist. Validation is the official one,
    or else 10 % of train, at most 5,000: the first of
    `np.random.RandomState(0).permutation(len(train))`. MNIST has 55,000 /
    5,000 / 10,000.
  * No test split (digits, arrays, folders): the first 20 % of
    `np.random.RandomState(0).permutation(n)` are test, the next 10 % of the
    rest (at most 5,000) validation.
  * A set whose train and test have no class in common (Omniglot: other
    characters, other alphabets) can't be classified as it is: its splits are
    pooled, train first, and divided as if it had none.
  * TFDS sets with a validation but no labelled test split: validation is the
    test.
  * '!FEATURE': all splits are pooled, train first, then validation and test,
    and divided within each value of the feature: a tenth (at least one image)
    is test, another validation. In Omniglot each of the 1,623 characters
    ('label') has 20 drawings: 2 are test, 2 validation, 16 train.

Within a split the original order stays. What stands twice in the original
data stays too; `leaks` counts it.
"""

import dataclasses
import functools
import hashlib
import logging
import os
from typing import NamedTuple

import numpy as np

from mtl_jax.data import cache
from mtl_jax.data import official
from mtl_jax.data import readers
from mtl_jax.data import tables


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
  """A data set in memory; its arrays can't be written to.

  Attributes:
    name: what `load` was given.
    version: of the original data.
    classes: int; labels lie in [0, classes). Of a regression, its targets.
    train, valid, test: `Arrays` of one image shape.

  Raises:
    ValueError: wrong type, rank, length or label, naming source and split.
  """

  name: str
  version: str
  classes: int
  train: Arrays
  valid: Arrays
  test: Arrays

  def __post_init__(self):
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
    """(H, W, C) of every image; (features,) or (length,) of others."""
    return tuple(self.train.images.shape[1:])

  @property
  def regression(self):
    """Whether labels are numbers and not classes."""
    return self.train.labels.dtype == np.float32

  @property
  def tokens(self):
    """Whether inputs are tokens of texts."""
    return self.train.images.dtype == np.int32


def _check(where, images, labels, classes):
  if images.dtype in (np.float32, np.int32) and images.ndim == 2:
    if images.dtype == np.float32 and not np.isfinite(images).all():
      raise ValueError(f'{where}: features are not finite')
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


def load(name, cache_dir=None, tfds_dir=None):
  """Loads a source by name; a second call returns the same object.

  Args:
    name: see the module; or a name given to `register`.
    cache_dir: where decoded images are kept; see `cache.directory`.
    tfds_dir: where prepared TFDS sets lie; $TFDS_DATA_DIR or
      ~/tensorflow_datasets by default. Nothing is ever downloaded.

  Returns:
    A `Source`.

  Raises:
    FileNotFoundError: says what is missing, where it should be, and how to
      prepare it.

  >>> load('digits').image_shape
  (8, 8, 1)
  """
  tfds_dir = (tfds_dir or os.environ.get('TFDS_DATA_DIR')
              or '~/tensorflow_datasets')
  return _load(name, str(cache.directory(cache_dir)),
               os.path.expanduser(tfds_dir))


@functools.lru_cache(maxsize=32)
def _load(name, cache_dir, tfds_dir):
  if name in REGISTRY:
    source = REGISTRY[name]()
    if not isinstance(source, Source):
      raise TypeError(f'the factory registered as {name!r} returned a '
                      f'{type(source).__name__}, not a Source')
    return source
  base, size = readers.split_size(name)
  if base.startswith('table:'):
    return from_table(name, *tables.read(name, base[len('table:'):]))
  if base.startswith('text:'):
    version, found = readers.texts(name, base[len('text:'):], tfds_dir,
                                   sorted(REGISTRY))
    return from_texts(name, version=version, **found,
                      **dict(zip(('words', 'length'), size or ())))
  if base.startswith('official:'):
    return _official(name, base[len('official:'):], size, cache_dir, tfds_dir)
  if base.startswith('folder:'):
    return _folder(name, base[len('folder:'):], size, cache_dir)
  return _tfds(name, base, size, cache_dir, tfds_dir)


def register(name, factory):
  """Makes `load(name)` return `factory()`; replaces an earlier factory.

  >>> dots = np.zeros((10, 2, 2), np.uint8)
  >>> register('dots', lambda: from_arrays('dots', dots, np.arange(10) % 2))
  >>> load('dots').classes
  2
  """
  if not callable(factory):
    raise TypeError(f'register({name!r}, ...) needs a function without '
                    f'arguments, not a {type(factory).__name__}')
  REGISTRY[name] = factory
  _load.cache_clear()


def from_arrays(name, images, labels, classes=None, test=None, valid=None,
                version='1'):
  """A source from your own arrays.

  Args:
    name: str.
    images: uint8 [n, H, W, C] or [n, H, W].
    labels: integers [n].
    classes: int; the largest label and one by default.
    test: (images, labels), or None to split some off (see the module).
    valid: likewise.
    version: str, recorded with whatever is trained on it.

  Returns:
    A `Source`.

  >>> source = from_arrays('mine', np.zeros((100, 4, 4), np.uint8),
  ...                      np.arange(100) % 3)
  >>> [len(split.labels) for split in (source.train, source.valid, source.test)]
  [72, 8, 20]
  """
  splits = {'train': (images, labels), 'test': test, 'valid': valid}
  splits = {split: _arrays(f'source {name!r}, split {split!r}', *pair)
            for split, pair in splits.items() if pair is not None}
  if classes is None:
    classes = 1 + max(int(np.max(pair.labels, initial=0))
                      for pair in splits.values())
  return _divide(name, version, classes, **splits)


def from_table(name, features, targets, version='1'):
  """A regression from your own numbers, columns scaled to [0, 1].

  Args:
    name: str.
    features: float [n, f].
    targets: float [n, t].
    version: str.

  Returns:
    A `Source` whose splits are made as the module says; the training part's
    smallest and largest values become 0 and 1 of every column, of the targets
    too.
  """
  features, targets = (np.asarray(a, np.float32) for a in (features, targets))
  raw = _divide(name, version, targets.shape[1], Arrays(features, targets))
  parts = (raw.train, raw.valid, raw.test)
  inputs = tables.scaled(*(part.images for part in parts))
  answers = tables.scaled(*(part.labels for part in parts))
  return Source(name, version, targets.shape[1],
                *(Arrays(*pair) for pair in zip(inputs, answers)))


def from_texts(name, train, test=None, words=tables.WORDS,
               length=tables.LENGTH, version='1'):
  """A classification of texts, as tokens.

  Args:
    name: str.
    train: (texts, labels), of str and integers.
    test: likewise, or `None` to split some off (see the module).
    words: size of the vocabulary, made of `train` alone; 0 pads.
    length: words of a text that are kept, the first.
    version: str.
  """
  known = tables.vocabulary(train[0], words)
  pairs = [pair and Arrays(tables.tokens(pair[0], known, length),
                           np.asarray(pair[1], np.int32))
           for pair in (train, test)]
  classes = 1 + max(int(pair.labels.max()) for pair in pairs if pair)
  return _divide(name, version, classes, pairs[0], test=pairs[1])


def leaks(source):
  """How many test images also stand in train or validation, pixel by pixel.

  >>> leaks(from_arrays('same', np.zeros((10, 2, 2), np.uint8), np.arange(10)))
  2
  """
  def digests(images):
    return [hashlib.blake2b(i.tobytes(), digest_size=16).digest()
            for i in images]
  known = set(digests(source.train.images)) | set(digests(source.valid.images))
  return sum(digest in known for digest in digests(source.test.images))


def _arrays(where, images, labels):
  """Adds the channel axis and makes labels int32, without changing values."""
  images, labels = np.asarray(images), np.asarray(labels)
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(f'{where}: labels must be integers, not {labels.dtype}')
  narrow = labels.astype(np.int32)
  if np.any(narrow != labels):
    raise ValueError(f'{where}: a label does not fit int32')
  return Arrays(images[..., None] if images.ndim == 3 else images, narrow)


def _divide(name, version, classes, train, valid=None, test=None):
  """Splits off what is missing, as the module says."""
  order = np.random.RandomState(0).permutation(len(train.labels))
  tests = 0 if test else max(1, len(order) // 5)
  valids = 0 if valid else max(1, min(5000, (len(order) - tests) // 10))
  if 0 < tests + valids >= len(order):
    raise ValueError(f'source {name!r}: {len(order)} images are too few to '
                     'split off validation and test')

  def part(rows):
    rows = np.sort(rows)
    return Arrays(train.images[rows], train.labels[rows])
  test = test or part(order[:tests])
  valid = valid or part(order[tests:tests + valids])
  if tests or valids:
    train = part(order[tests + valids:])
  return Source(name, version, classes, train, valid, test)


def _divide_within(name, version, classes, whole, groups):
  """Divides each group of rows into train, validation and test alike."""
  order = np.random.RandomState(0).permutation(len(groups))
  order = order[np.argsort(groups[order], kind='stable')]
  _, start, sizes = np.unique(groups[order], return_index=True,
                              return_counts=True)
  if sizes.min() < 3:
    raise ValueError(f'source {name!r}: a group of {sizes.min()} images is too '
                     'small for train, validation and test')
  place = np.arange(len(order)) - np.repeat(start, sizes)
  tenth = np.repeat(np.maximum(1, sizes // 10), sizes)
  which = np.where(place < tenth, 'test',
                   np.where(place < 2 * tenth, 'valid', 'train'))
  rows = {s: np.sort(order[which == s]) for s in ('train', 'valid', 'test')}
  return Source(name, version, classes, **{
      s: Arrays(whole.images[r], whole.labels[r]) for s, r in rows.items()})


def _digits():
  try:
    from sklearn import datasets
  except ImportError as error:
    raise ImportError("source 'digits' comes with scikit-learn; "
                      'pip install scikit-learn') from error
  digits = datasets.load_digits()
  images = np.round(digits.images * 255 / 16).astype(np.uint8)
  return from_arrays('digits', images, digits.target, 10, version='uci')


def _folder(name, root, size, cache_dir):
  version, classes, splits = readers.folder(name, root, size, cache_dir)
  return _divide(name, version, classes,
                 **{k: Arrays(*v) for k, v in splits.items()})


def _tfds(name, base, size, cache_dir, tfds_dir):
  """A prepared TFDS set, its splits arranged as the module says."""
  if '!' in base:
    return _within(name, *base.split('!', 1), size, cache_dir, tfds_dir)
  version, classes, found = readers.tfds(name, base, size, cache_dir, tfds_dir,
                                         sorted(REGISTRY))
  splits = {k: Arrays(*v) for k, v in found.items()}
  if 'test' not in splits and 'valid' in splits:
    splits['test'] = splits.pop('valid')
  if 'test' in splits and not np.isin(splits['test'].labels,
                                      splits['train'].labels).any():
    logging.info('%s: train and test have no class in common; pooled.', name)
    pooled = zip(splits['train'], splits.pop('test'))
    splits['train'] = Arrays(*(np.concatenate(pair) for pair in pooled))
  return _divide(name, version, classes, **splits)


def _official(name, task, size, cache_dir, tfds_dir):
  """A task of mu2Net's benchmarks with exactly the splits of its code."""
  found = official.task(task)
  parts, versions, classes = {}, set(), 0
  for split in ('train', 'valid', 'test'):
    base, expression = getattr(found, split)
    version, count, images, labels = readers.split(
        base, expression.partition('[')[0], size, cache_dir, tfds_dir,
        sorted(REGISTRY))
    rows = official.rows(expression, len(labels))
    parts[split] = Arrays(images[rows], labels[rows])
    versions.add(version)
    classes = max(classes, count)
  return Source(name, '+'.join(sorted(versions)), classes, **parts)


def _within(name, base, feature, size, cache_dir, tfds_dir):
  """A prepared TFDS set, divided within each value of a feature."""
  def read(base):
    own = base + ('@' + 'x'.join(map(str, size)) if size else '')
    version, classes, found = readers.tfds(own, base, size, cache_dir,
                                           tfds_dir, sorted(REGISTRY))
    pairs = [found[s] for s in ('train', 'valid', 'test') if s in found]
    images, labels = zip(*pairs)
    return version, classes, Arrays(np.concatenate(images),
                                    np.concatenate(labels))
  version, classes, whole = read(base)
  groups = read(f'{base.partition(":")[0]}:{feature}')[2].labels
  return _divide_within(name, version, classes, whole, groups)


# Name -> function of no arguments that returns a `Source`.
REGISTRY = {'digits': _digits}
