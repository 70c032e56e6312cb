"""Learns the tasks of a config, one impression after another.

The process may be killed at any instant: the next start of the same command
resumes the run. On a CPU, where XLA computes the same result twice, it ends
with the same bits. A task is finished once its folder has its final name.
"""

import dataclasses
import time
from typing import Any, NamedTuple

import numpy as np

from mtl_jax import parallel
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.methods import watch
from mtl_jax.steps import optimizers
from mtl_jax.storage import checkpoint
from mtl_jax.storage import impression_arrays
from mtl_jax.training import commit
from mtl_jax.training import drivers
from mtl_jax.training import group_commit
from mtl_jax.training import in_flight
from mtl_jax.training import preparation as preparation_lib
from mtl_jax.training import progress
from mtl_jax.training import run as run_lib
from mtl_jax.training import validation


def learn_phase(run: run_lib.Run, phase: config_lib.Phase) -> None:
  """Learns every group of the phase that isn't finished yet."""
  groups = plan.groups(phase, run.suite)
  names = [entry.name for group in groups for entry in group]
  if all(checkpoint.exists(run.workdir.task(name)) for name in names):
    for group in groups:
      run.advance(len(group) * _recipe(run, group).steps, group[-1].name)
    return
  preparation = preparation_lib.Preparation(run, phase)
  for group in groups:
    unfinished = [entry for entry in group if not checkpoint.exists(
        run.workdir.task(entry.name))]
    if unfinished:
      preparation.keep(learn_group(run, group, unfinished,
                                   preparation.of(group)))
    else:
      run.advance(len(group) * _recipe(run, group).steps, group[-1].name)
      preparation.passed(group)


def _recipe(run: run_lib.Run, group: list[plan.Entry]) -> optimizers.Recipe:
  rows = run.data.rows(group[0])
  return group[0].phase.recipe(len(rows))


def learn_group(run: run_lib.Run, group, unfinished,
                given: commit.Given) -> commit.Given:
  """Trains a group (or finishes its training) and commits its entries."""
  started = time.perf_counter()
  recipe, method = _recipe(run, group), group[0].phase.make_method()
  driver, course = drivers.make(run, group, recipe), validation.Course(
      run, group)
  done, shared = train_group(run, group, recipe, driver, method, given.shared,
                             course)
  given = given._replace(shared=shared, first=given.shared)
  curve = {name: driver.curves(values) for name, values in done.curve.items()}
  recipe = dataclasses.replace(recipe, steps=curve['loss'].shape[1])
  trained = commit.Trained(
      recipe, done.seconds + time.perf_counter() - started - course.seconds,
      len(group), course.total(), done.busy)
  given = group_commit.commit(run, group, unfinished, driver, done.state,
                              given, curve, trained, course.record)
  progress.remove(run.workdir, group[0].name)
  return given


class Done(NamedTuple):
  """The state of a group's training after some steps.

  Attributes:
    state: from `driver.whole`.
    noted: the watch's memory and the `shared` in use; {} without them.
    curve: {'loss', 'accuracy'} float32 [entries, steps].
    steps: the number of steps.
    seconds: time that earlier starts spent.
    busy: seconds in which the devices worked (`in_flight.Chunks`); `None` if
      unknown.
  """
  state: Any
  noted: dict
  curve: dict[str, np.ndarray]
  steps: int = 0
  seconds: float = 0.
  busy: float | None = 0.


def train_group(run: run_lib.Run, group, recipe, driver, method, shared,
                course: validation.Course) -> tuple[Done, dict]:
  """Runs the remaining steps, or fewer if a watch ends the training.

  `course` collects what is measured on the validation images.

  Returns:
    (the training after its last step, with a state for `driver.member`;
    `shared`, in which a watch may have pruned).
  """
  state, watched = driver.start(shared), _watch(group[0].phase)
  noted = {'memory': watched.start(state, shared)} if watched else {}
  if watched or method.abilities.per_group:
    # Resumed training uses the same `shared`, to the bit.
    noted['shared'] = shared
  done = _restore(run, group, Done(state, noted, {
      key: np.zeros((len(group), 0), np.float32)
      for key in ('loss', 'accuracy')}), course)
  run.advance(done.steps * len(group), group[0].name)
  shared = parallel.put(done.noted['shared']) if noted else shared
  clock = progress.Clock(run.config.progress_seconds)
  with in_flight.Chunks(done.busy) as chunks:
    done, shared = _steps(run, group, recipe, driver, watched, shared, course,
                          clock, chunks, done)
  run.advance((recipe.steps - done.steps) * len(group), group[0].name)
  state = driver.whole(done.state)
  if group[0].phase.together:
    # All entries must come from this state, even if a kill interrupts their
    # commits.
    _save(run, group, done._replace(
        state=state, seconds=done.seconds + clock.total()), course)
  if watched:
    state, shared = watched.finish(done.noted['memory'], state, shared)
  return done._replace(state=state), (
      parallel.put(shared) if watched else shared)


