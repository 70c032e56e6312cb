"""Dense networks without biases: LeNet-300-100 and FC1024 of SupSup."""

import math

import flax.linen as nn


class MLP(nn.Module):
  """Dense layers with ReLU between them; images are flattened.

  Attributes:
    widths: features of each layer, the number of outputs last.
  """
  widths: tuple[int, ...]

  @nn.compact
  def __call__(self, x, train: bool = False):
    del train
    x = x.reshape((x.shape[0], math.prod(x.shape[1:])))
    for i, width in enumerate(self.widths):
      if i:
        x = nn.relu(x)
      x = nn.Dense(width, use_bias=False)(x)
    return x
