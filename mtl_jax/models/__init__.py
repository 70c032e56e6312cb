"""The registry of networks. Each is a factory that returns a `Network`.

One line in your own file registers your own network:

    mtl_jax.models.register('mine', lambda outputs: models.from_linen(
        MyModule(outputs)))
"""

import functools
from collections.abc import Callable, Mapping

import jax

from mtl_jax import registry
from mtl_jax import trees
from mtl_jax.models import augreg
from mtl_jax.models import bnnet
from mtl_jax.models import checks
from mtl_jax.models import mlp
from mtl_jax.models import network
from mtl_jax.models import part
from mtl_jax.models import pretrained
from mtl_jax.models import resnet
from mtl_jax.models import stems
from mtl_jax.models import vit

Network = network.Network
Parts = network.Parts
check = checks.check
from_functions = network.from_functions
from_linen = network.from_linen
from_nnx = network.from_nnx
Published = pretrained.Published


def _dense(widths):
  def make(outputs):
    return from_linen(lambda **_: mlp.MLP((*widths, outputs)))
  return make


def _gem_resnet18(outputs, width: int = 20):
  make = lambda remat: from_linen(
      lambda axis_name=None: resnet.GEMResNet18(outputs, width, axis_name,
                                                remat))
  return make(False)._replace(remat=lambda: make(True))


def _bnnet(outputs, width: int = 2048):
  return from_linen(lambda axis_name=None: bnnet.BNNet(
      outputs, width, axis_name))


def _part_cifar(outputs, heads: tuple[int, ...] | None = None,
                modules: int = 12, active: int = 4, width: int = 64,
                form: str = 'auto'):
  return _recomputable(Network(*part.graph(
      lambda channels: part.cifar_levels(channels, width), modules, active,
      heads or (outputs,), form)))


def _part_resnet(outputs, heads: tuple[int, ...] | None = None,
                 modules: int = 8, active: int = 2, width: int = 64,
                 blocks: tuple[int, ...] = part.BLOCKS, form: str = 'auto',
                 noise: float = 0.):
  made = Network(*part.graph(
      lambda channels: part.resnet_levels(channels, width, tuple(blocks)),
      modules, active, heads or (outputs,), form))
  return _recomputable(made._replace(published=part.published(noise)))


def _recomputable(made: Network) -> Network:
  """Adds `remat` to a network whose `apply` takes it."""
  return made._replace(remat=lambda: made._replace(
      apply=functools.partial(made.apply, remat=True), remat=None))


def _fully_connected(outputs, widths: tuple[int, ...] = (1000,) * 6,
                     inputs: int = 784, words: int = 10000, embedding: int = 2,
                     scale: float | None = None):
  return from_linen(lambda **_: stems.FullyConnected(
      outputs, tuple(widths), inputs, words, embedding, scale))


def _convolutional(outputs, channels: tuple[int, ...] = (32, 64),
                   widths: tuple[int, ...] = (256, 256), inputs: int = 1,
                   stride: int = 1, scale: float | None = None,
                   norm: bool = False):
  return from_linen(lambda axis_name=None: stems.Convolutional(
      outputs, tuple(channels), tuple(widths), inputs, stride, scale, norm,
      axis_name))


def _vit(preset):
  def make(outputs, num_layers: int | None = None, patch: int | None = None,
           width: int | None = None, hidden: int | None = None,
           heads: int | None = None):
    sizes = vit.sizes_of(preset, layers=num_layers, patch=patch, width=width,
                         hidden=hidden, heads=heads)

    def init(key, image_shape):
      return jax.jit(functools.partial(
          vit.init, sizes, outputs, image_shape=image_shape))(key), {}

    def apply(params, stats, x, train=False, axis_name=None):
      del train, axis_name  # no dropout, no batch statistics
      return vit.apply(params, x), stats

    create = lambda name, outputs, adapter, key: vit.create(
        name, sizes, outputs, adapter, key)
    made = Network(init, apply, parts=Parts(create, vit.apply, vit.flops),
                   published=augreg.published(sizes.layers, sizes.patch))
    again = functools.partial(vit.apply, remat=True)
    return made._replace(remat=lambda: made._replace(
        apply=lambda params, stats, x, train=False, axis_name=None: (
            again(params, x), stats),
        parts=Parts(create, again, vit.flops), remat=None, scanned=True))
  return make


MODELS = registry.Registry('model', {
    'bnnet': _bnnet,
    'convolutional': _convolutional,
    'fc1024': _dense((1024, 1024)),
    'fully_connected': _fully_connected,
    'gem_resnet18': _gem_resnet18,
    'lenet_300_100': _dense((300, 100)),
    'part_cifar': _part_cifar,
    'part_resnet': _part_resnet,
    **{preset: _vit(preset) for preset in vit.PRESETS},
})


# Models that take inputs of several shapes.
STEMS = ('convolutional', 'fully_connected')


def make(name: str, outputs: int, **options) -> Network:
  """The network `name` with `outputs` logits.

  Raises:
    ValueError: the name is unknown (lists the known ones and the nearest), or
      an option is, or `outputs` is no number.
  """
  if not trees.is_number(outputs):
    raise ValueError(f'outputs is {outputs!r}; give the number of logits')
  plain = checks.options(name, MODELS[name], options,
                         MODELS.origin(name) is None)
  return _make(name, outputs, tuple(sorted(plain.items())))


@functools.lru_cache(maxsize=256)
def _make(name, outputs, options):
  """Caches networks by their arguments, so that nothing compiles twice."""
  return checks.made(name, lambda: trees.call(
      f'model {name}', MODELS[name], dict(options) | {'outputs': outputs}))


@functools.lru_cache(maxsize=64)  # the same object compiles only once
def recomputing(name: str, network: Network) -> Network:
  """The network `name` with less memory for its gradients; see `Network`.

  Raises:
    ValueError: the network has no blocks.
  """
  if network.remat is None:
    raise ValueError(
        f'backbone.remat recomputes the inside of blocks, and {name} has no '
        'blocks; leave it out, or put flax.linen.remat around the blocks of '
        'your own module')
  return network.remat()


# Options of models that set the initial kernels.
_INITIAL = ('noise', 'scale')


def check_init(name: str, init: str, options: Mapping[str, object]) -> None:
  """Refuses options that set kernels which the init would replace.

  Args:
    name: name of the model.
    init: the backbone's init.
    options: options of the model.

  Raises:
    ValueError: the init is 'signed_constant', and an option sets the kernels.
  """
  given = [option for option in _INITIAL
           if options.get(option) not in (None, 0)]
  if init == 'signed_constant' and given:
    raise ValueError(
        f"the backbone's option {given[0]}={options[given[0]]!r} of {name} "
        "says what the kernels are, but the init 'signed_constant' replaces "
        "them all by +-c: set init='default' to keep what the option gives, or "
        f'leave {given[0]} out to have signed constants')


MODELS.on_change(_make.cache_clear)
MODELS.on_change(recomputing.cache_clear)


def register(name: str, factory: Callable[..., Network]) -> None:
  """Registers a network by name, for `backbone.model` in configs.

  Args:
    name: the name that configs use.
    factory: (outputs, **options) -> `Network`; see `from_linen`, `from_nnx` and
      `from_functions`. Registering a name again replaces the older factory.

  Raises:
    ValueError: the name is not valid, or the factory is not a function.
  """
  MODELS.register(name, factory)
