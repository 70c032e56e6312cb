"""Networks whose gradients need less memory: the same numbers from less."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import models
from mtl_jax import trees
from mtl_jax.config import parts
from mtl_jax.models import network as network_lib
from mtl_jax.models import precision

SHAPE = (8, 8, 3)
DEEP = {
    'vit_ti': dict(num_layers=5, patch=4, width=16, hidden=64, heads=2),
    'gem_resnet18': dict(width=2),
    'part_cifar': dict(modules=1, active=1, width=2),
    'part_resnet': dict(modules=1, active=1, width=2, blocks=(1, 1)),
}


def pair(name):
  """(network, the same one that computes again)."""
  made = models.make(name, 5, **DEEP[name])
  return made, models.recomputing(name, made)


def objective(network, stats, x):
  def loss(params):
    logits, after = network.apply(params, stats, x, train=True)
    return jnp.mean(logits ** 2) + jnp.mean(logits[:, 0]), after
  return loss


def shapes(network, size=SHAPE):
  return jax.eval_shape(lambda key: network.init(key, size),
                        jax.random.key(0))


@pytest.mark.parametrize('name', DEEP)
def test_less_is_kept_for_the_gradients(name):
  kept = []
  for network in pair(name):
    size = (32, 32, 3) if name.startswith('part') else SHAPE
    params, stats = shapes(network, size)
    x = jax.ShapeDtypeStruct((16, *size), jnp.float32)
    backward = jax.eval_shape(lambda p, s, x, n=network: jax.vjp(
        objective(n, s, x), p, has_aux=True)[1], params, stats, x)
    kept.append(trees.nbytes(jax.tree.leaves(backward)))
    assert shapes(network, size) == (params, stats)
  assert kept[1] < 0.6 * kept[0], kept


def gradients(network, params, stats, x):
  """(bytes that a compiled step works with, gradients and statistics)."""
  program = jax.jit(jax.grad(objective(network, stats, x), has_aux=True)
                    ).lower(params).compile()
  return program.memory_analysis().temp_size_in_bytes, program(params)


def test_a_scan_of_blocks_takes_less_memory_and_gives_the_same():
  plain, again = pair('vit_ti')
  like, _ = shapes(plain)
  random = np.random.RandomState(0)
  params = jax.tree.map(lambda x: (.3 * random.randn(*x.shape)).astype(
      np.float32), like)
  x = random.rand(32, *SHAPE).astype(np.float32)
  (whole, expected), (less, found) = (
      gradients(network, params, {}, x) for network in (plain, again))
  assert less < 0.7 * whole, (less, whole)
  leaves = trees.flatten(expected[0])
  # A bias of keys changes no attention: its gradient is rounding alone.
  noise = 1e-8 * max(np.abs(leaf).max() for leaf in leaves.values())
  for name, leaf in leaves.items():
    np.testing.assert_allclose(
        trees.flatten(found[0])[name], leaf, rtol=1e-3,
        atol=max(noise, 1e-5 * np.abs(leaf).max()), err_msg=name)


@pytest.mark.slow
def test_a_network_with_norms_gives_the_same():
  plain, again = pair('gem_resnet18')
  params, stats = plain.init(jax.random.key(0), SHAPE)
  x = np.random.RandomState(0).rand(8, *SHAPE).astype(np.float32)
  expected, found = (gradients(network, params, stats, x)[1]
                     for network in (plain, again))
  for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found),
                        strict=True):
    np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5)


def test_a_network_without_blocks_is_refused():
  for name in ('lenet_300_100', 'bnnet'):
    with pytest.raises(ValueError, match=(
        f'{name} has no blocks; leave it out, or put flax.linen.remat')):
      parts.Backbone(name, 5, remat=True)
    parts.Backbone(name, 5)
  assert parts.Backbone('vit_ti', 5, init='default', remat=True).remat


def test_equal_networks_are_one_object_and_low_precision_keeps_it():
  plain, again = pair('vit_ti')
  assert models.recomputing('vit_ti', plain) is again and again.scanned
  low = precision.computed(again, 'bfloat16')
  assert low.remat is None and low.scanned
  assert isinstance(again, network_lib.Network)
