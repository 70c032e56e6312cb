"""The Multiple Subnetwork Hypothesis: tasks own disjoint weights of one tree.

Renn et al. 2022, https://arxiv.org/abs/2207.08821. A task's network is the
folded tree in which all weights that the task doesn't own are 0; its biases,
stem and head are its own leaves. `mtl_jax.methods.allocation` assigns the
weights.

With `sharing` (PackNet's rule, Mallya and Lazebnik 2018), a later task also
uses the weights of earlier ones, unchanged.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.methods import allocation
from mtl_jax.methods import base
from mtl_jax.methods import free_weights
from mtl_jax.methods import joint
from mtl_jax.methods import sparsify as sparsify_lib

Tree = trees.Tree
OWN = ('.*bias', 'stem.*', 'head.*')


@dataclasses.dataclass(frozen=True)
class Allocation:
  """How a task's subnetwork is chosen; see `mtl_jax.methods.allocation`.

  Scores are computed at the task's initial weights, before any training, so
  that masks made for all tasks in advance equal masks made task by task.

  Attributes:
    density: fraction of the weights that each task owns.
    score: 'gradient' (|d loss / d weight| on training images of the task) or
      'magnitude' (|weight|).
    sample: number of training images for the gradient; 0 uses all.
    scope: 'leaf' (the fraction of every leaf) or 'global'.
    draws: initial weights, which also determine the scores: 'own' draws new
      weights for each task like the backbone's (the official code); 'common'
      uses the backbone's for all, so that tasks compete for mostly the same
      weights. Heads and biases start as the backbone's.
    fit: with the scope 'leaf': if less than `density` of a leaf is free, the
      task takes all that is free. With `sparsify`, the first task starts dense,
      and each later one with what the earlier ones left.
    tree: phases with the same name fold into one tree, in the order of the
      schedule. `None`: every task has a tree to itself (pruned alone).
  """
  density: float
  score: str = 'gradient'
  sample: int = 10000
  scope: str = 'leaf'
  draws: str = 'own'
  fit: bool = False
  tree: str | None = 'main'

  def __post_init__(self):
    if self.fit and self.scope != 'leaf':
      raise ValueError("allocation.fit takes what is free of every leaf; it "
                       "needs scope='leaf'")
    for name, known in (('score', ('gradient', 'magnitude')),
                        ('draws', ('own', 'common')),
                        ('scope', ('leaf', 'global'))):
      if getattr(self, name) not in known:
        raise ValueError(f'allocation.{name} is {getattr(self, name)!r}; '
                         f'known: {known}')
    if not 0 < self.density <= 1 or self.sample < 0:
      raise ValueError(f'allocation: density must lie in (0, 1] and sample '
                       f'not be negative; got {self}')


def subnetworks(own: tuple[str, ...] | None = None, sharing: bool = False,
                given: Allocation | None = None,
                pruned: sparsify_lib.Sparsify | None = None) -> base.Method:
  """Trains the weights that a task, or every member of a group, owns.

  Args:
    own, sharing: as in `Options`.
    given: how `prepare` assigns weights; `None` if you pass `shared` yourself.
    pruned: prune further, as long as validation permits.

  Returns:
    A method with `shared` = {'owner': uint8 tree, 'number': number of the
    group's first member, 'start': (if given) initial values of the folded
    leaves instead of the backbone's, 'weights': (if sharing) the weights of
    earlier tasks}.

  Raises:
    ValueError: see `parts`.
  """
  def init(key, backbone, shared, route):
    del key
    require_owner(shared)
    mine, folded = parts(backbone, own)
    return {'weights': shared.get('start', folded),
            'own': base.per_member(mine, route)}

  def bind(backbone, trainable, shared, route):
    del backbone
    number, weights = _owned(trainable, shared, route)
    if sharing:
      weights = with_earlier(weights, shared, number)
    return trees.combine(base.of_member(trainable['own'], route), weights)

  def commit(backbone, trainable, shared, route):
    del backbone
    number, weights = _owned(trainable, shared, route)
    mine = base.of_member(trainable['own'], route)
    return impressions.Impression(
        masks=trees.map_leaves(
            lambda m, o: None if m is not None or o is None else o == number,
            mine, shared['owner']),
        values=trees.combine(mine, weights)), shared

  def materialise(backbone, impression, shared):
    params = impressions.materialise(backbone, impression)
    return (with_earlier(params, shared, shared['number']) if sharing
            else params)

  def prepare(context):
    return {} if given is None else shared_of(context, own, sharing, given)

  tree = None if given is None else given.tree
  return base.Method(
      init, bind, commit, materialise, prepare,
      lambda before, phase: [] if tree is None else of_tree(before, tree),
      check=functools.partial(free_weights.check, parts, own, sharing, given,
                              pruned),
      abilities=_abilities(own, sharing, tree, pruned))


def _abilities(own, sharing: bool, tree: str | None, pruned) -> base.Abilities:
  folds = None if tree is None else base.Folds(
      tree, lambda backbone: parts(backbone, own)[1], sharing)
  watch = None if pruned is None else functools.partial(
      sparsify_lib.sparsify, pruned)
  return base.Abilities(members=True, needs_earlier=sharing, per_group=True,
                        folds=folds, watch=watch)


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of the method in a config.

  Attributes:
    allocation: how each task's subnetwork is chosen.
    own: patterns of each task's own leaves, which it stores whole; all other
      leaves are folded. `None` takes biases, `stem` and `head`.
    sharing: also use, unchanged, the weights of tasks with lower numbers.
    sparsify: prune a task's subnetwork further, as long as validation permits.
  """
  allocation: Allocation | None = None
  own: tuple[str, ...] | None = None
  sharing: bool = False
  sparsify: sparsify_lib.Sparsify | None = None

  def __post_init__(self):
    base.set_patterns(self, 'own')


