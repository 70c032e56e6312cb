"""Similarity of representations, ablation, probes and corruptions."""

import itertools

import jax
import numpy as np
import pytest

from mtl_jax import models
from mtl_jax.data import corruptions
from mtl_jax.evaluation import similarity

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(50, 6)


def hsic_cka(x, y):
  """CKA by its definition, from centred Gram matrices."""
  centre = np.eye(len(x)) - 1 / len(x)
  k, m = (centre @ a @ a.T @ centre for a in (x, y))
  return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


@pytest.mark.parametrize('q', [3, 80])
def test_cka_is_that_of_the_gram_matrices(q):
  y = np.hstack([X[:, :2], RANDOM.randn(50, q)]) + 3.
  found = similarity.linear_cka(X, y, unbiased=False)
  np.testing.assert_allclose(found, hsic_cka(X, y), rtol=1e-10)
  assert .01 < found < .99


def test_the_unbiased_norms_are_means_over_four_different_inputs():
  """HSIC_1 is the U-statistic: the mean over all quadruples, by its kernel."""
  x, y = RANDOM.randn(7, 3), RANDOM.randn(7, 2)
  k, m = x @ x.T, y @ y.T
  total, count = 0., 0
  for i, j, q, r in itertools.permutations(range(7), 4):
    total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
    count += 1
  np.testing.assert_allclose(similarity._hsic(x, y) / (7 * 4), total / count)


def test_independent_features_have_nothing_in_common():
  """However many they are; the usual estimate says 0.51."""
  x, y = RANDOM.randn(2, 500, 512)
  assert abs(similarity.linear_cka(x, y)) < .02
  assert similarity.linear_cka(x, y, unbiased=False) == pytest.approx(.51,
                                                                      abs=.01)
  both = np.hstack([x, y])
  assert similarity.linear_cka(x, both) == pytest.approx(.5 ** .5, abs=.03)


def test_cka_knows_rotations_scales_and_shifts():
  turn = np.linalg.qr(RANDOM.randn(6, 6))[0]
  odd, even = np.zeros((4, 1)), np.zeros((4, 1))
  odd[:, 0], even[:, 0] = [1, -1, 1, -1], [1, 1, -1, -1]
  assert similarity.linear_cka(odd, even, unbiased=False) == 0.
  for unbiased in (True, False):
    assert similarity.linear_cka(X, 5 * X @ turn - 2, unbiased
                                 ) == pytest.approx(1.)
    for value in (1., .1, 7.7, 1e5 + .1):  # whose mean may be rounded
      constant = np.full((7, 3), value)
      assert np.isnan(similarity.linear_cka(X[:7], constant, unbiased))
      assert np.isnan(similarity.linear_cka(constant, constant, unbiased))
  assert np.isnan(similarity.linear_cka(X[:3], X[:3]))
  with pytest.raises(ValueError, match='same n inputs'):
    similarity.linear_cka(X, X[:-1])


def test_relations_are_symmetric_with_ones_on_the_diagonal():
  found = similarity.relation([X, X[:, :3], RANDOM.randn(50, 4)])
  np.testing.assert_array_equal(found, found.T)
  assert np.diag(found).tolist() == [1.] * 3
  assert found[0, 1] > .5 > found[0, 2]


@pytest.mark.parametrize('name, levels', [('part_cifar', 9),
                                          ('part_resnet', 2)])
def test_a_silenced_module_adds_nothing(name, levels):
  options = dict(heads=(3,), modules=2, active=2, width=2)
  if name == 'part_resnet':
    options['blocks'] = (1,)
  network = models.make(name, 3, **options)
  params, stats = network.init(jax.random.key(0), (8, 8, 1))
  x = RANDOM.rand(2, 8, 8, 1).astype(np.float32)
  trace = jax.jit(network.trace)
  params = {level: {f'slot{n}': modules[f'module{n:02d}'] for n in range(2)}
            if level.startswith('level') else modules
            for level, modules in params.items()}
  whole = trace(params, stats, x)
  dropped = similarity.without(params, f'level{levels}/slot1')
  found = trace(dropped, stats, x)
  assert not np.any(found[f'level{levels}/slot1'])
  assert np.any(whole[f'level{levels}/slot1'])
  for part in ('level1', f'level{levels}/slot0'):
    np.testing.assert_array_equal(found[part], whole[part])
  assert np.any(found[f'level{levels}'] != whole[f'level{levels}'])
  with pytest.raises(ValueError, match='no module level1/slot2'):
    similarity.without(params, 'level1/slot2')


def test_a_probe_reads_what_is_linear_and_nothing_else():
  labels = (X[:, 0] > 0).astype(int)
  assert similarity.linear_probe(X[:40], labels[:40], X[40:],
                                 labels[40:]) >= .9
  other = RANDOM.randint(0, 2, 400)
  noise = RANDOM.randn(400, 2)
  assert .3 < similarity.linear_probe(noise[:200], other[:200], noise[200:],
                                      other[200:]) < .7


IMAGES = RANDOM.randint(60, 200, (20, 8, 8, 3)).astype(np.uint8)


@pytest.mark.parametrize('kind', corruptions.STRENGTHS)
def test_stronger_corruptions_change_more(kind):
  changes = []
  for strength in range(1, 6):
    found = corruptions.corrupt(IMAGES, kind, strength)
    assert found.dtype == np.uint8 and found.shape == IMAGES.shape
    changes.append(np.abs(found.astype(int) - IMAGES).mean())
  assert np.all(np.diff(changes) > 0) and changes[0] > .5
  np.testing.assert_array_equal(found, corruptions.corrupt(IMAGES, kind, 5))


def test_what_each_corruption_does():
  image = np.zeros((1, 5, 5, 2), np.uint8)
  image[0, 2, 2] = 255
  blurred = corruptions.corrupt(image, 'blur', 5)[0, ..., 0].astype(int)
  assert blurred[2, 2] < 255 and blurred[1, 2] == blurred[2, 1] > 0
  low = corruptions.corrupt(IMAGES, 'contrast', 5).astype(float)
  ratio = low.std((1, 2)) / IMAGES.std((1, 2))
  np.testing.assert_allclose(ratio, .15, atol=.02)
  noise = corruptions.corrupt(IMAGES, 'noise', 5).astype(float) - IMAGES
  assert abs(noise.std() - 25.5) < 1
  assert np.any(noise != corruptions.corrupt(IMAGES, 'noise', 5, seed=1)
                - IMAGES.astype(float))


@pytest.mark.parametrize('arguments, message', [
    ((IMAGES, 'fog', 1), 'noise'), ((IMAGES, 'blur', 6), '1 ... 5'),
    ((IMAGES / 255, 'blur', 1), 'uint8')])
def test_bad_corruptions_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    corruptions.corrupt(*arguments)


def test_a_probe_of_one_class_is_not_a_number():
  labels = np.full(50, 3)
  assert np.isnan(similarity.linear_probe(X, labels, X, np.arange(50)))
  assert np.isnan(similarity.linear_probe(X[:1], [0], X[:1], [0]))
