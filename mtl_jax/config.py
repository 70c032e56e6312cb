"""A run as frozen dataclasses, made from a config's plain dicts.

Unknown keys, methods, models and malformed values are refused here, before
anything is trained or written.
"""

import dataclasses
from typing import Any

from mtl_jax import identify
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import steps as steps_lib
from mtl_jax import trees


@dataclasses.dataclass(frozen=True)
class Suite:
  """Which tasks; see `mtl_jax.data.suites.make`.

  Attributes:
    kind: name of the suite.
    options: its options, as sorted (name, value) pairs.
  """
  kind: str
  options: tuple = ()


@dataclasses.dataclass(frozen=True)
class Backbone:
  """The network and how its immutable weights are drawn.

  Attributes:
    model: name in `mtl_jax.models.MODELS`.
    outputs: logits; at least the classes of every task.
    init: 'signed_constant' (SupSup), or 'default' (the module's own).
    seed: of the weights; `None` takes the run's seed.
    options: further options of the model, as (name, value) pairs.
  """
  model: str
  outputs: int
  init: str = 'signed_constant'
  seed: int | None = None
  options: tuple = ()

  def __post_init__(self):
    if self.init not in ('signed_constant', 'default'):
      raise ValueError(f'unknown backbone init {self.init!r}; known: '
                       "'signed_constant', 'default'")
    if self.outputs < 1:
      raise ValueError(f'outputs is {self.outputs}; it must be at least 1')
    models.make(self.model, self.outputs, **dict(self.options))


@dataclasses.dataclass(frozen=True)
class Basis:
  """The masks that ImpressLearn combines.

  Attributes:
    kind: 'heterogeneous' (one mask of each of `size` tasks), 'homogeneous'
      (masks of one task, trained with different seeds) or 'random'.
    size: number of masks K.
    phase: phase that trained them, its first `size` impressions.
    density: 'random' only: fraction of ones in every leaf.
    masked: 'random' only: patterns of the leaves that the masks cover.
  """
  kind: str
  size: int
  phase: str | None = None
  density: float | None = None
  masked: tuple[str, ...] = ('.*kernel',)

  def __post_init__(self):
    kinds = ('heterogeneous', 'homogeneous', 'random')
    if self.kind not in kinds:
      raise ValueError(f'unknown basis kind {self.kind!r}'
                       f'{trees.nearest(self.kind, kinds)}; known: {kinds}')
    if self.size < 1:
      raise ValueError(f'basis size is {self.size}; it must be at least 1')
    if (self.kind == 'random') != (self.density is not None):
      raise ValueError('a random basis needs a density, and only a random one '
                       f'takes it; got {self.kind} with {self.density}')
    if (self.kind == 'random') != (self.phase is None):
      raise ValueError('a basis of trained masks needs the phase that trains '
                       f'them, and only it; got {self.kind}, {self.phase}')


@dataclasses.dataclass(frozen=True)
class Stream:
  """Tasks in a row without names (SupSup's NNs); see `mtl_jax.stream`.

  Attributes:
    every: batches between two decisions.
    tolerance: a mask is new if k max softmax(-gradient) < 1 + tolerance.
    at_least: so many masks take part in a decision, fresh ones included.
    budget: no more masks than this; 0 for no limit.
    passes: how often the whole row of tasks comes.
    objective: 'entropy' or 'superfluous'.
  """
  every: int = 100
  tolerance: float = 0.125
  at_least: int = 5
  budget: int = 0
  passes: int = 1
  objective: str = 'entropy'

  def __post_init__(self):
    identify.Rule(objective=self.objective)
    if min(self.every, self.passes) < 1 or self.at_least < 2:
      raise ValueError('stream: every and passes must be at least 1 and '
                       f'at_least at least 2; got {self}')
    if self.tolerance <= 0 or self.budget < 0:
      raise ValueError('stream: tolerance must be above 0 and budget not '
                       f'negative; got {self}')


