"""Masks of modules that nobody wrote for masks, of Linen and of NNX."""

import functools

import flax.linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_masks

from mtl_jax import masks
from mtl_jax import trees


class Foreign(nn.Module):
  """Bias and LayerNorm, with its own names."""

  @nn.compact
  def __call__(self, x):
    x = nn.LayerNorm(name='norm')(nn.relu(nn.Dense(6, name='body')(x)))
    return nn.Dense(2, name='head')(x)


class ForeignNNX(nnx.Module):
  """The same in NNX."""

  def __init__(self, rngs):
    self.body = nnx.Linear(3, 6, rngs=rngs)
    self.norm = nnx.LayerNorm(6, rngs=rngs)
    self.head = nnx.Linear(6, 2, rngs=rngs)

  def __call__(self, x):
    return self.head(self.norm(nnx.relu(self.body(x))))


RANDOM = np.random.RandomState(0)
X = RANDOM.randn(5, 3).astype(np.float32)


def drawn(shapes):
  return jax.tree.map(lambda s: RANDOM.randn(*s.shape).astype(s.dtype), shapes)


def linen():
  module = Foreign()
  shapes = jax.eval_shape(module.init, jax.random.key(0), X)['params']
  return drawn(shapes), lambda p, x: module.apply({'params': p}, x), ''


def nnx_split():
  shapes = nnx.eval_shape(lambda: ForeignNNX(nnx.Rngs(0)))
  graph, params, rest = nnx.split(shapes, nnx.Param, ...)
  return drawn(params), lambda p, x: nnx.merge(graph, p, rest)(x), '/value'


@pytest.mark.parametrize('make', [linen, nnx_split])
def test_any_flax_module_is_masked_by_path_patterns(make):
  params, apply_fn, end = make()
  chosen = trees.select(params, [('(body|head)/kernel' + end, True),
                                 ('norm/scale' + end, True)])
  scores, _ = trees.partition(params, chosen)
  names = {f'{n}{end}' for n in ('body/kernel', 'head/kernel', 'norm/scale')}
  sampler = functools.partial(masks.top_k, density=.5)
  soft = masks.straight_through(sampler)

  @jax.jit
  def loss(scores, params):
    return jnp.sum(apply_fn(masks.apply(params, soft(scores)), X) ** 2)

  gradient = trees.flatten(jax.jit(jax.grad(loss))(scores, params))
  assert {n for n, g in gradient.items() if g is not None} == names
  for name in names:
    assert np.isfinite(gradient[name]).all() and np.any(gradient[name]), name
  # By hand: the same network with numpy's masks.
  half = lambda leaf: test_masks.reference_top_k(leaf, (leaf.size + 1) // 2)
  hand = {name: np.asarray(leaf) * half(np.asarray(leaf)) if name in names
          else np.asarray(leaf)
          for name, leaf in trees.flatten(params).items()}
  hand = trees.map_named(lambda name, _: hand[name], params)
  np.testing.assert_allclose(loss(scores, params),
                             np.sum(apply_fn(hand, X) ** 2), rtol=1e-5)
  assert loss(scores, params) != jnp.sum(apply_fn(params, X) ** 2)
  mask = sampler(scores)
  test_masks.assert_equal(masks.unpack(masks.pack(mask), params),
               jax.tree.map(np.asarray, mask))
