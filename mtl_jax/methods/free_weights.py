"""Checks that the subnetworks of a run fit into their weight trees.

All checks run before training, and need only the densities.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from mtl_jax import fields
from mtl_jax import trees
from mtl_jax.methods import allocation
from mtl_jax.methods import base

Tree = trees.Tree
ROUNDED = 1e-6  # densities of pruning are rounded to six digits


def check(parts, own, sharing, given, pruned, training: base.Training,
          backbone: Tree, before: Sequence[base.Earlier],
          tasks: Sequence[base.Earlier]) -> None:
  """Refuses subnetworks that can't be trained this way or don't fit.

  Args:
    parts: (backbone, own) -> (a task's own leaves, the leaves to divide).
    own, sharing, given, pruned: options; see `subnetworks.subnetworks`.
    training: how the phase trains.
    backbone: the immutable parameters.
    before: the run's impressions before the phase.
    tasks: impressions of the phase.

  Raises:
    ValueError: names the option, or the tree, the leaf, and how much is free.
  """
  check_training(sharing, given, pruned, training)
  like = parts(backbone, own)[1]
  if not jax.tree.leaves(like):
    raise ValueError("every leaf is a task's own; nothing is left to divide")
  if pruned is not None and pruned.cutoff is not None:
    for task in tasks:
      if task.route.loss == 'mse':
        raise ValueError('sparsify.cutoff is an accuracy, but task '
                         f'{task.task} is a regression; leave it out and give '
                         'a tolerance')
  if given.tree is None:
    allocation.require_free(allocation.unowned(like), given.density,
                            given.scope, 1)
    return
  earlier = [e for e in before if e.method == tasks[0].method
             and e.options.allocation is not None
             and e.options.allocation.tree == given.tree]
  taken = Taken(allocation.unowned(like))
  for _, group in itertools.groupby(earlier, lambda e: e.phase):
    members = list(group)
    options = members[0].options
    _require_same(parts(backbone, options.own)[1], like, given.tree)
    taken = require_room(options.allocation, options.sparsify, taken,
                         len(members))
  if sharing:
    _require_others([*earlier, *tasks], len(earlier))
  require_room(given, pruned, taken, len(tasks))


def check_training(sharing, given, pruned, training: base.Training) -> None:
  """Refuses options that the phase's way of training does not allow."""
  if given is None:
    raise ValueError('subnetworks need an allocation (density, ...)')
  if pruned is not None and (
      not training.early_stop or training.together or given.scope != 'leaf'
      or pruned.start != given.density):
    raise ValueError('sparsify prunes one subnetwork at a time, every leaf '
                     'alike, from the density of its allocation; it needs '
                     "early_stop and scope='leaf'")
  _require_effect(given, pruned)
  if training.tasks_at_once > 1:
    raise ValueError('subnetworks of one tree depend on each other; train them '
                     "with together='joint', not tasks_at_once")
  if training.together and (sharing or given.tree is None):
    raise ValueError('together trains subnetworks of one tree that use no '
                     'weights of each other; leave out sharing, and give a '
                     'tree')
  if sharing and given.tree is None:
    raise ValueError('sharing uses the weights of earlier tasks of a tree; '
                     'give allocation.tree')


def _require_effect(given, pruned) -> None:
  """Refuses options that another one leaves without effect."""
  if given.score == 'magnitude' and fields.changed(given, 'sample'):
    raise ValueError(f'allocation.sample is {given.sample}, and the score '
                     "'magnitude' looks at no images; leave sample out")
  if given.fit and given.tree is None:
    raise ValueError('allocation.fit takes what other tasks left free, and '
                     'with tree=None there are none; leave fit out')
  if pruned is None:
    return
  if not (ROUNDED <= pruned.rate
          and pruned.start - pruned.rate >= pruned.least - ROUNDED):
    raise ValueError(
        f'sparsify would prune nothing: its rate, {pruned.rate}, is '
        + ('too small' if pruned.rate < ROUNDED else
           f'larger than start - least, {pruned.start} - {pruned.least}')
        + '; give another rate, or leave sparsify out')
  if pruned.cutoff is not None and fields.changed(pruned, 'tolerance'):
    raise ValueError(f'sparsify.tolerance is {pruned.tolerance}, and cutoff, '
                     f'{pruned.cutoff}, takes its place; leave one of them '
                     'out')


def _require_same(before, like, tree) -> None:
  """Refuses phases of one tree that fold different leaves."""
  given = trees.flatten(like)
  for name, leaf in trees.flatten(before).items():
    if (leaf is None) != (given[name] is None):
      raise ValueError(
          f"{name} is a task's own in one phase of the tree {tree} and divided "
          'in another; give both the same own=, or another tree')
  trees.check_shapes(before, like, 'what the tree folds')


def _require_others(members: Sequence[base.Earlier], first: int) -> None:
  """Refuses a task that would reuse weights that it learned earlier itself."""
  for number in range(first, len(members)):
    for other in members[:number]:
      if other.task == members[number].task:
        raise ValueError(
            f'{members[number].name} would use the weights of {other.name}, '
            'which is the same task: that is no transfer; give it another '
            'tree')


class Taken(NamedTuple):
  """The least number of weights of a tree that earlier phases take.

  Attributes:
    owner: marks the weights taken from each leaf; only their number matters.
    anywhere: number of weights taken from any leaf by the scope 'global'.
    tasks: number of tasks.
  """
  owner: trees.Tree
  anywhere: int = 0
  tasks: int = 0


def require_room(given, pruned, taken: Taken, count: int) -> Taken:
  """Refuses subnetworks that don't fit even at the final density `least`."""
  owner = taken.owner
  if taken.tasks + count > allocation.LARGEST:
    raise ValueError(f'{taken.tasks + count} subnetworks in the tree '
                     f'{given.tree}, but an owner is one byte: at most '
                     f'{allocation.LARGEST} fold into one tree')
  anywhere = taken.anywhere
  if given.scope == 'global':
    allocation.require_free(owner, given.density, 'global', count)
    anywhere += count * allocation.counts(owner, given.density, 'global')
  else:
    kept = pruned.least if pruned else given.density
    for done in range(count):
      allocation.require_free(
          owner, given.density, 'leaf',
          1 if pruned or given.fit else count - done,
          f'subnetwork {taken.tasks + done + 1}: ' if given.fit else '',
          given.fit)
      owner = _take(owner, kept)
  left = sum(int(np.sum(o == 0)) for o in jax.tree.leaves(owner))
  if anywhere > left:
    raise ValueError(
        f'with the phases before, {anywhere - left} weights more are '
        f'needed than the {trees.size(owner)} of the tree {given.tree}; choose '
        'a lower density')
  return Taken(owner, anywhere, taken.tasks + count)


def _take(owner, density):
  """Marks the first free weights; only their number matters here."""
  def leaf(name, o, k):
    if o is None:
      return None
    flat = np.asarray(o).reshape(-1).copy()
    flat[np.flatnonzero(flat == 0)[:k]] = 1
    return flat.reshape(o.shape)
  return trees.map_named(leaf, owner, allocation.counts(owner, density))
