"""How the entries of a group train: one, many at once, or all together.

Every way of training is a `Driver`, so that the loop in `loop` treats them
alike: a driver starts a state, runs a chunk of steps, and returns each entry's
own state at the end.
"""

import functools
import zlib

import jax
import numpy as np

from mtl_jax import methods
from mtl_jax import models
from mtl_jax import parallel
from mtl_jax.config import parts as config_parts
from mtl_jax.config import plan
from mtl_jax.data import batches
from mtl_jax.parallel import memory
from mtl_jax.steps import joint as joint_lib
from mtl_jax.steps import optimizers
from mtl_jax.steps import rounds
from mtl_jax.steps import single
from mtl_jax.training import driver as driver_lib
from mtl_jax.training import evaluate
from mtl_jax.training import mesh_driver
from mtl_jax.training import run as run_lib


def make(run: run_lib.Run, group: list[plan.Entry],
         recipe: optimizers.Recipe) -> driver_lib.Driver:
  """The driver of a group.

  Args:
    run: the run.
    group: entries of one phase, from `plan.groups`.
    recipe: the training recipe.
  """
  if group[0].phase.together == 'rounds':
    return _rounds(run, group, recipe)
  if group[0].phase.together:
    return _together(run, group, recipe)
  if run.config.mesh:
    return mesh_driver.make(run, group, recipe, run.config.mesh.axes())
  return (_many if at_once(group, recipe.batch_size) else _one)(
      run, group, recipe)


def _one(run, group, recipe) -> driver_lib.Driver:
  functions = driver_lib.program(
      group[0].phase.make_method(), recipe, run.backbone.network)
  entry, = group
  task = run.data.entry_arrays(entry)
  source = run.data.split(entry.task, 'train')
  draw, prepare = driver_lib.ahead(run, group, recipe)
  start = functools.partial(driver_lib.initial, run, functions, entry)

  def advance(shared, state, first, count):
    index = draw(first, count)
    state, measured = functions.chunk(
        entry.route, run.backbone.params, shared, source, task, state,
        parallel.split_batch(index[0]))
    prepare(first + count, count)
    return state, lambda: jax.tree.map(lambda x: x[None],
                                       parallel.to_host(measured))

  def lower(shared, count):
    return functions.chunk.lower(
        entry.route, run.backbone.params, memory.shapes(shared), source, task,
        memory.shapes(jax.eval_shape(start, shared)),
        parallel.split_batch(driver_lib.no_rows(recipe, count)))

  return driver_lib.Driver(start, parallel.put, advance, lambda state: state,
                           lambda state, i: state, lower)


def at_once(group: list[plan.Entry], batch_size: int) -> bool:
  """Whether a group trains under vmap, its tasks divided over the devices.

  A phase that trains many tasks at once may end with a single task; this task
  is trained under vmap too if its batch does not divide over the devices.
  """
  return not group[0].phase.together and (
      len(group) > 1 or (group[0].phase.most_at_once > 1
                         and batch_size % parallel.device_count() > 0))


