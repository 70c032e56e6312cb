"""What makes the inputs that a task takes of an array of another kind.

The remedy in an error is an expression of Python that works as it stands, with
`np` for NumPy; or advice, where no expression can be right.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

RAW = 'give the raw values, whole numbers from 0 to 255'


class Repair(NamedTuple):
  """A step towards the wanted array.

  Attributes:
    text: an expression of Python; or advice, if there is no array.
    array: its value; `None` if nobody can say what is meant.
  """
  text: str
  array: Any


def remedy(given: Any, shape: tuple[int, ...], dtype: str,
           name: str = 'x') -> str:
  """What a message advises to give instead.

  Args:
    given: what was given.
    shape: shape of one input.
    dtype: dtype of the inputs.
    name: the name of what was given.

  >>> remedy(np.ones((2, 4, 4)) / 2, (4, 4, 1), 'uint8')
  'give (x[..., None] * 255).round().astype(np.uint8)'
  >>> remedy(np.ones((4, 4, 1), np.uint8), (4, 4, 1), 'uint8')
  'give x[None]'
  """
  found = as_array(given, name)
  for step in (lambda old: with_shape(old, shape),
               lambda old: with_dtype(old, dtype)):
    if found.array is None:
      return found.text
    found = step(found)
  return found.text if found.array is None else f'give {found.text}'


def as_array(given: Any, name: str) -> Repair:
  """An array of numbers."""
  if isinstance(given, jax.core.Tracer):
    return Repair(name, given)
  none = Repair('give one array of numbers', None)
  text = name
  try:
    if np.ma.is_masked(given):
      return Repair(f'fill its masked entries: {name}.filled(0)', None)
    if not isinstance(given, (np.ndarray, jax.Array)):
      text = (f'{name}.to_numpy()' if hasattr(given, 'to_numpy') else
              f'np.asarray({name})')
      if not hasattr(given, '__array__') and not isinstance(
          given, (list, tuple)):
        return none
    array = np.asarray(given)
    if array.dtype == object:
      text, array = f'np.array({text}.tolist())', np.array(array.tolist())
    if not jnp.issubdtype(array.dtype, np.number) and array.dtype != bool:
      return none
  except (ValueError, TypeError, RuntimeError):
    return none  # rows of several shapes, a key, ...
  if array.dtype.kind == 'V':  # of ml_dtypes, whose products round
    text, array = f'np.asarray({text}, np.float32)', array.astype(np.float32)
  return Repair(text, array)


def with_shape(old: Repair, shape: tuple[int, ...]) -> Repair:
  """The inputs [n, *shape], of whose order there is no doubt."""
  text, found = old.text, tuple(old.array.shape)
  last = len(shape) == 3 and shape[-1]
  if found[1:] == shape and len(found) > len(shape):
    return old
  added = ''
  if found == shape:
    added = '[None]'
  elif last == 1 and found[1:] == shape[:-1]:
    added = '[..., None]'
  elif last == 1 and found == shape[:-1]:
    added = '[None, ..., None]'
  elif found[2:] == shape or (
      len(found) == 2 and found[1] == math.prod(shape)):
    added = f'.reshape(-1, {", ".join(map(str, shape))})'
  elif last and len(found) == 4 and found[1:3] == shape[:2]:
    if found[3] == 4 and last == 3:
      added = '[..., :3]'
    elif found[3] == 1:
      return Repair(f'np.repeat({text}, {last}, -1)',
                    np.repeat(_values(old.array), last, -1))
    elif found[3] == 3 and last == 1:
      grey = _values(old.array).mean(-1, keepdims=True)
      text += '.mean(-1, keepdims=True)'
      if old.array.dtype != np.uint8:
        return Repair(text, grey)
      return Repair(f'{text}.round().astype(np.uint8)',
                    grey.astype(np.uint8))
  elif last and len(found) == 4 and found[1:] == (last, *shape[:2]):
    return Repair(f'np.moveaxis({text}, 1, -1)',
                  np.moveaxis(_values(old.array), 1, -1))
  if added:
    return Repair(text + added, old.array)
  wanted = ', '.join(map(str, shape))
  return Repair(f'give inputs of the shape [n, {wanted}]' + (
      f', resized to {shape[0]} x {shape[1]} pixels'
      if last and len(found) == 4 else ''), None)


def with_dtype(old: Repair, dtype: str) -> Repair:
  """The same values in a dtype, if it has them."""
  text, array = old
  if array.dtype == np.dtype(dtype):
    return old
  cast = f'{text}.astype(np.{dtype})'
  if isinstance(array, jax.core.Tracer):
    return Repair(f'give {dtype}', None)
  array = np.asarray(array)
  values = array.astype(np.float64) if array.dtype.kind in 'biuf' else None
  if values is None or not np.isfinite(values).all():
    return Repair('give real, finite numbers', None)
  if dtype != 'uint8':
    whole = np.dtype(dtype).kind == 'f' or np.all(values == np.rint(values))
    return Repair(cast, array) if whole else Repair('give whole numbers', None)
  if array.dtype == bool:
    return Repair(f'{cast} * 255', array)
  least, most = np.min(values, initial=0), np.max(values, initial=0)
  if least < 0 or most > (65535 if array.dtype == np.uint16 else 255):
    return Repair(RAW, None)
  if most > 255:
    return Repair(f'({text} // 257).astype(np.uint8)', array)
  if array.dtype.kind != 'f':
    return Repair(cast, array)
  if most <= 1:
    return Repair(f'({text} * 255).round().astype(np.uint8)', array)
  return Repair(f'{text}.round().astype(np.uint8)', array)


def _values(array: Any) -> Any:
  return array if isinstance(array, jax.core.Tracer) else np.asarray(array)
