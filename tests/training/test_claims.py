"""Each claim of a method by itself; whole runs are in `tests/methods`."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import impressions
from mtl_jax import methods
from mtl_jax.methods import base
from mtl_jax.training import calls
from mtl_jax.training import claims
from mtl_jax.training import fresh

PARAMS = {'w': jax.ShapeDtypeStruct((2, 3), np.float32)}
BITS = {'w': jax.ShapeDtypeStruct((2, 3), bool)}
ALPHAS = {'w': jax.ShapeDtypeStruct((4,), np.float32)}
MASKS = impressions.Impression(masks=BITS)
MIXED = impressions.Impression(coefficients=ALPHAS)
ROUTE = methods.Route(2)


def materialise(params, impression, shared):
  del impression, shared
  return dict(params)


def bind(params, trainable, shared, route):
  del trainable, shared, route
  return dict(params)


def require(abilities, made=MASKS, shared=None, **functions):
  given = dict(init=None, bind=bind, commit=None, materialise=materialise)
  method = methods.Method(**given | functions, abilities=abilities)
  claims.require(method, PARAMS, made, PARAMS, {}, shared or {}, PARAMS, ROUTE)


def test_masks_and_coefficients_of_a_basis_are_superposed():
  require(base.Abilities(superposes=True, streams=True))
  require(base.Abilities(superposes=True), MIXED, {'basis': BITS},
          materialise=lambda params, impression, shared: {'w': params[
              'w'] * shared['basis']['w']})


@pytest.mark.parametrize('made, shared, name, sentence', [
    (MIXED, {}, 'superposes', 'prepare gives no basis'),
    (MIXED, {'basis': {'w': None}}, 'superposes', 'prepare gives no basis'),
    (MIXED, {'basis': BITS}, 'streams', 'commit leaves an'),
    (impressions.Impression(), {}, 'superposes', 'commit leaves an'),
    (MASKS._replace(values=PARAMS), {}, 'superposes', 'commit leaves an'),
    (MASKS._replace(values=PARAMS), {}, 'streams', 'commit leaves an'),
    (MASKS._replace(parts={'more': PARAMS}), {}, 'superposes', 'commit leave')])
def test_what_is_more_or_less_than_masks_is_not(made, shared, name, sentence):
  with pytest.raises(ValueError, match=f'ability {name} is .*{sentence}'):
    require(base.Abilities(**{name: True}), made, shared)


@pytest.mark.parametrize('part, sentence', [
    (lambda backbone: {'w': None}, 'it gives none'),
    (lambda backbone: {'v': backbone['w']}, 'it gives v')])
def test_what_is_folded_are_leaves_of_the_backbone(part, sentence):
  require(base.Abilities(folds=base.Folds('tree', lambda backbone: backbone)))
  with pytest.raises(ValueError, match=f'folds.part must .*{sentence}'):
    require(base.Abilities(folds=base.Folds('tree', part)))


def test_what_carries_gives_is_the_same_network():
  require(base.Abilities(carries=lambda one, later: later))
  with pytest.raises(ValueError, match='materialise of what carries gives '
                                       r'gives w as float32\(3,\), but bind'):
    require(base.Abilities(carries=lambda one, later: MIXED),
            materialise=lambda params, made, shared: {
                'w': params['w'][0 if made.masks is None else slice(None)]})


def test_a_traced_member_gives_the_same_network():
  require(base.Abilities(members=True))
  with pytest.raises(ValueError, match='bind with a traced member gives w as '):
    require(base.Abilities(members=True), bind=lambda params, *given: {
        'w': jnp.stack([params['w']] * 2)[None, given[-1].member]})


@pytest.mark.parametrize('rows, sentence', [
    (lambda trainable: [], 'for each bank, .* it gives'),
    (lambda trainable: {'v': jnp.zeros((2, 1), int)}, r"it gives \['v'\]"),
    (lambda trainable: {'w': jnp.zeros(2, int)}, r'of w it gives int\d+\(2,\)'),
    (lambda trainable: {'w': jnp.zeros((2, 1))}, r'of w it gives float32\(2,')])
def test_rows_of_banks_are_whole_numbers_of_each(rows, sentence):
  with pytest.raises(ValueError, match=f'banks.rows must give .*{sentence}'):
    require(base.Abilities(banks=base.Banks(rows, None)))


def test_a_bank_gives_the_same_network():
  rows = lambda trainable: {'w': jnp.zeros((2, 1), int)}
  require(base.Abilities(banks=base.Banks(
      rows, lambda chosen, shared, row: {'w': jnp.zeros((2, 5))})))  # a head
  with pytest.raises(ValueError, match='banks.bind gives w as'):
    require(base.Abilities(banks=base.Banks(
        rows, lambda chosen, shared, row: {'w': jnp.zeros((3, 3))})))


@pytest.mark.parametrize('stored, said', [
    ({'w': [1., 2.]}, None), ({'w': [1.05, 2.]}, None),
    ({'w': [1.2, 2.]}, 'by up to 0.2'), ({'w': [np.nan, 2.]}, 'by up to nan')])
def test_a_stored_network_is_close_to_the_trained_one(stored, said):
  bound = {'none': None, 'empty': np.zeros((0, 2)), 'w': np.array([1., 2.])}
  given = bound | {'w': np.array(stored['w'])}
  if said is None:
    claims.require_close(bound, given)
    return
  with pytest.raises(ValueError, match=f'gives w with other values .*{said}'):
    claims.require_close(bound, given)


@pytest.mark.parametrize('change', [
    lambda tree: tree.pop('w'), lambda tree: tree.update(more=1.),
    lambda tree: tree.update(w=2 * tree['w'])])
def test_what_is_given_stays_as_it_is(change):
  assert calls.traced('bind', dict, PARAMS) == PARAMS
  with pytest.raises(ValueError, match='^bind changes a dict that it is given'):
    calls.traced('bind', lambda tree: (change(tree), {})[1],
                 dict(PARAMS))


def fail(error):
  raise error


@pytest.mark.parametrize('function, said', [
    (lambda x: fail(ValueError('ranks are even')), '^ranks are even'),
    (lambda x: jnp.reshape(x, 4), '^bind fails: [A-Z].*Error: .*shape'),
    (lambda x: jnp.einsum('ij,ij', x), '^bind fails: ValueError: '),
    (lambda x: fail(SystemExit(3)), '^bind fails: SystemExit: 3$')])
def test_who_says_what_is_wrong(function, said):
  """The method's own sentence, or the function in which another failed."""
  with pytest.raises(ValueError, match=said):
    calls.traced('bind', function, PARAMS['w'])


