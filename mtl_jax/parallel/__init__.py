"""Devices: the only package that uses pmap, meshes and processes.

State, backbone and shared are unreplicated (`in_axes=None`): trees have no
device axis, as in checkpoints. Either batches or whole tasks are divided over
the devices. One device, eight devices and several processes run the same code.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

AXIS = 'devices'


def initialize(coordinator: str | None, processes: int | None,
               process: int | None) -> None:
  """Joins a multi-process run (`jax.distributed`) if one is asked for.

  On Cloud TPU the coordinator is 'auto' and the numbers may be `None`: JAX
  finds the other hosts itself.

  Raises:
    ValueError: the coordinator or one of the numbers is missing.
  """
  if coordinator is None:
    if processes is not None or process is not None:
      raise ValueError('--num_processes and --process_id are of a run on '
                       'several hosts: give --coordinator=HOST:PORT as well, '
                       'or leave them out')
    return
  if coordinator == 'auto':
    jax.distributed.initialize()
    return
  if processes is None or process is None:
    raise ValueError('a coordinator needs the number of processes and the '
                     'number of this one (--num_processes, --process_id)')
  # For CPUs; other platforms ignore it.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(coordinator, processes, process)


def is_primary() -> bool:
  """Whether this is the one process that writes logs and reports."""
  return jax.process_index() == 0


def device_count() -> int:
  return jax.device_count()


def devices() -> np.ndarray:
  """All devices in the order of pmap. `jax.make_mesh` would follow a TPU's
  topology, and arrays in two orders can't be used in one computation."""
  return np.array([
      device for process in range(jax.process_count())
      for device in jax.local_devices(process_index=process)])


@functools.lru_cache(maxsize=1)
def replicated():
  """The sharding of the arrays that `put` returns."""
  return jax.sharding.NamedSharding(jax.sharding.Mesh(devices(), (AXIS,)),
                                   jax.sharding.PartitionSpec())


@functools.lru_cache(maxsize=1)
def per_device():
  """The sharding of a mapped function's state, so that it isn't retraced."""
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))


def put(tree: Any) -> Any:
  """A copy of `tree` on every device, never an alias of the caller's arrays.

  The copy can be donated without losing the original, and a mapped function is
  not traced again when it gets its own output as input.
  """
  def leaf(x):
    if is_key(x):
      return like_key(x, put(jax.random.key_data(x)))
    host = np.array(x)
    return jax.make_array_from_callback(host.shape, replicated(),
                                        lambda index: host[index])
  return jax.tree.map(leaf, tree)


