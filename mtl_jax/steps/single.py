"""One training step and one evaluation batch as pure functions.

    step(route, backbone, shared, state, batch) -> (state, metrics)

`axis_name` names the mapped device axis, or is `None` outside of a map: the
same body runs on one device, on many and under plain jit.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mtl_jax import trees
from mtl_jax.data import pipeline

Tree = trees.Tree


class Source(NamedTuple):
  """One split of a source, on the device.

  Attributes:
    images: uint8 [n, H, W, C].
    labels: int32 [n], the source's own classes; for a regression, float32
      [n, targets].
  """
  images: Any
  labels: Any


class TaskArrays(NamedTuple):
  """The traced arrays in which tasks of one route differ.

  Attributes:
    transforms: parameters of the task's transforms.
    label_map: int32 [source classes] -> the task's classes.
  """
  transforms: Any
  label_map: Any


class State(NamedTuple):
  """The state that training a task updates.

  Attributes:
    step: int32, number of batches seen.
    trainable: what receives gradients.
    optimizer: optax state.
    stats: norm statistics.
    key: typed PRNG key; folded with the step inside.
  """
  step: Any
  trainable: Tree
  optimizer: Any
  stats: Tree
  key: Any


class Metrics(NamedTuple):
  """Scalars of one step: mean loss and accuracy of the batch.

  The accuracy of a regression is NaN.
  """
  loss: Any
  accuracy: Any


def init_state(method, optimizer, key, backbone, shared, stats,
               route) -> State:
  """The state before a task's first step."""
  trainable = method.init(key, backbone, shared, route)
  return State(step=jnp.int32(0), trainable=trainable,
               optimizer=optimizer.init(trainable), stats=stats,
               key=jax.random.fold_in(key, 1))


def losses(route, logits, labels):
  """The loss of every example, float32 [n]; the route says which loss."""
  if route.loss == 'mse':
    return jnp.mean((logits[:, :route.classes] - labels) ** 2, -1)
  if route.loss == 'classes':
    logits = logits[:, :route.classes]
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def correct(route, logits, labels):
  """Whether predictions are right: bool [n], or NaN [n] for a regression."""
  if route.loss == 'mse':
    return jnp.full(len(logits), jnp.nan)
  return jnp.argmax(logits[:, :route.classes], -1) == labels


def bind(method, backbone, trainable, shared, route):
  """`method.bind`, compiled; if the method takes a traced member, all members
  of a group share one executable."""
  if not method.abilities.members:
    return _bind(method, backbone, trainable, shared, route, None)
  return _bind(method, backbone, trainable, shared,
               dataclasses.replace(route, member=0), jnp.int32(route.member))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _bind(method, backbone, trainable, shared, route, member):
  if member is not None:
    route = dataclasses.replace(route, member=member)
  return method.bind(backbone, trainable, shared, route)


def make_forward(method, network):
  """Makes the function that computes a task's training loss.

  Returns:
    forward(route, backbone, shared, trainable, stats, batch, axis_name, key) ->
    (mean loss of the batch, norm statistics, Metrics). The key is for dropout,
    if the network has any.
  """
  def forward(route, backbone, shared, trainable, stats, batch, axis_name,
              key=None):
    images, labels = batch
    params = method.bind(backbone, trainable, shared, route)
    logits, stats = network.apply(
        params, stats, images, train=True, axis_name=axis_name,
        **noise(network, key, axis_name))
    loss = losses(route, logits, labels).mean()
    right = correct(route, logits, labels)
    return loss, stats, Metrics(loss, jnp.mean(right, dtype=jnp.float32))
  return forward


def noise(network, key, axis_name) -> dict:
  """The `key=` argument of `network.apply`, if needed; differs by device."""
  if key is None or not network.random:
    return {}
  key = jax.random.fold_in(key, 1)
  return {'key': key if axis_name is None else
          jax.random.fold_in(key, lax.axis_index(axis_name))}


def descend(optimizer, state: State, found, axis_name):
  """One update of `state.trainable`.

  Args:
    optimizer: optax optimizer.
    state: state before the step.
    found: (gradients, (norm statistics, Metrics)).
    axis_name: axis over which gradients and metrics are averaged, or `None`.

  Returns:
    (state after the step, Metrics).
  """
  gradients, (stats, metrics) = found
  if axis_name is not None:
    gradients, metrics = lax.pmean((gradients, metrics), axis_name)
  updates, optimizer_state = optimizer.update(
      gradients, state.optimizer, state.trainable)
  trainable = optax.apply_updates(state.trainable, updates)
  return State(state.step + 1, trainable, optimizer_state, stats,
               state.key), metrics


