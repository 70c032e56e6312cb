"""Networks of levels of parallel modules; a task uses some of each level.

    x <- post(sum over the modules of the path of f(x) [+ x])

The sum is plain: no weights, no gating (PaRT, Paknezhad et al. 2022,
https://arxiv.org/abs/2201.09534). Every module has its own leaves, named
`level3/module07/conv1/kernel`; every task has a head, `head/task02/kernel`.

A task's network has only the modules of its path, under the names of its N
slots (`level3/slot1/...`, `head/...`): tasks of one shape share one
executable, whichever modules they use. `methods.graph.task_path` maps between
the names. Norm statistics belong to the slots. A whole backbone is applied with
the first N modules of each level and its first head.

There are three forms. In 'fused', the modules of a level are one wide
convolution, followed by grouped ones. In 'blocks', the later convolutions are
wide too, with zeros between modules. In 'loop', modules run one after another.
'auto' takes the loop on CPU, where XLA's gradients of grouped convolutions are
slow (experiments/benchmarks), and the fused form on accelerators.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtl_jax import trees
from mtl_jax.models import convolution

Tree = trees.Tree
MOMENTUM, EPSILON = 0.9, 1e-5
FORMS = ('auto', 'blocks', 'fused', 'loop')


class Level(NamedTuple):
  """One level of the graph.

  Attributes:
    shapes: shapes of a module's leaves by name; the last axis is that of its
      channels, so that modules can be concatenated to one wide module.
    norms: names of its batch norms, with their channels.
    apply: (params, x, norm, groups) -> y, the module, or `groups` of them side
      by side (see `convolve`); `norm(name, x)` is batch norm.
    channels: channels of a module's output.
    post: applied to (the sum over modules, the level's input).
  """
  shapes: dict[str, tuple[int, ...]]
  norms: dict[str, int]
  apply: Callable
  channels: int
  post: Callable


class Groups(NamedTuple):
  """Number of modules side by side, and whether one kernel holds them all."""
  modules: int
  blocks: bool


ONE = Groups(1, False)


def convolve(x, layer: Tree, groups: Groups = ONE, stride: int = 1,
             padding: int | None = None):
  """A convolution with its bias, if it has one; [n, H, W, C].

  Without `padding` the image keeps its size (at stride 1).
  """
  kernel, count = layer['kernel'], groups.modules
  if groups.blocks:
    kernel, count = blocks_of(kernel, count), 1
  y = convolution.convolve(
      x, kernel, (stride, stride),
      'SAME' if padding is None else [(padding, padding)] * 2,
      feature_group_count=count)
  return y + row(layer['bias']) if 'bias' in layer else y


def blocks_of(kernel, groups: int):
  """[h, w, in, groups x out] -> [h, w, groups x in, groups x out], 0 between.
  """
  height, width, inputs, outputs = kernel.shape
  split = kernel.reshape(height, width, 1, inputs, groups, -1)
  own = jnp.eye(groups, dtype=bool).reshape(1, 1, groups, 1, groups, 1)
  return jnp.where(own, split, 0.).reshape(height, width, -1, outputs)


def row(x):
  """[C] -> [1, 1, 1, C]."""
  return x.reshape(1, 1, 1, -1)


def batch_norm(x, layer: Tree, stats: Tree, train: bool, axis_name=None):
  """Batch norm over all but the channels.

  Returns:
    (y, running statistics: 0.9 of the old and 0.1 of the batch's, if `train`).
    The running variance is the batch's own, divided by n as in Flax; PyTorch
    keeps the unbiased one, larger by 1 / (n - 1), n being images x pixels.
  """
  if train:
    mean, square = jnp.mean(x, (0, 1, 2)), jnp.mean(jnp.square(x), (0, 1, 2))
    if axis_name is not None:
      mean, square = lax.pmean((mean, square), axis_name)
    var = jnp.maximum(0., square - jnp.square(mean))
    new = {'mean': MOMENTUM * stats['mean'] + (1 - MOMENTUM) * mean,
           'var': MOMENTUM * stats['var'] + (1 - MOMENTUM) * var}
  else:
    mean, var, new = stats['mean'], stats['var'], stats
  scale = layer['scale'] * lax.rsqrt(var + EPSILON)
  return (x - row(mean)) * row(scale) + row(layer['bias']), new


def apply_modules(level: Level, modules: list[Tree], stats: list[Tree], x,
                  train: bool, axis_name=None, form: str = 'loop'):
  """The sum of a level's modules on x.

  Args:
    level: level of the graph.
    modules: parameters of each module on the path.
    stats: norm statistics of each module.
    x: [n, H, W, C].
    train: whether to use the batch's statistics.
    axis_name: axis of the devices over which statistics are averaged.
    form: 'loop', 'fused' or 'blocks'.

  Returns:
    (sum over modules [n, H', W', channels], statistics of each).
  """
  def one(params, own, groups):
    new = {}

    def norm(name, y):
      y, new[name] = batch_norm(y, params[name], own[name], train, axis_name)
      return y
    return level.apply(params, x, norm, groups), new

  groups = len(modules)
  if form == 'loop' or groups == 1:
    found = [one(params, own, ONE) for params, own in zip(modules, stats)]
    return sum(y for y, _ in found), [new for _, new in found]
  wide = lambda *leaves: jnp.concatenate(leaves, axis=-1)
  y, new = one(jax.tree.map(wide, *modules), jax.tree.map(wide, *stats),
               Groups(groups, form == 'blocks'))
  y = y.reshape(*y.shape[:-1], groups, level.channels).sum(axis=-2)
  return y, [jax.tree.map(lambda a: jnp.split(a, groups, -1)[i], new)
             for i in range(groups)]


def slots(levels: int, active: int) -> list[list[str]]:
  """Names of a task's modules, level by level."""
  digits = len(str(active - 1))
  return [[f'level{i + 1}/slot{n:0{digits}d}' for n in range(active)]
          for i in range(levels)]


def module_name(level: int, module: int) -> str:
  """Name of a module in the backbone; both counted from 0."""
  return f'level{level + 1}/module{module:02d}'


def head_name(task: int) -> str:
  """Name of a task's head in the backbone."""
  return f'head/task{task:02d}'


def present(params: Tree, stats: Tree, level: str):
  """A level's modules with their statistics, by slot.

  Surplus modules of a whole backbone are ignored.

  Raises:
    ValueError: there are fewer modules than slots, or a path has more.
  """
  own, names = params[level], sorted(stats[level])
  if len(own) < len(names) or (len(own) > len(names)
                               and next(iter(own)).startswith('slot')):
    raise ValueError(f'{level} has {trees.counted(len(own), "module")} but the '
                     f'model has slots for {len(names)}; give the method and '
                     'the model (backbone.options) the same active')
  return {slot: (own[name], stats[level][slot])
          for slot, name in zip(names, trees.by_number(own))}


def check_form(form: str) -> None:
  """Refuses unknown forms."""
  if form not in FORMS:
    raise ValueError(f'unknown form {form!r}{trees.nearest(form, FORMS)}; '
                     f'known: {", ".join(FORMS)}')


def apply(levels: tuple[Level, ...], form: str, params: Tree, stats: Tree, x,
          train: bool = False, axis_name=None, remat: bool = False):
  """`models.Network.apply` of a graph; see the module.

  With `remat`, the values inside a level are recomputed for its gradients.
  """
  if form == 'auto':
    form = 'loop' if jax.default_backend() == 'cpu' else 'fused'
  new = {}
  for i, level in enumerate(levels):
    name = f'level{i + 1}'
    found = present(params, stats, name)

    def modules(params, own, x, level=level):
      return apply_modules(level, params, own, x, train,
                           axis_name if train else None, form)
    y, updated = (jax.checkpoint(modules) if remat else modules)(
        [m for m, _ in found.values()], [s for _, s in found.values()], x)
    new[name] = stats[name] | dict(zip(found, updated))
    x = level.post(y, x)
  head = params['head']
  if 'kernel' not in head:
    head = head[min(head)]
  logits = jnp.dot(jnp.mean(x, axis=(1, 2)), head['kernel'])
  return logits + head['bias'].reshape(1, -1), new


def trace(levels: tuple[Level, ...], params: Tree, stats: Tree,
          x) -> dict[str, jax.Array]:
  """The outputs of each module and level, averaged over the image.

  Returns:
    float32 [n, channels] by name: 'level3/slot1' is the output of a module,
    'level3' that of the level. The last level's output is the head's input.
  """
  found = {}
  for i, level in enumerate(levels):
    name, outputs = f'level{i + 1}', []
    for slot, (module, own) in present(params, stats, name).items():
      y, _ = apply_modules(level, [module], [own], x, False)
      found[f'{name}/{slot}'] = jnp.mean(y, (1, 2))
      outputs.append(y)
    x = level.post(sum(outputs), x)
    found[name] = jnp.mean(x, (1, 2))
  return found


def initial_stats(levels: tuple[Level, ...], active: int) -> Tree:
  """Mean 0 and variance 1 for every norm of every slot."""
  return trees.unflatten({
      f'{slot}/{norm}/{part}': jnp.full((channels,), value, jnp.float32)
      for level, names in zip(levels, slots(len(levels), active))
      for slot in names for norm, channels in level.norms.items()
      for part, value in (('mean', 0.), ('var', 1.))})


def shapes(levels: tuple[Level, ...], modules: int, heads: tuple[int, ...],
           features: int) -> dict[str, tuple[int, ...]]:
  """Shapes of all leaves of the backbone by name."""
  found = {f'{module_name(i, m)}/{leaf}': shape
           for i, level in enumerate(levels) for m in range(modules)
           for leaf, shape in level.shapes.items()}
  for k, classes in enumerate(heads):
    found[f'{head_name(k)}/kernel'] = (features, classes)
    found[f'{head_name(k)}/bias'] = (classes,)
  return found
