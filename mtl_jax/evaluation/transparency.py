"""What tasks on shared segments have in common, from the stored tasks.

Measures tasks whose impression has a path, and baselines on the same paths:

  paths       the modules of each task, and how many two tasks share
  relation    linear CKA of the tasks' features on images of all tasks, and the
              overlap of their paths, which is a confounder
  similarity  linear CKA of each module with the same module of a control
  cka         the estimate of CKA: 'unbiased' (older records have 'biased')
  ablation    accuracy lost if a module outputs 0, by the number of its tasks
  probe       accuracy of a linear probe of task b on the features of task a
  robustness  accuracy under corruptions at five strengths
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.data import corruptions
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.evaluation import similarity
from mtl_jax.training import run as run_lib


class Seen(NamedTuple):
  """The network of a task.

  Attributes:
    entry: the entry of the task.
    params: parameters of its network.
    stats: norm statistics of its network.
    modules: int [levels, N].
  """
  entry: plan.Entry
  params: Any
  stats: Any
  modules: np.ndarray


def check(config: config_lib.Config, network) -> None:
  """Refuses, before training, to compare features of segments without any."""
  if config.transparency and network.trace is None:
    raise ValueError(
        f'transparency is {config.transparency}, but {config.backbone.model} '
        'has no segments that tasks could share; set it to 0')


def measure(running: run_lib.Run, entries: list[plan.Entry],
            controls: list[plan.Entry], images: int) -> dict | None:
  """All measurements of this module; `None` if no task has a path.

  Args:
    running: the run.
    entries: the tasks.
    controls: entries for the same tasks; those with another path are left out.
    images: largest number of images per task and split.
  """
  tasks = [seen for seen in map(functools.partial(_load, running), entries)
           if seen is not None]
  if len(tasks) < 2 or running.backbone.network.trace is None:
    return None
  beside = _beside(tasks, [seen for seen in map(
      functools.partial(_load, running), controls) if seen is not None])
  look = functools.partial(_images, running, count=images)
  network = running.backbone.network
  return {
      'names': [task.entry.task.name for task in tasks],
      'images': images,
      'cka': 'unbiased',
      'paths': [task.modules.tolist() for task in tasks],
      'modules': len(running.backbone.params['level1']),
      **_relation(network, tasks, look),
      'similarity': {phase: _similarity(network, tasks, own, look)
                     for phase, own in beside.items()},
      'ablation': _ablation(network, tasks, look),
      'probe': _probe(network, tasks, look),
      'robustness': {phase: _robustness(network, own, look)
                     for phase, own in [('', tasks), *beside.items()]}}


def _beside(tasks: list[Seen], controls: list[Seen]) -> dict[str, list[Seen]]:
  """By phase, the controls with the tasks' own paths, in the tasks' order."""
  names = [task.entry.task.name for task in tasks]
  by_phase: dict[str, dict[str, Seen]] = {}
  for seen in controls:
    by_phase.setdefault(seen.entry.phase.name, {})[seen.entry.task.name] = seen
  return {phase: [own[name] for name in names]
          for phase, own in by_phase.items() if all(
              name in own and np.array_equal(task.modules, own[name].modules)
              for name, task in zip(names, tasks))}


def _load(running, entry) -> Seen | None:
  stored = running.system.task(entry.name)
  path = stored.impression.path
  if path is None:
    return None
  params, stats = running.system.effective(stored)
  names = [name.partition('/') for _, name in path.parts
           if name.startswith('level')]
  levels = dict.fromkeys(level for level, _, _ in names)
  modules = [[int(module[6:]) for level, _, module in names if level == own]
             for own in levels]
  return Seen(entry, params, stats, np.array(modules))


def _images(running, task: Seen, split: str, count: int):
  """(uint8 images as in their source, the task's labels)."""
  view = running.data.view(task.entry.task)
  rows = getattr(view, split)
  rows = np.sort(np.random.RandomState(0).permutation(rows)[:count])
  source = getattr(running.data.source(task.entry.task.source), split)
  return source.images[rows], view.label_map[source.labels[rows]]


def _drawn(images, count: int) -> np.ndarray:
  """A fixed random sample of the images; sources may be sorted by class."""
  order = np.random.RandomState(1).permutation(len(images))
  return images[np.sort(order[:count])]


def _prepare(task: Seen, images):
  chain = task.entry.task.transforms
  return pipeline.apply(
      transforms.kinds(chain), pipeline.parameters(chain, images.shape[1:]),
      images)


@functools.partial(jax.jit, static_argnums=0)
def _trace(network, params, stats, x):
  return network.trace(params, stats, x)


@functools.partial(jax.jit, static_argnums=0)
def _right(network, params, stats, x, labels):
  logits, _ = network.apply(params, stats, x)
  return jax.numpy.mean(jax.numpy.argmax(logits, -1) == labels)


def _features(network, task: Seen, x) -> np.ndarray:
  """The input of the head, [n, features]."""
  return np.asarray(_trace(network, task.params, task.stats, x)[
      f'level{len(task.modules)}'])


def _relation(network, tasks, look) -> dict:
  each = [look(task, 'test')[0] for task in tasks]
  few = [_drawn(images, max(2, len(images) // len(tasks))) for images in each]
  features = [np.concatenate([_features(network, task, _prepare(task, images))
                              for images in few]) for task in tasks]
  overlap = [[int(sum(len(set(p) & set(q)) for p, q in zip(
      a.modules.tolist(), b.modules.tolist()))) for b in tasks] for a in tasks]
  return {'relation': rounded(similarity.relation(features)),
          'overlap': overlap}


def rounded(values) -> Any:
  """Nested lists rounded to four digits; `None` for NaN."""
  if np.ndim(values):
    return [rounded(value) for value in values]
  return None if np.isnan(values) else round(float(values), 4)


def _similarity(network, tasks, others, look) -> list:
  found = []
  for task, other in zip(tasks, others):
    x = _prepare(task, look(task, 'test')[0])
    one, two = (_trace(network, seen.params, seen.stats, x)
                for seen in (task, other))
    found.append([[similarity.linear_cka(one[name], two[name])
                   for name in row] for row in _slots(one, task)])
  return rounded(found)


def _slots(trace, task) -> list[list[str]]:
  return [sorted(name for name in trace if name.startswith(f'level{i + 1}/'))
          for i in range(len(task.modules))]


def _ablation(network, tasks, look) -> list[dict]:
  """One line per task and module."""
  found = []
  users: dict[tuple, int] = {}
  for task in tasks:
    for level, row in enumerate(task.modules.tolist()):
      for module in row:
        users[level, module] = users.get((level, module), 0) + 1
  for task in tasks:
    images, labels = look(task, 'test')
    x = _prepare(task, images)
    score = lambda params, t=task, x=x, y=labels: float(
        _right(network, params, t.stats, x, y))
    whole = score(task.params)
    for level, row in enumerate(task.modules.tolist()):
      slots = sorted(task.params[f'level{level + 1}'])
      for slot, module in zip(slots, row):
        silent = similarity.without(task.params, f'level{level + 1}/{slot}')
        found.append({
            'task': task.entry.task.name, 'level': level + 1,
            'module': module, 'users': users[level, module],
            'lost': round(whole - score(silent), 4)})
  return found


def _probe(network, tasks, look) -> list:
  """[a][b]: accuracy of task b on the features of task a's network."""
  data = [(look(task, 'train'), look(task, 'test')) for task in tasks]
  found = []
  for a in tasks:
    row = []
    for (train, train_labels), (test, test_labels) in data:
      x, y = (_features(network, a, _prepare(a, images))
              for images in (train, test))
      row.append(similarity.linear_probe(x, train_labels, y, test_labels))
    found.append(row)
  return rounded(found)


def _robustness(network, tasks, look) -> dict:
  """Mean accuracy over tasks by corruption and strength; 'none' without any."""
  def score(change):
    values = []
    for task in tasks:
      images, labels = look(task, 'test')
      values.append(float(_right(network, task.params, task.stats, _prepare(
          task, change(images)), labels)))
    return round(float(np.mean(values)), 4)

  found: dict = {'none': score(lambda images: images)}
  for kind, strengths in corruptions.STRENGTHS.items():
    found[kind] = [score(lambda images, kind=kind, s=s: corruptions.corrupt(
        images, kind, s + 1)) for s in range(len(strengths))]
  return found
