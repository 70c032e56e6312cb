"""Convolutions whose gradients stay fast inside a loop on CPU.

XLA's CPU backend converts a convolution to the layout of its fast kernels only
outside loops. Inside `lax.scan`, where all training here happens, it computes
the two gradients of a convolution by plain nested loops
(https://github.com/jax-ml/jax/issues/12868). Here the gradients are written as
convolutions that already have that layout. In the kernel's gradient, the
images take the place of channels and the output's gradient that of the kernel.
It is summed over blocks of a few images: as many as fill a vector register,
and more while the block stays in the cache. The gradient of a 1 x 1 kernel is
a matrix product. On accelerators this is `batched_convolution`, and for grouped
or dilated convolutions `lax.conv_general_dilated`.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from mtl_jax.models import batched_convolution

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# A block of the kernel's gradient has a power of two times LANES images, and
# about BLOCK numbers of the input and the output's gradient: measured on cores
# with 1 MB of cache (experiments/benchmarks/README.md).
LANES, BLOCK = 8, 262_144


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
  return _convolution(x, kernel, strides, padding)


def _convolution(x, kernel, strides, padding, **more):
  """With zeros for a further channel where there is an odd number of them,
  for which XLA's kernels on CPU are several times slower."""
  channels = x.shape[3]
  if channels > 1 and channels % 2:
    more_channels = (0, -channels % 4, 0)
    none, zero = (0, 0, 0), x.dtype.type(0)
    x = lax.pad(x, zero, (none, none, none, more_channels))
    kernel = lax.pad(kernel, zero, (none, none, more_channels, none))
  return lax.conv_general_dilated(x, kernel, strides, padding,
                                  dimension_numbers=LAYOUT, **more)


def _forward(strides, padding, x, kernel):
  return _plain(strides, padding, x, kernel), (x, kernel)


def _backward(strides, padding, saved, dy):
  x, kernel = saved
  return (_input_gradient(strides, padding, x.shape, kernel, dy),
          kernel_gradient(strides, padding, x, kernel.shape, dy))


def _input_gradient(strides, padding, shape, kernel, dy):
  around = []
  for size, window, stride, (low, _), out in zip(
      shape[1:3], kernel.shape[:2], strides, padding, dy.shape[1:3]):
    length = (out - 1) * stride + 1  # of dy with zeros between its rows
    around.append((window - 1 - low, size - length + low))
  flipped = jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)
  if kernel.shape[:2] == (1, 1) and strides != (1, 1):
    # Without the zeros between the rows of dy.
    found = _convolution(dy, flipped, (1, 1), 'VALID')
    edges = [(low, high, stride - 1)
             for (low, high), stride in zip(around, strides)]
    return lax.pad(found, dy.dtype.type(0), [(0, 0, 0), *edges, (0, 0, 0)])
  return _convolution(dy, flipped, (1, 1), around, lhs_dilation=strides)


def kernel_gradient(strides, padding, x, shape, dy):
  """The gradient with respect to the kernel, on a CPU.

  Args:
    strides: along H and W.
    padding: ((low, high), (low, high)).
    x: [n, H, W, in].
    shape: of the kernel, [h, w, in, out].
    dy: [n, H', W', out], the gradient with respect to the output.

  Returns:
    An array of that shape and of x's type; sums are rounded once.
  """
  if shape[0] == shape[1] == 1:
    found = _product(strides, padding, x, dy).reshape(shape)
    return found.astype(x.dtype)
  images, block = x.shape[0], images_of_a_block(x.shape, dy.shape)
  gradient = functools.partial(_swapped, strides, padding, shape)
  of = lambda start, count: (
      lax.dynamic_slice_in_dim(leaf, start, count) for leaf in (x, dy))
  first = images % block or block
  found = gradient(*of(0, first))
  if first < images:
    found = lax.scan(lambda found, start: (found + gradient(*of(start, block)),
                                           None), found,
                     jnp.arange(first, images, block))[0]
  return jnp.transpose(found, (1, 2, 0, 3)).astype(x.dtype)


def images_of_a_block(x_shape, dy_shape) -> int:
  """Number of images in a block of the kernel's gradient.

  >>> images_of_a_block((128, 32, 32, 20), (128, 32, 32, 20))
  8
  >>> images_of_a_block((128, 4, 4, 160), (128, 4, 4, 160))
  32
  """
  numbers = (math.prod(x_shape[1:]) + math.prod(dy_shape[1:])) * LANES
  times = max(BLOCK // max(numbers, 1), 1)
  return min(LANES << (times.bit_length() - 1), x_shape[0])


def _swapped(strides, padding, shape, x, dy):
  """[in, h, w, out]: a convolution in which images are the channels.

  The channels of x take the place of images, and dy that of the kernel. Sums
  are unrounded.
  """
  lengths = [(out - 1) * stride + 1  # of dy with zeros between its rows
             for out, stride in zip(dy.shape[1:3], strides)]
  around = [(low, window - 1 + length - size - low)
            for size, window, length, (low, _) in zip(
                x.shape[1:3], shape[:2], lengths, padding)]
  return _convolution(
      jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(dy, (1, 2, 0, 3)),
      (1, 1), around, rhs_dilation=strides,
      preferred_element_type=_wide(x.dtype))


def _product(strides, padding, x, dy):
  """[in, out]: the gradient of a 1 x 1 kernel. Sums are unrounded."""
  edges = [(low, high, 0) for low, high in ((0, 0), *padding, (0, 0))]
  rows, columns = ((out - 1) * stride + 1
                   for out, stride in zip(dy.shape[1:3], strides))
  seen = lax.pad(x, x.dtype.type(0), edges)[:, :rows:strides[0],
                                            :columns:strides[1]]
  return lax.dot(seen.reshape(-1, x.shape[3]).T, dy.reshape(-1, dy.shape[3]),
                 preferred_element_type=_wide(x.dtype))


def _wide(dtype):
  return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype


_plain.defvjp(_forward, _backward)
