"""Every metric against numbers worked out by hand."""

import decimal
import doctest
import fractions

import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.evaluation import metrics

NAN = float('nan')
# Rows: after task i. Task 0 first gets better, then is forgotten.
FULL = [[.80, .20, .10],
        [.90, .70, .30],
        [.60, .50, .90]]
LOWER = [[.80, NAN, NAN], [.90, .70, NAN], [.60, .50, .90]]
BEFORE = [.10, .10, .10]

BY_HAND = {
    'average_accuracy': (.6 + .5 + .9) / 3,
    'learning_accuracy': (.8 + .7 + .9) / 3,
    'backward_transfer': ((.6 - .8) + (.5 - .7)) / 2,
    'forward_transfer': ((.2 - .1) + (.3 - .1)) / 2,
    'forgetting': ((.9 - .6) + (.7 - .5)) / 2,
    'stream_forgetting': ((.8 - .6) + (.7 - .5)) / 2,
    'worst_task': .5,
    'worst_case_accuracy': (min(.9, .6) + .5 + .9) / 3,
    'anytime_average_accuracy': (.8 + (.9 + .7) / 2 + (.6 + .5 + .9) / 3) / 3,
    'triangular_accuracy': (.8 + .9 + .7 + .6 + .5 + .9) / 6,
    'triangular_backward_transfer': ((.9 - .8) + (.6 - .8) + (.5 - .7)) / 3,
    'remembering': 1 - .1,
    'triangular_forward_transfer': (.2 + .1 + .3) / 3,
    'whole_learning_curve_area': ((.1 + .3 + .5) / 3 + (.2 + .4 + .6) / 3
                                  + (.1 + .2 + .3) / 3) / 3,
}
# The last one was measured at its ends alone; step 3 of the first is too late.
CURVES = [((0, 1, 2, 3), (.1, .3, .5, .9)), ((0, 1, 2), (.2, .4, .6)),
          ((0, 2), (.1, .3))]


def test_docstrings():
  found = doctest.testmod(metrics)
  assert found.attempted > 10 and not found.failed


def test_summary_is_the_table_worked_out_by_hand():
  rows = metrics.summarise(FULL, BEFORE, CURVES)
  assert [row['name'] for row in rows] == list(BY_HAND)
  np.testing.assert_allclose([row['value'] for row in rows],
                             list(BY_HAND.values()), atol=1e-12)
  for row in rows:
    assert list(row) == ['name', 'title', 'citation', 'value']
    assert '20' in row['citation']


def test_forgetting_looks_at_rows_since_the_task_was_learned():
  # The 0.99 before task 1 was learned isn't an accuracy that it can forget.
  lucky = [[.8, .99, .1], [.9, .7, .3], [.6, .5, .9]]
  assert metrics.forgetting(lucky) == pytest.approx(.25)
  # The last row isn't in the maximum: an improvement counts as negative.
  better = [[.5, 0.], [.7, .9]]
  assert metrics.forgetting(better) == pytest.approx(-.2)


def test_nothing_forgotten_is_exactly_zero():
  frozen = [[.7, NAN], [.7, .8]]
  assert metrics.forgetting(frozen) == 0.
  assert metrics.stream_forgetting(frozen) == 0.
  assert metrics.remembering(frozen) == 1.


def test_unmeasured_entries_are_named():
  for matrix in (LOWER, [[.8, None, None], [.9, .7, None], [.6, .5, .9]]):
    names = [row['name'] for row in metrics.summarise(matrix, BEFORE)]
    assert 'forward_transfer' not in names
    assert 'triangular_forward_transfer' not in names
    assert 'forgetting' in names and len(names) == 11
  with pytest.raises(ValueError, match=r'= \(0, 1\), \(1, 2\)$'):
    metrics.forward_transfer(LOWER, BEFORE)
  with pytest.raises(ValueError, match=r'\(1, 0\)'):
    metrics.forgetting([[.8, NAN, NAN], [NAN, .7, NAN], [.6, .5, .9]])
  with pytest.raises(ValueError, match='task 2'):
    metrics.forward_transfer(FULL, [.1, .1, NAN])


