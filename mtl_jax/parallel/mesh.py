"""Large backbones: devices as a mesh with axes tasks, data and model.

The step is the same as on one device. The shardings of its arguments
(`NamedSharding`) decide everything: tasks and batches are divided, and
backbone, scores, optimizer and bases are divided over `model` by their shapes.
XLA's partitioner divides the computation and inserts the collectives, so that
models and methods need no changes.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from mtl_jax import parallel

_P = jax.sharding.PartitionSpec


class Axes(NamedTuple):
  """The shape of the mesh: into how many parts each kind is divided.

  Attributes:
    tasks: groups of devices, each with its own tasks.
    data: parts of a batch.
    model: parts of each large array.
  """
  tasks: int = 1
  data: int = 1
  model: int = 1


@functools.lru_cache(maxsize=4)
def _mesh(axes: Axes) -> jax.sharding.Mesh:
  return jax.sharding.Mesh(parallel.devices().reshape(axes), Axes._fields)


def check(axes: Axes, batch_size: int) -> None:
  """Refuses a mesh that doesn't fit the devices, or the batch.

  Raises:
    ValueError: names the axis or the number of devices.
  """
  count = int(np.prod(axes))
  if count != jax.device_count():
    raise ValueError(
        f'mesh {axes.tasks} x {axes.data} x {axes.model} takes {count} '
        f'devices, but there are {jax.device_count()}: give tasks, data and '
        'model whose product is that')
  if batch_size % axes.data:
    raise ValueError(f'batch_size is {batch_size}, but mesh.data divides it '
                     f'into {axes.data} parts; choose a multiple')


def _spec(shape: tuple[int, ...], axes: Axes, tasks: bool):
  """The partition of an array: its last axis divisible by `model` is divided.

  Arrays with fewer than two axes, such as biases and coefficients, are not
  divided.
  """
  first = ['tasks'] if tasks else []
  rest: list[str | None] = [None] * (len(shape) - len(first))
  own = shape[len(first):]
  if len(own) > 1:
    for i in reversed(range(len(own))):
      if own[i] and own[i] % axes.model == 0:
        rest[i] = 'model'
        break
  return _P(*first, *rest)


def _sharding(x, axes: Axes, tasks: bool):
  return jax.sharding.NamedSharding(
      _mesh(axes), _spec(np.shape(x), axes, tasks))


def put(tree: Any, axes: Axes, tasks: bool = False) -> Any:
  """A copy of `tree`, divided over the mesh.

  Args:
    tree: tree of arrays; every process has all of them.
    axes: axes of the mesh.
    tasks: whether the first axis of every leaf is the task axis; the tasks
      must divide over the mesh's task axis (see `pad`).
  """
  def leaf(x):
    if parallel.is_key(x):
      return parallel.like_key(x, _placed(
          np.asarray(jax.random.key_data(x)),
          jax.sharding.NamedSharding(_mesh(axes), _P('tasks') if tasks
                                     else _P())))
    return _placed(np.array(x), _sharding(x, axes, tasks))
  return jax.tree.map(leaf, tree)


def _placed(host, sharding):
  return jax.make_array_from_callback(host.shape, sharding,
                                      lambda index: host[index])


def put_index(index: np.ndarray, axes: Axes):
  """int32 [tasks, steps, batch], divided along tasks and batch."""
  return _placed(index, _of_index(axes))


def _of_index(axes: Axes):
  return jax.sharding.NamedSharding(_mesh(axes), _P('tasks', None, 'data'))


def shapes(tree: Any, axes: Axes, tasks: int = 0) -> Any:
  """Shapes of `put(tree)`; if `tasks` > 0, of that many trees, padded."""
  def leaf(x):
    first = (tasks + -tasks % axes.tasks,) if tasks else ()
    x = jax.ShapeDtypeStruct((*first, *x.shape), x.dtype)
    return jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=_sharding(x, axes, bool(tasks)))
  return jax.tree.map(leaf, tree)


def index_shape(tasks: int, steps: int, batch_size: int, axes: Axes):
  """The shape of the result of `put_index` for `tasks` tasks, padded."""
  return jax.ShapeDtypeStruct(
      (tasks + -tasks % axes.tasks, steps, batch_size), np.int32,
      sharding=_of_index(axes))


def pad(tree: Any, axes: Axes) -> Any:
  """Repeats the last task [T, ...] until the tasks divide over the mesh."""
  return parallel.pad_tasks(tree, axes.tasks)


def gather(tree: Any) -> Any:
  """Arrays of a mesh as whole NumPy arrays in every process; keys stay keys."""
  def leaf(x):
    if parallel.is_key(x):
      return parallel.like_key(x, leaf(jax.random.key_data(x)))
    if jax.process_count() > 1:
      return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)
  return jax.tree.map(leaf, tree)


def over_mesh(chunk, axes: Axes):
  """Trains many tasks at once, each on a part of the mesh.

  Args:
    chunk: see `steps.make_chunk`.
    axes: axes of the mesh.

  Returns:
    The same function. State, task and index have a leading task axis and are
    placed by `put(..., tasks=True)` and `put_index`, all other arguments by
    `put`. The route is static, and only the state is donated.
  """
  def divided(route, backbone, shared, source, task, state, index):
    one = lambda t, s, i: chunk(route, backbone, shared, source, t, s, i)
    state, measured = jax.vmap(one)(task, state, index)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(
        x, _sharding(x, axes, True)), state), measured

  return jax.jit(divided, static_argnums=0, donate_argnums=5)
