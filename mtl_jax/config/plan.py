"""The plan of a config: the ordered list of impressions to make."""

import dataclasses
import zlib
from collections.abc import Sequence

import jax
import numpy as np

from mtl_jax import methods
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.data import names as names_lib
from mtl_jax.data import suites
from mtl_jax.data import transforms


@dataclasses.dataclass(frozen=True)
class Entry:
  """One impression to be made: a task, learned in a phase.

  Attributes:
    name: name of its folder: the task's name; with '@phase' if the phase is a
      control or repeats tasks, and then '~repeat'.
    task: the task to learn.
    phase: how it is learned.
    repeat: index of the repetition.
    pooled: the tasks of a pool, which `task` then stands for.
    member: index in a group of tasks that are trained together.
  """
  name: str
  task: suites.Task
  phase: config_lib.Phase
  repeat: int = 0
  pooled: tuple[suites.Task, ...] = ()
  member: int = 0

  @property
  def tasks(self) -> tuple[suites.Task, ...]:
    """The suite's tasks that it learns: one, unless it is a pool."""
    return self.pooled or (self.task,)

  @property
  def route(self) -> methods.Route:
    route = route_of(self.tasks[0], self.phase.loss)
    return dataclasses.replace(route, pooled=bool(self.pooled),
                               member=self.member)

  def seed(self, run_seed: int) -> tuple[int, int]:
    """Integers for the order of batches; equal in paired phases."""
    return run_seed, zlib.crc32(f'{self.task.drawn_by}/{self.repeat}'.encode())

  def key(self, run_seed: int):
    """Key of its initial scores and augmentation; equal in paired phases."""
    return named_key(run_seed, self.drawn_by)

  @property
  def drawn_by(self) -> str:
    """The name that `key` is made from."""
    # A stream's mask starts before it is known which task it will see.
    return self.name if self.phase.stream else (
        f'{self.task.drawn_by}/{self.repeat}')


def named_key(run_seed: int, name: str):
  """A key of its own for everything that has a name."""
  return _fold_in(_root(run_seed), np.uint32(zlib.crc32(name.encode())))


def keys(run_seed: int, some: Sequence[Entry]):
  """Keys [entries], the same as each entry's own, in one call."""
  named = np.array([zlib.crc32(entry.drawn_by.encode()) for entry in some],
                   np.uint32)
  return _fold_in_each(_root(run_seed), named)


_fold_in = jax.jit(jax.random.fold_in)
_fold_in_each = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))


def _root(run_seed: int):
  return jax.random.key(run_seed, impl='threefry2x32')


def once(chain: tuple) -> tuple:
  """The leading transforms that are done once per source, not per batch."""
  count = 0
  while count < len(chain) and chain[count].kind == 'fit':
    count += 1
  return chain[:count]


def route_of(task: suites.Task, loss: str = 'softmax') -> methods.Route:
  """The structural facts of a task whose images were fitted already.

  Args:
    task: what is learned.
    loss: loss of a classification; a regression has its own.
  """
  rest = task.transforms[len(once(task.transforms)):]
  return methods.Route(task.classes, transforms.kinds(rest),
                       loss='mse' if task.regression else loss)


def entries(phase: config_lib.Phase, suite: suites.Suite) -> list[Entry]:
  """The phase's entries in order; repeats of a task are adjacent."""
  if phase.stream is not None:
    return []  # its masks are known once it is learned: see `stream.entries`
  first, stop = phase.tasks
  if stop > len(suite.tasks):
    raise ValueError(f'phase {phase.name}: tasks {phase.tasks}, but the suite '
                     f'{suite.name} has {len(suite.tasks)}')
  if phase.search is not None:
    return _versions(phase, suite.tasks[first:stop])
  result: list[Entry] = []
  for task in suite.tasks[first:stop] if not phase.pool else (
      pool_task(phase, suite.tasks[first:stop]),):
    for repeat in range(phase.repeats):
      name = task.name
      if phase.control or phase.repeats > 1 or phase.pool:
        name += f'@{phase.name}'
      if phase.repeats > 1:
        name += f'~{repeat:0{len(str(phase.repeats - 1))}d}'
      result.append(Entry(name, task, phase, repeat,
                          suite.tasks[first:stop] if phase.pool else (),
                          len(result) if phase.together else 0))
  return result


