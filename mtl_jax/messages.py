"""Values and other errors as error messages show them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def shown(value: Any) -> str:
  """A value for a message; an array is described by its dtype and shape.

  >>> import numpy as np
  >>> shown(3), shown(np.zeros((2, 3))), shown({'w': np.zeros(2)})
  ('3', 'float64(2, 3)', 'dict(float64(2,))')
  """
  try:
    leaves = jax.tree.leaves(value)
  except ValueError:  # JAX sorts keys, and these are of several types
    leaves = list(value.values()) if isinstance(value, dict) else []
  if not any(getattr(leaf, 'shape', ()) for leaf in leaves):
    return ' '.join(repr(value).split())[:200]
  if leaves[0] is value:
    return f'{value.dtype}{tuple(value.shape)}'
  return f'{type(value).__name__}({", ".join(map(shown, leaves[:3]))})'


def leaf(name: str) -> str:
  """The name of a leaf; a tree that is a single array has no names.

  >>> leaf('a/kernel'), leaf('')
  ('a/kernel', 'the only leaf')
  """
  return name or 'the only leaf'


def brief(error: BaseException) -> str:
  """The first line of another library's error, or its type if it has none.

  >>> brief(OSError('no disk\\nmore')), brief(KeyError())
  ('no disk', 'KeyError')
  """
  said = str(error).strip().splitlines() or [type(error).__name__]
  return said[0].rstrip('.')[:300]


def check_switch(value: Any, name: str) -> bool:
  """A switch, which is True or False: 'no' would count as true.

  Raises:
    ValueError: it is something else; gives the name and the value.

  >>> import numpy as np
  >>> check_switch(np.True_, 'units')
  True
  """
  if not isinstance(value, (bool, np.bool_)):
    raise ValueError(f'{name} is {shown(value)}; give True or False')
  return bool(value)


def computes(dtype: np.dtype) -> bool:
  """Whether JAX computes with a dtype of NumPy; not with swapped bytes."""
  return dtype.isnative and (dtype == bool or jnp.issubdtype(
      dtype, np.number)) and dtype not in (np.longdouble, np.clongdouble) and (
          dtype.kind != 'm')


def computed(dtype: np.dtype) -> str:
  """A dtype that JAX computes with, for the values of another one."""
  return ('complex64' if dtype == np.clongdouble else 'float32'
          if dtype == np.longdouble or dtype.kind not in 'iufc' else
          dtype.newbyteorder('=').name)


GONE = ('was deleted, as .delete() and donate_argnums do: give what the call '
        'that took it returned, or a copy made before')


def deleted(leaf: Any) -> bool:
  """Whether a leaf is an array of JAX whose numbers are gone; see `GONE`."""
  return isinstance(leaf, jax.Array) and not isinstance(
      leaf, jax.core.Tracer) and leaf.is_deleted()
