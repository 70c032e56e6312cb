"""The memory that a program takes on a device, and the memory there is.

A program is lowered for the shapes of arrays on the devices. A later call with
such arrays uses the same compiled program.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_jax import parallel


class Program(NamedTuple):
  """Bytes of a compiled program on each device.

  Attributes:
    arguments: bytes of its arguments.
    work: bytes of its temporaries and results.
  """
  arguments: int
  work: int


def of_program(lowered: jax.stages.Lowered) -> Program | None:
  """What XLA reports for a program; compiles it (JAX caches it).

  `None` if the platform doesn't report it.
  """
  stats = lowered.compile().memory_analysis()
  if stats is None:
    return None
  results = stats.output_size_in_bytes - stats.alias_size_in_bytes
  return Program(stats.argument_size_in_bytes,
                 stats.temp_size_in_bytes + max(0, results))


def limit() -> int | None:
  """Memory in bytes of this process's smallest device; `None` on a CPU."""
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
  """Bytes per device of a result of `parallel.split_tasks`, or of shapes."""
  return sum(int(np.prod(x.shape[1:])) * x.dtype.itemsize
             for x in jax.tree.leaves(tree))


def shapes(tree: Any) -> Any:
  """Shapes of `parallel.put(tree)`; accepts arrays or shapes."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=parallel.replicated()), tree)


def split_shapes(tree: Any, tasks: int) -> Any:
  """Shapes of `parallel.split_tasks` for `tasks` padded trees like this one."""
  devices = jax.device_count()
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(
      (jax.local_device_count(), -(-tasks // devices), *x.shape), x.dtype,
      sharding=parallel.per_device()), tree)
