"""Sources from your own arrays, numbers or texts."""

import hashlib
import numbers

import numpy as np

from mtl_jax import host
from mtl_jax import messages
from mtl_jax import trees
from mtl_jax.data import given
from mtl_jax.data import labels as labels_lib
from mtl_jax.data import splits
from mtl_jax.data import tables

Arrays = splits.Arrays
Source = splits.Source


def from_arrays(name, images, labels, classes=None, test=None, valid=None,
                version=None, class_names=None, stratified=False):
  """A source from your own arrays.

  Args:
    name: str.
    images: uint8 [n, H, W, C] or [n, H, W]; C is 1 or 3.
    labels: integers [n], 0 for the first class.
    classes: int. By default the number of `class_names`, or else the largest
      label plus one; every class then needs a training image. If given, classes
      without training images are kept.
    test: (images, labels), or None to draw a test split (see `splits`).
    valid: (images, labels), or None to draw a validation split.
    version: str, recorded with all tasks trained on it; a digest of the
      arrays by default.
    class_names: str of every class; they are stored with its tasks.
    stratified: divide each class in the same proportions, instead of all
      images at random; takes neither `test` nor `valid`.

  Returns:
    A `Source`.

  Raises:
    ValueError: arrays have a wrong type or shape, labels are out of range, a
      class has no training images, or the test split is the training split;
      names the source and the split.

  >>> source = from_arrays('mine', np.zeros((100, 4, 4), np.uint8),
  ...                      np.arange(100) % 3)
  >>> [len(split.labels) for split in (source.train, source.valid, source.test)]
  [72, 8, 20]
  """
  splits.require_name(name)
  messages.check_switch(stratified, f'source {name!r}: stratified')
  if class_names is not None:
    class_names = splits.ordered_names(name, class_names)
  whole = classes is None
  parts = {split: _copied(f'source {name!r}, split {split!r}', pair, classes)
           for split, pair in (('train', (images, labels)), ('test', test),
                               ('valid', valid)) if pair is not None}
  if whole:
    classes = len(class_names) if class_names is not None else largest(
        name, *(pair.labels for pair in parts.values()))
  if version is None:
    version = digest(*(a for pair in parts.values() for a in pair))
  if stratified:
    if len(parts) > 1:
      raise ValueError(f'source {name!r}: stratified divides one set of images '
                       'into splits; leave out test and valid')
    found = splits.divide_within(name, version, classes, parts['train'],
                                 parts['train'].labels, class_names)
  else:
    found = splits.divide(name, version, classes, class_names=class_names,
                          **parts)
  if whole:
    labels_lib.require_training(found)
  if test is not None:
    labels_lib.refuse_copied_test(found)
  return found


def _copied(where: str, pair, classes: int | None) -> Arrays:
  """Checked copies, which later changes by the caller do not affect."""
  images, labels = given.pair(where, pair)
  return Arrays(given.byte_images(where, images).copy(),
                given.whole_labels(where, labels, classes).copy())


def largest(name, *labels) -> int:
  """The number of classes, which is the largest label plus one.

  Raises:
    ValueError: fewer than half of these classes occur, so that the labels do
      not number classes from 0; says how to renumber them.
  """
  present = np.unique(np.concatenate(labels))
  count = 1 + int(np.max(present, initial=0))
  if len(present) < count / 2 and count > 2:
    raise ValueError(
        f'source {name!r}: the largest label is {count - 1} but there are only '
        f'{len(present)} different labels; renumber them from 0 '
        '(np.unique(labels, return_inverse=True)[1]), or give classes='
        f'{count}')
  return count


def digest(*arrays) -> str:
  """Twelve hexadecimal digits that depend on the content of arrays."""
  found = hashlib.sha256()
  for a in arrays:
    found.update(str((a.dtype, a.shape)).encode())
    found.update(np.ascontiguousarray(a).data)
  return found.hexdigest()[:12]


def from_table(name, features, targets, version=None):
  """A regression from your own numbers, columns scaled to [0, 1].

  Args:
    name: str.
    features: float [n, f].
    targets: float [n, t] or [n].
    version: str; a digest of the numbers by default.

  Returns:
    A `Source` with splits as described in `splits`. The smallest and largest
    training values of every column, targets included, become 0 and 1.
    `System.predict` takes rows and returns targets in this scale.
  """
  splits.require_name(name)
  where = f'source {name!r}'
  features = given.real_numbers(where, 'features', features)
  targets = given.real_numbers(where, 'targets', targets)
  targets = targets[:, None] if targets.ndim == 1 else targets
  if (features.ndim != 2 or targets.ndim != 2
      or not features.shape[1] or not targets.shape[1]):
    raise ValueError(f'source {name!r}: features are {list(features.shape)} '
                     f'and targets {list(targets.shape)}; they must be [n, f] '
                     'and [n, t], with at least one column each')
  version = version or digest(features, targets)
  # First row numbers are divided: only scaled values may become float32.
  numbered = _numbered(len(features), np.zeros(len(targets), np.int32))
  rows = [part.images[:, 0] for part in splits.parts(
      splits.divide(name, version, 1, numbered))]
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
    test: like `train`, or `None` to split some off (see `splits`).
    words: size of the vocabulary, made from the training part only; 0 pads.
    length: number of words of a text that are kept, from its beginning.
    version: str; a digest of the tokens by default.

  Raises:
    ValueError: `words` is below 2 (one is padding), `length` is below 1 or
      takes more memory than there is, or a class has no training texts.
  """
  splits.require_name(name)
  if not all(isinstance(n, numbers.Integral) for n in (words, length)):
    raise ValueError(f'source {name!r}: words is {words!r} and length '
                     f'{length!r}; give whole numbers')
  if words < 2 or length < 1:
    raise ValueError(f'source {name!r}: '
                     f'{trees.counted(words, "word")} and a length of '
                     f'{length}; at least 2 words (0 pads) and a length of '
                     '1 are needed')
  # Texts are divided first, then the words of the training part are counted.
  read = []
  for split, pair in (('train', train), ('test', test)):
    if pair is not None:
      where = f'source {name!r}, split {split!r}'
      held, said = given.pair(where, pair)
      read.append((given.texts(where, held), given.whole_labels(where, said)))
  pairs = [_numbered(len(held), said) for held, said in read]
  need = sum(4 * length * len(held) for held, _ in read)
  left = host.available_bytes()
  if left is not None and need > left:
    raise ValueError(f'source {name!r}: its texts with length={length:,} words '
                     f'each take {need / 1e9:,.1f} GB, and this machine has '
                     f'{left / 1e9:.1f} GB left; give a smaller length')
  classes = largest(name, *(pair.labels for pair in pairs))
  divided = splits.divide(name, version or '', classes, pairs[0],
                          test=pairs[1] if test is not None else None)
  labels_lib.require_training(divided)
  found = [([texts[i] for i in part.images[:, 0]], part.labels)
           for (texts, _), part in ((read[0], divided.train),
                                    (read[0], divided.valid),
                                    (read[-1], divided.test))]
  known = tables.vocabulary(found[0][0], words)
  parts = [Arrays(tables.tokens(texts, known, length), labels)
           for texts, labels in found]
  version = version or digest(*(a for part in parts for a in part))
  return Source(name, version, classes, *parts)


def _numbered(count, labels):
  """A split with row numbers as images, to be divided like images."""
  return Arrays(np.arange(count, dtype=np.int32)[:, None], labels)