@pytest.mark.parametrize('name', sorted(metrics.DEFINITIONS))
def test_one_task(name):
  definition = metrics.DEFINITIONS[name]
  inputs = {'matrix': [[.9]], 'before': [.1],
            'curves': [(range(11), [.9] * 11)]}
  arguments = [inputs[need] for need in definition.needs]
  if name in ('average_accuracy', 'learning_accuracy', 'triangular_accuracy',
              'worst_task', 'worst_case_accuracy', 'anytime_average_accuracy',
              'learning_curve_area', 'whole_learning_curve_area'):
    assert definition.function(*arguments) == pytest.approx(.9)
  else:
    with pytest.raises(ValueError, match='at least 2'):
      definition.function(*arguments)


@pytest.mark.parametrize('matrix', [[], [.9], [[.9, .8]], [[]]])
def test_malformed_matrix(matrix):
  with pytest.raises(ValueError, match=r'\[T, T\]'):
    metrics.summarise(matrix)


def test_percentages_are_no_accuracies():
  with pytest.raises(ValueError, match='60 to 90. Divide percentages by 100'):
    metrics.summarise([[80, np.nan], [60, 90]])
  with pytest.raises(ValueError, match='must lie in .0, 1.'):
    metrics.summarise([[.8, np.nan], [.6, .9]], [10, 10])


def test_rounding_is_no_percentage():
  assert metrics.average_accuracy([[1. + 2e-16]]) == pytest.approx(1.)


def test_malformed_before():
  with pytest.raises(ValueError, match='before has shape'):
    metrics.summarise(FULL, [.1])


@pytest.mark.parametrize('given', [
    'a', {}, {'a': [[.5]]}, [['.8', '.1'], ['.6', '.9']], [[.8], [.6, .9]],
    [[.8, {}], [.6, .9]], [[10 ** 400]], [[1j]], object(), {1}, lambda: 3,
    np.array([['2020-01-01']], np.datetime64), np.array([['.5', None]], object),
    [[b'.5']]])
def test_a_matrix_without_numbers_is_refused_in_a_sentence(given):
  said = 'the accuracy matrix is .*; give real numbers in rows of one length'
  for name in ('average_accuracy', 'forgetting', 'summarise'):
    with pytest.raises(ValueError, match=said) as found:
      getattr(metrics, name)(given)
    assert '\n' not in str(found.value)
  with pytest.raises(ValueError, match='before is .*; give real numbers'):
    metrics.forward_transfer(FULL, given)
  with pytest.raises(ValueError, match='joint is .*; '):
    metrics.intransigence(FULL, given)
  with pytest.raises(ValueError, match='what is averaged is .*; give real'):
    metrics.mean_and_std(given)


def test_masked_entries_were_not_measured():
  matrix = np.ma.masked_array(FULL, np.isnan(LOWER))
  assert metrics.forgetting(matrix) == metrics.forgetting(LOWER)
  with pytest.raises(ValueError, match='that was not measured'):
    metrics.triangular_forward_transfer(matrix)
  whole = np.ma.masked_array([[8, 3], [6, 9]], [[0, 1], [0, 0]]) // 10
  assert metrics.average_accuracy(whole) == 0.
  with pytest.raises(ValueError, match='before was not measured for task 1'):
    metrics.forward_transfer(FULL, np.ma.masked_array(BEFORE, [0, 1, 0]))
  with pytest.raises(ValueError, match='joint is masked; it must be a meas'):
    metrics.intransigence(FULL, np.ma.masked)


@pytest.mark.parametrize('numbers', [
    jnp.asarray([.5, .25]), jnp.asarray([.5, .25], jnp.bfloat16), (.5, .25),
    np.float16([.5, .25]), [fractions.Fraction(1, 2), decimal.Decimal('.25')],
    np.array([.5, .25], object), [np.float32(.5), jnp.float32(.25)]])
def test_numbers_of_any_kind_are_averaged(numbers):
  assert metrics.mean_and_std(numbers)[0] == .375


def test_intransigence():
  assert metrics.intransigence(FULL, joint=.95) == pytest.approx(.05)
  with pytest.raises(ValueError, match='joint'):
    metrics.intransigence(FULL, joint=NAN)
  with pytest.raises(ValueError, match='Divide percentages by 100'):
    metrics.intransigence(FULL, joint=95.)


def test_mean_and_std():
  assert metrics.mean_and_std([.5]) == (.5, None)
  mean, std = metrics.mean_and_std([1., 2., 3., 4.])
  assert mean == 2.5 and std == pytest.approx((5 / 3) ** .5)
  with pytest.raises(ValueError, match='at least one'):
    metrics.mean_and_std([])
