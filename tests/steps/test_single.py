"""One training step and one evaluation, against NumPy and published rules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import methods
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.data import batches
from mtl_jax.steps import optimizers
from mtl_jax.steps import single

RANDOM = np.random.RandomState(0)
NORMALISE = ('normalise',)


def recipe(**options):
  return optimizers.Recipe(**({'steps': 10, 'batch_size': 4} | options))


def images(n, shape=(2, 2, 1)):
  return RANDOM.randint(0, 256, (n, *shape)).astype(np.uint8)


def task_arrays(label_map, channels=1):
  full = lambda value: np.full(channels, value, np.float32)
  return single.TaskArrays(({'mean': full(128.), 'std': full(64.)},),
                          np.array(label_map, np.int32))


def apply_fn(params, stats, x, train=False, axis_name=None):
  """Two dense layers; `stats` counts the training batches."""
  del axis_name
  hidden = jax.nn.relu(x.reshape(x.shape[0], -1) @ params['a'])
  if stats:
    stats = {'seen': stats['seen'] + 1} if train else stats
  return hidden @ params['b'], stats


TINY = models.Network(lambda key, shape: None, apply_fn)
BACKBONE = {'a': RANDOM.randn(4, 5).astype(np.float32),
            'b': RANDOM.randn(5, 3).astype(np.float32)}


def softmax(x):
  e = np.exp(x - x.max(1, keepdims=True))
  return e / e.sum(1, keepdims=True)


# One step.


def test_a_step_is_gradient_descent_on_the_scores():
  """Everything in NumPy: forward, loss, and dL/dscore = dL/dW_eff * W."""
  scores = {name: RANDOM.randn(*w.shape).astype(np.float32)
            for name, w in BACKBONE.items()}
  method = methods.make('supsup', masked=['.*'])
  optimizer = optimizers.make_optimizer(recipe(
      optimizer='sgd', learning_rate=.5))
  route = methods.Route(3)
  state = single.State(np.int32(7), scores, optimizer.init(scores),
                      {'seen': np.int32(2)}, jax.random.key(0))
  x = RANDOM.randn(6, 2, 2, 1).astype(np.float32)
  y = np.array([0, 1, 2, 2, 1, 0])
  after, metrics = jax.jit(
      single.make_step(method, TINY, optimizer), static_argnums=0)(
          route, BACKBONE, {}, state, (x, y))

  a, b = ((BACKBONE[n] * (scores[n] >= 0)).astype(np.float64) for n in 'ab')
  flat = x.reshape(6, 4)
  hidden = np.maximum(flat @ a, 0)
  p = softmax(hidden @ b)
  d_logits = (p - np.eye(3)[y]) / 6
  d_a = flat.T @ ((d_logits @ b.T) * (hidden > 0))
  expected = {'a': scores['a'] - .5 * d_a * BACKBONE['a'],
              'b': scores['b'] - .5 * hidden.T @ d_logits * BACKBONE['b']}
  np.testing.assert_allclose(metrics.loss, -np.log(p[range(6), y]).mean(),
                             rtol=1e-5)
  np.testing.assert_allclose(metrics.accuracy, (p.argmax(1) == y).mean())
  for name, value in expected.items():
    np.testing.assert_allclose(after.trainable[name], value, rtol=1e-4,
                               atol=1e-5)
  assert int(after.step) == 8 and int(after.stats['seen']) == 3
  assert jnp.array_equal(jax.random.key_data(after.key),
                         jax.random.key_data(state.key))


def golden_problem():
  network = models.make('lenet_300_100', 10)
  random = np.random.RandomState(1)
  widths = (64, 300, 100, 10)
  backbone = {f'Dense_{i}': {'kernel': np.where(
      random.rand(*s) < .5, 1, -1).astype(np.float32) * np.float32(
          np.sqrt(2 / s[0]))} for i, s in enumerate(zip(widths, widths[1:]))}
  scores = jax.tree.map(
      lambda w: random.uniform(-.1, .1, w.shape).astype(np.float32), backbone)
  source = single.Source(random.randint(0, 256, (64, 8, 8, 1)).astype(np.uint8),
                        random.randint(0, 10, 64).astype(np.int32))
  return network, backbone, scores, source


def test_golden_training_steps():
  """Numbers of the same two steps of RMSProp in NumPy, in float64."""
  network, backbone, scores, source = golden_problem()
  optimizer = optimizers.make_optimizer(recipe(learning_rate=1e-3))
  chunk = single.make_chunk(single.make_step(methods.make('supsup'), network,
                                           optimizer))
  state = single.State(np.int32(0), scores, optimizer.init(scores), {},
                      jax.random.key(0))
  state, metrics = jax.jit(chunk, static_argnums=0)(
      methods.Route(10, (NORMALISE,)), backbone, {}, source,
      task_arrays(range(10)), state, np.arange(32).reshape(2, 16))
  np.testing.assert_allclose(metrics.loss, [2.575049, 2.263273], rtol=1e-5)
  np.testing.assert_allclose(
      state.trainable['Dense_2']['kernel'][:2, :3],
      [[.042249, .038845, -.068120], [-.006013, .034198, -.007377]], atol=2e-5)
  moved = jax.tree.map(lambda a, b: jnp.sum(jnp.abs(a - b)), state.trainable,
                       scores)
  np.testing.assert_allclose([moved[f'Dense_{i}']['kernel'] for i in range(3)],
                             [190.241, 299.796, 11.2730], rtol=1e-3)


def test_a_chunk_is_its_steps_one_after_another():
  optimizer = optimizers.make_optimizer(recipe(optimizer='adam'))
  method = methods.make('supsup', masked=['.*'])
  source = single.Source(images(20), RANDOM.randint(0, 3, 20).astype(np.int32))
  task = task_arrays(range(3))
  task = task._replace(transforms=({}, *task.transforms))
  route = methods.Route(3, (('crop_flip', 1), NORMALISE))
  scores = jax.tree.map(np.negative, BACKBONE)
  start = single.State(np.int32(5), scores, optimizer.init(scores), {},
                      jax.random.key(3))
  index = np.arange(12).reshape(3, 4)
  chunk = jax.jit(single.make_chunk(single.make_step(method, TINY, optimizer)),
                  static_argnums=0)
  together, losses = chunk(route, BACKBONE, {}, source, task, start, index)
  state = start
  for i in range(3):  # the key follows the step, not the place in the chunk
    state, measured = chunk(route, BACKBONE, {}, source, task, state,
                            index[i:i + 1])
    np.testing.assert_allclose(measured.loss[0], losses.loss[i], rtol=1e-5)
  np.testing.assert_allclose(state.trainable['a'], together.trainable['a'],
                             atol=1e-6)
  assert int(together.step) == int(state.step) == 8


def test_init_state_starts_at_zero_with_a_key_of_its_own():
  optimizer = optimizers.make_optimizer(recipe())
  method = methods.make('supsup', masked=['.*'])
  route = methods.Route(3)
  key = jax.random.key(4)
  state = single.init_state(method, optimizer, key, BACKBONE, {}, {'s': 1},
                           route)
  assert int(state.step) == 0 and state.stats == {'s': 1}
  assert trees.fingerprint(state.trainable) == trees.fingerprint(
      method.init(key, BACKBONE, {}, route))
  assert not jnp.array_equal(jax.random.key_data(state.key),
                             jax.random.key_data(key))


# Batches.


def test_a_batch_is_mapped_and_transformed():
  source = single.Source(np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1),
                        np.array([2, 0, 2], np.int32))
  route = methods.Route(2, (NORMALISE,))
  x, y = single.make_batch(route, source, task_arrays([1, -1, 0]), None,
                          np.array([2, 1]), True)
  np.testing.assert_array_equal(y, [0, 1])
  np.testing.assert_allclose(
      np.ravel(x), (np.array([8, 9, 10, 11, 4, 5, 6, 7]) - 128) / 64)


def test_augmentation_depends_on_key_and_place_and_training():
  source = single.Source(np.repeat(images(1, (6, 6, 1)), 8, axis=0),
                        np.zeros(8, np.int32))
  route = methods.Route(2, (('crop_flip', 2), NORMALISE))
  task = task_arrays([0])
  task = task._replace(transforms=({}, *task.transforms))
  batch = lambda seed, train: np.asarray(single.make_batch(
      route, source, task, jax.random.key(seed), np.arange(8), train)[0])
  drawn = batch(0, True)
  assert len({image.tobytes() for image in drawn}) > 4  # each its own
  np.testing.assert_array_equal(drawn, batch(0, True))
  assert np.any(drawn != batch(1, True))
  assert len({image.tobytes() for image in batch(0, False)}) == 1


def test_evaluate_is_numpys_with_padding_and_foreign_rows():
  """Row 0, which padding stands for, belongs to another task's class."""
  source = single.Source(images(11), np.array([4, 3, 1, 0, 3, 1, 1, 3, 0, 3, 4],
                                             np.int32))
  label_map = [-1, 1, -1, 0, -1]  # classes 3 and 1 become 0 and 1
  rows = np.flatnonzero(np.isin(source.labels, (1, 3)))
  task = task_arrays(label_map)
  route = methods.Route(2, (NORMALISE,))
  evaluate = jax.jit(single.make_evaluate(TINY), static_argnums=0)
  loss, right = evaluate(route, BACKBONE, {}, source, task,
                         batches.padded(rows, 4))

  x = (source.images[rows].reshape(len(rows), 4).astype(np.float64) - 128) / 64
  logits = np.maximum(x @ BACKBONE['a'], 0) @ BACKBONE['b']
  y = np.array(label_map)[source.labels[rows]]
  np.testing.assert_allclose(
      loss, -np.log(softmax(logits)[range(len(y)), y]).sum(), rtol=1e-5)
  # Two classes of three outputs: the third can't be predicted.
  assert int(right) == (logits[:, :2].argmax(1) == y).sum()
  assert int(right) != (logits.argmax(1) == y).sum()


