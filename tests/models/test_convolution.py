"""Our convolution is `lax.conv_general_dilated`, its gradients too."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mtl_jax.models import convolution

PADDINGS = ('SAME', 'VALID', ((1, 1), (1, 1)), ((0, 2), (1, 0)))


def reference(x, kernel, strides, padding, **kwargs):
  return lax.conv_general_dilated(x, kernel, strides, padding,
                                  dimension_numbers=convolution.LAYOUT,
                                  **kwargs)


def case(size=8, window=3, channels=3, out=4, groups=1):
  keys = jax.random.split(jax.random.key(0))
  return (jax.random.normal(keys[0], (2, size, size + 1, channels)),
          jax.random.normal(keys[1], (window, window, channels // groups,
                                      out)))


def gradients(function, x, kernel):
  y, pull = jax.vjp(function, x, kernel)
  return y, *pull(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))


def assert_same(found, wanted):
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('padding', PADDINGS, ids=str)
@pytest.mark.parametrize('strides', [(1, 1), (2, 2), (3, 2)], ids=str)
@pytest.mark.parametrize('sizes', [
    ((7, 3), (8, 1)),
    pytest.param(((7, 1), (7, 5), (8, 3), (8, 5)), marks=pytest.mark.slow)],
                         ids=['two', 'the others'])
def test_value_and_gradients(strides, padding, sizes):
  for size, window in sizes:
    x, kernel = case(size, window)
    assert_same(*(gradients(lambda x, k, f=f: f(x, k, strides, padding), x,
                            kernel) for f in (convolution.convolve,
                                              reference)))


@pytest.mark.parametrize('changes', [
    dict(feature_group_count=3), dict(lhs_dilation=(2, 2)),
    dict(rhs_dilation=(2, 1))], ids=str)
def test_other_convolutions_are_left_alone(changes):
  x, kernel = case(groups=changes.get('feature_group_count', 1), out=6)
  assert_same(*(gradients(
      lambda x, k, f=f: f(x, k, (1, 1), ((1, 1), (1, 1)), **changes), x,
      kernel) for f in (convolution.convolve, reference)))


def test_many_kernels_at_once():
  x, kernel = case()
  kernels = jnp.stack([kernel, 2 * kernel, -kernel])
  run = lambda f: gradients(
      lambda x, k: jax.vmap(lambda k: f(x, k, (1, 1), 'SAME'))(k), x, kernels)
  assert_same(run(convolution.convolve), run(reference))


def test_flax_layer_with_it_is_the_same_layer():
  x, _ = case()
  ours = nn.Conv(5, (3, 3), (2, 2),
                 conv_general_dilated=convolution.convolve)
  theirs = nn.Conv(5, (3, 3), (2, 2))
  params = theirs.init(jax.random.key(1), x)
  loss = lambda layer: jax.value_and_grad(
      lambda p: jnp.sum(jnp.sin(layer.apply(p, x))))(params)
  assert_same(*(jax.tree.leaves(loss(layer)) for layer in (ours, theirs)))


@pytest.mark.parametrize('strides', [(1, 1), (3, 2)], ids=str)
def test_kernel_gradients_as_products(strides, monkeypatch):
  monkeypatch.setattr(convolution, 'UNCACHED', 0)
  x, kernel = case(channels=20, out=21)
  for padding in PADDINGS:
    assert_same(*(gradients(lambda x, k, f=f: f(x, k, strides, padding), x,
                            kernel) for f in (convolution.convolve,
                                              reference)))


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='about the CPU')
@pytest.mark.parametrize('channels, uncached, left', [
    (20, 10 ** 9, 3), (19, 0, 3), (20, 0, 2)])
def test_gradients_in_a_loop_have_the_fast_layout(channels, uncached, left,
                                                  monkeypatch):
  """Products take the place of a convolution where they are faster."""
  monkeypatch.setattr(convolution, 'UNCACHED', uncached)
  x, kernel = case(channels=channels, out=channels)

  def train(kernel):
    def body(kernel, _):
      loss = lambda k, x: jnp.sum(jnp.sin(
          convolution.convolve(x, k, (1, 1), 'SAME')))
      dk, dx = jax.grad(loss, (0, 1))(kernel, x)
      return kernel - dk * jnp.mean(dx), None
    return lax.scan(body, kernel, length=3)[0]
  text = jax.jit(train).lower(kernel).compile().as_text()
  layouts = [line.split('dim_labels=')[1].split(',')[0]
             for line in text.splitlines() if ' convolution(' in line]
  assert layouts == ['b01f_01io->b01f'] * left, layouts
