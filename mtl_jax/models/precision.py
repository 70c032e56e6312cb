"""A network that computes in another precision than that of its parameters."""

import functools

import jax
import jax.numpy as jnp

from mtl_jax import trees
from mtl_jax.models import network as network_lib

DTYPES = ('float32', 'bfloat16')


def check(dtype: str) -> None:
  """Raises ValueError for a dtype in which networks can't compute."""
  if dtype not in DTYPES:
    raise ValueError(f'compute_dtype is {dtype!r}{trees.nearest(dtype, DTYPES)}'
                     f'; known: {", ".join(DTYPES)}')


@functools.lru_cache(maxsize=64)  # the same object compiles only once
def computed(network: network_lib.Network,
             dtype: str) -> network_lib.Network:
  """The network with products in `dtype`.

  Parameters, scores, norm statistics and logits stay float32: parameters and
  inputs are cast on their way into the network, gradients on their way back.

  Args:
    network: a network with float32 parameters.
    dtype: 'float32' returns the network itself.

  Returns:
    The network; it can't be used in a search, as it can't grow.
  """
  check(dtype)
  if dtype == 'float32':
    return network
  low = functools.partial(_cast, dtype=jnp.dtype(dtype))

  def apply(params, stats, x, train=False, axis_name=None, **more):
    logits, after = network.apply(low(params), stats, low(x), train, axis_name,
                                  **more)
    return logits.astype(jnp.float32), _cast(after, jnp.float32)

  def trace(params, stats, x):
    return _cast(network.trace(low(params), stats, low(x)), jnp.float32)

  return network._replace(apply=apply, parts=None, remat=None,
                          trace=trace if network.trace else None)


def _cast(tree, dtype):
  return jax.tree.map(
      lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
      tree)
