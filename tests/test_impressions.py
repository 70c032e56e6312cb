"""Combination and materialisation, on little matrices and by tensordot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import trees
from mtl_jax.methods import impresslearn

Impression = impressions.Impression

BACKBONE = {'w': np.array([[1., -2.], [3., -4.]], np.float32),
            'b': np.array([5., 6.], np.float32)}
BASIS = {'w': np.array([[[1, 0], [0, 1]], [[1, 1], [0, 0]],
                        [[0, 0], [1, 1]]], bool), 'b': None}


def test_combine_by_hand():
  found = impressions.combine(
      {'w': np.array([.5, 2., -1.], np.float32), 'b': None}, BASIS)
  np.testing.assert_array_equal(found['w'], [[2.5, 2.], [-1., -.5]])
  assert found['b'] is None


def pulled(alphas, basis, cotangent):
  """The combination, and the gradient of its product with `cotangent`."""
  out, back = jax.vjp(
      lambda a: impressions.combine({'w': a}, {'w': basis})['w'], alphas)
  return out, back(cotangent)[0]


@pytest.mark.parametrize('wrap, tasks', [
    (lambda f: f, ()), (jax.jit, ()),
    (lambda f: jax.jit(jax.vmap(f, in_axes=(0, None, 0))), (4,))])
def test_combine_is_tensordot_in_value_and_gradient(wrap, tasks):
  random = np.random.RandomState(0)
  alphas = random.randn(*tasks, 7).astype(np.float32)
  basis = random.rand(7, 5, 6) < .5
  cotangent = random.randn(*tasks, 5, 6).astype(np.float32)
  out, gradient = wrap(pulled)(alphas, basis, cotangent)
  close = dict(rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(out, np.tensordot(alphas, basis, 1), **close)
  np.testing.assert_allclose(
      gradient, np.tensordot(cotangent, basis, ((-2, -1), (1, 2))), **close)


@pytest.mark.parametrize('wrap, tasks', [
    (lambda f: f, ()),
    (lambda f: jax.jit(jax.vmap(f, in_axes=(0, None, 0))), (4,))])
@pytest.mark.parametrize('blocks, edges', [
    (1, [0, 7]), (3, [0, 2, 4, 7]), (7, range(8))])
def test_blocks_combine_as_if_each_were_a_leaf(wrap, tasks, blocks, edges):
  random = np.random.RandomState(0)
  alphas = random.randn(*tasks, 4, blocks).astype(np.float32)
  basis = random.rand(4, 5, 7) < .5
  cotangent = random.randn(*tasks, 5, 7).astype(np.float32)
  out, gradient = wrap(pulled)(alphas, basis, cotangent)
  for n, (lo, hi) in enumerate(zip(edges, edges[1:])):
    one, slope = wrap(pulled)(alphas[..., n], basis[..., lo:hi],
                              cotangent[..., lo:hi])
    np.testing.assert_allclose(out[..., lo:hi], one, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient[..., n], slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('units', [False, True])
@pytest.mark.parametrize('wrap, tasks', [
    (jax.jit, ()), (lambda f: jax.jit(jax.vmap(f, (None, 0))), (4,))])
def test_agreement_at_once_is_that_mask_by_mask(wrap, tasks, units):
  """What accelerators compute, and what the CPU does."""
  random = np.random.RandomState(0)
  basis = random.rand(7, 5, 6) < .5
  cotangent = random.randn(*tasks, 5, 6).astype(np.float32)
  forms = [wrap(lambda m, c, f=f: f(m, c, units))(basis, cotangent) for f in (
      impressions.agreement, impressions._agreement_at_once)]
  assert forms[0].shape == (*tasks, 7, *([6] if units else []))
  np.testing.assert_allclose(*forms, rtol=1e-5, atol=1e-5)


def scratch_bytes(f, *arguments):
  compiled = jax.jit(f).lower(*arguments).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_combine_makes_no_float_copy_of_the_basis():
  alphas, basis = np.ones(16, np.float32), np.zeros((16, 64, 64), bool)
  cotangent = np.ones((64, 64), np.float32)
  dense = lambda a, m, v: (jnp.tensordot(a, m.astype(jnp.float32), 1),
                           jnp.tensordot(m.astype(jnp.float32), v, 2))
  assert scratch_bytes(dense, alphas, basis, cotangent) >= 4 * basis.size
  assert scratch_bytes(pulled, alphas, basis, cotangent) < basis.size


@pytest.mark.parametrize('alphas, message', [
    ({'w': np.ones(2, np.float32), 'b': None},
     r'w has coefficients of shape \(2,\) but 3 basis masks'),
    ({'w': np.ones((3, 1, 1), np.float32), 'b': None},
     'w has coefficients of'),
    ({'w': np.ones((3, 9), np.float32), 'b': None},
     'w has coefficients for 9 blocks, but . output units; take'),
    ({'w': np.ones(3, np.float32), 'b': np.ones(3, np.float32)},
     'b has coefficients but no basis masks'),
    ({'w': np.ones(3, np.float32)}, 'leaf b is in the second tree but not')])
def test_combine_refuses_coefficients_that_do_not_fit(alphas, message):
  with pytest.raises(ValueError, match=message):
    impressions.combine(alphas, BASIS)


def test_materialise_takes_own_values_then_masks():
  mask = {'w': np.array([[1, 0], [0, 1]], bool), 'b': None}
  values = {'w': None, 'b': np.array([-1., -2.], np.float32)}
  found = impressions.materialise(BACKBONE, Impression(masks=mask,
                                                       values=values))
  np.testing.assert_array_equal(found['w'], [[1., 0.], [0., -4.]])
  np.testing.assert_array_equal(found['b'], [-1., -2.])
  owned = {'w': np.full((2, 2), 9., np.float32), 'b': None}
  found = impressions.materialise(BACKBONE, Impression(masks=mask,
                                                       values=owned))
  np.testing.assert_array_equal(found['w'], [[9., 0.], [0., 9.]])
  np.testing.assert_array_equal(found['b'], BACKBONE['b'])


def test_an_empty_impression_is_the_backbone():
  found = impressions.materialise(BACKBONE, Impression())
  assert trees.fingerprint(found) == trees.fingerprint(BACKBONE)


def test_the_hybrid_head_has_a_mask_of_its_own():
  backbone = {'body': BACKBONE['w'], 'head': BACKBONE['w']}
  basis = {'body': BASIS['w'], 'head': BASIS['w']}
  task = Impression(
      masks={'body': None, 'head': np.array([[0, 1], [1, 0]], bool)},
      coefficients={'body': np.array([2., 0., .5], np.float32), 'head': None})
  found = impressions.materialise(backbone, task, basis)
  np.testing.assert_array_equal(found['body'], [[2., 0.], [1.5, -10.]])
  np.testing.assert_array_equal(found['head'], [[0., -2.], [3., 0.]])


@pytest.mark.parametrize('k', range(3))
def test_one_hot_coefficients_are_the_basis_task_bit_for_bit(k):
  random = np.random.RandomState(k)
  backbone = {'w': random.randn(6, 5).astype(np.float32),
              'head': random.randn(5, 3).astype(np.float32)}
  basis = {'w': random.rand(3, 6, 5) < .5, 'head': random.rand(3, 5, 3) < .5}
  x = random.randn(8, 6).astype(np.float32)
  own = Impression(masks=jax.tree.map(lambda m: m[k], basis))
  one_hot = Impression(coefficients=impresslearn.one_hot(basis, k))

  @jax.jit
  def network(impression, basis):
    params = impressions.materialise(backbone, impression, basis)
    return params, jnp.maximum(x @ params['w'], 0) @ params['head']

  params, logits = network(own, None)
  again, logits_again = network(one_hot, basis)
  assert trees.fingerprint(again) == trees.fingerprint(params)
  assert trees.digest(logits_again) == trees.digest(logits)
  assert trees.fingerprint(params) == trees.fingerprint(  # and without jit
      impressions.materialise(backbone, one_hot, basis))


@pytest.mark.parametrize('task, message', [
    (Impression(coefficients={'w': np.ones(3, np.float32), 'b': None}),
     'the impression holds coefficients: pass the basis'),
    (Impression(masks={'w': np.ones((2, 3), bool), 'b': None}),
     r'mask has shape \(2, 3\) but w is \(2, 2\)'),
    (Impression(values={'w': None, 'b': np.ones(3, np.float32)}),
     r'an owned value has shape \(3,\) but b is \(2,\)'),
    (Impression(values={'w': None}), 'leaf b is in the second tree but not')])
def test_materialise_refuses_what_does_not_fit(task, message):
  with pytest.raises(ValueError, match=message):
    impressions.materialise(BACKBONE, task)


def test_size_in_bytes_packs_every_leaf_of_the_masks():
  task = Impression(
      masks={'a': np.ones(17, bool), 'b': np.ones((2, 4), bool), 'c': None},
      coefficients={'a': np.ones(10, np.float32)},
      values={'c': np.ones(3, np.float32), 'd': np.ones(3, np.float16)},
      stats={'mean': np.ones(2, np.float32)})
  assert impressions.bytes_by_part(task) == {
      'masks': 3 + 1, 'coefficients': 40, 'values': 12 + 6, 'stats': 8}
  assert impressions.size_in_bytes(task) == 4 + 40 + 18 + 8
  assert impressions.size_in_bytes(Impression()) == 0
  packed = masks.pack(task.masks)
  assert trees.nbytes(packed) == 4


# Networks of a structure of their own.


GROWN = impressions.Impression(
    values={'head': {'w': np.ones((2, 5), np.float32)},
            'new': np.full(3, 2., np.float32)},
    structure=impressions.Structure(('body', 'head', 'new')))
SMALL = {'body': {'a': np.zeros(2, np.float32), 'b': np.ones(2, np.float32)},
         'dropped': np.zeros(1, np.float32),
         'head': {'w': np.zeros((2, 3), np.float32)}}


def test_a_structure_adds_drops_and_reshapes():
  params = impressions.materialise(SMALL, GROWN)
  assert sorted(trees.flatten(params)) == ['body/a', 'body/b', 'head/w', 'new']
  assert params['head']['w'].shape == (2, 5) and params['new'][0] == 2
  assert params['body']['b'] is SMALL['body']['b']  # not a copy
  own = GROWN._replace(values=GROWN.values | {'body': {
      'a': np.full(2, 7., np.float32), 'b': None}})
  params = impressions.materialise(SMALL, own)
  assert params['body']['a'][0] == 7 and params['body']['b'][0] == 1
  compiled = jax.jit(impressions.materialise)(SMALL, own)
  assert trees.fingerprint(compiled) == trees.fingerprint(params)
  assert impressions.bytes_by_part(GROWN) == {
      'masks': 0, 'coefficients': 0, 'values': 52, 'stats': 0}


@pytest.mark.parametrize('changes, text', [
    (dict(structure=impressions.Structure(('body', 'new', 'other'))),
     'holds values of head, which is not part'),
    (dict(values=None), 'neither the impression nor the backbone has new'),
    (dict(masks={'body': None}), 'takes neither masks nor coefficients')])
def test_structures_that_do_not_fit(changes, text):
  with pytest.raises(ValueError, match=text):
    impressions.materialise(SMALL, GROWN._replace(**changes))
