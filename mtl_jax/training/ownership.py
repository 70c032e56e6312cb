"""Subnetworks of a run: who owns what, rebuilt from the stored impressions."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.config import parts as config_parts
from mtl_jax.config import plan
from mtl_jax.data import batches
from mtl_jax.data import suites
from mtl_jax.methods import allocation
from mtl_jax.methods import subnetworks
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.steps import single
from mtl_jax.training import run as run_lib

SAMPLE_BATCH = 500


def settings(phase: config_lib.Phase) -> config_parts.Allocation:
  """How a phase's subnetworks are chosen."""
  if phase.allocation is None:
    raise ValueError(f'phase {phase.name} has no allocation')
  return phase.allocation


def earlier(config: config_lib.Config, suite: suites.Suite,
            group: list[plan.Entry]) -> list[str]:
  """Names of the subnetworks folded before a group, in the tree's order."""
  tree = settings(group[0].phase).tree
  if tree is None:
    return []
  names = [entry.name for phase in config.phases
           if phase.allocation is not None and phase.allocation.tree == tree
           for entry in plan.entries(phase, suite)]
  return names[:names.index(group[0].name)]


def uses(config: config_lib.Config, suite: suites.Suite,
         entry: plan.Entry) -> list[str]:
  """Names of the subnetworks whose weights a task uses beside its own."""
  if entry.phase.allocation is None or not dict(
      entry.phase.options).get('sharing'):
    return []
  return earlier(config, suite, [entry])


def folded_part(phase: config_lib.Phase, params: trees.Tree) -> trees.Tree:
  """The backbone's leaves that subnetworks divide among them."""
  try:
    return subnetworks.parts(params, dict(phase.options).get('own'))[1]
  except ValueError as error:
    raise ValueError(f'phase {phase.name}: {error}') from error


def check(config: config_lib.Config, suite: suites.Suite,
          params: trees.Tree) -> None:
  """Refuses, before any training, subnetworks that don't fit into a tree.

  Raises:
    ValueError: names the tree, the leaf, and how much of it is free.
  """
  taken: dict[str, _Taken] = {}
  for phase in config.phases:
    if phase.allocation is None:
      continue
    given = phase.allocation
    like = folded_part(phase, params)
    if not jax.tree.leaves(like):
      raise ValueError(f'phase {phase.name}: every leaf is a task\'s own; '
                       'nothing is left to divide')
    entries = plan.entries(phase, suite)
    what = f'phase {phase.name}: '
    if phase.sparsify and phase.sparsify.cutoff is not None:
      for entry in entries:
        if entry.route.loss == 'mse':
          raise ValueError(f'{what}sparsify.cutoff is an accuracy, but task '
                           f'{entry.task.name} is a regression; leave it out '
                           'and give a tolerance')
    if given.tree is None:
      allocation.require_free(allocation.unowned(like), given.density,
                              given.scope, 1, what)
      continue
    so_far = taken.setdefault(given.tree, _Taken(allocation.unowned(like)))
    _require_same(so_far.owner, like, what, given.tree)
    _require_others(config, suite, entries, what)
    taken[given.tree] = _require_room(phase, so_far, len(entries), what)


def _require_same(before, like, what, tree) -> None:
  """All phases of a tree fold the same leaves."""
  given = trees.flatten(like)
  for name, leaf in trees.flatten(before).items():
    if (leaf is None) != (given[name] is None):
      raise ValueError(
          f"{what}{name} is a task's own in one phase of the tree {tree} and "
          'divided in another; give both the same own=, or another tree')
  trees.check_shapes(before, like, what + 'what the tree folds')


def _require_others(config, suite, entries, what) -> None:
  """No task uses, as another's, what it learned itself in the same tree."""
  names = {entry.name: entry.task.name for phase in config.phases
           if phase.allocation is not None
           for entry in plan.entries(phase, suite)}
  for entry in entries:
    for other in uses(config, suite, entry):
      if names[other] == entry.task.name:
        raise ValueError(
            f'{what}{entry.name} would use the weights of {other}, which is '
            'the same task: that is no transfer; give it another tree')


class _Taken(NamedTuple):
  """What the phases before certainly take of a tree.

  Attributes:
    owner: weights taken of each leaf are marked; only their number matters.
    anywhere: weights taken by the scope 'global', of whichever leaf.
    tasks: how many.
  """
  owner: trees.Tree
  anywhere: int = 0
  tasks: int = 0


