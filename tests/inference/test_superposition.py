"""Superposed tasks against references that hold a float per weight."""

import jax
import numpy as np
import pytest
import tiny_banks as banks

from mtl_jax.inference import superposition


@pytest.mark.parametrize('at_once', [1, 2, 3, 2 ** 23])
@pytest.mark.parametrize('size', [1, 7])
def test_masks_mix_and_agree_like_dense_ones(monkeypatch, size, at_once):
  monkeypatch.setattr(superposition, 'BLOCK_WEIGHTS', 20 * at_once)
  bank, tasks = banks.draw(size), banks.bank_of(size)
  # Eighths: their sums have no rounding.
  beliefs = banks.RANDOM.randint(-8, 9, size).astype(np.float32) / 8
  assert tasks.size == size
  mixed = tasks.mix(beliefs)
  jax.tree.map(np.testing.assert_array_equal, mixed,
               banks.dense_mix(bank, beliefs))
  assert mixed['body']['bias'] is None
  cotangent = jax.tree.map(lambda m: banks.RANDOM.randn(*m.shape[1:]).astype(
      np.float32), bank)
  by_hand = [sum(float(c[m[i]].sum()) for c, m in zip(
      jax.tree.leaves(cotangent), jax.tree.leaves(bank)))
             for i in range(size)]
  np.testing.assert_allclose(tasks.agree(cotangent), by_hand, rtol=1e-4,
                             atol=1e-5)


@pytest.mark.parametrize('make', ['masks', 'coefficients', 'blocks', 'joined',
                                  'hybrid'])
