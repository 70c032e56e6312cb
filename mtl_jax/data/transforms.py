"""What a task does to an image: on the device, with traced parameters.

A `Transform` is a small hashable fact that can be written as JSON. For the
compiled path it is taken apart in two:

  kinds(transforms)              static: what decides shapes and code. Equal
                                 for all tasks of a suite, so they share one
                                 executable.
  parameters(transforms, shape)  arrays: what differs between tasks.

`apply(kinds, parameters, images)` puts them together, under jit, vmap and
scan. Geometric transforms work on uint8 and round back to uint8; only at
the end do pixels become float32 in [0, 1], normalised if asked.

All geometry is integer arithmetic, and fitting uses floats below 2**24, where
float32 counts exactly. The same image and task therefore give the same bits
whether compiled alone, in a scan, or vmapped over tasks.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import json_files
from mtl_jax import trees
from mtl_jax.data import pixels

# Names and order of each kind's arguments; the static ones are in STATIC.
KINDS = {
    'permute': ('seed',),
    'rotate': ('degrees',),
    'rotate_nearest': ('degrees',),
    'fit': ('height', 'width', 'channels'),
    'crop_flip': ('pad',),
    'normalise': ('mean', 'std'),
}
STATIC = ('fit', 'crop_flip')
# What makes one task of a suite differ from another.
DEFINING = ('permute', 'rotate', 'rotate_nearest')


@dataclasses.dataclass(frozen=True)
class Transform:
  """One step of a task's pipeline; use the constructors below.

  Attributes:
    kind: one of `KINDS`.
    args: (name, value) pairs in the order of `KINDS[kind]`; a value is a
      number or a tuple of numbers.
  """

  kind: str
  args: tuple[tuple[str, object], ...] = ()

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(
          f'unknown transform {self.kind!r}; known: {", ".join(KINDS)}')
    names = tuple(name for name, _ in self.args)
    if names != KINDS[self.kind]:
      raise ValueError(f'transform {self.kind!r} takes {KINDS[self.kind]}, '
                       f'not {names}')

  def __getitem__(self, name):
    return dict(self.args)[name]


def permute(seed):
  """Moves pixels by a fixed permutation; channels of a pixel stay together.

  Args:
    seed: int, 0 to 2**32 - 1; pixel i of the result is pixel
      `np.random.RandomState(seed).permutation(H * W)[i]` of the image.

  >>> permute(3)
  Transform(kind='permute', args=(('seed', 3),))
  """
  if not 0 <= int(seed) < 2**32:
    raise ValueError(f'permute: seed {seed} is not in [0, 2**32)')
  return Transform('permute', (('seed', int(seed)),))


def rotate(degrees, interpolation='bilinear'):
  """Turns counter-clockwise about the centre; the size stays, zeros outside.

  Args:
    degrees: float.
    interpolation: 'bilinear', or 'nearest': pixel for pixel what Pillow's
      `Image.rotate` and so torchvision's default make of it. On square images
      90 degrees equals `np.rot90` exactly with both.

  >>> image = np.array([[1, 2], [3, 4]], np.uint8)[None, :, :, None]
  >>> turned, _ = prepare((rotate(90),), image, every=True)
  >>> turned[0, :, :, 0].tolist()
  [[2, 4], [1, 3]]
  """
  if not np.isfinite(degrees):
    raise ValueError(f'rotate: degrees must be finite, not {degrees}')
  kind = {'bilinear': 'rotate', 'nearest': 'rotate_nearest'}.get(interpolation)
  if kind is None:
    raise ValueError(f'rotate: interpolation is {interpolation!r}; known: '
                     'bilinear, nearest')
  return Transform(kind, (('degrees', float(degrees)),))


def fit(height, width, channels):
  """Resizes to one shape: bilinear with antialiasing, grey <-> RGB.

  Args:
    height: int, pixels.
    width: int, pixels.
    channels: 1 (ITU-R 601 luminance) or 3 (grey is repeated).

  >>> output_shape(kinds((fit(28, 28, 1),)), (105, 105, 3))
  (28, 28, 1)
  """
  if min(height, width) < 1 or channels not in (1, 3):
    raise ValueError('fit: height and width must be positive and channels 1 '
                     f'or 3, not {(height, width, channels)}')
  return Transform('fit', (('height', int(height)), ('width', int(width)),
                           ('channels', int(channels))))


def crop_flip(pad):
  """Random crop after zero padding, and horizontal flip; in training only.

  >>> crop_flip(4)['pad']
  4
  """
  if pad < 0:
    raise ValueError(f'crop_flip: pad must not be negative, but is {pad}')
  return Transform('crop_flip', (('pad', int(pad)),))


def normalise(mean, std):
  """Subtracts the mean and divides by the standard deviation.

  Args:
    mean: float, or one per channel, on the scale where white is 1.
    std: likewise; positive.

  >>> normalise(0.5, 0.25).args
  (('mean', (0.5,)), ('std', (0.25,)))
  """
  mean, std = (tuple(float(v) for v in np.atleast_1d(a)) for a in (mean, std))
  if len(mean) != len(std) or not all(s > 0 for s in std):
    raise ValueError('normalise: mean and std need equal lengths and std must '
                     f'be positive, not {mean} and {std}')
  return Transform('normalise', (('mean', mean), ('std', std)))


def to_json(transforms):
  """The transforms as lists, strings and numbers that `json.dumps` takes.

  >>> to_json((permute(3),))
  [['permute', {'seed': 3}]]
  """
  return [[t.kind, {name: list(v) if isinstance(v, tuple) else v
                    for name, v in t.args}] for t in transforms]


def from_json(value):
  """The tuple of transforms that `to_json` wrote; also takes a JSON string.

  >>> from_json(to_json((permute(3), rotate(90)))) == (permute(3), rotate(90))
  True
  """
  if isinstance(value, str):
    value = json_files.parse(value, list, 'transforms', 'the text')
  found = []
  for kind, args in value:
    args = {n: args[n] for n in KINDS.get(kind, ()) if n in args} | args
    found.append(Transform(kind, tuple(
        (n, tuple(v) if isinstance(v, list) else v) for n, v in args.items())))
  return tuple(found)


def kinds(transforms):
  """The static part: hashable, equal for all tasks of a suite.

  Args:
    transforms: tuple of `Transform`.

  Returns:
    Tuple of tuples: the kind, followed by its static arguments.

  Raises:
    ValueError: `normalise` is not the last one.

  >>> kinds((fit(28, 28, 1), permute(3), normalise(0.5, 0.5)))
  (('fit', 28, 28, 1), ('permute',), ('normalise',))
  """
  for t in transforms[:-1]:
    if t.kind == 'normalise':
      raise ValueError('normalise must be the last transform, but the order '
                       f'is {[t.kind for t in transforms]}')
  return tuple(
      (t.kind, *(v for _, v in t.args)) if t.kind in STATIC else (t.kind,)
      for t in transforms)


def output_shape(kinds, image_shape):
  """The (H, W, C) that `apply` makes of images of `image_shape`.

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


