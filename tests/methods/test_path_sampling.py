"""Paths: the published draws bit for bit, and what the other kinds promise."""

import hashlib

import numpy as np
import pytest

from mtl_jax.methods import path_sampling

CIFAR100 = path_sampling.Shape(9, 12, 4)
BOTH = path_sampling.Shape(9, 15, 4)
FIVE = path_sampling.Shape(5, 8, 2)
SEEDS = 456, 23743, 96253, 36, 2543


def sha1(found, modules):
  ones = path_sampling.table(found, modules)
  assert ones.dtype == np.uint8
  return hashlib.sha1(ones.tobytes()).hexdigest()[:12]


def test_the_published_table_of_the_first_test_case():
  found = path_sampling.official(456, 10, CIFAR100)
  assert found[0].tolist() == [
      [1, 2, 7, 9], [2, 7, 9, 10], [1, 4, 5, 6], [1, 5, 6, 8], [1, 2, 7, 8],
      [0, 1, 2, 4], [1, 2, 6, 10], [2, 6, 10, 11], [2, 3, 5, 7]]
  assert found[9, -1].tolist() == [3, 7, 10, 11]
  assert path_sampling.official(456, 5, FIVE).tolist() == [
      [[1, 6], [5, 6], [4, 7], [1, 6], [1, 3]],
      [[3, 4], [1, 5], [3, 4], [1, 5], [0, 1]],
      [[0, 2], [1, 4], [1, 6], [1, 7], [4, 6]],
      [[1, 3], [2, 5], [2, 5], [4, 7], [1, 7]],
      [[1, 4], [0, 5], [2, 6], [0, 3], [0, 1]]]


@pytest.mark.parametrize('shape, tasks, hashes', [
    (CIFAR100, 10, ('78e378aeda1b', '6764b9cc32a8')),
    (BOTH, 10, ('5191ce4bf763', '0606b17ecc2c')),
    (FIVE, 5, ('36bb5a9b55b6', '83f7a22506e8'))])
def test_hashes_of_the_first_two_test_cases(shape, tasks, hashes):
  assert tuple(sha1(path_sampling.official(seed, tasks, shape), shape.modules)
               for seed in SEEDS[:2]) == hashes


@pytest.mark.parametrize('shape, tasks, counts, mean, most', [
    (CIFAR100, 10, [(0, 9, 99), (2, 8, 98), (1, 7, 100), (1, 7, 100),
                    (2, 15, 91)],
     (11.93, 11.76, 11.36, 11.67, 12.16), (7, 6, 6, 7, 7)),
    (BOTH, 10, [(4, 25, 106), (5, 22, 108), (3, 24, 108), (6, 22, 107),
                (3, 31, 101)],
     (9.67, 9.62, 9.31, 9.73, 10.09), (7, 7, 6, 8, 7)),
    (FIVE, 5, [(8, 20, 12), (9, 15, 16), (8, 17, 15), (12, 11, 17),
               (7, 18, 15)], (2.6, 2.2, 2.1, 2.7, 1.9), (4, 3, 3, 3, 3))])
def test_how_much_the_published_paths_share(shape, tasks, counts, mean, most):
  for case, seed in enumerate(SEEDS):
    found = path_sampling.official(seed, tasks, shape)
    users = path_sampling.users(found, shape.modules)
    assert (np.sum(users == 0), np.sum(users == 1),
            np.sum(users > 1)) == counts[case]
    pairs = path_sampling.overlap(found)[np.triu_indices(tasks, 1)]
    assert round(float(pairs.mean()), 2) == mean[case]
    assert users.max() == most[case]


def test_disjoint_paths_share_nothing_and_identical_ones_everything():
  shape = path_sampling.Shape(3, 6, 2)
  found = path_sampling.disjoint(5, 3, shape)
  assert path_sampling.users(found, 6).tolist() == [[1] * 6] * 3
  found = path_sampling.identical(5, 3, shape)
  assert path_sampling.overlap(found).tolist() == [[6] * 3] * 3
  assert (found[0] == path_sampling.official(5, 1, shape)[0]).all()
  with pytest.raises(ValueError, match='need 8 modules a level.*has 6'):
    path_sampling.disjoint(5, 4, shape)


@pytest.mark.parametrize('shared', range(4))
def test_every_pair_overlaps_by_what_was_asked(shared):
  found = path_sampling.overlapping(1, 4, path_sampling.Shape(5, 12, 3), shared)
  pairs = path_sampling.overlap(found)[np.triu_indices(4, 1)]
  assert set(pairs) == {5 * shared}
  assert (np.diff(found, axis=-1) > 0).all()


def test_similar_tasks_share_more():
  similarity = np.array([[1., .0, 1.], [.0, 1., .5], [1., .5, 1.]])
  found = path_sampling.guided(0, path_sampling.Shape(4, 8, 2), similarity)
  assert (found[2] == found[0]).all()
  assert path_sampling.overlap(found)[0, 1] == 0
  half = np.array([[1., .5], [.5, 1.]])
  guided = path_sampling.guided(3, path_sampling.Shape(4, 8, 2), half)
  assert path_sampling.overlap(guided)[0, 1] == 4
  with pytest.raises(ValueError, match='0 ... 1'):
    path_sampling.guided(0, FIVE, [[2.]])


@pytest.mark.parametrize('kind', ['official', 'identical', 'disjoint'])
def test_draw_finds_the_kind_by_name(kind):
  shape = path_sampling.Shape(2, 8, 2)
  np.testing.assert_array_equal(path_sampling.draw(kind, 7, 3, shape),
                                getattr(path_sampling, kind)(7, 3, shape))


def test_draw_refuses_what_it_does_not_know():
  with pytest.raises(ValueError, match="'ofical'.*official"):
    path_sampling.draw('ofical', 0, 2, FIVE)
  with pytest.raises(ValueError, match=r'\[3, 3\], not \[2, 2\]'):
    path_sampling.draw('guided', 0, 3, FIVE, similarity=np.eye(2))
  with pytest.raises(ValueError, match='takes 3 of only 2'):
    path_sampling.Shape(1, 2, 3)
