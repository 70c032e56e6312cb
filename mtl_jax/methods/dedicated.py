"""The common baseline: a dedicated network per task.

All chosen weights are trained from the backbone's values and stored whole, so a
task costs 32 bits per weight. Tasks share nothing but the starting point.
"""

import dataclasses

from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.methods import base


def dedicated(trained: tuple[str, ...] = ('.*',)) -> base.Method:
  """Trains the leaves that the patterns name; all others stay frozen.

  Args:
    trained: leaf patterns. ('.*',) gives a network per task; only the head
      gives a linear probe on the random backbone.
  """
  def init(key, backbone, shared, route):
    del key, shared, route
    return base.masked_part(backbone, trained)

  def bind(backbone, values, shared, route):
    del shared, route
    return trees.combine(values, backbone)

  def commit(backbone, values, shared, route):
    del backbone, route
    return impressions.Impression(values=values), shared

  return base.Method(init, bind, commit, base.materialise)


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of the method in a config; `dedicated` explains them."""
  trained: tuple[str, ...] = ('.*',)

  def __post_init__(self):
    base.set_patterns(self, 'trained')


def make(options: Options) -> base.Method:
  """The method of a config's options."""
  return dedicated(options.trained)