def parameters(transforms, image_shape):
  """The arrays of each transform: what is traced.

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

  >>> parameters((permute(0),), (2, 2, 1))[0]['index'].tolist()
  [2, 3, 1, 0]
  """
  static, found, shape = kinds(transforms), [], tuple(image_shape)
  for i, t in enumerate(transforms):
    shape = output_shape(static[i:i + 1], shape)
    height, width, channels = shape
    if t.kind == 'permute':
      order = np.random.RandomState(t['seed']).permutation(height * width)
      found.append({'index': order.astype(np.int32)})
    elif t.kind == 'rotate':
      found.append(pixels.rotation(t['degrees'], height, width))
    elif t.kind == 'rotate_nearest':
      found.append(pixels.nearest_rotation(t['degrees'], height, width))
    elif t.kind == 'normalise':
      found.append({name: _per_channel(name, t[name], channels)
                    for name in ('mean', 'std')})
    else:
      found.append({})
  return tuple(found)


def _per_channel(name, values, channels):
  if len(values) not in (1, channels):
    raise ValueError(f'normalise: {name} has '
                     f'{trees.counted(len(values), "value")} but images have '
                     f'{trees.counted(channels, "channel")}')
  return np.array(np.broadcast_to(values, (channels,)) * 255, np.float32)


