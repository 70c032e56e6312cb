"""BatchEnsemble: one weight tree, and two vectors per layer and task.

Wen et al. 2020, https://arxiv.org/abs/2002.06715, section 4.1 (lifelong
learning), as in SupSup's baselines: the phase's first task trains the weights W
and its own vectors; every later task trains only its vectors. Task i's kernel
is W * (r_i s_i^T), with r over input units and s over output units (channels,
in a convolution).

The first task's impression holds W, so all later tasks rely on it.
"""

import dataclasses
import functools

from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.methods import base
from mtl_jax.methods import heads
from mtl_jax.methods import layers as layers_lib

Tree = trees.Tree


def batche(layers: tuple[str, ...] = ('.*kernel',), slow: str = 'first',
           vector_rate: float = 1.) -> base.Method:
  """Trains vectors over a weight tree that all tasks share.

  Args:
    layers, slow, vector_rate: as in `Options`.

  Returns:
    A method with `shared` = {'slow': weights [..., in, out] of the layers} once
    the first task is done; {} for the first task and with slow='frozen'.

  Raises:
    ValueError: `slow` is unknown, or the rate is out of its range.
  """
  if slow not in ('first', 'frozen'):
    raise ValueError(f"slow is {slow!r}; known: ('first', 'frozen')")
  layers_lib.require_rate('vector_rate', vector_rate)

  def init(key, backbone, shared, route):
    del route
    chosen = layers_lib.matrices(backbone, layers)
    trainable = {'vectors': draw(key, chosen)}
    if slow == 'first' and 'slow' not in shared:
      trainable['slow'] = chosen
    return trainable

  def bind(backbone, trainable, shared, route):
    del route
    return effective(backbone, trainable.get('slow', shared.get('slow')),
                     trainable['vectors'])

  def commit(backbone, trainable, shared, route):
    del backbone, route
    return impressions.Impression(
        values=trainable.get('slow'),
        parts={'vectors': trainable['vectors']}), shared

  def materialise(backbone, impression, shared):
    weights = (shared.get('slow') if impression.values is None
               else impression.values)
    return effective(backbone, weights, impression.parts['vectors'])

  def prepare(context):
    if slow == 'frozen' or not context.earlier:
      return {}
    return {'slow': layers_lib.matrices(context.earlier[0].values, layers)}

  def relies_on(before, phase):
    return () if slow == 'frozen' else [
        e for e in base.same_phase(before, phase)
        if e.options.slow == 'first'][:1]

  return base.Method(
      init, bind, commit, materialise, prepare, relies_on,
      check=functools.partial(_check, layers, slow),
      abilities=base.Abilities(
          needs_earlier=slow == 'first',
          rates=layers_lib.rates_of_parts({'vectors': vector_rate})))


def _check(layers, slow, training, backbone, before, own) -> None:
  """Refuses layers without matrices, and what the first task can't do."""
  del before, own
  layers_lib.matrices(backbone, layers)
  heads.require_body(backbone, layers)
  if slow == 'first' and (training.tasks_at_once > 1 or training.repeats > 1):
    raise ValueError('the first task trains the weights of all others; it '
                     'takes neither tasks_at_once nor repeats (or give '
                     "options.slow='frozen')")


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of the method in a config.

  Attributes:
    layers: patterns of the leaves with vectors, of two dimensions or more.
    slow: 'first' (the phase's first task trains the weights under the vectors,
      from the backbone's) or 'frozen' (they stay the backbone's).
    vector_rate: learning rate of the vectors, as a multiple of the weights'.
  """
  layers: tuple[str, ...] = ('.*kernel',)
  slow: str = 'first'
  vector_rate: float = 1.

  def __post_init__(self):
    base.set_patterns(self, 'layers')
    make(self)


def make(options: Options) -> base.Method:
  """The method of a config's options."""
  return batche(options.layers, options.slow, options.vector_rate)


def draw(key, chosen: Tree) -> dict[str, Tree]:
  """Random signs as initial vectors, as in the paper: {leaf: {'in', 'out'}}."""
  return {name: {'in': layers_lib.signs(key, f'{name}/in', leaf.shape[-2]),
                 'out': layers_lib.signs(key, f'{name}/out', leaf.shape[-1])}
          for name, leaf in layers_lib.named(chosen).items()}


def effective(backbone: Tree, slow: Tree | None,
              vectors: dict[str, Tree]) -> Tree:
  """W * (r s^T) of every leaf that has vectors.

  Args:
    backbone: parameter tree.
    slow: weights that replace the backbone's; `None` uses the backbone's.
    vectors: {leaf: {'in': float [in], 'out': float [out]}}.
  """
  weights = backbone if slow is None else trees.combine(slow, backbone)
  return layers_lib.change(lambda w, v: layers_lib.times(
      w, v['in'][:, None] * v['out'][None, :]), weights, vectors)
