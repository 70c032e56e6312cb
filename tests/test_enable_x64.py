"""What is drawn from a seed does not depend on `jax_enable_x64`.

A stored task names the seed of its random basis, not the masks; a process with
64-bit numbers has to draw the same ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import masks
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.data import pixels
from mtl_jax.evolution import augment
from mtl_jax.evolution import spaces
from mtl_jax.methods import base
from mtl_jax.methods import impresslearn
from mtl_jax.models import part
from mtl_jax.models import vit

LIKE = {'a': np.zeros((7, 9), np.float32), 'b': np.zeros(12, np.float32)}
SIZES = vit.Sizes(width=8, layers=1, heads=2, hidden=8, patch=4)


def key():
  return jax.random.key(5, impl='threefry2x32')


def network(name, **options):
  return models.make(name, 4, **options).init(key(), (8, 8, 3))[0]


DRAWN = {
    'random masks': lambda: masks.random(key(), LIKE, .3),
    'a random basis': lambda: impresslearn.random_basis(key(), LIKE, 3, .4),
    'a signed constant': lambda: masks.signed_constant(key(), {'a': LIKE['a']}),
    'scores': lambda: base.kaiming_uniform(key(), LIKE),
    'crops': lambda: pixels.crop_flip(
        jnp.arange(5 * 64, dtype=jnp.uint8).reshape(5, 8, 8, 1), key(), 2),
    'boxes': lambda: augment.boxes(augment.of(
        dict.fromkeys(spaces.AUGMENT, .5)), key(), 6),
    'a transformer': lambda: vit.init(SIZES, 3, key(), (8, 8, 3)),
    'an adapter': lambda: vit.create('residual_adapter_0', SIZES, 3, 4, key()),
    'a dense network': lambda: network('lenet_300_100'),
    'a residual network': lambda: network('gem_resnet18', width=2),
    'segments': lambda: part._draw(key(), {'a/kernel': (3, 3), 'a/bias': (3,),
                                           'n/scale': (3,), 'n/bias': (3,)})}


@pytest.mark.parametrize('what', [
    pytest.param(what, marks=(
        [pytest.mark.slow] if what == 'a residual network' else []))
    for what in DRAWN])
def test_equal_with_and_without(what):
  plain = trees.flatten(jax.tree.map(np.asarray, DRAWN[what]()))
  with jax.enable_x64(True):
    found = trees.flatten(jax.tree.map(np.asarray, DRAWN[what]()))
  for name, leaf in plain.items():
    assert found[name].dtype == leaf.dtype, name
    np.testing.assert_array_equal(found[name], leaf)