@dataclasses.dataclass(frozen=True)
class Phase:
  """One method on a range of the suite's tasks.

  Attributes:
    name: also the suffix of its entries if it is a control.
    method: name in `mtl_jax.methods.METHODS`.
    tasks: (first, last + 1) of the suite's tasks.
    steps: batches per task; or give `epochs`.
    epochs: passes over a task's training images; 0 takes `steps`.
    repeats: impressions per task, each with a seed of its own.
    control: kept for comparison beside another phase on the same tasks.
    tasks_at_once: tasks trained together in one compiled call.
    basis: ImpressLearn's masks.
    stream: if given, the tasks' names and borders are kept from the learner.
    options: of the method, as (name, value) pairs.
    Others: as in `steps_lib.Recipe`.
  """
  name: str
  method: str
  tasks: tuple[int, int]
  steps: int = 0
  epochs: int = 0
  batch_size: int = 128
  optimizer: str = 'rmsprop'
  learning_rate: float = 1e-4
  schedule: str = 'constant'
  weight_decay: float = 0.
  momentum: float = 0.
  repeats: int = 1
  control: bool = False
  tasks_at_once: int = 1
  basis: Basis | None = None
  stream: Stream | None = None
  options: tuple = ()

  def __post_init__(self):
    if bool(self.steps) == bool(self.epochs):
      raise ValueError(f'phase {self.name}: give either steps or epochs; got '
                       f'steps={self.steps}, epochs={self.epochs}')
    if not (isinstance(self.tasks, tuple) and len(self.tasks) == 2
            and 0 <= self.tasks[0] < self.tasks[1]):
      raise ValueError(f'phase {self.name}: tasks {self.tasks} is not a range '
                       '(first, last + 1)')
    if self.tasks_at_once < 1 or self.repeats < 1:
      raise ValueError(f'phase {self.name}: tasks_at_once and repeats must be '
                       'at least 1')
    if (self.method == 'impresslearn') != (self.basis is not None):
      raise ValueError(f'phase {self.name}: impresslearn, and it alone, needs '
                       'a basis (kind, size, phase)')
    if dict(self.options).get('transfer') and self.tasks_at_once > 1:
      raise ValueError(f'phase {self.name}: transfer starts a task at the mean '
                       'of the earlier ones; it needs tasks_at_once=1')
    if self.stream is not None and (
        self.method != 'supsup' or self.tasks_at_once > 1 or self.repeats > 1
        or dict(self.options).get('transfer')):
      raise ValueError(f'phase {self.name}: a stream is learned by supsup, one '
                       'mask at a time: no tasks_at_once, repeats or transfer')
    steps_lib.make_optimizer(self.recipe(1))
    self.make_method()

  def recipe(self, images: int) -> steps_lib.Recipe:
    """How a task of `images` training images is trained."""
    fields = {f.name: getattr(self, f.name)
              for f in dataclasses.fields(steps_lib.Recipe)}
    fields['steps'] = self.steps or self.epochs * max(
        1, images // self.batch_size)
    return steps_lib.Recipe(**fields)

  def make_method(self) -> methods.Method:
    return methods.make(self.method, **dict(self.options))


@dataclasses.dataclass(frozen=True)
class Scenario:
  """One evaluation without task names.

  Attributes:
    name: of its lines in the results.
    rule, objective, normalise: as in `identify.Rule`.
    images: of each test batch, how many the inference sees.
    batch_size: images per test batch; one inference each.
    batches: of every task, the first so many; 0 takes all.
    at: numbers of tasks; candidates and test data are the first so many
      tasks. Empty takes all.
  """
  name: str
  rule: str = 'one_shot'
  objective: str = 'entropy'
  normalise: bool = False
  images: int = 1
  batch_size: int = 128
  batches: int = 0
  at: tuple[int, ...] = ()

  def __post_init__(self):
    self.make_rule()
    if not 1 <= self.images <= self.batch_size:
      raise ValueError(f'identify.{self.name}: images is {self.images}; it '
                       f'must lie between 1 and batch_size, {self.batch_size}')
    if self.batches < 0 or any(count < 2 for count in self.at):
      raise ValueError(f'identify.{self.name}: batches must not be negative '
                       'and every number of tasks in at must be at least 2')

  def make_rule(self) -> identify.Rule:
    return identify.Rule(self.rule, self.objective, self.normalise)


@dataclasses.dataclass(frozen=True)
class Config:
  """A whole run.

  Attributes:
    seed: of scores, batches and (by default) the backbone.
    suite: the tasks.
    backbone: the network.
    phases: in the order in which they run.
    chunk_steps: steps per compiled call.
    progress_seconds: at most this much training is lost by a kill.
    eval_batch_size: images per evaluation batch.
    matrix: 'full' measures every task again after each one; 'final' measures
      each when it is learned and all at the end.
    identify: evaluations in which the task is inferred.
    tensorboard: write scalars for TensorBoard (extra `tensorboard`).
  """
  seed: int
  suite: Suite
  backbone: Backbone
  phases: tuple[Phase, ...]
  chunk_steps: int = 250
  progress_seconds: float = 30.
  eval_batch_size: int = 1000
  matrix: str = 'final'
  identify: tuple[Scenario, ...] = ()
  tensorboard: bool = False

  def __post_init__(self):
    if not self.phases:
      raise ValueError('the config has no phases: nothing would be learned')
    for name, least in (('seed', 0), ('chunk_steps', 1),
                        ('eval_batch_size', 1)):
      if getattr(self, name) < least:
        raise ValueError(f'{name} is {getattr(self, name)}; it must be at '
                         f'least {least}')
    if self.matrix not in ('full', 'final'):
      raise ValueError(f"matrix is {self.matrix!r}; known: 'full', 'final'")
    seen: list[str] = []
    for phase in self.phases:
      self._check_basis(phase, seen)
      seen.append(phase.name)

  def _check_basis(self, phase, seen):
    if phase.basis is None or phase.basis.phase is None:
      return
    if phase.basis.phase not in seen:
      raise ValueError(
          f'phase {phase.name}: its basis comes from phase '
          f'{phase.basis.phase!r}, which must be an earlier one; earlier '
          f'phases: {", ".join(seen) or "none"}')
    made_by = next(p for p in self.phases if p.name == phase.basis.phase)
    if made_by.stream is not None:
      raise ValueError(f'phase {phase.name}: its basis cannot come from phase '
                       f'{made_by.name}: how many masks a stream leaves is not '
                       'known before it is learned')
    tasks = made_by.tasks[1] - made_by.tasks[0]
    found = made_by.repeats if phase.basis.kind == 'homogeneous' else tasks
    if found < phase.basis.size:
      raise ValueError(
          f'phase {phase.name}: a {phase.basis.kind} basis of '
          f'{phase.basis.size} masks, but phase {made_by.name} trains {found}')


def _frozen(value: Any) -> Any:
  if isinstance(value, dict):
    return tuple(sorted((k, _frozen(v)) for k, v in value.items()))
  if isinstance(value, (list, tuple)):
    return tuple(_frozen(v) for v in value)
  return value


def _build(cls, fields: dict, where: str, collect: bool = False):
  """A dataclass from a dict; unknown keys are errors, or become options."""
  known = {f.name for f in dataclasses.fields(cls)}
  unknown = {k: v for k, v in fields.items() if k not in known}
  given = {k: _frozen(v) if not dataclasses.is_dataclass(v) else v
           for k, v in fields.items() if k in known}
  if unknown and not collect:
    name = sorted(unknown)[0]
    raise ValueError(f'unknown key {where}{name}{trees.nearest(name, known)}; '
                     f'known: {", ".join(sorted(known))}')
  if collect:
    given['options'] = _frozen(unknown | dict(fields.get('options') or {}))
  try:
    return cls(**given)
  except TypeError as error:
    raise ValueError(f'{where.rstrip(".") or "config"}: {error}') from error


def from_dict(fields: dict) -> Config:
  """The run that a config's plain nested dicts describe.

  Args:
    fields: as `configs/*.py` make them. `phases` maps names to phases and
      `schedule` lists the names in the order in which they run. Keys of
      `suite` beyond `kind` go to the suite.

  Raises:
    ValueError: an unknown key (names it, the known ones and the nearest), or
      a value that its field refuses.
  """
  fields = dict(fields)
  for part in ('seed', 'suite', 'backbone', 'phases', 'schedule'):
    if part not in fields:
      raise ValueError(f'the config lacks {part}')
  by_name, schedule = dict(fields['phases']), tuple(fields.pop('schedule'))
  if sorted(by_name) != sorted(schedule):
    raise ValueError(
        f'schedule {schedule} must name every phase once; the phases are: '
        f'{", ".join(sorted(by_name)) or "none"}')
  phases = []
  for name in schedule:
    phase = dict(by_name[name]) | {'name': name}
    if phase.get('basis') is not None:
      phase['basis'] = _build(Basis, dict(phase['basis']),
                              f'phases.{name}.basis.')
    if phase.get('stream') is not None:
      phase['stream'] = _build(Stream, dict(phase['stream']),
                               f'phases.{name}.stream.')
    phases.append(_build(Phase, phase, f'phases.{name}.'))
  fields['suite'] = _build(Suite, dict(fields['suite']), 'suite.', True)
  fields['backbone'] = _build(Backbone, dict(fields['backbone']), 'backbone.')
  fields['phases'] = tuple(phases)
  fields['identify'] = tuple(
      _build(Scenario, dict(value) | {'name': name}, f'identify.{name}.')
      for name, value in sorted(dict(fields.get('identify') or {}).items()))
  return _build(Config, fields, '')


def to_dict(config: Config) -> dict:
  """Plain nested dicts, inverse of `from_dict`; for `config.json`."""
  def plain(value):
    if isinstance(value, tuple):
      return [plain(v) for v in value]
    return value

  def fields(part, skip=('options',)):
    return {f.name: plain(getattr(part, f.name))
            for f in dataclasses.fields(part) if f.name not in skip}

  result = fields(config, skip=('suite', 'backbone', 'phases', 'identify'))
  result['suite'] = {'kind': config.suite.kind} | {
      k: plain(v) for k, v in config.suite.options}
  result['backbone'] = fields(config.backbone) | {
      'options': {k: plain(v) for k, v in config.backbone.options}}
  result['schedule'] = [phase.name for phase in config.phases]
  result['phases'] = {}
  for phase in config.phases:
    entry = fields(phase, skip=('options', 'name', 'basis', 'stream'))
    entry['options'] = {k: plain(v) for k, v in phase.options}
    entry['basis'] = fields(phase.basis) if phase.basis else None
    if phase.stream:
      entry['stream'] = fields(phase.stream)
    result['phases'][phase.name] = entry
  result['identify'] = {scenario.name: fields(scenario, skip=('name',))
                        for scenario in config.identify}
  return result
