"""The published search spaces: the possible values of hyper-parameters.

Each is the space of one configuration of the official notebooks
(google-research/google-research, folder muNet): mu2Net's ViT-L runs and its
preliminary experiment, muNet's characters and Visual Domain Decathlon, and
mu2Net+'s four. With a size factor, mu2Net and muNet also search the number of
blocks: give `num_layers` (see `Space.replace`).

All defaults are the official values. Three options turn a part of the official
behaviour off: `accumulator='float32'`, `shuffle='epochs'` and
`remember_children=False`.
"""

import dataclasses
import functools
from typing import Any

from mtl_jax import trees

RATE = 'mutation_rate'
COLOURS = ('brightness', 'contrast', 'saturation', 'hue')
AUGMENT = ('area_min', 'crop', 'aspect_min', 'flip', *COLOURS)
OPTIMIZER = ('learning_rate', 'warmup', 'momentum', 'nesterov', 'schedule')
SCHEDULES = ('cosine', 'restarts', 'linear', 'constant')
ACCUMULATORS = ('bfloat16', 'float32')
SHUFFLES = ('buffer', 'epochs')
_LAYERS = 'num_layers'
_WHOLE = {'adapter': 1, _LAYERS: 0}  # whole numbers, with their least value
_SWITCHES = ('crop', 'flip', 'nesterov')


@dataclasses.dataclass(frozen=True)
class Range:
  """A hyper-parameter's values in order, and its default.

  A mutation moves one place up or down the list.
  """
  values: tuple
  default: Any

  def __post_init__(self):
    if self.default not in self.values:
      raise ValueError(f'the default {self.default} is not among the values '
                       f'{self.values}')


@dataclasses.dataclass(frozen=True)
class Space:
  """The search space.

  Attributes:
    ranges: (name, `Range`) pairs, sorted by name; a range with one value is
      fixed. RATE: the probability of a mutation. AUGMENT: augmentation of
      images, shared by a generation. OPTIMIZER: optimizer of the child.
      'num_layers': number of encoder blocks (by default the root's). 'adapter':
      hidden features of adapters.
    insert_adapters: whether adapters are inserted.
    rate_per_action: mu2Net+: every action has its own rate. Whenever the
      action is considered, its rate moves one place with the probability
      RATE, which evolves too.
    start_scale: the learning rate before warm-up, as a fraction of the peak;
      the schedule 'linear' ends with it.
    population: mu2Net+: number of a task's best paths that are kept after a
      generation; 0 keeps all.
    accumulator: dtype of momentum. 'bfloat16', officially: the factor, its
      product and the sum are rounded, so that 0.9 is 0.8984. 'float32': plain
      SGD.
    shuffle: 'buffer', officially: batches are cut from one fixed order of the
      images and shuffled in a buffer of ten batches. 'epochs': every pass
      is a new permutation of the images.
    remember_children: officially, a path's children for a task count in all
      later iterations of the task; otherwise only in the current one.
    always: components that are always cloned.
  """
  ranges: tuple[tuple[str, Range], ...]
  insert_adapters: bool = False
  rate_per_action: bool = False
  start_scale: float = 0.01
  population: int = 0
  accumulator: str = 'bfloat16'
  shuffle: str = 'buffer'
  remember_children: bool = True
  always: tuple[str, ...] = ('encoder_norm',)

  def __post_init__(self):
    for name, known in (('accumulator', ACCUMULATORS), ('shuffle', SHUFFLES)):
      _one_of(name, getattr(self, name), known)
    if (isinstance(self.population, bool)
        or not isinstance(self.population, int) or self.population < 0):
      raise ValueError(f'population is {self.population!r}; it must be a whole '
                       'number, and 0 keeps all paths')
    _switch('remember_children', self.remember_children)

  def __getitem__(self, name: str) -> Range:
    return dict(self.ranges)[name]

  def defaults(self, names=None) -> dict:
    """The values at the start of a search."""
    return {name: found.default for name, found in self.ranges
            if names is None or name in names}

  def replace(self, **fixed) -> 'Space':
    """The space with other values of some hyper-parameters.

    Args:
      **fixed: by name one value, or a tuple of values to search. The search
        starts from the default if it is among them, else from the first.
        'num_layers' can be given to any space, and starts from the root's.
        The options 'accumulator', 'shuffle', 'population' and
        'remember_children' take one value.

    Raises:
      ValueError: a name is unknown (lists the known and nearest ones), or no
        search could train with a value.
    """
    known: dict[str, Range] = dict(self.ranges)
    names = sorted({*known, _LAYERS, *_OPTIONS})
    options = {name: fixed.pop(name) for name in _OPTIONS if name in fixed}
    for name, value in fixed.items():
      if name not in names:
        raise ValueError(f'the space has no {name}{trees.nearest(name, names)}'
                         f'; known: {", ".join(names)}')
      values = value if isinstance(value, tuple) else (value,)
      if not values:
        raise ValueError(f'{name} has no value; give at least one')
      if len(set(values)) < len(values):
        raise ValueError(f'{name} is {values}; a mutation goes from one value '
                         'to the next, so give each once')
      for one in values:
        _check(name, one)
      start = known[name].default if name in known else values[0]
      known[name] = Range(values, start if start in values else values[0])
    return dataclasses.replace(self, ranges=_ranges(known), **options)


