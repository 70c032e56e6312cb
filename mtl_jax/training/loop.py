"""Learns the tasks of a config, one impression after another.

Kill the process at any instant: the next start of the same command goes on
and ends with the same bits, where XLA computes the same twice: on a CPU. A
task exists once its folder has its final name.
"""

import dataclasses
import time
import jax
import numpy as np

from mtl_jax import parallel
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.serving import basis as basis_lib
from mtl_jax.steps import single
from mtl_jax.storage import checkpoint
from mtl_jax.training import callbacks
from mtl_jax.training import commit
from mtl_jax.training import drivers
from mtl_jax.training import evaluate
from mtl_jax.training import ownership
from mtl_jax.training import run as run_lib


def learn_phase(run: run_lib.Run, phase: config_lib.Phase) -> None:
  """Learns every group of the phase that isn't finished yet."""
  method, shared, members = phase.make_method(), {}, []
  groups = plan.groups(phase, run.suite)
  names = [entry.name for group in groups for entry in group]
  if all(checkpoint.exists(run.workdir.task(name)) for name in names):
    for group in groups:
      run.advance(len(group) * _recipe(run, group).steps, group[-1].name)
    return
  if phase.basis is not None:
    members = plan.basis_members(phase, run.config, run.suite)
    described = basis_lib.describe(phase.basis, members, run.config.seed)
    shared = {'basis': parallel.put(run.system.basis(described.to_json()))}
  if phase.after is not None and method.rebuild is not None:
    shared = parallel.put(method.rebuild(
        run.system.backbone.params,
        [run.system.task(entry.name).impression
         for before in run.config.chain(phase)
         for entry in plan.entries(before, run.suite)]))
  done_before: plan.Entry | None = None
  for group in groups:
    unfinished = [entry for entry in group if not checkpoint.exists(
        run.workdir.task(entry.name))]
    if unfinished:
      if phase.allocation is not None:
        shared = parallel.put(ownership.shared_of(run, group))
      elif done_before is not None and phase.basis is None:
        shared = restore_shared(run, done_before, method, shared)
      shared = learn_group(run, group, unfinished, method, shared, members)
    else:
      run.advance(len(group) * _recipe(run, group).steps, group[-1].name)
      if phase.basis is None:
        shared = {}  # of an earlier task; the newest is read when needed
    done_before = group[-1]


def restore_shared(run: run_lib.Run, entry: plan.Entry, method,
                   current: dict) -> dict:
  """The bookkeeping as it was after an entry, if the method keeps any.

  Raises:
    CheckpointError: the method keeps some, but this one is gone.
  """
  def after_one_task(key):
    trainable = method.init(key, run.backbone.params, {}, plan.init_route(
        plan.group_of(entry, run.suite)))
    return method.commit(run.backbone.params, trainable, {}, entry.route)[1]

  like = jax.eval_shape(after_one_task, entry.key(run.config.seed))
  if current or not jax.tree.leaves(like):
    return current
  path = run.workdir.shared / entry.name
  if not checkpoint.exists(path):
    raise checkpoint.CheckpointError(
        f'the next task starts from what phase {entry.phase.name} kept after '
        f'task {entry.name}, but {path} is gone (only the newest is kept); '
        'train the phase again in a new workdir')
  return parallel.put(checkpoint.arrays_to_tree(checkpoint.load(path)[0],
                                                like))


def _recipe(run: run_lib.Run, group: list[plan.Entry]) -> single.Recipe:
  rows = run.data.rows(group[0])
  return group[0].phase.recipe(len(rows))


def learn_group(run: run_lib.Run, group, unfinished, method, shared,
                members) -> dict:
  """Trains a group (or finishes its training) and commits its entries."""
  started = time.perf_counter()
  recipe = _recipe(run, group)
  driver = drivers.make(run, group, recipe)
  state, shared, curve, seconds = train_group(run, group, recipe, driver,
                                              method, shared)
  curve = {name: driver.curves(values) for name, values in curve.items()}
  recipe = dataclasses.replace(recipe, steps=curve['loss'].shape[1])
  trained = commit.Trained(
      recipe, seconds + time.perf_counter() - started, len(group))
  for i, entry in enumerate(group):
    if entry not in unfinished:
      continue
    shared = commit.commit(run, entry, method, driver.member(state, i), shared,
                           members, {name: value[i]
                                     for name, value in curve.items()},
                           trained)
  checkpoint.remove_all(run.workdir.progress, saved(group[0].name))
  return shared


