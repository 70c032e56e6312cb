"""PaRT's networks: nine levels for CIFAR, and ResNet-50's stages as modules.

Paknezhad et al. 2022, https://arxiv.org/abs/2201.09534, and its official code.
Both are graphs of `segments`, for any width, number of modules M and path size
N. Leaves are drawn as in PyTorch: uniform in +-1/sqrt(fan in), including
biases.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import masks
from mtl_jax import trees
from mtl_jax.models import pooling
from mtl_jax.models import pretrained
from mtl_jax.models import segments

# Channels as multiples of the width: in, out; whether a max pool follows.
CIFAR_LEVELS = ((0, 1, False), (1, 1, False), (1, 1, False), (1, 2, False),
                (2, 2, True), (2, 4, False), (4, 4, True), (4, 8, False),
                (8, 8, False))
BLOCKS = (3, 4, 6, 3)  # ResNet-50
# Arrays of a torchvision file for which the modules have no leaves.
_LEFT_OUT = re.compile(r'fc\..*|.*num_batches_tracked')


def _norm_shapes(norms):
  return {f'{name}/{part}': (channels,) for name, channels in norms.items()
          for part in ('scale', 'bias')}


def _first_level(channels, out) -> segments.Level:
  """Convolution, norm and ReLU."""
  def apply(p, x, norm, groups):
    del groups
    return jax.nn.relu(norm('norm1', segments.convolve(x, p['conv1'])))
  norms = {'norm1': out}
  return segments.Level(
      {'conv1/kernel': (3, 3, channels, out), 'conv1/bias': (out,)}
      | _norm_shapes(norms), norms, apply, out, lambda y, x: jax.nn.relu(y))


def _level(channels, out, pool) -> segments.Level:
  """Two convolutions with norms, and a skip if the channels don't change."""
  def apply(p, x, norm, groups):
    y = jax.nn.relu(norm('norm1', segments.convolve(x, p['conv1'])))
    return norm('norm2', segments.convolve(y, p['conv2'], groups))

  def post(y, x):
    y = jax.nn.relu(y + x if channels == out else y)
    return pooling.max_pool(y) if pool else y
  norms = {'norm1': out, 'norm2': out}
  return segments.Level(
      {'conv1/kernel': (3, 3, channels, out), 'conv1/bias': (out,),
       'conv2/kernel': (3, 3, out, out), 'conv2/bias': (out,)}
      | _norm_shapes(norms), norms, apply, out, post)


def cifar_levels(channels: int, width: int) -> tuple[segments.Level, ...]:
  """The nine levels for images [32, 32, channels]; PaRT's width is 64."""
  first, *rest = CIFAR_LEVELS
  return (_first_level(channels, first[1] * width),) + tuple(
      _level(a * width, b * width, pool) for a, b, pool in rest)


def _stem(channels, width) -> segments.Level:
  """ResNet's stem as a module: 7x7 / 2, norm, ReLU, max pool 3 / 2."""
  def apply(p, x, norm, groups):
    del groups
    y = segments.convolve(x, p['conv1'], stride=2, padding=3)
    return pooling.max_pool(jax.nn.relu(norm('bn1', y)), 3, 2, 1)
  norms = {'bn1': width}
  return segments.Level(
      {'conv1/kernel': (7, 7, channels, width)} | _norm_shapes(norms), norms,
      apply, width, lambda y, x: y)


def _stage(channels, width, stride, blocks) -> segments.Level:
  """A whole stage of bottleneck blocks as a module."""
  out, shapes, norms = 4 * width, {}, {}
  for b in range(blocks):
    taken = out if b else channels
    for name, kernel in (('conv1', (1, 1, taken, width)),
                         ('conv2', (3, 3, width, width)),
                         ('conv3', (1, 1, width, out)),
                         ('downsample', (1, 1, taken, out))):
      if name != 'downsample' or not b:
        shapes[f'block{b}_{name}/kernel'] = kernel
        norms[f'block{b}_{name}_bn'] = kernel[-1]

  def apply(p, x, norm, groups):
    for b in range(blocks):
      steps = stride if not b else 1

      def conv(name, y, groups_, stride_=1, pad=0, b=b):
        y = segments.convolve(y, p[f'block{b}_{name}'], groups_, stride_, pad)
        return norm(f'block{b}_{name}_bn', y)
      # The first block reads the input of all modules.
      taken = groups if b else segments.ONE
      y = jax.nn.relu(conv('conv1', x, taken))
      y = jax.nn.relu(conv('conv2', y, groups, steps, 1))
      y = conv('conv3', y, groups)
      x = jax.nn.relu(y + (x if b else conv('downsample', x, taken, steps)))
    return x
  return segments.Level(shapes | _norm_shapes(norms), norms, apply, out,
                        lambda y, x: y)


