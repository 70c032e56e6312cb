"""Learning from a stream whose tasks nobody names (SupSup's NNs).

Wortsman et al. 2020, https://arxiv.org/abs/2006.14769, section 3.4. Before
every few batches the known masks are superposed, and one gradient tells
whether any of them fits. If none fits, a new mask is allocated. If the newest
mask fits, it is trained. If an older mask fits, it is recognised and left
unchanged, as it is committed (SupSup's code would train it further). While
fresh masks take part, one of them may fit best; this also allocates a new
mask, where SupSup's code trains the fresh one without counting it.

The order of the stream and the true task of a batch are used only to make the
batches and to report; the decisions use the images alone.
"""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import masks
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.config import parts as config_parts
from mtl_jax.config import plan
from mtl_jax.data import batches
from mtl_jax.data import suites
from mtl_jax.inference import identify
from mtl_jax.inference import superposition
from mtl_jax.parallel import memory
from mtl_jax.steps import single
from mtl_jax.storage import checkpoint
from mtl_jax.storage import impression_arrays
from mtl_jax.storage import json_records
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import commit
from mtl_jax.training import driver as driver_lib
from mtl_jax.training import loop
from mtl_jax.training import progress
from mtl_jax.training import run as run_lib


@dataclasses.dataclass
class Learner:
  """The state of learning from a stream.

  Attributes:
    position: number of the next segment.
    mask: index of the newest mask; -1 before the first.
    state: training state of the newest mask.
    curve: {'loss', 'accuracy'} float32 [steps of the newest mask].
    log: [segment, decision] of all segments; a decision is a mask's index.
    seconds: time spent on the newest mask.
  """
  position: int = 0
  mask: int = -1
  state: Any = None
  curve: Any = None
  log: Any = dataclasses.field(default_factory=list)
  seconds: float = 0.


def settings(phase: config_lib.Phase) -> config_parts.Stream:
  """The options of a stream phase."""
  return phase.stream or config_parts.Stream()


def visits(phase: config_lib.Phase) -> list[int]:
  """Indices of the tasks in the order in which the stream shows them."""
  first, stop = phase.tasks
  return [*range(first, stop)] * settings(phase).passes


def entries(work: workdir_lib.Workdir, phase: config_lib.Phase,
            suite: suites.Suite) -> list[plan.Entry]:
  """A stream's stored masks, each with the task that it learned most."""
  tasks = {task.name: task for task in suite.tasks}
  found = []
  for name in work.task_names():
    if name.startswith(f'{phase.name}-mask-'):
      record = checkpoint.task_metadata(work.task(name))['record']
      found.append(plan.Entry(name, tasks[record['task']], phase))
  return found


def learn(run: run_lib.Run, phase: config_lib.Phase) -> None:
  """Learns the whole stream, resuming an earlier start if there was one."""
  segments = _segments(run, phase)
  if finished(run, phase):
    run.advance(len(segments) * settings(phase).every, phase.name)
    return
  learner = _restore(run, phase)
  bank = _Bank(run, phase)
  for mask in range(learner.mask):
    bank.put(mask, run.system.task(_name(phase, mask)).impression.masks)
  if learner.state is not None:
    bank.put(learner.mask, _hard(phase, learner.state.trainable))
  run.advance(learner.position * settings(phase).every, phase.name)
  clock = progress.Clock(run.config.progress_seconds)
  while learner.position < len(segments):
    started = time.perf_counter()
    task, index = segments[learner.position]
    rows = index()
    decision = int(parallel.agree(_decide(
        phase, bank, learner, run.suite.tasks[task], rows)))
    if decision > learner.mask:
      deciding = time.perf_counter() - started
      _commit(run, phase, learner, segments)
      started = time.perf_counter() - deciding  # a commit is no training
      learner = _allocate(run, phase, learner, decision)
    learner.log.append([learner.position, decision])
    if decision == learner.mask:
      _train(run, phase, learner, run.suite.tasks[task], rows)
      bank.put(decision, _hard(phase, learner.state.trainable))
    learner.position += 1
    learner.seconds += time.perf_counter() - started
    run.advance(len(rows), trees.counted(learner.mask + 1, 'mask'))
    if clock.due():
      _save(run, phase, learner)
  _commit(run, phase, learner, segments)
  json_records.append_line(run.workdir.metrics,
                           _line(phase, learner, segments))
  progress.remove(run.workdir, phase.name)


def finished(run: run_lib.Run, phase: config_lib.Phase) -> bool:
  """Whether the stream ended and all its masks are still stored."""
  lines = [line for line in json_records.read_lines(run.workdir.metrics)
           if line['kind'] == 'stream' and line['phase'] == phase.name]
  return bool(lines) and all(
      checkpoint.exists(run.workdir.task(_name(phase, mask)))
      for mask in range(lines[-1]['masks']))


