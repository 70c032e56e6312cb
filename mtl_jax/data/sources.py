"""Sources: images and labels in memory, with fixed splits.

    load('mnist')                     any TFDS image set prepared on disk
    load('cmaterdb/bangla')           ... with a config
    load('omniglot:alphabet')         ... with another feature as label
    load('omniglot:alphabet!label')   ... divided within another feature
    load('omniglot:alphabet@28x28x1') ... resized while it is decoded
    load('official:cmaterdb/bangla')  a task of mu2Net with its own splits
    load('digits')                    scikit-learn's UCI digits, 8 x 8
    load('folder:/path')              a folder of images, one folder per class
    load('folder:/path!label')        ... each class divided in proportion
    load('table:/path')               numbers; the last column is the target of
                                      a regression
    load('text:imdb_reviews')         a TFDS set of texts, as tokens: the 10,000
                                      most frequent words, 128 of a text
    load('text:imdb_reviews@5000x64') ... other numbers of words
    load('signs=folder:/path')        any of these under your own name
    register('mine', make)            your own: `load('mine')` is `make()`
    from_arrays('mine', images, labels)

`splits` describes how sources are divided into train, validation and test, and
`folders` which files of a folder are read.
"""

import dataclasses
import functools
import hashlib
import logging
import os
import re

import numpy as np

from mtl_jax import host
from mtl_jax import messages
from mtl_jax import registry
from mtl_jax.data import arrays
from mtl_jax.data import cache
from mtl_jax.data import folders
from mtl_jax.data import labels as labels_lib
from mtl_jax.data import official
from mtl_jax.data import readers
from mtl_jax.data import splits
from mtl_jax.data import tables

Arrays = splits.Arrays
Source = splits.Source
leaks = splits.leaks
_LARGEST = 1 << 14  # largest height or width to which images are resized
from_arrays = arrays.from_arrays
from_table = arrays.from_table
from_texts = arrays.from_texts


def load(name, cache_dir=None, tfds_dir=None):
  """Loads a source by name; a second call returns the same object.

  Args:
    name: see the module; or a name given to `register`.
    cache_dir: folder of decoded images; see `cache.directory`.
    tfds_dir: folder of prepared TFDS sets; $TFDS_DATA_DIR or
      ~/tensorflow_datasets by default. Nothing is ever downloaded.

  Returns:
    A `Source`.

  Raises:
    FileNotFoundError: says what is missing, where it should be, and how to
      prepare it.
    ValueError: the data are faulty; names the source and the fault.

  >>> load('digits').image_shape
  (8, 8, 1)
  """
  if not isinstance(name, str):
    raise ValueError('the name of a source must be a string, not '
                    f'{messages.shown(name)}; '
                    "of a folder or file, write 'folder:PATH' or 'table:PATH'")
  tfds_dir = (tfds_dir or os.environ.get('TFDS_DATA_DIR')
              or '~/tensorflow_datasets')
  return _load(name, str(cache.directory(cache_dir)),
               os.path.expanduser(tfds_dir), _state(name))


def _state(name):
  """For a source that is read from files, a value that changes with them."""
  plain = split_name(name)[1]
  kind, _, path = plain.partition(':')
  if name in REGISTRY or kind not in ('folder', 'table'):
    return None
  base = readers.split_size(plain)[0].removeprefix(f'{kind}:')
  for given in (path, base, base.removesuffix('!label')):
    found = host.expanded(given)
    if found.exists():
      return folders.snapshot(found)
  return None


@functools.lru_cache(maxsize=32)
def _load(name, cache_dir, tfds_dir, state):
  if name in REGISTRY:
    source = registry.called(f'source {name!r}', REGISTRY[name])
    if not isinstance(source, Source):
      raise ValueError(f'the factory registered as {name!r} returned a '
                      f'{type(source).__name__}, not a Source')
    return source
  own, name = split_name(name)
  if own:
    return dataclasses.replace(_load(name, cache_dir, tfds_dir, state),
                               name=f'{own}={name}')
  kind, _, path = name.partition(':')
  base, size = readers.split_size(name)
  if kind in ('folder', 'table') and host.expanded(path).exists():
    base, size = name, None  # what looks like a size belongs to the path
  if size and kind != 'text' and not all(1 <= s <= _LARGEST for s in size[:2]):
    raise ValueError(f'source {name!r}: images of {size[0]} x {size[1]} pixels '
                     f'cannot be made; give a height and a width from 1 to '
                     f'{_LARGEST:,}')
  if kind == 'table':
    return _table(name, base[len('table:'):])
  if kind == 'text':
    return _texts(name, base[len('text:'):], size, tfds_dir)
  if kind == 'official':
    return _official(name, base[len('official:'):], size, cache_dir, tfds_dir)
  if kind == 'folder':
    return _folder(name, base[len('folder:'):], size, cache_dir)
  return _tfds(name, base, size, cache_dir, tfds_dir)