def _versions(phase: config_lib.Phase, tasks) -> list[Entry]:
  """The paths of a search: all tasks in a row, iteration after iteration.

  The last path of a task has the task's name, earlier ones have the suffix
  '~1', '~2', ...; `repeat` is the number of later paths of the task.
  """
  assert phase.search is not None
  result, iterations = [], phase.search.iterations
  for iteration in range(1, iterations + 1):
    for task in tasks:
      name = f'{task.name}@{phase.name}' if phase.control else task.name
      if iteration < iterations:
        name += f'~{iteration:0{len(str(iterations))}d}'
      result.append(Entry(name, task, phase, iterations - iteration))
  return result


def pool_task(phase: config_lib.Phase,
              tasks: tuple[suites.Task, ...]) -> suites.Task:
  """A task that stands for all tasks of a pool; images as the tasks show them.

  Raises:
    ValueError: the tasks don't share source, classes and kinds of transforms.
  """
  first = tasks[0]
  for task in tasks:
    if (task.source != first.source or task.classes != first.classes
        or route_of(task) != route_of(first)):
      raise ValueError(
          f'phase {phase.name}: a pool needs tasks of one source and one kind; '
          f'{first.name} and {task.name} differ')
  return suites.Task('pool', 0, first.source,
                     transforms.common(first.transforms),
                     _pool_labels(phase, tasks), first.classes)


def _pool_labels(phase, tasks: tuple[suites.Task, ...]):
  """The labels that the tasks of a pool share; `None` if they have all."""
  meant: dict[int, tuple[str, int]] = {}
  for task in tasks:
    for output, label in enumerate(task.labels or ()):
      name, other = meant.setdefault(output, (task.name, label))
      if other == -1:
        meant[output] = task.name, label
      elif label not in (-1, other):
        raise ValueError(
            f'phase {phase.name}: output {output} of a pool would be class '
            f'{other} of {name} and class {label} of {task.name}; give '
            'suite.shared_outputs=False, or learn these tasks one by one')
  first, *others = (task.labels for task in tasks)
  return first if all(labels == first for labels in others) else None


def groups(phase: config_lib.Phase, suite: suites.Suite) -> list[list[Entry]]:
  """Entries of one compiled call: adjacent ones of one route, or a group."""
  if phase.together:
    return [entries(phase, suite)]
  result: list[list[Entry]] = []
  for entry in entries(phase, suite):
    if (result and len(result[-1]) < phase.most_at_once
        and result[-1][0].route == entry.route
        and result[-1][0].task.source == entry.task.source):
      result[-1].append(entry)
    else:
      result.append([entry])
  return result


def group_of(entry: Entry, suite: suites.Suite) -> list[Entry]:
  """The entries trained together with an entry; only itself if alone."""
  return entries(entry.phase, suite) if entry.phase.together else [entry]


def init_route(group: list[Entry]):
  """The route for `init`; for a group trained together, all its routes."""
  routes = tuple(entry.route for entry in group)
  return routes if group[0].phase.together else routes[0]


def planned(phase: config_lib.Phase,
            suite: suites.Suite) -> list[methods.Earlier]:
  """The impressions of a phase as a method's `relies_on` sees them.

  For a stream, one impression per task stands for those that it will leave.
  """
  streamed = phase.stream is not None
  return [methods.Earlier(
      entry.name, entry.task.name, phase.name, entry.repeat, phase.method,
      phase.options, entry.route, streamed)
          for entry in entries(phase.named, suite)]


def before(config: config_lib.Config, suite: suites.Suite,
           phase: config_lib.Phase, earlier: Sequence[methods.Earlier] = ()
           ) -> list[methods.Earlier]:
  """The impressions of all phases up to and including a phase, in order.

  Args:
    config: config of the run.
    suite: tasks of the run.
    phase: a phase of the config.
    earlier: impressions in the workdir that no phase of the config makes.
  """
  phases = config.phases[:config.phases.index(phase) + 1]
  return [*earlier, *(e for other in phases for e in planned(other, suite))]


