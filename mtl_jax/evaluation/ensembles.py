"""Accuracy of an ensemble of impressions of one task."""


import jax
import numpy as np

from mtl_jax.config import plan
from mtl_jax.training import run as run_lib


def measure(running: run_lib.Run) -> list[dict]:
  """Test accuracy of the ensemble of all repeats of a task.

  The softmax outputs of all members are summed, and the largest sum is the
  prediction, as in the self-ensembles of arXiv 2207.08821.

  Returns:
    Dicts with phase, task, members (test accuracy of each) and accuracy.
  """
  found = []
  for phase in running.config.phases:
    if phase.repeats == 1 or phase.pool:  # a pool has images of several tasks
      continue
    entries = plan.entries(phase, running.suite)
    for task in dict.fromkeys(entry.task for entry in entries):
      members = [entry for entry in entries if entry.task == task]
      if not task.regression:
        found.append(_ensemble(running, phase, members))
  return found


def _ensemble(running, phase, members) -> dict:
  system, task = running.system, members[0].task
  view = running.data.view(task)
  test = running.data.source(task.source).test
  labels = view.label_map[test.labels[view.test]]
  total, alone = np.zeros((len(labels), task.classes)), []
  for entry in members:
    stored, answers = system.task(entry.name), []
    for rows in np.array_split(view.test, -(-len(view.test) // 1000)):
      answers.append(np.asarray(jax.nn.softmax(
          system.outputs(stored, test.images[rows]))))
    answer = np.concatenate(answers)
    alone.append(float(np.mean(np.argmax(answer, 1) == labels)))
    total = total + answer
  return {'phase': phase.name, 'task': task.name, 'members': alone,
          'accuracy': float(np.mean(np.argmax(total, 1) == labels))}
