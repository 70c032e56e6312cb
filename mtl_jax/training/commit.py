"""Turns a trained state into a stored impression, measured once."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from mtl_jax import fields
from mtl_jax import host
from mtl_jax import impressions
from mtl_jax import methods
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.config import plan
from mtl_jax.data import labels
from mtl_jax.data import transforms
from mtl_jax.serving import system as system_lib
from mtl_jax.steps import optimizers
from mtl_jax.steps import single
from mtl_jax.storage import array_files
from mtl_jax.storage import checkpoint
from mtl_jax.storage import deduplicate
from mtl_jax.storage import impression_arrays
from mtl_jax.storage import json_records
from mtl_jax.storage import provenance
from mtl_jax.storage import removal
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import claims
from mtl_jax.training import evaluate
from mtl_jax.training import run as run_lib
from mtl_jax.training import writers

CURVE_POINTS = 10


class Trained(NamedTuple):
  """How an entry was trained.

  Attributes:
    recipe: with the steps that were made.
    seconds: of all entries that were trained at once.
    entries: their number.
    validating: seconds of looks at validation images meanwhile, of all
      entries; they are no part of `seconds`.
    busy: of `seconds`, those in which the devices had steps to work on; `None`
      if that is not known.
  """
  recipe: optimizers.Recipe
  seconds: float
  entries: int = 1
  validating: float = 0.
  busy: float | None = None


class Given(NamedTuple):
  """What a group gets of earlier tasks.

  Attributes:
    shared: made by the method's `prepare`, on the devices.
    relied: names of the tasks that it was made from, in order.
    kept_by: name of the task whose commit changed `shared` last, or `None`.
    first: `shared` before the group's first step; `None` if it is still the
      same.
  """
  shared: dict
  relied: tuple[str, ...] = ()
  kept_by: str | None = None
  first: dict | None = None

  def unlearned(self) -> dict:
    """`shared` as it was before the group was trained."""
    return self.shared if self.first is None else self.first


def commit(run: run_lib.Run, entry: plan.Entry, state: single.State,
           given: Given, curve: dict, trained: Trained,
           extra: dict | None = None) -> Given:
  """Stores an entry's impression with its record.

  Args:
    run: the run.
    entry: what was learned.
    state: its state after the last step.
    given: what it had of earlier tasks.
    curve: float32 [steps] each.
    trained: see `Trained`.
    extra: what else the record says; accuracies that stand there are not
      measured.

  Returns:
    `given` for the next entry, with the new `shared`.
  """
  shared = parallel.local(given.shared)
  impression, after = leave(run, entry, state, shared)
  keeps = after is not shared
  kept_by = entry.name if keeps else given.kept_by
  if keeps:
    _keep(run, entry.name, after)
  started = time.perf_counter()
  measured = _measure(run, entry, impression, shared,
                      parallel.local(given.unlearned()),
                      (extra or {}).get('accuracy', {}))
  seconds = time.perf_counter() - started
  record = describe(run, entry, impression, curve, trained, measured, seconds,
                    extra)
  write(run, [made(run, entry, impression, record, given.relied, kept_by,
                   lambda: single.bind(
                       entry.phase.make_method(), run.system.backbone.params,
                       parallel.local(state.trainable), shared, entry.route))])
  if not keeps:
    return given
  _forget(run, entry.name)
  return given._replace(shared=parallel.everywhere(after), kept_by=kept_by)


def leave(run: run_lib.Run, entry: plan.Entry, state: single.State,
          shared: dict) -> tuple[impressions.Impression, dict]:
  """The impression that a trained state leaves, and the `shared` after it.

  Raises:
    FloatingPointError: NaN or infinity would be stored.
    ValueError: a mask is empty.
  """
  trainable, stats = parallel.local((state.trainable, state.stats))
  claims.require_finite(entry, {'scores or weights': trainable})
  impression, after = entry.phase.make_method().commit(
      run.system.backbone.params, trainable, shared, entry.route)
  if run.system.backbone.stats:
    impression = impression._replace(stats=stats)
  claims.require_sound(entry, impression, {} if after is shared else after)
  return impression, after


def _keep(run, name: str, shared: dict) -> None:
  """Stores what a commit leaves for the next one beside impressions."""
  if not checkpoint.exists(run.workdir.shared / name):
    arrays = impression_arrays.tree_to_arrays(shared)
    checkpoint.save(run.workdir.shared / name, arrays, {
        'name': name, 'backbone': run.backbone.recipe['fingerprint'],
        'absent': [leaf for leaf, a in arrays.items() if a is None]})


def _forget(run, name: str) -> None:
  """Removes what commits before an entry had kept."""
  names = [e.name for phase in run.config.phases
           for e in plan.entries(phase, run.suite)]
  before = names[:names.index(name)]
  removal.remove_all(run.workdir.shared, '*', keep=[
      path.name for path in run.workdir.shared.iterdir()
      if path.name not in before])


def describe(run: run_lib.Run, entry: plan.Entry,
             impression: impressions.Impression, curve: dict, trained: Trained,
             measured: dict, seconds: float, extra: dict | None = None) -> dict:
  """The record of an entry: what it is, and what was measured of it.

  Args:
    run: the run.
    entry: what was learned.
    impression: what it left.
    curve: float32 [steps] each.
    trained: see `Trained`.
    measured: accuracy and loss.
    seconds: that measuring took.
    extra: what else the record says.
  """
  record = measured | _facts(run, entry, impression, curve, trained)
  record['seconds']['evaluate'] = round(seconds, 4)
  return record | {k: v for k, v in (extra or {}).items() if k != 'accuracy'}


def made(run: run_lib.Run, entry: plan.Entry,
         impression: impressions.Impression, record: dict,
         relied: tuple[str, ...], kept_by: str | None,
         trained: Callable[[], trees.Tree]) -> checkpoint.Made:
  """An entry's checkpoint, for `write`; its record gets the bytes it takes.

  Args:
    run: the run.
    entry: what was learned.
    impression: what it left.
    record: its record.
    relied: names of the tasks that `shared` was made from.
    kept_by: as in `Given`.
    trained: () -> the parameters at the last step.

  Raises:
    WrongMethod: a user's method leaves another network than it trained.
  """
  method = entry.phase.make_method()
  own = impression_arrays.impression_to_arrays(impression)
  arrays, referred = run.system.index.split(own)
  record['bytes'] = deduplicate.stored_sizes(record['bytes'], arrays)
  metadata = _metadata(run, entry, record) | {
      'kept_by': kept_by, 'references': referred} | (
          impression_arrays.impression_metadata(impression))
  if method.abilities.needs_earlier:
    metadata['relies_on'] = {name: run.system.fingerprint(name)
                             for name in relied}
    metadata |= run.system.drawn(metadata)
  stored = system_lib.StoredTask(
      entry.name, impression, method, run.system.shared(entry.name, metadata),
      entry.task.transforms, run.data.parameters(entry.task),
      entry.task.classes, metadata, np.zeros(0))
  if metadata['method']['defined_in'] and method.abilities.searched is None:
    claims.require_trained(run.system, entry, stored, trained())
  arrays['probe'] = run.system.outputs(
      stored, probe_images(run, entry.task.source))
  return checkpoint.Made(run.workdir.task(entry.name), arrays, metadata)


def write(run: run_lib.Run, tasks: list[checkpoint.Made]) -> None:
  """Stores the checkpoints of entries, and the lines of their records."""
  started = time.perf_counter()
  checkpoint.save_all(tasks)
  seconds = (time.perf_counter() - started) / len(tasks)
  lines = []
  for task in tasks:
    name = task.metadata['name']
    run.system.index.add(name)
    # Of several processes with folders of their own, the first one's is there.
    line = finished_record(run.workdir, name, task.metadata['record']
                           if parallel.is_primary() else None)
    line['seconds']['save'] = seconds
    line['peak_memory_bytes'] = host.memory_bytes()
    lines.append(line)
    writers.write(run.config, run.workdir.root, line)
  # A start makes the line of a checkpoint again, should this one be lost.
  json_records.append_lines(run.workdir.metrics, lines, flush=False)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _initial(method, key, backbone, shared, route):
  return method.init(key, backbone, shared, route)


def _measure(run, entry, impression, shared, first, known) -> dict:
  """Accuracy before and after learning (but for what is known), and losses.

  Before learning, `shared` was `first`.
  """
  def on(params, stats, split):
    return evaluate.score_entry(
        run.backbone.network, params, stats, run.data, entry, split,
        run.config.eval_batch_size)

  backbone, method = run.system.backbone, entry.phase.make_method()
  params = run.system.materialise(method, impression, shared)
  stats = impression.stats or backbone.stats
  valid, test = on(params, stats, 'valid'), on(params, stats, 'test')
  accuracy = {'valid': valid.accuracy, 'test': test.accuracy} | known
  if 'before' not in known:
    group = plan.group_of(entry, run.suite)
    initial = _initial(method, group[0].key(run.config.seed), backbone.params,
                       first, plan.init_route(group))
    unlearned = single.bind(method, backbone.params, initial, first,
                            entry.route)
    same, accuracies = (entry.tasks, entry.phase.loss), run.data.unlearned
    if same not in accuracies:
      accuracies[same] = on(backbone.params, backbone.stats, 'test').accuracy
    accuracy |= {'backbone': accuracies[same],
                 'before': on(unlearned, backbone.stats, 'test').accuracy}
  return {
      'accuracy': accuracy,
      'loss': {'valid': round(valid.loss, 6), 'test': round(test.loss, 6)}}


def _facts(run, entry, impression, curve, trained) -> dict:
  """What the record says besides accuracy."""
  parts = impressions.bytes_by_part(impression)
  phase = entry.phase
  return {
      'entry': entry.name, 'task': entry.task.name, 'phase': phase.name,
      'method': phase.method, 'control': phase.control,
      'repeat': entry.repeat, 'pooled': len(entry.pooled),
      'classes': entry.task.classes,
      'data': run.data.facts(entry.tasks),
      'steps': trained.recipe.steps, 'batch_size': trained.recipe.batch_size,
      'seed': run.config.seed, 'curve': thin(curve),
      'density': impression_arrays.densities(impression),
      'kept': impression_arrays.kept(impression),
      'bytes': parts | {'total': sum(parts.values()),
                        'dedicated': parts['stats'] + trees.nbytes(
                            run.backbone.params if impression.path is None else
                            impression.path.take(run.backbone.params)),
                        'referenced': 0},
      'seconds': {name: round(seconds / trained.entries, 4)
                  for name, seconds in (
                      ('train', trained.seconds), ('busy', trained.busy),
                      ('validate', trained.validating or None))
                  if seconds is not None},
      'basis': None} | claims.facts(phase.make_method())


def thin(curve: dict) -> dict:
  """At most 10 means over consecutive steps of each curve, rounded.

  >>> thin({'loss': np.array([1., 2., np.inf])})
  {'step': [1, 2, 3], 'loss': [1.0, 2.0, None]}
  """
  steps_ = len(curve['loss'])
  parts = np.array_split(np.arange(steps_), min(CURVE_POINTS, steps_))
  result: dict[str, list] = {'step': [int(part[-1]) + 1 for part in parts]}
  for name, values in curve.items():
    means = [round(float(values[part].mean()), 4) for part in parts]
    # A regression has no accuracy.
    result[name] = [mean if np.isfinite(mean) else None for mean in means]
  return result


def _metadata(run, entry, record) -> dict:
  """What loads a task by itself, beside its arrays."""
  task, phase = entry.task, entry.phase
  return {
      'record': record, 'backbone': run.backbone.recipe['fingerprint'],
      'name': entry.name, 'suite': run.suite.name, 'loss': phase.loss,
      'method': {'name': phase.method, 'options': fields.plain(phase.options),
                 'defined_in': methods.METHODS.origin(phase.method)},
      'seed': run.config.seed,
      'transforms': transforms.to_json(task.transforms),
      'source': task.source, 'classes': task.classes,
      'class_names': labels.class_names(task, run.data.source(task.source)),
      'labels': labels.label_map(task),
      'source_shape': list(run.data.source(task.source).image_shape),
      'source_dtype': str(run.data.source(task.source).train.images.dtype),
      'versions': provenance.versions()}


def finished_record(work: workdir_lib.Workdir, name: str,
                    record: dict | None = None) -> dict:
  """The record of a finished entry with the bytes that its files take.

  Args:
    work: where it lies.
    name: of the entry.
    record: as it was stored; `None` reads it.
  """
  path = work.task(name)
  record = record or checkpoint.task_metadata(path)['record']
  sizes = record['bytes'] | {'stored': array_files.stored_bytes(path)}
  return {'kind': 'task'} | record | {'bytes': sizes}


def with_log(record: dict, line: dict) -> dict:
  """A finished record with what the log alone knows of its task.

  Args:
    record: as `finished_record` gives it.
    line: of the log; {} if it has none.
  """
  more = {key: line[key] for key in ('peak_memory_bytes',) if key in line}
  return record | more | {'seconds': {
      key: seconds for key, seconds in line.get('seconds', {}).items()
      if key == 'save'} | record['seconds']}


def probe_images(run, source: str) -> np.ndarray:
  """Raw images on which the outputs of the source's tasks are kept."""
  path = run.workdir.probe_of(source)
  if not checkpoint.exists(path):
    images = run.data.source(source).valid.images[:16]
    checkpoint.save(path, {'images': images}, {'source': source})
  return run.system.probe(source)
