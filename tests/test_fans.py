"""Inputs and outputs of kernels, against what Flax's initialisers take."""

import dataclasses

import flax.linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import fans
from mtl_jax import masks
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.methods import base
from mtl_jax.serving import backbone as backbone_lib

KEY = jax.random.key(0)


def shapes_of(module, *shape):
  """The parameters of a Linen module as shapes."""
  return jax.eval_shape(module.init, KEY, jnp.ones(shape))['params']


class Scanned(nn.Module):
  layers: int
  bias: bool = True

  @nn.compact
  def __call__(self, x):
    body = nn.scan(lambda layer, x, _: (layer(x), None),
                   variable_axes={'params': 0}, split_rngs={'params': True},
                   length=self.layers)
    return body(nn.Dense(8, use_bias=self.bias, name='layer'), x, None)[0]


ATTENTION = {'query/kernel': 64, 'key/kernel': 64, 'value/kernel': 64,
             'out/kernel': 48}
CASES = {
    'attention': (nn.MultiHeadDotProductAttention(4, qkv_features=48),
                  (1, 5, 64), ATTENTION),
    'attention without biases': (
        nn.MultiHeadDotProductAttention(4, qkv_features=48, use_bias=False),
        (1, 5, 64), ATTENTION),
    'general': (nn.DenseGeneral((3, 4), axis=(-2, -1)), (1, 5, 6),
                {'kernel': 30}),
    'einsum': (nn.Einsum((6, 2, 5), '...d,dhk->...hk'),
               (1, 6), {'kernel': 6}),
    'groups': (nn.Conv(8, (3, 3), feature_group_count=2), (1, 9, 9, 4),
               {'kernel': 18}),
    'local': (nn.ConvLocal(7, (3,)), (1, 6, 5), {'kernel': 15}),
    'transposed': (nn.ConvTranspose(7, (3, 3), transpose_kernel=True),
                   (1, 9, 9, 5), {'kernel': 45}),
    'scanned': (Scanned(5), (1, 8), {'layer/kernel': 8}),
    # One reading or the other: the fan-in is the same.
    'as many layers as features': (Scanned(8), (1, 8), {'layer/kernel': 8}),
    'embedding': (nn.Embed(10, 4), None, {}),
    'norm over two axes': (nn.LayerNorm(feature_axes=(-2, -1)), (1, 4, 5), {}),
}


@pytest.mark.parametrize('name', CASES)
def test_fan_in_is_that_of_flax(name):
  module, shape, expected = CASES[name]
  params = (shapes_of(module, *shape) if shape else jax.eval_shape(
      module.init, KEY, jnp.ones((1,), jnp.int32))['params'])
  found = fans.fans(params)
  assert {n: fan.fan_in for n, fan in found.items() if fan} == expected
  made = trees.flatten(masks.signed_constant(KEY, jax.tree.map(
      lambda x: np.zeros(x.shape, np.float32), params)))
  scores = trees.flatten(base.kaiming_uniform(KEY, params))
  for leaf, array in made.items():
    c = np.sqrt(2 / expected[leaf]) if leaf in expected else 0.
    np.testing.assert_allclose(np.abs(array), c, rtol=1e-6)
    bound = expected[leaf] ** -.5 if leaf in expected else 0.
    largest = np.max(np.abs(scores[leaf]))
    assert (.6 * bound <= largest <= bound), leaf


def test_nnx_has_the_same_names():
  network = models.from_nnx(lambda rngs: nnx.MultiHeadAttention(
      4, 64, 48, rngs=rngs, decode=False))
  params = jax.eval_shape(lambda: network.init(KEY, (64,))[0])
  assert {n: fan.fan_in for n, fan in fans.fans(params).items()
          if fan} == ATTENTION


@pytest.mark.parametrize('make', [
    lambda rngs: nnx.MultiHeadAttention(4, 64, 48, rngs=rngs, decode=False),
    lambda rngs: nnx.LinearGeneral((3, 4), (5, 6), axis=(-2, -1), rngs=rngs),
    lambda rngs: nnx.ConvTranspose(4, 8, (3, 3), transpose_kernel=True,
                                   rngs=rngs),
    lambda rngs: nnx.Embed(10, 8, rngs=rngs)])
def test_variables_are_read_like_their_arrays(make):
  state = nnx.state(make(nnx.Rngs(0)), nnx.Param)
  plain, boxed = fans.fans(nnx.to_pure_dict(state)), fans.fans(state)
  assert boxed == {f'{name}/value': fan for name, fan in plain.items()}
  signs = trees.flatten(masks.signed_constant(KEY, state))
  assert all((fan is None) == np.array_equal(
      signs[name], trees.flatten(state)[name]) for name, fan in boxed.items())


def test_partitioned_parameters_are_read_like_their_arrays():
  module = nn.DenseGeneral((3, 4), kernel_init=nn.with_partitioning(
      nn.initializers.ones, ('in', 'out')))
  boxed = shapes_of(module, 1, 20)
  assert {n: fan.fan_in for n, fan in fans.fans(boxed).items() if fan} == {
      'kernel/value': 20}
  found = fans.fans(boxed, [('kernel/value', (1, 2))])['kernel/value']
  assert found.fan_in == 12


