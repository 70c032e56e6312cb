"""The ViT equals Flax's own layers, and reads its structure from its tree."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from mtl_jax import models
from mtl_jax import trees
from mtl_jax.models import augreg
from mtl_jax.models import pretrained
from mtl_jax.models import vit

SHAPE = (8, 8, 3)
TINY = dict(num_layers=2, patch=4, width=16, hidden=24, heads=2)


def tiny(outputs=5, **changes):
  return models.make('vit_ti', outputs, **(TINY | changes))


def params_of(network, seed=0, noise=0.):
  params, stats = network.init(jax.random.key(seed), SHAPE)
  assert stats == {}
  random = np.random.RandomState(seed)
  return jax.tree.map(lambda x: np.asarray(x) + noise * random.randn(
      *x.shape).astype(np.float32), params)


def images(count=3):
  return np.random.RandomState(1).randn(count, *SHAPE).astype(np.float32)


class Block(nn.Module):
  """The official encoder block, in Flax's own layers."""

  @nn.compact
  def __call__(self, x):
    y = nn.LayerNorm(name='LayerNorm_0')(x)
    x = x + nn.MultiHeadDotProductAttention(
        2, name='MultiHeadDotProductAttention_1')(y, y)
    y = nn.LayerNorm(name='LayerNorm_2')(x)
    return x + Mlp(name='MlpBlock_3')(y)


class Mlp(nn.Module):

  @nn.compact
  def __call__(self, y):
    y = nn.gelu(nn.Dense(24, name='Dense_0')(y))
    return nn.Dense(16, name='Dense_1')(y)


class Vit(nn.Module):
  """A reference with two blocks."""

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(16, (4, 4), (4, 4), 'VALID', name='embedding')(x)
    x = x.reshape(len(x), -1, 16)
    token = self.param('cls', nn.initializers.zeros, (1, 1, 16))
    x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], 1)
    x = x + self.param('pos_embedding', nn.initializers.zeros, (1, 5, 16))
    for i in range(2):
      x = Block(name=f'encoderblock_{i}')(x)
    x = nn.LayerNorm(name='encoder_norm')(x)
    return nn.Dense(5, name='head')(x[:, 0])


def test_equal_to_flax():
  params = params_of(tiny(), noise=.3)
  own = dict(params, pos_embedding=params['posembed_input']['pos_embedding'])
  del own['posembed_input']
  with jax.numpy_rank_promotion('allow'):
    wanted = Vit().apply({'params': own}, images())
  found, _ = tiny().apply(params, {}, images())
  assert np.abs(wanted).max() > 1
  np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize('name, layers, side, weights', [
    ('vit_l', 24, 224, 303_303_682),  # the official constants of mu2Net
    ('vit_b', 12, 32, 85_652_738),
    ('vit_ti', 3, 32, 1_484_162),
    ('vit_l', 24, 384, 303_692_802),
    ('vit_s', 0, 224, 372_866)])
def test_published_parameter_counts(name, layers, side, weights):
  network = models.make(name, 2, num_layers=layers)
  params, _ = jax.eval_shape(
      lambda key: network.init(key, (side, side, 3)), jax.random.key(0))
  assert trees.size(params) == weights


@pytest.mark.parametrize('width, size, expected', [
    (1024, 8, 19_464), (1024, 128, 265_344), (192, 8, 3_656),
    (192, 32, 12_896), (192, 64, 25_216)])
def test_published_adapter_sizes(width, size, expected):
  adapter = vit.create('residual_adapter_3', vit.Sizes(width, 8, 1, 0), 2,
                       size, jax.random.key(0))
  assert trees.size(adapter) == expected


def test_a_new_head_says_nothing():
  logits, _ = tiny().apply(params_of(tiny()), {}, images())
  assert logits.shape == (3, 5) and not np.any(logits)


def test_inserting_an_adapter_leaves_logits_unchanged():
  network, params = tiny(), params_of(tiny(), noise=.3)
  before, _ = network.apply(params, {}, images())
  for name in vit.adapters(2):
    params[name] = network.parts.create(name, 5, 8, jax.random.key(1))
  after, _ = network.apply(params, {}, images())
  np.testing.assert_array_equal(before, after)
  params['residual_adapter_1']['Dense_1']['kernel'] += np.random.randn(8, 16)
  changed, _ = network.apply(params, {}, images())
  assert np.abs(changed - before).max() > 1e-3


