"""Masks of arrays that are divided over devices by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import _top_k
from mtl_jax import masks


def divided():
  """A mesh of all devices, and the spec of an array divided over them."""
  return (jax.sharding.Mesh(np.array(jax.devices()), ('tasks',)),
          jax.sharding.PartitionSpec('tasks'))


@pytest.mark.skipif(not hasattr(jax, 'shard_map'), reason='an older JAX')
@pytest.mark.parametrize('form', ['searched', 'digits', 'sorted'])
@pytest.mark.parametrize('kind', [np.float32, np.int32])
def test_each_device_ranks_its_own_scores(form, kind):
  devices = jax.device_count()
  mesh, spec = divided()
  scores = np.random.RandomState(0).randint(-4, 5, (devices, 5, 6))
  given = jax.device_put(scores.astype(kind),
                         jax.sharding.NamedSharding(mesh, spec))
  one = lambda x: _top_k.select_all([x, x[:2]], [15, 4], form)
  found = jax.jit(jax.shard_map(
      jax.vmap(one), mesh=mesh, in_specs=(spec,), out_specs=spec))(given)
  found = jax.tree.map(np.asarray, found)
  for i, own in enumerate(scores):
    for mask, kept, count in ((found[0], own, 15), (found[1], own[:2], 4)):
      order = np.argsort(-kept.reshape(-1), kind='stable')[:count]
      assert sorted(np.flatnonzero(mask[i])) == sorted(order)


@pytest.mark.skipif(not hasattr(jax, 'shard_map'), reason='an older JAX')
def test_gradients_of_scores_on_each_device():
  mesh, spec = divided()
  sample = masks.straight_through(lambda s: masks.top_k(s, .5))
  slope = lambda s: jax.grad(lambda s: jnp.sum(
      masks.apply({'w': jnp.full(6, 2.)}, sample(s))['w']))(s)
  found = jax.jit(jax.shard_map(
      jax.vmap(slope), mesh=mesh, in_specs=(spec,), out_specs=spec))(
          {'w': jnp.zeros((jax.device_count(), 6))})
  np.testing.assert_array_equal(found['w'], 2.)
