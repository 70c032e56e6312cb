"""Hard sharing: tasks trained together in one dense network (Caruana 1997).

The controls of systems that keep tasks apart: all members of a group share
every weight but their own leaves (heads, stems, biases if so chosen).
"""

import jax

from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.methods import base


def joint(own: tuple[str, ...] = ()) -> base.Method:
  """One network for a group; `own` are patterns of each task's own leaves."""
  def init(key, backbone, shared, route):
    del key, shared
    mine, common = split(backbone, own)
    return {'common': common, 'own': tuple(
        jax.tree.map(lambda x: x, mine) for _ in base.members(route))}

  def bind(backbone, trainable, shared, route):
    del backbone, shared
    return trees.combine(trainable['own'][route.member], trainable['common'])

  def commit(backbone, trainable, shared, route):
    return impressions.Impression(
        values=bind(backbone, trainable, shared, route)), shared

  def materialise(backbone, impression, shared):
    del shared
    return impressions.materialise(backbone, impression)

  return base.Method(init, bind, commit, materialise)


def split(backbone: trees.Tree, own) -> tuple[trees.Tree, trees.Tree]:
  """(a task's own leaves, all others); `None` in their places."""
  if not own:
    return jax.tree.map(lambda _: None, backbone), backbone
  mine = base.masked_part(backbone, own)
  return mine, trees.map_leaves(lambda w, m: w if m is None else None,
                                backbone, mine)
