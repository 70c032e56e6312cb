"""The config of a run as frozen dataclasses, made from plain dicts.

Unknown keys, methods, models and malformed values are refused here, before
anything is trained or written.
"""

import dataclasses

from mtl_jax import fields
from mtl_jax import methods
from mtl_jax import trees
from mtl_jax.config import parts as config_parts
from mtl_jax.config import phase as phase_lib

Phase = phase_lib.Phase


@dataclasses.dataclass(frozen=True)
class Config:
  """A whole run.

  Attributes:
    seed: seed of scores, batches and (by default) the backbone.
    suite: the tasks.
    backbone: the network.
    phases: the phases in the order in which they run.
    chunk_steps: the largest number of steps per compiled call. A stream's calls
      have the steps between two decisions, and a search's those between two
      validations.
    progress_seconds: seconds of training between two saves, which is the most
      that a kill can lose.
    eval_batch_size: images per evaluation batch.
    matrix: 'full' measures all learned tasks again after each one; 'final'
      measures each task when it is learned and all at the end.
    identify: evaluations in which the task is inferred.
    mixed_rows: rows of one batch with images of all tasks. After training it
      is predicted in one call, and compared with one call per task; 0 turns
      this off.
    transparency: images of each task on which the features of tasks that
      share segments (method `part`) are compared; 0 turns the comparison off.
    tensorboard: write scalars for TensorBoard (extra `tensorboard`).
    mesh: also divides large arrays over devices, for backbones whose training
      does not fit on one; `None` divides only batches or tasks.
    wandb: project of Weights & Biases that gets the scalars (extra `wandb`);
      they stay in the workdir until `wandb sync`. Empty for none.
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
  mesh: config_parts.MeshAxes | None = None
  wandb: str = ''

  def __post_init__(self):
    if not self.phases:
      raise ValueError('the config has no phases: nothing would be learned')
    for name, least in (('seed', 0), ('chunk_steps', 1),
                        ('eval_batch_size', 1), ('mixed_rows', 0),
                        ('transparency', 0)):
      if getattr(self, name) < least:
        raise ValueError(f'{name} is {getattr(self, name)}; it must be at '
                         f'least {least}')
    if self.progress_seconds < 0:
      raise ValueError(f'progress_seconds is {self.progress_seconds}; it must '
                       'be at least 0, which saves after every chunk of steps')
    if self.seed >= 1 << 32:
      raise ValueError(f'seed is {self.seed}; keys have seeds below 2 ** 32')
    if self.matrix not in ('full', 'final'):
      raise ValueError(f"matrix is {self.matrix!r}; known: 'full', 'final'")
    for phase in self.phases if self.mesh else ():
      _check_mesh(phase)
    seen = [phase.name for phase in self.phases]
    for scenario in self.identify:
      for name in scenario.phases:
        if name not in seen:
          raise ValueError(f'identify.{scenario.name}: there is no phase '
                           f'{name!r}{trees.nearest(name, seen)}; phases: '
                           f'{", ".join(seen)}')


def _check_mesh(phase: Phase) -> None:
  """Refuses a phase that can't be trained on a mesh."""
  if phase.together or phase.stream or phase.search:
    raise ValueError(
        f'phase {phase.name}: a mesh divides tasks that are trained apart; '
        'leave out mesh, or together, stream and search')
  if not phase.make_method().abilities.shards:
    raise ValueError(
        f'phase {phase.name}: the arrays of {phase.method} are not divided '
        'over devices; leave out mesh, or take one of '
        f'{", ".join(_sharding_methods())}')


def _sharding_methods() -> list[str]:
  """The methods that can be trained on a mesh and need no option."""
  found = []
  for name in sorted(methods.METHODS):
    try:
      able = methods.make(name).abilities
    except ValueError:  # it has options without a default
      continue
    if able.shards:
      found.append(name)
  return found


