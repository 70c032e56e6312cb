"""Sizes of the networks, and norm statistics that belong to the task."""


import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import models
from mtl_jax import trees

SEED = jax.random.key(0)


def shapes(name, outputs, image_shape, **options):
  network = models.make(name, outputs, **options)
  return jax.eval_shape(lambda key: network.init(key, image_shape), SEED)


@pytest.mark.parametrize('name, outputs, image_shape, kernels, weights', [
    ('lenet_300_100', 10, (28, 28, 1), 3, 266_200),
    ('fc1024', 10, (28, 28, 1), 3, 1_861_632),
    ('gem_resnet18', 5, (32, 32, 3), 21, 1_090_940)])
def test_sizes(name, outputs, image_shape, kernels, weights):
  params, _ = shapes(name, outputs, image_shape)
  assert trees.size(params) == weights
  names = list(trees.flatten(params))
  assert len(names) == kernels
  assert all(n.endswith('/kernel') for n in names)  # no bias, no scale
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}


def test_resnet_keeps_3000_floats_of_statistics():
  params, stats = shapes('gem_resnet18', 5, (32, 32, 3))
  # A mean and a variance per channel of every norm: 2 x (20 + 4 x 20 + 5 x
  # (40 + 80 + 160)) = 3000.
  assert trees.size(stats) == 3000
  assert {name.split('/')[-1] for name in trees.flatten(stats)} == {'mean',
                                                                    'var'}
  convolutions = len(trees.flatten(params)) - 1
  assert len(trees.flatten(stats)) == 2 * convolutions


def test_bnnet_has_two_scales_to_mask():
  params, stats = shapes('bnnet', 10, (28, 28, 1))
  assert {name: leaf.shape for name, leaf in trees.flatten(params).items()} == {
      'hidden1/kernel': (784, 2048), 'hidden1_norm/scale': (2048,),
      'hidden2/kernel': (2048, 2048), 'hidden2_norm/scale': (2048,),
      'classifier/kernel': (2048, 10)}
  assert trees.size(stats) == 2 * 2 * 2048
  like = trees.select(params, [('.*/scale', True)])
  assert trees.size(trees.partition(params, like)[0]) == 4096
  made, _ = models.make('bnnet', 2, width=3).init(SEED, (2, 2, 1))
  np.testing.assert_array_equal(made['hidden1_norm']['scale'], np.ones(3))


def swish(x):
  return x / (1 + np.exp(-x))


@pytest.mark.parametrize('train', [True, False])
def test_bnnet_by_hand(train):
  network = models.make('bnnet', 2, width=3)
  random = np.random.RandomState(0)
  draw = lambda *shape: random.randn(*shape).astype(np.float32)
  params = {'hidden1': {'kernel': draw(4, 3)},
            'hidden1_norm': {'scale': np.array([1., 0., 1.], np.float32)},
            'hidden2': {'kernel': draw(3, 3)},
            'hidden2_norm': {'scale': np.array([0., 1., 1.], np.float32)},
            'classifier': {'kernel': draw(3, 2)}}
  stats = {f'{layer}_norm': {'mean': draw(3), 'var': draw(3) ** 2}
           for layer in ('hidden1', 'hidden2')}
  images = draw(5, 2, 2, 1)
  x, means = images.reshape(5, 4), {}
  for layer in ('hidden1', 'hidden2'):
    x = x @ params[layer]['kernel']
    norm = stats[f'{layer}_norm']
    mean, var = norm['mean'], norm['var']
    if train:
      mean, var = x.mean(0), x.var(0)
    means[layer] = .9 * norm['mean'] + .1 * mean if train else mean
    x = swish((x - mean) / np.sqrt(var + 1e-5)
              * params[f'{layer}_norm']['scale'])
  logits, after = network.apply(params, stats, images, train=train)
  np.testing.assert_allclose(logits, x @ params['classifier']['kernel'],
                             rtol=1e-4, atol=1e-5)
  for layer, mean in means.items():
    np.testing.assert_allclose(after[f'{layer}_norm']['mean'], mean,
                               rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['lenet_300_100', 'fc1024'])
