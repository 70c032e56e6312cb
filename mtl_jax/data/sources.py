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

How they are divided into train, validation and test: see `splits`.
"""

import dataclasses
import functools
import hashlib
import logging
import os
import pathlib

import numpy as np

from mtl_jax.data import cache
from mtl_jax.data import official
from mtl_jax.data import readers
from mtl_jax.data import splits
from mtl_jax.data import tables

Arrays = splits.Arrays
Source = splits.Source
leaks = splits.leaks


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
    path = pathlib.Path(base[len('table:'):]).expanduser()
    numbers = tables.read(name, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    # Scaled in float64; what was once scaled in float32 has another version.
    return from_table(name, *numbers, version=f'{digest}-float64')
  if base.startswith('text:'):
    if len(size or (0, 0)) != 2:
      raise ValueError(f'source {name!r}: give two numbers, @WORDSxLENGTH')
    version, found = readers.texts(name, base[len('text:'):], tfds_dir,
                                   sorted(REGISTRY))
    made = from_texts(name, **found,
                      **dict(zip(('words', 'length'), size or ())))
    return dataclasses.replace(made, version=f'{version}-{made.version}')
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
                version=None):
  """A source from your own arrays.

  Args:
    name: str.
    images: uint8 [n, H, W, C] or [n, H, W]; C is 1 or 3.
    labels: integers [n].
    classes: int; the largest label and one by default.
    test: (images, labels), or None to split some off (see the module).
    valid: likewise.
    version: str, recorded with whatever is trained on it; a digest of the
      arrays by default.

  Returns:
    A `Source`.

  Raises:
    ValueError: arrays of another type or shape, or labels out of range; names
      the source and the split.

  >>> source = from_arrays('mine', np.zeros((100, 4, 4), np.uint8),
  ...                      np.arange(100) % 3)
  >>> [len(split.labels) for split in (source.train, source.valid, source.test)]
  [72, 8, 20]
  """
  parts = {'train': (images, labels), 'test': test, 'valid': valid}
  parts = {split: _arrays(f'source {name!r}, split {split!r}', *pair)
           for split, pair in parts.items() if pair is not None}
  if classes is None:
    classes = 1 + max(int(np.max(pair.labels, initial=0))
                      for pair in parts.values())
  if version is None:
    version = _digest(*(a for pair in parts.values() for a in pair))
  return splits.divide(name, version, classes, **parts)


def _digest(*arrays):
  found = hashlib.sha256()
  for a in arrays:
    found.update(str((a.dtype, a.shape)).encode())
    found.update(np.ascontiguousarray(a))
  return found.hexdigest()[:12]


def from_table(name, features, targets, version=None):
  """A regression from your own numbers, columns scaled to [0, 1].

  Args:
    name: str.
    features: float [n, f].
    targets: float [n, t] or [n].
    version: str; a digest of the numbers by default.

  Returns:
    A `Source` whose splits are made as the module says; the training part's
    smallest and largest values become 0 and 1 of every column, of the targets
    too. `System.predict` takes rows that are scaled so, and answers so.
  """
  features, targets = (np.asarray(a, np.float64) for a in (features, targets))
  targets = targets[:, None] if targets.ndim == 1 else targets
  if features.ndim != 2 or targets.ndim != 2:
    raise ValueError(f'source {name!r}: features are {list(features.shape)} '
                     f'and targets {list(targets.shape)}; they must be [n, f] '
                     'and [n, t]')
  version = version or _digest(features, targets)
  # Numbers of rows are divided: only scaled values may become float32.
  rows = [part.images[:, 0] for part in _parts(splits.divide(
      name, version, 1, _numbered(len(features), np.zeros(len(targets)))))]
  inputs = tables.scaled(*(features[r] for r in rows))
  answers = tables.scaled(*(targets[r] for r in rows))
  return Source(name, version, targets.shape[1],
                *(Arrays(*pair) for pair in zip(inputs, answers)))


def from_texts(name, train, test=None, words=tables.WORDS,
               length=tables.LENGTH, version=None):
  """A classification of texts, as tokens.

  Args:
    name: str.
    train: (texts, labels), of str and integers.
    test: likewise, or `None` to split some off (see the module).
    words: size of the vocabulary, made of the training part alone; 0 pads.
    length: words of a text that are kept, the first.
    version: str; a digest of the tokens by default.

  Raises:
    ValueError: fewer than two words (one is none) or no length.
  """
  if words < 2 or length < 1:
    raise ValueError(f'source {name!r}: {words} words and a length of '
                     f'{length}; at least 2 words (0 pads) and a length of 1 '
                     'are needed')
  # Numbers of texts are divided first, then the words of one part are counted.
  pairs = [pair and _numbered(len(pair[0]), pair[1]) for pair in (train, test)]
  classes = 1 + max(int(pair.labels.max()) for pair in pairs if pair)
  divided = splits.divide(name, version, classes, pairs[0], test=pairs[1])
  parts = [([texts[i] for i in part.images[:, 0]], part.labels)
           for texts, part in ((train[0], divided.train),
                               (train[0], divided.valid),
                               ((test or train)[0], divided.test))]
  known = tables.vocabulary(parts[0][0], words)
  found = [Arrays(tables.tokens(texts, known, length), labels)
           for texts, labels in parts]
  version = version or _digest(*(a for part in found for a in part))
  return Source(name, version, classes, *found)


def _numbered(count, labels):
  """Rows by their number, to be divided like images."""
  return Arrays(np.arange(count, dtype=np.int32)[:, None],
                np.asarray(labels, np.int32))


def _parts(source):
  return source.train, source.valid, source.test


def _arrays(where, images, labels):
  """Adds the channel axis and makes labels int32, without changing values."""
  images, labels = np.asarray(images), np.asarray(labels)
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(f'{where}: labels must be integers, not {labels.dtype}')
  narrow = labels.astype(np.int32)
  if np.any(narrow != labels):
    raise ValueError(f'{where}: a label does not fit int32')
  shown = images[..., None] if images.ndim == 3 else images
  if shown.dtype != np.uint8 or shown.ndim != 4 or not all(
      shown.shape[1:3]) or shown.shape[3] not in (1, 3):
    raise ValueError(
        f'{where}: images must be uint8 [n, H, W, C] with 1 or 3 channels '
        f'last, or [n, H, W], not {images.dtype} {list(images.shape)}; scale '
        'to 0..255, then .astype(np.uint8)')
  # A copy, so that the caller's later changes are not the source's.
  return Arrays(shown.copy(), narrow.copy())


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
  version, classes, parts = readers.folder(name, root, size, cache_dir)
  return splits.divide(name, version, classes,
                       **{k: Arrays(*v) for k, v in parts.items()})


def _tfds(name, base, size, cache_dir, tfds_dir):
  """A prepared TFDS set, its splits arranged as the module says."""
  if '!' in base:
    return _within(name, *base.split('!', 1), size, cache_dir, tfds_dir)
  version, classes, found = readers.tfds(name, base, size, cache_dir, tfds_dir,
                                         sorted(REGISTRY))
  parts = {k: Arrays(*v) for k, v in found.items()}
  version = _with_content(version, parts)
  if 'test' not in parts and 'valid' in parts:
    parts['test'] = parts.pop('valid')
  if 'test' in parts and not np.isin(parts['test'].labels,
                                     parts['train'].labels).any():
    logging.info('%s: train and test have no class in common; pooled.', name)
    pooled = zip(*(parts.pop(split) for split in ('train', 'valid', 'test')
                   if split in parts))
    parts['train'] = Arrays(*map(np.concatenate, pooled))
  return splits.divide(name, version, classes, **parts)


def _with_content(version, parts):
  """A data set's version with a digest of what was read: two preparations of
  one version may differ."""
  return f"{version}-{_digest(*(a for k in sorted(parts) for a in parts[k]))}"


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
  version = _with_content('+'.join(sorted(versions)), parts)
  return Source(name, version, classes, **parts)


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
  return splits.divide_within(name, _with_content(version, {'whole': whole}),
                              classes, whole, groups)


# Name -> function of no arguments that returns a `Source`.
REGISTRY = {'digits': _digits}
