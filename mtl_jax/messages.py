"""Values as error messages show them."""

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