def test_an_attention_of_arrays_has_a_kernel_called_value():
  attention = jax.tree_util.register_dataclass(dataclasses.make_dataclass(
      'Attention', ['query', 'value']))
  arrays = {'bias': attention(np.zeros((8, 4)), np.zeros((8, 4)))}
  assert {n: fan.fan_in for n, fan in fans.fans(arrays).items()} == {
      'bias/query': 8, 'bias/value': 8}


def test_scores_of_kernels_alone_see_the_biases_of_the_backbone():
  """A mask names no bias, and the axes are still those of its kernel."""
  params = shapes_of(nn.DenseGeneral((3, 4)), 1, 20)
  like = params | {'bias': None}
  scores = base.kaiming_uniform(KEY, like, params)
  assert scores['bias'] is None
  assert .9 * 20 ** -.5 < np.max(np.abs(scores['kernel'])) <= 20 ** -.5


def test_budgets_of_attention_and_of_stacks_are_those_of_one_layer():
  attention = masks.erdos_renyi(jax.tree.map(
      lambda x: x if x.ndim > 2 else None,
      shapes_of(CASES['attention'][0], 1, 5, 64)), 2)
  assert attention['query']['kernel'] == pytest.approx(
      2 * (64 + 48) / (64 * 48))
  assert attention['out']['kernel'] == pytest.approx(2 * (64 + 48) / (64 * 48))
  stacked = {'kernel': np.zeros((7, 40, 50)), 'bias': np.zeros((7, 50))}
  fan = fans.fans(stacked)['kernel']
  assert fan == fans.Fan(40, 40, 50, 7)
  with pytest.raises(ValueError, match='bias has shape .* need a kernel'):
    masks.erdos_renyi(stacked, 2)


def test_rules_tell_what_does_not_follow_flax():
  like = {'stack': {'kernel': np.zeros((5, 8, 4), np.float32)},
          'prompt': np.ones((3, 4), np.float32)}
  rules = [('stack/.*', (1,)), ('prompt', None)]
  made = masks.signed_constant(KEY, like, rules)
  np.testing.assert_array_equal(np.abs(made['stack']['kernel']), .5)
  np.testing.assert_array_equal(made['prompt'], 1.)
  with pytest.raises(ValueError, match="pattern 'stak' matches no leaf"):
    fans.fans(like, [('stak', (0,))])
  with pytest.raises(ValueError, match=r'stack/kernel the input axes \(3,\), '
                     r'but its shape is \(5, 8, 4\); give axes from 0 to 2'):
    fans.fans(like, [('stack/kernel', (3,))])


def recipe(model, **options):
  return {'model': model, 'outputs': 3, 'options': options, 'seed': 1,
          'init': 'signed_constant', 'image_shape': (8, 8, 1)}


def test_a_networks_own_rules_reach_its_backbone():
  def factory(outputs):
    del outputs
    return models.from_functions(
        lambda key, shape: {'stack': jnp.zeros((5, 8, 4)),
                            'prompt': jnp.ones((3, 4))},
        lambda params, x: x, [('stack', (1,)), ('prompt', None)])
  models.register('stacked_for_a_test', factory)
  params = backbone_lib.make(recipe('stacked_for_a_test')).params
  np.testing.assert_array_equal(np.abs(params['stack']), .5)
  np.testing.assert_array_equal(params['prompt'], 1.)


def test_a_vits_biases_and_positions_are_its_own():
  params = backbone_lib.make(recipe('vit_ti', num_layers=1, patch=4, width=12,
                                    hidden=8, heads=3)).params
  flat = trees.flatten(params)
  block = 'encoderblock_0/MultiHeadDotProductAttention_1'
  np.testing.assert_array_equal(flat[f'{block}/query/bias'], 0.)
  np.testing.assert_allclose(np.abs(flat[f'{block}/query/kernel']),
                             (2 / 12) ** .5, rtol=1e-6)
  assert len(np.unique(flat['posembed_input/pos_embedding'])) > 20
  np.testing.assert_array_equal(flat['cls'], 0.)


@pytest.mark.parametrize('model, option', [
    ('part_resnet', {'noise': .1}),
    ('fully_connected', {'scale': .05})])
def test_an_option_that_the_init_replaces_is_refused(model, option):
  """And either remedy is taken."""
  (name, value), = option.items()
  with pytest.raises(ValueError, match=(
      f"option {name}={value!r} of {model} .*'signed_constant' replaces .*"
      f"set init='default' .*, or leave {name} out")):
    models.check_init(model, 'signed_constant', option)
  models.check_init(model, 'default', option)
  models.check_init(model, 'signed_constant', {})
  with pytest.raises(ValueError, match="set init='default'"):
    backbone_lib.make(recipe(model, **option))