def split_name(name):
  """(own name, source): 'signs=folder:/x' has both.

  >>> split_name('signs=folder:/x=1'), split_name('folder:/x=1')
  (('signs', 'folder:/x=1'), ('', 'folder:/x=1'))
  """
  match = re.fullmatch('([^:/=@!]+)=(.+)', name, re.DOTALL)
  return match.groups() if match and name not in REGISTRY else ('', name)


def register(name, factory):
  """Makes `load(name)` return `factory()`; replaces an earlier factory.

  Args:
    name: str, for `load` and for configs.
    factory: function without arguments that returns a `Source`.

  Raises:
    ValueError: the name or the factory has a wrong type.

  >>> dots = np.zeros((10, 2, 2), np.uint8)
  >>> register('dots', lambda: from_arrays('dots', dots, np.arange(10) % 2))
  >>> load('dots').classes
  2
  """
  if not isinstance(name, str) or not name:
    raise ValueError(f'register({name!r}, ...) needs a name that is a string '
                    'and not empty')
  if not callable(factory):
    raise ValueError(f'register({name!r}, ...) needs a function without '
                    f'arguments, not a {type(factory).__name__}')
  registry.claim('source', name)
  REGISTRY[name] = factory
  _load.cache_clear()


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
  alike = root.endswith('!label') and not host.expanded(
      root).exists()
  found = folders.read(name, root.removesuffix('!label') if alike else root,
                       size, cache_dir)
  parts = {k: Arrays(*v) for k, v in found.splits.items()}
  kept = dict(class_names=found.class_names, notes=found.notes)
  classes = len(found.class_names)
  if alike:
    whole = _pooled(parts)
    return splits.divide_within(name, found.version, classes, whole,
                                whole.labels, **kept)
  result = splits.divide(name, found.version, classes, **parts, **kept)
  labels_lib.require_training(result)
  if 'test' in parts:
    labels_lib.refuse_copied_test(result)
  return result


def _pooled(parts):
  """All splits as one, in the order train, validation, test."""
  return Arrays(*map(np.concatenate, zip(*(
      parts[split] for split in ('train', 'valid', 'test')
      if split in parts))))


def _table(name, path):
  path = host.expanded(path)
  numbers = tables.read(name, path)
  digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
  # Scaled in float64; data scaled in float32 have another version.
  return from_table(name, *numbers, version=f'{digest}-float64')


def _texts(name, base, size, tfds_dir):
  if len(size or (0, 0)) != 2:
    raise ValueError(f'source {name!r}: give two numbers, @WORDSxLENGTH')
  version, found = readers.texts(name, base, tfds_dir, sorted(REGISTRY))
  made = from_texts(name, **found, **dict(zip(('words', 'length'), size or ())))
  return dataclasses.replace(made, version=f'{version}-{made.version}')


def _tfds(name, base, size, cache_dir, tfds_dir):
  """A prepared TFDS set, divided as `splits` describes."""
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
    parts = {'train': _pooled(parts)}
  return splits.divide(name, version, classes, class_names=readers.class_names(
      base, tfds_dir, classes), **parts)


def _with_content(version, parts):
  """A data set's version with a digest of its content: two preparations of
  one version may differ."""
  content = arrays.digest(*(a for k in sorted(parts) for a in parts[k]))
  return f'{version}-{content}'


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
  return Source(name, version, classes, class_names=readers.class_names(
      found.train[0], tfds_dir, classes), **parts)


def _within(name, base, feature, size, cache_dir, tfds_dir):
  """A prepared TFDS set, divided within each value of a feature."""
  def read(base):
    own = base + ('@' + 'x'.join(map(str, size)) if size else '')
    version, classes, found = readers.tfds(own, base, size, cache_dir,
                                           tfds_dir, sorted(REGISTRY))
    return version, classes, _pooled(found)
  version, classes, whole = read(base)
  groups = read(f'{base.partition(":")[0]}:{feature}')[2].labels
  return splits.divide_within(
      name, _with_content(version, {'whole': whole}), classes, whole, groups,
      readers.class_names(base, tfds_dir, classes))


# Name -> function of no arguments that returns a `Source`.
REGISTRY = {'digits': _digits}
