"""A phase of a run: one method on a range of tasks, and how it is trained."""

import dataclasses
import re
import sys
from typing import Any

from mtl_jax import fields
from mtl_jax import methods
from mtl_jax.config import parts
from mtl_jax.methods import base
from mtl_jax.methods import watch
from mtl_jax.steps import optimizers

LONGEST = 60  # bytes of a name; file names contain a task's name and this one
AUTO = 'auto'
MOST_REPEATS = 100_000  # a plan lists all impressions in memory
Driver = parts.Joint | parts.Rounds | parts.Stream | parts.Search


@dataclasses.dataclass(frozen=True)
class Phase:
  """One method on a range of the suite's tasks.

  Attributes:
    name: also the suffix of its entries if it is a baseline.
    method: name in `mtl_jax.methods.METHODS`.
    tasks: (first, last + 1) of the suite's tasks.
    training: steps and optimizer.
    options: options of the method, as its options dataclass.
    driver: how its tasks are trained if not one by one: together in one state
      (`Joint`, `Rounds`), as a stream without names and boundaries (`Stream`),
      or by an evolutionary search (`Search`).
    repeats: number of impressions per task, each with its own seed.
    control: a baseline, for comparison with another phase on the same tasks.
    tasks_at_once: number of tasks trained in one compiled call; 'auto'
      takes as many as the devices have memory for, a power of two, and
      config.json then records the number.
    pool: one impression for all the phase's tasks, trained on their pooled
      images; at test no task need be named.
    loss: for classification: 'softmax' over all outputs of the network, or
      'classes' over the task's own outputs only.
    early_stop: ends a task's training, or that of tasks together='joint';
      `epochs` is then the largest number.
    validate_every: steps between two measurements on the validation images
      during training, for the validation curve, which also has the first and
      the last step; 0 measures only at the end. It does not change what is
      learned.
  """
  name: str
  method: str
  tasks: tuple[int, int]
  training: parts.Training
  options: Any
  driver: Driver | None = None
  repeats: int = 1
  control: bool = False
  tasks_at_once: int | str = 1
  pool: bool = False
  loss: str = 'softmax'
  early_stop: watch.EarlyStop | None = None
  validate_every: int = 0

  def __post_init__(self):
    if not re.fullmatch(r'\w[\w.-]*', self.name) or (
        len(self.name.encode()) > LONGEST):
      raise ValueError(
          f'phase {self.name!r}: a name has letters, digits, _, . and -, at '
          f'most {LONGEST} bytes, as it becomes a part of file names')
    try:
      self._check()
      _check_ability(self)
    except ValueError as error:
      raise ValueError(f'phase {self.name}: {error}') from error

  def _check(self):
    if not (isinstance(self.tasks, tuple) and len(self.tasks) == 2
            and all(isinstance(n, int) and not isinstance(n, bool)
                    for n in self.tasks)
            and 0 <= self.tasks[0] < self.tasks[1]):
      raise ValueError(f'tasks {self.tasks} is not a range (first, last + 1)')
    if self.loss not in ('softmax', 'classes'):
      raise ValueError(f"loss is {self.loss!r}; known: ('softmax', 'classes')")
    if isinstance(self.tasks_at_once, str) and self.tasks_at_once != AUTO:
      raise ValueError(f'tasks_at_once is {self.tasks_at_once!r}; give a '
                       f'number, or {AUTO!r}')
    if self.most_at_once < 1 or not 1 <= self.repeats <= MOST_REPEATS:
      raise ValueError(
          'tasks_at_once and repeats must be at least 1, and repeats at most '
          f'{MOST_REPEATS:,}; got {self.tasks_at_once} and {self.repeats}')
    if self.validate_every < 0:
      raise ValueError(f'validate_every is {self.validate_every}; it must be '
                       'at least 0')
    if self.search is not None:
      _check_search(self)
      return
    if self.stream is not None and self.validate_every:
      raise ValueError('a stream does not know whose validation images are '
                       'meant; leave out validate_every')
    if self.training.epochs < 0 or self.training.batch_size < 1:
      name = 'epochs' if self.training.epochs < 0 else 'batch_size'
      raise ValueError(f'{name} is {getattr(self.training, name)}; it must be '
                       'above 0')
    if bool(self.training.steps) == bool(self.training.epochs):
      raise ValueError('give either steps or epochs; got '
                       f'steps={self.training.steps}, '
                       f'epochs={self.training.epochs}')
    if self.early_stop is not None and (
        not self.training.epochs or self.most_at_once > 1
        or self.stream is not None or self.rounds is not None):
      raise ValueError('early_stop counts epochs of one state: give epochs, '
                       'and no tasks_at_once, stream or rounds')
    if self.pool and (self.stream is not None or self.most_at_once > 1):
      raise ValueError('a pool leaves one impression; it takes neither stream '
                       'nor tasks_at_once')
    if self.together and (self.pool or self.most_at_once > 1):
      raise ValueError('tasks that are trained together take neither pool, '
                       'stream nor tasks_at_once')
    optimizers.make_optimizer(self.training.recipe(1))
    optimizers.require_used(self.training.recipe(1))

  @property
  def most_at_once(self) -> int:
    """The largest number of tasks in one call; for 'auto', any number."""
    return (sys.maxsize if isinstance(self.tasks_at_once, str)
            else self.tasks_at_once)

  @property
  def together(self) -> str | None:
    """'joint' or 'rounds' if the tasks share one state, else `None`."""
    if isinstance(self.driver, parts.Joint):
      return 'joint'
    return 'rounds' if isinstance(self.driver, parts.Rounds) else None

  @property
  def rounds(self) -> parts.Rounds | None:
    """How the tasks take turns, if they do; else `None`."""
    return self.driver if isinstance(self.driver, parts.Rounds) else None

  @property
  def stream(self) -> parts.Stream | None:
    """How the stream is learned, if the phase is one; else `None`."""
    return self.driver if isinstance(self.driver, parts.Stream) else None

  @property
  def search(self) -> parts.Search | None:
    """How paths are searched for, if they are; else `None`."""
    return self.driver if isinstance(self.driver, parts.Search) else None

  @property
  def named(self) -> 'Phase':
    """The phase with names and boundaries of tasks that a stream hides."""
    return self if self.stream is None else dataclasses.replace(
        self, driver=None)

  def round_steps(self, images: int) -> int:
    """Steps between two validations of a search's children."""
    assert self.search is not None
    return self.training.steps or -(-min(images, self.search.train_cap)
                                    // self.training.batch_size)

  def recipe(self, images: int) -> optimizers.Recipe:
    """The training recipe of a task with `images` training images.

    For a search, the steps are those of all children of one task iteration.
    """
    if self.search is None:
      return self.training.recipe(images)
    steps = (self.search.generations * self.search.children
             * self.search.validations * self.round_steps(images))
    return dataclasses.replace(self.training, steps=steps, epochs=0,
                               optimizer='sgd').recipe(images)

  @property
  def order_name(self) -> str:
    """The seed name of the order of batches; equal if tasks are the same."""
    return f'rounds/{self.tasks}'

  def flag(self, field: str) -> str:
    """How the command line gives a field of this phase, for messages."""
    return f'--config.phases.{self.name}.{field}'

  def slower(self) -> str:
    """The remedy for too large steps; a workdir keeps those that were made."""
    return (f'lower the learning rate ({self.flag("learning_rate")}), in '
            'another workdir')

  def make_method(self) -> methods.Method:
    """The method with the phase's options; equal options share one object."""
    return methods.of_options(self.method, self.options)

  def as_training(self) -> methods.Training:
    """The phase as the method's `check` sees it."""
    return methods.Training(
        self.name, self.together, self.most_at_once, self.repeats, self.pool,
        self.stream is not None, self.search is not None,
        self.early_stop is not None, self.loss, self.training.weight_decay,
        self.training.epochs)


def _check_ability(phase: Phase) -> None:
  """Refuses a driver with which the method can't be trained."""
  method = phase.make_method()
  able = method.abilities
  if (able.searched is None) != (phase.search is None):
    raise ValueError(
        f'{phase.method} needs a search (space, generations, children, ...)'
        if able.searched else f'{phase.method} is not found by a search; leave '
        'out search')
  if able.watch is not None and not phase.training.epochs:
    raise ValueError(f'the method {phase.method} looks at the validation '
                     'images after every epoch; give epochs, not steps')
  if able.watch is not None and (phase.most_at_once > 1 or phase.rounds
                                 or phase.stream):
    raise ValueError(f'the method {phase.method} looks at one state after '
                     'every epoch; leave out tasks_at_once, rounds and stream')
  if phase.stream is not None and (
      not able.streams or phase.most_at_once > 1 or phase.repeats > 1):
    raise ValueError('a stream is learned one mask at a time, by a method that '
                     'leaves masks and nothing between tasks (supsup without '
                     'transfer): no tasks_at_once or repeats')
  if phase.together == 'joint' and not (able.members or able.banks):
    raise ValueError(f'{phase.method} does not support members, so tasks '
                     'trained together would all get the same network; leave '
                     'out together, or take the method joint')
  if phase.rounds is not None and able.banks is None:
    raise ValueError(f'the method {phase.method} cannot train in rounds; part '
                     'can')
  if phase.rounds is not None and able.rates is not None:
    raise ValueError(f'the method {phase.method} asks for learning rates of '
                     'its own, which rounds do not keep')
  if phase.rounds is not None and method.penalty is not base.no_penalty:
    raise ValueError(f'the method {phase.method} has a penalty, which rounds '
                     'do not add to the loss; leave out rounds')
  if phase.rounds is not None and phase.loss != 'classes':
    raise ValueError("rounds train with the loss of a task's own outputs; give "
                     "loss='classes'")


def _check_search(phase: Phase) -> None:
  """Refuses options that a search sets itself."""
  assert phase.search is not None
  if bool(phase.search.control) != phase.control:
    raise ValueError('a search with a control is a phase with control=True, '
                     'and the other way round')
  plain = parts.Training()
  taken = [name for name in ('epochs', 'optimizer', 'learning_rate', 'schedule',
                             'weight_decay', 'momentum', 'milestones')
           if getattr(phase.training, name) != getattr(plain, name)]
  taken += [f.name for f in dataclasses.fields(phase)
            if f.name in ('repeats', 'tasks_at_once', 'pool', 'loss',
                          'early_stop', 'validate_every')
            and getattr(phase, f.name) != f.default]
  if taken:
    raise ValueError(f'a search takes no {taken[0]}; the search space has the '
                     'optimizer, and generations and children say how long it '
                     'goes on')
  for name, least in (('batch_size', 1), ('steps', 0)):
    if getattr(phase.training, name) < least:
      raise ValueError(f'{name} is {getattr(phase.training, name)}; it must be '
                       f'at least {least}')
  if phase.training.steps and fields.changed(phase.search, 'train_cap'):
    raise ValueError(f'search: train_cap is {phase.search.train_cap}, and '
                     f'steps, {phase.training.steps}, takes its place; leave '
                     'one of them out')