def _name(phase, mask: int) -> str:
  return f'{phase.name}-mask-{mask:05d}'


def _segments(run, phase) -> list:
  """(task, function that makes int32 [every, batch]) of every segment."""
  every = settings(phase).every
  found = []
  for visit, task in enumerate(visits(phase)):
    rows = run.data.view(run.suite.tasks[task]).train
    recipe = phase.recipe(len(rows))
    seed = plan.Entry('', run.suite.tasks[task], phase, visit).seed(
        run.config.seed)
    for start in range(0, recipe.steps, every):
      count = min(every, recipe.steps - start)
      found.append((task, functools.partial(
          batches.of_epochs, rows, count, recipe.batch_size, seed, start)))
  return found


class _Bank:
  """Packed masks of a stream on the device, with room to grow.

  Until `min_masks` masks are learned, fresh masks fill up the number, as in
  SupSup's code: the softmax over beliefs is constant for a single mask.
  """

  def __init__(self, run, phase):
    self.run, self.phase, self.packed = run, phase, None
    for mask in range(settings(phase).min_masks):
      self.put(mask, _hard(phase, _start(run, phase, mask).trainable))

  def put(self, mask: int, bits: trees.Tree) -> None:
    packed = masks.pack(bits)
    if self.packed is None:
      self.packed = jax.tree.map(
          lambda b: jnp.zeros((8, *b.shape), b.dtype), packed)
    capacity = jax.tree.leaves(self.packed)[0].shape[0]
    if mask >= capacity:
      self.packed = jax.tree.map(
          lambda b: jnp.concatenate([b, jnp.zeros_like(b)]), self.packed)
    self.packed = _replaced(self.packed, packed, mask)

  def gradient(self, count: int, task, rows) -> tuple[np.ndarray, Any]:
    """(d objective / d beliefs [capacity], bool: which masks take part)."""
    capacity = jax.tree.leaves(self.packed)[0].shape[0]
    used = np.arange(capacity) < max(count, settings(self.phase).min_masks)
    run, route = self.run, _route(self.phase, task)
    backbone = run.system.backbone
    source, arrays = parallel.local((run.data.split(task, 'train'),
                                     run.data.task_arrays(task)))
    gradient = _gradient(
        settings(self.phase).objective, backbone.network, route,
        backbone.params, backbone.stats, self.packed, source, arrays, rows,
        used)
    return np.asarray(gradient), used


@functools.partial(jax.jit, donate_argnums=0)
def _replaced(bank, bits, mask):
  """A bank with the mask of one index replaced."""
  return jax.tree.map(lambda b, row: b.at[mask].set(row), bank, bits)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _gradient(objective, network, route, backbone, stats, packed, source,
              task, rows, used):
  images, _ = single.make_batch(route, source, task, None, rows, False)

  def loss(params):
    logits, _ = network.apply(params, stats, images, train=bool(stats))
    return identify.OBJECTIVES[objective](
        logits, jnp.ones(len(rows), bool), route.classes)
  return identify.one_shot(loss, backbone,
                           superposition.of_masks(packed, backbone),
                           used).gradient


def _route(phase, task):
  return plan.route_of(task, phase.loss)


def _hard(phase, scores):
  return phase.make_method().commit(None, parallel.local(scores), {},
                                    None)[0].masks


def _start(run, phase, mask: int) -> single.State:
  """A mask's state before its first step; it does not depend on the task."""
  first = run.suite.tasks[phase.tasks[0]]
  functions = driver_lib.program(
      phase.make_method(), phase.recipe(len(run.data.view(first).train)),
      run.backbone.network)
  key = plan.Entry(_name(phase, mask), first, phase).key(run.config.seed)
  return functions.init(key, run.system.backbone.params, {},
                        run.system.backbone.stats, _route(phase, first))


def _decide(phase, bank, learner, task, index) -> int:
  """Index of the mask for a segment; learner.mask + 1 means a new one."""
  if learner.mask < 0:
    return 0
  gradient, used = bank.gradient(learner.mask + 1, task, index[0])
  if np.isnan(gradient).any():
    raise FloatingPointError(
        f'phase {phase.name}: the gradient of segment {learner.position} is '
        f'NaN. What was saved is kept; {phase.slower()}, or look at the '
        f'images of task {task.name}')
  new = learner.mask + 1
  known = int(np.argmin(gradient[:new]))
  if settings(phase).budget and new >= settings(phase).budget:
    return known
  unknown = np.argmin(gradient) >= new or identify.fits_no_task(
      gradient, used, settings(phase).tolerance)
  return new if unknown else known


