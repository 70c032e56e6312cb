"""The transforms of a task's images.

A `Transform` is a small hashable value that can be written as JSON; a task has
a chain of them, a tuple. `mtl_jax.data.pipeline` applies a chain on the
device; `kinds(chain)` is the chain's static part.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from mtl_jax import json_files

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
# The kinds that differ between the tasks of a suite.
DEFINING = ('permute', 'rotate', 'rotate_nearest')

Number: TypeAlias = int | float
_LEAST = 1e-30  # of a divisor: float32 has it, and 1 / it
# A transform's kind, followed by its static arguments.
Kind: TypeAlias = tuple[Any, ...]
Kinds: TypeAlias = tuple[Kind, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
  """One step of a task's pipeline; use the constructors below.

  Attributes:
    kind: one of `KINDS`.
    args: (name, value) pairs in the order of `KINDS[kind]`; a value is a
      number or a tuple of numbers.
  """

  kind: str
  args: tuple[tuple[str, Any], ...] = ()

  def __post_init__(self) -> None:
    if self.kind not in KINDS:
      raise ValueError(
          f'unknown transform {self.kind!r}; known: {", ".join(KINDS)}')
    names = tuple(name for name, _ in self.args)
    if names != KINDS[self.kind]:
      raise ValueError(f'transform {self.kind!r} takes {KINDS[self.kind]}, '
                       f'not {names}')

  def __getitem__(self, name: str) -> Any:
    return dict(self.args)[name]


Chain: TypeAlias = tuple[Transform, ...]


def permute(seed: int) -> Transform:
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


def rotate(degrees: float, interpolation: str = 'bilinear') -> Transform:
  """Rotates counter-clockwise about the centre; same size, zeros outside.

  Args:
    degrees: float.
    interpolation: 'bilinear', or 'nearest', which equals Pillow's
      `Image.rotate`, and so torchvision's default, pixel for pixel. On square
      images 90 degrees equals `np.rot90` exactly with both.

  >>> from mtl_jax.data import pipeline
  >>> image = np.array([[1, 2], [3, 4]], np.uint8)[None, :, :, None]
  >>> turned, _ = pipeline.prepare((rotate(90),), image, every=True)
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


def fit(height: int, width: int, channels: int) -> Transform:
  """Resizes to one shape: bilinear with antialiasing, grey <-> RGB.

  Args:
    height: int, pixels.
    width: int, pixels.
    channels: 1 (ITU-R 601 luminance) or 3 (grey is repeated).

  >>> kinds((fit(28, 28, 1),))
  (('fit', 28, 28, 1),)
  """
  if min(height, width) < 1 or channels not in (1, 3):
    raise ValueError('fit: height and width must be positive and channels 1 '
                     f'or 3, not {(height, width, channels)}')
  return Transform('fit', (('height', int(height)), ('width', int(width)),
                           ('channels', int(channels))))


def crop_flip(pad: int) -> Transform:
  """Random crop after zero padding, and horizontal flip; in training only.

  >>> crop_flip(4)['pad']
  4
  """
  if pad < 0:
    raise ValueError(f'crop_flip: pad must not be negative, but is {pad}')
  return Transform('crop_flip', (('pad', int(pad)),))


def normalise(mean: Number | Sequence[Number],
              std: Number | Sequence[Number]) -> Transform:
  """Subtracts the mean and divides by the standard deviation.

  Args:
    mean: float, or one per channel, on a scale where white is 1.
    std: float, or one per channel; positive.

  >>> normalise(0.5, 0.25).args
  (('mean', (0.5,)), ('std', (0.25,)))
  """
  mean, std = (tuple(float(v) for v in np.atleast_1d(a)) for a in (mean, std))
  if len(mean) != len(std) or not all(s > 0 for s in std):
    raise ValueError('normalise: mean and std need equal lengths and std must '
                     f'be positive, not {mean} and {std}')
  if not all(_LEAST < s for s in std) or not all(
      abs(v) < 1 / _LEAST for v in (*mean, *std)):
    raise ValueError(f'normalise: mean {mean} or std {std} is beyond what '
                     'float32 divides by; white is 1, so give numbers of about '
                     'that size')
  return Transform('normalise', (('mean', mean), ('std', std)))


def to_json(transforms: Sequence[Transform]) -> list[list[Any]]:
  """The transforms as lists, strings and numbers that `json.dumps` takes.

  >>> to_json((permute(3),))
  [['permute', {'seed': 3}]]
  """
  return [[t.kind, {name: list(v) if isinstance(v, tuple) else v
                    for name, v in t.args}] for t in transforms]


def from_json(value: str | Sequence[Any]) -> Chain:
  """The tuple of transforms that `to_json` wrote; also takes a JSON string.

  >>> from_json(to_json((permute(3), rotate(90)))) == (permute(3), rotate(90))
  True
  """
  given: Sequence[Any] = value if not isinstance(value, str) else (
      json_files.parse(value, list, 'transforms', 'the text'))
  chain = []
  for kind, args in given:
    args = {n: args[n] for n in KINDS.get(kind, ()) if n in args} | args
    chain.append(Transform(kind, tuple(
        (n, tuple(v) if isinstance(v, list) else v) for n, v in args.items())))
  return tuple(chain)


def kinds(transforms: Sequence[Transform]) -> Kinds:
  """The static part: hashable, equal for all tasks of a suite.

  Args:
    transforms: tuple of `Transform`.

  Returns:
    Tuple of tuples: the kind, followed by its static arguments.

  Raises:
    ValueError: `normalise` is not the last transform.

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


def common(transforms: Sequence[Transform]) -> Chain:
  """The transforms without those that differ between the tasks of a suite.

  An image whose task is not given is already permuted or rotated; only these
  transforms are left to apply.

  >>> [t.kind for t in common((fit(2, 2, 1), permute(3), normalise(0., 1.)))]
  ['fit', 'normalise']
  """
  return tuple(t for t in transforms if t.kind not in DEFINING)
