"""Modules of any library become networks: their modes, statistics and noise."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_networks import (KEY, ROUTE, X, Y, Dropped, DroppedNnx, Normed,
                           NormedNnx, Plain, Synced, assert_drops, init,
                           train_step)

from mtl_jax import methods
from mtl_jax import models
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.steps import single


# Linen.


def mode_module(argument, shown):
  """A module whose `__call__` takes one of the usual arguments."""
  space = {'nn': nn, 'shown': shown}
  exec(f'def call(self, x, {argument}):\n'  # pylint: disable=exec-used
       f'  shown.append({argument})\n'
       '  return nn.Dense(2)(x)', space)
  return type('Told', (nn.Module,), {'__call__': nn.compact(space['call'])})


def test_a_module_without_an_argument_for_its_mode():
  network = models.from_linen(Plain())
  params, stats = init(network)
  assert stats == {}
  for train in (True, False):
    logits, after = network.apply(params, stats, X, train=train, key=KEY)
    np.testing.assert_array_equal(logits, Plain().apply({'params': params}, X))
    assert after == {}
  assert train_step(network, 20)[1][-1] < train_step(network)[1][0]


@pytest.mark.parametrize('given', [Plain(), Plain, lambda: Plain(),
                                   lambda axis_name=None: Plain(),
                                   lambda **_: Plain()])
def test_modules_and_functions_that_make_them(given):
  params, _ = init(models.from_linen(given))
  assert trees.fingerprint(params) == trees.fingerprint(
      init(models.from_linen(Plain()))[0])


@pytest.mark.parametrize('argument, trained', [
    ('train', True), ('training', True), ('is_training', True),
    ('deterministic', False), ('use_running_average', False)])
def test_the_mode_is_told_by_any_of_its_usual_names(argument, trained):
  shown = []
  network = models.from_linen(mode_module(argument, shown)())
  params, stats = init(network)
  assert set(shown) == {not trained}
  for train in (True, False):
    shown.clear()
    network.apply(params, stats, X, train=train)
    assert shown == [trained if train else not trained]


def test_dropout_has_a_key_in_training_alone():
  assert_drops(models.from_linen(Dropped()))


def test_every_step_drops_something_else():
  """Of equal batches at a learning rate of 0."""
  def losses(network):
    method, optimizer = methods.make('dedicated'), optax.sgd(0.)
    params, stats = init(network)
    state = single.init_state(method, optimizer, KEY, params, {}, stats, ROUTE)
    step = jax.jit(functools.partial(
        single.make_step(method, network, optimizer), ROUTE))
    found = []
    for _ in range(3):
      state, metrics = step(params, {}, state, (X, Y))
      found.append(float(metrics.loss))
    return found
  for network in (models.from_linen(Dropped()),
                  models.from_nnx(DroppedNnx)):
    assert len(set(losses(network))) == 3
    assert losses(network) == losses(network)
  assert len(set(losses(models.from_linen(Plain())))) == 1


NORMED = {
    'linen': lambda: models.from_linen(Normed()),
    'linen class': lambda: models.from_linen(Normed),
    'linen function': lambda: models.from_linen(lambda: Normed()),
    # It takes an axis, like any keyword, and forgets it.
    'linen keywords': lambda: models.from_linen(lambda **_: Normed()),
    'linen axis': lambda: models.from_linen(Synced()),
    'linen axis function': lambda: models.from_linen(
        lambda axis_name=None: Synced(axis_name)),
    'nnx': lambda: models.from_nnx(NormedNnx)}


@pytest.mark.parametrize('name', NORMED)
def test_batch_statistics_on_all_devices(name):
  """Each device's share of a batch; all end with the same statistics."""
  network, devices = NORMED[name](), jax.device_count()
  assert devices == 8
  params, stats = init(network)
  x = X.reshape(devices, 2, 3)
  logits, after = jax.pmap(
      lambda x: network.apply(params, stats, x, train=True, axis_name='d'),
      axis_name='d')(x)
  assert logits.shape == (8, 2, 2)
  flat = trees.flatten(after)
  for leaf in flat.values():
    np.testing.assert_array_equal(leaf, np.stack([leaf[0]] * devices))
  mean, = (leaf[0] for n, leaf in flat.items() if n.endswith('mean'))
  np.testing.assert_allclose(mean, .1 * X.mean(0), rtol=1e-4, atol=1e-6)
  var, = (leaf[0] for n, leaf in flat.items() if n.endswith('var'))
  synced = 'axis' in name
  of_batch = X.var(0) if synced else x.var(1).mean(0)
  np.testing.assert_allclose(var, .9 + .1 * of_batch, rtol=1e-4)
  # Only a module that knows the axis normalises by the whole batch.
  whole = network.apply(params, stats, X, train=True)[0].reshape(8, 2, 2)
  assert np.allclose(logits, whole, atol=1e-4) == synced