def train_group(run: run_lib.Run, group, recipe, driver, method, shared):
  """Runs the steps that are left, or fewer if a watch ends the training.

  Returns:
    (state as `driver.member` takes it; `shared`, in which a watch may have
    pruned; {'loss', 'accuracy'} float32 [entries, steps]; seconds spent before
    this start).
  """
  name, phase = group[0].name, group[0].phase
  curve = {key: np.zeros((len(group), 0), np.float32)
           for key in ('loss', 'accuracy')}
  state, watched = driver.start(shared), callbacks.make(phase)
  noted = {'memory': watched.start(state, shared)} if watched else {}
  if watched or phase.allocation:  # as what was trained used it, to the bit
    noted['shared'] = shared
  state, noted, curve, start, seconds = restore(run, name, state, noted, curve)
  run.advance(start * len(group), name)
  state = driver.place(state)
  shared = parallel.put(noted['shared']) if noted else shared
  memory = noted['memory'] if watched else {'stop': False}
  epoch = recipe.steps // phase.epochs if watched else recipe.steps
  clock = Clock(run.config.progress_seconds)
  while start < recipe.steps and not memory['stop']:
    count = min(run.config.chunk_steps, epoch - start % epoch)
    state, measured = driver.advance(shared, state, start, count)
    check_finite(group, measured.loss, start)
    curve = {key: np.concatenate([curve[key], getattr(measured, key)], 1)
             for key in curve}
    start += count
    run.advance(count * len(group), name)
    if watched and start % epoch == 0:
      memory, state, shared = look(run, group, driver, method, watched,
                                   memory, state, shared)
      noted = {'memory': memory, 'shared': shared}
    if start < recipe.steps and not memory['stop'] and clock.due():
      save(run, name, driver.whole(state), noted, curve, start,
           seconds + clock.total())
  run.advance((recipe.steps - start) * len(group), name)
  state = driver.whole(state)
  if phase.together and not checkpoint.exists(
      run.workdir.progress / progress_name(name, start)):
    # Its entries must come from one state, whatever a kill leaves undone.
    save(run, name, state, noted, curve, start, seconds + clock.total())
  if watched:
    state, shared = watched.finish(memory, state, shared)
  return state, parallel.put(shared) if watched else shared, curve, seconds


def look(run: run_lib.Run, group, driver, method, watched: callbacks.Watch,
         memory, state, shared) -> tuple:
  """Measures the validation splits after an epoch and asks the watch."""
  whole = driver.whole(state)
  backbone, given = run.system.backbone, parallel.local(shared)
  scores = []
  for i, entry in enumerate(group):
    own = parallel.local(driver.member(whole, i))
    params = single.bind(method, backbone.params, own.trainable, given,
                        entry.route)
    scores.append(evaluate.score_entry(
        backbone.network, params, own.stats, run.data, entry, 'valid',
        run.config.eval_batch_size))
  rated = [s.accuracy for s in scores if s.accuracy is not None]
  memory, after, pruned = watched.after_epoch(
      memory, whole, shared, sum(s.loss for s in scores),
      float(np.mean(rated)) if rated else None)
  if after is not whole:
    state = driver.place(after)
  return memory, state, shared if pruned is shared else parallel.put(pruned)


class Clock:
  """When to save progress; every process follows the first one's clock."""

  def __init__(self, every: float):
    self.every, self.start = every, time.perf_counter()
    self.last = self.start

  def total(self) -> float:
    return time.perf_counter() - self.start

  def due(self) -> bool:
    due = bool(parallel.agree(time.perf_counter() - self.last >= self.every))
    if due:
      self.last = time.perf_counter()
    return due


def check_finite(group, loss: np.ndarray, start: int) -> None:
  """Raises FloatingPointError that names the task and the step."""
  bad = np.argwhere(~np.isfinite(loss))
  if len(bad):
    task, step = bad[np.argmin(bad[:, 1])]
    raise FloatingPointError(
        f'the loss of task {group[task].name} is {loss[task, step]} at step '
        f'{start + step}. Finished tasks and the last saved state are kept; '
        'lower the learning rate, or look at the images of this task')


def saved(name: str) -> str:
  """Pattern of the progress of a group, named by its first entry."""
  return f'{name}.{"[0-9]" * 9}'


def progress_name(name: str, start: int) -> str:
  """Of a group's progress at a step."""
  return f'{name}.{start:09d}'


def save(run: run_lib.Run, name: str, state, noted, curve, start: int,
         seconds: float):
  """Saves mid-task progress under its step, then drops the older one."""
  new = progress_name(name, start)
  arrays = checkpoint.tree_to_arrays({'state': state, 'curve': curve}
                                     | ({'noted': noted} if noted else {}))
  checkpoint.save(run.workdir.progress / new, arrays,
                  {'step': start, 'seconds': seconds,
                   'backbone': run.backbone.recipe['fingerprint']})
  checkpoint.remove_all(run.workdir.progress, saved(name), keep=[new])


def restore(run: run_lib.Run, name: str, state, noted, curve):
  """The newest saved progress of a group, or what was given."""
  found = sorted(run.workdir.progress.glob(saved(name)))
  if not found:
    return state, noted, curve, 0, 0.
  arrays, metadata = checkpoint.load(found[-1])
  start = metadata['step']
  curve = {key: np.zeros((value.shape[0], start), np.float32)
           for key, value in curve.items()}
  restored = checkpoint.arrays_to_tree(
      arrays, {'state': state, 'curve': curve}
      | ({'noted': noted} if noted else {}))
  return (restored['state'], restored.get('noted', {}), restored['curve'],
          start, metadata['seconds'])
