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


def case(size=8, window=3, channels=3, out=4, groups=1, images=2,
         dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0))
  return (jax.random.normal(keys[0], (images, size, size + 1, channels), dtype),
          jax.random.normal(keys[1], (window, window, channels // groups,
                                      out), dtype))


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


CPU = pytest.mark.skipif(jax.default_backend() != 'cpu', reason='about the CPU')


@pytest.fixture
def small_blocks(monkeypatch):
  """A block holds two images of `case`, which has five then."""
  monkeypatch.setattr(convolution, 'LANES', 2)
  monkeypatch.setattr(convolution, 'BLOCK', 1)


@pytest.mark.usefixtures('small_blocks')
@pytest.mark.parametrize('strides', [(1, 1), (3, 2)], ids=str)
@pytest.mark.parametrize('padding', [*PADDINGS, ((0, -1), (-1, 2))], ids=str)
def test_kernel_gradients_in_blocks(padding, strides):
  x, kernel = case(images=5)
  assert_same(*(gradients(lambda x, k, f=f: f(x, k, strides, padding), x,
                          kernel) for f in (convolution.convolve, reference)))


@pytest.mark.parametrize('images, side, channels, wanted', [
    (5, 4, 4, 5), (128, 32, 20, 8), (100, 32, 20, 8), (10_000, 32, 20, 8),
    (128, 8, 80, 16), (128, 4, 160, 32), (20, 4, 160, 20), (9, 512, 8, 8)])
def test_blocks_fill_a_register_and_stay_in_the_cache(images, side, channels,
                                                      wanted):
  shape = (images, side, side, channels)
  assert convolution.images_of_a_block(shape, shape) == wanted


@CPU
@pytest.mark.usefixtures('small_blocks')
@pytest.mark.parametrize('images', [4, 5])
def test_blocks_are_used(images):
  """The first, or the images left over, is computed before a loop."""
  x, kernel = case(images=images)
  text = str(jax.make_jaxpr(jax.grad(lambda k: jnp.sum(jnp.sin(
      convolution.convolve(x, k, (1, 1), 'SAME')))))(kernel))
  assert 'scan' in text
  assert text.count('= conv_general_dilated[') == 4


@CPU
def test_kernels_of_one_place_are_one_product():
  x, kernel = case(window=1)
  text = str(jax.make_jaxpr(jax.grad(lambda k: jnp.sum(jnp.sin(
      convolution.convolve(x, k, (2, 2), 'SAME')))))(kernel))
  assert text.count('dot_general') == 1
  assert text.count('= conv_general_dilated[') == 2  # y and x's gradient
  assert text.count('lhs_dilation=(1, 1)') == 2  # without zeros between rows


@pytest.mark.usefixtures('small_blocks')
@pytest.mark.parametrize('axes', [(0, 0), (None, 0), (0, None)], ids=str)
def test_blocks_of_many_tasks_at_once(axes):
  x, kernel = case(images=5)
  many = [leaf if axis is None else jnp.stack([leaf, 2 * leaf, -leaf])
          for leaf, axis in zip((x, kernel), axes)]
  run = lambda f: gradients(jax.vmap(
      lambda x, k: f(x, k, (2, 1), 'SAME'), axes), *many)
  assert_same(run(convolution.convolve), run(reference))


@pytest.mark.usefixtures('small_blocks')
def test_blocks_over_devices():
  devices = jax.device_count()
  x, kernel = case(images=5 * devices)
  x = x.reshape(devices, 5, *x.shape[1:])

  def step(f):
    def mean(x, kernel):
      found = jax.grad(lambda k: jnp.sum(jnp.sin(f(x, k, (1, 1), 'SAME'))))(
          kernel)
      return lax.pmean(found, 'devices')
    return jax.pmap(mean, 'devices', in_axes=(0, None), out_axes=None)
  assert_same(*([step(f)(x, kernel)] for f in (convolution.convolve,
                                               reference)))


@CPU
@pytest.mark.usefixtures('small_blocks')
@pytest.mark.parametrize('window', [1, 3])
def test_sums_over_blocks_are_rounded_once(window):
  x, kernel = case(images=64, window=window, dtype=jnp.bfloat16)
  found, wanted = (jax.grad(lambda k, x=x: jnp.sum(jnp.sin(
      convolution.convolve(x, k, (1, 1), 'SAME')).astype(jnp.float32)))(k)
                   for x, k in ((x, kernel), (x.astype(jnp.float32),
                                              kernel.astype(jnp.float32))))
  assert found.dtype == jnp.bfloat16
  scale = jnp.max(jnp.abs(wanted))
  assert jnp.max(jnp.abs(found - wanted)) < .02 * scale


@pytest.mark.usefixtures('small_blocks')
@pytest.mark.parametrize('window', [1, 3])
def test_half_precision_under_strict_promotion(window):
  x, kernel = case(images=5, window=window, dtype=jnp.bfloat16)
  with jax.numpy_dtype_promotion('strict'):
    found = jax.eval_shape(jax.grad(lambda k: jnp.sum(convolution.convolve(
        x, k, (2, 2), 'SAME'))), kernel)
  assert (found.shape, found.dtype) == (kernel.shape, jnp.bfloat16)


@CPU
@pytest.mark.usefixtures('small_blocks')
@pytest.mark.parametrize('images, left', [(2, 3), (5, 4)])
def test_gradients_in_a_loop_have_the_fast_layout(images, left):
  """Also in the loop over blocks."""
  x, kernel = case(images=images)

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
