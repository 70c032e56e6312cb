"""Dataclasses from plain dicts: what is taken, and what is refused by name."""

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import fields

NAN = float('nan')


@dataclasses.dataclass(frozen=True)
class Inner:
  size: int
  share: float = .5

  def __post_init__(self):
    if self.size < 1:
      raise ValueError(f'size is {self.size}; it must be at least 1')


@dataclasses.dataclass(frozen=True)
class Outer:
  name: str = 'x'
  count: int = 1
  rate: float = .1
  on: bool = False
  density: float | None = None
  patterns: tuple[str, ...] = ()
  own: tuple[str, ...] | None = None
  sizes: tuple[int, ...] = ()
  inner: Inner | None = None
  deep: Any = None


def build(**given):
  return fields.build(Outer, given, 'a.')


def test_what_is_not_given_has_its_default():
  assert build() == Outer()
  assert build(count=2, density=None, inner=None) == Outer(count=2)


@pytest.mark.parametrize('given, text', [
    (dict(cuont=1), r'unknown key a\.cuont \(did you mean: count, on, own\?\); '
                    'known: count, deep, density, inner, name'),
    (dict(inner=dict(size=1, shere=2)),
     r'unknown key a\.inner\.shere \(did you mean: share\?\); known: share, s'),
    (dict(inner=dict(share=.5)), 'a.inner.size is missing; give it'),
    (dict(inner=3), r'a\.inner is 3; it must be a dict of fields'),
    (dict(inner=dict(size=0)), '^size is 0; it must be at least 1'),
    (dict(inner=dict(size='3')), r"a\.inner\.size is '3'; it must be a whole"),
    (dict(count='1'), r"a\.count is '1'; it must be a whole number"),
    (dict(count=1.5), r'a\.count is 1\.5; it must be a whole number'),
    (dict(count=True), r'a\.count is True; it must be a whole number'),
    (dict(count=None), r'a\.count is None; it must be a whole number'),
    (dict(count=np.float32(1)), r'a\.count is 1\.0; it must be a whole'),
    (dict(count=np.bool_(True)), r'a\.count is True; it must be a whole'),
    (dict(rate=True), r'a\.rate is True; it must be a number'),
    (dict(rate=np.array([.1, .2])), r'a\.rate is \(0\.1, 0\.2\); it must be a'),
    (dict(on=1), r'a\.on is 1; it must be True or False'),
    (dict(on='no'), r"a\.on is 'no'; it must be True or False"),
    (dict(name=3), r'a\.name is 3; it must be a string'),
    (dict(density='.5'), r"a\.density is '\.5'; it must be a number"),
    (dict(patterns=3), r'a\.patterns is 3; it must be a tuple, and each of it '
                       'a string'),
    (dict(patterns=('a', 3)), r"a\.patterns is \('a', 3\); it must be a tuple"),
    (dict(own=(None,)), r'a\.own is \(None,\); it must be a tuple'),
    (dict(sizes=(2, 2.5)), r'a\.sizes is \(2, 2\.5\); .* each of it a whole'),
    (dict(sizes=(True,)), r'a\.sizes is \(True,\); it must be a tuple'),
    # NaN, wherever it stands: JSON has none.
    (dict(rate=NAN), r'a\.rate is nan; it must be a number'),
    (dict(rate=np.float64(NAN)), r'a\.rate is nan; it must be a number'),
    (dict(density=jnp.float32(NAN)), r'a\.density is nan; it must be a number'),
    (dict(deep=[1., {'b': [NAN]}]), r'a\.deep is .*nan.*must not hold NaN'),
    (dict(inner=dict(size=1, share=NAN)), r'a\.inner\.share is nan')])
def test_what_is_refused(given, text):
  with pytest.raises(ValueError, match=text):
    build(**given)


def test_further_names_are_listed_as_known():
  with pytest.raises(ValueError, match=r'mean: extra\?\); known: extra, share'):
    fields.build(Inner, {'extar': 1}, known=('extra',))


@pytest.mark.parametrize('kind', [np.float32, np.float64, jnp.float32, np.array,
                                  jnp.array, float])
