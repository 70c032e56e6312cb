"""Samples children: what they share with their parent, and what they change.

The order is that of the official `Path.clone`. First the hyper-parameters
mutate, among them the mutation rate, whose new value applies to all later
steps; then adapters are inserted; then every component of the child's network
is either shared or cloned.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtl_jax.evolution import networks
from mtl_jax.evolution import spaces

Component = networks.Component
Path = networks.Path
ADAPTED = 'adapted'  # hyper-parameter: the layers that have an adapter
CONTROLS = ('finetune', 'head', 'adapters')
_BLOCK, _ADAPTER = 'encoderblock_', 'residual_adapter_'


class Child(NamedTuple):
  """A path before it is trained.

  Attributes:
    parent: the path from which it is made.
    hyper: its hyper-parameters.
    shared: components that it uses unchanged.
    cloned: components whose values and momentum it starts from.
    new: names of components that are initialised anew.
    changed: changes by the mutation, by hyper-parameter or component.
  """
  parent: Path
  hyper: dict
  shared: dict[str, Component]
  cloned: dict[str, Component]
  new: tuple[str, ...]
  changed: dict

  @property
  def trained(self) -> list[str]:
    return sorted([*self.cloned, *self.new])


def step(rng: np.random.Generator, found: spaces.Range, value):
  """Moves a value one place up or down its list, each with probability 1/2.

  A step beyond an end of the list stays at the end. A value that is not in the
  list becomes the default.
  """
  if value not in found.values:
    return found.default
  at = found.values.index(value) + (1 if rng.random() < 0.5 else -1)
  return found.values[min(max(at, 0), len(found.values) - 1)]


def sample_images(rng: np.random.Generator, space: spaces.Space,
                  best: Path | None) -> dict:
  """A generation's augmentation: that of the best path or the default, mutated.

  As in the official code, the rate is the space's default, not the evolved one.
  mu2Net+ keeps the defaults until there is a path. It has a rate for each
  value; the result contains these rates too.
  """
  hyper = space.defaults(spaces.AUGMENT)
  if best is None and space.rate_per_action:
    return hyper
  hyper |= {name: value for name, value in dict(
      best.hyper if best else {}).items() if name in hyper
            and value in space[name].values}
  names = sorted(hyper)
  if space.rate_per_action:
    names = [name for name in names if len(space[name].values) > 1]
    hyper |= _own_rates(best, [_rate_of(f'hp:{name}') for name in names])
  rates = _Rates(rng, space, hyper, None)
  for name in names:
    if rates(f'hp:{name}'):
      hyper[name] = step(rng, space[name], hyper[name])
  return hyper


def _rate_of(action: str) -> str:
  """The hyper-parameter that holds an action's own rate."""
  return f'{spaces.RATE}|{action}'


def _own_rates(path: Path | None, names=None) -> dict:
  """Rates of single actions in a path's hyper-parameters."""
  found = dict(path.hyper) if path else {}
  return {name: value for name, value in found.items()
          if name.startswith(_rate_of('')) and (names is None or name in names)}


class _Rates:
  """The probability of an action: one for all actions, or one for each.

  `hyper` holds the rate of all actions; without it, the space's default is
  used. With a rate per action, `hyper` receives the rates of all actions that
  were considered.
  """

  def __init__(self, rng, space, hyper, control):
    self.rng, self.space, self.hyper = rng, space, hyper
    self.control = control

  def __call__(self, action: str) -> bool:
    """Samples whether an action is taken."""
    if self.control is not None:
      return self.control == 'finetune'
    rates = self.space[spaces.RATE]
    rate = overall = self.hyper.get(spaces.RATE, rates.default)
    if self.space.rate_per_action:
      own = _rate_of(action)
      rate = self.hyper.get(own, overall)
      if len(rates.values) > 1:
        if self.rng.random() < overall:
          rate = step(self.rng, rates, rate)
        self.hyper[own] = rate
    return bool(self.rng.random() < rate)


def child(rng: np.random.Generator, space: spaces.Space,
          lineage: Sequence[Path], images: dict, locked: set[str], classes: int,
          control: str | None = None) -> Child:
  """Samples a child of a path.

  Args:
    rng: generator of all random choices.
    space: the search space.
    lineage: the parent, its parent, and so on; ending with the root.
    images: the generation's augmentation.
    locked: ids of components that may not change (`networks.locked`).
    classes: classes of the task; a head of another size is not inherited.
    control: `None` for evolution. One of CONTROLS is a fixed network with the
      default hyper-parameters that trains everything, the head and the last
      norm, or these and adapters before all blocks.

  Raises:
    ValueError: the control is unknown.
  """
  if control not in (None, *CONTROLS):
    raise ValueError(f'unknown control {control!r}; known: {CONTROLS}')
  parent = lineage[0]
  hyper, changed = _hyper(space, parent, images, control)
  rates = _Rates(rng, space, hyper, control)
  if control is None:
    _mutate(rng, space, rates, hyper, changed)
  layers = hyper.get('num_layers', count_blocks(parent.components))
  _adapt(space, rates, hyper, changed, layers, control)
  shared: dict[str, Component] = {}
  cloned: dict[str, Component] = {}
  new: list[str] = []
  for name in needed(lineage[-1], layers, hyper[ADAPTED]):
    found = _inherited(name, lineage, hyper, locked, classes)
    if found is None:
      new.append(name)
      changed[name] = 'new'
    elif (found.id not in locked or name in space.always
          or rates(f'clone:{name}')):
      cloned[name] = found
      if found.id in locked:
        changed[name] = 'cloned'
    else:
      shared[name] = found
  return Child(parent, hyper, shared, cloned, tuple(new), changed)


