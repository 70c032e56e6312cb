"""Laws of masks, impressions and trees, held against NumPy.

Few shapes, so that little is compiled; the same examples in every run.
"""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from mtl_jax import fans
from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import trees

laws = hypothesis.settings(derandomize=True, deadline=None, max_examples=15,
                           database=None)
SHAPES = ((), (0,), (9,), (2, 3))


def arrays(values, dtype, shape=None):
  """NumPy arrays of a dtype with the given values, of one of a few shapes."""
  shapes = st.sampled_from(SHAPES) if shape is None else st.just(shape)
  return shapes.flatmap(lambda s: st.lists(
      values, min_size=int(np.prod(s)), max_size=int(np.prod(s))).map(
          lambda flat: np.array(flat, dtype).reshape(s)))


def bools(shape=None):
  return arrays(st.booleans(), bool, shape)


def floats(shape=None, dtype=np.float32):
  return arrays(st.sampled_from(
      [0., -0., 1., -1., .5, -2.5, 3e38, -2e-38, np.inf, -np.inf]), dtype,
                shape)


def trees_of(leaf):
  """Nested dicts of leaves and `None`."""
  keys = st.text('abc', min_size=1, max_size=2)
  return st.recursive(st.one_of(st.none(), leaf), lambda inner: st.dictionaries(
      keys, inner, min_size=1, max_size=3), max_leaves=5)


def nested(leaf):
  return trees_of(leaf).filter(lambda tree: isinstance(tree, dict))


def pairs(count, leaf=bools):
  """Trees of one structure: a tuple of `count` of them."""
  return st.sampled_from(SHAPES).flatmap(lambda shape: st.tuples(
      *[leaf(shape)] * count)).map(lambda leaves: tuple(
          {'a': {'kernel': x, 'bias': None}} for x in leaves))


def only(tree):
  (leaf,) = jax.tree.leaves(tree)
  return np.asarray(leaf)


def same(found, expected):
  """Equal structures, dtypes, shapes and bits, the sign of 0 included."""
  trees.check_same_structure(found, expected)
  for name, want in trees.flatten(expected).items():
    got = trees.flatten(found)[name]
    if want is not None:
      assert np.asarray(got).dtype == want.dtype, name
      np.testing.assert_array_equal(np.asarray(got), want, err_msg=name)
      if np.issubdtype(want.dtype, np.floating):
        assert np.all(np.signbit(got) == np.signbit(want)), name


def best(scores, k):
  """The k largest by a stable sort."""
  flat = np.asarray(scores).reshape(-1)
  # Python's numbers are exact in every dtype.
  order = sorted(range(flat.size), key=lambda i: (-flat[i].item(), i))
  kept = np.zeros(flat.size, bool)
  kept[order[:k]] = True
  return kept.reshape(np.shape(scores))


# Masks.


@laws
@hypothesis.given(pairs(2))
def test_the_algebra_is_numpys(two):
  a, b = two
  x, y = only(a), only(b)
  for f, want in ((masks.union, x | y), (masks.intersection, x & y),
                  (masks.difference, x & ~y)):
    same(f(a, b), {'a': {'kernel': want, 'bias': None}})
  either = np.sum(x | y)
  assert float(masks.overlap(a, b)) == pytest.approx(
      np.sum(x & y) / either if either else 1.)
  assert float(masks.density(a)) == pytest.approx(x.mean() if x.size else 0.)
  assert float(only(masks.densities(a))) == pytest.approx(
      x.mean() if x.size else 0.)
  same(masks.stack([a, b, a]), {
      'a': {'kernel': np.stack([x, y, x]), 'bias': None}})


@laws
@hypothesis.given(nested(bools()))
def test_unpack_inverts_pack(mask):
  packed = masks.pack(mask)
  for leaf, bits in zip(jax.tree.leaves(mask), jax.tree.leaves(packed)):
    np.testing.assert_array_equal(bits, np.packbits(leaf.reshape(-1)))
  same(masks.unpack(packed, mask), mask)


@laws
@hypothesis.given(st.sampled_from(SHAPES).flatmap(
    lambda s: st.tuples(floats(s), bools(s))))
