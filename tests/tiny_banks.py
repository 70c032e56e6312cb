"""Small banks of masks and the dense references of what is inferred."""

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import identify
from mtl_jax import masks
from mtl_jax import superposition
from mtl_jax import trees

RANDOM = np.random.RandomState(0)
BACKBONE = {
    'body': {'kernel': RANDOM.randn(4, 5).astype(np.float32),  # 20, 15 and 3
             'bias': RANDOM.randn(5).astype(np.float32)},  # weights: none is
    'head': {'kernel': RANDOM.randn(5, 3).astype(np.float32),  # whole bytes
             'scale': RANDOM.randn(3).astype(np.float32)}}
X = RANDOM.randn(6, 4).astype(np.float32)
EVERY = np.ones(6, bool)


def draw(size, seed=0):
  """`size` masks, bool leaves [size, ...]; no mask for the bias."""
  random = np.random.RandomState(seed)
  make = lambda x: random.rand(size, *x.shape) < .5
  return {'body': {'kernel': make(BACKBONE['body']['kernel']), 'bias': None},
          'head': jax.tree.map(make, BACKBONE['head'])}


def packed(bank):
  return jax.tree.map(lambda m: np.packbits(m.reshape(len(m), -1), axis=1),
                      bank)


def bank_of(size, seed=0):
  return superposition.of_masks(packed(draw(size, seed)), BACKBONE)


def dense_mix(bank, beliefs):
  """The definition: sum_i beliefs_i M^i with a float copy of every mask."""
  return jax.tree.map(
      lambda m: jnp.tensordot(beliefs, m.astype(np.float32), 1), bank)


def logits_of(params, x=X):
  hidden = jax.nn.relu(x @ params['body']['kernel']
                       + params['body']['bias'][None])
  return hidden @ params['head']['kernel'] * params['head']['scale'][None]


def loss(params, x=X, counted=EVERY):
  return identify.entropy(logits_of(params, x), counted)


def dense_gradient(bank):
  """d loss / d beliefs by JAX, through the float superposition."""
  return jax.jit(jax.grad(lambda beliefs: loss(
      masks.apply(BACKBONE, dense_mix(bank, beliefs)))))


def assert_close(a, b, rtol=2e-5):
  """Trees with equal structure, `None`s included, and close leaves."""
  trees.check_same_structure(a, b)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(
      x, y, rtol=rtol, atol=1e-6), a, b)


def used(size):
  return np.ones(size, bool)


def infer(rule, tasks, chosen=None, loss_fn=loss):
  """A rule, compiled as a whole."""
  chosen = used(tasks.size) if chosen is None else chosen
  return jax.jit(lambda chosen: identify.RULES[rule](
      loss_fn, BACKBONE, tasks, chosen))(chosen)


BASIS = draw(4, seed=9)
ALPHAS = jax.tree.map(
    lambda m: np.random.RandomState(m.size).randn(3, 4).astype(np.float32),
    BASIS)