@pytest.mark.parametrize('name', NORMED)
def test_training_changes_statistics_and_evaluation_does_not(name):
  network = NORMED[name]()
  params, stats = init(network)
  _, after = network.apply(params, stats, X, train=False)
  assert trees.digests(after) == trees.digests(stats)
  kept = trees.digests(stats)
  _, after = jax.jit(lambda s: network.apply(params, s, X, train=True))(stats)
  trees.check_same_structure(after, stats)
  changed = {n for n, d in trees.digests(after).items() if d != kept[n]}
  assert changed == set(kept) and trees.digests(stats) == kept
  state, losses = train_step(network, 20)
  assert losses[-1] < losses[0]
  assert trees.digests(state.stats) != kept


def test_a_chunk_over_devices_trains_a_module_without_an_axis():
  """Through the library's own chunk, whose devices must agree at its end."""
  network = NORMED['linen keywords']()
  method, optimizer = methods.make('dedicated'), optax.sgd(.1)
  params, stats = init(network)
  state = single.init_state(method, optimizer, KEY, params, {}, stats, ROUTE)
  chunk = parallel.over_batches(single.make_chunk(
      single.make_step(method, network, optimizer)))
  index = np.arange(16, dtype=np.int32).reshape(1, 16).repeat(3, 0)
  source = single.Source(X, Y)
  after, metrics = chunk(
      ROUTE, *parallel.put((params, {}, source, single.TaskArrays(
          (), np.arange(2, dtype=np.int32)), state)),
      parallel.split_batch(index))
  mean = parallel.local(after).stats['BatchNorm_0']['mean']
  np.testing.assert_allclose(mean, (1 - .9 ** 3) * X.mean(0), rtol=1e-3,
                             atol=1e-6)
  assert np.shape(parallel.to_host(metrics).loss) == (3,)


class Counted(nn.Module):
  """Two collections, and something said of one call alone."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.BatchNorm(use_running_average=not train, momentum=.9)(x)
    steps = self.variable('counts', 'steps', jnp.zeros, ())
    if train:
      steps.value += 1.
    self.sow('intermediates', 'normed', x)
    return nn.Dense(2)(x) * (1. + steps.value)


def test_two_collections_are_the_tasks_own():
  network = models.from_linen(Counted())
  params, stats = init(network)
  assert sorted(trees.flatten(params)) == [
      'BatchNorm_0/bias', 'BatchNorm_0/scale', 'Dense_0/bias', 'Dense_0/kernel']
  assert sorted(trees.flatten(stats)) == [
      'collection_batch_stats/BatchNorm_0/mean',
      'collection_batch_stats/BatchNorm_0/var', 'collection_counts/steps']
  own = {'params': params, 'batch_stats': stats['collection_batch_stats'],
         'counts': stats['collection_counts']}
  logits, after = network.apply(params, stats, X, train=True)
  wanted, changed = Counted().apply(own, X, train=True, mutable=[
      'batch_stats', 'counts'])
  np.testing.assert_allclose(logits, wanted, rtol=1e-6)
  np.testing.assert_array_equal(after['collection_counts']['steps'], 1.)
  assert trees.fingerprint(after['collection_batch_stats']) == (
      trees.fingerprint(changed['batch_stats']))
  logits, same = network.apply(params, after, X, train=False)
  np.testing.assert_allclose(logits, Counted().apply({
      'params': params, 'batch_stats': after['collection_batch_stats'],
      'counts': after['collection_counts']}, X), rtol=1e-6)
  assert trees.fingerprint(same) == trees.fingerprint(after)
  state, _ = train_step(network, 4)
  assert float(state.stats['collection_counts']['steps']) == 4.


@pytest.mark.parametrize('module, text', [
    (lambda: Empty(), 'Empty has no parameters: there is nothing that a task'),
    (3, 'from_linen takes a Linen module or a function .*, not a int')])
def test_what_is_no_network(module, text):
  with pytest.raises(ValueError, match=text):
    init(models.from_linen(module))


class Empty(nn.Module):

  @nn.compact
  def __call__(self, x):
    return x


# Plain functions.


def test_plain_functions_are_a_network():
  shapes = []

  def make(key, shape):
    shapes.append(shape)
    return {'w': jax.random.normal(key, (*shape, 2)), 'b': jnp.zeros(2)}
  network = models.from_functions(
      make, lambda params, x: x @ params['w'] + params['b'][None])
  params, stats = network.init(KEY, [3])
  assert shapes == [(3,)] and stats == {} and not network.random
  for train in (True, False):
    logits, after = network.apply(params, stats, X, train=train, axis_name='d')
    np.testing.assert_allclose(logits, X @ params['w'], rtol=1e-5)
    assert after == {}
  _, losses = train_step(network, 20)
  assert losses[-1] < losses[0]
