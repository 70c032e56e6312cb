"""PaRT: tasks trained in parallel on shared segments.

Paknezhad et al. 2022, https://arxiv.org/abs/2201.09534. The backbone has M
parallel modules in each level; a task's path takes N of them, and modules on
several paths are trained by several tasks. The tasks of a group are trained and
committed together: each stores the modules of its path, its own head and its
own norm statistics. A later group can reuse the committed modules, which are
frozen, and train free ones.

The same code makes the baselines: 'identical' paths are hard sharing. With
`copies`, every task trains its own modules, from the same initial weights on
the same path (single-task learning).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import fields
from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.methods import base
from mtl_jax.methods import graph
from mtl_jax.methods import path_sampling

NORMS = ('affine', 'shared', 'statistics')


@dataclasses.dataclass(frozen=True)
class Options:
  """Parallel training on paths.

  The method's `shared` is {} or what earlier groups committed: {'segments':
  {level: modules [M, ...]}, 'frozen': {level: bool [M]}}. `init` refuses graphs
  that are too small for the paths.

  Attributes:
    active: N, the modules of a path in each level; the model's `active`.
    paths: kind of paths; see `mtl_jax.methods.path_sampling.draw`.
    path_seed: seed of the paths. PaRT's five test cases have 456, 23743,
      96253, 36 and 2543.
    overlap: with paths='overlapping': number of modules in each level that
      all tasks use.
    similarity: with paths='guided': similarities [first + T, first + T] of
      all tasks up to the group's last, including those before `first`.
    norm: 'statistics' (each task has its own norm statistics), 'affine' (and
      its own scales and shifts) or 'shared' (tasks share both, as in the
      paper's CIFAR code).
    copies: every task trains its own copy of its path's modules.
    first: index of the group's first head and path in the backbone.
    after: name of an earlier phase. Its tasks' modules, and those of the
      phases on which it builds, are reused and frozen.
  """
  active: int
  paths: str = 'official'
  path_seed: int = 456
  overlap: int = 0
  similarity: tuple | None = None
  norm: str = 'statistics'
  copies: bool = False
  first: int = 0
  after: str | None = None

  def __post_init__(self):
    if self.norm not in NORMS:
      raise ValueError(f'unknown norm {self.norm!r}'
                       f'{trees.nearest(self.norm, NORMS)}; known: '
                       f'{", ".join(NORMS)}')
    if not 0 <= self.path_seed < 1 << 32:
      raise ValueError(f'path_seed is {self.path_seed}; it must lie between 0 '
                       'and 2 ** 32 - 1')
    if self.first < 0:
      raise ValueError(f'first is {self.first}; it must be at least 0')


def make(options: Options) -> base.Method:
  """The method of a config's options."""
  own = lambda function: functools.partial(function, options)
  return base.Method(
      own(_init), own(_bind), own(_commit), base.materialise, own(_prepare),
      own(_relies_on), check=own(_check), abilities=base.Abilities(
          banks=base.Banks(own(_rows_of), own(_bind_rows),
                           options.norm == 'shared'), own_head=True))


def _draw(options: Options, backbone, tasks) -> np.ndarray:
  """The paths of a group: [tasks, levels, N]."""
  return path_sampling.draw(
      options.paths, options.path_seed, options.first + tasks,
      graph.shape_of(backbone, options.active), options.overlap,
      options.similarity)[options.first:]


def _init(options: Options, key, backbone, shared, route):
  del key
  routes = base.members(route)
  paths = _draw(options, backbone, len(routes))
  start = graph.stack_modules(backbone)
  if shared:
    start = {level: jax.tree.map(
        lambda mine, theirs, frozen=shared['frozen'][level]: jnp.where(
            _along(frozen, mine), theirs, mine), bank,
        shared['segments'][level]) for level, bank in start.items()}
  banks, own = {}, {}
  for i, (level, bank) in enumerate(start.items()):
    modules, norms = graph.split_norms(bank, options.norm == 'affine')
    rows = paths[:, i].reshape(-1) if options.copies else np.arange(
        len(jax.tree.leaves(bank)[0]))
    banks[level] = jax.tree.map(lambda x, rows=rows: x[rows], modules)
    own[level] = jax.tree.map(lambda x, i=i: x[paths[:, i]], norms)
  banks['own'] = {'head': graph.stack_heads(backbone, options.first, routes),
                  'norms': own if options.norm == 'affine' else {}}
  return banks


def _rows_of(options: Options, trainable) -> dict:
  """The rows of each bank that each task trains; see `base.Banks`."""
  tasks, active = _tasks(trainable), options.active
  if options.copies:
    place = np.arange(tasks * active).reshape(tasks, active)
    rows = {level: place for level in trainable if level != 'own'}
  else:
    # The shapes determine the graph: M is the number of rows.
    paths = _draw(options, _level_names(trainable), tasks)
    rows = {level: paths[:, int(level[5:]) - 1] for level in trainable
            if level != 'own'}
  return rows | {'own': np.arange(tasks)[:, None]}


def _bind_rows(options: Options, taken, shared, rows) -> dict:
  """The parameters of a task, from its rows of each bank."""
  own = jax.tree.map(lambda x: x[0], taken['own'])
  params: dict = {'head': own['head']}
  digits = len(str(options.active - 1))
  for level, modules in taken.items():
    if level == 'own':
      continue
    if shared:
      frozen = jnp.asarray(shared['frozen'][level])[rows[level]]
      modules = jax.tree.map(lambda x, frozen=frozen: jnp.where(
          _along(frozen, x), jax.lax.stop_gradient(x), x), modules)
    modules = _merge(modules, own['norms'].get(level))  # never frozen
    params[level] = {
        f'slot{n:0{digits}d}': jax.tree.map(lambda x, n=n: x[n], modules)
        for n in range(options.active)}
  return params


def _bind(options: Options, backbone, trainable, shared, route):
  del backbone
  rows = {bank: own[route.member]
          for bank, own in _rows_of(options, trainable).items()}
  taken = {bank: jax.tree.map(lambda x, r=rows[bank]: x[r], tree)
           for bank, tree in trainable.items()}
  params = _bind_rows(options, taken, shared, rows)
  params['head'] = jax.tree.map(lambda x: x[..., :route.classes],
                                params['head'])
  return params


def _commit(options: Options, backbone, trainable, shared, route):
  path = graph.task_path(
      _draw(options, backbone, _tasks(trainable))[route.member],
      options.first + route.member)
  bound = trees.flatten(_bind(options, backbone, trainable, shared, route))
  values = dict.fromkeys(trees.flatten(backbone))
  for own, name in path.parts:
    values |= {leaf.replace(own, name, 1): value
               for leaf, value in bound.items()
               if leaf.startswith(f'{own}/')}
  return impressions.Impression(values=trees.unflatten(values),
                                path=path), shared


def _prepare(options: Options, context):
  if options.after is None or context.group is None:
    return {}
  return graph.segments_of(context.backbone, context.earlier)


def _relies_on(options: Options, before, phase):
  return () if options.after is None else reused(options.after, before, phase)


def _check(options: Options, training, backbone, before, own):
  check_training(options.norm, training)
  for option, kind in (('overlap', 'overlapping'), ('similarity', 'guided')):
    if fields.changed(options, option) and options.paths != kind:
      raise ValueError(
          f'{option} is {getattr(options, option)}, and '
          f'paths={options.paths!r} looks at none; leave it out, or take '
          f'paths={kind!r}')
  graph.shape_of(backbone, options.active)
  if options.after is not None and own:
    check_later(own[0].options, [e for e in before if e.phase == options.after])


def check_training(norm: str, training: base.Training) -> None:
  """Refuses training that would change modules off a task's path."""
  if (training.weight_decay or training.together is None
      or training.loss != 'classes'):
    raise ValueError("part needs together='rounds' or 'joint', loss='classes' "
                     'and no weight decay, which would change modules off the '
                     'path')
  if training.together == 'joint' and norm == 'shared':
    raise ValueError("norm='shared' depends on the order of the tasks; it "
                     "needs together='rounds'")


def reused(after: str, before, phase: str) -> list[base.Earlier]:
  """The tasks whose modules a phase reuses: those of `after` and before it.

  Raises:
    ValueError: `after` is not an earlier phase, or it has another method.
  """
  phases = dict.fromkeys(e.phase for e in before if e.phase != phase)
  if after not in phases:
    raise ValueError(f'after is {after!r}, which must be an earlier phase; '
                     f'earlier phases: {", ".join(phases) or "none"}')
  first = next(e for e in before if e.phase == after)
  if not isinstance(first.options, Options):
    raise ValueError(f'after is {after!r}, a phase of the method '
                     f'{first.method}; it must be one of part')
  own = [e for e in before if e.phase == after]
  if first.options.after is None:
    return own
  return [*reused(first.options.after, before, after), *own]


def check_later(now: Options, before) -> None:
  """Refuses a later group that doesn't continue where the earlier one ended.

  Args:
    now: options of the later group.
    before: the impressions of the group before it.

  Raises:
    ValueError: names the option that doesn't fit, and a value that would.
  """
  then, tasks = before[0].options, len(before)
  for name in ('active', 'paths', 'path_seed', 'overlap'):
    if getattr(now, name) != getattr(then, name):
      raise ValueError(
          f'{name} is {getattr(now, name)!r} but was {getattr(then, name)!r}; '
          'both groups draw their paths from one sequence; give the old value')
  for where, group in (('the earlier', then), ('the later', now)):
    if group.copies:
      raise ValueError(f'{where} group has copies=True: its modules are its '
                       "tasks' own, and reused by nobody")
  if now.first != then.first + tasks:
    raise ValueError(f'first is {now.first}, but the earlier tasks have the '
                     'heads and paths before number '
                     f'{then.first + tasks}; give that')
  if now.norm == 'shared':
    raise ValueError("norm='shared' would start the norm statistics of frozen "
                     "modules anew; take 'statistics' or 'affine'")


def _merge(modules, norms):
  return modules | (norms or {})


def _along(flags, leaf):
  """Flags [n], reshaped to broadcast with a leaf [n, ...]."""
  return jnp.reshape(jnp.asarray(flags), (-1,) + (1,) * (leaf.ndim - 1))


def _tasks(trainable) -> int:
  return trainable['own']['head']['bias'].shape[0]


def _level_names(trainable) -> dict:
  """A tree with the graph's names, made from the shapes of its banks."""
  return {'head': {}} | {
      level: range(jax.tree.leaves(bank)[0].shape[0])
      for level, bank in trainable.items() if level != 'own'}
