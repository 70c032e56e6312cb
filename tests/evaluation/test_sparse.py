"""The accuracy matrix of a long run: only what was measured is kept."""

import tracemalloc
import types

import numpy as np
import pytest

from mtl_jax.evaluation import matrix
from mtl_jax.evaluation import metrics
from mtl_jax.evaluation import sparse

MISSING = {
    'whole': lambda r: r,
    'lower triangle': np.tril,
    'what a run measures': lambda r: np.where(
        np.eye(6) + np.eye(6, k=1) + (np.arange(6) == 5)[:, None] > 0, r, 0),
    'without the end': lambda r: r * (np.arange(6) < 5)[:, None]}


@pytest.mark.parametrize('missing', MISSING)
def test_every_measure_is_that_of_the_dense_matrix(missing):
  values = np.random.RandomState(0).uniform(.1, 1, (6, 6))
  dense = MISSING[missing](values)
  dense = np.where(dense > 0, dense, np.nan)
  kept = sparse.of_entries(6, {
      (i, j): dense[i, j] for i, j in np.ndindex(6, 6)
      if not np.isnan(dense[i, j])})
  np.testing.assert_array_equal(kept.dense(), dense)
  before = np.full(6, .1)
  found = metrics.summarise(kept, before)
  assert found == metrics.summarise(dense, before)
  assert len(found) == {'whole': 13, 'lower triangle': 11,
                        'what a run measures': 6, 'without the end': 2}[missing]


def test_an_entry_that_was_not_measured_is_named():
  few = sparse.of_entries(3, {(0, 0): .5, (1, 1): .5, (2, 2): .5, (2, 0): .5})
  with pytest.raises(ValueError, match=r'\(i, j\) = \(2, 1\)$'):
    metrics.average_accuracy(few)
  with pytest.raises(ValueError, match=r'not measured: \(i, j\) = \(1, 0\)$'):
    metrics.triangular_accuracy(few)
  with pytest.raises(ValueError, match=r'= \(0, 1\), \(0, 2\), \(1, 2\)$'):
    metrics.triangular_forward_transfer(few)


def records(count):
  return [{'entry': f't{i:06d}', 'control': False, 'repeat': 0, 'accuracy': {
      'test': .9, 'before': .1, 'backbone': .1}} for i in range(count)]


def test_the_end_of_a_run_grows_with_its_tasks_not_with_their_square():
  config = types.SimpleNamespace(matrix='diagonal')
  peaks = []
  for count in (500, 4000):
    made = records(count)
    final = {record['entry']: .9 for record in made}
    tracemalloc.start()
    found = matrix.summarise(config, made, {}, final, None)
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert found['matrix'] is None and len(found['names']) == count
    assert {row['name']: row['value'] for row in found['metrics']} == {
        'average_accuracy': pytest.approx(.9),
        'learning_accuracy': pytest.approx(.9), 'backward_transfer': 0.,
        'forward_transfer': 0., 'stream_forgetting': 0.,
        'worst_task': .9}
  assert peaks[1] < 8 * 1.5 * peaks[0]  # 64 times, if it were the square
