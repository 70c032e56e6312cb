"""The contract of a method: pure functions of plain trees.

    prepare(context)                            -> shared
    init(key, backbone, shared, route)          -> trainable
    bind(backbone, trainable, shared, route)    -> params
    commit(backbone, trainable, shared, route)  -> (impression, shared)
    materialise(backbone, impression, shared)   -> params

Only `trainable` receives gradients. `shared` is what a method needs from
earlier tasks (a basis of masks, an owner map), and `prepare` computes it from
their stored impressions. `materialise` of the committed impression equals
`bind` at that point; loading, predicting and verifying a task use nothing else.

Tasks that are trained together have one `trainable`: `init` then gets the tuple
of their routes, and `route.member` tells the other functions which task's
parameters to compute. `commit` is called for each member in order.

A method with these functions alone can be trained from a config, stored,
resumed after a kill, verified, used for prediction, exported and put into mixed
batches. Its `Abilities` declare what else it can do.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import aliases
from mtl_jax import fans
from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import trees

Params = aliases.Params
PRNGKey = aliases.PRNGKey
Tree = aliases.Tree


@dataclasses.dataclass(frozen=True)
class Route:
  """Structural facts of a task: the static argument of jitted functions.

  Tasks with equal routes share one executable, so nothing that merely tells
  one task from another (its name, its phase, its index) belongs here.

  Attributes:
    classes: number of the network's outputs that are the task's classes.
    transforms: static part of the task's transforms.
    pooled: whether one impression serves several tasks, whose images are
      mixed.
    loss: 'softmax' over all outputs of the network, 'classes' over the
      task's own outputs only, or 'mse' (regression).
    member: index in a group of tasks that are trained together.
  """
  classes: int
  transforms: tuple = ()
  pooled: bool = False
  loss: str = 'softmax'
  member: int = 0


class Earlier(NamedTuple):
  """An impression that a run makes, as `relies_on` and `check` see it.

  Attributes:
    name: name of the impression.
    task: name of its task.
    phase: name of the phase that learns it.
    repeat: index of the repetition of its task.
    method: name of the phase's method.
    options: options of that method, as its options dataclass.
    route: route of the task.
    streamed: whether its phase learns a stream, so that its number of
      impressions is not known in advance.
  """
  name: str
  task: str
  phase: str
  repeat: int
  method: str
  options: Any
  route: Route
  streamed: bool = False


class Group(NamedTuple):
  """The tasks that will be trained next, as `prepare` sees them.

  Attributes:
    routes: routes of the tasks; one, unless they are trained together.
    kept: the `shared` that the phase's last `commit` returned, {} at first.
    draw: (number >= 1) -> parameters drawn like the backbone's, with another
      key.
    gradient: (member, leaves, number of images, 0 for all) -> |d mean training
      loss / d leaf| at those leaves; `None` in the check before training.
  """
  routes: tuple[Route, ...]
  kept: dict
  draw: Callable[[int], Tree]
  gradient: Callable[[int, Tree, int], Tree] | None


class Context(NamedTuple):
  """The inputs of `prepare`.

  Attributes:
    backbone: the immutable parameters.
    earlier: impressions of the tasks that `relies_on` returned, in its order.
    key: typed PRNG key of the run, the same for all its tasks.
    group: the tasks that will be trained next; `None` when a stored task is
      loaded, which needs only what `materialise` uses.
  """
  backbone: Params
  earlier: tuple[impressions.Impression, ...]
  key: PRNGKey
  group: Group | None = None


class Training(NamedTuple):
  """How a phase trains its tasks, as `check` sees it.

  Attributes:
    phase: name of the phase.
    together: 'joint', 'rounds', or `None` if each task has its own state.
    tasks_at_once: tasks in one compiled call, each with its own state.
    repeats: number of impressions of each task.
    pool: whether all tasks have one impression.
    stream: whether the tasks come without names.
    search: whether an evolutionary search finds the impressions.
    early_stop: whether validation may end the training.
    loss: as in `Route`, for classification.
    weight_decay: weight decay of the optimizer.
    epochs: epochs of each task; 0 if the phase counts steps.
  """
  phase: str
  together: str | None = None
  tasks_at_once: int = 1
  repeats: int = 1
  pool: bool = False
  stream: bool = False
  search: bool = False
  early_stop: bool = False
  loss: str = 'softmax'
  weight_decay: float = 0.
  epochs: int = 0


def no_penalty(trainable: Tree) -> Any:
  """The regulariser of a method that has none: 0."""
  del trainable
  return 0.


def prepare_nothing(context: Context) -> dict:
  """`prepare` of a method that needs nothing from earlier tasks: {}."""
  del context
  return {}


def prepare_kept(context: Context) -> dict:
  """`prepare` that returns what the phase's last `commit` returned."""
  return context.group.kept if context.group else {}


