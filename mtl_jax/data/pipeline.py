"""Runs a task's transforms on the device, with traced parameters.

A list of transforms has two parts:

  transforms.kinds(chain)   static: determines shapes and code. Equal for
                            all tasks of a suite, so they share one
                            executable.
  parameters(chain, shape)  arrays: the values that differ between tasks.

`apply(kinds, parameters, images)` combines them, under jit, vmap and scan.
Geometric transforms work on uint8 and round back to uint8; only at the end do
pixels become float32 in [0, 1], normalised if asked.

All geometry is integer arithmetic, and fitting uses floats below 2**24, where
float32 counts exactly. So the same image and task give the same bits, whether
compiled alone, in a scan, or vmapped over tasks.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import aliases
from mtl_jax import messages
from mtl_jax import trees
from mtl_jax.data import pixels
from mtl_jax.data import transforms as transforms_lib

# One dict of arrays for each transform.
Parameters: TypeAlias = Sequence[Mapping[str, aliases.Images]]


def output_shape(kinds: transforms_lib.Kinds,
                 image_shape: Sequence[int]) -> tuple[int, ...]:
  """The shape (H, W, C) of `apply` on images of `image_shape`.

  >>> output_shape((('permute',),), (28, 28, 1))
  (28, 28, 1)
  """
  for kind, *args in kinds:
    if kind == 'fit':
      if image_shape[-1] not in (1, 3):
        raise ValueError(f'fit: images have '
                         f'{trees.counted(image_shape[-1], "channel")}; only '
                         '1 and 3 can be converted')
      image_shape = tuple(args)
  return tuple(image_shape)


def parameters(transforms: Sequence[transforms_lib.Transform],
               image_shape: Sequence[int]) -> Parameters:
  """The arrays of each transform, which are traced arguments of `apply`.

  Args:
    transforms: tuple of `Transform`.
    image_shape: (H, W, C) of the source's images.

  Returns:
    Tuple with one dict of NumPy arrays per transform:
      permute: 'index' int32 [H * W];
      rotate: 'index' and 'weight' int32 [4, H * W];
      rotate_nearest: 'index' int32 [H * W], H * W outside;
      normalise: 'mean' and 'std' float32 [C], where white is 255;
      fit and crop_flip: empty.

  Raises:
    ValueError: a transform does not suit the shape.

  >>> parameters((transforms_lib.permute(0),), (2, 2, 1))[0]['index'].tolist()
  [2, 3, 1, 0]
  """
  static, shape = transforms_lib.kinds(transforms), tuple(image_shape)
  result: list[Mapping[str, aliases.Images]] = []
  for i, t in enumerate(transforms):
    shape = output_shape(static[i:i + 1], shape)
    height, width, channels = shape
    if t.kind == 'permute':
      order = np.random.RandomState(t['seed']).permutation(height * width)
      result.append({'index': order.astype(np.int32)})
    elif t.kind == 'rotate':
      result.append(pixels.rotation(t['degrees'], height, width))
    elif t.kind == 'rotate_nearest':
      result.append(pixels.nearest_rotation(t['degrees'], height, width))
    elif t.kind == 'normalise':
      result.append({name: _per_channel(name, t[name], channels)
                     for name in ('mean', 'std')})
    else:
      result.append({})
  return tuple(result)


def _per_channel(name: str, values: Sequence[float],
                 channels: int) -> np.ndarray:
  if len(values) not in (1, channels):
    raise ValueError(f'normalise: {name} has '
                     f'{trees.counted(len(values), "value")} but images have '
                     f'{trees.counted(channels, "channel")}')
  with np.errstate(over='ignore'):
    scaled = np.array(np.broadcast_to(values, (channels,)) * 255, np.float32)
  if not np.isfinite(scaled).all():
    raise ValueError(f'normalise: {name} is {list(values)}; give finite '
                     'numbers')
  return scaled


def apply(kinds: transforms_lib.Kinds, parameters: Parameters,
          images: aliases.Images, key: aliases.PRNGKey | None = None,
          train: bool = False) -> aliases.Array:
  """Transforms a batch; pure, for use under jit, vmap and scan.

  Args:
    kinds: from `transforms.kinds(chain)`; static.
    parameters: from `parameters(chain, image_shape)`; traced.
    images: uint8 [n, H, W, C]; without transforms also a table's float32
      [n, f] or tokens int32 [n, length], which are returned unchanged.
    key: typed key; needed by crop_flip when training.
    train: static; whether random augmentation is applied.

  Returns:
    float32 [n, H', W', C'], in [0, 1] unless normalised.

  Raises:
    ValueError: images are not uint8 of rank 4, a parameter's size does not
      suit them, or the key is missing.

  >>> spec = (transforms_lib.normalise(0.5, 0.5),)
  >>> kinds = transforms_lib.kinds(spec)
  >>> images = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
  >>> apply(kinds, parameters(spec, (1, 2, 1)), images).ravel().tolist()
  [-1.0, 1.0]
  """
  messages.check_switch(train, 'train')
  if _plain(kinds, images):
    return jnp.asarray(images)
  images, normalisation = _pixels(kinds, parameters, images, key, train)
  result = images.astype(jnp.float32)
  if normalisation is None:
    return result * np.float32(1 / 255)
  pixels.check('normalise', normalisation['mean'], (images.shape[-1],))
  # One subtraction and one division by a traced value: XLA can't fuse or
  # reorder them, so the bits do not depend on how this is compiled.
  mean = normalisation['mean'][None, None, None, :]
  std = normalisation['std'][None, None, None, :]
  return (result - mean) / std


def observed(kinds: transforms_lib.Kinds, parameters: Parameters,
             images: aliases.Images) -> aliases.Array:
  """The images after all transforms except the normalisation.

  Args:
    kinds, parameters, images: as in `apply`.

  Returns:
    uint8 [n, H', W', C'].
  """
  if _plain(kinds, images):
    return jnp.asarray(images)
  return _pixels(kinds, parameters, images)[0]


def _plain(kinds: transforms_lib.Kinds, images: aliases.Images) -> bool:
  """Whether these are a table's features, or tokens."""
  return not kinds and images.dtype != jnp.uint8 and images.ndim == 2


def prepare(
    transforms: Sequence[transforms_lib.Transform], images: aliases.Images,
    every: bool = False,
) -> tuple[np.ndarray, transforms_lib.Chain]:
  """Applies the leading `fit`s once, so that no step does it again.

  Data sets of different shapes then have one shape on the device, and
  their tasks share one executable. Equal to `apply` bit for bit.

  Args:
    transforms: tuple of `Transform`.
    images: uint8 [n, H, W, C], NumPy or JAX.
    every: also apply all other transforms that keep uint8 and are not random.

  Returns:
    (uint8 [n, H', W', C'], the tuple of transforms still to be applied).

  >>> images, rest = prepare(
  ...     (transforms_lib.fit(1, 1, 1), transforms_lib.permute(0)),
  ...     np.full((2, 2, 2, 3), 7, np.uint8))
  >>> images.tolist(), [t.kind for t in rest]
  ([[[[7]]], [[[7]]]], ['permute'])
  """
  messages.check_switch(every, 'every')
  now = ('fit', *transforms_lib.DEFINING) if every else ('fit',)
  count = 0
  while count < len(transforms) and transforms[count].kind in now:
    count += 1
  first, rest = tuple(transforms[:count]), tuple(transforms[count:])
  if not first:
    return np.asarray(images), rest
  values = parameters(first, images.shape[1:])
  kinds = transforms_lib.kinds(first)
  chunks = [np.asarray(_observed_jit(kinds, values, images[i:i + 4096]))
            for i in range(0, max(len(images), 1), 4096)]
  return np.concatenate(chunks), rest


def _pixels(
    kinds: transforms_lib.Kinds, parameters: Parameters,
    images: aliases.Images, key: aliases.PRNGKey | None = None,
    train: bool = False,
) -> tuple[aliases.Array, Mapping[str, aliases.Images] | None]:
  """All transforms that keep uint8: (images, parameters of normalise)."""
  if images.dtype != jnp.uint8 or images.ndim != 4:
    raise ValueError('images must be uint8 [n, H, W, C], not '
                     f'{images.dtype} {list(images.shape)}')
  if len(kinds) != len(parameters):
    raise ValueError(f'{len(kinds)} transforms {[k[0] for k in kinds]} but '
                     f'{len(parameters)} sets of parameters')
  images, normalisation = jnp.asarray(images), None
  for i, ((kind, *args), values) in enumerate(zip(kinds, parameters)):
    if kind == 'permute':
      images = pixels.permute(images, values['index'])
    elif kind == 'rotate':
      images = pixels.rotate(images, values['index'], values['weight'])
    elif kind == 'rotate_nearest':
      images = pixels.rotate_nearest(images, values['index'])
    elif kind == 'fit':
      output_shape(((kind, *args),), images.shape[1:])
      images = pixels.fit(images, *args)
    elif kind == 'crop_flip' and train:
      if key is None:
        raise ValueError('crop_flip needs a key when train=True')
      images = pixels.crop_flip(images, jax.random.fold_in(key, i), *args)
    elif kind == 'normalise':
      normalisation = values
  return images, normalisation


_observed_jit = jax.jit(observed, static_argnums=0)