# Optimizers: PyTorch's rules, written out.


def torch_rmsprop(w, g, lr):
  v = 0.
  for gradient in g:
    v = .99 * v + .01 * gradient ** 2
    w = w - lr * gradient / (np.sqrt(v) + 1e-8)
  return w


def torch_sgd(w, g, lr, momentum):
  buffer = 0.
  for gradient in g:
    buffer = momentum * buffer + gradient
    w = w - lr * buffer
  return w


def torch_adam(w, g, lr, decay):
  m = v = 0.
  for t, gradient in enumerate(g, 1):
    gradient = gradient + decay * w
    m, v = .9 * m + .1 * gradient, .999 * v + .001 * gradient ** 2
    w = w - lr * (m / (1 - .9 ** t)) / (np.sqrt(v / (1 - .999 ** t)) + 1e-8)
  return w


@pytest.mark.parametrize('options, rule', [
    (dict(optimizer='rmsprop', learning_rate=.1),
     lambda w, g: torch_rmsprop(w, g, .1)),
    (dict(optimizer='sgd', learning_rate=.1),
     lambda w, g: torch_sgd(w, g, .1, 0.)),
    (dict(optimizer='sgd', learning_rate=.1, momentum=.9),
     lambda w, g: torch_sgd(w, g, .1, .9)),
    (dict(optimizer='adam', learning_rate=.1),
     lambda w, g: torch_adam(w, g, .1, 0.)),
    (dict(optimizer='adam', learning_rate=.1, weight_decay=.3),
     lambda w, g: torch_adam(w, g, .1, .3))])
