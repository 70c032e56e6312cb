"""Every row once in an epoch, by the seed and step number alone."""

import functools

import numpy as np
import pytest

from mtl_jax.data import batches


@pytest.mark.parametrize('rows, batch_size', [(12, 4), (13, 4), (4, 4),
                                              (7, 2)])
def test_an_epoch_has_every_row_at_most_once(rows, batch_size):
  rows = np.arange(100, 100 + rows)
  per_epoch = len(rows) // batch_size
  drawn = batches.of_epochs(rows, 3 * per_epoch, batch_size, (1, 2))
  assert drawn.dtype == np.int32
  assert drawn.shape == (3 * per_epoch, batch_size)
  epochs = drawn.reshape(3, -1)
  for epoch in epochs:
    assert len(set(epoch)) == epoch.size and set(epoch) <= set(rows)
  if len(rows) % batch_size == 0:
    for epoch in epochs:
      np.testing.assert_array_equal(np.sort(epoch), rows)
  if len(rows) > 4:
    assert np.any(epochs[0] != epochs[1]) and np.any(epochs[1] != epochs[2])


@pytest.mark.parametrize('start, count', [(0, 1), (2, 3), (3, 1), (5, 9),
                                          (13, 1)])
def test_batches_depend_on_seed_and_step_alone(start, count):
  rows = np.arange(13)
  draw = functools.partial(batches.of_epochs, rows, batch_size=4)
  long = draw(14, seed=(0, 7))
  np.testing.assert_array_equal(draw(count, seed=(0, 7), start=start),
                                long[start:start + count])
  assert np.any(draw(14, seed=(0, 8)) != long)
  assert np.any(draw(14, seed=(1, 7)) != long)


def test_batches_are_the_same_on_every_machine():
  drawn = batches.of_epochs(np.arange(6), 3, 3, (0, 1))
  assert drawn.tolist() == [[1, 0, 3], [4, 5, 2], [0, 1, 5]]


def test_a_batch_larger_than_the_task_is_refused():
  with pytest.raises(ValueError, match=(
      'batch_size is 5 but the task has only 4 training images')):
    batches.of_epochs(np.arange(4), 1, 5, (0,))


@pytest.mark.parametrize('count, batch_size, devices, shape', [
    (10, 4, 1, (3, 4)), (8, 4, 1, (2, 4)), (9, 4, 2, (4, 4)),
    (1, 3, 8, (8, 3))])
def test_padded_batches_hold_every_row_once(count, batch_size, devices, shape):
  rows = np.arange(50, 50 + count)
  found = batches.padded(rows, batch_size, devices)
  assert found.shape == shape and found.dtype == np.int32
  flat = found.ravel()
  np.testing.assert_array_equal(flat[flat >= 0], rows)
  assert set(flat[flat < 0]) <= {-1}


@pytest.mark.parametrize('start, count', [(0, 1), (2, 3), (0, 9), (5, 7)])
def test_rows_are_those_of_epochs_drawn_one_batch_after_another(start, count):
  rows, batch, seed = np.arange(50, 63), 4, (3, 8)
  expected = []
  for number in range(start, start + count):
    epoch, place = divmod(number, len(rows) // batch)
    random = np.random.RandomState(np.random.MT19937(
        np.random.SeedSequence([*seed, epoch])))
    expected.append(random.permutation(rows)[place * batch:][:batch])
  np.testing.assert_array_equal(
      batches.of_epochs(rows, count, batch, seed, start), expected)