def _many(run, group, recipe) -> driver_lib.Driver:
  """Entries of one route under vmap, divided over the devices.

  If their number is not a multiple of the number of devices, the last entry is
  trained several times. The saved state and all results of the driver hold
  each entry once.
  """
  functions = driver_lib.program(
      group[0].phase.make_method(), recipe, run.backbone.network)
  alone, entries = len(group) == 1, len(group)  # one state has no task axis
  place = lambda tree: parallel.split_tasks(parallel.pad_tasks(tree))
  unpad = functools.partial(jax.tree.map, lambda x: x[:entries])
  tasks = functools.cache(lambda: place(parallel.stack_on_host(
      [run.data.on_host(entry) for entry in group])))
  source = run.data.split(group[0].task, 'train')
  draw, prepare = driver_lib.ahead(run, group, recipe)

  def start(shared):
    states = [driver_lib.initial(run, functions, entry, shared)
              for entry in group]
    return states[0] if alone else parallel.stack(states)

  place_state = lambda state: place(
      jax.tree.map(lambda x: x[None], state) if alone else state)

  def advance(shared, state, first, count):
    index = draw(first, count)
    state, measured = functions.chunk_many(
        group[0].route, run.backbone.params, shared, source, tasks(), state,
        place(index))
    prepare(first + count, count)
    return state, lambda: unpad(parallel.gather_tasks(measured))

  def whole(state):
    state = parallel.join_tasks(state)
    return jax.tree.map(lambda x: x[0], state) if alone else unpad(state)

  def member(state, i):
    # On the host: indexing a divided array would run on all devices.
    return state if alone else parallel.from_host(jax.tree.map(
        lambda x: x[i], parallel.on_host(state)))

  def lower(shared, count):
    state = jax.eval_shape(
        functools.partial(driver_lib.initial, run, functions, group[0]), shared)
    shapes = functools.partial(memory.split_shapes, tasks=entries)
    return functions.chunk_many.lower(
        group[0].route, run.backbone.params, memory.shapes(shared), source,
        shapes(run.data.entry_arrays(group[0])), shapes(state),
        shapes(driver_lib.no_rows(recipe, count)))

  return driver_lib.Driver(
      start, place_state, advance, whole, member, lower,
      validate=None if any(entry.pooled for entry in group) else
      functools.partial(_validate, run, group, tasks))


def _validate(run, group, tasks, shared, state) -> list[evaluate.Score]:
  """Scores on validation images of entries in training under vmap."""
  first = group[0]
  return evaluate.Group(
      run.data, group, tasks(), run.config.eval_batch_size).score(
          run.backbone.network,
          _trained(first.phase.make_method(), first.route),
          (run.backbone.params, run.backbone.stats), shared,
          (state.trainable, state.stats), 'valid')


@functools.lru_cache(maxsize=64)
def _trained(method: methods.Method, route: methods.Route):
  """The network of a state in training; see `evaluate.Group.score`."""
  def make(params, stats, shared, state):
    del stats
    trainable, own = state
    return method.bind(params, trainable, shared, route), own
  return make


def _together(run, group, recipe) -> driver_lib.Driver:
  """Entries whose losses are summed; every step has a batch of each entry."""
  functions = driver_lib.program(
      group[0].phase.make_method(), recipe, run.backbone.network)
  routes = tuple(entry.route for entry in group)
  tasks = tuple(run.data.entry_arrays(entry) for entry in group)
  sources = tuple(run.data.split(entry.task, 'train') for entry in group)
  keys = tuple(entry.key(run.config.seed) for entry in group)

  def start(shared):
    return functions.init_together(
        keys, run.system.backbone.params, parallel.local(shared),
        run.system.backbone.stats, routes)

  def advance(shared, state, first, count):
    index = driver_lib.index(run, group, recipe, first, count).swapaxes(0, 1)
    state, measured = functions.chunk_together(
        routes, run.backbone.params, shared, sources, tasks, state,
        parallel.split_batch(index))
    return state, lambda: jax.tree.map(np.transpose,
                                       parallel.to_host(measured))

  def lower(shared, count):
    return functions.chunk_together.lower(
        routes, run.backbone.params, memory.shapes(shared), sources, tasks,
        memory.shapes(jax.eval_shape(start, shared)),
        parallel.split_batch(driver_lib.no_rows(recipe, count, len(group))))

  return driver_lib.Driver(start, parallel.put, advance, lambda state: state,
                           joint_lib.of_member, lower)


@functools.lru_cache(maxsize=64)
def round_program(method: methods.Method, turns: config_parts.Rounds,
                  recipe: optimizers.Recipe, network: models.Network):
  """The compiled (init, chunk) of a method that trains in rounds."""
  optimizer, rate = rounds.make_optimizer(recipe)
  init = functools.partial(rounds.init_state, method, optimizer,
                           turns.moments)
  chunk = rounds.make_chunk(rounds.make_step(
      method, network, optimizer, rate, turns.moments), method)
  return jax.jit(init, static_argnums=4), parallel.over_batches(chunk)