def test_updates_are_pytorchs(options, rule):
  w = np.array([1., -2., 3., 4., 5.])
  # The fourth gradient is about as small as RMSProp's eps.
  g = np.array([[.5, -1., 0., 2e-8, 1e3], [.25, 2., 0., -1e-8, -1e3],
                [-4., .5, 1., 3e-8, 1.]])
  optimizer = optimizers.make_optimizer(recipe(**options))
  params = jnp.asarray(w, jnp.float32)
  state = optimizer.init(params)
  for gradient in g:
    updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32),
                                      state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(params, rule(w, g), rtol=2e-6)


def test_cosine_falls_to_zero_over_the_steps():
  optimizer = optimizers.make_optimizer(recipe(
      steps=4, optimizer='sgd', learning_rate=2., schedule='cosine'))
  params = jnp.zeros(())
  state = optimizer.init(params)
  rates = []
  for _ in range(6):
    updates, state = optimizer.update(jnp.ones(()), state, params)
    rates.append(-float(updates))
  expected = [1 + np.cos(np.pi * t / 4) for t in range(4)] + [0., 0.]
  np.testing.assert_allclose(rates, expected, atol=1e-6)


def test_milestones_of_one_step_halve_twice():
  schedule = optimizers.make_schedule(recipe(
      steps=4, learning_rate=1., schedule='halved', milestones=(.5, .6)))
  assert [float(schedule(step)) for step in range(5)] == [1, 1, .25, .25, .25]


@pytest.mark.parametrize('options, message', [
    (dict(optimizer='rmsprob'), r"unknown optimizer 'rmsprob' \(did you mean"),
    (dict(schedule='cosin'), r"unknown schedule 'cosin' \(did you mean: cosi"),
    (dict(steps=0), 'steps is 0; it must be above 0'),
    (dict(batch_size=-1), 'batch_size is -1; it must be above 0'),
    (dict(learning_rate=float('nan')), 'learning_rate is nan'),
])
def test_bad_recipes_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    optimizers.make_optimizer(recipe(**options))
