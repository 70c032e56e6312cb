"""Networks with inputs of several shapes: a stem for each shape, one trunk.

The networks of arXiv 2207.08821: the trunk's `layer1` ... and a `head`, with
biases. An input of the trunk's own shape needs no stem; every other shape has a
stem named after it. Tokens (int32) are embedded.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.models import convolution
from mtl_jax.models import pooling


def stem_name(shape) -> str:
  """'stem_13' for (13,), 'stem_28x28x1' for images."""
  return 'stem_' + 'x'.join(map(str, shape))


def _initializer(scale):
  return (nn.initializers.lecun_normal() if scale is None
          else nn.initializers.normal(scale))


class Stem(nn.Module):
  """Maps an input of any shape to `features` numbers.

  Attributes:
    features: width of the result.
    words, embedding: for tokens, sizes of the vocabulary and of a word's
      vector.
    scale: standard deviation of the kernels; `None` takes LeCun's.
  """
  features: int
  words: int
  embedding: int
  scale: float | None

  @nn.compact
  def __call__(self, x):
    if jnp.issubdtype(x.dtype, jnp.integer):
      x = nn.Embed(self.words, self.embedding, name='embedding')(x)
    x = x.reshape((x.shape[0], math.prod(x.shape[1:])))
    return nn.relu(nn.Dense(self.features, name='dense',
                            kernel_init=_initializer(self.scale))(x))


class FullyConnected(nn.Module):
  """Dense layers with biases and ReLU.

  Attributes:
    outputs: number of logits.
    widths: features of the hidden layers.
    inputs: size of the trunk's input: an image or row of this size is flattened
      and needs no stem.
    words, embedding, scale: see `Stem`.
  """
  outputs: int
  widths: tuple[int, ...] = (1000,) * 6
  inputs: int = 784
  words: int = 10000
  embedding: int = 2
  scale: float | None = None

  @nn.compact
  def __call__(self, x, train: bool = False):
    del train
    shape = x.shape[1:]
    tokens = jnp.issubdtype(x.dtype, jnp.integer)
    if math.prod(shape) == self.inputs and not tokens:
      x = x.reshape((x.shape[0], self.inputs))
    else:
      x = Stem(self.inputs, self.words, self.embedding, self.scale,
               name=stem_name(shape))(x)
    for i, width in enumerate(self.widths, 1):
      x = nn.relu(nn.Dense(width, name=f'layer{i}',
                           kernel_init=_initializer(self.scale))(x))
    return nn.Dense(self.outputs, name='head',
                    kernel_init=_initializer(self.scale))(x)


class Convolutional(nn.Module):
  """Pairs of 3 x 3 convolutions, each pair with a max pool of stride 1.

  With the defaults and 28 x 28 x 1 images: 11,209,194 weights.

  Attributes:
    outputs: number of logits.
    channels: channels of each pair of convolutions.
    widths: features of the dense layers.
    inputs: channels of an image that needs no stem; images with another number
      have their own first convolution.
    stride: stride of the pools; the official code leaves it at 1.
    scale: see `Stem`.
    norm: batch norm after every convolution; the official code has none.
    axis_name: mapped axis over which batch statistics are averaged.
  """
  outputs: int
  channels: tuple[int, ...] = (32, 64)
  widths: tuple[int, ...] = (256, 256)
  inputs: int = 1
  stride: int = 1
  scale: float | None = None
  norm: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x, train: bool = False):
    layer, init = 0, _initializer(self.scale)
    for channels in self.channels:
      for _ in range(2):
        layer += 1
        name = f'layer{layer}'
        if layer == 1 and x.shape[-1] != self.inputs:
          name = stem_name(x.shape[1:])
        x = nn.Conv(channels, (3, 3), name=name, kernel_init=init,
                    conv_general_dilated=convolution.convolve)(x)
        if self.norm:
          x = nn.BatchNorm(
              use_running_average=not train, momentum=0.9, epsilon=1e-5,
              axis_name=self.axis_name if train else None,
              name=f'norm{layer}')(x)
        x = nn.relu(x)
      x = pooling.max_pool(x, stride=self.stride)
    x = x.reshape((x.shape[0], math.prod(x.shape[1:])))
    for width in self.widths:
      layer += 1
      x = nn.relu(nn.Dense(width, name=f'layer{layer}', kernel_init=init)(x))
    return nn.Dense(self.outputs, name='head', kernel_init=init)(x)
