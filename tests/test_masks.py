"""The algebra of masks, on little matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import _mask_leaves
from mtl_jax import _top_k
from mtl_jax import masks
from mtl_jax import trees

A = {'w': np.array([[1, 1, 0], [0, 1, 0]], bool), 'b': None}
B = {'w': np.array([[0, 1, 0], [1, 1, 0]], bool), 'b': None}
PARAMS = {'w': np.array([[1., -2., 3.], [-4., 5., -6.]], np.float32),
          'b': np.array([7.], np.float32)}


def assert_equal(tree, expected):
  """Same structure, dtypes and values."""
  trees.check_same_structure(tree, expected)
  for name, want in trees.flatten(expected).items():
    found = trees.flatten(tree)[name]
    if want is None:
      assert found is None, name
    else:
      assert found.dtype == want.dtype, name
      np.testing.assert_array_equal(np.asarray(found), want, err_msg=name)


# Applying.


def test_apply_multiplies_masked_leaves_alone():
  assert_equal(masks.apply(PARAMS, A), PARAMS | {
      'w': np.array([[1., -2., 0.], [0., 5., 0.]], np.float32)})
  half = {'w': np.full((2, 3), .5, np.float32), 'b': np.zeros(1, np.float32)}
  assert_equal(masks.apply(PARAMS, half), {'w': PARAMS['w'] / 2,
                                    'b': np.zeros(1, np.float32)})


def test_apply_keeps_the_dtype_of_the_parameters():
  params = {'w': jnp.ones((2, 3), jnp.bfloat16), 'b': None}
  assert masks.apply(params, A)['w'].dtype == jnp.bfloat16


def test_apply_names_the_leaf_that_does_not_fit():
  with pytest.raises(ValueError, match=(
      r'mask has shape \(3, 2\) but a/kernel is \(2, 3\)')):
    masks.apply({'a': {'kernel': PARAMS['w']}}, {'a': {'kernel': A['w'].T}})
  with pytest.raises(ValueError, match=r'mask has shape \(1, 3\) but w is'):
    masks.apply(PARAMS, {'w': np.ones((1, 3), bool), 'b': None})
  with pytest.raises(ValueError, match='leaf b is in the first tree but not'):
    masks.apply(PARAMS, {'w': A['w']})


# Sampling.


def test_threshold():
  scores = {'w': np.array([-1., -0., 0., .3, np.inf], np.float32), 'b': None}
  assert_equal(masks.threshold(scores),
        {'w': np.array([0, 1, 1, 1, 1], bool), 'b': None})
  assert_equal(masks.threshold(scores, at=.3),
        {'w': np.array([0, 0, 0, 1, 1], bool), 'b': None})


SIZE = 11


def top_k_cases():
  """float32 [cases, SIZE]: random, tied, and every awkward kind of float."""
  random = np.random.RandomState(0)
  normal = random.randn(40, SIZE)
  tiny = np.float32(1e-45)
  odd = np.array([0., -0., tiny, -tiny, 3 * tiny, 1e-38, -1e-38, 1., -1.,
                  np.inf, -np.inf, 3.4028235e38, -3.4028235e38, 1 + 2.**-23])
  rows = [
      normal, np.abs(normal), -np.abs(normal),
      np.exp(20 * normal), -np.exp(20 * normal),
      random.randint(-2, 3, (40, SIZE)),
      random.choice(odd, (80, SIZE)),
      random.choice([np.inf, -np.inf], (5, SIZE)),
      random.choice([0., -0.], (5, SIZE)),
      random.choice([tiny, 2 * tiny, -tiny, 0.], (10, SIZE)),
      1 + random.randint(0, 3, (10, SIZE)) * 2.**-23,
      np.sort(normal[:3]), np.sort(normal[:3])[:, ::-1],
      np.zeros((1, SIZE)), np.full((1, SIZE), np.inf),
      np.full((1, SIZE), -np.inf), np.full((1, SIZE), -3.5),
      np.where(np.arange(SIZE) == 5, np.inf, -np.inf)[None],
      np.where(np.arange(SIZE) == 5, -1e38, 1e38)[None],
  ]
  return np.concatenate(rows).astype(np.float32)


def reference_top_k(row, k):
  kept = np.zeros(row.size, bool)
  kept[np.argsort(-row.ravel(), kind='stable')[:k]] = True
  return kept.reshape(row.shape)


@pytest.mark.parametrize('ks', np.split(np.arange(SIZE + 1), 3), ids=str)
def test_top_k_is_exact_under_jit_and_vmap(ks):
  cases = top_k_cases()
  program = jax.jit(jax.vmap(lambda scores: [
      masks.top_k(scores, density=k / SIZE) for k in ks.tolist()]))
  for k, found in zip(ks, program({'w': cases, 'b': None})):
    for row, kept in zip(cases, np.asarray(found['w'])):
      np.testing.assert_array_equal(kept, reference_top_k(row, k),
                                    err_msg=f'{k} of {row}')


@pytest.mark.parametrize('form', ['sorted', 'searched', 'digits'])
def test_every_form_of_top_k_is_exact(form):
  """What GPUs compute, and what other platforms do, of several leaves."""
  cases, ks = top_k_cases(), (0, 1, 4, 10, SIZE)
  program = jax.jit(jax.vmap(lambda row: _top_k.select_all(
      [row] * len(ks), list(ks), form)))
  for k, found in zip(ks, program(cases)):
    for row, kept in zip(cases, np.asarray(found)):
      np.testing.assert_array_equal(kept, reference_top_k(row, k),
                                    err_msg=f'{form} {k} of {row}')


@pytest.mark.parametrize('form', ['sorted', 'digits'])
def test_forms_of_top_k_agree_on_leaves_of_many_sizes(form):
  random = np.random.RandomState(2)
  shapes = [(3, 3, 20, 20), (1,), (2, _top_k.WIDTH), (5, 7), (4000,)]
  leaves = [jnp.asarray(np.round(random.randn(2, *shape), digits), jnp.float32)
            for shape, digits in zip(shapes, (1, 3, 0, 7, 2))]  # tied or not
  counts = [1500, 1, 2000, 0, 39]
  program = jax.jit(jax.vmap(lambda many: _top_k.select_all(
      many, counts, form)))
  for leaf, k, found in zip(leaves, counts, program(leaves), strict=True):
    for row, kept in zip(np.asarray(leaf), np.asarray(found)):
      np.testing.assert_array_equal(kept, reference_top_k(row, k))


def test_top_k_on_a_gpu_has_no_loop_that_waits_for_the_host(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  scores = {'w': np.zeros((4, 6), np.float32), 'v': np.ones(3, np.float32)}
  found = primitives(jax.make_jaxpr(
      lambda s: masks.top_k(s, .5))(scores).jaxpr)
  assert 'scan' in found and not {'while', 'sort', 'top_k'} & found


@pytest.mark.parametrize('form', ['sorted', 'searched', 'digits'])
@pytest.mark.parametrize('dtype', [np.int8, np.uint8, np.int16, np.uint16])
def test_every_form_of_top_k_is_exact_for_small_integers(dtype, form):
  ends = np.iinfo(dtype)
  scores = np.random.RandomState(3).randint(ends.min, ends.max, (30, 40), int)
  scores.ravel()[::7] = ends.max
  scores.ravel()[::11] = ends.min
  for k in (1, 100, 171, 172, 600, 1190):
    found, = _top_k.select_all([jnp.asarray(scores, dtype)], [k], form)
    np.testing.assert_array_equal(found, reference_top_k(scores, k))


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.float32])
def test_top_k_of_a_large_leaf_of_any_float(dtype):
  scores = jnp.asarray(np.random.RandomState(1).randn(60, 70), dtype)
  found = masks.top_k({'w': scores}, 0.1)['w']  # many ties in 16 bits
  np.testing.assert_array_equal(
      found, reference_top_k(np.asarray(scores, np.float32), 420))


def primitives(jaxpr):
  """Names of all primitives, those of inner jaxprs included."""
  names = set()
  for equation in jaxpr.eqns:
    names.add(equation.primitive.name)
    for inner in jax.tree.leaves(
        list(equation.params.values()),
        is_leaf=lambda x: hasattr(x, 'eqns') or hasattr(x, 'jaxpr')):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns'):
        names |= primitives(inner)
  return names


@pytest.mark.skipif(jax.default_backend() == 'gpu', reason='has no while')
@pytest.mark.parametrize('dtype', [np.float32, np.int16, np.uint8])
def test_top_k_never_sorts(dtype):
  scores = {'w': np.zeros((4, 5), dtype)}
  program = lambda f: primitives(jax.make_jaxpr(f)(scores).jaxpr)
  sorts = {'sort', 'top_k', 'approx_top_k'}
  assert sorts & program(lambda s: jnp.sort(s['w']))
  assert sorts & program(jax.jit(lambda s: jax.lax.top_k(s['w'], 2)))
  found = program(jax.jit(functools.partial(masks.top_k, density=0.5)))
  assert 'while' in found and not sorts & found


@pytest.mark.parametrize('size, density, kept', [
    (5, 0.5, 2), (7, 0.5, 4),  # Python's round: halves to even
    (3, 0.2, 1), (3, 0.1, 0), (3, 1, 3), (3, 0, 0), (1, 0.5, 0), (1, 0.6, 1)])
def test_top_k_keeps_round_density_times_size(size, density, kept):
  found = masks.top_k({'w': np.zeros(size, np.float32)}, density)['w']
  np.testing.assert_array_equal(found, np.arange(size) < kept)


def test_top_k_takes_a_density_per_leaf():
  scores = {'a': np.array([3., 2., 1., 0.], np.float32),
            'b': np.array([0., 1., 2., 3.], np.float32), 'c': None}
  assert_equal(masks.top_k(scores, {'a': .25, 'b': .75, 'c': None}),
        {'a': np.array([1, 0, 0, 0], bool),
         'b': np.array([0, 1, 1, 1], bool), 'c': None})


@pytest.mark.parametrize('density', [-0.1, 1.1, float('nan')])
@pytest.mark.parametrize('sample', [
    masks.top_k, functools.partial(masks.random, jax.random.key(0))])
def test_a_density_outside_0_to_1_is_refused(sample, density):
  leaves = {'a': {'kernel': np.zeros(4, np.float32)}}
  with pytest.raises(ValueError, match=(
      f'density of a/kernel is {density}; it must lie between 0 and 1')):
    sample(leaves, density)
  with pytest.raises(ValueError, match='density of a/kernel is None'):
    sample(leaves, {'a': {'kernel': None}})


def test_random_has_exactly_its_density_everywhere_equally_often():
  like = {'w': np.zeros((3, 4)), 'b': None}
  keys = jax.random.split(jax.random.key(0), 2000)
  drawn = jax.jit(jax.vmap(
      lambda k: masks.random(k, like, density=.25)['w']))(keys)
  np.testing.assert_array_equal(jnp.sum(drawn, (1, 2)), np.full(2000, 3))
  # Standard deviation of a mean of 2000 draws at 1/4: under 0.01.
  np.testing.assert_allclose(np.mean(drawn, 0), np.full((3, 4), .25), atol=.05)


def test_random_leaves_do_not_depend_on_each_other():
  draw = functools.partial(masks.random, density=.5)
  like = {'v': np.zeros(64), 'w': np.zeros(64)}
  both = draw(jax.random.key(3), like)
  np.testing.assert_array_equal(
      both['w'], draw(jax.random.key(3), {'w': like['w']})['w'])
  assert np.any(both['v'] != both['w'])
  assert np.any(both['w'] != draw(jax.random.key(4), like)['w'])


@pytest.mark.parametrize('sample', [
    masks.threshold, functools.partial(masks.top_k, density=.5)])
def test_straight_through_passes_the_gradient_of_the_mask(sample):
  scores = {'w': np.array([-1., 2., -3., 4.], np.float32), 'b': None}
  weights = np.array([5., 6., 7., 8.], np.float32)
  soft = masks.straight_through(sample)
  assert_equal(soft(scores), {'w': np.array([0, 1, 0, 1], np.float32),
                              'b': None})

  def loss(s):
    return jnp.sum((soft(s)['w'] * weights) ** 2)
  # dL/dmask = 2 mask weights^2: 0 where the mask is 0, whatever the score.
  expected = {'w': np.array([0., 72., 0., 128.], np.float32), 'b': None}
  assert_equal(jax.jit(jax.grad(loss))(scores), expected)
  many = {'w': np.stack([scores['w'], -scores['w']]), 'b': None}
  assert_equal(jax.vmap(jax.grad(loss))(many), {'b': None, 'w': np.array(
      [[0., 72., 0., 128.], [50., 0., 98., 0.]], np.float32)})


# Sets.


def test_set_operations():
  w = lambda *rows: {'w': np.array(rows, bool), 'b': None}
  assert_equal(masks.union(A, B), w([1, 1, 0], [1, 1, 0]))
  assert_equal(masks.intersection(A, B), w([0, 1, 0], [0, 1, 0]))
  assert_equal(masks.difference(A, B), w([1, 0, 0], [0, 0, 0]))
  assert_equal(masks.difference(B, A), w([0, 0, 0], [1, 0, 0]))


def test_density_and_overlap_count_over_all_leaves():
  a = A | {'b': np.array([1, 1], bool)}
  b = B | {'b': np.array([0, 0], bool)}
  assert float(masks.density(a)) == (3 + 2) / 8
  assert float(masks.density(A)) == 3 / 6
  assert_equal(masks.densities(a), {'w': np.float32(.5), 'b': np.float32(1.)})
  assert float(masks.overlap(a, b)) == np.float32(2 / 6)
  assert float(jax.jit(masks.overlap)(A, A)) == 1.
  none = {'w': np.zeros((2, 3), bool), 'b': None}
  assert float(masks.overlap(none, none)) == 1.
  assert float(masks.overlap(none, A)) == 0.


@pytest.mark.parametrize('f', [
    masks.union, masks.intersection, masks.difference, masks.overlap,
    lambda a, b: masks.stack([a, a, b])])
def test_masks_that_do_not_match_are_refused_by_leaf(f):
  with pytest.raises(ValueError, match='b is masked in one mask and not in'):
    f(A, A | {'b': np.ones(1, bool)})
  with pytest.raises(ValueError, match=r'w has shape \(2, 3\) in one mask and '
                     r'\(3, 2\) in the other'):
    f(A, A | {'w': A['w'].T})


def test_a_mask_that_covers_nothing_is_refused():
  with pytest.raises(ValueError, match='the mask covers nothing'):
    masks.density({'w': None, 'b': None})


def test_stack_is_in_order():
  assert_equal(masks.stack([A, B, B]),
        {'w': np.stack([A['w'], B['w'], B['w']]), 'b': None})
  assert_equal(masks.stack(iter([A])), {'w': A['w'][None], 'b': None})
  with pytest.raises(ValueError, match='a basis needs at least one mask'):
    masks.stack([])


# Storage.


def test_pack_is_one_bit_per_weight_and_unpack_its_inverse():
  random = np.random.RandomState(0)
  mask = {str(n): random.rand(n) < .5 for n in range(1, 41)}
  mask |= {'2d': random.rand(3, 7) < .5, '4d': random.rand(3, 3, 2, 5) < .5,
           'all': np.ones(13, bool), 'empty': np.zeros((0, 3), bool),
           'none': None}
  packed = jax.jit(masks.pack)(mask)
  assert_equal(packed, {name: None if m is None else np.packbits(m)
                 for name, m in mask.items()})
  assert packed['40'].nbytes == 5 and packed['33'].nbytes == 5
  like = mask | {'none': np.zeros(3)}
  assert_equal(jax.jit(lambda p: masks.unpack(p, like))(packed), mask)
  many = {'w': random.rand(4, 3, 3) < .5}
  assert_equal(jax.vmap(lambda p: masks.unpack(p, {'w': np.zeros((3, 3))}))(
      jax.vmap(masks.pack)(many)), many)


def test_unpack_refuses_another_number_of_bytes():
  packed = masks.pack({'a': {'kernel': np.ones(17, bool)}})
  with pytest.raises(ValueError, match=(
      r'packed mask has 3 bytes but a/kernel of shape \(5, 5\) needs 4')):
    masks.unpack(packed, {'a': {'kernel': np.zeros((5, 5))}})


# Counts.


def test_more_weights_than_int32_counts():
  """Counts don't overflow, and a leaf that can't be ranked is named."""
  shape = jax.ShapeDtypeStruct((2 ** 31,), jnp.bool_)
  tree = {'w': shape, 'v': jax.ShapeDtypeStruct((2 ** 11, 2 ** 20), jnp.bool_)}
  for count in (masks.density, lambda m: masks.overlap(m, m)):
    assert jax.eval_shape(count, tree).shape == ()
  # No part is longer than int32 counts, and none is summed as float32.
  text = str(jax.make_jaxpr(_mask_leaves.count)(tree))
  sums = [line for line in text.splitlines() if 'reduce_sum' in line]
  assert len(sums) == 4 and all(':i32[]' in line for line in sums), text
  scores = {'a': jax.ShapeDtypeStruct((2 ** 31,), jnp.float32)}
  for call in (lambda s: masks.top_k(s, .5),
               lambda s: masks.random(jax.random.key(0), s, .5)):
    with pytest.raises(ValueError, match='a has 2,147,483,648 weights, and a '
                                         'leaf is ranked up to 2,147,483,647'):
      jax.eval_shape(call, scores)


@pytest.mark.parametrize('most', [9, 40])
def test_counts_beyond_int32_are_right(monkeypatch, most):
  monkeypatch.setattr(_mask_leaves, 'MOST', most)
  random = np.random.RandomState(0)
  m = {name: random.rand(*shape) > .4 for name, shape in (
      ('a', (6, 7)), ('b', (9,)), ('c', (3, 2, 5)), ('d', ()), ('e', (11,)))}
  every = np.concatenate([leaf.reshape(-1) for leaf in map(
      np.asarray, m.values())])
  m = jax.tree.map(jnp.asarray, m)
  assert _mask_leaves.count(m).dtype == jnp.float32
  assert float(masks.density(m)) == pytest.approx(every.mean(), rel=1e-6)
  assert float(masks.overlap(m, m)) == 1
  other = jax.tree.map(jnp.logical_not, m)
  assert float(masks.overlap(m, other)) == 0
