"""Children of a generation in one compiled program.

The program trains the largest network that the space allows. All that differs
between children is traced: their trained components, blocks and adapters, the
learning rate, momentum and schedule. So all children of a task share one
executable. A component that a child uses unchanged gets no gradient.

One call is one round: some steps, then a validation. Loss, optimizer and
schedule are the official ones: cross-entropy, gradients clipped at a global
norm of 1, momentum in bfloat16 unless the space sets another dtype.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from mtl_jax import trees
from mtl_jax.evolution import augment
from mtl_jax.evolution import mutations
from mtl_jax.evolution import spaces
from mtl_jax.steps import single

Tree = trees.Tree
SCHEDULES = spaces.SCHEDULES
CLIP = 1.


class Hyper(NamedTuple):
  """A child's optimizer, as scalars; `hyper_of` makes them.

  Attributes:
    learning_rate, momentum: float32.
    nesterov: bool.
    schedule: int32, index in SCHEDULES.
    warmup, cycle: int32, steps of the warm-up and of one cycle.
    start_scale: float32, the first learning rate as a fraction of the peak.
    rounded: bool, whether momentum is computed and stored in bfloat16.
  """
  learning_rate: Any
  momentum: Any
  nesterov: Any
  schedule: Any
  warmup: Any
  cycle: Any
  start_scale: Any
  rounded: Any


class Learner(NamedTuple):
  """The state of a child in training.

  Attributes:
    params, trace: parameters and momentum of the largest network, by component.
    best_params, best_trace: those at the best validation so far.
    best_score: float32, score of that validation; before the first, the score
      to reach (its parent's), or -inf.
    improved: bool, whether any validation reached it.
    factor: float32, factor from quality to score.
    trained, active: bool scalars by component name.
    hyper: see `Hyper`.
    step: int32.
  """
  params: Tree
  trace: Tree
  best_params: Tree
  best_trace: Tree
  best_score: Any
  improved: Any
  factor: Any
  trained: dict
  active: dict
  hyper: Hyper
  step: Any


class Round(NamedTuple):
  """Measurements of a round: float32 scalars, and `taken`, a bool."""
  loss: Any
  quality: Any
  score: Any
  taken: Any


def hyper_of(hyper: Mapping, rounds: int, round_steps: int,
             space: spaces.Space) -> Hyper:
  """The optimizer settings from hyper-parameters.

  Args:
    hyper: hyper-parameters of the child.
    rounds: number of validations of a child.
    round_steps: steps between them; 'restarts' starts anew with each round.
    space: the space of `hyper`.
  """
  cycle = round_steps * (1 if hyper['schedule'] == 'restarts' else rounds)
  return Hyper(np.float32(hyper['learning_rate']),
               np.float32(hyper['momentum']), np.bool_(hyper['nesterov']),
               np.int32(SCHEDULES.index(hyper['schedule'])),
               np.int32(hyper['warmup'] * cycle), np.int32(cycle),
               np.float32(space.start_scale),
               np.bool_(space.accumulator == 'bfloat16'))


def rate(hyper: Hyper, step):
  """The learning rate of a step: float32.

  After a linear warm-up it follows a cosine to 0 at the end of the cycle, or a
  line to the rate before the warm-up; 'constant' is half the learning rate.
  """
  peak = hyper.learning_rate
  step = jnp.where(hyper.schedule == SCHEDULES.index('restarts'),
                   step % hyper.cycle, step)
  at = step.astype(jnp.float32)
  first = peak * hyper.start_scale
  rising = first + (peak - first) * at / jnp.maximum(hyper.warmup, 1)
  left = jnp.maximum(hyper.cycle - hyper.warmup, 1)
  done = jnp.clip((at - hyper.warmup) / left, 0., 1.)
  falling = jnp.where(hyper.schedule == SCHEDULES.index('linear'),
                      peak + (first - peak) * done,
                      peak * (1. + jnp.cos(jnp.pi * done)) / 2.)
  moving = jnp.where(step < hyper.warmup, rising, falling)
  return jnp.where(hyper.schedule == SCHEDULES.index('constant'), peak / 2.,
                   moving)


def update(learner: Learner, gradients: Tree) -> Learner:
  """One step of clipped SGD on the components that the child trains.

  As in Optax's `sgd(..., accumulator_dtype=bfloat16)`, the momentum factor, its
  product with the trace, and the stored trace are rounded; the sum with the
  gradient, Nesterov's second sum and the step are float32.
  """
  gradients = {name: jax.tree.map(
      lambda g, on=learner.trained[name]: jnp.where(on, g, 0.), tree)
               for name, tree in gradients.items()}
  norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradients)))
  gradients = jax.tree.map(
      lambda g: jnp.where(norm < CLIP, g, g / norm * CLIP), gradients)
  hyper, now = learner.hyper, rate(learner.hyper, learner.step)
  rounded = lambda x: jnp.where(hyper.rounded,
                                lax.reduce_precision(x, 8, 7), x)
  factor = rounded(hyper.momentum)
  trace = jax.tree.map(lambda g, t: g + rounded(factor * t), gradients,
                       learner.trace)
  moves = jax.tree.map(
      lambda g, t: jnp.where(hyper.nesterov, g + hyper.momentum * t, t),
      gradients, trace)
  params = {name: jax.tree.map(
      lambda p, m, on=learner.trained[name]: jnp.where(on, p - now * m, p),
      tree, moves[name]) for name, tree in learner.params.items()}
  return learner._replace(params=params, trace=jax.tree.map(rounded, trace),
                          step=learner.step + 1)


def make_round(apply):
  """Makes the program of a round.

  Args:
    apply: `models.Parts.apply`.

  Returns:
    round(route, source, valid, task, learner, index, valid_index, how, key)
    -> (learner, Round). `index` int32 [steps, batch] are rows of `source`, and
    `valid_index` int32 [batches, batch] rows of `valid`. `how` is an
    `augment.Augmentation`, and `key` the generation's key.
  """
  def loss_of(params, active, images, labels):
    logits = apply(params, images, active)
    return optax.softmax_cross_entropy_with_integer_labels(
        logits, labels).mean(), logits

  def round_(route, source, valid, task, learner, index, valid_index, how,
             key):
    def body(learner, rows):
      images, labels = single.make_batch(route, source, task, None, rows, False)
      images = augment.apply(how, jax.random.fold_in(key, learner.step),
                             images)
      (loss, _), gradients = jax.value_and_grad(loss_of, has_aux=True)(
          learner.params, learner.active, images, labels)
      return update(learner, gradients), loss

    def check(_, rows):
      images, labels = single.make_batch(route, valid, task, None, rows, False)
      loss, logits = loss_of(learner.params, learner.active, images, labels)
      right = jnp.argmax(logits, -1) == labels
      return None, (loss, jnp.mean(right, dtype=jnp.float32))

    learner, losses = lax.scan(body, learner, index)
    _, (valid_loss, accuracy) = lax.scan(check, None, valid_index)
    return _select(learner, jnp.mean(losses), jnp.mean(valid_loss),
                   jnp.mean(accuracy))
  return round_


def _select(learner, loss, valid_loss, quality):
  """Keeps the state if its score is at least the best so far."""
  finite = jnp.isfinite(loss) & jnp.isfinite(valid_loss)
  quality = jnp.where(finite, quality, -1.)
  score = jnp.where(finite, quality * learner.factor, -1.)
  taken = finite & (score >= learner.best_score)
  pick = lambda new, old: jax.tree.map(
      lambda a, b: jnp.where(taken, a, b), new, old)
  return learner._replace(
      best_params=pick(learner.params, learner.best_params),
      best_trace=pick(learner.trace, learner.best_trace),
      best_score=jnp.where(taken, score, learner.best_score),
      improved=learner.improved | taken), Round(loss, quality, score, taken)


class Largest(NamedTuple):
  """The largest network: every child's network is a part of it.

  Attributes:
    like: tree of zeros with its shapes (NumPy), by component.
    optional: names of blocks and adapters that a child may lack.
  """
  like: dict
  optional: tuple[str, ...]


def largest(root: mutations.Path, create, classes: int, layers: int,
            adapter: int) -> Largest:
  """The network with all blocks and, if `adapter` > 0, one before each block.

  Args:
    root: a network that has every component except blocks and adapters.
    create: `models.Parts.create`.
    classes: outputs of the head.
    layers: largest number of blocks of any child.
    adapter: width of the widest adapter of any child; 0 if there is none.
  """
  names = mutations.needed(root, layers, range(layers) if adapter else ())
  like, optional = {}, []
  for name in names:
    if name in root.components and name != 'head':
      tree = root.components[name].tree
    else:
      tree = jax.eval_shape(lambda key, name=name: create(
          name, classes, adapter, key), jax.random.key(0))
    like[name] = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), tree)
    if name.startswith(('encoderblock_', 'residual_adapter_')):
      optional.append(name)
  return Largest(like, tuple(optional))


def learner_of(made: mutations.Child, network: Largest, new: Mapping,
               hyper: Hyper, start: float, factor: float) -> Learner:
  """A child before its first step, as NumPy arrays.

  Args:
    made: the child.
    network: see `largest`.
    new: sub-trees of new components, by name.
    hyper: settings of its optimizer.
    start: the score that it must reach; -inf for none.
    factor: factor from quality to score.
  """
  parts = made.shared | made.cloned
  lost = sorted({*made.shared, *made.cloned, *new} - set(network.like))
  if lost:
    raise RuntimeError(f'a child of {made.parent.name} has {lost[0]}, for '
                       'which its program has no place')
  params, trace = {}, {}
  for name, like in network.like.items():
    tree = new[name] if name in new else (
        parts[name].tree if name in parts else like)
    params[name] = _padded(tree, like)
    old = made.cloned[name].trace if name in made.cloned else None
    trace[name] = like if old is None else _padded(old, like)
  own = set(made.trained)
  there = own | set(parts)
  return Learner(
      params, trace, params, trace, np.float32(start), np.bool_(False),
      np.float32(factor), {name: np.bool_(name in own) for name in params},
      {name: np.bool_(name in there) for name in network.optional}, hyper,
      np.int32(0))


def _padded(tree, like):
  """An adapter padded with zeros to the widest; other trees unchanged."""
  def leaf(x, wanted):
    x = np.asarray(x)
    if x.shape == wanted.shape:
      return x
    return np.pad(x, [(0, b - a) for a, b in zip(x.shape, wanted.shape)])
  return jax.tree.map(leaf, tree, like)


def cut(tree, like):
  """Removes the padding: the first entries of each axis, as NumPy."""
  return jax.tree.map(lambda x, wanted: np.array(
      np.asarray(x)[tuple(slice(size) for size in np.shape(wanted))]),
                      tree, like)


def trained_parts(made: mutations.Child, learner: Learner, new: Mapping):
  """The components that a child has trained, without padding.

  Args:
    made: the child.
    learner: its state after the last round, on the host.
    new: as for `learner_of`.

  Returns:
    ({name: leaves}, {name: momentum}) at the best validation.
  """
  params, traces = {}, {}
  for name in made.trained:
    like = new[name] if name in new else made.cloned[name].tree
    params[name] = cut(learner.best_params[name], like)
    traces[name] = cut(learner.best_trace[name], like)
  return params, traces
