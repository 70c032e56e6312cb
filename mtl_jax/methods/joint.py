"""Dense networks that tasks share: baselines without isolation of tasks.

If they are trained together, the members of a group share all weights except
their own leaves (heads, stems): hard sharing (Caruana 1997). With `carry`,
tasks are trained one after another and each starts where the last one stopped:
plain fine-tuning, which forgets. A stored impression never changes; forgetting
shows when a task's own leaves are put on a later task's network
(`mtl_jax.evaluation.finetuning`).
"""

import dataclasses
import functools

import jax

from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.methods import base
from mtl_jax.methods import heads


def joint(own: tuple[str, ...] = (), carry: bool = False) -> base.Method:
  """One network for a group of tasks.

  Args:
    own: patterns of each task's own leaves.
    carry: start the common leaves where the phase's last task left them.
      `shared` then holds them as 'common'.
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

  def check(training, backbone, before, own_tasks):
    del before, own_tasks
    split(backbone, own)
    heads.require_body(backbone, own)
    if carry and (training.together or training.tasks_at_once > 1
                  or training.repeats > 1):
      raise ValueError('carry goes from task to task; it takes neither '
                       'together, tasks_at_once nor repeats')
    if training.pool and (carry or own):
      raise ValueError(f'{"carry" if carry else "own"} tells tasks apart, and '
                       'a pool leaves one impression for all; leave one of '
                       'them out')
    if not (training.together or training.pool or carry):
      raise ValueError('joint without together would train a network for each '
                       "task; give together='joint' or options.carry, or take "
                       'the method dedicated')

  return base.Method(
      init, bind, commit, base.materialise,
      prepare=base.prepare_kept if carry else base.prepare_nothing,
      check=check, abilities=base.Abilities(
          members=True, carries=functools.partial(on_later, own)
          if carry else None))


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of the method in a config; `joint` explains them."""
  own: tuple[str, ...] = ()
  carry: bool = False

  def __post_init__(self):
    base.set_patterns(self, 'own')


def make(options: Options) -> base.Method:
  """The method of a config's options."""
  return joint(options.own, options.carry)


def on_later(own, impression, later) -> impressions.Impression:
  """A task's own leaves with the common leaves as a later task left them."""
  mine, _ = split(impression.values, own)
  return impressions.Impression(values=trees.combine(mine, later.values))


def split(backbone: trees.Tree, own) -> tuple[trees.Tree, trees.Tree]:
  """(a task's own leaves, all others), each with `None` elsewhere."""
  if not own:
    return jax.tree.map(lambda _: None, backbone), backbone
  mine = base.masked_part(backbone, own)
  return mine, trees.map_leaves(lambda w, m: w if m is None else None,
                                backbone, mine)
