"""The cases of this library: its own training steps in one scan."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import timing
from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import parallel
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.methods import impresslearn
from mtl_jax.methods import supsup
from mtl_jax.steps import optimizers
from mtl_jax.steps import single

ROUTE = methods.Route(10)
RECIPE = optimizers.Recipe(steps=1000)


class Setup(NamedTuple):
  """What all cases use.

  Attributes:
    network: pure functions of LeNet-300-100.
    backbone: its signed constant weights.
    images: float32 [steps, batch, 28, 28, 1], ready batches.
    labels: int32 [steps, batch].
  """
  network: models.Network
  backbone: Any
  images: Any
  labels: Any


def make_setup(count: int = 100, batch: int = 128) -> Setup:
  """LeNet-300-100 at 10 outputs and `count` batches of noise."""
  network = models.make('lenet_300_100', 10)
  params, _ = network.init(jax.random.key(0), (28, 28, 1))
  rng = np.random.RandomState(0)
  images = rng.standard_normal((count, batch, 28, 28, 1)).astype(np.float32)
  labels = rng.randint(0, 10, (count, batch)).astype(np.int32)
  return Setup(network, masks.signed_constant(jax.random.key(1), params),
               jnp.asarray(images), jnp.asarray(labels))


def start(setup, method, shared):
  """The state before the first step."""
  return single.init_state(method, optimizers.make_optimizer(RECIPE),
                          jax.random.key(2), setup.backbone, shared, {}, ROUTE)


def step_scan(setup, method, shared=None, count=None):
  """A function that runs the library's step over ready batches.

  Args:
    setup: see `Setup`.
    method: a `methods.Method`.
    shared: what the method reads beside the backbone.
    count: steps; all batches if `None`.

  Returns:
    run() -> (state, Metrics of [count]), always from the same start.
  """
  shared = shared or {}
  step = single.make_step(method, setup.network,
                          optimizers.make_optimizer(RECIPE))

  @jax.jit
  def scan(backbone, shared, state, batches):
    body = lambda state, batch: step(ROUTE, backbone, shared, state, batch)
    return lax.scan(body, state, batches)

  state = start(setup, method, shared)
  batches = (setup.images[:count], setup.labels[:count])
  return lambda: jax.block_until_ready(
      scan(setup.backbone, shared, state, batches))


def product_scan(setup, input_gradients: bool):
  """The step's matrix products alone, as one scan.

  Three forward and three for the gradients of the weights; with
  `input_gradients` also the two for the gradients of the hidden layers. Every
  step has another batch and each product reads an earlier one, so nothing
  can be computed once for all steps; the last three are returned.

  Returns:
    run() -> the last step's three [fan_in, fan_out] products.
  """
  kernels = [layer['kernel'] for _, layer in sorted(setup.backbone.items())]

  @jax.jit
  def scan(kernels, images):
    def body(_, x):
      return products(kernels, x.reshape(x.shape[0], -1), input_gradients), None
    return lax.scan(body, tuple(kernels), images)[0]

  return lambda: jax.block_until_ready(scan(kernels, setup.images))


def products(kernels, x, input_gradients: bool):
  """One step's products; activations are used in place of gradients."""
  first, second, third = kernels
  a = x @ first
  b = a @ second
  c = b @ third
  to_b, to_a = b, a
  if input_gradients:
    to_b = c @ third.T
    to_a = to_b @ second.T
  return x.T @ to_a, a.T @ to_b, b.T @ c


def product_flops(setup, input_gradients: bool) -> float:
  """Floating point operations of one step's products."""
  sizes = [layer['kernel'].size for _, layer in sorted(setup.backbone.items())]
  sizes += sizes + (sizes[1:] if input_gradients else [])
  return 2. * setup.labels.shape[1] * sum(sizes)


def chunk_run(setup, count: int, tasks: int = 1, at_once: bool = False,
              source_size: int = 60_000):
  """The library's chunk: uint8 rows gathered, permuted, normalised, trained.

  Args:
    setup: see `Setup`.
    count: steps of each task.
    tasks: how many tasks.
    at_once: all tasks under one vmap (`parallel.over_tasks`), or one after
      the other (`parallel.over_batches`).
    source_size: images in the source.

  Returns:
    run(), which goes on from where the last call ended.
  """
  rng = np.random.RandomState(1)
  source = single.Source(
      rng.randint(0, 256, (source_size, 28, 28, 1)).astype(np.uint8),
      rng.randint(0, 10, source_size).astype(np.int32))
  method = methods.make('supsup')
  chunk = single.make_chunk(single.make_step(
      method, setup.network, optimizers.make_optimizer(RECIPE)))
  backbone, source = parallel.put((setup.backbone, source))
  arrays = [task_arrays(i) for i in range(tasks)]
  index = rng.randint(0, source_size, (tasks, count, setup.labels.shape[1]))
  index = index.astype(np.int32)
  states = [start(setup, method, {}) for _ in range(tasks)]
  pieces = transforms.kinds(chain(0))
  route = methods.Route(10, pieces)
  if at_once:
    call = parallel.over_tasks(chunk)
    work = [(parallel.split_tasks(parallel.stack(arrays)),
             parallel.split_tasks(index))]
    states = [parallel.split_tasks(parallel.stack(states))]
  else:
    call = parallel.over_batches(chunk)
    work = [(parallel.put(arrays[i]), parallel.split_batch(index[i]))
            for i in range(tasks)]
    states = parallel.put(states)

  def run():
    for i, (task, rows) in enumerate(work):
      states[i], measured = call(route, backbone, {}, source, task, states[i],
                                 rows)
    return jax.block_until_ready((states, measured))
  return run


