"""Tasks trained in rounds: PaRT's schedule as one scan.

In a round, every task trains on a batch-set of `set_batches` consecutive
batches; the order of the tasks is drawn for each round. Each step trains one
task and changes only that task's rows of the banks (`methods.base.Banks`). The
sequence depends only on seeds and the step's number, so a resumed run draws the
same.

`own` moments: every task has its own optimizer, so that a module of t tasks
gets t streams of updates (faithful to the paper's code). `common` moments:
every row has one optimizer, whichever task trains it.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from mtl_jax import trees
from mtl_jax.steps import optimizers
from mtl_jax.steps import single

Tree = trees.Tree
MOMENTS = ('common', 'own')
ORDERS = ('drawn', 'sequence')


class State(NamedTuple):
  """The state that training a group updates.

  Attributes:
    step: int32 [tasks], number of batches that each task has seen.
    trainable: {bank: leaves [rows, ...]}.
    optimizer: leaves [tasks, ...] (`own` moments) or {bank: leaves
      [rows, ...]} (`common`).
    stats: norm statistics: leaves [tasks, ...], or {level: leaves [rows, ...]}
      if all tasks of a module share its statistics.
    key: typed keys [tasks].
  """
  step: Any
  trainable: Tree
  optimizer: Any
  stats: Tree
  key: Any


class Tasks(NamedTuple):
  """The traced arrays in which the tasks of a group differ.

  Attributes:
    transforms: parameters of each task's transforms, leaves [tasks, ...].
    label_map: int32 [tasks, source classes], padded with -1.
    classes: int32 [tasks].
  """
  transforms: Any
  label_map: Any
  classes: Any


def sequence(seed: tuple[int, ...], counts, set_batches: int,
             order: str = 'drawn') -> np.ndarray:
  """The task of every step of a run.

  Args:
    seed: integers that name the run and group.
    counts: batches of each task; in PaRT, one epoch of its data.
    set_batches: batches of a task in a round, or fewer if no more are left.
    order: order of the tasks in a round: 'drawn' at random, or 'sequence' for
      the given order.

  Returns:
    int32 [sum of counts].

  Raises:
    ValueError: the order is unknown, or `set_batches` is below 1.

  >>> sequence((0,), [3, 2], 2, 'sequence').tolist()
  [0, 0, 1, 1, 0]
  """
  if order not in ORDERS:
    raise ValueError(f'unknown order {order!r}{trees.nearest(order, ORDERS)}; '
                     f'known: {", ".join(ORDERS)}')
  if set_batches < 1:
    raise ValueError(f'set_batches is {set_batches}; it must be at least 1')
  left, found, number = np.array(counts), [], 0
  while left.any():
    tasks = np.arange(len(left))
    if order == 'drawn':
      bits = np.random.MT19937(np.random.SeedSequence([*seed, number]))
      tasks = np.random.RandomState(bits).permutation(tasks)
    now = np.minimum(left, set_batches)
    found.append(np.repeat(tasks, now[tasks]))
    left, number = left - now, number + 1
  return np.concatenate(found or [np.zeros(0, int)]).astype(np.int32)


def make_optimizer(recipe: optimizers.Recipe):
  """(the optimizer at rate 1, the rate as a function of a task's own step).

  Raises:
    ValueError: there is weight decay, which would change modules off the path.
  """
  if recipe.weight_decay:
    raise ValueError('training in rounds takes no weight decay, which would '
                     'change modules that the step does not train; leave out '
                     'weight_decay')
  unit = dataclasses.replace(recipe, learning_rate=1., schedule='constant')
  return optimizers.make_optimizer(unit), optimizers.make_schedule(recipe)


def take(tree: dict, rows: dict) -> dict:
  """The given rows of every bank."""
  return {bank: jax.tree.map(lambda x, r=rows[bank]: x[r], tree[bank])
          for bank in rows}


def put(tree: dict, rows: dict, part: dict) -> dict:
  """Banks with these rows replaced; inverse of `take`."""
  return {bank: jax.tree.map(lambda x, y, r=rows[bank]: x.at[r].set(y),
                             tree[bank], part[bank]) for bank in rows}


def init_state(method, optimizer, moments: str, keys, backbone, shared, stats,
               routes) -> State:
  """The state before a group's first step.

  Args:
    method: a method with `banks`.
    optimizer: see `make_optimizer`.
    moments: 'own' or 'common'.
    keys: typed keys [tasks].
    backbone: parameter tree.
    shared: the method's `shared`.
    stats: the network's initial norm statistics.
    routes: routes of the group's tasks.

  Raises:
    ValueError: `moments` is unknown.
  """
  if moments not in MOMENTS:
    raise ValueError(f'unknown moments {moments!r}'
                     f'{trees.nearest(moments, MOMENTS)}; known: '
                     f'{", ".join(MOMENTS)}')
  trainable = method.init(keys[0], backbone, shared, routes)
  rows = method.abilities.banks.rows(trainable)
  tasks = len(routes)
  if moments == 'own':
    first = take(trainable, {bank: r[0] for bank, r in rows.items()})
    optimizer_state = _repeat(optimizer.init(first), tasks)
  else:
    optimizer_state = {bank: jax.vmap(optimizer.init)(tree)
                       for bank, tree in trainable.items()}
  if method.abilities.banks.shared_stats:
    stats = {level: _repeat(slots[min(slots)], _count(trainable[level]))
             for level, slots in stats.items()}
  else:
    stats = _repeat(stats, tasks)
  return State(jnp.zeros(tasks, jnp.int32), trainable, optimizer_state, stats,
               jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys))


def _repeat(tree, times):
  return jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x)[None], times, 0),
                      tree)


def _count(bank) -> int:
  return jax.tree.leaves(bank)[0].shape[0]


def own_stats(banks, stats: Tree, rows: dict, task) -> Tree:
  """The norm statistics of one task, in the slots of its path."""
  if not banks.shared_stats:
    return jax.tree.map(lambda x: x[task], stats)

  def level(name, tree):
    count = len(rows[name])
    digits = len(str(count - 1))
    return {f'slot{n:0{digits}d}': jax.tree.map(
        lambda x: x[rows[name][n]], tree) for n in range(count)}
  return {name: level(name, tree) for name, tree in stats.items()}


def _put_stats(banks, stats, rows, task, new):
  if not banks.shared_stats:
    return jax.tree.map(lambda x, y: x.at[task].set(y), stats, new)
  return {level: jax.tree.map(
      lambda x, *slots, r=rows[level]: x.at[r].set(jnp.stack(slots)), tree,
      *[new[level][slot] for slot in sorted(new[level])])
          for level, tree in stats.items()}


def make_step(method, network, optimizer, rate, moments: str):
  """One step of one task; the task may be traced.

  Returns:
    step(backbone, shared, state, task, classes, rows of all tasks, batch)
    -> (state, steps.Metrics).
  """
  banks = method.abilities.banks

  def step(shared, state, task, classes, all_rows, batch, axis_name=None):
    images, labels = batch
    rows = {bank: jnp.asarray(r)[task] for bank, r in all_rows.items()}
    part = take(state.trainable, rows)

    def loss_fn(part):
      logits, stats = network.apply(
          banks.bind(part, shared, rows),
          own_stats(banks, state.stats, rows, task), images, train=True,
          axis_name=axis_name, **single.noise(network, jax.random.fold_in(
              state.key[task], state.step[task]), axis_name))
      own = jnp.arange(logits.shape[-1]) < classes
      logits = jnp.where(own[None], logits, -jnp.inf)
      loss = optax.softmax_cross_entropy_with_integer_labels(
          logits, labels).mean()
      correct = jnp.argmax(logits, -1) == labels
      return loss, (stats, single.Metrics(
          loss, jnp.mean(correct, dtype=jnp.float32)))

    gradients, (stats, metrics) = jax.grad(loss_fn, has_aux=True)(part)
    if axis_name is not None:
      gradients, metrics = lax.pmean((gradients, metrics), axis_name)
    part, optimizer_state = _update(part, gradients, state.optimizer, task,
                                    rows, rate(state.step[task]))
    return State(
        state.step.at[task].add(1), put(state.trainable, rows, part),
        optimizer_state, _put_stats(banks, state.stats, rows, task, stats),
        state.key), metrics

  def _update(part, gradients, state, task, rows, rate_now):
    if moments == 'own':
      mine = jax.tree.map(lambda x: x[task], state)
      updates, mine = optimizer.update(gradients, mine, part)
      state = jax.tree.map(lambda x, y: x.at[task].set(y), state, mine)
    else:
      mine = take(state, rows)
      done = {bank: jax.vmap(optimizer.update)(
          gradients[bank], mine[bank], part[bank]) for bank in part}
      updates = {bank: found[0] for bank, found in done.items()}
      state = put(state, rows, {bank: found[1]
                                for bank, found in done.items()})
    return jax.tree.map(lambda p, u: p + rate_now * u, part, updates), state

  return step


def make_chunk(step, method):
  """Many steps of many tasks as one scan.

  Returns:
    chunk(route, backbone, shared, source, tasks, state, (task, index)) ->
    (state, steps.Metrics of [steps]). `source` holds the images of all tasks'
    sources in one array, `tasks` is `Tasks`, task is int32 [steps] and index
    int32 [steps, batch]. The route is that of any task of the group.
  """
  def chunk(route, backbone, shared, source, tasks, state, plan,
            axis_name=None):
    del backbone
    all_rows = method.abilities.banks.rows(state.trainable)

    def body(state, now):
      task, rows = now
      own = single.TaskArrays(
          jax.tree.map(lambda x: x[task], tasks.transforms),
          tasks.label_map[task])
      key = jax.random.fold_in(state.key[task], state.step[task])
      batch = single.make_batch(route, source, own, key, rows, True, axis_name)
      return step(shared, state, task, tasks.classes[task], all_rows, batch,
                  axis_name)
    return lax.scan(body, state, plan)
  return chunk


def stack_tasks(found: list[single.TaskArrays], classes) -> Tasks:
  """Stacks the arrays of a group's tasks.

  Raises:
    ValueError: the tasks have transforms of different kinds.
  """
  if len({jax.tree.structure(task.transforms) for task in found}) > 1:
    raise ValueError('tasks that train together in one executable need the '
                     'same kinds of transforms')
  widest = max(len(task.label_map) for task in found)
  return Tasks(
      jax.tree.map(lambda *x: jnp.stack(x), *[t.transforms for t in found]),
      jnp.stack([jnp.pad(jnp.asarray(t.label_map),
                         (0, widest - len(t.label_map)), constant_values=-1)
                 for t in found]),
      jnp.asarray(classes, jnp.int32))


def batches(order: np.ndarray, start: int, stop: int, draw) -> np.ndarray:
  """The rows of the steps from `start` to `stop` of a sequence.

  Args:
    order: from `sequence`.
    start: first step.
    stop: the step after the last one.
    draw: (task, first batch, number) -> int32 [number, batch].

  Returns:
    int32 [stop - start, batch].
  """
  now, before = order[start:stop], order[:start]
  places = [np.flatnonzero(now == task) for task in np.unique(now)]
  rows = [draw(int(task), int(np.sum(before == task)), len(at))
          for task, at in zip(np.unique(now), places)]
  found = np.zeros((len(now), rows[0].shape[1]), np.int32)
  found[np.concatenate(places)] = np.concatenate(rows)
  return found