_OPTIONS = ('accumulator', 'population', 'remember_children', 'shuffle')


def _switch(name, value) -> None:
  if not isinstance(value, bool):
    raise ValueError(f'{name} is {value!r}; it must be True or False')


def _one_of(name, value, known) -> None:
  if value not in known:
    raise ValueError(f'{name} is {value!r}{trees.nearest(value, known)}; '
                     f'known: {", ".join(known)}')


def _check(name, value) -> None:
  if name == 'schedule':
    _one_of(name, value, SCHEDULES)
  elif name in _SWITCHES:
    _switch(name, value)
  elif isinstance(value, bool) or not isinstance(value, (int, float)):
    raise ValueError(f'{name} is {value!r}; it must be a number'
                     + (' (no momentum is 0)' if name == 'momentum' else ''))
  elif name in _WHOLE:
    least = _WHOLE[name]
    if not float(value).is_integer() or value < least:
      raise ValueError(f'{name} is {value}; it must be a whole number of at '
                       f'least {least}')
  elif name == 'learning_rate':
    if not 0 < value < float('inf'):
      raise ValueError(f'learning_rate is {value}; it must be above 0')
  elif not 0 <= value <= 1:
    raise ValueError(f'{name} is {value}; it must lie between 0 and 1')


def _ranges(given: dict) -> tuple:
  """(name, `Range`) pairs; the default of a bare tuple is its first value."""
  return tuple(sorted(
      (name, value if isinstance(value, Range) else Range(value, value[0]))
      for name, value in given.items()))


_LR = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, .01, .02, .05, .1, .2, .5)
_DELTA = (0., .01, .02, .05, .1, .2)
_BOTH = (True, False)
_IMAGES = {
    'area_min': Range((.01, .02, .05, .1, .2, .5, 1.), .05),
    'crop': Range(_BOTH, True),
    'aspect_min': Range((.25, .5, .75, 1.), .75),
    'flip': Range(_BOTH, True),
    **{name: Range(_DELTA, 0.) for name in COLOURS}}
_MU2NET = _IMAGES | {
    RATE: Range(tuple(round(.1 + .02 * i, 2) for i in range(11)), .2),
    'learning_rate': Range(_LR, .01),
    'warmup': Range((.01, .02, .05, .1, .2, .3, .4), .05),
    'momentum': Range((.5, .6, .7, .8, .85, .9, .95, .98, .99), .9),
    'nesterov': Range(_BOTH, False),
    'schedule': ('cosine',),
    'adapter': (16,)}