def no_earlier(before: Sequence[Earlier], phase: str) -> Sequence[Earlier]:
  """`relies_on` of a method that needs no earlier task."""
  del before, phase
  return ()


def same_phase(before: Sequence[Earlier], phase: str) -> Sequence[Earlier]:
  """`relies_on` of a method that needs all earlier tasks of its phase."""
  return [e for e in before if e.phase == phase]


def no_check(training: Training, backbone: Tree, before: Sequence[Earlier],
             own: Sequence[Earlier]) -> None:
  """`check` of a method that can be trained in every way."""
  del training, backbone, before, own


class Banks(NamedTuple):
  """How the tasks of a group share what they train, for training in rounds.

  `trainable` is then a dict of banks: trees of leaves with the bank's rows as
  first axis (parallel modules, or a row per task). A task reads only its own
  rows. As task and rows may be traced, all heads are as wide as the widest.

  Attributes:
    rows: (trainable) -> {bank: int32 [tasks, n]}, the rows of each task.
    bind: ({bank: its rows of one task}, shared, {bank: int [n]}) -> params.
    shared_stats: whether all tasks of a module share its norm statistics.
  """
  rows: Callable[[Tree], dict]
  bind: Callable[..., Tree]
  shared_stats: bool = False


class Folds(NamedTuple):
  """How the tasks of a method are folded into one weight tree.

  Attributes:
    tree: name of the weight tree; phases with the same name share one tree.
    part: (backbone) -> the leaves divided among tasks, `None` elsewhere.
    uses: whether a task also uses the weights of the tasks before it.
  """
  tree: str
  part: Callable[[Tree], Tree]
  uses: bool = False


class Abilities(NamedTuple):
  """Optional abilities of a method, beyond the functions of the contract.

  Attributes:
    superposes: impressions are masks, or coefficients over one basis, of one
      backbone, so that a task can be inferred by superposition.
    streams: can learn a stream of tasks without names, one mask at a time.
    members: `bind` accepts a route whose member is traced.
    banks: set if tasks can be trained in rounds, else `None`.
    needs_earlier: `materialise` needs what `prepare` computes from earlier
      tasks; otherwise a stored impression is enough.
    per_group: `prepare` reads the tasks that will be trained next.
    searched: set if a search finds the impressions: (network that was found,
      names of its trained components) -> the `shared` for `commit`.
    watch: (early stopping's settings or `None`) -> `watch.Watch`; set if the
      method prunes during training.
    folds: set if tasks are folded into one weight tree.
    carries: (impression, that of a later task of the phase) -> the impression
      of the first task with what the later task changed; set if later tasks
      train the same weights further, so that earlier ones are forgotten.
    rates: (trainable) -> a factor of the learning rate for each leaf; set if
      the factors are not all 1. Not available in rounds.
    shards: the method's arrays may be divided over devices.
    own_head: every task already has its own dense head; see `heads`.
  """
  superposes: bool = False
  streams: bool = False
  members: bool = False
  banks: Banks | None = None
  needs_earlier: bool = False
  per_group: bool = False
  searched: Callable[[Tree, Sequence[str]], dict] | None = None
  watch: Callable[[Any], Any] | None = None
  folds: Folds | None = None
  carries: Callable[..., impressions.Impression] | None = None
  rates: Callable[[Tree], Tree] | None = None
  shards: bool = False
  own_head: bool = False


