"""Accuracy of stored impressions put together: ensembles, and what fine-tuning
in sequence forgets.
"""


import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.config import plan
from mtl_jax.methods import subnetworks
from mtl_jax.training import evaluate
from mtl_jax.training import run as run_lib


def ensembles(running: run_lib.Run) -> list[dict]:
  """Of every task that a phase repeats: its members together.

  The softmax outputs of all members are summed and the largest taken, as in
  the self-ensembles of arXiv 2207.08821.

  Returns:
    Dicts with phase, task, members (test accuracy of each) and accuracy.
  """
  found = []
  for phase in running.config.phases:
    if phase.repeats == 1 or phase.pool:  # a pool's images are of many tasks
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


def carried(running: run_lib.Run) -> list[dict]:
  """Of every phase that fine-tunes in sequence: the accuracy matrix.

  Entry [i][j] is the test accuracy on task j of the network as task i left
  it, with the leaves that task j has for itself (its head): what one network
  that is trained on and on would give. Regressions have no entry. 'end' is
  the accuracy of every task on what the last one left, whichever that is.
  """
  found = []
  for phase in running.config.phases:
    options = dict(phase.options)
    if not options.get('carry'):
      continue
    entries = plan.entries(phase, running.suite)
    scored = [entry for entry in entries if not entry.task.regression]
    row = lambda after, columns, own=options.get('own', ()): [
        _mixed(running, after, entry, own) for entry in columns]
    matrix = [row(entry, scored[:i]) for i, entry in enumerate(scored, 1)]
    found.append({
        'phase': phase.name, 'names': [e.name for e in scored],
        'matrix': matrix, 'end': matrix[-1] if entries[-1] in scored
        else row(entries[-1], scored)})
  return found


def _mixed(running, after, entry, own) -> float | None:
  """Accuracy of `entry` on the common leaves that `after` left."""
  system = running.system
  backbone = system.backbone
  (late, _), (params, stats) = [system.effective(system.task(e.name))
                                for e in (after, entry)]
  mine, _ = subnetworks.parts(params, own)
  params = jax.tree.map(jnp.asarray, trees.combine(mine, late))
  return evaluate.score_entry(
      backbone.network, parallel.put(params), stats, running.data, entry,
      'test', running.config.eval_batch_size).accuracy
