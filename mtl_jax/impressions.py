"""Impressions, and the network of a task from the backbone and an impression.

A task's network is `materialise(backbone, impression)`: a pure function, so
adding a task can't alter another.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtl_jax import aliases
from mtl_jax import masks
from mtl_jax import messages
from mtl_jax import trees

Array = aliases.Array
Mask = aliases.Mask
Params = aliases.Params
Tree = aliases.Tree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Path:
  """The parts of the backbone of which a task's network consists.

  It holds no arrays: networks with equal names of parts share one executable,
  whichever parts of the backbone they use.

  Attributes:
    parts: (name in the task's network, name in the backbone) of sub-trees,
      such as ('level1/slot0', 'level1/module07').
  """
  parts: tuple[tuple[str, str], ...]

  def take(self, params: Params) -> Params:
    """The task's network: the parts under its own names.

    Raises:
      ValueError: the backbone has no such part.

    >>> Path((('head', 'heads/b'),)).take({'heads': {'a': 1, 'b': {'w': 2}}})
    {'head': {'w': 2}}
    """
    flat: dict = {}
    for own, name in self.parts:
      node = params
      for step in name.split('/'):
        if not isinstance(node, dict) or step not in node:
          raise ValueError(f'the path has {name}, which is no part of the '
                           'backbone')
        node = node[step]
      flat[own] = node
    return trees.unflatten(flat)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Structure:
  """The entries at the top of the tree of which a task's network consists.

  It holds no arrays, so that it can be static in a jitted function.

  Attributes:
    parts: sorted names of the entries. The leaves of an entry are the
      impression's values or, where there is none, the backbone's.
  """
  parts: tuple[str, ...]


class Impression(NamedTuple):
  """All that one task leaves. Each part is a tree of arrays or `None`.

  The first four have the backbone's structure. A method that stores something
  else (a low-rank pair, a few numbers) puts it into `parts`, and its own
  `materialise` computes the network.

  Attributes:
    masks: bool leaves in the backbone's structure, `None` where not masked.
    coefficients: float leaves [K], or [K, B], in the backbone's structure: one
      number per basis mask and masked leaf (ImpressLearn), or per block of the
      leaf's output units (see `block_sizes`).
    values: leaves that replace the backbone's (owned weights, a head).
    stats: the task's own norm statistics.
    path: the parts of the backbone in the task's network; `None` for all.
    structure: `None` if the network has the backbone's structure. Otherwise
      `values` may hold leaves that the backbone lacks or has in another shape,
      entries not named in it are left out of the network, and there are no
      masks or coefficients.
    parts: {name: tree of arrays of any shape}, dicts at every level.
  """
  masks: Mask = None
  coefficients: Tree = None
  values: Tree = None
  stats: Tree = None
  path: Path | None = None
  structure: Structure | None = None
  parts: dict[str, Tree] | None = None

  def __repr__(self) -> str:
    """A summary without the arrays.

    >>> import jax.numpy as jnp
    >>> Impression(masks={'w': jnp.ones((4, 5), bool)},
    ...            parts={'s': jnp.ones(3)})
    Impression(masks: 1 leaf of 20, s: 1 leaf of 3)
    """
    trees_ = self._asdict()
    if isinstance(self.parts, dict):
      trees_ = {k: v for k, v in trees_.items() if k != 'parts'} | self.parts
    return 'Impression({})'.format(', '.join(
        f'{name}: {_said(part)}' for name, part in trees_.items()
        if part is not None))


def _said(part: Tree) -> str:
  """A summary of a part: its leaves, and how many numbers they hold."""
  if isinstance(part, (Path, Structure)):
    return trees.counted(len(part.parts), 'component')
  leaves = [leaf for leaf in jax.tree.leaves(part) if hasattr(leaf, 'shape')]
  return (f'{len(leaves)} {"leaf" if len(leaves) == 1 else "leaves"} of '
          f'{trees.size(leaves):,}')


def combine(alphas: Tree, basis: Mask) -> Tree:
  """Sum over k of alpha_k M^k for every leaf, without a float copy of M.

  Args:
    alphas: float leaves [K], or [K, B] with a coefficient for each of B blocks
      of output units; `None` leaves stay `None`.
    basis: bool leaves [K, ...] (see `masks.stack`).

  Returns:
    Float leaves [...] in the dtype of `alphas`; differentiable in `alphas`.
    A one-hot alpha gives the k-th mask exactly.

  Raises:
    ValueError: the numbers of coefficients and masks of a leaf differ, or the
      coefficients are not floats.

  >>> import jax.numpy as jnp
  >>> basis = {'w': jnp.array([[True, True], [False, True]])}
  >>> combine({'w': jnp.array([2., -3.])}, basis)
  {'w': Array([ 2., -1.], dtype=float32)}
  """
  def leaf(name: str, a: Array | None, m: Array | None) -> Array | None:
    if a is None:
      return None
    if m is None:
      raise ValueError(f'{messages.leaf(name)} has coefficients but no basis '
                       'masks')
    if a.ndim not in (1, 2) or a.shape[:1] != m.shape[:1]:
      raise ValueError(f'{messages.leaf(name)} has coefficients of shape '
                       f'{a.shape} but {m.shape[0] if m.ndim else "no"} basis '
                       'masks')
    if not jnp.issubdtype(a.dtype, jnp.floating):
      raise ValueError(f'the coefficients of {messages.leaf(name)} are '
                       f'{a.dtype}; give floats')
    return _combine_leaf(a if a.ndim == 1 else per_unit(name, a, m), m)
  return trees.map_named(leaf, trees.check_arrays(alphas, 'coefficients', True),
                         masks.require_bool(basis, 'a basis'))


def block_sizes(blocks: int, units: int) -> tuple[int, ...]:
  """Number of neighbouring output units in each of `blocks` blocks.

  >>> block_sizes(4, 10)
  (2, 3, 2, 3)
  """
  edges = [units * n // blocks for n in range(blocks + 1)]
  return tuple(stop - start for start, stop in zip(edges, edges[1:]))


def per_unit(name: str, alphas: Array, basis: Array) -> Array:
  """Expands coefficients [K, B] of blocks to coefficients of output units.

  Args:
    name: name of the leaf, for the error.
    alphas: float [K, B].
    basis: [K, ..., units]; the last axis has the output units, as in Flax.

  Returns:
    float [K, units].

  Raises:
    ValueError: there are more blocks than output units; names the leaf.
  """
  blocks, units = alphas.shape[1], basis.shape[-1]
  if blocks > units:
    raise ValueError(f'{messages.leaf(name)} has coefficients for {blocks} '
                     f'blocks, but {trees.counted(units, "output unit")}; take '
                     f'{units}')
  block = np.repeat(np.arange(blocks), block_sizes(blocks, units))
  return alphas[:, block]


@jax.custom_vjp
def _combine_leaf(alphas: Array, basis: Array) -> Array:
  # Unrolled: XLA fuses the K selects into one pass that reads K bytes per
  # weight. A dot would first write K float copies (27 times slower on CPU).
  total = jnp.zeros(basis.shape[1:], alphas.dtype)
  for k in range(basis.shape[0]):  # alphas[k]: of the leaf, or of each unit
    total = total + jnp.where(basis[k], alphas[k], 0)
  return total


def _combine_forward(alphas: Array,
                     basis: Array) -> tuple[Array, tuple[Array, Array]]:
  return _combine_leaf(alphas, basis), (alphas, basis)


def _combine_backward(kept: tuple[Array, Array],
                      cotangent: Array) -> tuple[Array, None]:
  alphas, basis = kept
  return agreement(basis, cotangent, alphas.ndim == 2), None


def agreement(basis: Array, cotangent: Array, units: bool = False) -> Array:
  """Sum of `cotangent` [...] over each mask of bool `basis` [K, ...]: [K].

  On CPU, a loop goes through the masks one by one. On an accelerator, a step of
  such a loop costs more than a mask does, so all masks are done at once.

  Args:
    basis: bool [K, ...].
    cotangent: float [...].
    units: whether to sum for each unit of the last axis: [K, units].
  """
  messages.check_switch(units, 'units')
  if jax.default_backend() == 'cpu':
    axes = tuple(range(cotangent.ndim - 1)) if units else None
    return lax.map(lambda m: jnp.sum(jnp.where(m, cotangent, 0), axes), basis)
  return _agreement_at_once(basis, cotangent, units)


def _agreement_at_once(basis: Array, cotangent: Array,
                       units: bool = False) -> Array:
  return jnp.sum(jnp.where(basis, cotangent[None], 0),
                 tuple(range(1, basis.ndim - units)))


_combine_leaf.defvjp(_combine_forward, _combine_backward)


def materialise(backbone: Params, impression: Impression,
                basis: Mask = None) -> Params:
  """The parameters of a task's network.

  Each leaf is the task's own value if there is one, else the backbone's. It is
  multiplied by the task's combination of basis masks, or by its mask, if the
  task has either.

  Args:
    backbone: the immutable parameter tree.
    impression: the impression of the task.
    basis: bool leaves [K, ...]; needed if the impression has coefficients.

  Returns:
    A tree of the backbone's structure, shapes and dtypes. If the impression
    has a structure, the tree has that structure; if it has a path, only the
    parts on the path, under their names in the path.

  Raises:
    ValueError: a leaf's shape differs from the backbone's, the basis of the
      coefficients is missing, or a part of the structure is missing.

  >>> import jax.numpy as jnp
  >>> backbone = {'w': jnp.array([1., -1.]), 'b': jnp.array([0.])}
  >>> task = Impression(masks={'w': jnp.array([False, True]), 'b': None})
  >>> materialise(backbone, task)
  {'b': Array([0.], dtype=float32), 'w': Array([ 0., -1.], dtype=float32)}
  """
  _require(impression)
  if impression.structure is not None:
    return _assemble(backbone, impression)
  params = backbone
  if impression.values is not None:
    trees.check_shapes(impression.values, backbone, 'an owned value')
    params = trees.combine(impression.values, backbone)
  if impression.coefficients is not None:
    if basis is None:
      raise ValueError('the impression holds coefficients: pass the basis '
                       'that they combine')
    params = masks.apply(params, combine(impression.coefficients, basis))
  if impression.masks is not None:
    params = masks.apply(params, impression.masks)
  return params if impression.path is None else impression.path.take(params)


def _assemble(backbone: Params, impression: Impression) -> Params:
  """The network of a task whose impression has a structure."""
  if impression.masks is not None or impression.coefficients is not None:
    raise ValueError('an impression with a structure of its own takes neither '
                     'masks nor coefficients')
  assert impression.structure is not None
  own = impression.values or {}
  params: dict = {}
  unused = sorted(set(own) - set(impression.structure.parts))
  if unused:
    raise ValueError(f'the impression holds values of {unused[0]}, which is '
                     'not part of its structure')
  for part in impression.structure.parts:
    if part not in own and part not in backbone:
      raise ValueError(f'neither the impression nor the backbone has {part}, '
                       'which is part of the structure')
    leaves = trees.flatten({part: backbone[part]} if part in backbone else {})
    leaves |= {name: leaf for name, leaf in trees.flatten(
        {part: own[part]} if part in own else {}).items() if leaf is not None}
    params |= trees.unflatten(leaves)
  return params


def _require(impression: Any) -> Impression:
  if not isinstance(impression, Impression):
    raise ValueError(f'the impression is {messages.shown(impression)}; give an '
                     'impressions.Impression, such as Impression(masks=mask)')
  for part in ('masks', 'coefficients', 'values'):
    trees.check_arrays(getattr(impression, part), f"the impression's {part}")
  return impression


def bytes_by_part(impression: Impression) -> dict[str, int]:
  """Bytes of each part: one bit per weight of a mask; others as in memory.

  For a value under a mask, only the weights that the mask keeps are counted.
  """
  sizes: dict[str, int] = {}
  for part, tree in _require(impression)._asdict().items():
    if part in ('path', 'structure'):
      continue  # it has no arrays
    if part == 'parts':
      sizes |= {name: trees.nbytes(own) for name, own in (tree or {}).items()}
      continue
    if tree is None:
      sizes[part] = 0
    elif part == 'masks':
      sizes[part] = sum(-(-leaf.size // 8) for leaf in jax.tree.leaves(tree))
    else:
      sizes[part] = trees.nbytes(tree)
  if impression.masks is not None and impression.values is not None:
    sizes['values'] -= sum(
        int(m.size - m.sum()) * value.dtype.itemsize for m, value in zip(
            *(jax.tree.leaves(t, is_leaf=trees.is_none)
              for t in (impression.masks, impression.values)))
        if m is not None and value is not None)
  return sizes


def size_in_bytes(impression: Impression) -> int:
  """Bytes of an impression with packed masks, including norm statistics.

  >>> import jax.numpy as jnp
  >>> size_in_bytes(Impression(masks={'w': jnp.ones((4, 5), bool)}))
  3
  """
  return sum(bytes_by_part(impression).values())
