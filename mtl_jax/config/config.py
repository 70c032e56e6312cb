"""A run as frozen dataclasses, made from a config's plain dicts.

Unknown keys, methods, models and malformed values are refused here, before
anything is trained or written.
"""

import dataclasses
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any

from mtl_jax import trees
from mtl_jax.config import parts as config_parts
from mtl_jax.config import phase as phase_lib

Phase = phase_lib.Phase


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
    if self.seed >= 1 << 32:
      raise ValueError(f'seed is {self.seed}; keys have seeds below 2 ** 32')
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
      phase.make_method().check_later(
          dict(before.options),
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
    tasks = 1 if made_by.pool else made_by.tasks[1] - made_by.tasks[0]
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


def _frozen(value: Any) -> Any:
  if isinstance(value, dict):
    return tuple(sorted((k, _frozen(v)) for k, v in value.items()))
  if isinstance(value, (list, tuple)):
    return tuple(_frozen(v) for v in value)
  return value


_KINDS = {int: (numbers.Integral, 'a whole number'),
          float: (numbers.Real, 'a number'), bool: (bool, 'True or False'),
          str: (str, 'a string')}


def _check_types(cls, given: dict, where: str) -> None:
  """Refuses a value that isn't of its field's plain type, or is NaN."""
  for name, hint in typing.get_type_hints(cls).items():
    kinds = typing.get_args(hint) if isinstance(
        hint, types.UnionType) else (hint,)
    known = [kind for kind in kinds if kind in _KINDS]
    value = given.get(name)
    if not known or name not in given or (
        value is None and types.NoneType in kinds):
      continue
    type_, words = _KINDS[known[0]]
    if not isinstance(value, type_) or value != value or (
        isinstance(value, bool) and known[0] is not bool):
      raise ValueError(f'{where}{name} is {value!r}; it must be {words}')


def _dict(value: Any, where: str) -> dict:
  """A part of the config as a dict."""
  pairs = isinstance(value, (tuple, list)) and all(
      isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in value)
  if not isinstance(value, Mapping) and not pairs:
    raise ValueError(f'{where} is {value!r}; it must be a dict of fields')
  return dict(value)


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
  _check_types(cls, given, where)
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
  by_name, schedule = _dict(fields['phases'], 'phases'), tuple(
      fields.pop('schedule'))
  if sorted(by_name) != sorted(schedule):
    raise ValueError(
        f'schedule {schedule} must name every phase once; the phases are: '
        f'{", ".join(sorted(by_name)) or "none"}')
  phases = []
  for name in schedule:
    phase = _dict(by_name[name], f'phases.{name}') | {'name': name}
    for part, cls in PARTS.items():
      if phase.get(part) is not None:
        where = f'phases.{name}.{part}'
        phase[part] = _build(cls, _dict(phase[part], where), f'{where}.')
    phases.append(_build(Phase, phase, f'phases.{name}.'))
  fields['suite'] = _build(config_parts.Suite, _dict(fields['suite'], 'suite'),
                           'suite.', True)
  fields['backbone'] = _build(config_parts.Backbone, _dict(
      fields['backbone'], 'backbone'), 'backbone.')
  fields['phases'] = tuple(phases)
  fields['identify'] = tuple(
      _build(config_parts.Scenario, _dict(value, f'identify.{name}') | {
          'name': name}, f'identify.{name}.')
      for name, value in sorted(_dict(fields.get('identify') or {},
                                      'identify').items()))
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
      if entry[name] in (phase_lib.DEFAULTS[name], []):
        del entry[name]  # as in the workdirs of earlier versions
    result['phases'][phase.name] = entry
  result['identify'] = {scenario.name: fields(scenario, skip=('name',))
                        for scenario in config.identify}
  return result
