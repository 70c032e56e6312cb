"""Max pooling whose gradient stays fast inside a loop on CPU.

XLA's CPU backend computes the gradient of `lax.reduce_window` with plain nested
loops on one core. Here a window's maximum is taken pair by pair, first along a
row, then down the column, so that the gradient is elementwise. It goes to the
first of equal values, as in `lax.reduce_window`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax


def max_pool(x, window: int = 2, stride: int = 2, padding: int = 0):
  """The maximum of every square window.

  Args:
    x: float [n, H, W, C].
    window: rows and columns of a window.
    stride: from one window to the next.
    padding: rows and columns of -inf on each side.

  Returns:
    float [n, H', W', C].
  """
  around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  if jax.default_backend() != 'cpu':
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1),
                             (1, stride, stride, 1), around)
  if padding:
    x = jnp.pad(x, around, constant_values=-jnp.inf)
  for axis in (2, 1):
    starts = x.shape[axis] - window + 1
    x = functools.reduce(_first_maximum, (
        lax.slice_in_dim(x, i, i + starts, stride, axis)
        for i in range(window)))
  return x


def _first_maximum(a, b):
  """The elementwise maximum; ties go to the first value, and NaN propagates."""
  return jnp.where((a >= b) | jnp.isnan(a), a, b)