def test_numbers_of_any_library_are_numbers(kind):
  made = build(rate=kind(.25), density=kind(.5), inner=dict(
      size=np.int64(3), share=kind(1)))
  assert made == Outer(rate=.25, density=.5, inner=Inner(3, 1.))
  assert type(made.rate) is float and type(made.inner.size) is int


@pytest.mark.parametrize('sizes', [
    (1, 2), [1, 2], np.array([1, 2]), jnp.array([1, 2]),
    [np.int8(1), np.uint64(2)]])
def test_arrays_and_lists_are_tuples(sizes):
  made = build(sizes=sizes, deep={'b': sizes, 'a': np.zeros((1, 2))})
  assert made.sizes == (1, 2)
  assert made.deep == (('a', ((0., 0.),)), ('b', (1, 2)))
  assert hash(made) == hash(build(sizes=(1, 2), deep=made.deep))


def test_a_string_alone_is_one_of_a_tuple():
  made = build(patterns='.*kernel', own='head')
  assert (made.patterns, made.own) == (('.*kernel',), ('head',))


def test_an_instance_is_taken_as_it_is():
  assert build(inner=Inner(2)).inner == Inner(2)


def test_plain_is_the_inverse_of_build():
  made = build(name='y', sizes=(1, 2), inner=dict(size=4), deep=((1., 'a'),))
  written = json.loads(json.dumps(fields.plain(made)))
  assert written['inner'] == {'size': 4, 'share': .5}
  assert fields.build(Outer, written) == made


def test_whole_numbers_become_the_floats_that_are_meant():
  """JAX refuses whole numbers above 2 ** 31, also where it takes floats."""
  cls = dataclasses.make_dataclass('Options', [
      ('rate', float), ('shares', tuple[float, ...], ()),
      ('either', int | float, 0), ('limit', float | None, None)], frozen=True)
  made = fields.build(cls, dict(rate=10 ** 12, shares=[1, .5], either=3,
                                limit=np.int64(2)))
  assert made == cls(1e12, (1., .5), 3, 2.)
  assert list(map(type, (made.rate, made.shares[0], made.either, made.limit))
              ) == [float, float, int, float]
  assert fields.build(cls, dict(rate=10 ** 999)).rate == float('inf')
  assert isinstance(fields.build(cls, dict(rate=1)).rate, float)
  with pytest.raises(ValueError, match='rate is True; it must be a number'):
    fields.build(cls, dict(rate=True))


@pytest.mark.parametrize('value, text', [
    (3, 'b is 3; it must be a dict of fields'),
    ('ab', "b is 'ab'; it must be a dict"), (('a', 1), 'it must be a dict')])
def test_what_is_no_mapping(value, text):
  with pytest.raises(ValueError, match=text):
    fields.as_dict(value, 'b')


def test_pairs_are_a_mapping():
  assert fields.as_dict((('a', 1), ['b', 2]), '') == {'a': 1, 'b': 2}
  assert fields.as_dict((), '') == {}


def test_a_functions_keywords_are_the_fields():
  def lora(scale: float = 1., leaves=('.*kernel',), *, rank: int, seed=0):
    return rank, scale, leaves, seed
  cls = fields.from_signature('lora', lora)
  assert cls.__name__ == 'lora_options'
  made = fields.build(cls, {'rank': np.int64(4), 'leaves': ['head']}, 'lora.')
  assert made == cls(rank=4, leaves=('head',)) and made.seed == 0
  with pytest.raises(AttributeError):
    made.rank = 3
  for given, text in (({'rank': 1, 'scael': 2.}, r'lora\.scael .*mean: scale'),
                      ({'rank': 2.5}, r'lora\.rank is 2\.5; it must be'),
                      ({}, 'lora.rank is missing; give it')):
    with pytest.raises(ValueError, match=text):
      fields.build(cls, given, 'lora.')


@pytest.mark.parametrize('function', [
    lambda *args: None, lambda **options: None, lambda rank, /: None])
def test_functions_whose_options_have_no_names(function):
  with pytest.raises(ValueError, match='lora: the factory takes .*; its '
                                       'options must be keyword arguments'):
    fields.from_signature('lora', function)