def from_dict(given: dict) -> Config:
  """The run described by a config's plain nested dicts.

  Args:
    given: dicts as in `configs/*.py`. `phases` maps names to phases and
      `schedule` lists the names in the order in which they run. Keys of
      `suite` other than `kind` are the suite's options.

  Raises:
    ValueError: a key is unknown (names it, the known ones and the nearest), or
      a field refuses its value.
  """
  given = fields.as_dict(given, 'the config')
  for part in ('seed', 'suite', 'backbone', 'phases', 'schedule'):
    if part not in given:
      raise ValueError(f'the config lacks {part}')
  by_name = fields.as_dict(given['phases'], 'phases')
  schedule = fields.frozen(given.pop('schedule'))
  schedule = (schedule,) if isinstance(schedule, str) else schedule
  if not isinstance(schedule, tuple) or (
      sorted(by_name) != sorted(map(str, schedule))):
    raise ValueError(
        f'schedule {schedule!r} must name every phase once; the phases are: '
        f'{", ".join(sorted(by_name)) or "none"}')
  given['phases'] = tuple(
      _phase(name, fields.as_dict(by_name[name], f'phases.{name}'))
      for name in schedule)
  suite = fields.as_dict(given['suite'], 'suite')
  options = {k: v for k, v in suite.items() if k not in ('kind', 'options')}
  given['suite'] = fields.build(config_parts.Suite, {
      k: v for k, v in suite.items() if k == 'kind'} | {
          'options': options | _inner_options(suite, 'suite')}, 'suite.')
  backbone = fields.as_dict(given['backbone'], 'backbone')
  if 'options' in backbone:
    backbone['options'] = _inner_options(backbone, 'backbone')
  given['backbone'] = fields.build(config_parts.Backbone, backbone, 'backbone.')
  given['identify'] = tuple(
      fields.build(config_parts.Scenario, fields.as_dict(
          value, f'identify.{name}') | {'name': name}, f'identify.{name}.')
      for name, value in sorted(fields.as_dict(
          given.get('identify') or {}, 'identify').items()))
  made = fields.build(Config, given)
  fields.require_plain(to_dict(made), '')
  return made


def _inner_options(given: dict, where: str) -> dict:
  """The field `options` of a part as a dict; {} if it is `None`."""
  found = given.get('options')
  return fields.as_dict({} if found is None else found, f'{where}.options')


_TRAINING = tuple(f.name for f in dataclasses.fields(config_parts.Training))
_OWN = ('method', 'tasks', 'repeats', 'control', 'tasks_at_once', 'pool',
        'loss', 'early_stop', 'validate_every')


def _phase(name: str, given: dict) -> phase_lib.Phase:
  """A phase from its flat dict; other keys than fields are method options."""
  where = f'phases.{name}.'
  if 'method' not in given or 'tasks' not in given:
    raise ValueError(f'phases.{name} lacks '
                     f'{"tasks" if "method" in given else "method"}')
  cls = methods.options_class(given['method'])
  every = {*_OWN, *_TRAINING, *config_parts.DRIVERS, 'together', 'options',
           *(f.name for f in dataclasses.fields(cls))}
  options = {k: v for k, v in given.items()
             if k not in (*_OWN, *_TRAINING, *config_parts.DRIVERS, 'together',
                          'options')
             and not (v is None and k not in _names(cls))}
  for key in sorted(set(options) - _names(cls)):
    raise ValueError(f'unknown key {where}{key}'
                     f'{_others(key) or trees.nearest(key, every)}; known: '
                     f'{", ".join(sorted(every))}')
  flat = any(v is not None for v in options.values())
  prefix = where if flat else f'{where}options.'
  options |= fields.as_dict(
      {} if given.get('options') is None else given['options'],
      f'{where}options')
  tasks = given.get('tasks')
  if isinstance(tasks, range):  # as a tuple, its numbers would be two ends
    if tasks.step != 1:
      raise ValueError(f'{where}tasks is {tasks}; a phase takes all tasks from '
                       'the first to the last: give (first, last + 1)')
    given['tasks'] = tasks.start, tasks.stop
  return fields.build(phase_lib.Phase, {
      k: v for k, v in given.items() if k in _OWN} | {
          'name': name, 'driver': _driver(where, given),
          'training': fields.build(config_parts.Training, {
              k: v for k, v in given.items() if k in _TRAINING}, where),
          'options': _options(where, prefix, given['method'], options)}, where)