def test_new_components_draw_from_keys_of_their_own():
  create = lambda name, seed: trees.fingerprint(tiny().parts.create(
      name, 5, 8, jax.random.key(seed)))
  found = [create(name, seed) for seed in (0, 1) for name in (
      'encoderblock_0', 'encoderblock_1', 'residual_adapter_0',
      'residual_adapter_1')]
  assert len(set(found)) == 8
  root = params_of(tiny())
  again = tiny().parts.create('encoderblock_1', 5, 8, jax.random.key(0))
  for a, b in zip(jax.tree.leaves(root['encoderblock_1']),
                  jax.tree.leaves(again)):
    np.testing.assert_allclose(a, b, rtol=1e-5)
  with pytest.raises(ValueError, match='cls cannot be made anew'):
    create('cls', 0)


def test_gates_give_the_network_without_the_component():
  network, params = tiny(), params_of(tiny(), noise=.3)
  params['residual_adapter_1'] = jax.tree.map(
      lambda x: x + .1, network.parts.create('residual_adapter_1', 5, 4,
                                             jax.random.key(1)))
  gated = jax.jit(lambda active: network.parts.apply(params, images(), active))
  for off in ((), ('encoderblock_1',), ('residual_adapter_1',),
              ('encoderblock_0', 'encoderblock_1', 'residual_adapter_1')):
    active = {name: np.array(name not in off) for name in params
              if name.startswith(('encoderblock', 'residual'))}
    # Without the lower block the upper one would have another name.
    kept = {name: tree for name, tree in params.items() if name not in off}
    wanted, _ = network.apply(kept, {}, images())
    np.testing.assert_allclose(gated(active), wanted, rtol=1e-5, atol=1e-5)


def test_padding_an_adapter_with_zeros_changes_nothing():
  network, params = tiny(), params_of(tiny(), noise=.3)
  narrow = jax.tree.map(lambda x: x + .1, network.parts.create(
      'residual_adapter_0', 5, 4, jax.random.key(1)))
  wide = {'LayerNorm_0': narrow['LayerNorm_0'], 'Dense_0': {
      'kernel': jnp.pad(narrow['Dense_0']['kernel'], ((0, 0), (0, 3))),
      'bias': jnp.pad(narrow['Dense_0']['bias'], (0, 3))}, 'Dense_1': {
          'kernel': jnp.pad(narrow['Dense_1']['kernel'], ((0, 3), (0, 0))),
          'bias': narrow['Dense_1']['bias']}}

  def loss(adapter):
    tree = dict(params, residual_adapter_0=adapter)
    return jnp.sum(network.apply(tree, {}, images())[0] ** 2)
  values = [jax.value_and_grad(loss)(adapter) for adapter in (narrow, wide)]
  np.testing.assert_allclose(values[0][0], values[1][0], rtol=1e-5)
  gradient = values[1][1]
  assert not np.any(gradient['Dense_0']['kernel'][:, 4:])
  assert not np.any(gradient['Dense_0']['bias'][4:])
  assert not np.any(gradient['Dense_1']['kernel'][4:])
  assert np.all(gradient['Dense_0']['bias'][:4])


def test_operations_are_counted_without_compiling():
  count = lambda params: tiny().parts.flops(params, SHAPE)
  params = params_of(tiny())
  block = trees.size({k: v for k, v in params['encoderblock_1'].items()})
  shallow = {k: v for k, v in params.items() if k != 'encoderblock_1'}
  # Five tokens, a multiplication and an addition a weight, and attention.
  assert 10 * block < count(params) - count(shallow) < 25 * block


def test_operations_are_counted_for_the_cpu_whatever_computes(monkeypatch):
  placed, original = [], vit.apply

  def apply(*args):
    placed.append(jax.config.jax_default_device)
    return original(*args)
  monkeypatch.setattr(vit, 'apply', apply)
  params = params_of(tiny(width=24))
  assert tiny().parts.flops(params, SHAPE) > 0
  assert [device.platform for device in placed] == ['cpu']


