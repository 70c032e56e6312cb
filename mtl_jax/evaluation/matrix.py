"""The accuracy matrix of a run, and the overlap of its masks."""

import numpy as np

from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.evaluation import metrics
from mtl_jax.evaluation import sparse
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import checkpoint

OVERLAP_LIMIT = 60
MATRIX_LIMIT = 100  # tasks; a larger matrix is kept only if it is complete


def summarise(config: config_lib.Config, records: list[dict],
              rows: dict[str, dict], final: dict[str, float],
              overlap: dict | None) -> dict:
  """The accuracy matrix and every published measure that it supports.

  Args:
    config: config of the run.
    records: records of all entries, in learning order.
    rows: by entry, the test accuracies measured right after it was learned.
    final: test accuracies measured at the end of the run.
    overlap: from `mask_overlap`.
  """
  main = [r for r in records if not r['control'] and r['repeat'] == 0
          and r['accuracy']['test'] is not None]
  names = [r['entry'] for r in main]
  matrix = _measured(main, rows, final)
  keep = len(names) <= MATRIX_LIMIT or config.matrix == 'full'
  before = [r['accuracy']['backbone'] for r in main]
  return {
      'names': names,
      'matrix': [[None if np.isnan(v) else float(v) for v in row]
                 for row in matrix.dense()] if keep else None,
      'before': before,
      'metrics': (metrics.summarise(matrix, np.array(before), _curves(main))
                  if names else []),
      'overlap': overlap,
      'matrix_measured': config.matrix,
  }


def _measured(main: list[dict], rows: dict[str, dict],
              final: dict[str, float]) -> sparse.Sparse:
  """The measured entries: O(T), unless the matrix is complete."""
  place = {record['entry']: i for i, record in enumerate(main)}
  entries: dict[tuple[int, int], float] = {}
  for name, i in place.items():
    entries |= {(i, place[other]): value
                for other, value in rows.get(name, {}).items()
                if other in place and value is not None}
  for i, record in enumerate(main):
    entries[i, i] = record['accuracy']['test']
    if i:
      entries[i - 1, i] = record['accuracy']['before']
  entries |= {(len(main) - 1, j): final[name]
              for name, j in place.items() if name in final}
  return sparse.of_entries(len(main), entries)


def _curves(main: list[dict]) -> list[tuple] | None:
  """The validation curves; `None` unless every task has one."""
  curves = [curve for record in main if (curve := record.get('validation'))]
  return ([(curve['step'], curve['accuracy']) for curve in curves]
          if len(curves) == len(main) else None)


def density(record: dict, params: trees.Tree) -> float | None:
  """The share of all masked weights that a task's masks keep.

  As `masks.density`: a leaf counts by its size. `None` without masks.

  Args:
    record: of the task; earlier versions kept only the density of each leaf.
    params: the backbone's parameters.

  >>> density({'density': {'a': .5, 'b': 1.}}, {
  ...     'a': np.zeros((3, 2)), 'b': np.zeros(2), 'c': np.zeros(9)})
  0.625
  """
  if 'kept' in record:
    return record['kept']
  kept = record.get('density') or {}
  leaves = trees.flatten(params) if kept else {}
  sizes = {name: np.size(leaves[name]) for name in kept if name in leaves}
  if not kept or len(sizes) < len(kept):
    return None
  return sum(kept[name] * size for name, size in sizes.items()) / max(
      1, sum(sizes.values()))


def mask_overlap(system: system_lib.System, names: list[str]) -> dict | None:
  """Jaccard index between the stored masks of (at most 60) tasks.

  Tasks that mask other leaves than the first one with masks are left out.
  """
  packed: list[np.ndarray] = []
  kept: list[str] = []
  leaves: list[tuple[str, int]] = []
  for name in names:
    if len(kept) == OVERLAP_LIMIT:
      break
    arrays, _ = checkpoint.load(system.workdir.task(name))
    bits = {leaf: a for leaf, a in sorted(arrays.items())
            if leaf.startswith('masks/')}
    own = [(leaf, a.size) for leaf, a in bits.items()]
    if bits and own == (leaves or own):
      leaves = own
      packed.append(np.concatenate(list(bits.values())))
      kept.append(name)
  if len(kept) < 2:
    return None
  count = lambda x: int(np.bitwise_count(x).sum())
  matrix = np.ones((len(kept), len(kept)))
  for i, a in enumerate(packed):
    for j, b in enumerate(packed[:i]):
      matrix[i, j] = matrix[j, i] = count(a & b) / max(1, count(a | b))
  return {'names': kept, 'matrix': matrix.tolist()}