class Method(NamedTuple):
  """A method: how a task is trained and stored; see the module.

  Attributes:
    init: computes what receives gradients, from a key.
    bind: computes effective parameters; differentiable in `trainable`.
    commit: computes the impression of a trained task and the new `shared`. If
      `shared` changes, it is kept for the next `prepare`.
    materialise: computes effective parameters of a committed impression.
    prepare: computes `shared` from a `Context`.
    relies_on: (all impressions that a run makes before a task, the phase's
      name) -> those whose impressions `prepare` needs, in its order. Raises
      ValueError if they can't be enough.
    penalty: computes the regulariser added to the loss, from `trainable`.
    check: (how the phase trains, backbone, impressions before the phase, those
      of the phase) -> None; raises ValueError before training for what the
      method can't do.
    facts: () -> JSON values about the method for the record of a task.
    abilities: what else the method can do.
  """
  init: Callable[..., Tree]
  bind: Callable[..., Tree]
  commit: Callable[..., tuple]
  materialise: Callable[..., Tree]
  prepare: Callable[[Context], dict] = prepare_nothing
  relies_on: Callable[..., Sequence[Earlier]] = no_earlier
  penalty: Callable[[Tree], Any] = no_penalty
  check: Callable[..., None] = no_check
  facts: Callable[[], dict] = dict
  abilities: Abilities = Abilities()


def materialise(backbone: Tree, impression: impressions.Impression,
                shared: dict) -> Tree:
  """`impressions.materialise`, for a method that doesn't use `shared`."""
  del shared
  return impressions.materialise(backbone, impression)


def members(route: Route | tuple[Route, ...]) -> tuple[Route, ...]:
  """The routes passed to `init` as a tuple: those of a group, or a single one.
  """
  return route if isinstance(route, tuple) else (route,)


def per_member(own: Tree, route: Route | tuple[Route, ...]) -> Tree:
  """A copy of leaves for each member, stacked along a first axis [members]."""
  count = len(members(route))
  return jax.tree.map(lambda x: jnp.stack([x] * count), own)


def of_member(own: Tree, route: Route) -> Tree:
  """The copy of one member from `per_member`; `route.member` may be traced."""
  return jax.tree.map(lambda x: x[route.member], own)


def set_patterns(options: Any, *names: str) -> None:
  """Turns single patterns into tuples, in `__post_init__` of frozen options."""
  for name in names:
    given = getattr(options, name)
    if given is not None:
      object.__setattr__(options, name, as_patterns(given))


def as_patterns(given: str | Iterable[str]) -> tuple[str, ...]:
  """One or several leaf patterns, as a tuple."""
  return (given,) if isinstance(given, str) else tuple(given)


def masked_part(backbone: Params, patterns: str | Iterable[str]) -> Params:
  """The backbone's leaves that the patterns name, `None` elsewhere.

  Args:
    backbone: parameter tree.
    patterns: one pattern or several (see `trees.select`).

  Raises:
    ValueError: there are no patterns, or a pattern matches no leaf.
  """
  patterns = as_patterns(patterns)
  if not patterns:
    raise ValueError('the mask covers nothing: no leaf pattern was given; the '
                     f'leaves are: {", ".join(trees.flatten(backbone))}')
  chosen = trees.select(backbone, [(pattern, True) for pattern in patterns])
  return trees.partition(backbone, chosen)[0]


def kaiming_uniform(key: PRNGKey, like: Tree, backbone: Params = None
                    ) -> aliases.Scores:
  """Initial scores: uniform in +-1/sqrt(fan_in) (a = sqrt 5 in PyTorch).

  A leaf that is not a kernel (a norm's scale, a bias) has no fan-in: its scores
  start at 0, as in HopSupSup's official code. A threshold mask keeps all of
  such a leaf at first, so that the first forward pass is the backbone's own,
  and training removes units.

  Args:
    key: typed PRNG key.
    like: the leaves that get scores.
    backbone: all parameters, whose biases determine the kernels' axes (see
      `fans`); `None` uses `like`.
  """
  known = fans.fans(like if backbone is None else backbone)

  def leaf(name: str, x: aliases.Array | None) -> aliases.Array | None:
    if x is None:
      return None
    fan = known[name]
    if fan is None:
      return jnp.zeros(x.shape, jnp.float32)
    bound = float(1. / np.sqrt(max(fan.fan_in, 1)))
    return masks.draw(key, name, x.shape, lambda k, shape: jax.random.uniform(
        k, shape, jnp.float32, -bound, bound))
  return trees.map_named(leaf, like)
