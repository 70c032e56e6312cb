"""ImpressLearn: a task is a set of coefficients over a basis of masks.

Bhardwaj et al. 2022, https://arxiv.org/abs/2210.01987. The effective weight of
layer l is W_l * sum_k alpha_kl M_l^k, with one signed coefficient per basis
mask and layer; W and the K masks are frozen.

Two additions store more numbers per task and reach more accuracy: a separate
mask for the head, and (ours, in no paper) blocks, that is, a coefficient per
basis mask, layer and block of the layer's output units.
"""

import dataclasses
import functools
import numbers
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import fields
from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import trees
from mtl_jax.methods import base
from mtl_jax.methods import heads
from mtl_jax.methods import layers
from mtl_jax.methods import supsup

Tree = trees.Tree


@dataclasses.dataclass(frozen=True)
class Basis:
  """The masks that ImpressLearn combines.

  Attributes:
    kind: 'heterogeneous' (one mask of each of `size` tasks), 'homogeneous'
      (masks of one task, trained with different seeds) or 'random'.
    size: number of masks K.
    phase: name of the phase whose first `size` impressions are the masks.
    density: 'random' only: fraction of ones in every leaf.
    masked: 'random' only: patterns of the leaves that the masks cover.
  """
  kind: str
  size: int
  phase: str | None = None
  density: float | None = None
  masked: tuple[str, ...] = ('.*kernel',)

  def __post_init__(self):
    base.set_patterns(self, 'masked')
    kinds = ('heterogeneous', 'homogeneous', 'random')
    if self.kind not in kinds:
      raise ValueError(f'unknown basis kind {self.kind!r}'
                       f'{trees.nearest(self.kind, kinds)}; known: {kinds}')
    if self.size < 1:
      raise ValueError(f'basis size is {self.size}; it must be at least 1')
    if (self.kind == 'random') != (self.density is not None):
      raise ValueError('a random basis needs a density, and only a random one '
                       f'takes it; got {self.kind} with {self.density}')
    if self.density is not None and not 0 < self.density <= 1:
      raise ValueError(f'basis density is {self.density}; it must lie in '
                       '(0, 1]')
    if (self.kind == 'random') != (self.phase is None):
      raise ValueError('a basis of trained masks needs the phase that trains '
                       f'them, and only it; got {self.kind}, {self.phase}')


def impresslearn(penalty: float = 0.,
                 head: str | tuple[str, ...] | None = None,
                 sampling: supsup.Sampler = supsup.THRESHOLD,
                 basis: Basis | None = None, blocks: int = 1,
                 head_rate: float = 1.) -> base.Method:
  """Coefficients over the basis in `shared['basis']` (bool leaves [K, ...]).

  Args:
    penalty, blocks, head_rate: as in `Options`.
    head: leaf patterns: these leaves get a separate supermask, trained
      together with the coefficients of the other leaves (the hybrid variant).
      The word 'mask' stands for the last layer: see `heads.leaves_of`. `None`
      combines every leaf of the basis.
    sampling: sampler of the head's supermask.
    basis: the masks for `prepare`; `None` if you pass `shared` yourself.

  Raises:
    ValueError: a number is out of its range, or head_rate is given without a
      head.
  """
  _check_numbers(penalty, head, blocks, head_rate)

  def init(key, backbone, shared, route):
    del route
    combined, own = split_head(require_basis(shared), head, backbone)
    coefficients = jax.tree.map(
        lambda m: jnp.full(coefficients_shape(m.shape, blocks),
                           1. / m.shape[0], jnp.float32), combined)
    return {'coefficients': coefficients,
            'scores': _head_scores(key, sampling, own, backbone)}

  def bind(backbone, trainable, shared, route):
    del route
    mixed = impressions.combine(trainable['coefficients'], shared['basis'])
    return masks.apply(masks.apply(backbone, mixed),
                       sampling.soft(trainable['scores']))

  def commit(backbone, trainable, shared, route):
    del backbone, route
    own = sampling.hard(trainable['scores'])
    return impressions.Impression(
        masks=own if jax.tree.leaves(own) else None,
        coefficients=trainable['coefficients']), shared

  def materialise(backbone, impression, shared):
    return impressions.materialise(backbone, impression,
                                   require_basis(shared))

  def prepare(context):
    return {} if basis is None else {'basis': make_basis(basis, context)}

  return base.Method(
      init, bind, commit, materialise, prepare,
      lambda before, phase: () if basis is None else members(basis, before),
      functools.partial(_regulariser, penalty),
      functools.partial(_check, basis), functools.partial(_facts, basis),
      base.Abilities(
          superposes=True, needs_earlier=True, shards=True,
          rates=layers.rates_of_parts({'scores': head_rate})))


