"""Accuracy with and without given tasks: GG, GNs and GNu side by side.

The scenarios of SupSup (https://arxiv.org/abs/2006.14769, Table 1). GG: the
task is given. GNs: the task is inferred, and tasks share their labels. GNu: the
task is inferred, and labels aren't shared, so task and class must both be
right. As in SupSup's code, the task is inferred once per test batch. In GNu
every image of a batch whose task is inferred wrongly counts as wrong.
"""

import collections
import functools
import hashlib
import json
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import host
from mtl_jax import methods
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.config import parts as config_parts
from mtl_jax.config import plan
from mtl_jax.data import batches as batches_lib
from mtl_jax.data import pipeline
from mtl_jax.inference import identify
from mtl_jax.serving import candidates as candidates_lib
from mtl_jax.serving import system as system_lib
from mtl_jax.steps import single
from mtl_jax.training import run as run_lib

CONFUSION_LIMIT = 60
GRADIENT_WEIGHTS = 2 ** 26  # weights of all inferences of a call: 256 MiB


def measure(system: system_lib.System, entries: list[plan.Entry],
            tested: list[plan.Entry], data: run_lib.Data,
            scenario: config_parts.Scenario, known: Iterable[dict] = (),
            networks: 'Networks | None' = None) -> Iterator[dict]:
  """Yields all three scenarios for each number in `scenario.task_counts`.

  Args:
    system: the system in which the entries are stored.
    entries: the candidates, in learning order.
    tested: entries whose tasks are to be recognised from their test images, in
      learning order; a task without a candidate counts as wrong.
    data: sources.
    scenario: options of the evaluation.
    known: earlier results; those for which `is_of` and `still_holds` hold are
      not measured again.
    networks: a cache of predictions from earlier scenarios; `None` starts
      with an empty one.

  Yields:
    JSON values: name, tasks, inferences, identified (fraction), accuracy {GG,
    GNs, GNu} (fractions), passes (mean backward passes), the scenario's own
    fields, mistaken (the most
    frequent [true, inferred, times]), confusion (names and counts, if tasks
    are few), seconds.
  """
  counts = sorted({min(n, len(tested))
                   for n in scenario.task_counts or (len(tested),)})
  done = {r['tasks'] for r in known
          if is_of(r, scenario) and still_holds(r, entries, tested)}
  counts = [n for n in counts if n not in done]
  if not counts:
    return
  largest = _of_tasks(entries, tested[:counts[-1]])
  everything = system.candidates(tuple(e.name for e in largest))
  networks = networks or Networks(system, data)
  for count in counts:
    chosen = {e.name: e for e in _of_tasks(entries, tested[:count])}
    found = candidates_lib.subset(everything, list(chosen))
    yield _measure(found, [chosen[n] for n in found.names], tested[:count],
                   networks, scenario)


def is_of(line: dict, scenario: config_parts.Scenario) -> bool:
  """Whether an earlier result was measured with the same options."""
  line = {'rerank': 0} | line  # earlier versions did not write it
  return all(line.get(k) == v for k, v in _definition(scenario).items())


def _definition(scenario) -> dict:
  drawn = {'batches_drawn': 'per task'} if scenario.batches_per_task else {}
  return {'name': scenario.name, 'phases': list(scenario.phases),
          'rule': scenario.rule, 'objective': scenario.objective,
          'normalise': scenario.normalise, 'rerank': scenario.rerank,
          'images': scenario.images_per_inference,
          'batch_size': scenario.batch_size,
          'batches': scenario.batches_per_task} | drawn


def still_holds(line: dict, entries: Sequence[plan.Entry],
                tested: Sequence[plan.Entry]) -> bool:
  """Whether an earlier result is of these tasks and candidates.

  Tasks that a config gets later may come before tasks that it had.
  """
  count = line['tasks']
  return count <= len(tested) and line.get('of') in (
      None, _digest(entries, tested[:count]))  # earlier versions had no 'of'


