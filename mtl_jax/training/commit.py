"""Turns a trained state into a stored impression, measured once."""

import functools
import time
from typing import NamedTuple

import jax
import numpy as np

from mtl_jax import impressions
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.config import plan
from mtl_jax.data import transforms
from mtl_jax.serving import basis as basis_lib
from mtl_jax.serving import system as system_lib
from mtl_jax.steps import single
from mtl_jax.storage import checkpoint
from mtl_jax.storage import deduplicate
from mtl_jax.storage import provenance
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import evaluate
from mtl_jax.training import ownership
from mtl_jax.training import run as run_lib
from mtl_jax.training import tensorboard

CURVE_POINTS = 10


class Trained(NamedTuple):
  """How an entry was trained.

  Attributes:
    recipe: with the steps that were made.
    seconds: of all entries that were trained at once.
    entries: their number.
  """
  recipe: single.Recipe
  seconds: float
  entries: int = 1


def commit(run: run_lib.Run, entry: plan.Entry, method, state: single.State,
           shared: dict, members: list[str], curve: dict,
           trained: Trained, extra: dict | None = None) -> dict:
  """Stores an entry's impression with its record; returns the new `shared`.

  Args:
    run: the run.
    entry: what was learned.
    method: that learned it.
    state: its state after the last step.
    shared: the bookkeeping before this task.
    members: names of the impressions that are its basis.
    curve: float32 [steps] each.
    trained: see `Trained`.
    extra: what else the record says; accuracies that stand there are not
      measured.
  """
  backbone = run.system.backbone
  given, (state, shared) = shared, parallel.local((state, shared))
  impression, shared_after = method.commit(
      backbone.params, state.trainable, shared, entry.route)
  if backbone.stats:
    impression = impression._replace(stats=state.stats)
  _require_sound(entry, impression, state.trainable,
                 {} if shared_after is shared else shared_after)
  uses = ownership.uses(run.config, run.suite, entry)
  if shared_after is not shared and not checkpoint.exists(
      run.workdir.shared / entry.name):
    checkpoint.save(run.workdir.shared / entry.name,
                    checkpoint.tree_to_arrays(shared_after), {})
  started = time.perf_counter()
  extra = extra or {}
  record = _measure(run, entry, method, impression, shared,
                    extra.get('accuracy', {}))
  record |= _facts(run, entry, impression, shared, curve, trained)
  record |= {k: v for k, v in extra.items() if k != 'accuracy'}
  record['seconds']['evaluate'] = round(time.perf_counter() - started, 4)
  own = deduplicate.without(impression, [run.system.own_part(name)
                                        for name in uses])
  arrays, found = run.system.index.split(checkpoint.impression_to_arrays(own))
  record['bytes'] |= _stored(own, arrays)
  described = entry.phase.basis and basis_lib.describe(
      entry.phase.basis, members, run.config.seed).to_json()
  metadata = _metadata(run, entry, described, record)
  metadata |= {'references': found} if found else {}
  metadata |= {'uses': uses} if uses else {}
  relied = [*uses, *(described['members'] if described else ())]
  if relied:
    metadata['relies_on'] = {name: run.system.fingerprint(name)
                             for name in relied}
  if impression.structure is not None:
    metadata['structure'] = list(impression.structure.parts)
  stored = system_lib.StoredTask(
      entry.name, impression, shared.get('basis'), entry.task.transforms,
      transforms.parameters(entry.task.transforms,
                            tuple(metadata['source_shape'])),
      entry.task.classes, metadata, np.zeros(0))
  arrays['probe'] = np.asarray(run.system.outputs(
      stored, probe_images(run, entry.task.source)))
  started = time.perf_counter()
  checkpoint.save(run.workdir.task(entry.name), arrays, metadata)
  line = finished_record(run.workdir, entry.name, record)
  line['seconds']['save'] = time.perf_counter() - started
  line['peak_memory_bytes'] = evaluate.memory_bytes()
  if shared_after is not shared:
    names = [e.name for phase in run.config.phases
             for e in plan.entries(phase, run.suite)]
    checkpoint.remove_all(run.workdir.shared, '*',
                          keep=names[names.index(entry.name):])
  workdir_lib.append_line(run.workdir.metrics, line)
  if run.config.tensorboard:
    tensorboard.write(run.workdir.root / 'tensorboard' / entry.name, line)
  return (given if shared_after is shared
          else parallel.everywhere(shared_after))


def _require_sound(entry, impression, trainable, shared):
  parts = impression._asdict() | {'scores or weights': trainable,
                                  'shared': shared}
  for name, leaf in trees.flatten(parts).items():
    if leaf is not None and not np.isfinite(np.asarray(leaf)).all():
      raise FloatingPointError(
          f'task {entry.name} would leave {name} with NaN or infinity; '
          'nothing was stored. Lower the learning rate')
  for name, leaf in trees.flatten(impression.masks or {}).items():
    if leaf is not None and np.ndim(leaf) > 1 and not np.any(leaf):
      raise ValueError(
          f'task {entry.name} would leave an empty mask of {name}, through '
          'which no signal passes; nothing was stored. Lower the learning '
          'rate or the weight decay, or keep a higher density')


