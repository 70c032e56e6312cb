"""The networks by name, as pure functions.

Methods see `apply(params, stats, x, train, axis_name)`, never a module class.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import trees
from mtl_jax.models import augreg
from mtl_jax.models import bnnet
from mtl_jax.models import mlp
from mtl_jax.models import part
from mtl_jax.models import resnet
from mtl_jax.models import stems
from mtl_jax.models import vit

Tree = trees.Tree


class Parts(NamedTuple):
  """A network that is made of components: the entries at the tree's top.

  Attributes:
    create: (name, outputs, adapter, key) -> a new component's sub-tree.
    apply: (params, x [n, H, W, C], active) -> logits; blocks and adapters
      whose entry in `active` is a traced False are passed over.
    flops: (params, image_shape) -> operations of one image's forward pass.
  """
  create: Callable[..., Tree]
  apply: Callable[..., Any]
  flops: Callable[..., float]


class Network(NamedTuple):
  """A network as two pure functions.

  Attributes:
    init: (key, input shape such as (H, W, C)) -> (params, stats). Of several
      shapes, each a tuple, the parameters are those of all of them; tokens
      are ('int32', length).
    apply: (params, stats, x [n, H, W, C], train, axis_name)
      -> (logits [n, outputs], stats). With `train`, batch statistics are used
      (over all devices of `axis_name`) and running ones updated.
    trace: of networks of parallel modules, (params, stats, x) -> features
      [n, channels] of each module and level by name; see `segments.trace`.
    parts: how to grow it, if its `apply` takes trees with other components
      than the backbone's.
  """
  init: Callable[..., tuple[Tree, Tree]]
  apply: Callable[..., tuple[Any, Tree]]
  trace: Callable[..., dict[str, Any]] | None = None
  parts: Parts | None = None


def from_linen(module_class: Callable[..., Any]) -> Network:
  """A `Network` of any Linen module class.

  Args:
    module_class: called with `axis_name=None`, or with no argument if the
      module has no batch norm, it returns a module whose `__call__` takes
      (x, train).
  """
  def init(key, image_shape):
    shapes = (image_shape if isinstance(image_shape[0], (tuple, list))
              else (image_shape,))
    params: dict = {}
    for shape in shapes:
      dtype = jnp.int32 if shape[0] == 'int32' else jnp.float32
      numbers = [n for n in shape if n != 'int32']
      variables = jax.jit(functools.partial(
          module_class().init, train=False))(key, jnp.zeros((1, *numbers),
                                                            dtype))
      _require_one_trunk(params, variables['params'], shapes[0], shape)
      params = dict(variables['params']) | params  # the first shape's trunk
    return params, variables.get('batch_stats', {})

  def apply(params, stats, x, train=False, axis_name=None):
    variables = {'params': params}
    if not stats:
      return module_class().apply(variables, x, train=train), stats
    variables['batch_stats'] = stats
    module = module_class(axis_name=axis_name)
    if not train:
      return module.apply(variables, x, train=False), stats
    logits, updated = module.apply(variables, x, train=True,
                                   mutable=['batch_stats'])
    return logits, updated['batch_stats']

  return Network(init, apply)


def _dense(widths):
  def make(outputs):
    return from_linen(lambda **_: mlp.MLP((*widths, outputs)))
  return make


def _gem_resnet18(outputs, width=20):
  return from_linen(lambda axis_name=None: resnet.GEMResNet18(
      outputs, width, axis_name))


def _bnnet(outputs, width=2048):
  return from_linen(lambda axis_name=None: bnnet.BNNet(
      outputs, width, axis_name))


def _part_cifar(outputs, heads=None, modules=12, active=4, width=64,
                form='auto'):
  return Network(*part.graph(
      lambda channels: part.cifar_levels(channels, width), modules, active,
      heads or (outputs,), form))


def _part_resnet(outputs, heads=None, modules=8, active=2, width=64,
                 blocks=part.BLOCKS, form='auto', weights=None, noise=0.):
  return Network(*part.graph(
      lambda channels: part.resnet_levels(channels, width, tuple(blocks)),
      modules, active, heads or (outputs,), form, weights, noise))


def _fully_connected(outputs, widths=(1000,) * 6, inputs=784, words=10000,
                     embedding=2, scale=None):
  return from_linen(lambda **_: stems.FullyConnected(
      outputs, tuple(widths), inputs, words, embedding, scale))


def _convolutional(outputs, channels=(32, 64), widths=(256, 256), inputs=1,
                   stride=1, scale=None):
  return from_linen(lambda **_: stems.Convolutional(
      outputs, tuple(channels), tuple(widths), inputs, stride, scale))


def _vit(preset):
  def make(outputs, num_layers=None, patch=None, width=None, hidden=None,
           heads=None, weights=None):
    sizes = vit.sizes_of(preset, layers=num_layers, patch=patch, width=width,
                         hidden=hidden, heads=heads)

    def init(key, image_shape):
      if weights is not None:
        return augreg.load(weights, sizes.layers, outputs, image_shape), {}
      return jax.jit(functools.partial(
          vit.init, sizes, outputs, image_shape=image_shape))(key), {}

    def apply(params, stats, x, train=False, axis_name=None):
      del train, axis_name  # no dropout, no batch statistics
      return vit.apply(params, x), stats

    create = lambda name, outputs, adapter, key: vit.create(
        name, sizes, outputs, adapter, key)
    return Network(init, apply,
                   parts=Parts(create, vit.apply, vit.flops))
  return make


MODELS = {
    'bnnet': _bnnet,
    'convolutional': _convolutional,
    'fc1024': _dense((1024, 1024)),
    'fully_connected': _fully_connected,
    'gem_resnet18': _gem_resnet18,
    'lenet_300_100': _dense((300, 100)),
    'part_cifar': _part_cifar,
    'part_resnet': _part_resnet,
    **{preset: _vit(preset) for preset in vit.PRESETS},
}


def _require_one_trunk(params, others, shape, other) -> None:
  known = trees.flatten(params)
  for name, leaf in trees.flatten(dict(others)).items():
    if name in known and np.shape(known[name]) != np.shape(leaf):
      raise ValueError(
          f'{name} is {np.shape(known[name])} for inputs of shape {shape} and '
          f'{np.shape(leaf)} for {other}: they share no network; give the '
          'suite an image_shape')


# Models that take inputs of several shapes.
STEMS = ('convolutional', 'fully_connected')


def make(name: str, outputs: int, **options) -> Network:
  """The network `name` with `outputs` logits.

  Raises:
    ValueError: unknown name (lists the known ones and the nearest) or option.
  """
  if name not in MODELS:
    raise ValueError(f'unknown model {name!r}{trees.nearest(name, MODELS)}; '
                     f'known: {", ".join(sorted(MODELS))}')
  return _make(name, outputs, tuple(sorted(
      (key, trees.hashable(value)) for key, value in options.items())))


@functools.lru_cache(maxsize=None)
def _make(name, outputs, options):
  """Equal arguments give the same network, so that nothing compiles twice."""
  return trees.call(f'model {name}', MODELS[name],
                    dict(options) | {'outputs': outputs})
