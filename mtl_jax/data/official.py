"""The 69 tasks of mu2Net, with the splits of its official code, as data.

Gesmundo and Dean 2022, https://arxiv.org/abs/2205.12755: the ViT benchmark, all
of VTAB, the Visual Domain Decathlon, the characters and VTAB-1k. Three names
that fail as written in its notebook are corrected
(`smallnorb/label_azimuth/1k`, both `smallnorb/label_elevation`).

VTAB's splits and labels are those of google-research/task_adaptation. dSprites
keeps 32 positions and 40 orientations, as in mu2Net; VTAB's own script
has 16 of each.
"""

import re
from typing import NamedTuple

import numpy as np

from mtl_jax import messages
from mtl_jax import trees


class Splits(NamedTuple):
  """The splits of a task as (TFDS name[:label], split[slice]...) each."""
  train: tuple[str, str]
  valid: tuple[str, str]
  test: tuple[str, str]


def _of(base, train, valid, test='test'):
  return Splits((base, train), (base, valid), (base, test))


_OWN = ('train', 'validation', 'test')
_LAST_TENTH = ('train[:90%]', 'train[90%:]', 'test')
_CLEVR = ('train[:90%]', 'train[90%:]', 'validation')
_FIFTHS = ('train[:60%]', 'train[60%:80%]', 'train[80%:]')
_DSPRITES = ('train[:80%]', 'train[80%:90%]', 'train[90%:]')
_NORB = ('train', 'test[:50%]', 'test[50%:]')

VTAB = {
    'caltech101': _of('caltech101', *_LAST_TENTH),
    'dtd': _of('dtd', *_OWN),
    'oxford_flowers102': _of('oxford_flowers102', *_OWN),
    'oxford_iiit_pet': _of('oxford_iiit_pet', 'train[:80%]', 'train[80%:]'),
    'sun397': _of('sun397/tfds', *_OWN),
    'svhn_cropped': _of('svhn_cropped', *_LAST_TENTH),
    'patch_camelyon': _of('patch_camelyon', *_OWN),
    'eurosat': _of('eurosat/rgb', *_FIFTHS),
    'resisc45': _of('resisc45', *_FIFTHS),
    'diabetic_retinopathy_detection/btgraham-300': _of(
        'diabetic_retinopathy_detection/btgraham-300', *_OWN),
    'clevr/count_cylinders': _of('clevr:=clevr_count_cylinders', *_CLEVR),
    'clevr/count_all': _of('clevr:=clevr_count_all', *_CLEVR),
    'clevr/closest_object_distance': _of('clevr:=clevr_distance', *_CLEVR),
    'dmlab': _of('dmlab', *_OWN),
    'dsprites/label_x_position': _of('dsprites:label_x_position', *_DSPRITES),
    'dsprites/label_orientation': _of('dsprites:label_orientation',
                                      *_DSPRITES),
    'kitti/closest_object_distance': _of('kitti:=kitti_object_distance',
                                         *_OWN),
    'kitti/count_vehicles': _of('kitti:=kitti_count_vehicles', *_OWN),
    'kitti/closest_vehicle_distance': _of('kitti:=kitti_vehicle_distance',
                                          *_OWN),
    'smallnorb/label_category': _of('smallnorb:label_category', *_NORB),
    'smallnorb/label_lighting': _of('smallnorb:label_lighting', *_NORB),
    'smallnorb/label_azimuth': _of('smallnorb:label_azimuth', *_NORB),
    'smallnorb/label_elevation': _of('smallnorb:label_elevation', *_NORB),
}
VIT = {
    'imagenet2012': Splits(('imagenet2012', 'train'), ('imagenet_v2', 'test'),
                           ('imagenet2012', 'validation')),
    'cifar100': _of('cifar100', 'train[:98%]', 'train[98%:]'),
    'cifar10': Splits(('cifar10', 'train'), ('cifar10_1', 'test'),
                      ('cifar10', 'test')),
}
VDD = {f'visual_domain_decathlon/{name}': _of(
    f'visual_domain_decathlon/{name}', 'train', 'validation[:50%]',
    'validation[50%:]') for name in (
        'imagenet12', 'svhn', 'cifar100', 'gtsrb', 'daimlerpedcls', 'omniglot',
        'ucf101', 'aircraft', 'dtd', 'vgg-flowers')}
