"""Batches of a search: endless epochs, the official buffer, validation rows."""

import numpy as np
import pytest

from mtl_jax.evolution import batches


def test_batches_run_through_endless_epochs():
  rows = np.arange(7) + 100
  whole = batches.training(rows, 9, 5, (1, 2), shuffle='epochs')
  assert whole.shape == (9, 5) and whole.dtype == np.int32
  flat = whole.ravel()
  for epoch in range(6):
    assert sorted(flat[7 * epoch:7 * epoch + 7]) == list(rows)
  assert len({tuple(flat[7 * e:7 * e + 7]) for e in range(6)}) == 6
  for start in (0, 3, 8):
    np.testing.assert_array_equal(
        batches.training(rows, 1, 5, (1, 2), start, 'epochs')[0], whole[start])
  assert np.any(batches.training(rows, 9, 5, (1, 3), 0, 'epochs') != whole)
  np.testing.assert_array_equal(
      batches.training(rows, 2, 20, (1,), 0, 'epochs')[1],
      batches.training(rows, 1, 20, (1,), 1, 'epochs')[0])


def test_official_batches_are_cut_once_and_wait_in_a_buffer():
  rows = np.arange(700, 723)
  found = batches.training(rows, 60, 5, (1, 2))
  assert found.dtype == np.int32
  # A batch is five neighbours; which one, by where in the endless order.
  first = (found[:, 0] - 700) * 14 % 23  # 14 x 5 = 1 modulo 23
  for row, number in zip(found, first):
    assert list(row) == [700 + (5 * number + i) % 23 for i in range(5)]
  numbers = batches._through_buffer(60, (1, 2))
  assert list(numbers % 23) == list(first)
  assert len(set(numbers)) == 60 and all(
      number < i + batches.BUFFER for i, number in enumerate(numbers))
  assert sorted(numbers)[:40] == list(range(40))  # none waits for ever
  assert list(numbers) != sorted(numbers)
  for start in (0, 7, 59):
    np.testing.assert_array_equal(
        batches.training(rows, 1, 5, (1, 2), start)[0], found[start])
  assert np.any(batches.training(rows, 60, 5, (1, 3)) != found)


def test_a_cache_does_not_keep_the_order_of_classes():
  rows = np.arange(100)
  order = batches.cached(rows, (0, 1))
  assert sorted(order) == list(rows) and np.ptp(order[:10]) > 50
  assert list(order) == list(batches.cached(rows, (0, 1)))
  assert list(order) != list(batches.cached(rows, (0, 2)))


@pytest.mark.parametrize('rows, batch, cap, shape', [
    (1200, 512, 5120, (3, 400)), (10000, 512, 5120, (10, 512)),
    (5120, 512, 5120, (10, 512)), (7, 3, 100, (3, 2)), (5, 8, 4, (1, 4))])
def test_validation_rows_are_the_official_subset(rows, batch, cap, shape):
  found = batches.validation(np.arange(rows), batch, cap)
  assert found.shape == shape
  assert list(found.ravel()) == list(range(shape[0] * shape[1]))