def test_apply_is_a_choice(both):
  weights, mask = both
  # +0. where masked, whatever the weight's sign, finite weights only.
  weights = np.nan_to_num(weights, posinf=2., neginf=-2.)
  same(masks.apply({'w': weights, 'b': weights}, {'w': mask, 'b': None}),
       {'w': np.where(mask, weights, np.float32(0)), 'b': weights})


@laws
@hypothesis.given(floats(), st.sampled_from([0., .5, -1.]))
def test_threshold_is_a_comparison(scores, at):
  same(masks.threshold({'w': scores}, at), {'w': scores >= np.float32(at)})


@laws
@hypothesis.given(st.sampled_from(
    [np.float32, np.float16, jnp.bfloat16, np.int32, np.uint8]).flatmap(
        lambda d: arrays(st.sampled_from([0, 1, 2, 3, 250, 5]).map(
            lambda x: x / 3 if d not in (np.int32, np.uint8) else x), d)),
    st.sampled_from([0., .3, .5, 1.]))
def test_top_k_is_a_stable_sort(scores, density):
  k = round(density * scores.size)
  same(masks.top_k({'w': scores}, density), {'w': best(scores, k)})


@laws
@hypothesis.given(floats((9,)), st.sampled_from([.3, .6]))
def test_top_k_orders_infinities_and_zeros(scores, density):
  same(masks.top_k({'w': scores}, density), {
      'w': best(scores, round(density * 9))})


@laws
@hypothesis.given(bools((9,)), st.sampled_from([.3, .6]))
def test_inside_jit_nan_ranks_last(lost, density):
  scores = np.where(lost, np.nan, np.linspace(-3, 3, 9)).astype(np.float32)
  scores[0] = np.nan if lost[0] else -np.inf
  found = jax.jit(lambda s: masks.top_k({'w': s}, density))(scores)['w']
  k = round(density * 9)
  finite = np.flatnonzero(~lost)[::-1][:k]
  kept = np.zeros(9, bool)
  kept[finite] = True
  kept[np.flatnonzero(lost)[:k - finite.size]] = True
  np.testing.assert_array_equal(found, kept)


@laws
@hypothesis.given(st.integers(0, 2 ** 32 - 1), st.sampled_from([0., .25, 1.]))
def test_random_masks_have_their_density(seed, density):
  like = {'a': np.zeros((4, 5)), 'b': None}
  key = jax.random.key(seed)
  found = masks.random(key, like, density)
  assert found['b'] is None and int(found['a'].sum()) == round(20 * density)
  same(masks.random(key, like, density), jax.tree.map(np.asarray, found))


@laws
@hypothesis.given(floats((2, 3)).map(np.nan_to_num), floats((2, 3)))
def test_a_samplers_gradient_is_its_masks(scores, cotangent):
  sample = masks.straight_through(masks.threshold)
  soft, back = jax.vjp(sample, {'w': jnp.asarray(scores)})
  same(soft, {'w': (scores >= 0).astype(np.float32)})
  same(back({'w': jnp.asarray(cotangent)})[0], {'w': cotangent})


@laws
@hypothesis.given(st.sampled_from([(3, 4), (2, 2, 3, 4), (4, 2, 3)]),
                  st.sampled_from([.1, 1., 9.]))
def test_budgets_and_constants_by_their_formulas(shape, eps):
  like = {'w': np.zeros(shape, np.float32)}
  fan_in, (inputs, outputs) = np.prod(shape[:-1]), shape[-2:]
  found = masks.signed_constant(jax.random.key(0), like)['w']
  np.testing.assert_array_equal(np.abs(found), np.full(
      shape, np.sqrt(2 / fan_in), np.float32))
  assert masks.erdos_renyi(like, eps)['w'] == pytest.approx(
      min(.5, eps * (inputs + outputs) / np.prod(shape)))
  assert fans.fans(like)['w'].fan_in == fan_in


# Impressions.

FINITE = st.sampled_from([0., 1., -1., .5, -2.5, 3.])


