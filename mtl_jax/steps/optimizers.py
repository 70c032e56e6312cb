"""The training recipe of a phase: steps, learning rate and optimizer."""

import collections
import dataclasses
import functools

import jax
import optax

from mtl_jax import trees


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How one phase trains.

  Attributes:
    steps: batches per task.
    batch_size: images per batch, over all devices together.
    optimizer: 'rmsprop' (PyTorch's defaults: decay 0.99, eps 1e-8 outside
      the root), 'adam' (PyTorch's defaults: 0.9, 0.999, eps 1e-8 outside the
      root; Keras has 1e-7, added before the bias correction) or 'sgd'.
    learning_rate: initial learning rate.
    schedule: 'constant', 'cosine' (to 0 over `steps`, updated in every step;
      SupSup's and ImpressLearn's codes update it once an epoch), or 'halved'
      (at each of the `milestones`).
    weight_decay: L2 term added to the gradient, as in PyTorch's Adam.
    momentum: 'sgd' only.
    milestones: 'halved' only: fractions of `steps`, each rounded to a whole
      step. One that is rounded to all steps has no effect.
  """
  steps: int
  batch_size: int = 128
  optimizer: str = 'rmsprop'
  learning_rate: float = 1e-4
  schedule: str = 'constant'
  weight_decay: float = 0.
  momentum: float = 0.
  milestones: tuple[float, ...] = ()

  def __post_init__(self):
    for name in ('steps', 'batch_size', 'learning_rate'):
      if not 0 < getattr(self, name) < float('inf'):
        raise ValueError(f'{name} is {getattr(self, name)}; it must be '
                         'above 0, and finite')
    if not 0 <= self.weight_decay < float('inf'):
      raise ValueError(f'weight_decay is {self.weight_decay}; it must not be '
                       'negative, and finite')
    if not 0 <= self.momentum < 1:
      raise ValueError(f'momentum is {self.momentum}; it must lie in [0, 1)')
    if not 1e-37 < self.learning_rate < 1e38:
      raise ValueError(f'learning_rate is {self.learning_rate}, which float32 '
                       'takes for 0 or infinity; give one between 1e-37 and '
                       '1e38')
    if not all(0 < m < 1 for m in self.milestones):
      raise ValueError(f'milestones is {self.milestones!r}; each is a fraction '
                       'of the steps, between 0 and 1')


def require_used(recipe: Recipe) -> None:
  """Refuses settings that another one leaves without effect."""
  if recipe.momentum and recipe.optimizer in ('adam', 'rmsprop'):
    raise ValueError(f'momentum is {recipe.momentum}, and optimizer '
                     f"'{recipe.optimizer}' takes none; leave it out, or set "
                     "optimizer='sgd'")
  if bool(recipe.milestones) != (recipe.schedule == 'halved'):
    raise ValueError(f'milestones is {recipe.milestones!r} with schedule '
                     f"{recipe.schedule!r}; 'halved', and it alone, takes the "
                     'fractions of the steps at which the rate is halved')


def make_schedule(recipe: Recipe):
  """The learning rate as a function of the step.

  Raises:
    ValueError: the schedule is unknown; lists the known ones.
  """
  schedules = {
      'constant': lambda: optax.constant_schedule(recipe.learning_rate),
      'cosine': lambda: optax.cosine_decay_schedule(recipe.learning_rate,
                                                    recipe.steps),
      'halved': lambda: optax.piecewise_constant_schedule(
          recipe.learning_rate, {step: .5 ** count for step, count in
                                 collections.Counter(
                                     round(m * recipe.steps)
                                     for m in recipe.milestones).items()}),
  }
  return _choose('schedule', schedules, recipe.schedule)()


def make_optimizer(recipe: Recipe) -> optax.GradientTransformation:
  """The optimizer of a recipe.

  Raises:
    ValueError: the optimizer or schedule is unknown; lists the known ones.
  """
  optimizers = {
      'adam': lambda rate: optax.adam(rate),
      'rmsprop': lambda rate: optax.rmsprop(rate, decay=0.99, eps=1e-8,
                                            eps_in_sqrt=False),
      'sgd': lambda rate: optax.sgd(rate, momentum=recipe.momentum or None),
  }
  rate = make_schedule(recipe)
  if recipe.schedule == 'constant':
    rate = recipe.learning_rate  # a constant needs no step counter
  update = _choose('optimizer', optimizers, recipe.optimizer)(rate)
  if not recipe.weight_decay:
    return _promoting(update)
  return _promoting(optax.chain(
      optax.add_decayed_weights(recipe.weight_decay), update))


def _promoting(update: optax.GradientTransformation
               ) -> optax.GradientTransformation:
  """Allows type promotion in an optimizer: optax's Adam mixes float and int."""
  def standard(function):
    @functools.wraps(function)
    def call(*args, **options):
      with jax.numpy_dtype_promotion('standard'):
        return function(*args, **options)
    return call
  return optax.GradientTransformationExtraArgs(*map(
      standard, optax.with_extra_args_support(update)))


def optimizer_of(method, recipe: Recipe) -> optax.GradientTransformation:
  """The optimizer of a recipe, with the method's factors of learning rates."""
  update, rates = make_optimizer(recipe), method.abilities.rates
  if rates is None:
    return update
  return optax.chain(update, optax.stateless(lambda updates, _: jax.tree.map(
      lambda leaf, factor: factor * leaf, updates, rates(updates))))


def _choose(what: str, table: dict, name: str):
  if name not in table:
    raise ValueError(f'unknown {what} {name!r}{trees.nearest(name, table)}; '
                     f'known: {", ".join(sorted(table))}')
  return table[name]
