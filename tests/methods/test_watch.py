"""Early stopping and pruning, by hand."""

import numpy as np
import pytest

from mtl_jax.methods import sparsify
from mtl_jax.methods import watch
from mtl_jax.steps import single


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
  watched = watch.early_stop(watch.EarlyStop(.01, 3))
  found = follow(watched, [(loss, None) for loss in losses])
  assert found[:2] == (stopped, best)


OWNER = {'owner': {'w': np.ones(5, np.uint8)}, 'number': np.uint8(1)}
STOP = watch.EarlyStop(.01, 2)


def test_pruning_goes_on_while_the_cutoff_is_reached():
  watched = sparsify.sparsify(sparsify.Sparsify(
      start=1., rate=.2, least=.2, cutoff=.9, patience=2), STOP)
  stopped, epoch, shared, densities = follow(watched, [
      (1., .95), (1., .9), (1., .8), (1., .8),  # kept, kept, failed twice
      (1., .5), (1., .5), (1., .5)], OWNER)
  np.testing.assert_allclose(densities[:4], [.8, .6, .6, .8])
  # The last good epoch was the second, at density 0.8.
  assert shared['owner']['w'].tolist() == [1, 1, 1, 1, 0]
  assert stopped and epoch == 2  # none of the last stage is better


def test_failures_are_counted_anew_after_every_pruning():
  """As ActiveSparsification on the same accuracies: .9 and .7 in turn."""
  owner = {'owner': {'w': np.arange(20) < 10}, 'number': np.uint8(1)}
  owner['owner']['w'] = owner['owner']['w'].astype(np.uint8)
  watched = sparsify.sparsify(sparsify.Sparsify(
      start=.5, rate=.05, least=.01, cutoff=.8, patience=3), STOP)
  memory, current = watched.start(wide(), owner), wide()
  densities = []
  for epoch in range(13):
    memory, current, owner = watched.after_epoch(
        memory, current, owner, 1., (.9, .7)[epoch % 2])
    densities.append(float(np.mean(owner['owner']['w'] == 1)))
  assert int(memory['stage']) == sparsify.PRUNING
  np.testing.assert_allclose(densities[::2], np.arange(.45, .1, -.05))
  for failed in range(3):  # three in a row end it
    assert int(memory['stage']) == sparsify.PRUNING
    memory, current, owner = watched.after_epoch(memory, current, owner, 1.,
                                                 .7)
  assert int(memory['stage']) == sparsify.LAST
  assert np.mean(owner['owner']['w'] == 1) == pytest.approx(.2)


def wide():
  return single.State(np.int32(0), {'weights': {'w': np.arange(20.)},
                                   'own': ()}, (), {}, ())


def test_without_a_cutoff_failures_are_never_counted_anew():
  watched = sparsify.sparsify(sparsify.Sparsify(
      start=1., rate=.2, least=.2, tolerance=.1, patience=2), STOP)
  _, _, shared, densities = follow(watched, [
      (.5, None), (.5, None), (.5, None),  # dense; best .5
      (.9, None), (.5, None), (.9, None)], OWNER)  # failed, held, failed
  np.testing.assert_allclose(densities, [1, 1, .8, .8, .6, .8])
  assert shared['owner']['w'].tolist() == [1, 1, 1, 1, 0]


@pytest.mark.parametrize('accuracies, best', [
    ((.9, .7, .7, .905, .905), 1),  # less than .01 above the accepted .9
    ((.9, .7, .7, .92, .91, .91), 4),
    ((.9, .7, .7, .6, .92, .92, .95, .9, .9), 7)])
def test_with_a_cutoff_the_last_training_never_falls_below_it(
    accuracies, best):
  watched = sparsify.sparsify(sparsify.Sparsify(
      start=1., rate=.2, least=.2, cutoff=.8, patience=2), STOP)
  stopped, epoch, _, _ = follow(watched, [
      (1. / (i + 1), a) for i, a in enumerate(accuracies)], OWNER)
  assert stopped and epoch == best


def test_where_the_cutoff_was_never_reached_the_present_weights_stay():
  watched = sparsify.sparsify(sparsify.Sparsify(
      start=1., rate=.2, least=.2, cutoff=.9, patience=2), STOP)
  stopped, epoch, shared, _ = follow(watched, [
      (1., .5), (1., .6), (1., .505), (1., .4)], OWNER)
  assert stopped and epoch == 2 and shared['owner']['w'].all()