@laws
@hypothesis.given(arrays(FINITE, np.float32, (3,)), bools((3, 2, 3)))
def test_combine_is_a_tensor_product(alphas, basis):
  found = impressions.combine({'w': alphas, 'b': None},
                              {'w': basis, 'b': None})
  np.testing.assert_array_equal(found['w'], np.tensordot(
      alphas, basis.astype(np.float32), 1))
  cotangent = np.arange(6, dtype=np.float32).reshape(2, 3)
  np.testing.assert_array_equal(
      impressions.agreement(basis, cotangent),
      (basis * cotangent).sum((1, 2)))


@laws
@hypothesis.given(arrays(FINITE, np.float32, (2, 3)), bools((2, 3)),
                  st.one_of(st.none(), arrays(FINITE, np.float32, (2, 3))))
def test_materialise_takes_the_own_value_and_masks_it(backbone, mask, value):
  task = impressions.Impression(
      masks={'w': mask}, values=None if value is None else {'w': value})
  expected = np.where(mask, backbone if value is None else value,
                      np.float32(0))
  same(impressions.materialise({'w': backbone}, task), {'w': expected})
  kept = 0 if value is None else 4 * int(mask.sum())
  assert impressions.size_in_bytes(task) == 1 + kept


@laws
@hypothesis.given(st.integers(1, 12), st.integers(0, 30))
def test_blocks_are_even_and_complete(blocks, more):
  units = blocks + more
  sizes = impressions.block_sizes(blocks, units)
  assert len(sizes) == blocks and sum(sizes) == units
  assert max(sizes) - min(sizes) <= 1


# Trees.


@laws
@hypothesis.given(nested(floats()))
def test_unflatten_inverts_flatten(tree):
  flat = trees.flatten(tree)
  assert list(trees.flatten(trees.unflatten(flat))) == sorted(
      flat, key=lambda name: name.split('/'))
  same(trees.unflatten(flat), tree)
  same(trees.map_leaves(lambda x: x, tree), tree)
  names = trees.map_named(lambda name, x: name, tree)
  assert all(name == leaf for name, leaf in trees.flatten(names).items())


@laws
@hypothesis.given(nested(floats()), st.data())
def test_combine_inverts_partition(tree, data):
  chosen = trees.map_leaves(
      lambda x: data.draw(st.sampled_from([None, False, True])), tree)
  yes, no = trees.partition(tree, chosen)
  same(trees.combine(yes, no), tree)
  assert trees.size(yes) + trees.size(no) == trees.size(tree)
  assert trees.nbytes(tree) == sum(x.nbytes for x in jax.tree.leaves(tree))
  expected = {name: x for name, x in trees.flatten(tree).items()
              if trees.flatten(chosen)[name]}
  same({k: v for k, v in trees.flatten(yes).items() if k in expected}, expected)


@laws
@hypothesis.given(nested(floats()), st.data())
def test_select_takes_the_first_match(tree, data):
  names = list(trees.flatten(tree))
  exact = data.draw(st.sampled_from(names))
  chosen = trees.flatten(trees.select(tree, [(exact, 1), ('.*', 2)]))
  assert chosen == {name: 1 if name == exact else 2 for name in names}


KEYS = st.text('a/=;', min_size=1, max_size=3)


def listed(tree, path=()):
  if isinstance(tree, dict):
    return sorted(x for k, v in tree.items() for x in listed(v, (*path, k)))
  return [(path, tree)]


@hypothesis.settings(laws, max_examples=300)
@hypothesis.given(*[st.recursive(
    st.integers(0, 1), lambda inner: st.dictionaries(
        KEYS, inner, min_size=1, max_size=2), max_leaves=3)] * 2)
def test_fingerprints_are_equal_for_equal_trees_alone(a, b):
  arrays_of = lambda tree: jax.tree.map(np.int32, tree)
  assert (trees.fingerprint(arrays_of(a)) == trees.fingerprint(arrays_of(b))
          ) == (listed(a) == listed(b))


@laws
@hypothesis.given(floats(), floats())
def test_digests_are_equal_for_equal_bits_alone(a, b):
  equal = a.shape == b.shape and a.tobytes() == b.tobytes()
  assert (trees.digest(a) == trees.digest(b)) == equal
