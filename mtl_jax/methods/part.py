"""PaRT: tasks trained in parallel on shared segments.

Paknezhad et al. 2022, https://arxiv.org/abs/2201.09534. The backbone has M
parallel modules in each level; a task's path takes N of them, and modules on
several paths are trained by several tasks. A group of tasks trains together
and commits together: each task leaves the modules of its path, its own head
and its own norm statistics. A later group can reuse the committed modules,
which are frozen, and train free ones.

The baselines are the same code: 'identical' paths are hard sharing, and with
`copies` every task trains modules of its own, from the same initial weights on
the same path (single-task learning).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.methods import base
from mtl_jax.methods import path_sampling

Tree = trees.Tree
NORMS = ('affine', 'shared', 'statistics')


def part(active: int, paths: str = 'official', path_seed: int = 456,
         overlap: int = 0, similarity=None, norm: str = 'statistics',
         copies: bool = False, first: int = 0,
         after: str | None = None) -> base.Method:
  """Parallel training on paths.

  `shared` is {} or {'segments': {level: modules [M, ...]}, 'frozen': {level:
  bool [M]}}, what earlier groups committed.

  Args:
    active: N, the modules of a path in each level; the model's `active`.
    paths: kind of paths; see `mtl_jax.methods.path_sampling.draw`.
    path_seed: seed of the paths. PaRT's five test cases have 456, 23743,
      96253, 36 and 2543.
    overlap: with paths='overlapping': number of modules in each level that
      all tasks use.
    similarity: with paths='guided': similarities [first + T, first + T] of
      all tasks up to the group's last, with those before `first`.
    norm: 'statistics' (each task has its own norm statistics), 'affine' (and
      its own scales and shifts) or 'shared' (tasks mix both, as the paper's
      CIFAR code does).
    copies: every task trains its own copy of its path's modules.
    first: number of the group's first head, and path, in the backbone.
    after: name of an earlier phase. Its tasks' modules, and those of the
      phases that it came after itself, are reused and frozen.

  Raises:
    ValueError: an unknown mode of norms; graphs that don't hold the paths are
      refused by `init`.
  """
  if norm not in NORMS:
    raise ValueError(f'unknown norm {norm!r}{trees.nearest(norm, NORMS)}; '
                     f'known: {", ".join(NORMS)}')

  def draw(backbone, tasks):
    shape = graph_shape(backbone, active)
    return path_sampling.draw(paths, path_seed, first + tasks, shape, overlap,
                          similarity)[first:]

  def init(key, backbone, shared, route):
    del key
    routes = base.members(route)
    found = draw(backbone, len(routes))
    start = stack_modules(backbone)
    if shared:
      start = {level: jax.tree.map(
          lambda mine, theirs, frozen=shared['frozen'][level]: jnp.where(
              _along(frozen, mine), theirs, mine), bank,
          shared['segments'][level]) for level, bank in start.items()}
    banks, own = {}, {}
    for i, (level, bank) in enumerate(start.items()):
      modules, norms = split_norms(bank, norm == 'affine')
      rows = found[:, i].reshape(-1) if copies else np.arange(
          len(jax.tree.leaves(bank)[0]))
      banks[level] = jax.tree.map(lambda x, rows=rows: x[rows], modules)
      own[level] = jax.tree.map(lambda x, i=i: x[found[:, i]], norms)
    banks['own'] = {'head': stack_heads(backbone, first, routes),
                    'norms': own if norm == 'affine' else {}}
    return banks

  def rows_of(trainable):
    tasks = _tasks(trainable)
    if copies:
      place = np.arange(tasks * active).reshape(tasks, active)
      rows = {level: place for level in trainable if level != 'own'}
    else:
      # The shapes tell the graph: M is the number of rows.
      found = draw(_level_names(trainable), tasks)
      rows = {level: found[:, int(level[5:]) - 1] for level in trainable
              if level != 'own'}
    return rows | {'own': np.arange(tasks)[:, None]}

  def bind_rows(taken, shared, rows):
    own = jax.tree.map(lambda x: x[0], taken['own'])
    params: dict = {'head': own['head']}
    for level, modules in taken.items():
      if level == 'own':
        continue
      if shared:
        frozen = jnp.asarray(shared['frozen'][level])[rows[level]]
        modules = jax.tree.map(lambda x, frozen=frozen: jnp.where(
            _along(frozen, x), jax.lax.stop_gradient(x), x), modules)
      modules = _merge(modules, own['norms'].get(level))  # never frozen
      params[level] = {
          f'slot{n:0{len(str(active - 1))}d}': jax.tree.map(
              lambda x, n=n: x[n], modules) for n in range(active)}
    return params

  def bind(backbone, trainable, shared, route):
    del backbone
    rows = {bank: own[route.member]
            for bank, own in rows_of(trainable).items()}
    taken = {bank: jax.tree.map(lambda x, r=rows[bank]: x[r], tree)
             for bank, tree in trainable.items()}
    params = bind_rows(taken, shared, rows)
    params['head'] = jax.tree.map(lambda x: x[..., :route.classes],
                                  params['head'])
    return params

  def commit(backbone, trainable, shared, route):
    path = task_path(draw(backbone, _tasks(trainable))[route.member],
                     first + route.member)
    bound = trees.flatten(bind(backbone, trainable, shared, route))
    values = dict.fromkeys(trees.flatten(backbone))
    for own, name in path.parts:
      values |= {leaf.replace(own, name, 1): value
                 for leaf, value in bound.items()
                 if leaf.startswith(f'{own}/')}
    impression = impressions.Impression(values=trees.unflatten(values),
                                        path=path)
    return impression, shared

  def prepare(context):
    if after is None or context.group is None:
      return {}
    return segments_of(context.backbone, context.earlier)

  def relies_on(before, phase):
    return () if after is None else reused(after, before, phase)

  def check(training, backbone, before, own):
    check_training(norm, training)
    graph_shape(backbone, active)
    if after is not None and own:
      check_later(own[0].options, [e for e in before if e.phase == after])

  return base.Method(
      init, bind, commit, base.materialise, prepare, relies_on, check=check,
      abilities=base.Abilities(
          banks=base.Banks(rows_of, bind_rows, norm == 'shared')))


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of the method in a config; `part` explains them."""
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
    make(self)


