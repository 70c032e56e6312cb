"""BNNet: a dense network whose masks cover the scales of its batch norms.

784-2048-2048-10 with batch norm and Swish after both hidden layers, no bias
and no shift (SupSup, https://arxiv.org/abs/2006.14769, section 3.5, and its
official code). A mask of the two scales, which are initialised to 1, switches
units off: 2 x 2048 bits instead of 5.8 million, few enough for the square
matrices of a Hopfield network (`mtl_jax.inference.hopfield`).

The official norm never keeps running statistics: it normalises by those of the
batch, also in tests. This one keeps them as a part of a task's impression
(32 kB, beside 512 bytes of masks), so that the prediction for an image of a
known task does not depend on other images. Use `train=True` for batch
statistics: if the task is unknown, so are its running statistics.
"""

import math

import flax.linen as nn


class BNNet(nn.Module):
  """Logits [n, outputs] from images, which are flattened.

  Attributes:
    outputs: number of logits.
    width: units of each hidden layer.
    axis_name: mapped axis over which batch statistics are averaged.
  """
  outputs: int
  width: int = 2048
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x, train: bool = False):
    x = x.reshape((x.shape[0], math.prod(x.shape[1:])))
    for layer in ('hidden1', 'hidden2'):
      x = nn.Dense(self.width, use_bias=False, name=layer)(x)
      x = nn.BatchNorm(
          use_running_average=not train, momentum=0.9, epsilon=1e-5,
          use_bias=False, axis_name=self.axis_name if train else None,
          name=f'{layer}_norm')(x)
      x = nn.swish(x)
    return nn.Dense(self.outputs, use_bias=False, name='classifier')(x)