def test_dense_networks_have_no_statistics(name):
  assert shapes(name, 3, (4, 4, 1))[1] == {}


def test_dense_network_by_hand():
  network = models.make('lenet_300_100', 2)
  params = {'Dense_0': {'kernel': np.zeros((4, 300), np.float32)},
            'Dense_1': {'kernel': np.zeros((300, 100), np.float32)},
            'Dense_2': {'kernel': np.zeros((100, 2), np.float32)}}
  params['Dense_0']['kernel'][:, 7] = [1., 2., 3., 4.]
  params['Dense_0']['kernel'][:, 8] = -1.  # cut by ReLU
  params['Dense_1']['kernel'][7, 3] = .5
  params['Dense_1']['kernel'][8, 3] = 1e3
  params['Dense_2']['kernel'][3] = [2., -2.]
  image = np.array([1., 10., 100., 1000.], np.float32).reshape(1, 2, 2, 1)
  logits, stats = network.apply(params, {}, image, train=True)
  np.testing.assert_array_equal(logits, [[4321., -4321.]])
  assert stats == {}


class Normed(nn.Module):
  """One norm: mean and variance of the pixels themselves."""
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.BatchNorm(use_running_average=not train, momentum=.9, epsilon=0.,
                     use_scale=False, use_bias=False,
                     axis_name=self.axis_name if train else None)(x)
    return nn.Dense(1, use_bias=False)(x.reshape(x.shape[0], -1))


def test_statistics_change_in_training_alone_and_by_hand():
  network = models.from_linen(Normed)
  params = {'Dense_0': {'kernel': np.ones((1, 1), np.float32)}}
  stats = {'BatchNorm_0': {'mean': np.array([2.], np.float32),
                           'var': np.array([4.], np.float32)}}
  x = np.array([1., 5.], np.float32).reshape(2, 1, 1, 1)  # mean 3, variance 4
  kept = trees.fingerprint(stats)
  logits, after = network.apply(params, stats, x, train=False)
  np.testing.assert_allclose(logits, [[-.5], [1.5]], rtol=1e-6)
  assert trees.fingerprint(after) == kept
  logits, after = network.apply(params, stats, x, train=True)
  np.testing.assert_allclose(logits, [[-1.], [1.]], rtol=1e-6)
  np.testing.assert_allclose(after['BatchNorm_0']['mean'], [2.1], rtol=1e-6)
  np.testing.assert_allclose(after['BatchNorm_0']['var'], [4.], rtol=1e-6)
  assert trees.fingerprint(stats) == kept


def test_every_norm_of_the_resnet_reads_the_tasks_statistics():
  network = models.make('gem_resnet18', 2, width=2)
  params, stats = jax.eval_shape(
      lambda key: network.init(key, (8, 8, 3)), SEED)
  random = np.random.RandomState(0)
  params = jax.tree.map(
      lambda s: random.randn(*s.shape).astype(np.float32), params)
  stats = jax.tree.map(
      lambda s: .5 + random.rand(*s.shape).astype(np.float32), stats)
  x = random.randn(4, 8, 8, 3).astype(np.float32)

  def total(stats):
    logits, after = network.apply(params, stats, x, train=False)
    return jnp.sum(logits ** 2), after

  gradient, after = jax.jit(jax.grad(total, has_aux=True))(stats)
  assert trees.fingerprint(after) == trees.fingerprint(stats)
  for name, g in trees.flatten(gradient).items():
    assert np.any(g), f'{name} has no effect'


def test_unknown_models_and_options_are_refused():
  with pytest.raises(ValueError, match=(
      r"unknown model 'lenet_300' \(did you mean: lenet_300_100\?\); known: "
      'bnnet, .*fc1024, .*gem_resnet18, lenet_300_100')):
    models.make('lenet_300', 10)
  with pytest.raises(ValueError, match='model gem_resnet18.*widht'):
    models.make('gem_resnet18', 10, widht=4)


