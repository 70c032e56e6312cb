"""Whose child a search trains next."""

import collections

import pytest
from tiny_evolution import path, rng

from mtl_jax.evolution import parents


def test_acceptance_halves_with_every_child():
  """One own path, and no other: 1, 1/2, 1/4 before the fallback."""
  one = path('a', 'a')
  other = path('b', 'b')
  for children, expected in ((0, 1.), (1, .5), (2, .25), (3, .125)):
    taken = sum(parents.choose(
        rng(seed), [one], [other], ['b'], {'a': children, 'b': 0}
        ).parent is one for seed in range(2000))
    assert abs(taken / 2000 - expected) < .04, children


def test_the_best_own_path_is_asked_first_and_the_newest_of_equals():
  own = [path(str(i), 'a', score) for i, score in enumerate((.5, .9, .9, .1))]
  assert parents.choose(rng(), own, [], [], {}).parent.name == '2'
  found = parents.choose(rng(), own, [], [], {'2': 99})
  assert found.parent.name == '1'


def test_seeds_take_turns():
  others = [path(name, name) for name in 'wxyz']
  order, seen, children = ('w', 'x', 'y', 'z'), [], {}
  for _ in range(4):
    found = parents.choose(rng(len(seen)), [], others, order, children)
    order = found.seeds
    seen.append(found.parent.name)
    children[seen[-1]] = 1
  assert seen == ['w', 'x', 'y', 'z'] and order == ('w', 'x', 'y', 'z')
  # After one child each a seed that is passed over keeps its turn.
  found = parents.choose(rng(3), [], others, order, dict.fromkeys('wxy', 99))
  assert found.parent.name == 'z' and found.seeds == ('w', 'x', 'y', 'z')


def test_the_fallback_is_any_path():
  own, others = [path('a', 'a')], [path('x', 'x'), path('y', 'y')]
  tired = dict.fromkeys('axy', 99)
  seen = collections.Counter(
      parents.choose(rng(seed), own, others, 'xy', tired).parent.name
      for seed in range(600))
  assert set(seen) == set('axy') and min(seen.values()) > 130
  with pytest.raises(ValueError, match='no path'):
    parents.choose(rng(), [], [], [], {})


def test_mu2net_plus_takes_any_path_where_no_own_one_is_accepted():
  own, others = [path('a', 'a')], [path('x', 'x')]
  seen = collections.Counter(
      parents.choose(rng(seed), own, others, 'x', {'a': 99}, True).parent.name
      for seed in range(400))
  assert 130 < seen['a'] < 270


def test_seeds_start_in_a_drawn_order():
  names = list('abcdef')
  orders = {parents.shuffled(rng(seed), names) for seed in range(9)}
  assert len(orders) > 6 and all(sorted(order) == names for order in orders)
  assert parents.shuffled(rng(1), names) == parents.shuffled(rng(1), names)
