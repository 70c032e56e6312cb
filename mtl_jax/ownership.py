"""Subnetworks of a run: who owns what, rebuilt from the stored impressions."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtl_jax import allocation
from mtl_jax import config as config_lib
from mtl_jax import config_parts
from mtl_jax import parallel
from mtl_jax import plan
from mtl_jax import steps
from mtl_jax import trees
from mtl_jax.data import suites
from mtl_jax.methods import subnetworks

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
  own = dict(phase.options).get('own', subnetworks.OWN)
  return subnetworks.parts(params, own)[1]


def check(config: config_lib.Config, suite: suites.Suite,
          params: trees.Tree) -> None:
  """Refuses, before any training, subnetworks that don't fit into a tree.

  Raises:
    ValueError: names the tree, the leaf, and how much of it is free.
  """
  taken: dict[str, trees.Tree] = {}
  for phase in config.phases:
    if phase.allocation is None:
      continue
    given = phase.allocation
    like = folded_part(phase, params)
    if not jax.tree.leaves(like):
      raise ValueError(f'phase {phase.name}: every leaf is a task\'s own; '
                       'nothing is left to divide')
    count = len(plan.entries(phase, suite))
    what = f'phase {phase.name}: '
    if given.tree is None:
      allocation.require_free(allocation.unowned(like), given.density,
                              given.scope, 1, what)
      continue
    owner = taken.get(given.tree, allocation.unowned(like))
    trees.check_shapes(owner, like, what + 'what the tree folds')
    # Sparsified subnetworks end with less than they begin with: the next one
    # may or may not fit, and is refused in time if it doesn't.
    known = phase.sparsify is None and not any(
        p.sparsify for p in config.phases
        if p.allocation and p.allocation.tree == given.tree)
    allocation.require_free(owner, given.density, given.scope,
                            count if known else 1, what)
    if known and given.scope == 'leaf':
      for number in range(count):
        owner = _take(owner, given.density)
      taken[given.tree] = owner


def _take(owner, density):
  """Marks the first free weights: only their number matters here."""
  def leaf(name, o, k):
    if o is None:
      return None
    flat = np.asarray(o).reshape(-1).copy()
    flat[np.flatnonzero(flat == 0)[:k]] = 1
    return flat.reshape(o.shape)
  return trees.map_named(leaf, owner, allocation.counts(owner, density))


def shared_of(run: Any, group: list[plan.Entry]) -> dict:
  """What a group's method needs: owners, first number, earlier weights.

  Args:
    run: `train.Run`.
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
  for number, entry in enumerate(group, len(before) + 1):
    owner = allocation.allocate(
        scores(run, entry, like), owner, number, settings(phase).density,
        settings(phase).scope)
  return shared | {'owner': owner}


def scores(run: Any, entry: plan.Entry, like: trees.Tree) -> trees.Tree:
  """How much a task wants each weight, at the backbone's weights.

  Args:
    run: `train.Run`.
    entry: the task.
    like: the folded leaves.

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
  index = steps.padded_batches(rows, min(SAMPLE_BATCH, len(rows)))
  source, task = parallel.local((run.data.split(entry.task, 'train'),
                                 run.data.entry_arrays(entry)))
  backbone = run.system.backbone
  found = gradient(backbone.network, entry.route, like, backbone.params,
                   backbone.stats, source, task, index)
  return jax.tree.map(lambda g: np.abs(np.asarray(g)), found)


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradient(network, route, like, backbone, stats, source, task, index):
  """Of the mean loss over all rows that aren't -1, w.r.t. the leaves `like`."""
  def loss(part, rows):
    images, labels = steps.make_batch(route, source, task, None,
                                      jnp.maximum(rows, 0), False)
    logits, _ = network.apply(trees.combine(part, backbone), stats, images,
                              train=bool(stats))
    return jnp.sum(steps.losses(route, logits, labels) * (rows >= 0))

  def body(total, rows):
    return jax.tree.map(jnp.add, total, jax.grad(loss)(like, rows)), None
  zeros = jax.tree.map(jnp.zeros_like, like)
  total, _ = lax.scan(body, zeros, index)
  return jax.tree.map(lambda g: g / jnp.sum(index >= 0), total)