_MUNET = _IMAGES | {
    RATE: (.1,),
    'crop': (True,),
    'learning_rate': Range(_LR, .01),
    'warmup': Range((.01, .02, .05, .1, .2, .3, .4), .1),
    # `None` in the official list becomes 0; there it causes an error.
    'momentum': Range((0., .2, .4, .5, .6, .7, .8, .85, .9, .95, .98, .99),
                      .9),
    'nesterov': Range(_BOTH, False),
    'schedule': Range(('constant', 'cosine', 'restarts'), 'cosine'),
    'adapter': Range((8, 16, 32, 64, 128), 32)}
_PLUS_RATES = tuple(round(.02 * i, 2) for i in range(1, 16))
_PLUS_ADAPTER = Range((8, 16, 32, 64, 128), 32)
_PLUS: dict[str, Any] = {
    RATE: Range(_PLUS_RATES, .1),
    'area_min': Range((.05, .5, .95, 1.), 1.),
    'crop': (True,),  # area_min=1 turns it off
    'aspect_min': Range((.5, .75, 1.), 1.),
    'flip': Range(_BOTH, False),
    **{name: Range(_DELTA, 0.) for name in COLOURS},
    'learning_rate': Range(_LR, .01),
    'warmup': Range((0., .01, .02, .05, .1, .2, .3), .1),
    'momentum': Range((.5, .6, .7, .75, .8, .85, .9, .95, .98, .99), .9),
    'nesterov': Range(_BOTH, False),
    'schedule': ('cosine',),
    'adapter': (32,),
    'num_layers': Range((0, 1, 2, 3), 3)}


def _plus(insert_adapters=True, population=0, **changes) -> Space:
  return Space(_ranges(_PLUS | changes), insert_adapters, True, .001,
               population)


# ds_image_size, which differs in muNet and mu2Net+, is a property of the suite
# here: all images on the device have one shape. mu2Net+'s JPEG quality is left
# out.
SPACES: dict[str, Space] = {
    'mu2net_large': Space(_ranges(_MU2NET)),
    'mu2net_ti0': Space(_ranges(_MU2NET | {
        'warmup': Range((.01, .02, .05, .1, .2, .3, .4), .1),
        'num_layers': Range((0, 1, 2, 3), 0), 'adapter': (32,)})),
    'munet_ti3': Space(_ranges(_MUNET), insert_adapters=True),
    'munet_b': Space(_ranges(_MUNET), insert_adapters=True),
    'mu2net_plus_ti0': _plus(population=7, **{
        RATE: Range(_PLUS_RATES, .2),
        'num_layers': Range((0, 1, 2, 3), 0)}),
    'mu2net_plus_ti3': _plus(adapter=_PLUS_ADAPTER),
    'mu2net_plus_b': _plus(adapter=_PLUS_ADAPTER,
                           num_layers=Range(tuple(range(13)), 12)),
    # There are no adapters, except in a control, with this width.
    'mu2net_plus_large': _plus(False, 16, **{
        RATE: Range(_PLUS_RATES, .2),
        'warmup': Range(_PLUS['warmup'].values, .05),
        'num_layers': Range(tuple(range(25)), 24)}),
}


def make(name: str, fixed: tuple = ()) -> Space:
  """The space `name` with some hyper-parameters fixed.

  Args:
    name: one of `SPACES`.
    fixed: (hyper-parameter, value) pairs.

  Raises:
    ValueError: the space or a hyper-parameter is unknown; lists the known ones.

  >>> make('mu2net_ti0', (('learning_rate', .02),))['learning_rate'].values
  (0.02,)
  """
  if name not in SPACES:
    raise ValueError(f'unknown space {name!r}{trees.nearest(name, SPACES)}; '
                     f'known: {", ".join(sorted(SPACES))}')
  return _replaced(SPACES[name], fixed)


@functools.lru_cache(maxsize=64)
def _replaced(space: Space, fixed: tuple) -> Space:
  return space.replace(**dict(fixed))
