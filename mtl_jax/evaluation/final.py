"""Measurements of all stored tasks after training."""

import numpy as np

from mtl_jax import parallel
from mtl_jax.config import plan
from mtl_jax.evaluation import matrix
from mtl_jax.evaluation import scenario_phases
from mtl_jax.evaluation import scenarios
from mtl_jax.evaluation import transparency
from mtl_jax.serving import verification
from mtl_jax.storage import json_records
from mtl_jax.training import commit
from mtl_jax.training import evaluate
from mtl_jax.training import run as run_lib
from mtl_jax.training import stream


def main_entries(running: run_lib.Run) -> list[plan.Entry]:
  """Entries of the accuracy matrix, in learning order."""
  return [entry for phase in running.config.phases if not phase.control
          for entry in entries(running, phase) if entry.repeat == 0]


def entries(running: run_lib.Run, phase) -> list[plan.Entry]:
  """The stored entries of a phase."""
  if phase.stream:
    return stream.entries(running.workdir, phase, running.suite)
  return plan.entries(phase, running.suite)


def matrix_rows(running: run_lib.Run) -> dict[str, dict]:
  """Accuracies of all tasks after each one, measured from the stored tasks.

  A finished task's folder never changes, so a row that is measured after later
  tasks were learned has the same numbers.
  """
  known = {line['entry']: line['accuracy'] for line in
           json_records.read_lines(running.workdir.metrics)
           if line['kind'] == 'row'}
  measured = main_entries(running)
  for i, entry in enumerate(measured):
    before = measured[:i + 1]
    # If tasks were added to an earlier phase, a known row may lack them.
    if {e.name for e in before} - set(known.get(entry.name, ())):
      known[entry.name] = evaluate.row(
          running.system, before, running.data,
          running.config.eval_batch_size)
      json_records.append_line(running.workdir.metrics, {
          'kind': 'row', 'entry': entry.name, 'accuracy': known[entry.name]})
  return known


def infer_tasks(running: run_lib.Run) -> list[dict]:
  """Accuracy with inferred tasks; keeps the results of earlier starts."""
  if not running.config.identify:
    return []
  work = running.workdir
  logged = [line for line in json_records.read_lines(work.metrics)
            if line['kind'] == 'identity']
  found: list[dict] = []
  networks = scenarios.Networks(running.system, running.data)
  for scenario in running.config.identify:
    phases = scenario_phases.phases(running.config, scenario)
    learned = [e for phase in phases for e in entries(running, phase)
               if e.repeat == 0]
    tested = list({task.name: plan.Entry(task.name, task, phase)
                   for phase in phases
                   for task in running.suite.tasks[slice(*phase.tasks)]
                   }.values())
    known = [line for line in logged if scenarios.is_of(line, scenario)
             and scenarios.still_holds(line, learned, tested)]
    found += known
    for line in scenarios.measure(running.system, learned, tested,
                                  running.data, scenario, known, networks):
      json_records.append_line(work.metrics, line)
      found.append(line)
  return found


def check_mixed(config, suite, data) -> None:
  """Refuses, before training, a mixed batch that can't be made.

  Raises:
    ValueError: no task takes part, there are fewer rows than tasks, a task is
      a regression, or the tasks' raw inputs are not images of one shape; names
      them.
  """
  tasks = list(dict.fromkeys(
      task for phase in config.phases if not (phase.control or phase.pool)
      for task in suite.tasks[slice(*phase.tasks)]))
  if not config.mixed_rows:
    return
  if not tasks:
    raise ValueError(f'mixed_rows is {config.mixed_rows}, but every phase is a '
                     'control or a pool, which take no part; set it to 0')
  if config.mixed_rows < len(tasks):
    raise ValueError(f'mixed_rows is {config.mixed_rows} but there are '
                     f'{len(tasks)} tasks: give at least a row for each, or 0')
  shapes: dict[tuple, str] = {}
  for task in tasks:
    if task.regression:
      raise ValueError(f'mixed_rows: task {task.name} is a regression, of '
                       'which no row is right or wrong; set mixed_rows to 0')
    images = data.source(task.source).test.images
    if images.dtype != np.uint8 or images.ndim != 4:
      raise ValueError(f'mixed_rows: task {task.name} has {images.dtype} '
                       f'inputs of shape {images.shape[1:]}, not images uint8 '
                       '[H, W, C]; set mixed_rows to 0')
    shapes.setdefault(images.shape[1:], task.name)
  if len(shapes) > 1:
    raise ValueError(
        f'mixed_rows: the sources of tasks {" and ".join(shapes.values())} '
        f'have images of different shapes {list(shapes)}; one call takes one '
        'shape: set mixed_rows to 0')