def _digest(entries, tested) -> str:
  names = [e.name for e in tested], [e.name for e in _of_tasks(entries, tested)]
  return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]


def _of_tasks(entries, tested):
  names = {e.task.name for e in tested}
  return [e for e in entries if e.task.name in names]


def _measure(found, entries, tested, networks, scenario) -> dict:
  started = time.perf_counter()
  batches = [_test_batches(e, networks.data, scenario) for e in tested]
  task = np.repeat(np.arange(len(tested)), [len(b) for b in batches])
  rows = np.concatenate(batches)
  inferred, passes = _infer(found, tested, networks, scenario, task, rows)
  inferring = time.perf_counter() - started
  given, shared = np.zeros(len(rows)), np.zeros(len(rows))
  for t, entry in enumerate(tested):
    mine = task == t
    own = [e for e in entries if e.task.name == entry.task.name]
    if own:
      given[mine] = networks.right(entry, own[0], batches[t])
    for other in np.unique(inferred[mine]):
      taken = mine & (inferred == other)
      shared[taken] = networks.right(entry, entries[other], batches[t])[
          inferred[mine] == other]
  images = int(np.sum(rows >= 0))
  position = {e.task.name: t for t, e in enumerate(tested)}
  taken_for = np.array([position[e.task.name] for e in entries])[inferred]
  same = taken_for == task
  return {
      'kind': 'identity', **_definition(scenario), 'tasks': len(tested),
      'of': _digest(entries, tested),
      'candidates': len(entries), 'inferences': len(rows),
      'test_images': images,
      'identified': float(np.mean(same)),
      'accuracy': {'GG': given.sum() / images, 'GNs': shared.sum() / images,
                   'GNu': shared[same].sum() / images},
      'passes': float(np.mean(passes)),
      **_confusion(tested, task, taken_for),
      'seconds': {'infer': round(inferring, 3),
                  'all': round(time.perf_counter() - started, 3)},
      'peak_memory_bytes': host.memory_bytes()}


def _test_batches(entry, data, scenario) -> np.ndarray:
  """int32 [batches, batch_size], rows of the test split, padded with -1.

  If only a part of the split is used, each task draws its own rows, because
  the same few images for all tasks would be a poor sample.
  """
  rows = data.view(entry.task).test
  if scenario.batches_per_task:
    drawn = np.random.default_rng(zlib.crc32(entry.task.drawn_by.encode()))
    rows = drawn.permutation(rows)
  return batches_lib.padded(rows, scenario.batch_size)[
      :scenario.batches_per_task or None]


def _infer(found, tested, networks, scenario, task, rows):
  """The inferred candidate of every batch; a call makes many inferences."""
  inferred = np.zeros(len(rows), int)
  passes = np.zeros(len(rows), int)
  tied = np.zeros(len(rows), bool)
  seen = rows[:, :scenario.images_per_inference]
  counts = np.sum(seen >= 0, axis=1)
  most = max(1, GRADIENT_WEIGHTS // trees.size(
      networks.system.backbone.params))
  # Short batches have calls of their own and no padding: norm statistics are
  # computed from all images of an inference.
  for count in np.unique(counts):
    which = np.flatnonzero(counts == count)
    at_once = min(most, len(which))
    for start in range(0, len(which), at_once):
      # The last call repeats some batches, so that nothing compiles again.
      part = which[min(start, len(which) - at_once):start + at_once]
      images = networks.observed([tested[t] for t in task[part]],
                                 seen[part, :count])
      result = candidates_lib.infer_among(
          found, scenario.make_rule(), networks.system.backbone, images,
          np.ones(images.shape[:2], bool))
      _require_finite(result, tested, task[part])
      inferred[part], passes[part] = result.task, result.passes
      tied[part] = [identify.tied(values) for values in result.gradient]
  if tied.all():
    raise ValueError(
        f'identify.{scenario.name}: no batch tells the candidates apart, as '
        f'{scenario.rule} finds the same value for all of them. A network that '
        'normalises by the statistics of the images needs several: set '
        f'images_per_inference above {scenario.images_per_inference}. What '
        'was learned is kept')
  return inferred, passes


