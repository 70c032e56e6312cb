"""Random backbones, and budgets of masks."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import host
from mtl_jax import masks
from mtl_jax import trees
from mtl_jax.serving import backbone as backbone_lib

ROOT = pathlib.Path(__file__).parents[2]


def test_erdos_renyi_by_hand():
  params = {'dense': np.zeros((784, 300)), 'conv': np.zeros((3, 3, 16, 32)),
            'small': np.zeros((2, 2)), 'none': None}
  found = masks.erdos_renyi(params, eps=5)
  assert found == {
      'dense': pytest.approx(5 * 1084 / (784 * 300)),
      'conv': pytest.approx(5 * 48 / (9 * 16 * 32)),
      'small': 0.5,  # 5 * 4 / 4, capped
      'none': None}
  like = {'w': np.random.RandomState(0).rand(20, 30).astype(np.float32)}
  budget = masks.erdos_renyi(like, eps=2)  # 2 * 50 / 600: 100 weights
  assert int(jnp.sum(masks.top_k(like, budget)['w'])) == 100


def test_erdos_renyi_refuses_what_has_no_budget():
  with pytest.raises(ValueError, match=r'a/bias has shape \(3,\)'):
    masks.erdos_renyi({'a': {'bias': np.zeros(3)}}, eps=1)
  for eps in (0, -1, float('nan')):
    with pytest.raises(ValueError, match=f'eps is {eps}; it must be above 0'):
      masks.erdos_renyi({'w': np.zeros((2, 2))}, eps=eps)


SHAPES = {'conv/kernel': (3, 3, 2, 8), 'dense/kernel': (50, 4)}
GOLDEN = '8aaf8501890b956779d75b87991a3ab601d4b4934210a71cb6e28256f66cfc7a'


def zeros(shapes):
  return trees.unflatten({name: np.zeros(shape, np.float32)
                          for name, shape in shapes.items()})


def test_signed_constant_is_kaimings_and_balanced():
  bias = np.arange(8, dtype=np.float32)
  like = zeros(SHAPES) | {'bias': bias, 'none': None}
  found = trees.flatten(masks.signed_constant(jax.random.key(5), like))
  np.testing.assert_array_equal(found['bias'], bias)
  assert found['none'] is None
  for name, fan_in in (('conv/kernel', 18), ('dense/kernel', 50)):
    c = np.float32(np.sqrt(2 / fan_in))
    assert found[name].dtype == jnp.float32
    assert set(np.unique(found[name])) == {-c, c}
    assert .35 < np.mean(np.asarray(found[name]) > 0) < .65


def test_signed_constant_is_regenerated_bit_for_bit_in_another_process():
  key = jax.random.key(5, impl='threefry2x32')
  here = masks.signed_constant(key, zeros(SHAPES))
  assert trees.fingerprint(here) == GOLDEN
  compiled = jax.jit(lambda k: masks.signed_constant(k, zeros(SHAPES)))(key)
  assert trees.fingerprint(compiled) == GOLDEN
  code = f'''
import jax, numpy as np
from mtl_jax import masks, trees
like = trees.unflatten({{
    n: np.zeros(s, np.float32) for n, s in {SHAPES}.items()}})
key = jax.random.key(5, impl='threefry2x32')
print(trees.fingerprint(masks.signed_constant(key, like)))'''
  other = subprocess.run([sys.executable, '-c', code], capture_output=True,
                         text=True, check=True, cwd=ROOT)
  assert other.stdout.strip() == GOLDEN


def test_without_a_cpu_the_remedy_is_named(monkeypatch):
  def missing(**_):
    raise RuntimeError("Unknown backend: 'cpu' requested")
  monkeypatch.setattr(jax, 'local_devices', missing)
  with pytest.raises(ValueError, match='JAX_PLATFORMS=.*,cpu$'):
    host.on_cpu()


def test_an_accelerators_backbone_is_drawn_on_the_cpu(monkeypatch):
  """Where it lies is up to the platform, which bits it has is not."""
  recipe = {'model': 'fully_connected', 'outputs': 3, 'init': 'default',
            'options': {'widths': (5,), 'scale': .05}, 'seed': 1,
            'image_shape': (2, 2, 1)}
  expected = backbone_lib.make(recipe)
  assert all(np.std(leaf) > .01 for leaf in jax.tree.leaves(expected.params)
             if leaf.ndim > 1)
  drawn_on, original = [], backbone_lib._draw_here

  def draw(*args):
    drawn_on.append(jax.config.jax_default_device)
    return original(*args)
  monkeypatch.setattr(backbone_lib, '_draw_here', draw)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  with jax.default_device(jax.devices()[-1]):
    found = backbone_lib.make(recipe)
    for leaf in jax.tree.leaves(found.params):
      assert leaf.devices() == {jax.devices()[-1]}
  assert drawn_on == [jax.local_devices(backend='cpu')[0]]
  assert found.recipe['fingerprint'] == expected.recipe['fingerprint']