def _hyper(space, parent, images, control):
  """(the parent's hyper-parameters that the space has, the changed ones)."""
  hyper = space.defaults() | {ADAPTED: []}
  if control is None:
    for name, value in parent.hyper.items():
      if name == ADAPTED or name in hyper and value in space[name].values:
        hyper[name] = list(value) if name == ADAPTED else value
    if space.rate_per_action:
      hyper |= _own_rates(parent)
  blocks = count_blocks(parent.components)
  if 'num_layers' not in parent.hyper and 'num_layers' in hyper and (
      blocks in space['num_layers'].values):
    hyper['num_layers'] = blocks  # the root's number
  changed = {name: [hyper[name], value] for name, value in images.items()
             if name in spaces.AUGMENT and hyper[name] != value}
  return hyper | images, changed


def _mutate(rng, space, rates, hyper, changed):
  """Mutates hyper-parameters, beginning with the rate of all actions."""
  names = [name for name, found in space.ranges if len(found.values) > 1
           and name not in spaces.AUGMENT]
  for name in sorted(names, key=lambda name: name != spaces.RATE):
    if rates(f'hp:{name}'):
      old, hyper[name] = hyper[name], step(rng, space[name], hyper[name])
      if old != hyper[name]:
        changed[name] = [old, hyper[name]]


def _adapt(space, rates, hyper, changed, layers, control):
  """Inserts adapters, and removes those of layers that were removed."""
  kept = [layer for layer in hyper[ADAPTED] if layer < layers]
  if control == 'adapters':
    kept = list(range(layers))
  elif control is None and space.insert_adapters:
    for layer in range(layers):
      if layer not in kept and rates(f'add:{_ADAPTER}{layer}'):
        kept.append(layer)
        changed[f'{_ADAPTER}{layer}'] = 'inserted'
  hyper[ADAPTED] = sorted(kept)


def count_blocks(components: Mapping) -> int:
  """Number of encoder blocks among the names of components."""
  return sum(name.startswith(_BLOCK) for name in components)


def needed(root: Path, layers: int, adapted: Sequence[int]) -> list[str]:
  """Names of the components of a network, in the order of the signal.

  Args:
    root: a network that has every component except blocks and adapters.
    layers: number of encoder blocks.
    adapted: layers with an adapter.
  """
  once = [name for name in root.components
          if not name.startswith((_BLOCK, _ADAPTER))]
  first = [name for name in ('embedding', 'cls', 'posembed_input')
           if name in once]
  middle = [name for layer in range(layers) for name in (
      *([f'{_ADAPTER}{layer}'] if layer in adapted else []),
      f'{_BLOCK}{layer}')]
  return first + middle + [name for name in once if name not in first]


def _inherited(name, lineage, hyper, locked, classes) -> Component | None:
  """The nearest ancestor's component of this name, if its shape fits."""
  fits: Callable = lambda part: True
  if name == 'head':
    fits = lambda part: (part.id not in locked
                         and part.tree['bias'].shape == (classes,))
  elif name.startswith(_ADAPTER):
    fits = lambda part: adapter_width(part.tree) == hyper['adapter']
  for path in lineage:
    part = path.components.get(name)
    if part is not None and fits(part):
      return part
  return None


def adapter_width(tree) -> int:
  """Hidden features of an adapter."""
  return tree['Dense_0']['bias'].shape[0]


def lineage(path: Path, known: Mapping[str, Path]) -> list[Path]:
  """A path and its known ancestors, then the root.

  Args:
    path: the first path.
    known: all paths by name, including the root.
  """
  found = [path]
  while found[-1].name != networks.ROOT:
    above = found[-1].parent or networks.ROOT
    found.append(known[above if above in known else networks.ROOT])
  return found


def finished(made: Child, params: Mapping, traces: Mapping, **fields) -> Path:
  """The path of a trained child.

  Args:
    made: the child.
    params: by name, the trained components' leaves.
    traces: by name, their momentum.
    **fields: fields of the path: name, task, score, quality, record.
  """
  own = {name: networks.component(name, params[name], traces[name])
         for name in made.trained}
  return Path(parent=made.parent.name, hyper=made.hyper,
              components=dict(made.shared) | own, **fields)


def weights(made: Child, sizes: Mapping[str, int]) -> int:
  """Number of weights that a child trains; `sizes`: those of new components."""
  return (sum(part.weights for part in made.cloned.values())
          + sum(sizes[name] for name in made.new))