def resnet_levels(channels: int, width: int,
                  blocks: tuple[int, ...]) -> tuple[segments.Level, ...]:
  """A stem and the stages of a bottleneck ResNet (64 and (3, 4, 6, 3): 50)."""
  levels, taken = [_stem(channels, width)], width
  for i, count in enumerate(blocks):
    levels.append(_stage(taken, width * 2 ** i, 2 if i else 1, count))
    taken = 4 * width * 2 ** i
  return tuple(levels)


def _draw(key, shapes):
  """PyTorch's default draw of every leaf; norms start at 1 and 0."""
  def leaf(name, shape):
    if name.endswith('/scale'):
      return jnp.ones(shape, jnp.float32)
    layer = name.rpartition('/')[0]
    if f'{layer}/kernel' not in shapes:  # a norm's shift
      return jnp.zeros(shape, jnp.float32)
    fan_in = int(np.prod(shapes[f'{layer}/kernel'][:-1]))
    return _uniform(masks.leaf_key(key, name), fan_in ** -.5,
                    int(np.prod(shape))).reshape(shape)
  return trees.unflatten({n: leaf(n, s) for n, s in sorted(shapes.items())})


@functools.partial(jax.jit, static_argnums=2)
def _uniform(key, bound, count):
  """Uniform numbers; one executable per size instead of one per leaf."""
  return jax.random.uniform(key, (count,), jnp.float32, -bound, bound)


def graph(make_levels, modules: int, active: int, heads: tuple[int, ...],
          form: str):
  """The functions `init`, `apply` and `trace` of a `models.Network`.

  `apply` also takes `remat`, see `segments.apply`.

  Args:
    make_levels: (channels of the images) -> levels.
    modules: number of modules M in each level.
    active: number of modules N on a path in each level.
    heads: number of classes of each task's head.
    form: see `segments`.

  Raises:
    ValueError: there is no head, N is larger than M, or the form is unknown.
  """
  if not 1 <= active <= modules:
    raise ValueError(f'a path of {active} modules a level does not fit the '
                     f'{modules} of the backbone')
  if not heads or min(heads) < 1:
    raise ValueError(f'heads is {heads}; give every task its classes')
  segments.check_form(form)

  def init(key, image_shape):
    levels = make_levels(image_shape[-1])
    shapes = segments.shapes(levels, modules, heads, levels[-1].channels)
    return _draw(key, shapes), segments.initial_stats(levels, active)

  def apply(params, stats, x, train=False, axis_name=None, remat=False):
    return segments.apply(make_levels(x.shape[-1]), form, params, stats, x,
                          train, axis_name, remat)

  def trace(params, stats, x):
    return segments.trace(make_levels(x.shape[-1]), params, stats, x)

  return init, apply, trace


def published(noise: float) -> pretrained.Published:
  """The published form of `resnet50()` in torchvision.

  Every module of a level starts from the same weights, which have the names and
  the axes of `state_dict()`; the heads stay as they are drawn. Two modules that
  the same tasks use would get the same gradients and stay equal; noise makes
  them differ.

  Args:
    noise: standard deviation of the noise on kernels, as a multiple of each
      kernel's own standard deviation.
  """
  return pretrained.Published(functools.partial(_take, noise), ('head/.*',))


def _take(noise, arrays, known, key, image_shape) -> dict:
  """Arrays by path of leaf; see `pretrained.Published`."""
  del image_shape
  result, used = {}, set()
  for name in known:
    level, _, *rest = name.removeprefix(pretrained.STATS).split('/')
    theirs = None if level == 'head' else _torch_name('/'.join([level, *rest]))
    if theirs not in arrays:
      continue
    used.add(theirs)
    value = np.asarray(arrays[theirs])
    if value.ndim == 4:
      value = value.transpose(2, 3, 1, 0)
    if noise and name.endswith('/kernel'):
      value = value + noise * np.std(value) * jax.random.normal(
          masks.leaf_key(key, f'{name}/noise'), value.shape, jnp.float32)
    result[name] = value
  if noise and not used:
    raise ValueError(f'the noise {noise} belongs to weights in the published '
                     'form, and the file has none of their names; leave noise '
                     'out, or give another file')
  return result | {name: array for name, array in arrays.items()
                   if name not in used and not _LEFT_OUT.fullmatch(name)}


def _torch_name(name: str) -> str:
  """'level2/block0_conv1_bn/scale' -> 'layer1.0.bn1.weight'."""
  level, layer, part = name.split('/')
  part = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias',
          'mean': 'running_mean', 'var': 'running_var'}[part]
  if level == 'level1':
    return f'{layer}.{part}'
  block, _, which = layer.partition('_')
  if which.startswith('downsample'):
    which = f'downsample.{int(which.endswith("_bn"))}'
  elif which.endswith('_bn'):
    which = which.replace('conv', 'bn').removesuffix('_bn')
  return f'layer{int(level[5:]) - 1}.{block[5:]}.{which}.{part}'
