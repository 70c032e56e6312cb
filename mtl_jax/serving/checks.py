"""Checks a system's inputs, and words its errors."""

import numpy as np

from mtl_jax import aliases


def check_images(x: aliases.Images, shape: tuple[int, ...], task: str,
                 dtype: str = 'uint8') -> None:
  """Refuses images (or other inputs) that aren't of a dtype, [n, *shape]."""
  if (getattr(x, 'dtype', None) != np.dtype(dtype)
      or np.ndim(x) != 1 + len(shape) or np.shape(x)[1:] != shape):
    what = 'raw images' if dtype == 'uint8' else 'inputs'
    raise ValueError(
        f'task {task} takes {what} {dtype} [n, {", ".join(map(str, shape))}]'
        f'; got {getattr(x, "dtype", type(x).__name__)} '
        f'{getattr(x, "shape", "")}')


def some(names: list[str]) -> str:
  """At most 20 names, and how many more there are."""
  more = f' and {len(names) - 20} more' if len(names) > 20 else ''
  return (', '.join(names[:20]) or 'none') + more