def test_agree_is_the_transpose_of_mix(make):
  tasks = KINDS[make]()
  beliefs = banks.RANDOM.randn(tasks.size).astype(np.float32)
  mixed, pull = jax.vjp(tasks.mix, beliefs)
  cotangent = jax.tree.map(lambda m: banks.RANDOM.randn(*m.shape).astype(
      np.float32), mixed)
  np.testing.assert_allclose(tasks.agree(cotangent), pull(cotangent)[0],
                             rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('make', ['masks', 'coefficients', 'blocks', 'joined',
                                  'hybrid'])
def test_one_is_mix_with_all_belief_in_it(make):
  tasks = KINDS[make]()
  one, mix = jax.jit(tasks.one), jax.jit(tasks.mix)
  for i, belief in enumerate(np.eye(tasks.size, dtype=np.float32)):
    banks.assert_close(one(i), mix(belief))


def test_mix_and_agree_under_vmap(monkeypatch):
  monkeypatch.setattr(superposition, 'BLOCK_WEIGHTS', 40)
  tasks = banks.bank_of(5)
  beliefs = banks.RANDOM.randn(3, 5).astype(np.float32)
  mix, agree = jax.jit(tasks.mix), jax.jit(tasks.agree)
  mixed = jax.jit(jax.vmap(mix))(beliefs)
  found = jax.jit(jax.vmap(agree))(mixed)
  for i in range(3):
    alone = mix(beliefs[i])
    banks.assert_close(jax.tree.map(lambda x: x[i], mixed), alone)
    np.testing.assert_allclose(found[i], agree(alone), rtol=1e-4, atol=1e-5)


def hybrid():
  """Tasks with coefficients for the body and a mask of their own above."""
  own = banks.draw(3, seed=4)
  own['body']['kernel'] = None
  combined = dict(banks.ALPHAS, head={'kernel': None, 'scale': None})
  return superposition.beside(
      superposition.of_masks(banks.packed(own), banks.BACKBONE),
      superposition.of_coefficients(combined, banks.BASIS))


def in_blocks(alphas):
  """Coefficients [T, K, 2] for two blocks of units."""
  return jax.tree.map(lambda a: np.stack([a, 2 * a[::-1]], -1), alphas)


KINDS = {
    'masks': lambda: banks.bank_of(5),
    'coefficients': lambda: superposition.of_coefficients(
        banks.ALPHAS, banks.BASIS),
    'blocks': lambda: superposition.of_coefficients(
        in_blocks(banks.ALPHAS), banks.BASIS),
    'joined': lambda: superposition.joined(
        banks.bank_of(5),
        superposition.of_coefficients(banks.ALPHAS, banks.BASIS)),
    'hybrid': hybrid,
}


def test_coefficients_mix_like_dense_ones():
  beliefs = banks.RANDOM.randn(3).astype(np.float32)
  dense = jax.tree.map(
      lambda a, m: np.einsum('t,tk,k...->...', beliefs, a, m), banks.ALPHAS,
      banks.BASIS)
  banks.assert_close(KINDS['coefficients']().mix(beliefs), dense, rtol=1e-4)


def test_blocks_mix_like_dense_ones():
  beliefs = banks.RANDOM.randn(3).astype(np.float32)

  def dense(a, m):
    units = np.arange(m.shape[-1]) >= m.shape[-1] // 2  # 3 units: 1 and 2
    return np.einsum('t,tku,k...u->...u', beliefs, a[..., units.astype(int)], m)
  banks.assert_close(KINDS['blocks']().mix(beliefs), jax.tree.map(
      dense, in_blocks(banks.ALPHAS), banks.BASIS), rtol=1e-4)


def test_joined_keeps_the_order_and_beside_the_leaves():
  a, b = banks.draw(2, seed=1), banks.draw(3, seed=2)
  both = jax.tree.map(lambda x, y: np.concatenate([x, y]), a, b)
  tasks = superposition.joined(
      superposition.of_masks(banks.packed(a), banks.BACKBONE),
      superposition.of_masks(banks.packed(b), banks.BACKBONE))
  beliefs = np.array([1, 2, 4, 8, 16], np.float32)
  assert tasks.size == 5
  jax.tree.map(np.testing.assert_array_equal, tasks.mix(beliefs),
               banks.dense_mix(both, beliefs))
  own, mixed = banks.draw(3, seed=4), hybrid().mix(beliefs[:3])
  banks.assert_close(mixed['head'], banks.dense_mix(own, beliefs[:3])['head'])
  banks.assert_close(mixed['body'],
                     KINDS['coefficients']().mix(beliefs[:3])['body'])


def test_joined_tasks_mask_the_same_leaves():
  fewer = banks.packed(banks.draw(2))
  fewer['body']['kernel'] = None
  tasks = superposition.joined(
      superposition.of_masks(fewer, banks.BACKBONE), banks.bank_of(3))
  with pytest.raises(ValueError, match='body/kernel'):
    tasks.mix(np.ones(5, np.float32))


def test_normalised_divides_by_the_sum_of_magnitudes():
  alphas = {'a': np.array([[3., -1.], [0., 0.], [.5, .5]], np.float32),
            'b': None}
  found = superposition.normalised(alphas)
  np.testing.assert_allclose(found['a'], [[.75, -.25], [0, 0], [.5, .5]])
  assert found['b'] is None
  blocks = superposition.normalised(
      {'a': np.stack([alphas['a'], 3 * alphas['a']], -1)})['a']
  np.testing.assert_allclose(blocks, np.stack([found['a']] * 2, -1))


def test_a_bank_that_does_not_fit_is_refused():
  bits = banks.packed(banks.draw(3))
  with pytest.raises(ValueError, match='the bank is empty'):
    superposition.of_masks(jax.tree.map(lambda _: None, bits), banks.BACKBONE)
  wrong = dict(bits, head=dict(bits['head'], kernel=bits['head']['scale']))
  with pytest.raises(ValueError, match=r'\(3, 1\) but head/kernel of shape '
                                       r'\(5, 3\) needs \[3, 2\] bytes'):
    superposition.of_masks(wrong, banks.BACKBONE)
  fewer = dict(bits, head=dict(bits['head'], scale=bits['head']['scale'][:2]))
  with pytest.raises(ValueError, match='head/scale of shape'):
    superposition.of_masks(fewer, banks.BACKBONE)
  with pytest.raises(ValueError, match='leaf head/scale is in the .* but not'):
    superposition.of_masks(bits, dict(banks.BACKBONE, head={'kernel': 0}))
