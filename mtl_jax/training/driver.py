"""The interface that all ways to train a group share; see `drivers`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_jax import methods
from mtl_jax import models
from mtl_jax import parallel
from mtl_jax.data import batches
from mtl_jax.steps import joint as joint_lib
from mtl_jax.steps import optimizers
from mtl_jax.steps import single


class Driver(NamedTuple):
  """The training of a group, as functions of a state.

  Attributes:
    start: (shared) -> the state before the first step.
    place: (state) -> the same state on the devices.
    advance: (shared, state, first step, count) -> (state, function that
      waits for the steps and returns their Metrics, [entries, count], on the
      host).
    whole: (state) -> the state as it is saved; `place` accepts it.
    member: (whole state, i) -> the `steps.State` of entry i.
    lower: (shapes of shared, count) -> the lowered program of `advance`.
    validate: (shared, state) -> the `evaluate.Score` of every entry on its
      validation images, computed at once. `None`: the entries are validated
      one by one.
    curves: (values [entries, steps] from `advance`) -> the same values with
      one row for each entry.
  """
  start: Callable[..., Any]
  place: Callable[..., Any]
  advance: Callable[..., Any]
  whole: Callable[..., Any]
  member: Callable[..., Any]
  lower: Callable[..., jax.stages.Lowered]
  curves: Callable[..., Any] = lambda values: values
  validate: Callable[..., Any] | None = None


class Program(NamedTuple):
  """A phase's compiled functions; tasks of equal recipes share one."""
  init: Any
  chunk: Any
  chunk_many: Any
  init_together: Any
  chunk_together: Any


@functools.lru_cache(maxsize=64)
def program(method: methods.Method, recipe: optimizers.Recipe,
            network: models.Network) -> Program:
  """Builds the functions of one method and recipe, and caches them."""
  optimizer = optimizers.optimizer_of(method, recipe)
  chunk = single.make_chunk(single.make_step(method, network, optimizer))
  joint = joint_lib.make_chunk(joint_lib.make_step(method, network, optimizer))
  init = functools.partial(single.init_state, method, optimizer)
  init_joint = functools.partial(joint_lib.init_state, method, optimizer)
  return Program(jax.jit(init, static_argnums=4), parallel.over_batches(chunk),
                 parallel.over_tasks(chunk),
                 jax.jit(init_joint, static_argnums=4),
                 parallel.over_batches(joint))


def index(run, group, recipe, first, count) -> np.ndarray:
  """Rows of every entry's batches, int32 [entries, count, batch]."""
  return np.stack([batches.of_epochs(
      run.data.rows(entry), count, recipe.batch_size,
      entry.seed(run.config.seed), first) for entry in group])


def ahead(run, group, recipe):
  """`index` by (first, count); prepares the next chunk's index in advance.

  Returns:
    (draw(first, count), prepare(first, count)); `prepare` is called while the
    devices work on the chunk that ends before `first`.
  """
  ready: dict[tuple[int, int], np.ndarray] = {}

  def draw(first, count):
    found = ready.pop((first, count), None)
    return index(run, group, recipe, first, count) if found is None else found

  def prepare(first, count):
    count = min(count, recipe.steps - first)
    ready.clear()
    if count > 0:
      ready[first, count] = index(run, group, recipe, first, count)

  return draw, prepare


def initial(run, functions, entry, shared) -> single.State:
  return functions.init(
      entry.key(run.config.seed), run.system.backbone.params,
      parallel.local(shared), run.system.backbone.stats, entry.route)


def no_rows(recipe, count, *more) -> np.ndarray:
  """A placeholder for the index of `count` steps, int32 [count, ..., batch]."""
  return np.zeros((count, *more, recipe.batch_size), np.int32)
