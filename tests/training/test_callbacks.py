"""Early stopping and pruning, by hand."""

import numpy as np
import pytest

from mtl_jax.config import parts as config_parts
from mtl_jax.steps import single
from mtl_jax.training import callbacks


def state(value):
  return single.State(np.int32(0), {'weights': {
      'w': np.array([4., 3., 2., 1., 0.]) + value}, 'own': ()}, (), {}, ())


def weight(found):
  return float(found.trainable['weights']['w'][0]) - 4


def follow(watched, scores, shared=None):
  """Runs a watch over (loss, accuracy) per epoch; the state counts epochs."""
  current, shared = state(0), shared or {}
  memory = watched.start(current, shared)
  densities = []
  for epoch, (loss, accuracy) in enumerate(scores, 1):
    if memory['stop']:
      break
    current = state(epoch) if weight(current) >= 0 else current
    memory, current, shared = watched.after_epoch(memory, current, shared,
                                                  loss, accuracy)
    if shared:
      densities.append(float(np.mean(np.asarray(shared['owner']['w']) == 1)))
  current, shared = watched.finish(memory, current, shared)
  return bool(memory['stop']), weight(current), shared, densities


@pytest.mark.parametrize('losses, stopped, best', [
    ([1., .9, .8, .7], False, 4),  # falls to the end
    ([1., .5, .495, .494, .493, .1], True, 2),  # within min_delta: not better
    ([1., .5, .6, .6, .4, .6, .6, .6, .1], True, 5),  # patience starts anew
    ([1., 1., 1., 1., 0.], True, 1)])
def test_early_stopping_goes_back_to_the_best_epoch(losses, stopped, best):
  watched = callbacks.early_stop(config_parts.EarlyStop(.01, 3))
  found = follow(watched, [(loss, None) for loss in losses])
  assert found[:2] == (stopped, best)


OWNER = {'owner': {'w': np.ones(5, np.uint8)}, 'number': np.uint8(1)}
STOP = config_parts.EarlyStop(.01, 2)


def test_pruning_goes_on_while_the_cutoff_is_reached():
  watched = callbacks.sparsify(config_parts.Sparsify(
      start=1., rate=.2, least=.2, cutoff=.9, patience=2), STOP)
  stopped, epoch, shared, densities = follow(watched, [
      (1., .95), (1., .9), (1., .8), (1., .8),  # kept, kept, failed twice
      (1., .5), (1., .5), (1., .5)], OWNER)
  np.testing.assert_allclose(densities[:4], [.8, .6, .6, .8])
  # The last good epoch was the second, at density 0.8.
  assert shared['owner']['w'].tolist() == [1, 1, 1, 1, 0]
  assert stopped and epoch == 5  # the first epoch of the last stage is best


def test_pruning_ends_at_the_least_density():
  watched = callbacks.sparsify(config_parts.Sparsify(
      start=1., rate=.4, least=.2, cutoff=.5), STOP)
  stopped, _, shared, densities = follow(
      watched, [(1., .9)] * 6, OWNER)
  np.testing.assert_allclose(densities[:2], [.6, .2])
  assert stopped and shared['owner']['w'].tolist() == [1, 0, 0, 0, 0]


def test_without_a_cutoff_the_first_training_sets_the_loss():
  watched = callbacks.sparsify(config_parts.Sparsify(
      start=1., rate=.2, least=.2, tolerance=.1, patience=1), STOP)
  _, _, shared, densities = follow(watched, [
      (1., None), (.5, None), (.5, None), (.5, None),  # best .5, then prune
      (.55, None), (.7, None),  # .55 is accepted and .7 above .65
      (.4, None), (.4, None), (.4, None)], OWNER)
  np.testing.assert_allclose(densities[:6], [1, 1, 1, .8, .6, .8])
  assert shared['owner']['w'].tolist() == [1, 1, 1, 1, 0]


def test_epochs_that_run_out_in_the_first_training_leave_its_best():
  watched = callbacks.sparsify(
      config_parts.Sparsify(start=1., tolerance=.1), STOP)
  stopped, epoch, shared, _ = follow(watched, [
      (1., None), (.2, None), (.9, None)], OWNER)
  assert (stopped, epoch) == (False, 2) and shared['owner']['w'].all()


def test_pruning_starts_from_what_a_task_owns():
  """Two of five weights, where as many as there were free."""
  watched = callbacks.sparsify(config_parts.Sparsify(
      start=1., rate=.2, least=.2, cutoff=.5), STOP)
  mine = {'owner': {'w': np.array([2, 2, 2, 1, 1], np.uint8)},
          'number': np.uint8(1)}
  _, _, shared, densities = follow(watched, [(1., .9)] * 4, mine)
  assert densities[0] == pytest.approx(.2)
  assert shared['owner']['w'].tolist() == [2, 2, 2, 1, 0]


def test_pruning_reaches_the_least_density_whatever_rounding_left():
  """A half of five weights are two of them, a quarter is one."""
  watched = callbacks.sparsify(config_parts.Sparsify(
      start=.5, rate=.25, least=.25, cutoff=.5), STOP)
  mine = {'owner': {'w': np.array([1, 1, 0, 0, 0], np.uint8)},
          'number': np.uint8(1)}
  _, _, shared, densities = follow(watched, [(1., .9)] * 2, mine)
  assert densities[0] == pytest.approx(.2)
  assert shared['owner']['w'].tolist() == [1, 0, 0, 0, 0]


def test_a_cutoff_needs_an_accuracy():
  watched = callbacks.sparsify(config_parts.Sparsify(start=1., cutoff=.9), STOP)
  with pytest.raises(ValueError, match='cutoff is an accuracy'):
    follow(watched, [(1., None)], OWNER)
