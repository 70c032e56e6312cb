"""Products in bfloat16: what is cast, what stays, and what a run gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_search

import mtl_jax
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.models import precision
from mtl_jax.serving import verification


def test_products_are_in_bfloat16_and_all_else_in_float32():
  network = models.make('lenet_300_100', 10)
  low = precision.computed(network, 'bfloat16')
  assert low is precision.computed(network, 'bfloat16')
  assert precision.computed(network, 'float32') is network
  params, stats = network.init(jax.random.key(0), (8, 8, 1))
  x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1))
  program = jax.make_jaxpr(lambda p: low.apply(p, stats, x)[0])(params)
  products = [line for line in str(program).splitlines()
              if 'dot_general' in line]
  assert len(products) == 3
  assert all('bf16[' in line.split('=')[0] for line in products)
  logits = low.apply(params, stats, x)[0]
  assert logits.dtype == jnp.float32
  want = network.apply(params, stats, x)[0]
  assert 0 < np.abs(logits - want).max() < .05 * np.abs(want).max()
  gradient = jax.grad(lambda p: low.apply(p, stats, x)[0].sum())(params)
  assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {
      jnp.dtype('float32')}


def test_norm_statistics_stay_in_float32():
  network = precision.computed(models.make('bnnet', 10, width=8), 'bfloat16')
  params, stats = network.init(jax.random.key(0), (8, 8, 1))
  x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1))
  after = network.apply(params, stats, x, True)[1]
  assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {
      jnp.dtype('float32')}
  assert trees.fingerprint(after) != trees.fingerprint(stats)


def config(dtype, **changes):
  return tiny.only('basis', backbone__compute_dtype=dtype,
                   phases__basis__tasks=(0, 2), **changes)


def test_a_run_in_bfloat16_is_loaded_and_verified_in_bfloat16(tmp_path):
  accuracies = {}
  for dtype in precision.DTYPES:
    tiny.learn(config(dtype, phases__basis__steps=60), tmp_path / dtype)
    system = mtl_jax.load(tmp_path / dtype)
    assert not verification.check(system).faults
    assert system.backbone.recipe.get('compute_dtype', 'float32') == dtype
    accuracies[dtype] = [system.task(name).metadata['record']['accuracy'][
        'valid'] for name in system.tasks]
  full, low = (mtl_jax.load(tmp_path / dtype) for dtype in precision.DTYPES)
  assert (full.backbone.recipe['fingerprint']
          == low.backbone.recipe['fingerprint'])
  assert low.task(low.tasks[0]).probe.dtype == np.float32
  np.testing.assert_allclose(accuracies['bfloat16'], accuracies['float32'],
                             atol=.08)


def test_what_can_not_be_is_refused():
  with pytest.raises(ValueError, match="'float16'.*did you mean: bfloat16"):
    config('float16')
  with pytest.raises(ValueError, match='phase grow: .*compute_dtype'):
    tiny.check(tiny_search.make(backbone__compute_dtype='bfloat16'))
