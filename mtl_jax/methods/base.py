"""The contract that every method keeps: four pure functions and a penalty.

    init(key, backbone, shared, route)          -> trainable
    bind(backbone, trainable, shared, route)    -> params
    commit(backbone, trainable, shared, route)  -> (impression, shared)
    materialise(backbone, impression, shared)   -> params

A group of tasks that are trained together has one `trainable`: `init` then gets
the tuple of its members' routes, and `route.member` tells the other functions
whose parameters are meant. `commit` is called for each member in order.

`trainable` alone receives gradients. `shared` is the bookkeeping between
tasks (a basis, an owner map); it can be rebuilt from stored impressions.
`materialise` of what `commit` returns equals `bind` at that point.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import masks
from mtl_jax import trees

Tree = trees.Tree


@dataclasses.dataclass(frozen=True)
class Route:
  """Structural facts of a task: the static argument of jitted functions.

  Tasks with equal routes share one executable, so nothing that merely tells
  one task from another (its name, its index) belongs here.

  Attributes:
    phase: the phase whose method and recipe train it.
    classes: how many of the network's outputs are the task's classes.
    transforms: static part of the task's transforms.
    pooled: one impression for several tasks, whose images come mixed.
    loss: 'softmax' over all outputs of the network, 'classes' over the
      task's own outputs alone, or 'mse' (regression).
    member: its place in a group of tasks that are trained together.
  """
  phase: str
  classes: int
  transforms: tuple = ()
  pooled: bool = False
  loss: str = 'softmax'
  member: int = 0


def no_penalty(trainable: Tree) -> Any:
  del trainable
  return 0.


class Banks(NamedTuple):
  """How the tasks of a group share what they train, for training in rounds.

  `trainable` is then a dict of banks: trees whose leaves all have the bank's
  rows as their first axis (parallel modules, or one row per task). A task
  trains some rows of each bank and reads no others. Task and rows may be
  traced, so that one executable serves the whole group.

  Attributes:
    rows: (trainable) -> {bank: int32 [tasks, n]}, the rows of each task.
    bind: ({bank: its rows of one task}, shared, {bank: int [n]}) -> params.
    shared_stats: the norm statistics of a module are those of all its tasks.
  """
  rows: Callable[[Tree], dict]
  bind: Callable[..., Tree]
  shared_stats: bool = False


class Method(NamedTuple):
  """A way to leave an impression; see the module docstring.

  Attributes:
    init: what will receive gradients, from a key.
    bind: effective parameters; differentiable in `trainable`.
    commit: the impression, when the task is done, and the new `shared`.
    materialise: effective parameters of a committed impression.
    penalty: regulariser added to the loss, from `trainable`.
    banks: of a method whose tasks can be trained in rounds, else `None`.
    traced_member: `bind` takes a route whose member is traced.
    rebuild: (backbone, impressions of earlier tasks) -> `shared`, for a phase
      that reuses what an earlier phase left; `None` if it can't.
    check_later: (the earlier phase's options, its number of entries); beside
      `rebuild`, refuses a phase that doesn't go on where that one ended.
  """
  init: Callable[..., Tree]
  bind: Callable[..., Tree]
  commit: Callable[..., tuple]
  materialise: Callable[..., Tree]
  penalty: Callable[[Tree], Any] = no_penalty
  banks: Banks | None = None
  rebuild: Callable[..., dict] | None = None
  check_later: Callable[[dict, int], None] | None = None
  traced_member: bool = False


def members(route) -> tuple[Route, ...]:
  """The routes that `init` was given: a group's, or the only one."""
  return route if isinstance(route, tuple) else (route,)


def per_member(own: Tree, route) -> Tree:
  """Leaves that each member has for itself, with an axis [members] before."""
  count = len(members(route))
  return jax.tree.map(lambda x: jnp.stack([x] * count), own)


def of_member(own: Tree, route: Route) -> Tree:
  """A member's part of what `per_member` gave; it may be traced."""
  return jax.tree.map(lambda x: x[route.member], own)


def as_patterns(given) -> tuple[str, ...]:
  """One leaf pattern, or several, as a tuple."""
  return (given,) if isinstance(given, str) else tuple(given)


def matches(tree: Tree, pattern: str) -> bool:
  """Whether a pattern matches any leaf."""
  return any(re.fullmatch(pattern, name) for name in trees.flatten(tree))


def masked_part(backbone: Tree, patterns) -> Tree:
  """The backbone's leaves that the patterns name, `None` elsewhere.

  Args:
    backbone: parameter tree.
    patterns: one pattern, or several (see `trees.select`).

  Raises:
    ValueError: no patterns, or a pattern that matches no leaf.
  """
  patterns = as_patterns(patterns)
  if not patterns:
    raise ValueError('the mask covers nothing: no leaf pattern was given; the '
                     f'leaves are: {", ".join(trees.flatten(backbone))}')
  chosen = trees.select(backbone, [(pattern, True) for pattern in patterns])
  return trees.partition(backbone, chosen)[0]


def kaiming_uniform(key, like: Tree) -> Tree:
  """Initial scores: uniform in +-1/sqrt(fan_in) (a = sqrt 5 in PyTorch).

  A leaf with fewer than two dimensions (a norm's scale) has no fan-in: its
  scores start at 0, as in HopSupSup's official code. A threshold mask keeps
  all of such a leaf at first, so that the first forward pass is the
  backbone's own, and training takes units away.
  """
  def leaf(name, x):
    if x is None:
      return None
    if len(x.shape) < 2:
      return jnp.zeros(x.shape, jnp.float32)
    bound = float(1. / np.sqrt(np.prod(x.shape[:-1])))
    return masks.draw(key, name, x.shape, lambda k, shape: jax.random.uniform(
        k, shape, jnp.float32, -bound, bound))
  return trees.map_named(leaf, like)