def relied(known: list[methods.Earlier],
           group: list[Entry]) -> list[methods.Earlier]:
  """The impressions that a group's method needs, in its order.

  Args:
    known: from `before`.
    group: entries that are trained together, or one entry.

  Raises:
    ValueError: the run does not make these impressions before the group.
  """
  phase, names = group[0].phase, {entry.name for entry in group}
  first = next((i for i, e in enumerate(known)
                if e.phase == phase.name and e.name in names), len(known))
  return _asked(known[:first], phase)


def require_apart(known: list[methods.Earlier], group: list[Entry]) -> None:
  """Refuses tasks that are trained at once if one relies on another of them.

  Args:
    known: from `before`.
    group: entries of one compiled call, each with its own state.
  """
  phase, names = group[0].phase, [entry.name for entry in group]
  last = next((i for i, e in enumerate(known)
               if e.phase == phase.name and e.name == names[-1]), 0)
  inside = [e.name for e in _asked(known[:last], phase) if e.name in names]
  if inside:
    raise ValueError(f'a task of the method {phase.method} relies on those '
                     f'before it, and {inside[0]} is trained at the same time '
                     f'as {names[-1]}; leave out tasks_at_once')


def _asked(known: list[methods.Earlier],
           phase: config_lib.Phase) -> list[methods.Earlier]:
  """Those of the impressions before a group that a phase's method needs."""
  # `system.learn` may give a phase's name to tasks of several methods; those of
  # other methods don't belong to this phase.
  known = [e for e in known
           if e.phase != phase.name or e.method == phase.method]
  try:
    found = list(phase.make_method().relies_on(known, phase.name))
  except ValueError:
    raise
  except Exception as error:  # pylint: disable=broad-except
    raise ValueError(f'method {phase.method}: relies_on fails: '
                     f'{type(error).__name__}: {error}') from error
  for e in found:
    if e not in known:
      raise ValueError(f'method {phase.method}: relies_on must give those of '
                       f'the impressions that it was given; {e!r} is none')
  return found


def check(config: config_lib.Config, suite: suites.Suite,
          earlier: Sequence[methods.Earlier] = ()) -> None:
  """Refuses a plan in which two phases use one name, a head is too small, or a
  method relies on impressions that the run does not make before.
  """
  owner: dict[str, str] = {}
  named: dict[str, str] = {}
  for phase in config.phases:
    other = named.setdefault(names_lib.folded(phase.name), phase.name)
    if other != phase.name:
      raise ValueError(
          f'phases {other!r} and {phase.name!r} would share files on disks '
          'that do not tell capital letters apart; rename one of them')
    # A stream's masks have names of their own; its tasks must fit all the same.
    for entry in entries(phase.named, suite):
      folded = names_lib.folded(entry.name)
      if folded in owner and phase.stream is None:
        raise ValueError(
            f'phases {owner[folded]} and {phase.name} both leave an '
            f'impression named {entry.name}; mark one of them control=True')
      if phase.stream is None:
        owner[folded] = phase.name
      if entry.task.classes > config.backbone.outputs:
        raise ValueError(
            f'task {entry.task.name} has '
            f'{trees.counted(entry.task.classes, "class")} but the backbone '
            f'has {trees.counted(config.backbone.outputs, "output")}')
      if phase.rounds is not None and entry.task.regression:
        raise ValueError(f'phase {phase.name}: task {entry.task.name} is a '
                         'regression, which rounds do not train; leave out '
                         'rounds')
      if phase.stream is not None and entry.task.regression:
        raise ValueError(f'phase {phase.name}: task {entry.task.name} is a '
                         'regression, whose output says nothing of its task; '
                         'leave out stream')
    try:
      relied(before(config, suite, phase, earlier),
             groups(phase.named, suite)[0])
    except ValueError as error:
      raise ValueError(f'phase {phase.name}: {error}') from error