def make_step(method, network, optimizer):
  """Makes a pure step; see the module docstring."""
  forward = make_forward(method, network)

  def step(route, backbone, shared, state, batch, axis_name=None):
    def loss_fn(trainable):
      loss, stats, metrics = forward(
          route, backbone, shared, trainable, state.stats, batch, axis_name,
          jax.random.fold_in(state.key, state.step))
      return loss + method.penalty(trainable), (stats, metrics)

    found = jax.grad(loss_fn, has_aux=True)(state.trainable)
    return descend(optimizer, state, found, axis_name)

  return step


def make_batch(route, source, task, key, index, train, axis_name=None):
  """The images and labels at `index`, transformed on the device.

  If the route is pooled, `task` holds several tasks' arrays, stacked, and
  `index` is (number of the task) x (images in the source) + row.

  Random transforms use a key for each position in the global batch, so that
  the batch does not depend on the number of devices.
  """
  which = index // source.images.shape[0]  # index of the pooled task
  index = index % source.images.shape[0]
  images = jnp.take(source.images, index, axis=0, mode='clip')
  if route.pooled:
    task = jax.tree.map(lambda leaf: leaf[which], task)
    labels = jax.vmap(lambda table, label: table[label])(
        task.label_map, source.labels[index])
    keys = None if key is None else _keys(key, index.shape[0], axis_name)
    return _image_by_image(route, task.transforms, 0, images, keys,
                           train), labels
  labels = (source.labels[index] if route.loss == 'mse' else
            jnp.take(task.label_map, source.labels[index], mode='clip'))
  random = train and any(kind[0] == 'crop_flip' for kind in route.transforms)
  if not random:
    return pipeline.apply(route.transforms, task.transforms, images), labels
  keys = _keys(key, index.shape[0], axis_name)
  return _image_by_image(route, task.transforms, None, images, keys,
                         True), labels


def _keys(key, count, axis_name):
  """A key for every image of the batch, by position in the global batch."""
  offset = 0 if axis_name is None else lax.axis_index(axis_name) * count
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(
      offset + jnp.arange(count))


def _image_by_image(route, parameters, axis, images, keys, train):
  """Transforms every image with its own key, or even its own parameters."""
  return jax.vmap(
      lambda image, own, k: pipeline.apply(route.transforms, own,
                                           image[None], k, train)[0],
      in_axes=(0, axis, None if keys is None else 0))(images, parameters, keys)


def make_chunk(step):
  """Many steps as one scan over index arrays, so Python does not run per step.

  Returns:
    chunk(route, backbone, shared, source, task, state, index) -> (state,
    Metrics of [steps]); index is int32 [steps, batch].
  """
  def chunk(route, backbone, shared, source, task, state, index,
            axis_name=None):
    def body(state, rows):
      key = jax.random.fold_in(state.key, state.step)
      batch = make_batch(route, source, task, key, rows, True, axis_name)
      return step(route, backbone, shared, state, batch, axis_name)
    return lax.scan(body, state, index)
  return chunk


def make_evaluate(network):
  """Makes a function that sums over a split, in batches by one scan.

  The number of correct predictions is NaN for a regression.

  Returns:
    evaluate(route, params, stats, source, task, index) -> (summed loss, number
    of correct predictions); index is int32 [batches, batch], padded with -1.
  """
  def evaluate(route, params, stats, source, task, index, axis_name=None):
    def body(_, rows):
      images, labels = make_batch(route, source, task, None,
                                  jnp.maximum(rows, 0), False)
      logits, _ = network.apply(params, stats, images, train=False)
      loss = losses(route, logits, labels)
      right = correct(route, logits, labels)
      counted = rows >= 0
      return None, (jnp.sum(loss * counted.astype(loss.dtype)),
                    jnp.sum(jnp.where(counted, right, False)))
    _, (loss, right) = lax.scan(body, None, index)
    sums = jnp.sum(loss), jnp.sum(right)
    return sums if axis_name is None else lax.psum(sums, axis_name)
  return evaluate
