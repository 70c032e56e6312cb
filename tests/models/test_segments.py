"""Networks of parallel modules: sizes, equal forms, weights from a file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import models
from mtl_jax import trees
from mtl_jax.methods import path_sampling
from mtl_jax.models import part
from mtl_jax.models import pretrained
from mtl_jax.models import segments

SEED = jax.random.key(0)
SMALL = dict(heads=(3, 2), modules=4, active=2, width=2)


def sizes(name, outputs, **options):
  network = models.make(name, outputs, **options)
  params, _ = jax.eval_shape(lambda k: network.init(k, (32, 32, 3)), SEED)
  return {n: trees.size(sub) for n, sub in params.items()}, params


PER_MODULE = [1_920, 74_112, 74_112, 221_952, 295_680, 886_272, 1_181_184,
              3_542_016, 4_721_664]


def test_sizes_of_the_cifar_networks():
  for modules, heads, total, task in (
      (12, (10,) * 10, 132_038_244, 44_046_948),
      (15, (2, 20) * 5, 165_040_110, 44_052_078)):
    found, params = sizes('part_cifar', 20, modules=modules, heads=heads)
    assert [found[f'level{i}'] for i in range(1, 10)] == [
        modules * n for n in PER_MODULE]
    assert sum(found.values()) == total
    # One task's path, with the whole linear layer as the official code counts.
    assert 4 * sum(PER_MODULE) + found['head'] == task
    assert params['head']['task01']['kernel'].shape == (512, heads[1])
  assert sum(PER_MODULE) == 10_998_912


def test_sizes_of_the_five_task_network():
  heads = (200, 196, 102, 195, 250)
  found, params = sizes('part_resnet', 250, heads=heads)
  leaves = trees.flatten(params)
  conv = sum(x.size for n, x in leaves.items() if x.ndim == 4)
  norms = sum(x.size for n, x in leaves.items()
              if n.split('/')[-2].endswith('_bn') or '/bn1/' in n)
  assert conv == 8 * 23_454_912
  assert norms == 8 * 53_120
  assert found['head'] == 1_932_207
  # The official network has a copy of each norm for each of five tasks.
  assert conv + 5 * norms + found['head'] == 191_696_303


def bound(params, stats, path, task=0):
  """A task's network from the backbone's leaves."""
  slots = segments.slots(len(path), len(path[0]))
  tree = {'head': params['head'][f'task{task:02d}']}
  for level, (names, modules) in enumerate(zip(slots, path)):
    tree[f'level{level + 1}'] = {
        name.split('/')[1]: params[f'level{level + 1}'][f'module{m:02d}']
        for name, m in zip(names, modules)}
  return tree, stats


def dense_levels(network_levels, params, stats, path, x, modules):
  """The 0/1-mask form: every module runs, those off the path count 0."""
  ones = path_sampling.table(np.array([path]), modules)[0]
  for i, level in enumerate(network_levels):
    own = stats[f'level{i + 1}']['slot0']
    total = 0.
    for m in range(modules):
      y, _ = segments.apply_modules(
          level, [params[f'level{i + 1}'][f'module{m:02d}']], [own], x, True)
      total = total + float(ones[i, m]) * y
    x = level.post(total, x)
  return jnp.mean(x, (1, 2))


@functools.lru_cache(maxsize=None)
def small(form, name='part_cifar'):
  options = dict(SMALL) if name == 'part_cifar' else dict(SMALL, blocks=(1, 2))
  return models.make(name, 3, form=form, **options)


@functools.lru_cache(maxsize=None)
def start(name='part_cifar', channels=3):
  """Parameters and statistics, drawn once."""
  return small('loop', name).init(SEED, (32, 32, channels))


@functools.lru_cache(maxsize=None)
def run(train, name='part_cifar'):
  """The loop form, compiled once for all tests."""
  return jax.jit(functools.partial(small('loop', name).apply, train=train))


@functools.lru_cache(maxsize=None)
def gradients(name, form, train):
  """Of a sum over the logits, in a few levels of all kinds; (d, (logits, new)).
  """
  first, skip, _, wider, pool, *_ = part.cifar_levels(3, 2)
  levels = (first, skip, wider, pool) if name == 'part_cifar' else (
      part.resnet_levels(3, 2, (1, 2)))
  random = np.random.RandomState(0)
  params = part._draw(SEED, segments.shapes(levels, 2, (3,),
                                            levels[-1].channels))
  stats = jax.tree.map(lambda s: s + .1 * random.rand(*s.shape).astype(
      np.float32), segments.initial_stats(levels, 2))
  x = random.randn(4, 32, 32, 3).astype(np.float32)

  def loss(params):
    logits, new = segments.apply(levels, form, params, stats, x, train)
    return jnp.sum(jnp.sin(logits)), (logits, new)
  return jax.jit(jax.grad(loss, has_aux=True))(params)


@pytest.mark.parametrize('name', [
    'part_cifar', pytest.param('part_resnet', marks=pytest.mark.slow)])
@pytest.mark.parametrize('train', [
    True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize('form', ['fused', 'blocks'])
def test_all_forms_give_the_same(name, train, form):
  loop, other = (gradients(name, f, train) for f in ('loop', form))
  for a, b in zip(*map(jax.tree.leaves, (loop, other))):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
  assert np.abs(loop[1][0]).max() > 1e-3


def test_the_path_form_is_the_dense_mask_form():
  params, stats = start()
  path = path_sampling.official(456, 1, path_sampling.Shape(9, 4, 2))[0]
  tree, stats = bound(params, stats, path)
  x = np.random.RandomState(1).randn(3, 32, 32, 3).astype(np.float32)
  features = jax.jit(lambda x: dense_levels(
      part.cifar_levels(3, 2), params, stats, path, x, 4))(x)
  head = params['head']['task00']
  want = features @ head['kernel'] + head['bias'][None]
  logits, _ = run(True)(tree, stats, x)
  np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-5)


def test_the_order_of_a_path_does_not_matter():
  params, stats = start()
  x = np.random.RandomState(1).randn(3, 32, 32, 3).astype(np.float32)
  one, two = (run(True)(*bound(params, stats, [p] * 9), x)[0]
              for p in ([1, 3], [3, 1]))
  np.testing.assert_allclose(one, two, rtol=1e-5)
  other, _ = run(True)(*bound(params, stats, [[1, 2]] * 9), x)
  assert np.abs(other - one).max() > 1e-3


def test_statistics_move_only_in_training_and_logits_fit_the_head():
  params, stats = start(channels=1)
  x = np.random.RandomState(1).rand(3, 32, 32, 1).astype(np.float32)
  tree, stats = bound(params, stats, [[0, 1]] * 9, task=1)
  logits, same = run(False)(tree, stats, x)
  assert logits.shape == (3, 2)
  assert trees.fingerprint(same) == trees.fingerprint(stats)
  _, new = run(True)(tree, stats, x)
  y = segments.convolve(x, tree['level1']['slot1']['conv1'])
  np.testing.assert_allclose(new['level1']['slot1']['norm1']['var'],
                             .9 + .1 * np.var(y, (0, 1, 2)), rtol=1e-4)


def test_a_whole_backbone_is_applied_by_its_first_modules():
  params, stats = start(channels=1)
  x = np.ones((1, 32, 32, 1), np.float32)
  np.testing.assert_array_equal(
      run(False)(params, stats, x)[0],
      run(False)(*bound(params, stats, [[0, 1]] * 9), x)[0])


def archive(blocks=(1, 2), width=2):
  """Arrays with torchvision's names for a tiny ResNet."""
  shapes = segments.shapes(part.resnet_levels(3, width, blocks), 1, (3,), 16)
  random, arrays = np.random.RandomState(3), {}
  for name, shape in shapes.items():
    if name.startswith('head'):
      continue
    own = name.replace('/module00', '')
    if len(shape) == 4:
      shape = tuple(shape[i] for i in (3, 2, 0, 1))
    arrays[part._torch_name(own)] = random.rand(*shape).astype(np.float32)
    if name.endswith('/scale'):
      for part_ in ('mean', 'var'):
        arrays[part._torch_name(own.replace('scale', part_))] = random.rand(
            *shape).astype(np.float32)
  return arrays | {'fc.weight': random.rand(3, 4), 'fc.bias': random.rand(3),
                   'bn1.num_batches_tracked': np.array(5)}


