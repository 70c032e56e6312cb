"""Random crops, flips and colours of a batch, on the device.

This is the augmentation of the official input pipeline. Its ranges are traced
values, so another generation compiles nothing. It takes images that already
have the network's size and are on the device, and reads crops by linear
interpolation (the official pipeline crops first, then resizes).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtl_jax.evolution import spaces


class Augmentation(NamedTuple):
  """Ranges as float32 scalars; `of` makes them from hyper-parameters."""
  crop: Any
  area_min: Any
  aspect_min: Any
  flip: Any
  brightness: Any
  contrast: Any
  saturation: Any
  hue: Any


def of(hyper: dict) -> Augmentation:
  """The augmentation of hyper-parameters.

  >>> none = dict.fromkeys(spaces.AUGMENT, 0) | {'area_min': 1}
  >>> float(of(none).area_min)
  1.0
  """
  return Augmentation(**{name: np.float32(hyper[name])
                         for name in spaces.AUGMENT})


def apply(how: Augmentation, key, images):
  """Augments a batch.

  Args:
    how: the ranges.
    key: typed key of the batch.
    images: float32 [n, H, W, C] in [-1, 1].

  Returns:
    Images of the same shape, clipped to [-1, 1]. Crops cover a fraction in
    [area_min, 1] of the image with aspect ratios in [aspect_min, 1 /
    aspect_min].
  """
  keys = jax.random.split(key, 6)
  images = _crop_and_flip(how, keys[0], keys[1], images)
  count = (len(images), 1, 1, 1)
  uniform = lambda k, delta: jax.random.uniform(
      k, count, jnp.float32, -1.) * delta
  images = lax.cond(
      how.brightness + how.contrast > 0, lambda x: _light(
          x, uniform(keys[2], how.brightness),
          1. + uniform(keys[3], how.contrast)), lambda x: x, images)
  if images.shape[-1] == 3:
    images = lax.cond(
        how.saturation + how.hue > 0, lambda x: _colour(
            x, 1. + uniform(keys[4], how.saturation),
            uniform(keys[5], how.hue)), lambda x: x, images)
  return jnp.clip(images, -1., 1.)


def _crop_and_flip(how, crop_key, flip_key, images):
  n, height, width, _ = images.shape
  top, left, tall, broad = boxes(how, crop_key, n)
  flipped = (how.flip > 0) & (
      jax.random.uniform(flip_key, (n,), jnp.float32) < 0.5)
  rows = _read(top, tall, height, jnp.zeros(n, bool))
  columns = _read(left, broad, width, flipped)
  # Pixels keep all their bits, like those of the validation images.
  exact = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
  images = exact('nHh,nhwc->nHwc', rows, images)
  return exact('nWw,nhwc->nhWc', columns, images)


def boxes(how: Augmentation, key, count: int):
  """Random boxes as (top, left, height, width), float32 [count] fractions.

  Given the aspect ratio, the height is uniform among those whose area fits,
  as in TensorFlow's `sample_distorted_bounding_box`. TensorFlow draws ratios
  until some height fits; here only ratios that fit are drawn.
  """
  keys = jax.random.split(key, 4)
  draw = [jax.random.uniform(k, (count,), jnp.float32) for k in keys]
  low = jnp.maximum(jnp.maximum(how.aspect_min, how.area_min), 1e-3)
  aspect = low + (1. / low - low) * draw[0]
  shortest = jnp.sqrt(how.area_min / aspect)
  tallest = jnp.minimum(jnp.minimum(jnp.sqrt(1. / aspect), 1. / aspect), 1.)
  tall = shortest + (tallest - shortest) * draw[1]
  whole = (how.crop == 0) | (how.area_min >= 1.) | (shortest > tallest)
  tall = jnp.where(whole, 1., tall)
  broad = jnp.where(whole, 1., jnp.minimum(tall * aspect, 1.))
  return draw[2] * (1. - tall), draw[3] * (1. - broad), tall, broad


def _read(start, extent, size, reverse):
  """Interpolation weights [n, size, size] that sample a part of an axis."""
  at = (jnp.arange(size) + 0.5) / size
  at = jnp.where(reverse[:, None], 1. - at[None], at[None])
  at = (start[:, None] + at * extent[:, None]) * size - 0.5
  at = jnp.clip(at, 0., size - 1.)
  return jnp.maximum(0., 1. - jnp.abs(
      at[:, :, None] - jnp.arange(size, dtype=at.dtype)[None, None]))


def _light(images, brightness, contrast):
  mean = jnp.mean(images, (1, 2), keepdims=True)
  return (images + brightness - mean - brightness) * contrast + (
      mean + brightness)


def _colour(images, saturation, hue):
  """Scales saturation and turns hue, in HSV on [0, 1]."""
  x = jnp.clip((images + 1.) / 2., 0., 1.)
  high, low = x.max(-1), x.min(-1)
  spread = jnp.where(high > low, high - low, 1.)
  red, green, blue = x[..., 0], x[..., 1], x[..., 2]
  turn = jnp.where(high == red, (green - blue) / spread,
                   jnp.where(high == green, 2. + (blue - red) / spread,
                             4. + (red - green) / spread))
  turn = turn / 6. + hue[..., 0]
  grey = jnp.where(high > 0., (high - low) / jnp.where(high > 0., high, 1.),
                   0.)
  grey = jnp.clip(grey * saturation[..., 0], 0., 1.)
  # Each channel: high minus a trapezoid of the hue.
  offsets = jnp.array([[[[5., 3., 1.]]]])
  place = (offsets + turn[..., None] * 6.) % 6.
  shape = jnp.clip(jnp.minimum(place, 4. - place), 0., 1.)
  return (high[..., None] * (1. - grey[..., None] * shape)) * 2. - 1.