def chain(seed: int):
  """The transforms of a PermutedMNIST task."""
  return (transforms.permute(seed), transforms.normalise(0.1307, 0.3081))


def task_arrays(seed: int) -> single.TaskArrays:
  return single.TaskArrays(pipeline.parameters(chain(seed), (28, 28, 1)),
                          np.arange(10, dtype=np.int32))


def by_sort(density: float) -> methods.Method:
  """Edge-popup whose bound is read from the sorted scores."""
  def leaf(s):
    kept = round(density * s.size)
    return s >= jnp.sort(s.reshape(-1))[s.size - kept]
  return supsup.supsup(supsup.Sampler(
      functools.partial(jax.tree.map, jnp.abs),
      functools.partial(jax.tree.map, leaf)))


def by_argsort(density: float) -> methods.Method:
  """Edge-popup as it is usually written: sort, then scatter ones."""
  def leaf(s):
    kept = round(density * s.size)
    order = jnp.argsort(s.reshape(-1), descending=True)
    mask = jnp.zeros(s.size, bool).at[order[:kept]].set(True)
    return mask.reshape(s.shape)
  return supsup.supsup(supsup.Sampler(
      functools.partial(jax.tree.map, jnp.abs),
      functools.partial(jax.tree.map, leaf)))


def random_basis(setup, size: int):
  """`size` random masks of density 0.5, bool leaves [size, ...]."""
  return impresslearn.random_basis(jax.random.key(3), setup.backbone, size, 0.5)


def combine_scan(setup, basis, count: int, as_float: bool):
  """combine() and its gradient, alone, `count` times.

  Args:
    setup: see `Setup`.
    basis: bool leaves [K, ...].
    count: times.
    as_float: `jnp.tensordot` with a float copy of the basis instead, made
      beforehand (four times the memory).

  Returns:
    run() -> coefficients after `count` steps of gradient descent.
  """
  mix = impressions.combine
  if as_float:
    basis = jax.tree.map(lambda m: m.astype(jnp.float32), basis)
    mix = functools.partial(jax.tree.map,
                            lambda a, m: jnp.tensordot(a, m, 1))
  alphas = jax.tree.map(
      lambda m: jnp.linspace(-1., 1., m.shape[0]) / m.shape[0], basis)

  @jax.jit
  def scan(alphas, basis, backbone):
    def loss(alphas):
      mixed = masks.apply(backbone, mix(alphas, basis))
      return sum(jnp.vdot(w, w) for w in jax.tree.leaves(mixed))

    def body(alphas, _):
      gradient = jax.grad(loss)(alphas)
      return jax.tree.map(lambda a, g: a - 1e-5 * g, alphas, gradient), None
    return lax.scan(body, alphas, length=count)[0]

  return lambda: jax.block_until_ready(scan(alphas, basis, setup.backbone))


def groups(setup, short: int = 25) -> dict[str, list[timing.Case]]:
  """The cases that are timed in turn, by group.

  Args:
    setup: see `Setup`.
    short: steps per call of what is slow.
  """
  count, case = setup.labels.shape[0], timing.Case
  mask = methods.make('supsup')
  threshold = case('threshold step', step_scan(setup, mask), count)
  flops = functools.partial(product_flops, setup)
  edge = lambda density: step_scan(setup, methods.make(
      'supsup', sampler='top_k', density=density))
  few = max(short // 5, 1)
  bases = {size: random_basis(setup, size) for size in (10, 40, 100)}
  coefficients = lambda size: step_scan(
      setup, methods.make('impresslearn'), {'basis': bases[size]}, short)
  return {
      'products': [
          case('six products', product_scan(setup, False), count,
               flops=flops(False)),
          case('eight products', product_scan(setup, True), count,
               'six products', flops=flops(True)),
          threshold._replace(reference='six products', target=1.3),
          case('threshold chunk (uint8, permuted)', chunk_run(setup, count),
               count, 'threshold step')],
      'edge-popup': [
          threshold,
          case('edge-popup 0.5', edge(0.5), count, 'threshold step', 3.),
          case('edge-popup 0.05', edge(0.05), count, 'threshold step', 3.),
          case('edge-popup 0.5, jnp.sort',
               step_scan(setup, by_sort(0.5), count=few), few,
               'threshold step'),
          case('edge-popup 0.5, jnp.argsort',
               step_scan(setup, by_argsort(0.5), count=few), few,
               'threshold step')],
      'impresslearn': [threshold] + [
          case(f'coefficients K={size}', coefficients(size), short,
               'threshold step') for size in bases],
      'combine': [
          case(f'{kind} K={size}', combine_scan(setup, bases[size], short,
                                                as_float=kind != 'combine'),
               short, '' if kind != 'combine' else f'tensordot K={size}')
          for size in bases for kind in ('tensordot', 'combine')],
      'many tasks': [
          case('8 tasks in turn', chunk_run(setup, short, 8), short * 8),
          case('8 tasks at once', chunk_run(setup, short, 8, True), short * 8,
               '8 tasks in turn')],
  }
