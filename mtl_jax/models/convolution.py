"""Convolutions whose gradients stay fast inside a loop on CPU.

XLA's CPU backend converts a convolution to the layout of its fast kernels only
outside loops. Inside `lax.scan`, where all training here happens, it computes
the two gradients of a convolution by plain nested loops
(https://github.com/jax-ml/jax/issues/12868). Here the gradients are written as
convolutions that already have that layout. In the kernel's gradient, the
output's gradient takes the place of the kernel, which is slow once it does not
fit into the cache. For larger sizes it is therefore one matrix product for each
place of the window, summed over blocks of images that stay in the cache. 1 x 1
kernels are products anyway. On accelerators this is `batched_convolution`, and
for grouped or dilated convolutions `lax.conv_general_dilated`.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from mtl_jax.models import batched_convolution

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# Blocks are faster if the input and the output's gradient have at least
# UNCACHED numbers, with about BLOCK numbers in each block: measured on cores
# with 1 MB of cache (experiments/benchmarks/README.md).
UNCACHED, BLOCK = 1_500_000, 90_000


def convolve(x, kernel, strides, padding, lhs_dilation=None, rhs_dilation=None,
             dimension_numbers=LAYOUT, feature_group_count: int = 1,
             precision=None):
  """`lax.conv_general_dilated`; `flax.linen.Conv(conv_general_dilated=this)`.

  Args:
    x: [n, H, W, in].
    kernel: [h, w, in, out].
    strides: along H and W.
    padding: 'SAME', 'VALID' or ((low, high), (low, high)).
    lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count,
      precision: as in `lax.conv_general_dilated`.

  Returns:
    [n, H', W', out].
  """
  numbers = lax.conv_dimension_numbers(x.shape, kernel.shape,
                                       dimension_numbers)
  plain = (feature_group_count == 1 and x.ndim == 4 and precision is None
           and not _dilated(lhs_dilation) and not _dilated(rhs_dilation)
           and numbers == lax.conv_dimension_numbers(x.shape, kernel.shape,
                                                     LAYOUT))
  if not plain:
    return lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation, rhs_dilation,
        dimension_numbers, feature_group_count, precision=precision)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides,
                                  padding)
  form = (_plain if jax.default_backend() == 'cpu' else
          batched_convolution.convolve)
  return form(tuple(strides), tuple(map(tuple, padding)), x, kernel)


def _dilated(dilation) -> bool:
  return dilation is not None and any(d != 1 for d in dilation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _plain(strides, padding, x, kernel):
  return lax.conv_general_dilated(x, kernel, strides, padding,
                                  dimension_numbers=LAYOUT)


def _forward(strides, padding, x, kernel):
  return _plain(strides, padding, x, kernel), (x, kernel)


def _backward(strides, padding, saved, dy):
  x, kernel = saved
  return (_input_gradient(strides, padding, x.shape, kernel, dy),
          _kernel_gradient(strides, padding, x, kernel.shape, dy))


def _input_gradient(strides, padding, shape, kernel, dy):
  around = []
  for size, window, stride, (low, _), out in zip(
      shape[1:3], kernel.shape[:2], strides, padding, dy.shape[1:3]):
    length = (out - 1) * stride + 1  # of dy with zeros between its rows
    around.append((window - 1 - low, size - length + low))
  flipped = jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)
  if kernel.shape[:2] == (1, 1) and strides != (1, 1):
    # Without the zeros between the rows of dy.
    found = lax.conv_general_dilated(dy, flipped, (1, 1), 'VALID',
                                     dimension_numbers=LAYOUT)
    edges = [(low, high, stride - 1)
             for (low, high), stride in zip(around, strides)]
    return lax.pad(found, dy.dtype.type(0), [(0, 0, 0), *edges, (0, 0, 0)])
  return lax.conv_general_dilated(dy, flipped, (1, 1), around, strides,
                                  dimension_numbers=LAYOUT)


def _kernel_gradient(strides, padding, x, shape, dy):
  if shape[0] == shape[1] == 1:
    return _products(strides, padding, shape, x, dy).astype(x.dtype)
  block = images_of_a_block(x.shape, dy.shape)
  if block < x.shape[0]:
    return _blockwise(strides, padding, shape, block, x, dy).astype(x.dtype)
  lengths = [(out - 1) * stride + 1  # of dy with zeros between its rows
             for out, stride in zip(dy.shape[1:3], strides)]
  around = [(low, window - 1 + length - size - low)
            for size, window, length, (low, _) in zip(
                x.shape[1:3], shape[:2], lengths, padding)]
  # Channels take the place of images, and dy that of the kernel.
  found = lax.conv_general_dilated(
      jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(dy, (1, 2, 0, 3)),
      (1, 1), around, rhs_dilation=strides, dimension_numbers=LAYOUT)
  return jnp.transpose(found, (1, 2, 0, 3))


def images_of_a_block(x_shape, dy_shape) -> int:
  """Number of images in a block of the kernel's gradient.

  >>> images_of_a_block((128, 32, 32, 20), (128, 32, 32, 20))
  2
  >>> images_of_a_block((128, 4, 4, 160), (128, 4, 4, 160))
  128
  """
  images = x_shape[0]
  numbers = math.prod(x_shape) + math.prod(dy_shape)
  return images if numbers < UNCACHED else max(BLOCK * images // numbers, 1)


def _blockwise(strides, padding, shape, block, x, dy):
  """Sums `_products` over blocks of images and the remaining images."""
  images = x.shape[0]
  products = functools.partial(_products, strides, padding, shape)
  of = lambda start, count: (
      lax.dynamic_slice_in_dim(leaf, start, count) for leaf in (x, dy))
  whole = images - images % block
  rest = (products(*of(whole, images - whole)) if whole < images else
          jnp.zeros(shape, _wide(x.dtype)))
  return lax.scan(lambda found, start: (found + products(*of(start, block)),
                                        None), rest,
                  jnp.arange(0, whole, block))[0]


def _products(strides, padding, shape, x, dy):
  """A product of x and dy for each place of the window; sums are unrounded."""
  height, width, inputs, outputs = shape
  edges = [(low, high, 0) for low, high in ((0, 0), *padding, (0, 0))]
  padded, flat = lax.pad(x, x.dtype.type(0), edges), dy.reshape(-1, outputs)
  rows, columns = ((out - 1) * stride + 1
                   for out, stride in zip(dy.shape[1:3], strides))
  seen = (padded[:, i:i + rows:strides[0], j:j + columns:strides[1]]
          for i in range(height) for j in range(width))
  return jnp.stack([
      lax.dot(place.reshape(-1, inputs).T, flat,
              preferred_element_type=_wide(x.dtype))
      for place in seen]).reshape(shape)


def _wide(dtype):
  return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype


_plain.defvjp(_forward, _backward)
