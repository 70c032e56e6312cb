"""Several tasks in one step: the losses of a group are summed.

    step(routes, backbone, shared, state, batches) -> (state, metrics)

The group has one `trainable`; `method.bind` gives each member's parameters by
`route.member`. Norm statistics and keys are tuples with one entry per member,
so that tasks do not share statistics. Images may come from different sources
and have different shapes.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from mtl_jax.steps import single


def init_state(method, optimizer, keys, backbone, shared, stats,
               routes) -> single.State:
  """The state before a group's first step; `keys` has one key per member.

  The first member's key is used to draw `trainable`.
  """
  trainable = method.init(keys[0], backbone, shared, routes)
  return single.State(
      step=jnp.int32(0), trainable=trainable,
      optimizer=optimizer.init(trainable), stats=(stats,) * len(routes),
      key=tuple(jax.random.fold_in(key, 1) for key in keys))


def make_step(method, network, optimizer):
  """One update from a batch of every member; metrics are [members].

  If the method accepts a traced `route.member`, members of equal structure run
  in a loop, so that the effective parameters of only one member are in memory
  at a time. Otherwise the loop is unrolled.
  """
  forward = single.make_forward(method, network)

  def step(routes, backbone, shared, state, batches, axis_name=None):
    def gradient(route, stats, batch, key):
      def loss_fn(trainable):
        loss, new_stats, metrics = forward(
            route, backbone, shared, trainable, stats, batch, axis_name,
            jax.random.fold_in(key, state.step))
        return loss, (new_stats, metrics)
      return jax.grad(loss_fn, has_aux=True)(state.trainable)

    run = (_looped if method.abilities.members and _of_one_form(routes, batches)
           else _unrolled)
    total, measured = run(gradient, routes, state.stats, batches, state.key)
    penalty = jax.grad(lambda t: jnp.float32(method.penalty(t)))(
        state.trainable)
    return single.descend(optimizer, state, (
        jax.tree.map(jnp.add, total, penalty), measured), axis_name)

  return step


def _stack(trees_):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees_)


def _of_one_form(routes, batches) -> bool:
  forms = {(dataclasses.replace(route, member=0), jax.tree.structure(batch),
            tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(batch)))
           for route, batch in zip(routes, batches)}
  return len(forms) == 1 and len(routes) > 1


def _unrolled(gradient, routes, stats, batches, keys):
  found = [gradient(*own) for own in zip(routes, stats, batches, keys)]
  gradients, measured = zip(*found)
  total = jax.tree.map(lambda *leaves: sum(leaves), *gradients)
  stats, metrics = zip(*measured)
  return total, (stats, _stack(metrics))


def _looped(gradient, routes, stats, batches, keys):
  def body(total, own):
    member, stats, batch, key = own
    found, measured = gradient(dataclasses.replace(routes[0], member=member),
                               stats, batch, key)
    return jax.tree.map(jnp.add, total, found), measured

  members = jnp.arange(len(routes))
  own = members, _stack(stats), _stack(batches), jnp.stack(keys)
  like = jax.eval_shape(functools.partial(gradient, routes[0]), stats[0],
                        batches[0], keys[0])[0]
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
  total, (new_stats, metrics) = lax.scan(body, zeros, own)
  return total, (tuple(jax.tree.map(lambda x, i=i: x[i], new_stats)
                       for i in range(len(routes))), metrics)


def make_chunk(step):
  """Many steps as one scan.

  Returns:
    chunk(routes, backbone, shared, sources, tasks, state, index) -> (state,
    Metrics of [steps, members]). `sources` and `tasks` have one source and one
    `steps.TaskArrays` per member; index is int32 [steps, members, batch].
  """
  def chunk(routes, backbone, shared, sources, tasks, state, index,
            axis_name=None):
    def body(state, rows):
      batches = tuple(
          single.make_batch(route, source, task,
                           jax.random.fold_in(key, state.step), rows[i], True,
                           axis_name)
          for i, (route, source, task, key) in enumerate(
              zip(routes, sources, tasks, state.key)))
      return step(routes, backbone, shared, state, batches, axis_name)
    return lax.scan(body, state, index)
  return chunk


def of_member(state: single.State, member: int) -> single.State:
  """The state of one member of a group, for `commit`."""
  return state._replace(stats=state.stats[member], key=state.key[member])
