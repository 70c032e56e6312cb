"""Tables of numbers, and texts, as plain arrays: tasks without images."""

import collections
import re

import numpy as np

from mtl_jax import host
from mtl_jax import trees

WORDS, LENGTH = 10000, 128


def read(name, path):
  """A file of numbers: (features float64 [n, f], targets float64 [n, 1]).

  Rows are lines, separated by white space or commas; the last column is the
  target.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not a table of at least two columns of finite numbers.
  """
  path = host.expanded(path)
  if not path.is_file():
    raise FileNotFoundError(f'source {name!r}: there is no file {path}')
  try:
    with path.open(encoding='utf-8') as file:
      first = file.readline()
    rows = np.loadtxt(path, np.float64, ndmin=2, encoding='utf-8',
                      delimiter=',' if ',' in first else None)
  except ValueError as error:
    raise ValueError(f'source {name!r}: {path} is not a table of numbers '
                     f'({error}); give only rows of numbers, between commas or '
                     'white space, and no line of names') from error
  if rows.shape[1] < 2:
    raise ValueError(f'source {name!r}: {path} has '
                     f'{trees.counted(rows.shape[1], "column")}; at least one '
                     'feature and the target are needed, between commas or '
                     'white space')
  wrong = np.argwhere(~np.isfinite(rows))
  if len(wrong):
    row, column = wrong[0]
    raise ValueError(f'source {name!r}: {path} has {rows[row, column]} in row '
                     f'{row}, column {column}, of '
                     f'{trees.counted(len(wrong), "value")} that are not '
                     'finite; leave out their rows, or give other numbers')
  return rows[:, :-1], rows[:, -1:]


def scaled(train, *others):
  """Scales columns so that those of `train` go from 0 to 1; float32.

  >>> [part.tolist() for part in scaled(np.array([[2.], [4.]]),
  ...                                   np.array([[5.]]))]
  [[[0.0], [1.0]], [[1.5]]]
  """
  low, high = train.min(0, keepdims=True), train.max(0, keepdims=True)
  width = np.where(high > low, high - low, 1)
  return [((part - low) / width).astype(np.float32)
          for part in (train, *others)]


def words_of(text):
  """Lower-case words; everything but letters, digits and ' separates them.

  >>> words_of("It's <br />GOOD, isn't it?")
  ["it's", 'br', 'good', "isn't", 'it']
  """
  return re.findall(r"[^\W_](?:[^\W_]|')*", text.lower())


def vocabulary(texts, words=WORDS):
  """The most frequent words, as {word: 1, 2, ...}; ties in reading order.

  >>> vocabulary(['b a', 'a c'], words=3)
  {'a': 1, 'b': 2}
  """
  counted = collections.Counter(w for text in texts for w in words_of(text))
  return {word: i for i, (word, _) in enumerate(
      counted.most_common(words - 1), 1)}


def tokens(texts, known, length=LENGTH):
  """Texts as int32 [n, length]: known words in order, then zeros.

  >>> tokens(['a z b b', 'z'], {'a': 1, 'b': 2}, 2).tolist()
  [[1, 2], [0, 0]]
  """
  result = np.zeros((len(texts), length), np.int32)
  for row, text in enumerate(texts):
    found = [known[w] for w in words_of(text) if w in known][:length]
    result[row, :len(found)] = found
  return result