def _require_finite(result, entries, task):
  bad = np.isnan(result.gradient).any(axis=-1)
  if bad.any():
    name = entries[task[np.argmax(bad)]].name
    raise FloatingPointError(
        f'task inference on test images of {name} met NaN: a candidate\'s '
        'impression or the images are not finite; run mtl_jax.verify')


def _confusion(entries, task, inferred) -> dict:
  """Counts of all pairs if tasks are few, else the most frequent mistakes."""
  names = [e.task.name for e in entries]
  pairs = collections.Counter(zip(task.tolist(), inferred.tolist()))
  mistaken = [[names[t], names[p], n] for (t, p), n in pairs.most_common()
              if t != p][:20]
  if len(names) > CONFUSION_LIMIT:
    return {'mistaken': mistaken, 'confusion': None}
  counts = np.zeros((len(names), len(names)), int)
  for (t, p), n in pairs.items():
    counts[t, p] = n
  return {'mistaken': mistaken,
          'confusion': {'names': names, 'counts': counts.tolist()}}


class Networks:
  """A cache of each network's correct predictions on each task's batches."""

  def __init__(self, system, data):
    self.system, self.data = system, data
    self._known: dict[tuple, np.ndarray] = {}
    self._images: dict[tuple, np.ndarray] = {}
    self._parameters: dict[str, Any] = {}

  def right(self, of, by, batches) -> np.ndarray:
    """int [batches]: images of task `of` that the network of `by` gets right.
    """
    key = of.name, by.name, batches.shape, batches.tobytes()
    if key not in self._known:
      stored = self.system.task(by.name)
      params, stats = self.system.effective(stored)
      source, task = parallel.local((self.data.split(of.task, 'test'),
                                     self.data.task_arrays(of.task)))
      self._known[key] = np.asarray(_right_per_batch(
          self.system.backbone.network, of.route.transforms, stored.classes,
          params, stats, source, task, batches))
    return self._known[key]

  def observed(self, entries, rows) -> Any:
    """uint8 [N, n, H, W, C]: test images of rows [N, n], after transforms."""
    for entry in {e.name: e for e in entries}.values():
      self._prepare(entry)
    kinds = {e.route.transforms for e in entries}
    if len(kinds) > 1:
      raise ValueError('the tasks transform images in different ways; infer '
                       'among tasks of one kind')
    images = np.stack([self._images[e.task.source, plan.once(
        e.task.transforms)][r] for e, r in zip(entries, rows)])
    parameters = jax.tree.map(lambda *leaves: np.stack(leaves), *[
        self._parameters[e.name] for e in entries])
    return _observe(kinds.pop(), parameters, images)

  def _prepare(self, entry):
    fits = plan.once(entry.task.transforms)
    if (entry.task.source, fits) not in self._images:
      self._images[entry.task.source, fits] = parallel.to_host(
          self.data.split(entry.task, 'test').images)
    if entry.name not in self._parameters:
      shape = self._images[entry.task.source, fits].shape[1:]
      self._parameters[entry.name] = pipeline.parameters(
          entry.task.transforms[len(fits):], shape)


@functools.partial(jax.jit, static_argnums=0)
def _observe(kinds, parameters, images):
  return jax.vmap(lambda p, x: pipeline.observed(kinds, p, x))(
      parameters, images)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _right_per_batch(network, kinds, classes, params, stats, source, task,
                     batches):
  route = methods.Route(classes, kinds)

  def one(rows):
    images, labels = single.make_batch(route, source, task, None,
                                      jnp.maximum(rows, 0), False)
    logits, _ = network.apply(params, stats, images, train=False)
    right = jnp.argmax(logits[:, :classes], -1) == labels
    return jnp.sum(right & (rows >= 0))
  return jax.lax.map(one, batches)