_CMATERDB = {f'cmaterdb/{name}': _of(
    f'cmaterdb/{name}', 'train[20%:]', 'train[:20%]')
             for name in ('bangla', 'devanagari', 'telugu')}
CHARACTERS = {
    **{name: _of(name, 'train[5%:]', 'train[:5%]') for name in (
        'emnist/digits', 'emnist/letters', 'kmnist', 'mnist')},
    'omniglot': _of('omniglot', 'train', 'small1', 'small2'),
    **_CMATERDB}


def _thousand(splits: Splits) -> Splits:
  """VTAB-1k: the first 800 of TFDS's train, the first 200 of VTAB's val."""
  base, whole = splits.train
  return Splits((base, f'{whole.partition("[")[0]}[:800]'),
                (splits.valid[0], f'{splits.valid[1]}[:200]'), splits.test)


_CIFAR = {name: _of(name, *_LAST_TENTH) for name in ('cifar100', 'cifar10')}
_ORDER_1K = ('caltech101', 'cifar100', 'cifar10',
             *(name for name in VTAB if name != 'caltech101'))
VTAB_1K = {f'{name}/1k': _thousand((VTAB | _CIFAR)[name])
           for name in _ORDER_1K}

TASKS: dict[str, Splits] = VIT | VTAB | VDD | CHARACTERS | VTAB_1K
BENCHMARKS: dict[str, tuple[str, ...]] = {
    'vit': tuple(VIT), 'vtab': tuple(VTAB), 'vdd': tuple(VDD),
    'characters': tuple(CHARACTERS), 'vtab_1k': tuple(VTAB_1K),
    'preliminary': tuple(_CMATERDB)}
# All 2,720 images of small1 and all 3,120 of small2 are in train too. Instead
# of Omniglot's official splits: 16, 2 and 2 drawings of each character.
LEAKING = {'omniglot': 'omniglot:label!label'}


def task(name: str) -> Splits:
  """A task's splits.

  Raises:
    ValueError: the task is unknown; lists the nearest ones.

  >>> task('cmaterdb/bangla').valid
  ('cmaterdb/bangla', 'train[:20%]')
  """
  if name not in TASKS:
    raise ValueError(f'unknown official task {name!r}'
                     f'{trees.nearest(name, TASKS)}; mtl_jax.data.official '
                     f'lists all {len(TASKS)}')
  return TASKS[name]


def source(name: str, size: tuple[int, int], leaking: bool = False) -> str:
  """The name of a task's source for `sources.load`, resized to `size`.

  >>> source('mnist', (32, 32)), source('omniglot', (32, 32))
  ('official:mnist@32x32', 'omniglot:label!label@32x32')
  """
  task(name)
  messages.check_switch(leaking, 'leaking')
  found = f'official:{name}'
  if name in LEAKING and not leaking:
    found = LEAKING[name]
  return f'{found}@{size[0]}x{size[1]}'


def rows(expression: str, count: int) -> np.ndarray:
  """Rows selected by slices of a split; percentages are rounded.

  Args:
    expression: a split's name and any number of slices, one after another.
    count: images in the whole split.

  >>> rows('train[50%:][:2]', 7).tolist()
  [4, 5]
  """
  kept = np.arange(count)
  for slice_ in re.findall(r'\[([^\]]*)\]', expression):
    start, stop = (_place(part, len(kept)) for part in slice_.split(':'))
    kept = kept[start:stop]
  return kept


def _place(part, count):
  if not part:
    return None
  if part.endswith('%'):
    return int(round(count * float(part[:-1]) / 100))
  return int(part)