def mixed_batch(running: run_lib.Run) -> dict | None:
  """Predicts a batch of all tasks in one call, and again task by task."""
  learned = [e for e in main_entries(running) if not e.pooled]
  if not running.config.mixed_rows or not learned:
    return None
  each = max(1, running.config.mixed_rows // len(learned))
  images, labels, names = [], [], []
  for entry in learned:
    view = running.data.view(entry.task)
    test = running.data.source(entry.task.source).test
    rows = view.test[:each]
    images.append(test.images[rows])
    labels.append(view.label_map[test.labels[rows]])
    names += [entry.name] * len(rows)
  x = np.concatenate(images)
  order = np.random.RandomState(0).permutation(len(x))
  shuffled = [names[i] for i in order]
  one_call = np.asarray(running.system.predict_mixed(x[order], shuffled))
  mixed = one_call[np.argsort(order)]
  single = [np.asarray(running.system.predict(part, task=entry.name))
            for part, entry in zip(images, learned)]
  difference = max(
      float(np.max(np.abs(part[:, :own.shape[1]] - own))) for part, own in
      zip(np.split(mixed, np.cumsum([len(p) for p in images])[:-1]), single))
  right = np.argmax(mixed, 1) == np.concatenate(labels)
  return {'rows': len(x), 'tasks': len(learned),
          'accuracy': float(np.mean(right)), 'difference': difference}


def shared_segments(running: run_lib.Run) -> dict | None:
  """Measures tasks that have paths; see `mtl_jax.evaluation.transparency`."""
  if not running.config.transparency:
    return None
  controls = [entry for phase in running.config.phases if phase.control
              for entry in entries(running, phase) if entry.repeat == 0]
  return transparency.measure(running, main_entries(running), controls,
                           running.config.transparency)


def collect(running: run_lib.Run) -> list[dict]:
  """The records of all entries in learning order, from the checkpoints.

  Only the seconds that a save took and the peak memory come from the log, as
  they are not known when the checkpoint is written.
  """
  parallel.barrier('all records are written')
  logged = {line['entry']: line for line in
            json_records.read_lines(running.workdir.metrics)
            if line['kind'] == 'task'}
  found = []
  for phase in running.config.phases:
    for entry in entries(running, phase):
      record = commit.finished_record(running.workdir, entry.name)
      record['kept'] = matrix.density(record, running.system.backbone.params)
      found.append(commit.with_log(record, logged.get(entry.name, {})))
  return found


def summarise(running: run_lib.Run, records, rows) -> dict:
  """Measures and verifies every stored task, and summarises the run."""
  measured = {entry.name: entry for entry in main_entries(running)}
  final = {}

  def measure(name):
    if name in measured:
      final.update(evaluate.row(running.system, [measured[name]], running.data,
                                running.config.eval_batch_size))

  proof = verification.check(running.system, measure)
  overlap = matrix.mask_overlap(running.system, list(measured))
  summary = matrix.summarise(running.config, records, rows, final, overlap)
  summary['verified'] = {'ok': not proof.faults, 'tasks': proof.tasks,
                         'faults': proof.faults}
  summary['busy'] = busy(records)
  return summary


def busy(records: list[dict]) -> float | None:
  """Of the seconds of training, the share in which the devices had work.

  Compiling counts as no work. `None` if no record knows.

  >>> busy([{'seconds': {'train': 2., 'busy': 1.}}, {'seconds': {'train': 5.}}])
  0.5
  """
  known = [record['seconds'] for record in records
           if record['seconds'].get('busy') is not None]
  whole = sum(seconds['train'] for seconds in known)
  return sum(seconds['busy'] for seconds in known) / whole if whole else None
