"""The small ResNet-18 of GEM, as SupSup uses it on SplitCIFAR-100.

A 3x3 stem of `width` channels, four stages of two basic blocks with 1, 2, 4
and 8 times that width, batch norm without scale and shift, no bias anywhere.
With width 20 and 5 outputs: 21 kernels, 1,090,940 weights.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.models import convolution

Conv = functools.partial(nn.Conv, use_bias=False,
                         conv_general_dilated=convolution.convolve)


class BasicBlock(nn.Module):
  """Two 3x3 convolutions with a shortcut (1x1 where shapes change)."""
  channels: int
  stride: int
  norm: Any

  @nn.compact
  def __call__(self, x):
    strides = (self.stride, self.stride)
    y = Conv(self.channels, (3, 3), strides, padding=1, name='conv1')(x)
    y = nn.relu(self.norm(name='norm1')(y))
    y = Conv(self.channels, (3, 3), padding=1, name='conv2')(y)
    y = self.norm(name='norm2')(y)
    if x.shape[-1] != self.channels or self.stride != 1:
      x = Conv(self.channels, (1, 1), strides, name='shortcut')(x)
      x = self.norm(name='shortcut_norm')(x)
    return nn.relu(x + y)


class GEMResNet18(nn.Module):
  """Logits [n, outputs] from images [n, 32, 32, 3].

  Attributes:
    outputs: number of logits.
    width: channels of the stem.
    axis_name: mapped axis over which batch statistics are averaged.
    remat: recompute the values inside a block for its gradients.
  """
  outputs: int
  width: int = 20
  axis_name: str | None = None
  remat: bool = False

  @nn.compact
  def __call__(self, x, train: bool = False):
    make = nn.remat(BasicBlock) if self.remat else BasicBlock
    norm = functools.partial(
        nn.BatchNorm, use_running_average=not train, momentum=0.9,
        epsilon=1e-5, use_scale=False, use_bias=False,
        axis_name=self.axis_name if train else None)
    x = Conv(self.width, (3, 3), padding=1, name='stem')(x)
    x = nn.relu(norm(name='stem_norm')(x))
    for stage in range(4):
      for block in range(2):
        stride = 2 if stage and not block else 1
        x = make(self.width * 2 ** stage, stride, norm,
                 name=f'stage{stage + 1}_block{block + 1}')(x)
    x = jnp.mean(x, axis=(1, 2))
    return nn.Dense(self.outputs, use_bias=False, name='classifier')(x)