def _rounds(run, group, recipe) -> driver_lib.Driver:
  """Entries that take turns; one scan runs `count` steps of every entry.

  A chunk may end within a round.
  """
  phase = group[0].phase
  method, tasks_ = phase.make_method(), len(group)
  init, chunk = round_program(method, phase.rounds, recipe,
                              run.backbone.network)
  routes = plan.init_route(group)
  order = rounds.sequence(
      (run.config.seed, zlib.crc32(phase.order_name.encode())),
      [recipe.steps] * tasks_, phase.rounds.set_batches or recipe.steps,
      phase.rounds.order)
  arrays = parallel.put(rounds.stack_tasks(
      [run.data.on_host(entry) for entry in group],
      [entry.task.classes for entry in group]))
  source, offsets = _one_source(run, group)

  def draw(task, first, count):
    return offsets[task] + batches.of_epochs(
        run.data.rows(group[task]), count, recipe.batch_size,
        group[task].seed(run.config.seed), first)

  def start(shared):
    keys = plan.keys(run.config.seed, group)
    return init(keys, run.system.backbone.params, parallel.local(shared),
                run.system.backbone.stats, routes)

  def advance(shared, state, first, count):
    first, stop = first * tasks_, (first + count) * tasks_
    index = parallel.split_batch(rounds.batches(order, first, stop, draw))
    task = np.repeat(order[None, first:stop], len(index), 0)
    state, measured = chunk(group[0].route, run.backbone.params, shared,
                            source, arrays, state, (task, index))

    def fetch():
      found = parallel.to_host(measured)
      _require_finite_rounds(group, order, first, found.loss)
      return jax.tree.map(lambda x: x.reshape(count, tasks_).T, found)
    return state, fetch

  def member(state, i):
    rows = {bank: r[i] for bank, r in
            method.abilities.banks.rows(state.trainable).items()}
    return single.State(state.step[i], state.trainable, None, rounds.own_stats(
        method.abilities.banks, state.stats, rows, i), state.key[i])

  def lower(shared, count):
    index = parallel.split_batch(driver_lib.no_rows(recipe, count * tasks_))
    return chunk.lower(
        group[0].route, run.backbone.params, memory.shapes(shared), source,
        arrays, memory.shapes(jax.eval_shape(start, shared)),
        (np.zeros(index.shape[:2], order.dtype), index))

  return driver_lib.Driver(start, parallel.put, advance, lambda state: state,
                           member, lower,
                           functools.partial(_by_entry, order, tasks_))


def _by_entry(order: np.ndarray, entries: int, values) -> np.ndarray:
  """Metrics [entries, steps] in the order of the sequence, by entry."""
  flat = values.T.reshape(-1)
  now = order[:len(flat)]
  return np.stack([flat[now == i] for i in range(entries)])


def _one_source(run, group):
  """The training images of all entries as one array.

  Returns:
    (`steps.Source`, the row at which each entry's own source starts).
  """
  found: dict[tuple, single.Source] = {}
  names = []
  for entry in group:
    name = entry.task.source, plan.once(entry.task.transforms)
    names.append(name)
    if name not in found:
      found[name] = parallel.to_host(run.data.split(entry.task, 'train'))
  starts = dict(zip(found, np.cumsum([0] + [
      len(source.labels) for source in found.values()])))
  whole = jax.tree.map(lambda *parts: np.concatenate(parts), *found.values())
  return parallel.put(whole), [starts[name] for name in names]


def _require_finite_rounds(group, order, first, losses) -> None:
  """Raises an error with the task and its own step if a loss isn't finite.

  Args:
    group: the entries.
    order: index of the entry of every step.
    first: the step of the sequence at which `losses` begins.
    losses: [steps].
  """
  bad = np.flatnonzero(~np.isfinite(losses))
  if len(bad):
    at = first + bad[0]
    step = np.sum(order[:at] == order[at])
    raise FloatingPointError(
        f'the loss of task {group[order[at]].name} is {losses[bad[0]]} at its '
        f'step {step}. Finished tasks and the last saved state are kept; '
        f'{group[order[at]].phase.slower()}, or look at the images of '
        'this task')