def split_batch(index: np.ndarray) -> np.ndarray:
  """[..., batch] -> this process's [local devices, ..., batch / devices].

  Raises:
    ValueError: the batch doesn't divide over the devices.
  """
  devices, batch = jax.device_count(), index.shape[-1]
  if batch % devices:
    raise ValueError(f'batch_size is {batch} but there are {devices} devices; '
                     f'choose a multiple of {devices}')
  split = np.reshape(index, (*index.shape[:-1], devices, batch // devices))
  return _local(np.moveaxis(split, -2, 0))


def split_tasks(tree: Any, donated: bool = True) -> Any:
  """Leading task axis [T, ...] -> this process's [local devices, T / d, ...].

  Args:
    tree: tree of arrays.
    donated: whether the result may be donated, and so must be a copy.

  Raises:
    ValueError: the tasks don't divide over the devices.
  """
  devices = jax.device_count()

  def leaf(x):
    if x.shape[0] % devices:
      raise ValueError(
          f'tasks_at_once is {x.shape[0]}, which cannot be divided over '
          f'{devices} devices; choose a multiple')
    if is_key(x):
      return like_key(x, leaf(jax.random.key_data(x)))
    # Through the host: replicated arrays can't be split directly.
    host = np.array(x) if donated else np.asarray(x)
    return jax.device_put(_local(host.reshape(
        devices, host.shape[0] // devices, *host.shape[1:])), per_device())
  return jax.tree.map(leaf, tree)


def is_key(x) -> bool:
  """Whether `x` is a typed key or an array of typed keys."""
  return isinstance(x, jax.Array) and jax.dtypes.issubdtype(
      x.dtype, jax.dtypes.prng_key)


def like_key(key, data):
  """Typed keys made from `data`, of the same kind as `key`."""
  return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def pad_tasks(tree: Any, parts: int | None = None) -> Any:
  """Repeats the last task [T, ...] until the tasks divide into `parts`.

  `parts` is the number of devices by default.
  """
  def leaf(x):
    wanted = -x.shape[0] % (parts or jax.device_count())
    return x[np.minimum(np.arange(x.shape[0] + wanted), x.shape[0] - 1)
             ] if wanted else x
  return jax.tree.map(leaf, tree)


def join_tasks(tree: Any) -> Any:
  """Inverse of `split_tasks`; every process gets the tasks of all."""
  def leaf(x):
    if is_key(x):
      return like_key(x, leaf(jax.random.key_data(x)))
    if jax.process_count() > 1:
      x = multihost_utils.process_allgather(x, tiled=True)
    return x.reshape(-1, *x.shape[2:])
  return jax.tree.map(leaf, tree)


def gather_tasks(tree: Any) -> Any:
  """`join_tasks` as NumPy arrays; compiles nothing on a single process."""
  def leaf(x):
    if jax.process_count() > 1:
      x = multihost_utils.process_allgather(x, tiled=True)
    x = np.asarray(x)
    return x.reshape(-1, *x.shape[2:])
  return jax.tree.map(leaf, tree)


def on_host(tree: Any) -> Any:
  """This process's arrays as NumPy arrays; typed keys stay typed keys."""
  def leaf(x):
    if is_key(x):
      return like_key(x, leaf(jax.random.key_data(x)))
    return np.asarray(x)
  return jax.tree.map(leaf, tree)


def from_host(tree: Any) -> Any:
  """Inverse of `on_host`; copies, and compiles nothing.

  `jnp.asarray` would compile a program for every new shape.
  """
  return jax.tree.map(
      lambda x: jax.device_put(np.array(x))
      if isinstance(x, (np.ndarray, np.generic)) else x, tree)


def _local(split):
  count = jax.local_device_count()
  first = jax.process_index() * count
  return split[first:first + count]


def over_batches(chunk):
  """Divides each batch over the devices; gradients are averaged inside.

  Args:
    chunk: see `steps.make_chunk`.

  Returns:
    The same function, with `index` from `split_batch`; the route is static,
    and only the state is donated.
  """
  mapped = functools.partial(chunk, axis_name=AXIS)
  return jax.pmap(mapped, AXIS, in_axes=(None,) * 6 + (0,), out_axes=None,
                  static_broadcasted_argnums=0, donate_argnums=5)


def over_tasks(chunk):
  """Trains many tasks at once: vmap on a device, pmap over devices.

  The backbone, `shared` and the source are not copied per task; state, task
  and index have axes [devices, tasks per device, ...] (`split_tasks`). There
  are no collectives.
  """
  def many(route, backbone, shared, source, task, state, index):
    one = lambda t, s, i: chunk(route, backbone, shared, source, t, s, i)
    return jax.vmap(one)(task, state, index)
  return jax.pmap(many, AXIS, in_axes=(None,) * 4 + (0,) * 3,
                  static_broadcasted_argnums=0, donate_argnums=5)


def map_tasks(one):
  """Measures many tasks in one program, divided over the devices.

  On each device a CPU runs the tasks one by one, other platforms 16 at once.

  Args:
    one: (route, backbone, shared, source, own) -> a tree of numbers.

  Returns:
    The same function, with `own` from `split_tasks`; its numbers have axes
    [devices, tasks per device]. The route is static.
  """
  def many(route, common, own):
    return jax.lax.map(
        lambda x: one(route, *common, x), own,
        batch_size=None if jax.default_backend() == 'cpu' else 16)
  # Only two arguments: pmap confuses the axes if there are as many as leaves.
  mapped = jax.pmap(many, AXIS, in_axes=(None, None, 0),
                    static_broadcasted_argnums=0)
  return lambda route, *rest: mapped(route, rest[:-1], rest[-1])


def over_children(train, together: bool):
  """Trains the children of a generation in one program.

  Args:
    train: see `evolution.training.make_round`.
    together: whether the children on a device are trained at once (vmap) or
      one after another.

  Returns:
    The same function, with learners of axes [devices, children per device,
    ...] (`split_tasks`); the route is static, and only learners are donated.
  """
  def many(route, source, valid, task, learners, *rest):
    one = lambda learner: train(route, source, valid, task, learner, *rest)
    if together:
      return jax.vmap(one)(learners)
    return jax.lax.map(one, learners)
  return jax.pmap(many, AXIS, in_axes=(None,) * 4 + (0,) + (None,) * 4,
                  static_broadcasted_argnums=0, donate_argnums=4)


def evaluate_over_batches(evaluate):
  """Divides the batches of an evaluation over the devices and sums."""
  mapped = functools.partial(evaluate, axis_name=AXIS)
  return jax.pmap(mapped, AXIS, in_axes=(None,) * 5 + (0,), out_axes=None,
                  static_broadcasted_argnums=0)


def split_evaluation(batches: np.ndarray) -> np.ndarray:
  """int32 [batches, batch] -> this process's [local devices, ..., batch].

  The number of batches must be a multiple of the number of devices.
  """
  devices = jax.device_count()
  return _local(batches.reshape(devices, -1, batches.shape[-1]))


def to_host(tree: Any) -> Any:
  """NumPy copies of (replicated) arrays; typed keys become their data."""
  def leaf(x):
    if is_key(x):
      x = jax.random.key_data(x)
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      x = x.addressable_data(0)
    return np.asarray(x)
  return jax.tree.map(leaf, tree)


def local(tree: Any) -> Any:
  """Replicated arrays as arrays of this process alone, for use outside maps.

  With several processes, it is the copy on the process's first device. The
  results of `put` are on the devices of all processes and those of a map on
  this process's devices; one computation can't use both.
  """
  def leaf(x):
    if (not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer)
        or jax.process_count() == 1):
      return x
    if is_key(x):
      return like_key(x, leaf(jax.random.key_data(x)))
    return x.addressable_data(0) if len(x.sharding.device_set) > 1 else x
  return jax.tree.map(leaf, tree)


def everywhere(tree: Any) -> Any:
  """Inverse of `local`: the equal arrays of all processes as one array."""
  return tree if jax.process_count() == 1 else put(tree)


def agree(found: Any) -> Any:
  """The first process's value (a tree of numbers or arrays), in all processes.

  Processes that each compute the same value may round it differently on a GPU.
  """
  if jax.process_count() == 1:
    return found
  return multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, found))


def barrier(name: str) -> None:
  """Waits for all processes; does nothing on a single one."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def stack_on_host(trees_: list) -> Any:
  """`stack` into NumPy arrays, without compiling; takes no typed keys."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *map(to_host, trees_))


def stack(trees_: list) -> Any:
  """Stacks trees of equal structure along a new leading task axis."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees_)
