"""The algebra gives the same with and without jit, and over devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import impressions
from mtl_jax import masks

SCORES = {'dense': {'kernel': jnp.array([[.3, -1., .3], [2., 0., -.5]]),
                    'bias': None}}
PARAMS = {'dense': {'kernel': jnp.arange(1., 7.).reshape(2, 3),
                    'bias': jnp.ones(3)}}
HALF = {'dense': {'kernel': jnp.array([[True, False, True],
                                       [True, False, False]]), 'bias': None}}


class Variants(chex.TestCase):
  """Each function of the core as a user calls it, and compiled."""

  @chex.variants(with_jit=True, without_jit=True, with_device=True)
  def test_top_k(self):
    found = self.variant(lambda s: masks.top_k(s, .5))(SCORES)
    chex.assert_trees_all_equal(found, HALF)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, HALF)

  @chex.variants(with_jit=True, without_jit=True, with_device=True)
  def test_apply_keeps_structure_shapes_and_dtypes(self):
    found = self.variant(masks.apply)(PARAMS, HALF)
    chex.assert_trees_all_equal_structs(found, PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, PARAMS)
    chex.assert_trees_all_equal(found['dense']['kernel'],
                                jnp.array([[1., 0, 3.], [4., 0, 0]]))

  @chex.variants(with_jit=True, without_jit=True)
  def test_a_packed_mask_is_unpacked(self):
    packed = self.variant(masks.pack)(HALF)
    chex.assert_type(packed['dense']['kernel'], jnp.uint8)
    chex.assert_shape(packed['dense']['kernel'], (1,))
    chex.assert_trees_all_equal(
        self.variant(lambda p: masks.unpack(p, PARAMS))(packed), HALF)

  @chex.variants(with_jit=True, without_jit=True)
  def test_a_one_hot_combination_is_a_mask(self):
    basis = masks.stack([HALF, jax.tree.map(jnp.logical_not, HALF)])
    alphas = {'dense': {'kernel': jnp.array([1., 0.]), 'bias': None}}
    found = self.variant(impressions.combine)(alphas, basis)
    chex.assert_trees_all_equal(found, jax.tree.map(
        lambda m: m.astype(jnp.float32), HALF))
    chex.assert_tree_all_finite(found)

  @chex.variants(with_pmap=True)
  def test_tasks_on_devices_are_tasks_one_by_one(self):
    count = jax.local_device_count()
    scores = np.random.RandomState(0).randn(count, 5, 7).astype(np.float32)
    found = self.variant(
        lambda s: masks.top_k({'w': s}, .3)['w'],
        broadcast_args_to_devices=False, reduce_fn=None)(scores)
    chex.assert_trees_all_equal(np.asarray(found), np.stack([
        masks.top_k({'w': s}, .3)['w'] for s in scores]))