def _head_scores(key, sampling: supsup.Sampler, own: Tree,
                 backbone: Tree) -> Tree:
  """Initial scores of the leaves of `own`, the head's part of the basis."""
  leaves = trees.map_leaves(lambda m, w: None if m is None else w, own,
                            backbone)
  supsup.require_kept(sampling, leaves)
  return base.kaiming_uniform(key, leaves, backbone)


def _regulariser(penalty: float, trainable):
  """Pulls the sum of a layer's absolute coefficients towards 1."""
  if not penalty:
    return 0.
  return penalty * sum(jnp.sum((jnp.sum(jnp.abs(a), 0) - 1.) ** 2) for a in
                       jax.tree.leaves(trainable['coefficients']))


def _facts(basis: Basis | None) -> dict:
  return {} if basis is None else {
      'basis': {'kind': basis.kind, 'size': basis.size,
                'phase': basis.phase}}


def _check(basis: Basis | None, training, backbone, before, own) -> None:
  """Refuses a phase without a basis, or a random one that masks no leaf."""
  del training, before
  if basis is None:
    raise ValueError('impresslearn needs a basis (kind, size, phase)')
  if basis.kind == 'random':
    heads.require_body(backbone, basis.masked)
    for name, leaf in trees.flatten(
        base.masked_part(backbone, basis.masked)).items():
      if leaf is not None:
        supsup.require_some(name, leaf.shape, basis.density, 'basis.density')
  elif fields.changed(basis, 'masked'):
    raise ValueError(f'basis.masked is {basis.masked}, but masks from a phase '
                     'cover what that phase masked; leave masked out')
  # A method of the user's, made of this one, has options of its own.
  for one in own[:1]:
    if isinstance(one.options, Options):
      _require_effect(one.options)


def _require_effect(options) -> None:
  """Refuses options that another one leaves without effect."""
  given = fields.changed(options, 'sampler', 'density', 'eps', 'absolute')
  if given and options.head in (None, *heads.APART):
    raise ValueError(f'{given[0]} is {getattr(options, given[0])!r}, but no '
                     "head has a mask of its own; give head='mask', or leave "
                     f'{given[0]} out')
  supsup.require_effect(options)


@dataclasses.dataclass(frozen=True)
class Options(heads.Options):
  """Options of the method in a config.

  Attributes:
    basis: the masks that are combined.
    penalty: weight of the sum over layers, and their blocks, of
      (|alpha_l|_1 - 1)^2.
    head: 'mask': the last layer's leaves in the basis get a separate
      supermask, trained together with the coefficients of the other leaves
      (the hybrid variant). A leaf pattern selects these leaves instead.
      'dense' and 'none' as for every method; `None` combines every leaf of the
      basis.
    head_leaves: as for every method.
    sampler: sampler of the head's supermask: 'threshold' or 'top_k'.
    density: with 'top_k': fraction of every leaf of the head that is kept.
    eps: with 'top_k': Erdos-Renyi budgets instead of one density; a leaf keeps
      at most half of its weights.
    absolute: with 'top_k': rank |score| instead of the score.
    blocks: number of blocks of neighbouring output units; each block has a
      coefficient per basis mask and layer. A layer with fewer units has fewer.
    head_rate: learning rate of the head's scores, as a multiple of that of the
      coefficients.
  """
  basis: Basis | None = None
  penalty: float = 0.
  sampler: str = 'threshold'
  density: float | None = None
  eps: float | None = None
  absolute: bool = True
  blocks: int = 1
  head_rate: float = 1.

  def __post_init__(self):
    base.set_patterns(self, 'head_leaves')
    if self.head_leaves is None or self.head not in heads.KINDS:
      heads.check(None, self.head_leaves)
    make(self)


def make(options: Options) -> base.Method:
  """The method of a config's options."""
  head: str | tuple[str, ...] | None = options.head
  if head in heads.APART:
    head = None  # `heads` removes the head
  elif head == 'mask' and options.head_leaves is not None:
    head = options.head_leaves
  return impresslearn(options.penalty, head, supsup.sampler(
      options.sampler, options.density, options.eps, options.absolute),
                      options.basis, options.blocks, options.head_rate)