def make(options: Options) -> base.Method:
  """The method of a config's options."""
  return part(**{f.name: getattr(options, f.name)
                 for f in dataclasses.fields(options)})


def check_training(norm: str, training: base.Training) -> None:
  """Refuses a phase that would train modules off a task's path."""
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
    ValueError: `after` is no earlier phase, or one of another method.
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


def graph_shape(backbone: Tree, active: int) -> path_sampling.Shape:
  """Levels and modules of a backbone, or of anything with its names.

  Raises:
    ValueError: the backbone has no parallel modules.
  """
  levels = [name for name in backbone if name.startswith('level')]
  if not levels or 'head' not in backbone:
    raise ValueError('PaRT needs a backbone of levels of parallel modules and '
                     'a head per task, such as the models part_cifar and '
                     f'part_resnet; this one has: {", ".join(backbone)}')
  return path_sampling.Shape(len(levels), len(backbone[levels[0]]), active)


def task_path(rows: np.ndarray, head: int) -> impressions.Path:
  """The backbone's modules and head that fill a task's slots.

  >>> task_path(np.array([[0, 3]]), 2).parts[1:]
  (('level1/slot1', 'level1/module03'), ('head', 'head/task02'))
  """
  digits = len(str(rows.shape[1] - 1))
  return impressions.Path(tuple(
      (f'level{i + 1}/slot{n:0{digits}d}', f'level{i + 1}/module{m:02d}')
      for i, level in enumerate(rows.tolist())
      for n, m in enumerate(level)) + (('head', f'head/task{head:02d}'),))


def stack_modules(backbone: Tree) -> dict[str, Tree]:
  """The modules of each level as one tree of leaves [M, ...]."""
  return {level: jax.tree.map(lambda *leaves: jnp.stack(leaves), *[
      modules[name] for name in sorted(modules)])
          for level, modules in sorted(backbone.items())
          if level.startswith('level')}


def stack_heads(backbone: Tree, first: int, routes) -> Tree:
  """The heads of a group's tasks [T, ...], padded with 0 to the widest.

  Raises:
    ValueError: the backbone lacks a head, or a task has other classes.
  """
  heads, found = backbone['head'], []
  for k, route in enumerate(routes):
    name = f'task{first + k:02d}'
    if name not in heads:
      raise ValueError(f'the backbone has {len(heads)} heads, none named '
                       f'{name}; give the model (backbone.options.heads) the '
                       'classes of every task')
    if heads[name]['bias'].shape != (route.classes,):
      raise ValueError(
          f'head {name} has {heads[name]["bias"].shape[0]} outputs but its '
          f'task has {route.classes} classes; correct backbone.options.heads')
    found.append(heads[name])
  most = max(route.classes for route in routes)
  return jax.tree.map(lambda *leaves: jnp.stack([
      jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, most - x.shape[-1])])
      for x in leaves]), *found)


def segments_of(backbone: Tree, found) -> dict:
  """`shared` for a later group: the modules of earlier tasks, frozen.

  Args:
    backbone: parameter tree.
    found: impressions of the earlier tasks, in the order of learning.

  Returns:
    {'segments', 'frozen'}; see `part`. {} if there is no earlier task.
  """
  if not found:
    return {}
  params, frozen = backbone, {
      level: np.zeros(len(modules), bool)
      for level, modules in backbone.items() if level.startswith('level')}
  for impression in found:
    params = trees.combine(impression.values, params)
    for _, name in impression.path.parts:
      level, _, module = name.partition('/')
      if level in frozen:
        frozen[level][sorted(backbone[level]).index(module)] = True
  return {'segments': stack_modules(params), 'frozen': frozen}


def check_later(now: Options, before) -> None:
  """Refuses a later group that doesn't continue where the earlier one ended.

  Args:
    now: options of the later group.
    before: the impressions of the group before it.

  Raises:
    ValueError: names the option that doesn't fit, and what would.
  """
  then, tasks = before[0].options, len(before)
  for name in ('active', 'paths', 'path_seed', 'overlap'):
    if getattr(now, name) != getattr(then, name):
      raise ValueError(
          f'{name} is {getattr(now, name)!r} but was {getattr(then, name)!r}; '
          'paths of both groups are drawn in one row, so that it must stay')
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


def split_norms(bank: Tree, apart: bool) -> tuple[Tree, Tree]:
  """The layers of a bank and, if `apart`, its norms for themselves."""
  is_norm = lambda layer: 'scale' in layer
  if not apart:
    return bank, {}
  return ({name: layer for name, layer in bank.items() if not is_norm(layer)},
          {name: layer for name, layer in bank.items() if is_norm(layer)})


def _merge(modules, norms):
  return modules | (norms or {})


def _along(flags, leaf):
  """[n] flags beside a leaf [n, ...]."""
  return jnp.reshape(jnp.asarray(flags), (-1,) + (1,) * (leaf.ndim - 1))


def _tasks(trainable) -> int:
  return trainable['own']['head']['bias'].shape[0]


def _level_names(trainable) -> dict:
  """A tree with the graph's names, from the shapes of its banks."""
  return {'head': {}} | {
      level: range(jax.tree.leaves(bank)[0].shape[0])
      for level, bank in trainable.items() if level != 'own'}