@pytest.mark.parametrize('name, shape, weights, options', [
    ('fully_connected', (28, 28, 1), 5_800_010, {}),
    ('convolutional', (28, 28, 1), 11_209_194, {}),
    # A stem of 13 x 784 weights and 784 biases for the Boston housing table.
    ('fully_connected', ((28, 28, 1), (13,)), 5_800_010 + 14 * 784, {}),
    # 10,000 words of 2 numbers, 128 in a row, 257 x 784 into the trunk.
    ('fully_connected', ((28, 28, 1), ('int32', 128)),
     5_800_010 + 20_000 + 257 * 784, {}),
    ('convolutional', ((28, 28, 1), (28, 28, 3)), 11_209_194 + 9 * 3 * 32 + 32,
     {})])
def test_sizes_of_the_networks_with_stems(name, shape, weights, options):
  params, stats = shapes(name, 10, shape, **options)
  assert trees.size(params) == weights and not stats


def test_an_input_goes_through_the_stem_of_its_shape():
  network = models.make('fully_connected', 4, widths=[6], inputs=16)
  params, _ = network.init(SEED, ((4, 4, 1), (5,), ('int32', 7)))
  assert sorted(params) == ['head', 'layer1', 'stem_5', 'stem_7']
  # The trunk is that of the first shape alone.
  alone, _ = network.init(SEED, (4, 4, 1))
  np.testing.assert_array_equal(params['layer1']['kernel'],
                                alone['layer1']['kernel'])
  for x, used in ((np.ones((2, 4, 4, 1), np.float32), None),
                  (np.ones((2, 5), np.float32), 'stem_5'),
                  (np.ones((2, 7), np.int32), 'stem_7')):
    before, _ = network.apply(params, {}, x)
    assert before.shape == (2, 4)
    for stem in ('stem_5', 'stem_7'):
      other = dict(params, **{stem: jax.tree.map(lambda w: w + 1,
                                                 params[stem])})
      changed = bool((network.apply(other, {}, x)[0] != before).any())
      assert changed == (stem == used)


def test_tokens_never_go_straight_in():
  """Sixteen words are no sixteen numbers, though the trunk takes as many."""
  network = models.make('fully_connected', 4, widths=[6], inputs=16)
  params, _ = network.init(SEED, ((4, 4, 1), ('int32', 16)))
  assert sorted(params) == ['head', 'layer1', 'stem_16']
  assert 'embedding' in params['stem_16']


def test_inputs_that_share_no_trunk_are_refused():
  network = models.make('convolutional', 4)
  with pytest.raises(ValueError, match=(
      r'layer5/kernel is \(2304, 256\) for inputs of shape \(8, 8, 1\) and '
      r'\(4096, 256\) for \(10, 10, 1\)')):
    jax.eval_shape(lambda key: network.init(key, ((8, 8, 1), (10, 10, 1))),
                   jax.random.key(0))


def test_the_convolutional_networks_norm_keeps_statistics_of_its_own():
  options = dict(channels=(2, 3), widths=(4,), stride=2)
  plain, normed = (models.make('convolutional', 3, norm=norm, **options)
                   for norm in (False, True))
  shape, key = (8, 8, 1), jax.random.key(0)
  (before, none), (params, stats) = (n.init(key, shape) for n in (plain,
                                                                 normed))
  assert none == {} and sorted(stats) == ['norm1', 'norm2', 'norm3', 'norm4']
  norms = {name: params[name] for name in stats}
  assert trees.digests({name: leaf for name, leaf in params.items()
                        if name not in norms}) == trees.digests(before)
  x = np.random.RandomState(0).rand(5, *shape).astype(np.float32)
  _, after = normed.apply(params, stats, x, train=True)
  assert trees.digests(after) != trees.digests(stats)
  logits, same = normed.apply(params, after, x)
  assert trees.digests(same) == trees.digests(after) and logits.shape == (5, 3)
