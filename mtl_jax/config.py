"""A run as frozen dataclasses, made from a config's plain dicts.

Unknown keys, methods, models and malformed values are refused here, before
anything is trained or written.
"""

import dataclasses
from typing import Any

from mtl_jax import config_parts
from mtl_jax import methods
from mtl_jax import steps as steps_lib
from mtl_jax import trees


@dataclasses.dataclass(frozen=True)
class Phase:
  """One method on a range of the suite's tasks.

  Attributes:
    name: also the suffix of its entries if it is a control.
    method: name in `mtl_jax.methods.METHODS`.
    tasks: (first, last + 1) of the suite's tasks.
    steps: batches per task; or give `epochs`.
    epochs: passes over a task's training images; 0 takes `steps`. Of tasks
      trained together the first one's count for all, and tasks with other
      numbers of images are refused (`steps_lib.check_epochs`).
    repeats: impressions per task, each with a seed of its own.
    control: kept for comparison beside another phase on the same tasks.
    tasks_at_once: tasks trained together in one compiled call.
    basis: ImpressLearn's masks.
    pool: one impression for all the phase's tasks together, trained on their
      pooled images; at test no task need be named.
    together: 'joint' trains all the phase's tasks in one state: a step takes
      a batch of each and sums their losses. In 'rounds' they take turns.
      `None` trains them apart.
    rounds: of together='rounds'.
    after: an earlier phase whose tasks' modules, and those of the phases that
      it came after itself, are reused, and frozen.
    loss: of classifications: 'softmax' over all outputs of the network, or
      'classes' over the task's own alone.
    allocation: which weights each task owns; of the method `subnetworks`.
    early_stop: ends a task's training; `epochs` are then the most it gets.
    sparsify: prunes a subnetwork during training; needs `early_stop`.
    stream: if given, the tasks' names and borders are kept from the learner.
    search: if given (munet, and it alone), evolution finds each task's path;
      `steps` are then those between two validations, and the search space
      has what else the optimizer needs.
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
  milestones: tuple[float, ...] = ()
  repeats: int = 1
  control: bool = False
  tasks_at_once: int = 1
  basis: config_parts.Basis | None = None
  stream: config_parts.Stream | None = None
  search: config_parts.Search | None = None
  pool: bool = False
  together: str | None = None
  rounds: config_parts.Rounds | None = None
  after: str | None = None
  loss: str = 'softmax'
  allocation: config_parts.Allocation | None = None
  early_stop: config_parts.EarlyStop | None = None
  sparsify: config_parts.Sparsify | None = None
  options: tuple = ()

  def __post_init__(self):
    self._check_search()
    if self.search is None and bool(self.steps) == bool(self.epochs):
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
    if (self.method == 'subnetworks') != (self.allocation is not None):
      raise ValueError(f'phase {self.name}: subnetworks, and they alone, need '
                       'an allocation (density, ...)')
    if self.early_stop is not None and (
        not self.epochs or self.tasks_at_once > 1 or self.stream is not None
        or self.rounds is not None):
      raise ValueError(f'phase {self.name}: early_stop counts epochs of one '
                       'state: give epochs, and no tasks_at_once, stream or '
                       'rounds')
    if self.sparsify is not None and (
        self.method != 'subnetworks' or self.early_stop is None
        or self.together or self.allocation is None
        or self.sparsify.start != self.allocation.density):
      raise ValueError(f'phase {self.name}: sparsify prunes one subnetwork at '
                       'a time, from the density of its allocation; it needs '
                       'early_stop')
    if dict(self.options).get('carry') and (
        self.together or self.tasks_at_once > 1):
      raise ValueError(f'phase {self.name}: carry goes from task to task; it '
                       'takes neither together nor tasks_at_once')
    if dict(self.options).get('transfer') and self.tasks_at_once > 1:
      raise ValueError(f'phase {self.name}: transfer starts a task at the mean '
                       'of the earlier ones; it needs tasks_at_once=1')
    if self.pool and (self.stream is not None or self.tasks_at_once > 1):
      raise ValueError(f'phase {self.name}: a pool leaves one impression; it '
                       'takes neither stream nor tasks_at_once')
    for name, known in (('together', (None, 'joint', 'rounds')),
                        ('loss', ('softmax', 'classes'))):
      if getattr(self, name) not in known:
        raise ValueError(f'phase {self.name}: {name} is '
                         f'{getattr(self, name)!r}; known: {known}')
    if self.together and (self.pool or self.stream is not None
                          or self.tasks_at_once > 1):
      raise ValueError(f'phase {self.name}: tasks that are trained together '
                       'take neither pool, stream nor tasks_at_once')
    if self.stream is not None and (
        self.method != 'supsup' or self.tasks_at_once > 1 or self.repeats > 1
        or dict(self.options).get('transfer')):
      raise ValueError(f'phase {self.name}: a stream is learned by supsup, one '
                       'mask at a time: no tasks_at_once, repeats or transfer')
    steps_lib.make_optimizer(self.recipe(1))
    method = self.make_method()
    if (self.together == 'rounds') != (self.rounds is not None):
      raise ValueError(f"phase {self.name}: together='rounds', and it alone, "
                       'needs rounds (set_batches, order, moments)')
    if self.after is not None and method.rebuild is None:
      raise ValueError(f'phase {self.name}: the method {self.method} reuses '
                       'nothing of an earlier phase; leave out after')
    if self.rounds is not None and method.banks is None:
      raise ValueError(f'phase {self.name}: the method {self.method} cannot '
                       'train in rounds; part can')
    if method.banks is not None and (self.weight_decay or self.together is None
                                     or self.loss != 'classes'):
      raise ValueError(f"phase {self.name}: {self.method} needs together="
                       "'rounds' or 'joint', loss='classes' and no weight "
                       'decay, which would change modules off the path')
    if method.banks is not None and self.together == 'joint' and (
        method.banks.shared_stats):
      raise ValueError(f"phase {self.name}: norm='shared' depends on the order "
                       "of the tasks; it needs together='rounds'")

  def _check_search(self):
    if (self.method == 'munet') != (self.search is not None):
      raise ValueError(f'phase {self.name}: munet, and it alone, needs a '
                       'search (space, generations, children, ...)')
    if self.search is None:
      return
    if bool(self.search.control) != self.control:
      raise ValueError(f'phase {self.name}: a search with a control is a phase '
                       'with control=True, and the other way round')
    taken = [name for name in (
        'epochs', 'optimizer', 'learning_rate', 'schedule', 'weight_decay',
        'momentum', 'repeats', 'tasks_at_once', 'basis', 'stream', 'pool',
        'together', 'rounds', 'after', 'loss', 'options')
             if getattr(self, name) != _DEFAULTS[name]]
    if taken:
      raise ValueError(f'phase {self.name}: a search takes no {taken[0]}; the '
                       'search space has the optimizer, and generations and '
                       'children say how long it goes on')

  def round_steps(self, images: int) -> int:
    """Steps between two validations of a search's children."""
    assert self.search is not None
    return self.steps or -(-min(images, self.search.train_cap)
                           // self.batch_size)

  def recipe(self, images: int) -> steps_lib.Recipe:
    """How a task of `images` training images is trained.

    Of a search: the steps of all children of one task iteration.
    """
    fields = {f.name: getattr(self, f.name)
              for f in dataclasses.fields(steps_lib.Recipe)}
    if self.search is not None:
      found = self.search
      fields |= {'optimizer': 'sgd', 'steps': (
          found.generations * found.children * found.validations
          * self.round_steps(images))}
      return steps_lib.Recipe(**fields)
    fields['steps'] = self.steps or self.epochs * max(
        1, images // self.batch_size)
    return steps_lib.Recipe(**fields)

  @property
  def order_name(self) -> str:
    """What names the order of batches: equal in phases on the same tasks."""
    return f'rounds/{self.tasks}'

  def make_method(self) -> methods.Method:
    return methods.make(self.method, **dict(self.options))


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
    mixed_rows: rows of one batch of all tasks, predicted in one call at the
      end and compared with calls task by task; 0 for none.
    transparency: images of each task on which `laid_open` compares what tasks
      on shared segments have in common; 0 leaves it out.
    tensorboard: write scalars for TensorBoard (extra `tensorboard`).
  """
  seed: int
  suite: config_parts.Suite
  backbone: config_parts.Backbone
  phases: tuple[Phase, ...]
  chunk_steps: int = 250
  progress_seconds: float = 30.
  eval_batch_size: int = 1000
  matrix: str = 'final'
  identify: tuple[config_parts.Scenario, ...] = ()
  mixed_rows: int = 0
  transparency: int = 0
  tensorboard: bool = False

  def __post_init__(self):
    if not self.phases:
      raise ValueError('the config has no phases: nothing would be learned')
    for name, least in (('seed', 0), ('chunk_steps', 1),
                        ('eval_batch_size', 1), ('mixed_rows', 0),
                        ('transparency', 0)):
      if getattr(self, name) < least:
        raise ValueError(f'{name} is {getattr(self, name)}; it must be at '
                         f'least {least}')
    if self.matrix not in ('full', 'final'):
      raise ValueError(f"matrix is {self.matrix!r}; known: 'full', 'final'")
    seen: list[str] = []
    for phase in self.phases:
      self._check_basis(phase, seen)
      self._check_after(phase, seen)
      seen.append(phase.name)
    for scenario in self.identify:
      for name in scenario.phases:
        if name not in seen:
          raise ValueError(f'identify.{scenario.name}: there is no phase '
                           f'{name!r}{trees.nearest(name, seen)}; phases: '
                           f'{", ".join(seen)}')

  def chain(self, phase: Phase) -> list[Phase]:
    """The phases whose modules one reuses, in the order of learning."""
    if phase.after is None:
      return []
    before = next(p for p in self.phases if p.name == phase.after)
    return [*self.chain(before), before]

  def _check_after(self, phase, seen):
    if phase.after is None:
      return
    if phase.after not in seen:
      raise ValueError(
          f'phase {phase.name}: after is {phase.after!r}, which must be an '
          f'earlier phase; earlier phases: {", ".join(seen) or "none"}')
    before = self.chain(phase)[-1]
    if before.method != phase.method:
      raise ValueError(
          f'phase {phase.name}: after is {before.name!r}, a phase of the '
          f'method {before.method}; it must be one of {phase.method}')
    try:
      methods.part.check_later(
          dict(phase.options), dict(before.options),
          (before.tasks[1] - before.tasks[0]) * before.repeats)
    except ValueError as error:
      raise ValueError(f'phase {phase.name}, after {before.name}: '
                       f'{error}') from error

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


PARTS = {'basis': config_parts.Basis, 'stream': config_parts.Stream,
         'rounds': config_parts.Rounds,
         'allocation': config_parts.Allocation,
         'early_stop': config_parts.EarlyStop,
         'search': config_parts.Search,
         'sparsify': config_parts.Sparsify}
_DEFAULTS = {f.name: f.default for f in dataclasses.fields(Phase)}


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
    for part, cls in PARTS.items():
      if phase.get(part) is not None:
        phase[part] = _build(cls, dict(phase[part]), f'phases.{name}.{part}.')
    phases.append(_build(Phase, phase, f'phases.{name}.'))
  fields['suite'] = _build(config_parts.Suite, dict(fields['suite']), 'suite.',
                           True)
  fields['backbone'] = _build(config_parts.Backbone, dict(fields['backbone']),
                              'backbone.')
  fields['phases'] = tuple(phases)
  fields['identify'] = tuple(
      _build(config_parts.Scenario, dict(value) | {'name': name},
             f'identify.{name}.')
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
    entry = fields(phase, skip=('options', 'name', *PARTS))
    entry['options'] = {k: plain(v) for k, v in phase.options}
    entry['basis'] = fields(phase.basis) if phase.basis else None
    for part in PARTS:
      if getattr(phase, part) is not None:
        entry[part] = fields(getattr(phase, part))
    if phase.search:
      entry['search']['fixed'] = {k: plain(v)
                                  for k, v in phase.search.fixed}
    for name in ('pool', 'together', 'loss', 'milestones', 'after'):
      if entry[name] in (_DEFAULTS[name], []):
        del entry[name]  # as in the workdirs of earlier versions
    result['phases'][phase.name] = entry
  result['identify'] = {scenario.name: fields(scenario, skip=('name',))
                        for scenario in config.identify}
  return result
