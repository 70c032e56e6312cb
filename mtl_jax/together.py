"""Several tasks in one step: the losses of a group trained together are summed.

    step(routes, backbone, shared, state, batches) -> (state, metrics)

The group has one `trainable`; `method.bind` gives each member's parameters by
`route.member`. Norm statistics and keys are a tuple with one per member, so
that no task's statistics are another's. Images may come from different sources
and have different shapes: members are unrolled, not stacked.
"""

import jax
import jax.numpy as jnp
from jax import lax

from mtl_jax import steps


def init_state(method, optimizer, keys, backbone, shared, stats,
               routes) -> steps.State:
  """The state before a group's first step; `keys` has one per member.

  What is trained is drawn from the first member's key.
  """
  trainable = method.init(keys[0], backbone, shared, routes)
  return steps.State(
      step=jnp.int32(0), trainable=trainable,
      optimizer=optimizer.init(trainable), stats=(stats,) * len(routes),
      key=tuple(jax.random.fold_in(key, 1) for key in keys))


def make_step(method, network, optimizer):
  """One update from a batch of every member; metrics are [members]."""
  forward = steps.make_forward(method, network)

  def step(routes, backbone, shared, state, batches, axis_name=None):
    def loss_fn(trainable):
      found = [forward(route, backbone, shared, trainable, stats, batch,
                       axis_name)
               for route, stats, batch in zip(routes, state.stats, batches)]
      losses, stats, metrics = zip(*found)
      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *metrics)
      return sum(losses) + method.penalty(trainable), (stats, stacked)

    return steps.descend(optimizer, state, loss_fn, axis_name)

  return step


def make_chunk(step):
  """Many steps as one scan.

  Returns:
    chunk(routes, backbone, shared, sources, tasks, state, index) with tuples
    of one source and one `steps.TaskArrays` per member and index int32
    [steps, members, batch], giving (state, Metrics of [steps, members]).
  """
  def chunk(routes, backbone, shared, sources, tasks, state, index,
            axis_name=None):
    def body(state, rows):
      batches = tuple(
          steps.make_batch(route, source, task,
                           jax.random.fold_in(key, state.step), rows[i], True,
                           axis_name)
          for i, (route, source, task, key) in enumerate(
              zip(routes, sources, tasks, state.key)))
      return step(routes, backbone, shared, state, batches, axis_name)
    return lax.scan(body, state, index)
  return chunk


def of_member(state: steps.State, member: int) -> steps.State:
  """A member's view of its group's state: what `commit` takes."""
  return state._replace(stats=state.stats[member], key=state.key[member])