def _check_numbers(penalty: float, head, blocks, head_rate) -> None:
  if not (isinstance(penalty, numbers.Real) and 0 <= penalty < np.inf):
    raise ValueError(f'penalty is {penalty!r}; it must be a number that is not '
                     'negative, and finite')
  if isinstance(blocks, bool) or not isinstance(
      blocks, numbers.Integral) or blocks < 1:
    raise ValueError(f'blocks is {blocks!r}; it must be a whole number of at '
                     'least 1')
  layers.require_rate('head_rate', head_rate)
  if head is None and head_rate != 1:
    raise ValueError(f'head_rate is {head_rate}, but no head has a mask of its '
                     "own; give head='mask', or leave head_rate out")


def coefficients_shape(shape: tuple[int, ...], blocks: int) -> tuple[int, ...]:
  """The shape of the coefficients of a leaf [K, ..., units] of the basis.

  >>> coefficients_shape((20, 784, 300), 1), coefficients_shape((20, 9, 3), 5)
  ((20,), (20, 3))
  """
  return shape[:1] if blocks == 1 else (shape[0], min(blocks, shape[-1]))


def members(basis: Basis, before) -> list[base.Earlier]:
  """The earlier impressions whose masks are a basis, in order.

  Raises:
    ValueError: the basis's phase is not an earlier one, or it leaves too few
      masks.
  """
  if basis.kind == 'random':
    return []
  made = [e for e in before if e.phase == basis.phase]
  phases = ', '.join(dict.fromkeys(e.phase for e in before))
  if not made:
    raise ValueError(f'its basis comes from phase {basis.phase!r}, which must '
                     f'be an earlier one; earlier phases: {phases or "none"}')
  if made[0].streamed:
    raise ValueError(f'its basis cannot come from phase {basis.phase}: how '
                     'many masks a stream leaves is not known before it is '
                     'learned')
  found = ([e for e in made if e.task == made[0].task]
           if basis.kind == 'homogeneous' else
           [e for e in made if e.repeat == 0])
  if len(found) < basis.size:
    raise ValueError(f'a {basis.kind} basis of '
                     f'{trees.counted(basis.size, "mask")}, but phase '
                     f'{basis.phase} trains {len(found)}')
  return found[:basis.size]


def make_basis(basis: Basis, context: base.Context) -> Tree:
  """Bool leaves [K, ...] of a basis, from earlier masks or from the key.

  Raises:
    ValueError: an earlier task left no masks.
  """
  if basis.kind == 'random':
    return random_basis(
        jax.random.fold_in(context.key, zlib.crc32(b'basis')),
        base.masked_part(context.backbone, basis.masked), basis.size,
        basis.density)
  for impression in context.earlier:
    if impression.masks is None:
      raise ValueError(f'its basis comes from phase {basis.phase}, which '
                       'leaves no masks')
  return masks.stack([impression.masks for impression in context.earlier])


def require_basis(shared: dict) -> Tree:
  """The basis in `shared`; raises ValueError if it is missing."""
  if 'basis' not in shared:
    raise ValueError('ImpressLearn needs a basis: give the phase a basis '
                     '(kind and size), or pass shared={"basis": masks.stack('
                     '[...])}')
  return shared['basis']


def split_head(basis: Tree, head: str | tuple[str, ...] | None,
               backbone: Tree) -> tuple[Tree, Tree]:
  """(the leaves to combine, the leaves with a separate mask)."""
  if head is None:
    return basis, jax.tree.map(lambda _: None, basis)
  chosen = (heads.leaves_of(backbone) if head == 'mask' else trees.select(
      basis, [(pattern, True) for pattern in base.as_patterns(head)]))
  own, combined = trees.partition(basis, chosen)
  if not jax.tree.leaves(combined):
    raise ValueError(f'the head pattern {head!r} takes every leaf of the '
                     'basis: nothing is left to combine')
  return combined, own


def one_hot(basis: Tree, index: int) -> Tree:
  """Coefficients that reproduce the basis mask `index` bit for bit.

  >>> import jax.numpy as jnp
  >>> one_hot({'w': jnp.zeros((3, 2, 2), bool)}, 1)
  {'w': Array([0., 1., 0.], dtype=float32)}
  """
  return jax.tree.map(
      lambda m: jnp.zeros(m.shape[0]).at[index].set(1.), basis)


def random_basis(key, like: Tree, size: int, density) -> Tree:
  """`size` random masks with exactly round(density x weights) ones per leaf.

  Args:
    key: typed PRNG key.
    like: the masked leaves of the backbone, `None` elsewhere.
    size: number of masks K.
    density: as in `masks.top_k`.
  """
  draw = lambda k: masks.random(jax.random.fold_in(key, k), like, density)
  return jax.jit(lambda: jax.lax.map(draw, jnp.arange(size)))()
