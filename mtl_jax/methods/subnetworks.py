"""The Multiple Subnetwork Hypothesis: tasks own disjoint weights of one tree.

Renn et al. 2022, https://arxiv.org/abs/2207.08821. A task's network is the
folded tree with everything that it doesn't own at 0; its biases, stem and head
are leaves of its own. See `mtl_jax.methods.allocation` for how weights are
given out.

With `sharing` (PackNet's rule, Mallya and Lazebnik 2018) a later task also uses
the weights of earlier ones, as they are; it changes none of them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.methods import allocation
from mtl_jax.methods import base
from mtl_jax.methods import joint

Tree = trees.Tree
OWN = ('.*bias', 'stem.*', 'head.*')


def subnetworks(own: tuple[str, ...] | None = None,
                sharing: bool = False) -> base.Method:
  """Trains the weights that a task, or every member of a group, owns.

  Args:
    own: patterns of the leaves that every task has for itself, whole; all
      other leaves are folded. `None` takes biases, `stem` and `head`.
    sharing: also use, unchanged, the weights of tasks with lower numbers.

  Returns:
    A method with `shared` = {'owner': uint8 tree, 'number': of the group's
    first member, 'start': (if given) the folded leaves to begin with
    instead of the backbone's, 'weights': (if sharing) what earlier tasks
    left}.

  Raises:
    ValueError: see `parts`.
  """
  def init(key, backbone, shared, route):
    del key
    require_owner(shared)
    mine, folded = parts(backbone, own)
    return {'weights': shared.get('start', folded),
            'own': base.per_member(mine, route)}

  def effective(trainable, shared, route):
    """The folded leaves as the task uses them, and those it may use."""
    number = shared['number'] + route.member
    weights = allocation.subnetwork(trainable['weights'], shared['owner'],
                                    number)
    used = jax.tree.map(lambda o: o == number, shared['owner'])
    if not sharing:
      return weights, used
    earlier = jax.tree.map(lambda o: (o > 0) & (o < number), shared['owner'])
    weights = jax.tree.map(
        lambda w, e, before: jnp.where(e, jax.lax.stop_gradient(before), w),
        weights, earlier, shared['weights'])
    return weights, jax.tree.map(jnp.logical_or, used, earlier)

  def bind(backbone, trainable, shared, route):
    del backbone
    weights, _ = effective(trainable, shared, route)
    return trees.combine(base.of_member(trainable['own'], route), weights)

  def commit(backbone, trainable, shared, route):
    del backbone
    weights, used = effective(trainable, shared, route)
    mine = base.of_member(trainable['own'], route)
    return impressions.Impression(
        masks=trees.map_leaves(lambda m, u: u if m is None else None, mine,
                               used),
        values=trees.combine(mine, weights)), shared

  def materialise(backbone, impression, shared):
    del shared
    return impressions.materialise(backbone, impression)

  return base.Method(init, bind, commit, materialise, traced_member=True)


def parts(backbone: Tree, own) -> tuple[Tree, Tree]:
  """(leaves that each task has for itself, folded ones); `None` elsewhere.

  Args:
    backbone: parameter tree.
    own: patterns, or `None` for `OWN` as far as they match.

  Raises:
    ValueError: a pattern that matches no leaf; or, of `OWN`, no head or a
      vector that would be divided among the tasks; names the leaves.
  """
  if own is not None:
    return joint.split(backbone, own)
  found = [p for p in OWN if base.matches(backbone, p)]
  if OWN[-1] not in found:
    raise ValueError(
        'no leaf of this network is called head, so that its last layer would '
        "be divided among the tasks; give own=('.*bias', ...), patterns of "
        'what each task has for itself; the leaves are: '
        f'{", ".join(trees.flatten(backbone))}')
  mine, folded = joint.split(backbone, found)
  for name, leaf in trees.flatten(folded).items():
    if leaf is not None and np.ndim(leaf) < 2:
      raise ValueError(f'{name} is a vector, and would be divided among the '
                       'tasks; give own= with a pattern that names it, beside '
                       f'{", ".join(found)}')
  return mine, folded


def require_owner(shared: dict) -> None:
  if 'owner' not in shared or 'number' not in shared:
    raise ValueError('subnetworks need to know who owns which weight: give '
                     'the phase an allocation (density, ...), or pass shared='
                     '{"owner": allocation.allocate(...), "number": 1}')
