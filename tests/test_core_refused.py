"""Every function of the core says in a sentence what it was given wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import fans
from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import trees

W = jnp.asarray(np.random.RandomState(0).randn(4, 6), jnp.float32)
PARAMS, MASK = {'w': W}, {'w': W > 0}
KEY = jax.random.key(0)
SHAPE = {'w': jax.ShapeDtypeStruct((4, 6), jnp.float32)}
LONG = {'w': np.ones((4, 6), np.longdouble)}
SWAPPED = {'w': np.arange(24).reshape(4, 6).astype('>i4')}
soft = masks.straight_through


@pytest.mark.parametrize('call, said', [
    # A mask where an impression belongs, as from the algebra's other half.
    (lambda: impressions.materialise(PARAMS, MASK),
     r'the impression is dict\(bool\(4, 6\)\); give .*Impression\(masks=mask'),
    (lambda: impressions.size_in_bytes(None), 'the impression is None; give'),
    (lambda: impressions.size_in_bytes(impressions.Impression(masks=[True])),
     "0 of the impression's masks is a bool; every leaf is an array"),
    # Rules.
    (lambda: trees.select(PARAMS, {'.*': True}),
     r"the rules are {'.\*': True}; give a list of pairs"),
    (lambda: trees.select(PARAMS, ['.*']), 'give a list of pairs of a pattern'),
    (lambda: trees.select(PARAMS, None), 'the rules are None'),
    (lambda: masks.signed_constant(KEY, PARAMS, 3), 'the rules are 3'),
    (lambda: fans.fans(PARAMS, {'.*': 1}), 'the rules are'),
    (lambda: fans.fans({'w': 3}), 'w of the parameters is a int'),
    (lambda: trees.unflatten({3: 1, 'a': 2}), "by name are {3: 1, 'a': 2}"),
    (lambda: masks.erdos_renyi(PARAMS, 10 ** 400), 'eps is 1000'),
    (lambda: trees.unflatten([1]), r'leaves by name are \[1\]; give a dict'),
    (lambda: trees.unflatten({3: 1}), 'the leaves by name are {3: 1}'),
    # Shapes without numbers, and numbers that JAX has not.
    (lambda: masks.apply(SHAPE, MASK), 'w of parameters is a ShapeDtypeStruct'),
    (lambda: masks.threshold(SHAPE), 'w of scores is a ShapeDtypeStruct'),
    (lambda: masks.top_k(SHAPE, .5), 'w of scores is a ShapeDtypeStruct'),
    (lambda: masks.apply(LONG, MASK), 'w of parameters is .*JAX does not comp'),
    (lambda: masks.top_k(LONG, .5), 'make it with .astype.numpy.float32'),
    (lambda: masks.signed_constant(KEY, LONG), 'JAX does not compute with'),
    (lambda: soft(masks.threshold)({'w': np.array(['a'])}), 'is <U1, which JA'),
    (lambda: soft(masks.threshold)('x'), 'the only leaf of scores is a str'),
    (lambda: masks.top_k(SWAPPED, .5), 'is >i4, .* .astype.numpy.int32'),
    (lambda: masks.apply(SWAPPED, MASK), 'w of parameters is >i4'),
    (lambda: soft(masks.threshold)(SWAPPED), 'w of scores is >i4'),
    (lambda: impressions.combine({'w': np.ones(2, '>f8')}, MASK), 'is >f8'),
    (lambda: masks.apply({'w': np.ones(3, np.clongdouble)}, MASK),
     '.astype.numpy.complex64'),
    (lambda: masks.top_k({'w': np.ones(3, [('a', 'f4')])}, .5), 'not compute'),
    # Samplers.
    (lambda: soft(.5), 'the sampler is 0.5; give a function'),
    (lambda: soft(lambda s: {'w': None})(PARAMS), 'gives no mask of w'),
    (lambda: soft(lambda s: 3)(PARAMS), 'of what the sampler gives is a int'),
    (lambda: soft(lambda s: {'w': KEY})(PARAMS), 'mask of w that is key<fry>'),
    # Several masks.
    (lambda: masks.stack(3), 'masks is 3; give a list of them'),
    (lambda: masks.stack(W), r'masks is float32\(4, 6\); give a list'),
    (lambda: masks.stack([]), 'a basis needs at least one mask'),
    # What is large is not printed.
    (lambda: masks.top_k(PARAMS, PARAMS), r'^density of w is float32\(4, 6\)'),
    (lambda: masks.top_k(PARAMS, {'w': KEY}), 'density of w is '),
    (lambda: masks.threshold(PARAMS, PARAMS),
     r'a threshold is dict\(float32\(4, 6\)\); give a number'),
    (lambda: masks.threshold(PARAMS, np.array('x')), 'a threshold is array'),
    (lambda: masks.threshold(PARAMS, KEY), 'give a number'),
    (lambda: masks.threshold(PARAMS, jnp.array(1j)), 'give a number'),
    (lambda: masks.threshold(PARAMS, jnp.nan), 'is nan; give a number'),
    (lambda: masks.top_k(PARAMS, np.array([.5])),
     r'density is float64\(1,\); give a number, or a tree'),
    (lambda: masks.random(W, PARAMS, .5), r'key is float32\(4, 6\); give one'),
    (lambda: masks.erdos_renyi(PARAMS, W), r'eps is float32\(4, 6\); it must')])
def test_what_is_refused(call, said):
  with pytest.raises(ValueError, match=said) as refused:
    call()
  assert len(str(refused.value).splitlines()) == 1


def test_remedies():
  task = impressions.Impression(masks=MASK)
  assert impressions.materialise(PARAMS, task)['w'].shape == (4, 6)
  assert impressions.size_in_bytes(task) == 3
  assert trees.select(PARAMS, [('.*', True)]) == {'w': True}
  narrow = {'w': LONG['w'].astype(np.float32)}
  assert masks.apply(narrow, MASK)['w'].dtype == jnp.float32


@pytest.mark.parametrize('call, name', [
    (lambda x: masks.apply(x, MASK), 'w of parameters'),
    (lambda x: masks.top_k(x, .5), 'w of scores'),
    (lambda x: soft(lambda s: masks.top_k(s, .5))(x), 'w of scores'),
    (lambda x: masks.unpack(x, PARAMS), 'w of a packed mask'),
    (lambda x: masks.density(x), 'w of a mask'),
    (lambda x: masks.pack(x), 'w of a mask'),
    (lambda x: impressions.combine(x, {'w': jnp.stack([W > 0] * 2)}),
     'w of coefficients')])
def test_deleted_arrays_are_named(call, name):
  gone = {'w': W > 0 if name == 'w of a mask' else jnp.copy(W)}
  gone['w'].delete()  # as donate_argnums does
  with pytest.raises(ValueError, match=f'{name}.* was deleted, as .*a copy'):
    call(gone)
