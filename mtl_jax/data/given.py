"""Checks arrays, numbers and texts that a user gives for a source.

What would be read as something else (masked entries, one-hot labels, a string
as a list of its letters) is refused with what to give instead.
"""

import numbers
from collections.abc import Iterable, Mapping, Set

import jax.numpy as jnp
import numpy as np

from mtl_jax import messages
from mtl_jax import trees
from mtl_jax.data import repairs

_LARGEST = 1e300  # the difference of two numbers stays finite
_RENUMBER = 'renumber all labels (np.unique(labels, return_inverse=True)[1])'


def pair(where, found):
  """(inputs, labels) of a split, of which there must be both."""
  if not isinstance(found, (tuple, list)) or len(found) != 2:
    raise ValueError(f'{where}: it is a {type(found).__name__}, not a pair '
                     '(inputs, labels); give both')
  return found


def _array(where, what, given):
  """An array of all that was given."""
  wrong = ''
  if hasattr(given, '__next__'):
    wrong = (f'are a {type(given).__name__}, which can be read only once; give '
             f'np.array(list({what}))')
  elif np.ma.is_masked(given):
    wrong = ('have masked entries; take the rows without them, or fill them: '
             f'{what}.filled()')
  else:
    try:
      return np.asarray(given)
    except (ValueError, TypeError) as error:
      wrong = (f'cannot be one array ({messages.brief(error)}); give all of '
               'them one shape')
  raise ValueError(f'{where}: {what} {wrong}')


def whole_labels(where, labels, classes=None):
  """Labels as int32 [n] from 0, below a number of classes if it is known."""
  labels = _array(where, 'labels', labels)
  if labels.ndim != 1:
    remedy = ('give labels[:, 0]' if labels.shape[1:] == (1,) else
              'give labels[0], or labels.argmax(1) if they are one-hot'
              if labels.ndim == 2 and len(labels) == 1 else
              'if they are one-hot, give labels.argmax(1)' if labels.ndim == 2
              else 'give a list or an array of them')
    raise ValueError(f'{where}: labels must be integers [n], one for each '
                     f'input, not {labels.dtype} {list(labels.shape)}; '
                     f'{remedy}')
  if labels.dtype.kind not in 'iu':
    raise ValueError(f'{where}: labels must be integers, not {labels.dtype}; '
                     f'{_label_remedy(labels)}')
  narrow = labels.astype(np.int32)
  wrong = np.flatnonzero(narrow != labels)
  if len(wrong):
    raise ValueError(
        f'{where}: label {labels[wrong[0]]} in row {wrong[0]} does not fit '
        f'int32; {_RENUMBER}')
  known = isinstance(classes, numbers.Integral) and classes > 0
  wrong = np.flatnonzero((narrow < 0) | (narrow >= classes) if known
                         else narrow < 0)
  if len(wrong):
    bounds = f'not in [0, {classes})' if known else 'below 0'
    raise ValueError(
        f'{where}: label {narrow[wrong[0]]} in row {wrong[0]} is {bounds}; '
        f'{len(wrong)} such rows; leave them out, or {_RENUMBER}')
  return narrow


def _label_remedy(labels):
  """What makes integers of labels [n] of another kind."""
  if jnp.issubdtype(labels.dtype, np.number) and labels.dtype.kind == 'V':
    labels = labels.astype(np.float32)  # of ml_dtypes
  if labels.dtype.kind not in 'bf':
    return ('number them: class_names, labels = np.unique(labels, '
            'return_inverse=True)')
  finite = labels[np.isfinite(labels)]
  if np.any(finite != np.floor(finite)):
    return 'numbers to predict are given to sources.from_table'
  return ('give labels.astype(int)' if len(finite) == len(labels) else
          'leave out the rows whose labels are not finite, and give the others '
          'as integers')


def byte_images(where, images):
  """Images as uint8 [n, H, W, C], without changing values."""
  images = _array(where, 'images', images)
  shown = images[..., None] if images.ndim == 3 else images
  if shown.dtype != np.uint8 or shown.ndim != 4 or not all(
      shown.shape[1:3]) or shown.shape[3] not in (1, 3):
    raise ValueError(
        f'{where}: images must be uint8 [n, H, W, C] with 1 or 3 channels '
        f'last, or [n, H, W], not {images.dtype} {list(images.shape)}; '
        f'{_remedy(shown)}')
  return shown


def _remedy(images):
  """What makes images of an array that is none."""
  channels = images.shape[3] if images.ndim == 4 else None
  if images.ndim == 2:
    return 'give each its height and width: images.reshape(n, H, W)'
  if channels not in (None, 1, 3) and images.shape[1] in (1, 3):
    return 'put the channels last: np.moveaxis(images, 1, -1)'
  if channels in (2, 4):
    return ('if the last channel is opacity, leave it out: '
            f'images[..., :{channels - 1}]')
  if images.dtype == np.uint8 or images.ndim != 4:
    return 'give each image a height, a width and 1 or 3 channels'
  found = repairs.as_array(images, 'images')
  if found.array is not None:
    found = repairs.with_dtype(found, 'uint8')
  return found.text if found.array is None else f'give {found.text}'


def real_numbers(where, what, given):
  """The columns of a table as float64."""
  found = _array(where, what, given)
  values = None
  if found.dtype.kind not in 'cSUMm':
    try:
      values = found.astype(np.float64)
    except (TypeError, ValueError):
      pass
  if values is None:
    raise ValueError(f'{where}: {what} are {found.dtype}; give real numbers')
  wrong = np.argwhere(~(np.abs(values) < _LARGEST))
  if len(wrong):
    raise ValueError(
        f'{where}: {what} hold {values[tuple(wrong[0])]} at '
        f'{wrong[0].tolist()}, one of '
        f'{trees.counted(len(wrong), "value")} that are not finite or not '
        f'below {_LARGEST:g}; leave out their rows, or give other numbers')
  return values


def texts(where, given):
  """A list of strings."""
  if isinstance(given, (str, bytes)):
    raise ValueError(f'{where}: texts are one {type(given).__name__}; give a '
                     'list of strings')
  if isinstance(given, (Set, Mapping)) or not isinstance(given, Iterable):
    raise ValueError(f'{where}: texts are a {type(given).__name__}; give a '
                     'list of strings, in the order of the labels')
  found = list(given)
  for row, text in enumerate(found):
    if not isinstance(text, str):
      remedy = '.decode() it' if isinstance(text, bytes) else 'give a string'
      raise ValueError(f'{where}: text {row} is {text!r}, of type '
                       f'{type(text).__name__}; {remedy}')
  return found
