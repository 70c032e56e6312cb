"""Forgetting of a network that is fine-tuned on one task after another."""

from mtl_jax import parallel
from mtl_jax.config import plan
from mtl_jax.training import evaluate
from mtl_jax.training import run as run_lib
from mtl_jax.training import method_errors


def measure(running: run_lib.Run) -> list[dict]:
  """The accuracy matrix of every phase that fine-tunes in sequence.

  Entry [i][j] is the test accuracy on task j of the network after task i, with
  task j's own leaves (its head). Regressions have no entry. 'end' holds the
  accuracy of every task on the network after the last task.
  """
  found = []
  for phase in running.config.phases:
    if phase.make_method().abilities.carries is None:
      continue
    entries = plan.entries(phase, running.suite)
    scored = [entry for entry in entries if not entry.task.regression]
    row = lambda after, columns: [
        _mixed(running, after, entry) for entry in columns]
    with method_errors.named(phase):
      matrix = [row(entry, scored[:i]) for i, entry in enumerate(scored, 1)]
      end = matrix[-1] if entries[-1] in scored else row(entries[-1], scored)
    found.append({'phase': phase.name, 'names': [e.name for e in scored],
                  'matrix': matrix, 'end': end})
  return found


def _mixed(running, after, entry) -> float | None:
  """Accuracy of `entry` with the shared leaves of `after`."""
  system = running.system
  backbone = system.backbone
  late, own = [system.task(e.name) for e in (after, entry)]
  params = system.materialise(own.method, own.method.abilities.carries(
      own.impression, late.impression), own.shared)
  return evaluate.score_entry(
      backbone.network, parallel.put(params),
      own.impression.stats or backbone.stats, running.data, entry,
      'test', running.config.eval_batch_size).accuracy