def _names(cls: type) -> set[str]:
  return {f.name for f in dataclasses.fields(cls)}


def _others(key: str) -> str:
  """Names the methods that do have an option, for an error message."""
  found = [name for name in sorted(methods.METHODS)
           if key in _names(methods.options_class(name))]
  return f', an option of {" and ".join(found)} alone' if found else ''


def _options(where: str, prefix: str, method: str, options: dict):
  try:
    return methods.options_of(method, options, prefix)
  except ValueError as error:
    if str(error).startswith(('unknown key', where)):
      raise
    raise ValueError(f'{where.rstrip(".")}: {error}') from error


def _driver(where: str, given: dict):
  """The driver described by the flat keys of a phase."""
  together = fields.frozen(given.get('together'))
  if together not in (None, 'joint', 'rounds'):
    raise ValueError(f"{where}together is {together!r}; known: (None, 'joint', "
                     "'rounds')")
  asked = [name for name in config_parts.DRIVERS if given.get(name) is not None]
  if (together == 'rounds') != ('rounds' in asked):
    raise ValueError(f"{where.rstrip('.')}: together='rounds', and it alone, "
                     'needs rounds (set_batches, order, moments)')
  if len(asked) > 1 or (asked and together == 'joint'):
    raise ValueError(f'{where.rstrip(".")}: tasks are trained in one way; got '
                     f'{", ".join([*asked, "together"])}; leave all but one '
                     'out')
  if together == 'joint':
    return config_parts.Joint()
  if not asked:
    return None
  inner = f'{where}{asked[0]}'
  return fields.build(config_parts.DRIVERS[asked[0]], fields.as_dict(
      given[asked[0]], inner), f'{inner}.')


def to_dict(config: Config) -> dict:
  """Plain nested dicts, inverse of `from_dict`; for `config.json`."""
  result = {f.name: fields.plain(getattr(config, f.name))
            for f in dataclasses.fields(config)
            if f.name not in ('suite', 'backbone', 'phases', 'identify')}
  result['suite'] = {'kind': config.suite.kind} | {
      k: fields.plain(v) for k, v in config.suite.options}
  result['backbone'] = fields.plain(config.backbone) | {
      'options': {k: fields.plain(v) for k, v in config.backbone.options}}
  result['schedule'] = [phase.name for phase in config.phases]
  result['phases'] = {phase.name: _phase_dict(phase)
                      for phase in config.phases}
  result['identify'] = {
      scenario.name: {k: v for k, v in fields.plain(scenario).items()
                      if k != 'name'} for scenario in config.identify}
  return result


def _phase_dict(phase: phase_lib.Phase) -> dict:
  """The flat dict of a phase; inverse of `_phase`."""
  result = {name: fields.plain(getattr(phase, name)) for name in _OWN}
  result |= fields.plain(phase.training)
  result |= {'together': phase.together}
  for name in config_parts.DRIVERS:
    if getattr(phase, name) is not None:
      result[name] = fields.plain(getattr(phase, name))
  if phase.search is not None:
    result['search']['fixed'] = {k: fields.plain(v)
                                 for k, v in phase.search.fixed}
  result['options'] = {}
  for field in dataclasses.fields(phase.options):
    value = getattr(phase.options, field.name)
    if dataclasses.is_dataclass(value):
      result[field.name] = fields.plain(value)
    elif value != field.default:
      result['options'][field.name] = fields.plain(value)
  return result