def apply(kinds, parameters, images, key=None, train=False):
  """Transforms a batch; pure, for use under jit, vmap and scan.

  Args:
    kinds: from `kinds(transforms)`; static.
    parameters: from `parameters(transforms, image_shape)`; traced.
    images: uint8 [n, H, W, C]; without transforms also a table's float32
      [n, f] or tokens int32 [n, length], which stay as they are.
    key: typed key; needed by crop_flip when training.
    train: static; whether random augmentation acts.

  Returns:
    float32 [n, H', W', C'], in [0, 1] unless normalised.

  Raises:
    ValueError: images are not uint8 of rank 4, a parameter's size does not
      suit them, or the key is missing.

  >>> spec = (normalise(0.5, 0.5),)
  >>> images = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
  >>> apply(kinds(spec), parameters(spec, (1, 2, 1)), images).ravel().tolist()
  [-1.0, 1.0]
  """
  if not kinds and images.dtype != jnp.uint8 and images.ndim == 2:
    return images  # a table's features, or tokens
  images, normalisation = _pixels(kinds, parameters, images, key, train)
  result = images.astype(jnp.float32)
  if normalisation is None:
    return result * np.float32(1 / 255)
  pixels.check('normalise', normalisation['mean'], (images.shape[-1],))
  # One subtraction and one division by a traced value: nothing that XLA may
  # fuse or reorder, so the bits do not depend on how this is compiled.
  mean = normalisation['mean'][None, None, None, :]
  std = normalisation['std'][None, None, None, :]
  return (result - mean) / std


def observed(kinds, parameters, images):
  """The images as a task shows them: everything but the normalisation.

  Args:
    As of `apply`.

  Returns:
    uint8 [n, H', W', C'].
  """
  return _pixels(kinds, parameters, images)[0]


def common(transforms):
  """The part that prepares any image, without what makes the task another.

  An image that comes without its task's name is one that the world has
  permuted or rotated already; what is left to do is this.

  >>> [t.kind for t in common((fit(2, 2, 1), permute(3), normalise(0., 1.)))]
  ['fit', 'normalise']
  """
  return tuple(t for t in transforms if t.kind not in DEFINING)


def prepare(transforms, images, every=False):
  """Does once what need not be done at every step: the leading `fit`s.

  Data sets of different shapes then lie on the device in one shape, and
  their tasks share one executable. Equal to `apply` bit for bit.

  Args:
    transforms: tuple of `Transform`.
    images: uint8 [n, H, W, C], NumPy or JAX.
    every: also do every other transform that keeps uint8 and is not random.

  Returns:
    (uint8 [n, H', W', C'], the tuple of transforms still to be applied).

  >>> images, rest = prepare((fit(1, 1, 1), permute(0)),
  ...                        np.full((2, 2, 2, 3), 7, np.uint8))
  >>> images.tolist(), [t.kind for t in rest]
  ([[[[7]]], [[[7]]]], ['permute'])
  """
  now = ('fit', *DEFINING) if every else ('fit',)
  count = 0
  while count < len(transforms) and transforms[count].kind in now:
    count += 1
  first, rest = tuple(transforms[:count]), tuple(transforms[count:])
  if not first:
    return np.asarray(images), rest
  values = parameters(first, images.shape[1:])
  chunks = [np.asarray(_observed_jit(kinds(first), values, images[i:i + 4096]))
            for i in range(0, max(len(images), 1), 4096)]
  return np.concatenate(chunks), rest


def _pixels(kinds, parameters, images, key=None, train=False):
  """Everything that keeps uint8; returns (images, normalise's parameters)."""
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