@pytest.mark.parametrize('function', [
    bool, int, np.asarray, lambda x: np.zeros(2)[x],
    lambda x: jnp.arange(3)[jnp.array([x > 0] * 3)]])
def test_values_that_a_check_of_shapes_has_not(function):
  with pytest.raises(calls.NeedsValues, match='^bind reads the values of its'):
    calls.traced('bind', function, jax.ShapeDtypeStruct((), np.int32))


@pytest.mark.parametrize('one, other, said', [
    (PARAMS, BITS, r'b gives w as bool\(2, 3\), but a as float32\(2, 3\)'),
    (PARAMS, {'w': None}, 'b gives w as a NoneType, but a as float32'),
    ({'w': 3}, PARAMS, 'b gives w as float32.*, but a as a int'),
    (PARAMS, {}, 'a gives the leaf w, which the other one'),
    ({}, PARAMS, 'b gives the leaf w, which the other one')])
def test_leaves_that_differ(one, other, said):
  for same in (one, other, {'w': None}):
    calls.require_equal(same, same, ('a', 'b'), 'why')
  with pytest.raises(ValueError, match=f'^{said}.*; why$'):
    calls.require_equal(one, other, ('a', 'b'), 'why')


def test_a_prepare_that_needs_values_has_them_when_a_task_is_loaded():
  method = methods.Method(
      None, bind, None, materialise,
      prepare=lambda context: {'n': np.asarray(context.backbone['w'])},
      abilities=base.Abilities(needs_earlier=True))
  shared = {'n': PARAMS['w']}
  assert claims.loaded(method, PARAMS, [], jax.random.key(0), MASKS,
                       shared) == (shared, PARAMS)


def test_a_watch_says_itself_what_is_wrong():
  with pytest.raises(ValueError, match='^patience is 0$'):
    claims._require_watch(lambda settings: fail(ValueError('patience is 0')))


@pytest.mark.parametrize('error, said', [
    (ValueError('ranks are even'), '^ranks are even$'),
    (KeyError('w'), "^phase a: method m: materialise fails: KeyError: 'w'$")])
def test_a_network_that_can_not_be_made_is_not_stored(error, said):
  some = types.SimpleNamespace
  entry = some(phase=some(name='a', method='m'))
  stored = some(impression=MASKS, shared={}, method=some(
      materialise=lambda *_: fail(error)))
  with pytest.raises(ValueError, match=said):
    claims.require_trained(some(backbone=some(params={})), entry, stored, {})


def test_what_is_sound_in_any_dtype():
  some = types.SimpleNamespace
  entry = some(name='a', phase=some(slower=lambda: 'train slower'))
  bias = MASKS._replace(masks={'b': np.zeros(3, bool)})  # it may be all off
  claims.require_sound(entry, bias, {'w': jnp.ones(2, jnp.bfloat16)})
  for dtype in (jnp.bfloat16, np.float16, np.complex64):
    with pytest.raises(FloatingPointError, match='task a would leave shared/w'):
      claims.require_sound(entry, bias, {'w': jnp.array([1, np.inf], dtype)})


def test_a_function_that_fails_when_it_is_called_again_is_named():
  seen = []

  def once(x):
    seen.append(x)
    if len(seen) > 1:
      raise KeyError('again')
    return x
  assert calls.program('bind', once, 1.)
  with pytest.raises(ValueError, match="bind, called once more, fails: KeyErr"):
    calls.program('bind', once, 1.)


def test_programs_with_other_constants_differ():
  key = jax.random.key
  for one, other in ((np.ones(2), np.zeros(2)), (key(0), key(1))):
    add = lambda constant: calls.program('bind', lambda x: (x, constant), 1.)
    assert add(one) == add(one) and add(one) != add(other)


@pytest.mark.parametrize('function, which, reads', [
    (lambda a, b: a + b, 1, True), (lambda a, b: a, 1, False),
    (lambda a, b: a + 0 * jnp.sin(b), 1, True),  # by way of others
    (lambda a, b: (a, jnp.sin(b))[0], 1, False), (lambda a, b: b, 0, False)])
def test_what_a_function_reads(function, which, reads):
  assert calls.reads(function, (1., 2.), which) is reads


@pytest.mark.parametrize('holder, change', [
    ({'a': 1}, lambda x: x.update(a=2, b=3)), ([1], lambda x: x.append(2)),
    ({1}, lambda x: x.add(2)), (np.ones(2), lambda x: x.fill(3))])
def test_what_a_variable_held_is_there_again_and_then_as_it_was(holder, change):
  place = fresh.Place(holder, fresh._held(holder))
  said = str(holder)
  change(holder)
  changed = str(holder)
  with fresh.as_before([place]):
    assert str(holder) == said != changed
  assert str(holder) == changed
