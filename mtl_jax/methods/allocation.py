"""Assigns the weights of one folded tree to tasks.

Renn et al. 2022, https://arxiv.org/abs/2207.08821: every task gets weights that
no other task uses. An *owner* tree of uint8 holds, for every weight, the number
of the task that owns it; 0 is free. T tasks' subnetworks then take one weight
tree and one owner tree, not T dense copies:

    subnetwork(weights, owner, t) = where(owner == t, weights, 0)

The official code thresholds the scores at a percentile of the whole tensor. If
more weights than that percentile are owned or have score 0, its threshold is 0,
and the subnetwork is dense and overlaps all others. Here a task gets exactly k
of the free weights, or an error is raised.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import _top_k
from mtl_jax import masks
from mtl_jax import trees

Tree = trees.Tree
LARGEST = 255


def unowned(like: Tree) -> Tree:
  """An owner tree in which every weight is free.

  >>> unowned({'w': np.zeros(2), 'b': None})
  {'b': None, 'w': array([0, 0], dtype=uint8)}
  """
  return jax.tree.map(lambda x: np.zeros(np.shape(x), np.uint8), like)


def subnetwork(weights: Tree, owner: Tree, number) -> Tree:
  """The weights that a task owns, 0 elsewhere; `None` leaves stay.

  Args:
    weights: the folded tree.
    owner: uint8 leaves of its structure.
    number: number of the task, from 1; may be traced.

  >>> subnetwork({'w': jnp.array([1., 2.])}, {'w': jnp.array([2, 1])}, 1)
  {'w': Array([0., 2.], dtype=float32)}
  """
  return trees.map_leaves(
      lambda w, o: None if o is None else jnp.where(o == number, w, 0),
      weights, owner)


def fold(subnetworks: list[Tree], bits: list[Tree]) -> tuple[Tree, Tree]:
  """One weight tree and its owner tree from disjoint subnetworks.

  Args:
    subnetworks: weights of task 1, 2, ...; only those under its mask are used.
    bits: the tasks' masks, bool leaves.

  Returns:
    (weights, owner); `subnetwork` of them gives back every task's weights.

  Raises:
    ValueError: two tasks own the same weight (names leaf and tasks), or there
      are more than 255 tasks.

  >>> fold([{'w': np.array([5., 0.])}, {'w': np.array([0., 7.])}],
  ...      [{'w': np.array([True, False])}, {'w': np.array([False, True])}])
  ({'w': array([5., 7.])}, {'w': array([1, 2], dtype=uint8)})
  """
  if len(bits) > LARGEST:
    raise ValueError(f'{len(bits)} subnetworks, but an owner is one byte: at '
                     f'most {LARGEST} fold into one tree')
  if not bits:
    raise ValueError('there is no subnetwork to fold')

  def leaf(name, *pairs):
    values, own = pairs[:len(bits)], pairs[len(bits):]
    if own[0] is None:
      return None
    owner = np.zeros(np.shape(own[0]), np.uint8)
    weights = np.zeros(np.shape(own[0]), np.asarray(values[0]).dtype)
    for number, (value, mask) in enumerate(zip(values, own), 1):
      mask = np.asarray(mask)
      if (taken := owner[mask].max(initial=0)):
        raise ValueError(f'tasks {taken} and {number} both own weights of '
                         f'{name}: they do not fold into one tree')
      owner[mask] = number
      weights[mask] = np.asarray(value)[mask]
    return weights, owner

  folded = trees.map_named(leaf, *subnetworks, *bits)
  is_pair = lambda x: isinstance(x, tuple) or x is None
  return tuple(jax.tree.map(lambda pair, i=i: pair and pair[i], folded,
                            is_leaf=is_pair) for i in (0, 1))


def counts(like: Tree, density: float, scope: str = 'leaf') -> Tree:
  """Number of weights of a task: of each leaf, or of all leaves together ('').

  >>> counts({'a': np.zeros(10), 'b': np.zeros(5)}, 0.3)
  {'a': 3, 'b': 2}
  """
  if scope == 'global':
    return masks.kept('the whole tree', (trees.size(like),), density)
  return trees.map_named(
      lambda name, x: None if x is None else masks.kept(
          name, np.shape(x), density), like)


def require_free(owner: Tree, density: float, scope: str, tasks: int = 1,
                 what: str = '', fit: bool = False) -> None:
  """Refuses, before training, subnetworks that don't fit.

  Args:
    owner: the owner tree so far.
    density, scope: as in `allocate`.
    tasks: number of subnetworks of this density that must fit.
    what: beginning of the error message.
    fit: as in `allocate`; one free weight in every leaf is enough.

  Raises:
    ValueError: says which leaf, and how many weights are free.
  """
  def check(name, size, free, wanted):
    if wanted < 1:
      raise ValueError(f'{what}density {density} keeps none of the {size} '
                       f'weights of {name}; choose a larger one')
    if fit and not free:
      raise ValueError(f'{what}none of the {size} weights of {name} is free; '
                       'choose a lower density')
    if not fit and tasks * wanted > free:
      raise ValueError(
          f'{what}{tasks} x {wanted} weights of {name} are needed, but only '
          f'{free} of {size} are free: at most '
          f'{trees.counted(free // wanted, "subnetwork")} of density {density} '
          'can still be made')
  wanted = counts(owner, density, scope)
  free = {name: int(np.sum(np.asarray(o) == 0))
          for name, o in trees.flatten(owner).items() if o is not None}
  if scope == 'global':
    check('the whole tree', trees.size(owner), sum(free.values()), wanted)
    return
  for name, k in trees.flatten(wanted).items():
    if k is not None:
      check(name, np.size(trees.flatten(owner)[name]), free[name], k)


def allocate(scores: Tree, owner: Tree, number: int, density: float,
             scope: str = 'leaf', fit: bool = False) -> Tree:
  """Gives a task exactly k = round(density x size) free weights.

  Args:
    scores: float leaves, not negative; the largest are taken first. Ties go
      to the lower index.
    owner: the owner tree so far (see `unowned`).
    number: number of the task, 1 to 255.
    density: the task's fraction of all weights.
    scope: 'leaf' takes the fraction of every leaf, 'global' of all leaves
      together (scores must then be comparable).
    fit: if fewer than k weights of a leaf are free, take all of these (at
      least one); only for the scope 'leaf'.

  Returns:
    The new owner tree.

  Raises:
    ValueError: fewer than k weights are free (says how many are), no weight of
      a matrix is among the best of the whole tree, scores are NaN or negative,
      or the number or scope doesn't exist.

  >>> allocate({'w': np.array([9., 1., 3., 2.])},
  ...          {'w': np.array([1, 0, 0, 0], np.uint8)}, 2, 0.5)
  {'w': array([1, 0, 2, 2], dtype=uint8)}
  """
  if scope not in ('leaf', 'global'):
    raise ValueError(f"unknown scope {scope!r}; known: 'leaf', 'global'")
  if not 1 <= number <= LARGEST:
    raise ValueError(f'task number {number} does not fit a byte: at most '
                     f'{LARGEST} subnetworks fold into one tree')
  ranked = trees.map_named(_rank, scores, owner)
  require_free(owner, density, scope, what=f'subnetwork {number}: ', fit=fit)
  if scope == 'leaf':
    chosen = masks.top_k(ranked, _at_most(owner, density) if fit else density)
  else:
    flat = jax.tree.leaves(ranked)
    joined = _top_k.select(
        jnp.concatenate([x.reshape(-1) for x in flat]),
        counts(owner, density, scope))
    ends = np.cumsum([x.size for x in flat])
    parts = np.split(np.asarray(joined), ends[:-1])
    chosen = jax.tree.unflatten(jax.tree.structure(ranked), [
        part.reshape(x.shape) for part, x in zip(parts, flat)])
    _require_some(chosen, number)
  return trees.map_leaves(
      lambda o, c: None if o is None else np.where(
          np.asarray(c), np.uint8(number), o), owner, chosen)


def _require_some(chosen, number):
  for name, leaf in trees.flatten(chosen).items():
    if leaf is not None and np.ndim(leaf) > 1 and not np.any(leaf):
      raise ValueError(
          f'subnetwork {number}: none of the best weights of the whole tree '
          f'lies in {name}, so that no signal would pass through it; take a '
          "higher density or scope='leaf'")


def _at_most(owner, density):
  """The density of each leaf, limited to the fraction that is free."""
  return trees.map_leaves(
      lambda o: None if o is None else min(
          density, float(np.mean(np.asarray(o) == 0))), owner)


def _rank(name, scores, owner):
  """The scores, with owned weights ranked below all free ones."""
  if owner is None:
    return None
  scores = np.asarray(scores, np.float32)
  if not (scores >= 0).all():
    raise ValueError(f'scores of {name} are negative or NaN: magnitudes of '
                     'weights or gradients are expected')
  return jnp.where(np.asarray(owner) == 0, scores, -1.)


def prune(weights: Tree, owner: Tree, number: int, density: float) -> Tree:
  """Frees the smallest of a task's weights until it owns the given fraction.

  Args:
    weights: the task's trained weights.
    owner: the owner tree.
    number: number of the task.
    density: fraction of every leaf that the task keeps.

  Raises:
    ValueError: the task already owns fewer weights.

  >>> prune({'w': np.array([.5, -2., 1., 9.])},
  ...       {'w': np.array([1, 1, 1, 2], np.uint8)}, 1, 0.25)
  {'w': array([0, 1, 0, 2], dtype=uint8)}
  """
  def leaf(name, w, o):
    if o is None:
      return None
    o = np.asarray(o)
    mine, kept = o == number, masks.kept(name, o.shape, density)
    if np.count_nonzero(mine) < kept:
      raise ValueError(f'subnetwork {number} owns {np.count_nonzero(mine)} '
                       f'weights of {name}, fewer than the {kept} that '
                       f'density {density} keeps')
    stay = np.asarray(_top_k.select(
        jnp.where(mine, jnp.abs(np.asarray(w)), -1.), kept))
    return np.where(mine & ~stay, np.uint8(0), o)
  return trees.map_named(leaf, weights, owner)
