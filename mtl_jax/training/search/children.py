"""The components of the children of a task's search, and their costs."""

import dataclasses
import functools
from typing import Any

import jax

from mtl_jax.config import parts as config_parts
from mtl_jax.evolution import mutations
from mtl_jax.evolution import networks
from mtl_jax.evolution import training


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _create(create, names, adapter, key):
  return {name: create(name, 1, adapter, key) for name in names}


@dataclasses.dataclass(frozen=True, eq=False)
class Maker:
  """Makes and prices the children of one task iteration.

  Attributes:
    search: the options of the phase's search.
    parts: `models.Parts` of the network.
    known: the root and the newest path of every task.
    others: paths of `known` that belong to other tasks and are not private.
    task: name of the task in training.
    classes: number of classes of the task.
    image_shape: (H, W, C) of the task's images.
  """
  search: config_parts.Search
  parts: Any
  known: list[networks.Path]
  others: list[networks.Path]
  task: str
  classes: int
  image_shape: tuple[int, ...]

  @functools.cached_property
  def adapter(self) -> int:
    """Hidden features of the widest adapter of any child; 0 if none has one."""
    ranges = dict(self.search.make_space().ranges)
    inserted = (max(ranges['adapter'].values)
                if self.search.make_space().insert_adapters
                or self.search.control == 'adapters' else 0)
    return max([inserted, *(
        mutations.adapter_width(part.tree) for path in self.others
        for part in path.components.values()
        if part.name.startswith('residual_adapter_'))])

  @functools.cached_property
  def largest(self) -> training.Largest:
    """A network large enough to hold the components of every child."""
    layers = max(mutations.count_blocks(path.components)
                 for path in self.known)
    ranges = dict(self.search.make_space().ranges)
    if 'num_layers' in ranges:
      layers = max(layers, *ranges['num_layers'].values)
    return training.largest(self.known[0], self.parts.create, self.classes,
                            layers, self.adapter)

  def new(self, child: mutations.Child, key) -> dict:
    """Leaves of a child's new components, as NumPy arrays.

    One program makes all blocks; another makes all adapters, at full width.

    Args:
      child: see `mutations.child`.
      key: typed key of the child.
    """
    create = self.parts.create
    found = {'head': create('head', self.classes, 0, key)}
    for kind in ('encoderblock_', 'residual_'):
      names = tuple(name for name in self.largest.optional
                    if name.startswith(kind))
      if any(name in child.new for name in names):
        found |= _create(create, names, self.adapter, key)
    return {name: training.cut(found[name], jax.eval_shape(
        lambda key, name=name: create(name, self.classes,
                                      child.hyper['adapter'], key), key))
            for name in child.new}

  def factor(self, child: mutations.Child, new: dict) -> float:
    """The factor from quality to score, by the costs of the child."""
    scale = self.search.make_scale()
    if scale.free:
      return 1.
    using = networks.users(self.known)
    sizes = {name: sum(x.size for x in jax.tree.leaves(tree))
             for name, tree in new.items()}
    accounted = mutations.weights(child, sizes) + sum(
        part.weights / len(using.get(part.id, set()) | {self.task})
        for part in child.shared.values())
    params = new | {name: part.tree for name, part in
                    (child.shared | child.cloned).items()}
    return scale.factor(accounted, self.flops(params))

  def scored(self, path: networks.Path) -> networks.Path:
    """A stored path with its score for the tasks that exist now."""
    scale = self.search.make_scale()
    if scale.free:
      return path
    factor = scale.factor(networks.accounted(path, self.known),
                          self.flops(path.params))
    return dataclasses.replace(path, score=path.quality * factor)

  def flops(self, params) -> float:
    """Floating-point operations of the forward pass of one image."""
    return self.parts.flops(params, self.image_shape)