def _require_room(phase, taken, count, what) -> _Taken:
  """Refuses what can't fit even if sparsified subnetworks end at `least`."""
  given, owner = settings(phase), taken.owner
  if taken.tasks + count > allocation.LARGEST:
    raise ValueError(f'{what}{taken.tasks + count} subnetworks in the tree '
                     f'{given.tree}, but an owner is one byte: at most '
                     f'{allocation.LARGEST} fold into one tree')
  anywhere = taken.anywhere
  if given.scope == 'global':
    allocation.require_free(owner, given.density, 'global', count, what)
    anywhere += count * allocation.counts(owner, given.density, 'global')
  else:
    kept = phase.sparsify.least if phase.sparsify else given.density
    for done in range(count):
      allocation.require_free(
          owner, given.density, 'leaf',
          1 if phase.sparsify or given.fit else count - done,
          f'{what}subnetwork {taken.tasks + done + 1}: ' if given.fit else what,
          given.fit)
      owner = _take(owner, kept)
  left = sum(int(np.sum(o == 0)) for o in jax.tree.leaves(owner))
  if anywhere > left:
    raise ValueError(
        f'{what}with the phases before, {anywhere - left} weights more are '
        f'needed than the {trees.size(owner)} of the tree {given.tree}; choose '
        'a lower density')
  return _Taken(owner, anywhere, taken.tasks + count)


def _take(owner, density):
  """Marks the first free weights: only their number matters here."""
  def leaf(name, o, k):
    if o is None:
      return None
    flat = np.asarray(o).reshape(-1).copy()
    flat[np.flatnonzero(flat == 0)[:k]] = 1
    return flat.reshape(o.shape)
  return trees.map_named(leaf, owner, allocation.counts(owner, density))


def shared_of(run: run_lib.Run, group: list[plan.Entry]) -> dict:
  """What a group's method needs: owners, first number, earlier weights.

  Args:
    run: the run.
    group: entries that are trained together, or one.

  Raises:
    ValueError: a subnetwork doesn't fit; says how many weights are free.
  """
  phase = group[0].phase
  like = folded_part(phase, run.system.backbone.params)
  before = [run.system.own_part(name)
            for name in earlier(run.config, run.suite, group)]
  owner = allocation.unowned(like)
  shared = {'number': np.uint8(len(before) + 1)}
  if before:
    weights, owner = allocation.fold(
        [i.values for i in before], [i.masks for i in before])
  if dict(phase.options).get('sharing'):
    shared['weights'] = weights if before else like
  given, start = settings(phase), like
  for number, entry in enumerate(group, len(before) + 1):
    own = like if given.draws == 'common' else folded_part(
        phase, backbone_lib.another_draw(run.system.backbone, number))
    owner = allocation.allocate(scores(run, entry, own), owner, number,
                                given.density, given.scope, given.fit)
    start = jax.tree.map(lambda o, w, s: np.where(o == number, w, s), owner,
                         own, start)
  return shared | {'owner': owner, 'start': start}


def scores(run: run_lib.Run, entry: plan.Entry, like: trees.Tree) -> trees.Tree:
  """How much a task wants each weight, at its initial weights.

  Args:
    run: the run.
    entry: the task.
    like: the folded leaves as the task starts with them.

  Returns:
    |d mean loss / d weight| on a sample of the task's training images, or
    |weight|; float32 leaves.
  """
  given = settings(entry.phase)
  if given.score == 'magnitude':
    return jax.tree.map(lambda w: np.abs(np.asarray(w)), like)
  rows = run.data.rows(entry)
  order = np.random.RandomState(0).permutation(len(rows))
  rows = rows[np.sort(order[:given.sample or len(rows)])]
  index = batches.padded(rows, min(SAMPLE_BATCH, len(rows)))
  source, task = parallel.local((run.data.split(entry.task, 'train'),
                                 run.data.entry_arrays(entry)))
  backbone = run.system.backbone
  found = gradient(backbone.network, entry.route, like, backbone.params,
                   backbone.stats, source, task, index)
  return parallel.agree(jax.tree.map(lambda g: np.abs(np.asarray(g)), found))


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradient(network, route, like, backbone, stats, source, task, index):
  """Of the mean loss over all rows that aren't -1, w.r.t. the leaves `like`."""
  def loss(part, rows):
    images, labels = single.make_batch(route, source, task, None,
                                      jnp.maximum(rows, 0), False)
    logits, _ = network.apply(trees.combine(part, backbone), stats, images,
                              train=bool(stats))
    return jnp.sum(single.losses(route, logits, labels) * (rows >= 0))

  def body(total, rows):
    return jax.tree.map(jnp.add, total, jax.grad(loss)(like, rows)), None
  zeros = jax.tree.map(jnp.zeros_like, like)
  total, _ = lax.scan(body, zeros, index)
  return jax.tree.map(lambda g: g / jnp.sum(index >= 0), total)