@pytest.mark.parametrize('changes, text', [
    (dict(heads=3), 'width 16 is not a multiple of 3 heads'),
    (dict(num_layers=-1), 'num_layers of vit_ti is -1; it must be at'),
    (dict(patch=5), 'images 8 x 8 do not divide into patches of 5')])
def test_bad_sizes_are_refused(changes, text):
  with pytest.raises(ValueError, match=text):
    params_of(tiny(**changes))


# AugReg files.


def official(params):
  """Arrays with the names of the official files, and what they have more."""
  inner = ('posembed_input', 'encoder')
  return {f'{"Transformer/" if name.startswith(inner) else ""}{name}': leaf
          for name, leaf in trees.flatten(params).items()} | {
              'pre_logits/kernel': np.ones((16, 16)),
              'pre_logits/bias': np.ones(16)}


def root_of(arrays, shape=SHAPE, **changes):
  """The root that a file's arrays make."""
  network = tiny(**changes)
  params, stats = network.init(jax.random.key(0), shape)
  flat = pretrained.fill('a.npz', arrays, pretrained.leaves(params, stats),
                         None, (), network.published, None, shape)
  return pretrained.split(flat, params, stats)[0]


def test_official_names_and_what_the_loader_changes():
  params = params_of(tiny(outputs=7), noise=.3)
  arrays = official(params)
  assert 'Transformer/posembed_input/pos_embedding' in arrays
  assert ('Transformer/encoderblock_1/MultiHeadDotProductAttention_1/query/'
          'kernel') in arrays
  assert {'cls', 'embedding/kernel', 'head/bias'} < set(arrays)
  # The leaves' own paths, as `export_network` writes them, do as well.
  for given in (arrays, trees.flatten(params)):
    root = root_of(given, num_layers=1)
    assert sorted(root) == sorted(set(params) - {'encoderblock_1'})
    assert not np.any(root['head']['kernel']) and root['head'][
        'kernel'].shape == (16, 5)
    for name in set(root) - {'head'}:
      assert trees.fingerprint(root[name]) == trees.fingerprint(params[name])


def test_position_embedding_is_resized_when_loaded():
  arrays = official(params_of(tiny(), noise=.3))
  found = root_of(arrays, (12, 16, 3))['posembed_input']['pos_embedding']
  old = arrays['Transformer/posembed_input/pos_embedding']
  assert found.shape == (1, 1 + 3 * 4, 16)
  np.testing.assert_array_equal(found[0, 0], old[0, 0])
  np.testing.assert_allclose(found[0, 1], old[0, 1], rtol=1e-6)
  np.testing.assert_allclose(found[0, -1], old[0, -1], rtol=1e-6)


@pytest.mark.parametrize('old, new', [(14, 24), (14, 2), (2, 14), (3, 3),
                                      (1, 2)])
def test_resizing_is_the_official_zoom(old, new):
  embedding = np.random.RandomState(0).randn(1, 1 + old * old, 4).astype(
      np.float32)
  grid = embedding[0, 1:].reshape(old, old, 4)
  zoomed = ndimage.zoom(grid, (new / old, new / old, 1), order=1)
  found = augreg.resize(embedding, (new, new))
  np.testing.assert_array_equal(found[0, 0], embedding[0, 0])
  if old > 1:  # SciPy gives zeros beyond a single point
    np.testing.assert_allclose(found[0, 1:].reshape(new, new, 4), zoomed,
                               rtol=1e-5, atol=1e-5)
  else:
    np.testing.assert_array_equal(found[0, 1:], np.repeat(embedding[0, 1:], 4,
                                                          0))


def test_other_files_are_refused():
  arrays = official(params_of(tiny()))
  with pytest.raises(ValueError, match='a.npz fills no encoderblock_2/'):
    root_of(arrays, num_layers=3)
  with pytest.raises(ValueError, match='embedding/kernel of a.npz has shape '
                                       r'\(4, 4, 3, 16\), but .*\(4, 4, 1, 16'):
    root_of(arrays, (8, 8, 1))
  with pytest.raises(ValueError, match='arrays that no leaf takes: a. Give'):
    root_of(arrays | {'a': np.zeros(3)})