@functools.partial(jax.jit, static_argnums=(0, 4))
def _initial(method, key, backbone, shared, route):
  return method.init(key, backbone, shared, route)


def _measure(run, entry, method, impression, shared, known) -> dict:
  """Accuracy before and after learning (but for what is known), and losses.
  """
  def on(params, stats, split):
    return evaluate.score_entry(
        run.backbone.network, params, stats, run.data, entry, split,
        run.config.eval_batch_size)

  backbone = run.system.backbone
  params = run.system.materialise(impression, shared.get('basis'))
  stats = impression.stats or backbone.stats
  valid, test = on(params, stats, 'valid'), on(params, stats, 'test')
  accuracy = {'valid': valid.accuracy, 'test': test.accuracy} | known
  if 'before' not in known:
    group = plan.group_of(entry, run.suite)
    initial = _initial(method, group[0].key(run.config.seed), backbone.params,
                       shared, plan.init_route(group))
    unlearned = single.bind(method, backbone.params, initial, shared,
                           entry.route)
    same, accuracies = (entry.tasks, entry.phase.loss), run.data.unlearned
    if same not in accuracies:
      accuracies[same] = on(backbone.params, backbone.stats, 'test').accuracy
    accuracy |= {'backbone': accuracies[same],
                 'before': on(unlearned, backbone.stats, 'test').accuracy}
  return {
      'accuracy': accuracy,
      'loss': {'valid': round(valid.loss, 6), 'test': round(test.loss, 6)}}


def _facts(run, entry, impression, shared, curve, trained) -> dict:
  """What the record says besides accuracy."""
  parts = impressions.bytes_by_part(impression)
  density = {} if impression.masks is None else {
      name: round(float(np.mean(np.asarray(leaf))), 6)
      for name, leaf in trees.flatten(impression.masks).items()
      if leaf is not None}
  phase, basis = entry.phase, entry.phase.basis
  return {
      'entry': entry.name, 'task': entry.task.name, 'phase': phase.name,
      'method': phase.method, 'control': phase.control,
      'repeat': entry.repeat, 'pooled': len(entry.pooled),
      'classes': entry.task.classes,
      'steps': trained.recipe.steps, 'batch_size': trained.recipe.batch_size,
      'seed': run.config.seed, 'curve': thin(curve), 'density': density,
      'bytes': parts | {'total': sum(parts.values()),
                        'dedicated': trees.nbytes(
                            run.backbone.params if impression.path is None else
                            impression.path.take(run.backbone.params))},
      'seconds': {'train': round(trained.seconds / trained.entries, 4)},
      'basis': None if basis is None else {'kind': basis.kind,
                                           'size': basis.size}}


def thin(curve: dict) -> dict:
  """At most 10 means over consecutive steps of each curve, rounded."""
  steps_ = len(curve['loss'])
  parts = np.array_split(np.arange(steps_), min(CURVE_POINTS, steps_))
  result: dict[str, list] = {'step': [int(part[-1]) + 1 for part in parts]}
  for name, values in curve.items():
    means = [round(float(values[part].mean()), 4) for part in parts]
    # A regression has no accuracy.
    result[name] = [None if np.isnan(mean) else mean for mean in means]
  return result


def _stored(own: impressions.Impression, arrays: dict) -> dict:
  """Bytes of what the task stores itself, and of the values it refers to."""
  sizes = impressions.bytes_by_part(own)
  values = sum(np.asarray(a).nbytes for name, a in arrays.items()
               if name.startswith('values/') and a is not None)
  referenced = sizes['values'] - values
  sizes['values'] = values
  return sizes | {'referenced': referenced, 'total': sum(sizes.values())}


def _metadata(run, entry, described, record) -> dict:
  task = entry.task
  return {
      'record': record, 'backbone': run.backbone.recipe['fingerprint'],
      'transforms': transforms.to_json(task.transforms),
      'source': task.source, 'classes': task.classes,
      'labels': None if task.labels is None else list(task.labels),
      'source_shape': list(run.data.source(task.source).image_shape),
      'source_dtype': str(run.data.source(task.source).train.images.dtype),
      'basis': described, 'versions': provenance.versions()}


def finished_record(work: workdir_lib.Workdir, name: str,
                    record: dict | None = None) -> dict:
  """The record of a finished entry with the bytes that its files take.

  Args:
    work: where it lies.
    name: of the entry.
    record: as it was stored; `None` reads it.
  """
  path = work.task(name)
  record = record or checkpoint.load_metadata(path)['record']
  sizes = record['bytes'] | {'stored': checkpoint.stored_bytes(path)}
  return {'kind': 'task'} | record | {'bytes': sizes}


def probe_images(run, source: str) -> np.ndarray:
  """Raw images on which the outputs of the source's tasks are kept."""
  path = run.workdir.probe_of(source)
  if not checkpoint.exists(path):
    images = run.data.source(source).valid.images[:16]
    checkpoint.save(path, {'images': images}, {'source': source})
  return run.system.probe(source)
