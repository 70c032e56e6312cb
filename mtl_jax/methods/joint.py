"""Dense networks that tasks share: the controls of what keeps tasks apart.

Trained together, the members of a group share every weight but their own
leaves (heads, stems): hard sharing (Caruana 1997). One after another with
`carry`, each starts where the last one stopped: plain fine-tuning, which
forgets. A stored impression never changes, so what is forgotten shows when a
task's own leaves are put on a later task's network (`evaluate.carried`).
"""

import jax

from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.methods import base


def joint(own: tuple[str, ...] = (), carry: bool = False) -> base.Method:
  """One network for a group.

  Args:
    own: patterns of each task's own leaves.
    carry: start the common leaves where the last task of the phase left
      them. `shared` then holds them as 'common'.
  """
  def init(key, backbone, shared, route):
    del key
    mine, common = split(backbone, own)
    common = shared.get('common', common)
    return {'common': common, 'own': base.per_member(mine, route)}

  def bind(backbone, trainable, shared, route):
    del backbone, shared
    return trees.combine(base.of_member(trainable['own'], route),
                         trainable['common'])

  def commit(backbone, trainable, shared, route):
    values = bind(backbone, trainable, shared, route)
    if carry:
      shared = {'common': trainable['common']}
    return impressions.Impression(values=values), shared

  def materialise(backbone, impression, shared):
    del shared
    return impressions.materialise(backbone, impression)

  return base.Method(init, bind, commit, materialise, traced_member=True)


def split(backbone: trees.Tree, own) -> tuple[trees.Tree, trees.Tree]:
  """(a task's own leaves, all others); `None` in their places."""
  if not own:
    return jax.tree.map(lambda _: None, backbone), backbone
  mine = base.masked_part(backbone, own)
  return mine, trees.map_leaves(lambda w, m: w if m is None else None,
                                backbone, mine)