def started(arrays, noise=0.):
  """(params, stats) of a tiny ResNet that starts from them."""
  network = models.make('part_resnet', 3, blocks=(1, 2), noise=noise, **SMALL)
  params, stats = network.init(SEED, (32, 32, 3))
  flat = pretrained.fill('f.npz', arrays, pretrained.leaves(params, stats),
                         None, (), network.published, SEED, (32, 32, 3))
  assert trees.digests(params['head']) == trees.digests(
      pretrained.split(flat, params, stats)[0]['head'])
  return pretrained.split(flat, params, stats)


def test_weights_from_a_file_reach_every_module():
  arrays = archive()
  assert {'conv1.weight', 'bn1.running_var', 'layer1.0.conv2.weight',
          'layer1.0.downsample.0.weight', 'layer1.0.downsample.1.bias',
          'layer2.1.bn3.running_mean'} <= set(arrays)
  params, stats = started(arrays)
  for m in range(4):
    np.testing.assert_array_equal(
        params['level2'][f'module{m:02d}']['block0_conv2']['kernel'],
        arrays['layer1.0.conv2.weight'].transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(
      stats['level3']['slot1']['block1_conv3_bn']['var'],
      arrays['layer2.1.bn3.running_var'])
  apart, _ = started(arrays, .01)
  one, two = (apart['level1'][m]['conv1']['kernel']
              for m in ('module00', 'module01'))
  assert 0 < np.abs(one - two).max() < .1
  del arrays['layer2.0.bn1.weight']
  with pytest.raises(ValueError, match=(
      'f.npz fills no level3/module00/block0_conv1_bn/scale')):
    started(arrays)


@pytest.mark.parametrize('options, message', [
    (dict(active=5), 'path of 5 modules'), (dict(form='grouped'), 'fused'),
    (dict(heads=(3, 0)), r'heads of part_cifar is \(3, 0\); it must be')])
def test_misfits_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    models.make('part_cifar', 3, **(SMALL | options))
