"""Commits what a group has learned.

Entries that trained at once, each with a state of its own, are measured in one
program and stored in one go; their impressions and records are those of one
commit after another. A kill leaves some of them whole, and the next start goes
on with the others.
"""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import methods
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.config import plan
from mtl_jax.steps import single
from mtl_jax.training import claims
from mtl_jax.training import commit as commit_lib
from mtl_jax.training import driver as driver_lib
from mtl_jax.training import drivers
from mtl_jax.training import evaluate
from mtl_jax.training import run as run_lib

LARGEST = 2 ** 29  # bytes of the states that are committed in one go


def commit(run: run_lib.Run, group: list[plan.Entry],
           unfinished: list[plan.Entry], driver: driver_lib.Driver, state,
           given: commit_lib.Given, curve: dict, trained: commit_lib.Trained,
           more: Callable[[int], dict]) -> commit_lib.Given:
  """Commits the entries of a group that aren't stored yet.

  Args:
    run: the run.
    group: all its entries.
    unfinished: those to commit, in the order of the group.
    driver: of the group.
    state: as `driver.member` takes it.
    given: what the group had of earlier tasks.
    curve: float32 [entries, steps] each.
    trained: see `commit.Trained`.
    more: what else the record of the group's entry i says.

  Returns:
    `given` for the next group.
  """
  left = [(entry, group.index(entry)) for entry in unfinished]
  curves = [{name: value[i] for name, value in curve.items()}
            for _, i in left]
  if not _at_once(group, unfinished, trained):
    for (entry, i), own in zip(left, curves):
      given = commit_lib.commit(run, entry, driver.member(state, i), given,
                                own, trained, more(i))
    return given
  state = parallel.on_host(state._replace(optimizer=None))
  count = max(1, LARGEST * len(group) // max(1, trees.nbytes(state.trainable)))
  for start in range(0, len(left), count):
    part = left[start:start + count]
    own = state if len(part) == len(group) else jax.tree.map(
        lambda x, part=part: x[np.array([i for _, i in part])], state)
    given = _together(run, [entry for entry, _ in part], own, given,
                      curves[start:start + count], trained,
                      [more(i) for _, i in part])
  return given


def _at_once(group, unfinished, trained) -> bool:
  return (len(unfinished) > 1 and not any(e.pooled for e in unfinished)
          and drivers.at_once(group, trained.recipe.batch_size))


def _together(run, entries, state, given, curves, trained,
              more) -> commit_lib.Given:
  """`commit` of each entry, in one go if their impressions allow it."""
  shared = parallel.local(given.shared)
  found = _leave(run, entries, state, given.shared, shared)
  if found is None:
    for i, (entry, own) in enumerate(zip(entries, curves)):
      given = commit_lib.commit(run, entry, parallel.from_host(jax.tree.map(
          lambda x, i=i: x[i], state)), given, own, trained, more[i])
    return given
  started = time.perf_counter()
  measured = _measure(run, entries, found, given)
  seconds = (time.perf_counter() - started) / len(entries)
  made = []
  for i, (entry, own, one) in enumerate(zip(entries, curves, measured)):
    impression = jax.tree.map(lambda x, i=i: x[i], found)
    claims.require_sound(entry, impression, {})
    record = commit_lib.describe(run, entry, impression, own, trained, one,
                                 seconds, more[i])
    made.append(commit_lib.made(
        run, entry, impression, record, given.relied, given.kept_by,
        functools.partial(_bound, run, entry, state, i, shared)))
    if impression.values is not None:  # the next one may refer to them
      commit_lib.write(run, [made.pop()])
  if made:
    commit_lib.write(run, made)
  return given


def _bound(run, entry, state, i: int, shared):
  """The parameters of a group's entry i at its last step."""
  return single.bind(
      entry.phase.make_method(), run.system.backbone.params,
      jax.tree.map(lambda x: x[i], state.trainable), shared, entry.route)


def _leave(run, entries, state, everywhere, shared):
  """The impressions of entries, stacked on the host.

  `None` of a method that keeps something for the next task, or that leaves
  what can't be compiled: its tasks are committed one by one.
  """
  method, route = entries[0].phase.make_method(), entries[0].route
  kept = []

  def one(params, trainable, shared):
    impression, after = method.commit(params, trainable, shared, route)
    kept.append(after is shared)
    return impression
  try:
    jax.eval_shape(one, run.system.backbone.params,
                   jax.tree.map(lambda x: x[0], state.trainable), shared)
  except (TypeError, IndexError):  # JAX's, of numbers that aren't known yet
    return None
  if not kept[0]:
    return None
  found, sound = jax.tree.map(
      lambda x: x[:len(entries)], parallel.gather_tasks(_impressions(method)(
          route, run.backbone.params, everywhere, (),
          evaluate.place(state.trainable))))
  for i in np.flatnonzero(~sound):
    claims.require_finite(entries[i], {'scores or weights': jax.tree.map(
        lambda x, i=i: x[i], state.trainable)})
  return found._replace(stats=state.stats) if run.backbone.stats else found


@functools.lru_cache(maxsize=64)
def _impressions(method: methods.Method):
  """The impression of each task, and whether what it was made from is finite.
  """
  def one(route, params, shared, source, trainable):
    del source
    sound = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(trainable)
             if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return (method.commit(params, trainable, shared, route)[0],
            jnp.stack([jnp.array(True), *sound]).all())
  return parallel.map_tasks(one)


def _measure(run, entries, found, given) -> list[dict]:
  """Accuracy and loss of each entry, as `commit` measures them."""
  group = evaluate.Group.of(run.data, entries, run.config.eval_batch_size)
  on = functools.partial(
      group.score, run.backbone.network,
      backbone=(run.backbone.params, run.backbone.stats))
  method, route = entries[0].phase.make_method(), entries[0].route
  states = evaluate.place(found)
  valid, test = (on(_committed(method), shared=given.shared, states=states,
                    split=split)
                 for split in ('valid', 'test'))
  keys = evaluate.place(plan.keys(run.config.seed, entries))
  unlearned = functools.partial(on, shared=given.unlearned(), states=keys,
                                split='test')
  before = unlearned(_initial(method, route))
  known = run.data.unlearned
  same = [(entry.tasks, entry.phase.loss) for entry in entries]
  if any(key not in known for key in same):
    known |= {key: score.accuracy
              for key, score in zip(same, unlearned(_bare))}
  return [{'accuracy': {'valid': v.accuracy, 'test': t.accuracy,
                        'backbone': known[key], 'before': b.accuracy},
           'loss': {'valid': round(v.loss, 6), 'test': round(t.loss, 6)}}
          for v, t, b, key in zip(valid, test, before, same)]


@functools.lru_cache(maxsize=64)
def _committed(method: methods.Method):
  def make(params, stats, shared, impression):
    return (method.materialise(params, impression, shared),
            impression.stats or stats)
  return make


@functools.lru_cache(maxsize=64)
def _initial(method: methods.Method, route: methods.Route):
  def make(params, stats, shared, key):
    trainable = method.init(key, params, shared, route)
    return method.bind(params, trainable, shared, route), stats
  return make


def _bare(params, stats, shared, state):
  del shared, state
  return params, stats
