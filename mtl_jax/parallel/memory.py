"""How much memory a program takes on a device, and how much there is.

A program is lowered for shapes that stand for arrays on the devices. Called
later with such arrays, the same jitted function compiles nothing again.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_jax import parallel


class Program(NamedTuple):
  """Bytes of a compiled program on each device.

  Attributes:
    arguments: what it is called with.
    work: what it needs beside them while it runs, its results included.
  """
  arguments: int
  work: int


def of_program(lowered: jax.stages.Lowered) -> Program | None:
  """What XLA says of a program, which is compiled for it (and kept by JAX).

  `None` where the platform doesn't say.
  """
  stats = lowered.compile().memory_analysis()
  if stats is None:
    return None
  results = stats.output_size_in_bytes - stats.alias_size_in_bytes
  return Program(stats.argument_size_in_bytes,
                 stats.temp_size_in_bytes + max(0, results))


def limit() -> int | None:
  """Bytes of the smallest of this process's devices; `None` on a CPU."""
  found = []
  for device in jax.local_devices():
    stats = device.memory_stats() or {}
    if 'bytes_limit' not in stats:
      return None
    found.append(int(stats['bytes_limit']))
  return min(found)


def held() -> int:
  """Bytes of all arrays of this process, on each of its devices."""
  each = 0
  for array in jax.live_arrays():
    shape = array.sharding.shard_shape(array.shape)
    each += (int(np.prod(shape)) * array.dtype.itemsize
             * len(array.sharding.addressable_devices))
  return each // jax.local_device_count()


def each(tree: Any) -> int:
  """Bytes on each device of what `parallel.split_tasks` gave, or of shapes."""
  return sum(int(np.prod(x.shape[1:])) * x.dtype.itemsize
             for x in jax.tree.leaves(tree))


def shapes(tree: Any) -> Any:
  """Shapes of `parallel.put(tree)`; takes arrays or shapes."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=parallel.replicated()), tree)


def split_shapes(tree: Any, tasks: int) -> Any:
  """Shapes of `parallel.split_tasks` of so many padded trees like this one."""
  devices = jax.device_count()
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(
      (jax.local_device_count(), -(-tasks // devices), *x.shape), x.dtype,
      sharding=parallel.per_device()), tree)
