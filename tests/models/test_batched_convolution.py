"""Every form of many tasks' convolutions is `lax`'s own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mtl_jax.models import batched_convolution
from mtl_jax.models import convolution
from mtl_jax.models import resnet

TASKS = 5  # no multiple of a block
CASES = {  # strides, padding, image's side, kernel
    '3x3': ((1, 1), ((1, 1), (1, 1)), 8, (3, 3, 4, 6)),
    'strided': ((2, 2), ((1, 1), (1, 1)), 8, (3, 3, 4, 6)),
    'uneven': ((2, 1), ((0, 1), (2, 0)), 7, (3, 2, 3, 5)),
    '1x1': ((2, 2), ((0, 0), (0, 0)), 8, (1, 1, 4, 6))}
RULES = ('each', 'map', 'grouped', 'patches', 'blocks', 'patches:20,each')


def reference(strides, padding, x, kernel):
  return lax.conv_general_dilated(x, kernel, strides, padding,
                                  dimension_numbers=convolution.LAYOUT)


def draw(side, kernel_shape, tasks=TASKS):
  random = np.random.RandomState(0)
  images = random.randn(tasks, 2, side, side, kernel_shape[2])
  return (jnp.asarray(images, jnp.float32),
          jnp.asarray(random.randn(tasks, *kernel_shape), jnp.float32))


def value_and_gradients(convolve, x, kernel):
  def loss(x, kernel):
    y = convolve(x, kernel)
    return jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)), y
  (_, y), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, kernel)
  return y, *gradients


def close(found, expected):
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('case', CASES)
def test_a_form_is_laxs_convolution_with_its_gradients(case, rule, monkeypatch):
  monkeypatch.setenv(batched_convolution.VARIABLE, rule)
  strides, padding, side, shape = CASES[case]
  work = draw(side, shape)
  of = lambda function: jax.jit(jax.vmap(functools.partial(
      value_and_gradients, functools.partial(function, strides, padding))))
  close(of(batched_convolution.convolve)(*work), of(reference)(*work))


@pytest.mark.parametrize('axes', [(0, None), (None, 0), (None, None)])
def test_what_all_tasks_share_is_not_copied(axes, monkeypatch):
  monkeypatch.setenv(batched_convolution.VARIABLE, 'each')
  x, kernel = draw(6, (3, 3, 2, 4))
  work = x if axes[0] == 0 else x[0], kernel if axes[1] == 0 else kernel[0]
  plain = (1, 1), ((1, 1), (1, 1))
  if axes == (None, None):
    of = lambda f: functools.partial(value_and_gradients,
                                     functools.partial(f, *plain))
  else:
    of = lambda f: jax.vmap(functools.partial(
        value_and_gradients, functools.partial(f, *plain)), axes)
  close(of(batched_convolution.convolve)(*work), of(reference)(*work))


@pytest.mark.parametrize('rule,within,count', [
    ('grouped', 'grouped', 1), ('each', 'each', TASKS), ('map', 'map', 1),
    ('patches', 'patches', 0), ('blocks', 'blocks', 1),
    ('patches:64,each', 'patches', 0), ('patches:63,each', 'each', TASKS)])
def test_the_rule_decides(rule, within, count, monkeypatch):
  monkeypatch.setenv(batched_convolution.VARIABLE, rule)
  x, kernel = draw(8, (3, 3, 4, 6))
  convolve = functools.partial(batched_convolution.convolve, (1, 1),
                               ((1, 1), (1, 1)))
  program = str(jax.make_jaxpr(jax.vmap(convolve))(x, kernel))
  assert program.count('conv_general_dilated') == count
  assert ('scan' in program) == (within == 'map')
  groups = 'feature_group_count=5' in program
  assert groups == (within == 'grouped')


def test_a_rule_that_says_nothing_is_refused():
  with pytest.raises(ValueError, match="unknown form 'eech' in 'eech'"):
    batched_convolution.parse('eech')
  with pytest.raises(ValueError, match='no form for larger outputs'):
    batched_convolution.parse('patches:64')
  with pytest.raises(ValueError, match="'x' in .* is no number of places"):
    batched_convolution.parse('patches:x,each')


class Small(nn.Module):
  """A stage of GEM's network, with a stride and a shortcut."""

  @nn.compact
  def __call__(self, x, train):
    norm = functools.partial(nn.BatchNorm, use_running_average=not train)
    x = resnet.BasicBlock(3, 1, norm)(x)
    x = resnet.BasicBlock(4, 2, norm)(x)
    return nn.Dense(3)(jnp.mean(x, (1, 2)))


@pytest.mark.parametrize('rule', [
    pytest.param('each', marks=pytest.mark.slow), 'patches:16,map'])
def test_the_network_of_many_tasks_is_that_of_each(rule, monkeypatch):
  """As on an accelerator: inside scan, grad and vmap, with batch norm."""
  monkeypatch.setenv(batched_convolution.VARIABLE, rule)
  module = Small()
  x = jnp.asarray(np.random.RandomState(1).randn(3, 4, 16, 16, 3), jnp.float32)
  variables = jax.vmap(lambda key: module.init(key, x[0], True))(
      jax.random.split(jax.random.key(0), 3))

  def loss(params, images):
    def body(total, batch):
      logits, _ = module.apply(variables_of(params), batch, train=True,
                               mutable=['batch_stats'])
      return total + jnp.sum(logits ** 2), None
    return lax.scan(body, 0., images[None])[0]

  stats = jax.tree.map(lambda leaf: leaf[0], variables['batch_stats'])
  variables_of = lambda params: {'params': params, 'batch_stats': stats}
  many = jax.jit(jax.vmap(jax.grad(loss)))
  expected = many(variables['params'], x)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  found = jax.jit(jax.vmap(jax.grad(lambda p, i: loss(p, i))))(
      variables['params'], x)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected),
                  strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
