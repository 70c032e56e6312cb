"""Metrics over time against their formulas, written out with loops."""

import doctest

import numpy as np
import pytest

from mtl_jax.evaluation import anytime
from mtl_jax.evaluation import metrics
from mtl_jax.evaluation import sparse


def random_matrix(size, seed=0):
  values = np.random.RandomState(seed).uniform(.1, 1, (size, size))
  return np.where(np.tri(size, dtype=bool), values, np.nan)


def as_sparse(matrix):
  return sparse.of_entries(len(matrix), {
      (i, j): matrix[i, j] for i, j in np.argwhere(np.isfinite(matrix))})


def test_docstrings():
  found = doctest.testmod(anytime)
  assert found.attempted > 6 and not found.failed


@pytest.mark.parametrize('size', [2, 3, 9])
@pytest.mark.parametrize('form', [np.asarray, as_sparse])
def test_every_formula_as_the_paper_has_it(size, form):
  m = random_matrix(size)
  r = form(m)
  average = [np.mean([m[k, j] for j in range(k + 1)]) for k in range(size)]
  np.testing.assert_allclose(anytime.average_so_far(r), average)
  assert anytime.anytime_average_accuracy(r) == pytest.approx(
      sum(average) / size)
  forgetting = [np.mean([max(m[i, j] for i in range(j, k)) - m[k, j]
                         for j in range(k)]) for k in range(1, size)]
  np.testing.assert_allclose(anytime.forgetting_so_far(r), forgetting)
  assert anytime.forgetting_so_far(r)[-1] == pytest.approx(
      metrics.forgetting(r))
  assert anytime.worst_task(r) == min(m[-1])
  lowest = np.mean([min(m[i, j] for i in range(j + 1, size))
                    for j in range(size - 1)])
  assert anytime.worst_case_accuracy(r) == pytest.approx(
      m[-1, -1] / size + (1 - 1 / size) * lowest)


def test_forgetting_after_each_task_is_that_of_the_run_that_ended_there():
  m = random_matrix(7)
  np.testing.assert_allclose(
      anytime.forgetting_so_far(m),
      [metrics.forgetting(m[:k, :k]) for k in range(2, 8)])


def test_the_worst_task_reads_the_last_row_alone():
  last = sparse.of_entries(50_000, {(49_999, j): .5 + .4 * (j != 7)
                                    for j in range(50_000)})
  assert anytime.worst_task(last) == .5  # T^2 places would be 20 GB
  with pytest.raises(ValueError, match=r'not measured: \(i, j\) = \(0, 0\)'):
    anytime.anytime_average_accuracy(last)
  with pytest.raises(ValueError, match=r'not measured: \(i, j\) = '):
    anytime.forgetting_so_far(last)


def test_the_area_is_the_mean_of_the_first_batches():
  values = np.random.RandomState(1).uniform(0, 1, (4, 30))
  curves = [(np.arange(30), row) for row in values]
  for beta in (0, 3, 10):
    z = [np.mean([values[k, b] for k in range(4)]) for b in range(beta + 1)]
    assert anytime.learning_curve_area(curves, beta) == pytest.approx(
        sum(z) / (beta + 1))
  assert anytime.whole_learning_curve_area(curves) == pytest.approx(
      anytime.learning_curve_area(curves, 29))


def test_lines_join_what_was_measured():
  steps = [0, 4, 5, 11]
  values = [.1, .5, .4, 1.]
  joined = np.interp(np.arange(8), steps, values)
  assert anytime.whole_learning_curve_area(
      [(steps, values), (range(8), [.5] * 8)]) == pytest.approx(
          (joined.mean() + .5) / 2)


@pytest.mark.parametrize('curves,message', [
    ([], 'no task has a validation curve; set validate_every'),
    (3, r'curves is 3; give a pair \(steps, accuracies\) for each task'),
    ([.1, .5], r'curves is \[0.1, 0.5\]; give a pair'),
    ([(0, 1)], r'task 0 must begin at step 0, .* steps \[0.0\] and 1'),
    ([(('0', '1'), (.1, .2))], 'steps of the curve of task 0 is .*; give real'),
    ([((0, 1), ('a', 'b'))], 'accuracies of the curve of task 0 is .*; give r'),
    ([((0, float('nan')), (.1, .2))], 'each a whole number'),
    ([((0, float('inf')), (.1, .2))], 'each a whole number'),
    ([((0, 5), (.1, .2))], 'task 0 was not measured after batch 1; validate'),
    ([((1, 2), (.1, .2))], 'task 0 must begin at step 0'),
    ([((0, 2, 2), (.1, .2, .3))], 'with ascending steps'),
    ([((0, .5, 2), (.1, .2, .3))], r'got steps \[0.0, 0.5, 2.0\] and 3'),
    ([((0, 1), (.1, None))], 'task 0 has no accuracy at step 1'),
    ([((0, 1), (10., 20.))], 'Divide percentages by 100')])
def test_curves_that_are_none(curves, message):
  with pytest.raises(ValueError, match=message):
    anytime.learning_curve_area(curves)


@pytest.mark.parametrize('beta', [-1, .5, True, None])
def test_what_is_no_number_of_batches(beta):
  with pytest.raises(ValueError, match='give a number of batches, 0 or more'):
    anytime.learning_curve_area([((0, 1), (.1, .2))], beta)