def _allocate(run, phase, learner, mask) -> Learner:
  curve = {name: np.zeros(0, np.float32) for name in ('loss', 'accuracy')}
  return dataclasses.replace(
      learner, mask=mask, curve=curve, seconds=0.,
      state=parallel.put(_start(run, phase, mask)))


def _train(run, phase, learner, task, index) -> None:
  recipe = phase.recipe(len(run.data.view(task).train))
  chunk = driver_lib.program(phase.make_method(), recipe,
                             run.backbone.network).chunk
  learner.state, measured = chunk(
      _route(phase, task), run.backbone.params, {},
      run.data.split(task, 'train'), run.data.task_arrays(task),
      learner.state, parallel.split_batch(index))
  measured = parallel.to_host(measured)
  loop.check_finite([plan.Entry(task.name, task, phase)],
                    measured.loss[None], len(learner.curve['loss']))
  learner.curve = {name: np.concatenate([learner.curve[name],
                                         getattr(measured, name)])
                   for name in learner.curve}


def lower(run: run_lib.Run,
          phase: config_lib.Phase) -> jax.stages.Lowered:
  """The lowered program that trains a mask on a segment."""
  task = run.suite.tasks[phase.tasks[0]]
  recipe = phase.recipe(len(run.data.view(task).train))
  steps = min(settings(phase).every, recipe.steps)
  state = jax.eval_shape(lambda: _start(run, phase, 0))
  return driver_lib.program(
      phase.make_method(), recipe, run.backbone.network).chunk.lower(
          _route(phase, task), run.backbone.params, {},
          run.data.split(task, 'train'), run.data.task_arrays(task),
          memory.shapes(state), parallel.split_batch(
              np.zeros((steps, recipe.batch_size), np.int32)))


def _owner(learner, mask: int, segments) -> int:
  """The task from which a mask learned most segments.

  Those at which it was recognised, once a newer mask began, taught it nothing.
  """
  ended = next((at for at, chosen in learner.log if chosen > mask),
               len(segments))
  seen = [segments[at][0] for at, chosen in learner.log
          if chosen == mask and at < ended]
  return max(sorted(set(seen)), key=seen.count)


def _commit(run, phase, learner, segments) -> None:
  if learner.mask < 0:
    return
  name = _name(phase, learner.mask)
  if checkpoint.exists(run.workdir.task(name)):
    return
  task = run.suite.tasks[_owner(learner, learner.mask, segments)]
  recipe = dataclasses.replace(phase.recipe(len(run.data.view(task).train)),
                               steps=len(learner.curve['loss']))
  commit.commit(run, plan.Entry(name, task, phase), learner.state,
                commit.Given({}), learner.curve,
                commit.Trained(recipe, learner.seconds))


def _save(run, phase, learner) -> None:
  progress.save(
      run.workdir, phase.name, learner.position,
      impression_arrays.tree_to_arrays({'state': learner.state,
                                        'curve': learner.curve}),
      {'position': learner.position, 'mask': learner.mask,
       'log': learner.log, 'seconds': learner.seconds,
       'steps': len(learner.curve['loss'])}, run.defined_in(phase))


def _restore(run, phase) -> Learner:
  found = progress.newest(run.workdir, phase.name, run.defined_in(phase))
  if found is None:
    return Learner()
  arrays, metadata = found
  if not all(checkpoint.exists(run.workdir.task(_name(phase, mask)))
             for mask in range(metadata['mask'])):
    return Learner()  # a mask was lost: the stream starts again
  curve = {name: np.zeros(metadata['steps'], np.float32)
           for name in ('loss', 'accuracy')}
  restored = impression_arrays.arrays_to_tree(arrays, {
      'state': _start(run, phase, metadata['mask']), 'curve': curve})
  return Learner(metadata['position'], metadata['mask'],
                 parallel.put(restored['state']), restored['curve'],
                 metadata['log'], metadata['seconds'])


def _line(phase, learner, segments) -> dict:
  """The decisions of a stream, and how often they were right."""
  owners = [_owner(learner, mask, segments)
            for mask in range(learner.mask + 1)]
  first = len(segments) // settings(phase).passes
  right = [owners[chosen] == segments[at][0] for at, chosen in learner.log]
  began: dict[int, int] = {}
  for at, chosen in learner.log:
    began.setdefault(chosen, at)
  # A returning task is recognised only by a mask of an earlier pass.
  returned = [ok and began[chosen] < at // first * first
              for ok, (at, chosen) in zip(right, learner.log)][first:]
  return {'kind': 'stream', 'phase': phase.name, 'masks': learner.mask + 1,
          'tasks': phase.tasks[1] - phase.tasks[0], 'owners': owners,
          'segments': len(segments), 'decisions': [d for _, d in learner.log],
          'right_at_first': float(np.mean(right[:first])),
          'right_on_return': float(np.mean(returned)) if returned else None}
