"""Weights of a folded tree: free, owned and shared, and their bytes."""

from typing import Any

import jax
import numpy as np

from mtl_jax import trees
from mtl_jax.config import plan
from mtl_jax.storage import array_files
from mtl_jax.training import run as run_lib
from mtl_jax.training import method_errors


def measure(running: run_lib.Run) -> list[dict]:
  """One record per folded tree, from the stored impressions.

  Args:
    running: the run.

  Returns:
    Dicts with
      tree: its name; tasks that are pruned independently have no tree.
      tasks: names of the subnetworks, in the tree's order.
      leaves: {leaf: {'size', 'owned' (by task), 'free', 'used' (by task)}};
        a task that shares weights uses more than it owns.
      overlap: [task][task] number of weights that both tasks own.
      bytes: 'folded' (computed: one weight tree, one byte per weight for its
        owner, and the tasks' own leaves), 'stored' (the tasks' folders, without
        values that they refer to in the folders of other trees), 'dedicated'
        (one dense network per task, with all stems).
  """
  trees_: dict[str, list[plan.Entry]] = {}
  for phase in running.config.phases:
    folds = phase.make_method().abilities.folds
    if folds is not None:
      trees_.setdefault(folds.tree, []).extend(
          plan.entries(phase, running.suite))
  found = []
  for name, entries in trees_.items():
    with method_errors.named(entries[0].phase):
      found.append(_tree(running, name, entries))
  return found


def _tree(running, name, entries) -> dict:
  system = running.system
  able = [entry.phase.make_method().abilities for entry in entries]
  like = able[0].folds.part(system.backbone.params)
  names = [entry.name for entry in entries]
  used_by = {name: names[:i] if able[i].folds.uses else []
             for i, name in enumerate(names)}
  bits: list[dict[str, np.ndarray]] = []
  own_bytes = 0
  for entry in entries:
    impression = system.task(entry.name).impression
    bits.append({leaf: np.asarray(m) for leaf, m in
                 trees.flatten(impression.masks).items() if m is not None})
    own_bytes += sum(
        np.asarray(v).nbytes for leaf, v in trees.flatten(
            impression.values).items()
        if v is not None and leaf not in bits[-1])
  leaves: dict[str, dict[str, Any]] = {}
  for leaf, weights in trees.flatten(like).items():
    if weights is None:
      continue
    owned = [int(b[leaf].sum()) for b in bits]
    leaves[leaf] = {
        'size': int(np.size(weights)), 'owned': owned,
        'free': int(np.size(weights) - np.any(
            np.stack([b[leaf] for b in bits]), axis=0).sum()),
        'used': [own + sum(owned[names.index(other)]
                           for other in used_by[task])
                 for task, own in zip(names, owned)]}
  overlap = [[sum(int((a[leaf] & b[leaf]).sum()) for leaf in leaves)
              for b in bits] for a in bits]
  for i, j in np.argwhere(np.triu(overlap, 1)):
    raise ValueError(f'tree {name}: {overlap[i][j]} weights '
                     f'belong to both {names[i]} and {names[j]}; train the '
                     'phase again in a new workdir')
  size = sum(leaf['size'] for leaf in leaves.values())
  itemsize = jax.tree.leaves(like)[0].dtype.itemsize
  return {
      'tree': name, 'tasks': names, 'leaves': leaves, 'overlap': overlap,
      'bytes': {
          'folded': size * (itemsize + 1) + own_bytes,
          'stored': sum(array_files.stored_bytes(system.workdir.task(n))
                        for n in names),
          'dedicated': len(names) * trees.nbytes(system.backbone.params)}}
