"""What the algebra refuses, by the leaf, and what it computes exactly."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_jax
from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import trees

MASK = {'a': {'w': np.array([True, False])}}
FLOATS = {'a': {'w': np.array([1., 0.], np.float32)}}
SCALAR = {'a': {'w': 1.}}
NAN = {'a': {'w': np.array([1., np.nan], np.float32)}}
COMPLEX = {'a': {'w': np.zeros(2, np.complex64)}}
KEY = jax.random.key(0)


@pytest.mark.parametrize('bad, said', [
    (FLOATS, 'a/w of a mask is float32, not bool; make it with mask.astype'),
    (SCALAR, 'a/w of a mask is a float; every leaf is an array')])
@pytest.mark.parametrize('call', [
    masks.density, masks.densities, masks.pack, lambda m: masks.stack([m]),
    lambda m: masks.union(MASK, m), lambda m: masks.intersection(m, MASK),
    lambda m: masks.difference(m, MASK), lambda m: masks.overlap(MASK, m)])
def test_masks_are_bool(call, bad, said):
  with pytest.raises(ValueError, match=said):
    call(bad)
  call(jax.tree.map(lambda m: np.asarray(m).astype(bool).reshape(-1)[:1], bad)
       if call in (masks.density, masks.densities, masks.pack) else MASK)


def test_a_basis_is_bool_and_coefficients_are_floats():
  alphas = {'a': {'w': np.ones(2, np.float32)}}
  with pytest.raises(ValueError, match='a/w of a basis is float32, not bool'):
    impressions.combine(alphas, FLOATS)
  with pytest.raises(ValueError, match='coefficients of a/w are bool'):
    impressions.combine(MASK, MASK)
  with pytest.raises(ValueError, match=r'shape \(\) but 2 basis masks'):
    impressions.combine({'a': {'w': np.float32(1)}}, MASK)


@pytest.mark.parametrize('dtype', [np.int32, np.uint8, bool])
def test_weights_without_fractions_take_bool_masks_alone(dtype):
  weights = {'a': {'w': np.array([1, 1], dtype)}}
  found = masks.apply(weights, MASK)['a']['w']
  assert found.dtype == dtype
  np.testing.assert_array_equal(found, np.array([1, 0], dtype))
  with pytest.raises(ValueError, match=(
      f'mask of a/w is float32 on weights of {np.dtype(dtype)}')):
    masks.apply(weights, FLOATS)
  with pytest.raises(ValueError, match='mask of a/w is int32'):
    masks.apply(FLOATS, {'a': {'w': np.array([1, 0], np.int32)}})


@pytest.mark.parametrize('call', [
    masks.threshold, lambda s: masks.top_k(s, .5)])
@pytest.mark.parametrize('bad, said', [
    (NAN, 'a score of a/w is NaN'), (MASK, 'the scores of a/w are bool'),
    (COMPLEX, 'the scores of a/w are complex64'),
    (SCALAR, 'a/w of scores is a float; every leaf is an array')])
def test_scores_without_an_order_are_refused(call, bad, said):
  with pytest.raises(ValueError, match=said):
    call(bad)


def test_doubles_and_long_integers_are_compared_exactly():
  with jax.enable_x64(True):
    for scores in (np.array([1e300, 1e301, -1e300, 2e300]),
                   np.array([1, 1 + 2e-16, -1, 1 + 1e-15]) * 1e-300,
                   np.array([2 ** 62, 2 ** 62 + 2, -5, 2 ** 62 + 1]),
                   np.array([2 ** 63, 2 ** 63 + 2, 5, 2 ** 63 + 1], np.uint64)):
      np.testing.assert_array_equal(
          masks.top_k({'w': scores}, .5)['w'], [False, True, False, True])
    found = jax.jit(lambda s: masks.top_k(s, .75))(
        np.array([np.nan, -np.inf, -0., 0.]))
    np.testing.assert_array_equal(found, [False, True, True, True])


@pytest.mark.parametrize('density', ['.5', True, None, [.5], 1 + 1j])
def test_a_density_that_is_no_number_is_refused(density):
  with pytest.raises(ValueError, match='densit|container|leaf'):
    masks.top_k({'w': FLOATS['a']['w']}, density)
  with pytest.raises(ValueError, match='density of w'):
    masks.random(KEY, {'w': FLOATS['a']['w']}, {'w': density}
                 if not isinstance(density, list) else {'w': 'x'})


def test_a_traced_density_is_refused_with_its_remedy():
  with pytest.raises(ValueError, match='density of w is traced.*static'):
    jax.jit(lambda d: masks.top_k({'w': jnp.ones(4)}, d))(.5)
  found = jax.jit(lambda d: masks.top_k({'w': jnp.ones(4)}, d),
                  static_argnums=0)(.5)
  assert int(found['w'].sum()) == 2


def test_what_is_not_packed_is_refused():
  with pytest.raises(ValueError, match='packed mask of a/w is float32.*pack'):
    masks.unpack(FLOATS, FLOATS)
  with pytest.raises(ValueError, match='has 1 byte but a/w'):
    masks.unpack({'a': {'w': np.array(1, np.uint8)}},
                 {'a': {'w': np.zeros(9)}})
  with pytest.raises(ValueError, match='a/w is packed, but not in .like.'):
    masks.unpack({'a': {'w': np.zeros(1, np.uint8)}}, {'a': {'w': None}})


@pytest.mark.parametrize('call, said', [
    (lambda: trees.flatten({'a/b': 1, 'a': {'b': 2}}), "the name 'a/b'"),
    (lambda: trees.unflatten({'a': 1, 'a/b': 2}), 'a is a leaf, and also a'),
    (lambda: trees.select({'a': 1}, [('(', 1)]), r"'\(' is no regular"),
    (lambda: trees.partition({'a': 1}, {'a': np.ones(2)}), 'choice for a is a'),
    (lambda: trees.nbytes({'a': 1.}), 'a of the tree is a float'),
    (lambda: trees.digest(KEY), 'give jax.random.key_data'),
    (lambda: trees.digest('x'.__len__), 'has no digest'),
    (lambda: masks.threshold(FLOATS, 'x'), "threshold is 'x'; give a number"),
    (lambda: masks.threshold(FLOATS, float('nan')), 'threshold is nan; give'),
    (lambda: masks.top_k(FLOATS, None), 'density is None; give a number'),
    (lambda: masks.straight_through(lambda s: {'x': s})(FLOATS),
     'is in the .* tree but not in the'),
    (lambda: masks.stack(None), 'a basis needs at least one mask'),
    (lambda: masks.random(0, FLOATS, .5), 'key is 0; give one key, as jax.ra'),
    (lambda: masks.random(jax.random.split(KEY), FLOATS, .5), 'give one key'),
    (lambda: masks.erdos_renyi({'w': np.zeros((2, 2))}, '2'), "eps is '?2"),
    (lambda: masks.signed_constant(KEY, {'w': np.zeros((2, 2), np.int32)}),
     'w is int32: a signed constant needs'),
])
def test_errors_are_sentences(call, said):
  with pytest.raises(ValueError, match=said):
    call()


def test_fingerprints_of_plain_keys_have_their_bits():
  """As stored by runs; of keys with '/' they once were those of nested ones."""
  nested = {'a': {'b': np.float32(1)}}
  assert trees.fingerprint(nested) == (
      '344b9b7246ca7dee9660325abb87c25d63656285dd1168d4d23a2333ce120821')
  assert trees.fingerprint({'a/b': np.float32(1)}) != trees.fingerprint(nested)


def test_the_package_shows_what_a_user_needs():
  assert dir(mtl_jax) == ['__version__', 'data', 'import_task', 'impressions',
                          'load', 'masks', 'methods', 'models', 'trees']
  assert callable(mtl_jax.methods.register)
  with pytest.raises(AttributeError, match=r"'mask' \(did you mean: masks"):
    mtl_jax.mask  # pylint: disable=pointless-statement


@pytest.mark.parametrize('dtype', ['int2', 'uint2', 'int4', 'uint4'])
@pytest.mark.parametrize('size', [7, 24])
def test_top_k_of_integers_of_few_bits(dtype, size):
  low = -1 if dtype.startswith('i') else 0
  numbers = np.random.RandomState(0).randint(low, 2, size)
  scores = {'w': jnp.asarray(numbers).astype(dtype)}
  first = np.argsort(-numbers, kind='stable')[:round(.3 * size)]
  for select in (masks.top_k, jax.jit(masks.top_k, static_argnums=1)):
    assert np.flatnonzero(select(scores, .3)['w']).tolist() == sorted(first)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float8_e4m3fn',
                                   'int32', 'uint8', 'int4', 'int2'])
@pytest.mark.parametrize('at', [
    fractions.Fraction(1, 3), 10**30, -10**400, 2.5, 0.29, -jnp.inf, 255,
    np.int64(1), np.float16(.5), np.longdouble(.3)])
def test_threshold_at_every_number(dtype, at):
  scores = jnp.asarray([-1, 0, 1, 0.28125]).astype(dtype)
  wanted = [s >= at for s in np.asarray(scores).astype(float).tolist()]
  cut = lambda s: masks.threshold(s, at)
  assert cut(scores).tolist() == jax.jit(cut)(scores).tolist() == wanted


def test_threshold_at_an_array_inside_jit():
  scores = jnp.asarray([0, 1, 2]).astype(jnp.int4)
  at = jnp.asarray(1.5)
  for cut in (lambda s: masks.threshold(s, at), masks.threshold):
    given = (scores,) if cut is not masks.threshold else (scores, at)
    assert jax.jit(cut)(*given).tolist() == [False, False, True]
