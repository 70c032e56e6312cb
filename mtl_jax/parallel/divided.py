"""Bits divided over the accelerators of one process, in one computation."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mtl_jax import parallel


def accelerators() -> list:
  """This process's devices; on a CPU only the first, as all share a memory."""
  devices = jax.local_devices()
  return devices[:1] if devices[0].platform == 'cpu' else devices


def divide_bits(tree: Any, devices: Sequence) -> Any:
  """Puts packed bits on devices, with their last axis divided over them.

  Args:
    tree: arrays. Those that aren't uint8, or whose last axis doesn't divide,
      are whole on every device.
    devices: with fewer than two, the arrays stay where they are.
  """
  def spec(x):
    divides = x.dtype == np.uint8 and x.shape[-1] % len(devices) == 0
    return ((None,) * (x.ndim - 1) + (parallel.AXIS,)) if divides else ()
  return _put(tree, devices, spec)


def on_each(tree: Any, devices: Sequence) -> Any:
  """Puts a copy of the arrays on each device; see `divide_bits`."""
  return _put(tree, devices, lambda x: ())


def _put(tree, devices, spec):
  if len(devices) < 2:
    return tree
  mesh = jax.sharding.Mesh(np.array(devices), (parallel.AXIS,))
  return jax.tree.map(lambda x: jax.device_put(x, jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(*spec(x)))), tree)
