"""Who owns which weight: exact, disjoint, or refused."""

import numpy as np
import pytest

from mtl_jax import trees
from mtl_jax.methods import allocation

LIKE = {'a': np.zeros((10, 20)), 'b': None, 'c': np.zeros(30)}


def random_scores(seed, zeros=0.):
  """Scores of which a fraction is exactly 0, as a dead unit's gradients."""
  rng = np.random.RandomState(seed)

  def leaf(x):
    scores = rng.rand(*x.shape)
    return np.where(rng.rand(*x.shape) < zeros, 0., scores)
  return trees.map_leaves(lambda x: None if x is None else leaf(x), LIKE)


@pytest.mark.parametrize('zeros', [0., .01, .5, 1.])
def test_five_subnetworks_of_a_fifth_are_sparse_and_disjoint(zeros):
  """The official rule makes the fifth one dense as soon as a score is 0."""
  owner = allocation.unowned(LIKE)
  for number in range(1, 6):
    before = owner
    owner = allocation.allocate(random_scores(number, zeros), owner, number,
                                .2)
    for name in ('a', 'c'):
      assert np.sum(owner[name] == number) == LIKE[name].size // 5
      taken = before[name] > 0
      np.testing.assert_array_equal(owner[name][taken], before[name][taken])
  assert all((owner[name] > 0).all() for name in ('a', 'c'))
  assert owner['b'] is None


def test_the_largest_free_scores_win_and_ties_go_by_index():
  owner = {'w': np.array([0, 2, 0, 0, 0], np.uint8)}
  found = allocation.allocate({'w': np.array([1., 9., 3., 1., 1.])}, owner, 1,
                              .6)
  assert found['w'].tolist() == [1, 2, 1, 1, 0]
  assert owner['w'].tolist() == [0, 2, 0, 0, 0]


def test_global_takes_from_all_leaves_together():
  scores = {'a': np.array([5., 4., 1.]), 'b': np.array([[3.], [2.]])}
  owner = allocation.allocate(scores, allocation.unowned(scores), 7, .6,
                              'global')
  assert owner['a'].tolist() == [7, 7, 0]
  assert owner['b'].tolist() == [[7], [0]]
  with pytest.raises(ValueError, match='subnetwork 7: none of the best weights '
                     'of the whole tree lies in b'):
    allocation.allocate(scores, allocation.unowned(scores), 7, .4, 'global')


@pytest.mark.parametrize('scope, text', [
    ('leaf', r'subnetwork 6: 1 x 40 weights of a are needed, but only 0 of 200 '
     'are free: at most 0 subnetworks'),
    ('global', 'weights of the whole tree are needed, but only 0 of 230')])
def test_what_does_not_fit_is_refused(scope, text):
  owner = allocation.unowned(LIKE)
  for number in range(1, 6):
    owner = allocation.allocate(random_scores(number), owner, number, .2)
  with pytest.raises(ValueError, match=text):
    allocation.allocate(random_scores(6), owner, 6, .2, scope)


@pytest.mark.parametrize('changes, text', [
    (dict(scores={'w': np.array([np.nan, 1.])}), 'scores of w are negative or'),
    (dict(scores={'w': np.array([-1., 1.])}), 'scores of w are negative or'),
    (dict(number=0), 'number 0 does not fit a byte'),
    (dict(number=256), 'number 256 does not fit'),
    (dict(scope='layer'), "unknown scope 'layer'"),
    (dict(density=.1), 'keeps none of the 2 weights of w')])
def test_bad_values_are_refused(changes, text):
  given = dict(scores={'w': np.ones(2)}, number=1, density=.5,
               owner={'w': np.zeros(2, np.uint8)}) | changes
  with pytest.raises(ValueError, match=text):
    allocation.allocate(**given)


def test_folding_is_exact():
  rng = np.random.RandomState(0)
  owner = allocation.unowned(LIKE)
  for number in (1, 2, 3):
    owner = allocation.allocate(random_scores(number), owner, number, .3)
  dense = [trees.map_leaves(lambda x: None if x is None else rng.randn(
      *x.shape).astype(np.float32), LIKE) for _ in range(3)]
  bits = [trees.map_leaves(lambda o, n=n: None if o is None else o == n,
                           owner) for n in (1, 2, 3)]
  weights, found = allocation.fold(dense, bits)
  for name in ('a', 'c'):
    np.testing.assert_array_equal(found[name], owner[name])
  for number, (values, mask) in enumerate(zip(dense, bits), 1):
    alone = allocation.subnetwork(weights, found, number)
    for name in ('a', 'c'):
      np.testing.assert_array_equal(
          alone[name], np.where(mask[name], values[name], 0))
  with pytest.raises(ValueError, match='tasks 1 and 2 both own weights of a'):
    allocation.fold(dense[:2], [bits[0], bits[0]])


def test_prune_frees_the_smallest_of_the_tasks_own():
  owner = {'w': np.array([1, 1, 2, 1, 0, 1], np.uint8)}
  weights = {'w': np.array([-.1, 5., .01, -3., 9., .2])}
  found = allocation.prune(weights, owner, 1, 2 / 6)
  assert found['w'].tolist() == [0, 1, 2, 1, 0, 0]
  with pytest.raises(ValueError, match='owns 2 weights of w, fewer than the 3'):
    allocation.prune(weights, found, 1, .5)
