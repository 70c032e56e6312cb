"""Divides rows into blocks of few sizes, so that few programs are compiled."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import aliases

LARGEST = 1024  # rows of a block; a power of two


def rows(call: Callable[[aliases.Images], aliases.Array],
         x: aliases.Images) -> aliases.Array:
  """`call(x)` in blocks, for a function that works row by row.

  A block has `LARGEST` rows, and the last one the next power of two, so there
  are only eleven sizes. A row's bits may depend on the size of its block, as
  the backend's products do, but not on other rows or padding.

  Args:
    call: [n, ...] -> [n, ...].
    x: [n, ...], of NumPy or JAX.

  Returns:
    [n, ...].

  >>> rows(lambda x: jnp.full(len(x), len(x)), np.zeros(1030)).tolist()[-7:]
  [1024, 8, 8, 8, 8, 8, 8]
  """
  n = len(x)
  found = []
  for start in range(0, max(n, 1), LARGEST):
    part = x[start:start + LARGEST]
    if not isinstance(part, jax.Array):
      part = np.asarray(part)  # also of other libraries' arrays
    size = 1 << max(0, len(part) - 1).bit_length()
    space = jnp if isinstance(part, jax.Array) else np
    if size > len(part):
      part = space.concatenate([part, space.zeros(
          (size - len(part), *part.shape[1:]), part.dtype)])
    found.append(call(part)[:min(n - start, size)])
  return found[0] if len(found) == 1 else jnp.concatenate(found)
