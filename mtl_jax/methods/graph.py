"""PaRT's graph: levels of parallel modules, paths through them, and heads."""

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.methods import path_sampling

Tree = trees.Tree


def shape_of(backbone: Tree, active: int) -> path_sampling.Shape:
  """The size of a backbone's graph, from its names; leaves may be anything.

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
  """The backbone's modules and head that fill the slots of a task's path.

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
      backbone[level][name] for name in trees.by_number(backbone[level])])
          for level in trees.by_number(backbone) if level.startswith('level')}


def stack_heads(backbone: Tree, first: int, routes) -> Tree:
  """The heads of a group's tasks [T, ...], padded with 0 to the widest.

  Raises:
    ValueError: the backbone lacks a head, or a head has other classes than its
      task.
  """
  heads, found = backbone['head'], []
  for k, route in enumerate(routes):
    name = f'task{first + k:02d}'
    if name not in heads:
      raise ValueError(f'the backbone has '
                       f'{trees.counted(len(heads), "head")}, none named '
                       f'{name}; give the model (backbone.options.heads) the '
                       'classes of every task')
    if heads[name]['bias'].shape != (route.classes,):
      raise ValueError(
          f'head {name} has '
          f'{trees.counted(heads[name]["bias"].shape[0], "output")} but its '
          f'task has {trees.counted(route.classes, "class")}; correct '
          'backbone.options.heads')
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
    {'segments', 'frozen'}; see `part.Options`. {} if there is no earlier task.
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
        frozen[level][trees.by_number(backbone[level]).index(module)] = True
  return {'segments': stack_modules(params), 'frozen': frozen}


def split_norms(bank: Tree, apart: bool) -> tuple[Tree, Tree]:
  """(layers of a bank, norms of a bank); if not `apart`, the norms stay."""
  is_norm = lambda layer: 'scale' in layer
  if not apart:
    return bank, {}
  return ({name: layer for name, layer in bank.items() if not is_norm(layer)},
          {name: layer for name, layer in bank.items() if is_norm(layer)})
