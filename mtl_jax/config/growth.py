"""Decides whether a config may continue the run of an earlier config.

A new config may add tasks to the suite, tasks to a phase, and phases to the
schedule. All that was learned before must be configured as it was. A new task
must rely on the same impressions as if the new config had been run from the
start.
"""

import dataclasses
import functools
from collections.abc import Callable

from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.data import suites

# Fields that only affect measurements after training and the destination of
# scalars.
FREE = ('identify', 'mixed_rows', 'transparency', 'tensorboard', 'wandb')
_OWN = ('suite', 'phases', 'schedule')


class Other(ValueError):
  """The new config does not continue the old one.

  Attributes:
    name: name of the field that differs, or of another difference.
    before, now: its old and new values.
    more: number of other fields that differ.
    why: the reason, if the values do not show it.
  """

  def __init__(self, name, before, now, more=0, why=''):
    super().__init__(name, before, now, more, why)
    self.name, self.before, self.now = name, before, now
    self.more, self.why = more, why


def check(old: config_lib.Config, new: config_lib.Config) -> None:
  """Refuses a config that does not continue an old one.

  Raises:
    Other: a field differs; names it.
  """
  _same(old, new, lambda c: {k: v for k, v in config_lib.to_dict(c).items()
                             if k not in (*FREE, *_OWN)})
  _same_phases(old, new)
  if old.suite.kind != new.suite.kind:
    raise Other('suite.kind', old.suite.kind, new.suite.kind)
  suite = make_suite(new)
  if old.suite != new.suite:
    _same_tasks(make_suite(old), suite, old, new)
  for phase in grown(old, new):
    _require_able(phase, new)
  _same_reliance(old, new, suite)


def make_suite(config: config_lib.Config) -> suites.Suite:
  """The suite of a config."""
  return suites.make(config.suite.kind, **dict(config.suite.options))


def grown(old: config_lib.Config,
          new: config_lib.Config) -> list[config_lib.Phase]:
  """The new config's phases that have more tasks than before."""
  return [now for was, now in zip(old.phases, new.phases)
          if was.tasks != now.tasks]


def _same(old: config_lib.Config, new: config_lib.Config,
          part: Callable[[config_lib.Config], dict]) -> None:
  """Refuses two configs whose parts differ."""
  flat = [trees.flatten(_as_lists(part(config))) for config in (old, new)]
  changed = sorted(name for name in flat[0].keys() | flat[1].keys()
                   if flat[0].get(name) != flat[1].get(name))
  if changed:
    name = changed[0]
    raise Other(name, flat[0].get(name), flat[1].get(name),
                len(changed) - 1)


def _as_lists(value):
  if isinstance(value, dict):
    return {k: _as_lists(v) for k, v in value.items()}
  return list(map(_as_lists, value)) if isinstance(
      value, (tuple, list)) else value


def _same_phases(old, new) -> None:
  """Requires the old phases first, unchanged except for tasks at the end."""
  before, now = ([phase.name for phase in c.phases] for c in (old, new))
  if now[:len(before)] != before and [n for n in now if n in before] == before:
    late = next(name for name in now if name not in before)
    raise Other('schedule', before, now, why=(
        f'the new phase {late} stands before an old one: give new phases at '
        'the end of the schedule'))
  if now[:len(before)] != before:
    _same(old, new, lambda c: {
        k: config_lib.to_dict(c)[k] for k in ('phases', 'schedule')})
  was, is_ = (config_lib.to_dict(c)['phases'] for c in (old, new))
  for name in before:
    (first, stop), (start, end) = was[name]['tasks'], is_[name]['tasks']
    free = 'tasks' if start == first and end >= stop else None
    _same(old, new, functools.partial(_phase_but, name, free))


def _phase_but(name, left_out, config) -> dict:
  """A phase of a config, without one of its fields."""
  phase = config_lib.to_dict(config)['phases'][name]
  return {'phases': {name: {k: v for k, v in phase.items()
                            if k != left_out}}}


def _same_tasks(before: suites.Suite, now: suites.Suite, old, new) -> None:
  """Requires the old tasks at the beginning of the suite, unchanged."""
  if len(now.tasks) < len(before.tasks):
    _same(old, new, lambda c: {'suite': config_lib.to_dict(c)['suite']})
    raise Other('suite', trees.counted(len(before.tasks), 'task'),
                f'{len(now.tasks)}')
  for i, (one, other) in enumerate(zip(before.tasks, now.tasks)):
    if one == other:
      continue
    field = next(f.name for f in dataclasses.fields(one)
                 if getattr(one, f.name) != getattr(other, f.name))
    raise Other(f'{field} of task {i} of the suite', getattr(one, field),
                getattr(other, field), why=(
                    'give suite.number_width, so that names keep their digits'
                    if field == 'name' and one.key == other.key and one.key
                    else ''))


def _require_able(phase: config_lib.Phase, new: config_lib.Config) -> None:
  """Refuses added tasks in a phase that learns its tasks together."""
  why = ''
  if phase.together:
    why = 'its tasks were trained together'
  elif phase.stream is not None:
    why = 'it learned a stream'
  elif phase.pool:
    why = 'its tasks were pooled'
  elif phase.search is not None and phase.search.iterations > 1:
    why = 'its search went over all tasks more than once'
  elif phase.search is not None and not phase.control and any(
      other.search is not None and not other.control
      for other in new.phases[new.phases.index(phase) + 1:]):
    why = 'a later search started from its paths'
  if why:
    raise Other(f'phases/{phase.name}/tasks', 'fewer', list(phase.tasks), why=(
        f'{why}: give the new tasks a phase of their own'))


def _same_reliance(old, new, suite) -> None:
  """Requires every task to rely on the same tasks as in a run from the start.
  """
  in_time, names = [], set()
  for config in (old, new):
    for phase in config.phases:
      fresh = [e for e in plan.planned(phase, suite) if e.name not in names]
      in_time += fresh
      names |= {e.name for e in fresh}
  for phase in new.phases:
    known = plan.before(new, suite, phase)
    for group in plan.groups(phase.named, suite):
      planned, found = ([e.name for e in plan.relied(order, group)]
                        for order in (known, in_time))
      if planned != found:
        other = sorted(set(planned) ^ set(found))[:1] or planned[:1]
        raise Other(
            f'what {group[0].name} relies on', found, planned, why=(
                f'{other[0]} was or would be learned in another order: give '
                'the new tasks a phase at the end of the schedule'))
