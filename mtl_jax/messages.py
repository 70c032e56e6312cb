"""Values and other errors as error messages show them."""

from typing import Any

import jax


def shown(value: Any) -> str:
  """A value for a message; an array is described by its dtype and shape.

  >>> import numpy as np
  >>> shown(3), shown(np.zeros((2, 3))), shown({'w': np.zeros(2)})
  ('3', 'float64(2, 3)', 'dict(float64(2,))')
  """
  leaves = jax.tree.leaves(value)
  if not any(getattr(leaf, 'shape', ()) for leaf in leaves):
    return ' '.join(repr(value).split())[:200]
  if leaves[0] is value:
    return f'{value.dtype}{tuple(value.shape)}'
  return f'{type(value).__name__}({", ".join(map(shown, leaves[:3]))})'


def brief(error: BaseException) -> str:
  """The first line of another library's error, or its type if it has none.

  >>> brief(OSError('no disk\\nmore')), brief(KeyError())
  ('no disk', 'KeyError')
  """
  said = str(error).strip().splitlines() or [type(error).__name__]
  return said[0].rstrip('.')[:300]
