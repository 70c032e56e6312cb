"""A stored task as a function and its parameters, for your own programs."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import aliases
from mtl_jax import trees
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.serving import checks
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import checkpoint


# (params, images) -> logits.
Apply: TypeAlias = Callable[[aliases.Params, aliases.Images], aliases.Array]


def apply_fn(system: system_lib.System,
             task: str) -> tuple[Apply, aliases.Params]:
  """A task's network as (apply, params).

  `params` are copies: you may train, donate or discard them. The task's
  transforms and its norm statistics are constants of `apply`.

  Args:
    system: from `mtl_jax.load`.
    task: a name in `system.tasks`.

  Returns:
    (apply, params): `apply(params, x)` gives the same as
    `system.predict(x, task)`, to the bit in a jitted call with as many rows as
    its block (see `blocks`); `params` is a tree of nested dicts of arrays.
  """
  stored = system.task(task)
  params, stats = system.effective(stored)
  network, classes = system.backbone.network, stored.classes
  kinds = transforms.kinds(stored.transforms)
  stats, parameters = jax.tree.map(np.asarray, (stats, stored.parameters))
  shape = tuple(stored.metadata['source_shape'])
  dtype = stored.metadata.get('source_dtype', 'uint8')

  def apply(params: aliases.Params, x: aliases.Images) -> aliases.Array:
    checks.check_images(x, shape, task, dtype)
    seen = pipeline.apply(kinds, parameters, x if isinstance(x, jax.Array)
                          else np.asarray(x))
    return network.apply(params, stats, seen, train=False)[0][:, :classes]

  return apply, jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params)


class Parameters(NamedTuple):
  """How many numbers a task's network has, and where they are stored.

  Attributes:
    own: numbers that only the task stores: values, coefficients, named parts.
    mask_bits: bits of its masks, one per masked weight.
    shared: numbers of the network that the backbone or other tasks store.
    total: all numbers of the network.

  >>> print(Parameters(0, 266200, 266200, 266200))
  own params: 0 (and 266,200 mask bits) || shared params: 266,200 || all \
params: 266,200 || own%: 0.0000
  """
  own: int
  mask_bits: int
  shared: int
  total: int

  def __str__(self) -> str:
    bits = f' (and {self.mask_bits:,} mask bits)' if self.mask_bits else ''
    share = 100 * self.own / max(1, self.total)
    return (f'own params: {self.own:,}{bits} || shared params: '
            f'{self.shared:,} || all params: {self.total:,} || own%: '
            f'{share:.4f}')


def parameters(system: system_lib.System, task: str) -> Parameters:
  """Counts a task's numbers; see `Parameters`."""
  stored = system.task(task)
  arrays = checkpoint.load(system.workdir.task(task))[0]
  sizes = {part: sum(a.size for name, a in arrays.items()
                     if name.startswith(f'{part}/'))
           for part in ('values', 'coefficients', 'parts')}
  masks = 0 if stored.impression.masks is None else trees.size(
      stored.impression.masks)
  total = trees.size(system.effective(stored)[0])
  return Parameters(sum(sizes.values()), masks,
                    max(0, total - sizes['values']), total)