def test_pruning_ends_at_the_least_density():
  watched = sparsify.sparsify(sparsify.Sparsify(
      start=1., rate=.4, least=.2, cutoff=.5), STOP)
  stopped, _, shared, densities = follow(
      watched, [(1., .9)] * 6, OWNER)
  np.testing.assert_allclose(densities[:2], [.6, .2])
  assert stopped and shared['owner']['w'].tolist() == [1, 0, 0, 0, 0]


def test_without_a_cutoff_the_first_training_sets_the_loss():
  watched = sparsify.sparsify(sparsify.Sparsify(
      start=1., rate=.2, least=.2, tolerance=.1, patience=1), STOP)
  _, _, shared, densities = follow(watched, [
      (1., None), (.5, None), (.5, None), (.5, None),  # best .5, then prune
      (.55, None), (.7, None),  # .55 is accepted and .7 above .65
      (.4, None), (.4, None), (.4, None)], OWNER)
  np.testing.assert_allclose(densities[:6], [1, 1, 1, .8, .6, .8])
  assert shared['owner']['w'].tolist() == [1, 1, 1, 1, 0]


def test_epochs_that_run_out_in_the_first_training_leave_its_best():
  watched = sparsify.sparsify(
      sparsify.Sparsify(start=1., tolerance=.1), STOP)
  stopped, epoch, shared, _ = follow(watched, [
      (1., None), (.2, None), (.9, None)], OWNER)
  assert (stopped, epoch) == (False, 2) and shared['owner']['w'].all()


def test_pruning_starts_from_what_a_task_owns():
  """Two of five weights, where as many as there were free."""
  watched = sparsify.sparsify(sparsify.Sparsify(
      start=1., rate=.2, least=.2, cutoff=.5), STOP)
  mine = {'owner': {'w': np.array([2, 2, 2, 1, 1], np.uint8)},
          'number': np.uint8(1)}
  _, _, shared, densities = follow(watched, [(1., .9)] * 4, mine)
  assert densities[0] == pytest.approx(.2)
  assert shared['owner']['w'].tolist() == [2, 2, 2, 1, 0]


def test_pruning_reaches_the_least_density_whatever_rounding_left():
  """A half of five weights are two of them, a quarter is one."""
  watched = sparsify.sparsify(sparsify.Sparsify(
      start=.5, rate=.25, least=.25, cutoff=.5), STOP)
  mine = {'owner': {'w': np.array([1, 1, 0, 0, 0], np.uint8)},
          'number': np.uint8(1)}
  _, _, shared, densities = follow(watched, [(1., .9)] * 2, mine)
  assert densities[0] == pytest.approx(.2)
  assert shared['owner']['w'].tolist() == [1, 0, 0, 0, 0]


def test_a_cutoff_needs_an_accuracy():
  watched = sparsify.sparsify(sparsify.Sparsify(start=1., cutoff=.9), STOP)
  with pytest.raises(ValueError, match='cutoff is an accuracy'):
    follow(watched, [(1., None)], OWNER)


@pytest.mark.parametrize('changes, sentence', [
    (dict(start=lambda state, shared: None), 'start of the watch must return '
     "its memory as a dict of arrays, with a bool 'stop' .*; it returned None"),
    (dict(start=lambda state, shared: {}), 'start of the watch .* returned {}'),
    (dict(start=lambda state, shared: {'stop': False, 'best': 'none'}),
     'start of the watch must return its memory as a dict of arrays'),
    (dict(after_epoch=lambda memory, state, shared, loss, accuracy: (
        memory, state)), r'after_epoch .* return \(memory, state, shared\)'),
    (dict(after_epoch=lambda memory, state, shared, loss, accuracy: (
        None, state, shared)), 'after_epoch of the watch must return its mem'),
    (dict(finish=lambda memory, state, shared: None),
     r'finish of the watch must return \(state, shared\); it returned None'),
])
def test_what_a_watch_must_return(changes, sentence):
  stop = {'stop': np.bool_(False)}
  good = watch.checked(watch.Watch(
      lambda state, shared: stop,
      lambda memory, state, shared, loss, accuracy: (memory, state, shared),
      lambda memory, state, shared: (state, shared)))

  def call(own):
    memory = own.start('state', {})
    own.after_epoch(memory, 'state', {}, 1., .5)
    return own.finish(memory, 'state', {})
  assert call(good) == ('state', {})
  with pytest.raises(ValueError, match=sentence):
    call(watch.checked(good._replace(**changes)))
