"""Parameter superposition: one weight tree, and random signs for each task.

Cheung et al. 2019, https://arxiv.org/abs/1902.05522, the binary superposition:
task i sees its inputs through random signs c_i, unit by unit and layer by
layer, so that its kernel is diag(c_i) W. Every task trains the same W further,
so earlier tasks get worse as later ones change it. (SupSup's baseline
rotates the inputs instead: a matrix per layer and task.)

A stored impression never changes, so it holds W as it was after its task.
`Abilities.carries` computes what one network for all tasks would have become.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.methods import base
from mtl_jax.methods import heads
from mtl_jax.methods import layers as layers_lib

Tree = trees.Tree


def psp(layers: tuple[str, ...] = ('.*kernel',)) -> base.Method:
  """Trains all weights; each task multiplies inputs by its own signs.

  Args:
    layers: patterns of the leaves whose inputs get signs, of two dimensions or
      more; other leaves are trained without signs.

  Returns:
    A method with `shared` = {'signs': {leaf: float [in]} of the task, 'tasks':
    number of tasks before it, and from the second task on 'common': the
    weights that the last task left}.
  """
  def init(key, backbone, shared, route):
    del key, route
    layers_lib.matrices(backbone, layers)
    return shared.get('common', backbone)

  def bind(backbone, weights, shared, route):
    del backbone, route
    return behind(weights, shared['signs'])

  def commit(backbone, weights, shared, route):
    del backbone, route
    packed = {name: jnp.packbits(signs > 0)
              for name, signs in shared['signs'].items()}
    return impressions.Impression(
        values=weights, parts={'signs': packed}), shared | {
            'common': weights, 'tasks': shared['tasks'] + 1}

  def materialise(backbone, impression, shared):
    del shared
    chosen = layers_lib.named(layers_lib.matrices(backbone, layers))
    return behind(impression.values, {
        name: jnp.where(jnp.unpackbits(bits, count=chosen[name].shape[-2]), 1.,
                        -1.).astype(jnp.float32)
        for name, bits in impression.parts['signs'].items()})

  def prepare(context):
    if context.group is None:
      return {}
    tasks = jnp.int32(context.group.kept.get('tasks', 0))
    key = jax.random.fold_in(context.key, tasks)
    chosen = layers_lib.named(layers_lib.matrices(context.backbone, layers))
    return context.group.kept | {'tasks': tasks, 'signs': {
        name: layers_lib.signs(key, f'psp/{name}', leaf.shape[-2])
        for name, leaf in chosen.items()}}

  def check(training, backbone, before, own):
    del before, own
    layers_lib.matrices(backbone, layers)
    heads.require_body(backbone, layers)
    if training.tasks_at_once > 1 or training.repeats > 1:
      raise ValueError('the weights go from task to task; psp takes neither '
                       'tasks_at_once nor repeats')

  return base.Method(init, bind, commit, materialise, prepare, check=check,
                     abilities=base.Abilities(carries=on_later))


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of the method in a config; `psp` explains them."""
  layers: tuple[str, ...] = ('.*kernel',)

  def __post_init__(self):
    base.set_patterns(self, 'layers')


def make(options: Options) -> base.Method:
  """The method of a config's options."""
  return psp(options.layers)


def behind(weights: Tree, signs: dict[str, Tree]) -> Tree:
  """diag(c) W of every leaf [..., in, out] that has signs float [in]."""
  return layers_lib.change(
      lambda w, c: layers_lib.times(w, c[:, None]), weights, signs)


def on_later(impression, later) -> impressions.Impression:
  """A task's own signs with the weights that a later task left."""
  return impression._replace(values=later.values)
