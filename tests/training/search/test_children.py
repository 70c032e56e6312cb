"""What children are made of, and what they cost."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_evolution

from mtl_jax import trees
from mtl_jax.config import parts as config_parts
from mtl_jax.evolution import mutations
from mtl_jax.evolution import networks
from mtl_jax.training.search import children as children_lib

NETWORK, ROOT = tiny_evolution.NETWORK, tiny_evolution.ROOT


def maker(known=(ROOT,), others=(), task='a', classes=3, **fields):
  return children_lib.Maker(
      config_parts.Search(**fields), NETWORK.parts, list(known), list(others),
      task, classes, tiny_evolution.SHAPE)


def deeper():
  """A path of another task with a third block."""
  block = networks.component('encoderblock_2', jax.tree.map(
      np.asarray, NETWORK.parts.create('encoderblock_2', 1, 0,
                                       jax.random.key(2))))
  return tiny_evolution.path('b', 'b', components=dict(
      ROOT.components, encoderblock_2=block))


def test_the_program_has_room_for_the_deepest_parent():
  assert maker(space='mu2net_large').largest.optional == (
      'encoderblock_0', 'encoderblock_1')
  made = maker([ROOT, deeper()], [deeper()], space='mu2net_large')
  assert 'encoderblock_2' in made.largest.optional
  assert 'encoderblock_2' in maker(space='mu2net_ti0').largest.optional


def test_adapters_of_all_widths_come_from_one_program():
  made = maker(space='munet_ti3')
  assert made.adapter == 128
  before = children_lib._create._cache_size()
  found = {}
  for width in (8, 32, 128):
    child = mutations.Child(ROOT, {'adapter': width}, {}, {}, (
        'head', 'residual_adapter_1'), {})
    found[width] = made.new(child, jax.random.key(0))
    own = NETWORK.parts.create('residual_adapter_1', 3, width,
                               jax.random.key(0))
    trees.check_same_structure(found[width]['residual_adapter_1'], own)
    assert jax.tree.map(np.shape, own) == jax.tree.map(
        np.shape, found[width]['residual_adapter_1'])
    assert found[width]['head']['bias'].shape == (3,)
  assert children_lib._create._cache_size() == before + 1
  kernels = [found[w]['residual_adapter_1']['Dense_0']['kernel']
             for w in (8, 128)]
  np.testing.assert_array_equal(kernels[0], kernels[1][:, :8])
  assert .15 < kernels[1].std() < .35  # 1 / sqrt(16)


@pytest.mark.parametrize('scale', [
    dict(scale_size=.5, scale_weights=1000.),
    dict(scale_compute=.5, scale_flops=1e6),
    dict(scale_size=.5, scale_weights=1000., scale_compute=.25,
         scale_flops=1e6)])
def test_costs_lower_the_score(scale):
  other = tiny_evolution.path('b', 'b')
  made = maker([ROOT, other], [other], **scale)
  assert maker([ROOT, other]).factor(None, {}) == 1.
  child = tiny_evolution.sample(tiny_evolution.rate_of(0.))
  new = {'head': NETWORK.parts.create('head', 3, 0, None)}
  # The other task uses all of the root; the child shares what it doesn't
  # clone or make.
  weights = sum(part.weights / 2 for part in child.shared.values()) + sum(
      part.weights for part in child.cloned.values()) + 16 * 3 + 3
  params = new | {name: part.tree for name, part in
                  (child.shared | child.cloned).items()}
  flops = NETWORK.parts.flops(params, tiny_evolution.SHAPE)
  expected = (made.search.scale_size ** (weights / 1000)
              * made.search.scale_compute ** (flops / 1e6))
  assert 0 < expected < 1
  np.testing.assert_allclose(made.factor(child, new), expected, rtol=1e-6)


def test_a_stored_path_costs_less_when_others_share_it():
  own = dataclasses.replace(tiny_evolution.path('a', 'a'), quality=.8, score=.1)
  scale = dict(scale_size=.5, scale_weights=float(2 * sum(
      part.weights for part in own.components.values())))
  alone = maker([ROOT, own], **scale).scored(own)
  np.testing.assert_allclose(alone.score, .8 * .5 ** .5, rtol=1e-6)
  other = tiny_evolution.path('b', 'b')
  shared = maker([ROOT, own, other], [other], **scale).scored(own)
  np.testing.assert_allclose(shared.score, .8 * .5 ** .25, rtol=1e-6)
  assert maker([ROOT, own]).scored(own).score == .1  # cost counts for nothing