def _steps(run, group, recipe, driver, watched, shared, course, clock, chunks,
           done: Done) -> tuple[Done, Any]:
  """Runs the steps after `done`; returns its state on the devices, and shared.
  """
  name, phase = group[0].name, group[0].phase
  state, noted, curve, start, seconds, _ = done
  state = driver.place(state)
  memory = noted['memory'] if watched else {'stop': False}
  if course.due(start, last=False):
    course.measure(start, driver, shared, state)
  while start < recipe.steps and not memory['stop']:
    count = chunk_steps(run, phase, recipe, start)
    state = chunks.give(start, driver.advance, shared, state, start, count)
    start += count
    run.advance(count * len(group), name)
    looks = bool(watched) and start % _epoch(phase, recipe) == 0
    due = start == recipe.steps or clock.due()
    curve = _taken(group, curve, chunks.take(
        keep=0 if due or looks or course.due(start, due) else 1))
    if looks:
      memory, state, shared = look(run, group, driver, watched, memory,
                                   state, shared)
      noted = {'memory': memory, 'shared': shared}
    ended = start == recipe.steps or memory['stop']
    if course.due(start, ended):
      course.measure(start, driver, shared, state)
    if due and not ended:
      _save(run, group, Done(driver.whole(state), noted, curve, start,
                             seconds + clock.total(), chunks.busy), course)
  return Done(state, noted, curve, start, seconds, chunks.busy), shared


def _taken(group, curve, found: list[in_flight.Measured]) -> dict:
  """Appends the metrics of chunks to a curve."""
  for start, measured in found:
    check_finite(group, measured.loss, start)
    curve = {key: np.concatenate([curve[key], getattr(measured, key)], 1)
             for key in curve}
  return curve


def chunk_steps(run: run_lib.Run, phase: config_lib.Phase,
                recipe: optimizers.Recipe, start: int) -> int:
  """Number of steps of the compiled call that begins at step `start`."""
  ends = [_epoch(phase, recipe), phase.validate_every]
  return min(run.config.chunk_steps, *(
      every - start % every for every in ends if every))


def _epoch(phase, recipe) -> int:
  """Steps between two looks of a watch; all steps if there is no watch."""
  return (recipe.steps // phase.training.epochs if _watch(phase)
          else recipe.steps)


def _watch(phase: config_lib.Phase) -> watch.Watch | None:
  """The watch that reads the validation splits after every epoch, or `None`."""
  own = phase.make_method().abilities.watch
  if own is not None:
    return watch.checked(own(phase.early_stop))
  return (None if phase.early_stop is None
          else watch.early_stop(phase.early_stop))


def look(run: run_lib.Run, group, driver, watched: watch.Watch, memory,
         state, shared) -> tuple:
  """Measures the validation splits after an epoch and calls the watch."""
  whole = driver.whole(state)
  scores = validation.measure(run, group, driver, shared, state)
  rated = [s.accuracy for s in scores if s.accuracy is not None]
  memory, after, pruned = watched.after_epoch(
      memory, whole, shared, sum(s.loss for s in scores),
      float(np.mean(rated)) if rated else None)
  if after is not whole:
    state = driver.place(after)
  return memory, state, shared if pruned is shared else parallel.put(pruned)


def check_finite(group, loss: np.ndarray, start: int) -> None:
  """Raises FloatingPointError with the task and the step of a bad loss."""
  bad = np.argwhere(~np.isfinite(loss))
  if len(bad):
    task, step = bad[np.argmin(bad[:, 1])]
    raise FloatingPointError(
        f'the loss of task {group[task].name} is {loss[task, step]} at step '
        f'{start + step}. Finished tasks and the last saved state are kept; '
        f'{group[task].phase.slower()}, or look at the images of this task')


def _save(run: run_lib.Run, group, done: Done,
          course: validation.Course) -> None:
  """Saves mid-task progress, named by its step."""
  arrays = impression_arrays.tree_to_arrays(_parts(
      done, course.values if course.every else {}))
  progress.save(run.workdir, group[0].name, done.steps, arrays, {
      'step': done.steps, 'seconds': done.seconds - course.seconds,
      'busy': done.busy,
      'backbone': run.backbone.recipe['fingerprint']} | course.saved(),
                run.defined_in(group[0].phase))


def _parts(done: Done, validated) -> dict:
  """The parts of a progress checkpoint, by name."""
  return {'state': done.state, 'curve': done.curve} | (
      {'noted': done.noted} if done.noted else {}) | (
          {'validated': validated} if validated else {})


def _restore(run: run_lib.Run, group, done: Done,
             course: validation.Course) -> Done:
  """The newest saved progress of a group, or the given start."""
  found = progress.newest(run.workdir, group[0].name,
                          run.defined_in(group[0].phase))
  if found is None:
    return done
  arrays, metadata = found
  start = metadata['step']
  done = done._replace(curve={
      key: np.zeros((value.shape[0], start), np.float32)
      for key, value in done.curve.items()})
  restored = impression_arrays.arrays_to_tree(arrays, _parts(
      done, course.template(metadata)))
  course.restore(restored.get('validated', {}), metadata)
  return Done(restored['state'], restored.get('noted', {}), restored['curve'],
              start, metadata['seconds'], metadata.get('busy'))
