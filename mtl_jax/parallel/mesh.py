"""Large backbones: devices as a mesh with axes tasks, data and model.

A step is that of one device. How its arguments lie on the mesh
(`NamedSharding`) says all: tasks and batches are divided, and over `model`
backbone, scores, optimizer and bases, by their shapes alone. XLA's partitioner
divides the computation and puts in the collectives, so that models and methods
know of none.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from mtl_jax import parallel

_P = jax.sharding.PartitionSpec


class Axes(NamedTuple):
  """How many parts of each kind the devices make.

  Attributes:
    tasks: groups of devices with tasks of their own.
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
  """Refuses a mesh of other devices than there are, or an odd batch.

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
  """Where an array is divided: over `model` along its last axis that divides.

  Arrays of fewer than two axes, such as biases and coefficients, are whole.
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
    tree: of arrays that every process has.
    axes: of the mesh.
    tasks: whether the first axis of every leaf counts tasks; they must divide
      over the mesh's (see `pad`).
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
  """int32 [tasks, steps, batch], divided by tasks and data."""
  return _placed(index, _of_index(axes))


def _of_index(axes: Axes):
  return jax.sharding.NamedSharding(_mesh(axes), _P('tasks', None, 'data'))


def shapes(tree: Any, axes: Axes, tasks: int = 0) -> Any:
  """Shapes of `put(tree)`; of `tasks` such trees, padded, if there are any."""
  def leaf(x):
    first = (tasks + -tasks % axes.tasks,) if tasks else ()
    x = jax.ShapeDtypeStruct((*first, *x.shape), x.dtype)
    return jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=_sharding(x, axes, bool(tasks)))
  return jax.tree.map(leaf, tree)


def index_shape(tasks: int, steps: int, batch_size: int, axes: Axes):
  """The shape of what `put_index` gives for so many tasks, padded."""
  return jax.ShapeDtypeStruct(
      (tasks + -tasks % axes.tasks, steps, batch_size), np.int32,
      sharding=_of_index(axes))


def pad(tree: Any, axes: Axes) -> Any:
  """Repeats the last task [T, ...] until the tasks divide over the mesh."""
  return parallel.pad_tasks(tree, axes.tasks)


def gather(tree: Any) -> Any:
  """Arrays of a mesh as whole NumPy arrays, in every process; keys as keys."""
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
    axes: of the mesh.

  Returns:
    The same function: state, task and index have a first axis of tasks and lie
    as `put(..., tasks=True)` and `put_index` place them, and all else as `put`
    does. The route is static, only the state is donated.
  """
  def divided(route, backbone, shared, source, task, state, index):
    one = lambda t, s, i: chunk(route, backbone, shared, source, t, s, i)
    state, measured = jax.vmap(one)(task, state, index)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(
        x, _sharding(x, axes, True)), state), measured

  return jax.jit(divided, static_argnums=0, donate_argnums=5)
