"""ImpressLearn: coefficients over a basis, and where the basis comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_methods import (BACKBONE, BASIS, KERNELS, ROUTE, X, cross_entropy,
                          forward, learned)

from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import methods
from mtl_jax import trees
from mtl_jax.methods import base
from mtl_jax.methods import impresslearn
from mtl_jax.steps import optimizers


def test_coefficients_start_at_one_over_k():
  method = methods.make('impresslearn')
  found = method.init(jax.random.key(0), BACKBONE, {'basis': BASIS}, ROUTE)
  for kernel in trees.flatten(found['coefficients']).values():
    if kernel is not None:
      np.testing.assert_allclose(kernel, np.full(5, .2), rtol=1e-6)


def test_gradient_of_a_coefficient_is_the_inner_product():
  """dL/dalpha_k = <dL/dW_eff, W * M_k>, layer by layer."""
  method, backbone, shared, trainable, gradient = learned('impresslearn')
  effective = method.bind(backbone, trainable, shared, ROUTE)
  outer = trees.flatten(jax.grad(cross_entropy)(effective))
  for name in KERNELS:
    weights, basis = (np.asarray(trees.flatten(t)[name])
                      for t in (BACKBONE, BASIS))
    by_hand = [np.sum(np.asarray(outer[name]) * weights * m) for m in basis]
    found = trees.flatten(gradient['coefficients'])[name]
    np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-6)


def test_penalty_by_hand():
  alphas = {'coefficients': {'a': np.array([.5, -1.5], np.float32),
                             'b': np.array([.25, .25], np.float32),
                             'c': None}, 'scores': None}
  method = methods.make('impresslearn', penalty=.5)
  # .5 ((2 - 1)^2 + (.5 - 1)^2)
  assert float(method.penalty(alphas)) == .5 * (1. + .25)
  assert method.penalty is not base.no_penalty
  assert methods.make('impresslearn').penalty(alphas) == 0.
  slope = jax.grad(method.penalty)(alphas)['coefficients']
  np.testing.assert_allclose(slope['a'], [1., -1.])  # 2 x .5 x 1 x sign
  np.testing.assert_allclose(slope['b'], [-.5, -.5])


def test_the_hybrid_head_has_scores_and_the_body_coefficients():
  *_, trainable, _ = learned('hybrid')
  given = lambda tree: {n for n, x in trees.flatten(tree).items()
                        if x is not None}
  assert given(trainable['coefficients']) == {'body/kernel'}
  assert given(trainable['scores']) == {'head/kernel'}
  method, backbone, shared, *_ = learned('hybrid')
  impression, _ = method.commit(backbone, trainable, shared, ROUTE)
  assert impressions.bytes_by_part(impression) == {
      'masks': 3, 'coefficients': 20, 'values': 0, 'stats': 0}  # 18 bits


def test_impresslearn_refuses_what_it_cannot_combine():
  method = methods.make('impresslearn')
  with pytest.raises(ValueError, match='ImpressLearn needs a basis'):
    method.init(jax.random.key(0), BACKBONE, {}, ROUTE)
  for head, message in (('.*', 'takes every leaf of the basis'),
                        ('haed/.*', "'haed/.*' matches no leaf")):
    method = methods.make('impresslearn', head=head)
    with pytest.raises(ValueError, match=message):
      method.init(jax.random.key(0), BACKBONE, {'basis': BASIS}, ROUTE)


def test_random_basis_has_different_masks_of_exact_density():
  like = base.masked_part(BACKBONE, ['head/kernel'])
  basis = impresslearn.random_basis(jax.random.key(0), like, 4, .25)
  assert basis['body'] == {'kernel': None, 'bias': None}
  kernel = basis['head']['kernel']
  assert kernel.dtype == bool
  np.testing.assert_array_equal(jnp.sum(kernel, (1, 2)), [4] * 4)  # of 18
  assert len({trees.digest(m) for m in kernel}) == 4
  smaller = impresslearn.random_basis(jax.random.key(0), like, 2, .25)
  np.testing.assert_array_equal(smaller['head']['kernel'], kernel[:2])


def test_a_supermask_of_each_basis_task_is_reproduced():
  """Masks learned by SupSup, stacked, and picked by one-hot coefficients."""
  tasks = [learned('threshold', seed) for seed in range(3)]
  method, backbone = tasks[0][:2]
  made = [method.commit(backbone, t[3], {}, ROUTE)[0] for t in tasks]
  basis = masks.stack([impression.masks for impression in made])
  combine = methods.make('impresslearn')
  for k, impression in enumerate(made):
    own = method.materialise(backbone, impression, {})
    task = impressions.Impression(
        coefficients=impresslearn.one_hot(basis, k))
    again = combine.materialise(backbone, task, {'basis': basis})
    assert trees.fingerprint(again) == trees.fingerprint(own)
    assert trees.digest(forward(again, X)) == trees.digest(forward(own, X))


def test_one_pattern_may_stand_without_a_tuple():
  params = {'a': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}}
  chosen = base.masked_part(params, '.*kernel')
  assert chosen['a']['bias'] is None and chosen['a']['kernel'] is not None
  basis = impresslearn.Basis('random', 2, density=.5, masked='.*kernel')
  assert basis.masked == ('.*kernel',)


def test_blocks_by_hand_and_their_size():
  """W * sum_k alpha_kb M_k of the block b that an output unit lies in."""
  method, backbone, shared, trainable, _ = learned('blocks')
  assert jax.tree.map(jnp.shape, trainable['coefficients']) == {
      'body': {'bias': None, 'kernel': (5, 4)}, 'head': {'kernel': (5, 3)}}
  params = method.bind(backbone, trainable, shared, ROUTE)
  alphas = np.asarray(trainable['coefficients']['body']['kernel'])
  for unit, block in enumerate((0, 1, 1, 2, 3, 3)):  # 6 units: 1, 2, 1, 2
    mixed = np.tensordot(alphas[:, block],
                         BASIS['body']['kernel'][:, :, unit], 1)
    np.testing.assert_allclose(
        params['body']['kernel'][:, unit],
        BACKBONE['body']['kernel'][:, unit] * mixed, rtol=1e-5, atol=1e-6)
  impression, _ = method.commit(backbone, trainable, shared, ROUTE)
  assert impressions.size_in_bytes(impression) == 4 * (5 * 4 + 5 * 3)


def test_blocks_start_where_one_coefficient_a_layer_does():
  start = lambda **options: methods.make('impresslearn', **options).bind(
      BACKBONE, methods.make('impresslearn', **options).init(
          jax.random.key(0), BACKBONE, {'basis': BASIS}, ROUTE),
      {'basis': BASIS}, ROUTE)
  assert trees.fingerprint(start(blocks=3)) == trees.fingerprint(start())


def test_the_word_mask_is_the_output_layer():
  *_, trainable, _ = learned('blocks_head')
  assert trainable['scores']['body'] == {'kernel': None, 'bias': None}
  assert trainable['scores']['head']['kernel'].shape == (6, 3)


def test_the_heads_scores_have_a_learning_rate_of_their_own():
  method = methods.make('impresslearn', head='mask', head_rate=.25)
  found = learned('blocks_head')
  one, all_ = (optimizers.optimizer_of(m, optimizers.Recipe(
      3, optimizer='adam', schedule='cosine', learning_rate=.1)) for m in (
          method, methods.make('impresslearn', head='mask')))
  state, plain = (o.init(found.trainable) for o in (one, all_))
  for _ in range(2):
    step, state = one.update(found.gradient, state, found.trainable)
    whole, plain = all_.update(found.gradient, plain, found.trainable)
    factor = {'coefficients': 1., 'scores': .25}
    jax.tree.map(np.testing.assert_array_equal, step, {
        part: jax.tree.map(lambda x, f=factor[part]: f * x, leaves)
        for part, leaves in whole.items()})


def test_equal_rates_leave_the_optimizer_as_it_was():
  recipe = optimizers.Recipe(3, optimizer='adam')
  states = [jax.tree.structure(make.init({'w': jnp.ones(2)})) for make in (
      optimizers.make_optimizer(recipe), optimizers.optimizer_of(
          methods.make('impresslearn', head='mask'), recipe))]
  assert states[0] == states[1]


@pytest.mark.parametrize('options, message', [
    ({'blocks': 0}, 'blocks is 0; it must be a whole number'),
    ({'blocks': 2.5}, 'blocks'),
    ({'head': 'mask', 'head_rate': 0.}, 'head_rate is 0.0; it must be a num'),
    ({'head_rate': .5}, "no head has a mask of its own; give head='mask'")])
def test_blocks_and_rates_that_mean_nothing_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    methods.make('impresslearn', **options)
