"""Our max pool is `lax.reduce_window`, its gradient too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mtl_jax.models import pooling

CASES = [(2, 2, 0), (2, 1, 0), (3, 2, 1)]


def reference(x, window, stride, padding):
  around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1),
                           (1, stride, stride, 1), around)


def value_and_gradient(pool, x, *case):
  y, pull = jax.vjp(lambda x: pool(x, *case), x)
  return y, *pull(jnp.arange(1, y.size + 1, dtype=y.dtype).reshape(y.shape))


@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('levels', [3, 1000], ids=['ties', 'distinct'])
def test_value_and_gradient(case, levels):
  x = jnp.asarray(np.random.RandomState(0).randint(
      0, levels, (2, 7, 8, 3)).astype(np.float32))
  for found, wanted in zip(value_and_gradient(pooling.max_pool, x, *case),
                           value_and_gradient(reference, x, *case),
                           strict=True):
    np.testing.assert_array_equal(found, wanted)


def test_nan_stays():
  x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 2, 0].set(jnp.nan)
  for case in CASES:
    np.testing.assert_array_equal(jnp.isnan(pooling.max_pool(x, *case)),
                                  jnp.isnan(reference(x, *case)))


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='about the CPU')
def test_gradient_is_elementwise():
  compiled = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(
      pooling.max_pool(x))))).lower(jnp.ones((2, 8, 8, 3))).compile()
  assert 'select-and-scatter' not in compiled.as_text()