def make(options: Options) -> base.Method:
  """The method of a config's options."""
  return subnetworks(options.own, options.sharing, options.allocation,
                     options.sparsify)


def of_tree(before, tree: str) -> list[base.Earlier]:
  """The earlier subnetworks that fold into one weight tree, in order."""
  return [e for e in before if isinstance(e.options, Options)
          and e.options.allocation is not None
          and e.options.allocation.tree == tree]


def _owned(trainable, shared: dict, route) -> tuple:
  """(the number of a group's member, the folded weights that it owns)."""
  number = shared['number'] + route.member
  return number, allocation.subnetwork(trainable['weights'], shared['owner'],
                                       number)


def with_earlier(weights: Tree, shared: dict, number) -> Tree:
  """The folded weights of a task together with those of lower-numbered tasks.

  Leaves of `weights` that are not divided among tasks stay unchanged.
  """
  def leaf(w, owner, theirs):
    if owner is None:
      return w
    earlier = (owner > 0) & (owner < number)
    return jnp.where(earlier, jax.lax.stop_gradient(theirs), w)
  return trees.map_leaves(leaf, weights, shared['owner'], shared['weights'])


def shared_of(context: base.Context, own, sharing: bool,
              given: Allocation) -> dict:
  """Owners, the group's first number and (if sharing) earlier weights.

  Raises:
    ValueError: a subnetwork doesn't fit; says how many weights are free.
  """
  like = parts(context.backbone, own)[1]
  group, before = context.group, context.earlier
  checked_only = group is not None and group.gradient is None
  shared = {'number': np.uint8(len(before) + 1),
            'owner': allocation.unowned(like)}
  weights = like
  if before and not checked_only:
    weights, shared['owner'] = allocation.fold(
        [i.values for i in before], [i.masks for i in before])
  if sharing:
    shared['weights'] = weights
  if group is None:
    return shared
  if group.gradient is None:
    return shared | {'start': like}
  owner, start = shared['owner'], like
  for member in range(len(group.routes)):
    number = len(before) + 1 + member
    drawn = like if given.draws == 'common' else parts(
        group.draw(number), own)[1]
    scores = (jax.tree.map(lambda w: np.abs(np.asarray(w)), drawn)
              if given.score == 'magnitude' else
              group.gradient(member, drawn, given.sample))
    owner = allocation.allocate(scores, owner, number, given.density,
                                given.scope, given.fit)
    start = jax.tree.map(lambda o, w, s, n=number: np.where(o == n, w, s),
                         owner, drawn, start)
  return shared | {'owner': owner, 'start': start}


def parts(backbone: Tree, own) -> tuple[Tree, Tree]:
  """(each task's own leaves, the folded leaves), each with `None` elsewhere.

  Args:
    backbone: parameter tree.
    own: patterns; `None` uses those of `OWN` that match.

  Raises:
    ValueError: a pattern matches no leaf; or with `OWN` there is no head, or a
      vector would be divided among the tasks; names the leaves.
  """
  if own is not None:
    return joint.split(backbone, own)
  names = [name for name, leaf in trees.flatten(backbone).items()
           if leaf is not None]
  found = [p for p in OWN if any(re.fullmatch(p, name) for name in names)]
  whole = all(leaf is not None for leaf in trees.flatten(backbone).values())
  if OWN[-1] not in found and whole:  # otherwise `heads` has removed the head
    raise ValueError(
        'no leaf of this network is called head, so that its last layer would '
        "be divided among the tasks; give head='dense', or own=('.*bias', "
        '...), patterns of what each task has for itself; the leaves are: '
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
