"""SupSup: samplers, their gradients, and transfer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_methods import BACKBONE, ROUTE

from mtl_jax import methods
from mtl_jax import trees
from mtl_jax.methods import supsup


def test_scores_start_within_kaimings_bound():
  scores = methods.make('supsup').init(
      jax.random.key(0), {'a': {'kernel': np.zeros((100, 30), np.float32)}},
      {}, ROUTE)['a']['kernel']
  assert np.max(np.abs(scores)) <= .1  # 1 / sqrt(100)
  np.testing.assert_allclose(np.std(scores), .1 / np.sqrt(3), rtol=.05)


def test_scores_of_vectors_start_at_zero_and_keep_everything():
  backbone = {'norm': {'scale': np.ones(5, np.float32)},
              'kernel': np.ones((4, 5), np.float32)}
  method = methods.make('supsup', masked=['.*scale', 'kernel'])
  scores = method.init(jax.random.key(0), backbone, {}, ROUTE)
  np.testing.assert_array_equal(scores['norm']['scale'], np.zeros(5))
  assert np.all(scores['kernel'] != 0)
  impression, _ = method.commit(backbone, scores, {}, ROUTE)
  assert impression.masks['norm']['scale'].all()
  assert not impression.masks['kernel'].all()
  # What a kernel draws does not depend on the vectors beside it.
  alone = methods.make('supsup', masked=['kernel']).init(
      jax.random.key(0), backbone, {}, ROUTE)
  assert trees.digest(alone['kernel']) == trees.digest(scores['kernel'])


SCORES = {'w': np.array([[-4., 3.], [-2., 1.]], np.float32)}


@pytest.mark.parametrize('options, kept', [
    ({}, [[0, 1], [0, 1]]),
    ({'sampler': 'top_k', 'density': .5}, [[1, 1], [0, 0]]),
    ({'sampler': 'top_k', 'density': .5, 'absolute': False},
     [[0, 1], [0, 1]]),
    ({'sampler': 'top_k', 'eps': .25}, [[1, 0], [0, 0]])])  # .25 x 4 / 4
def test_the_mask_of_each_sampler(options, kept):
  method = methods.make('supsup', masked=['w'], **options)
  impression, _ = method.commit(SCORES, SCORES, {}, ROUTE)
  np.testing.assert_array_equal(impression.masks['w'], np.array(kept, bool))
  assert impression.masks['w'].dtype == bool


def test_gradient_of_magnitudes_pushes_kept_scores_away_from_zero():
  method = methods.make('supsup', masked=['w'], sampler='top_k', density=.5)
  weights = {'w': np.array([[1., 2.], [3., 4.]], np.float32)}
  gradient = jax.grad(lambda s: jnp.sum(
      method.bind(weights, s, {}, ROUTE)['w']))(SCORES)['w']
  # d sum(W M) / dM = W, times the sign of the score.
  np.testing.assert_array_equal(gradient, [[-1., 2.], [-3., 4.]])


def test_transfer_starts_at_the_mean_of_all_earlier_scores():
  method = methods.make('supsup', masked=['w'], transfer=True)
  backbone = {'w': np.ones(2, np.float32).reshape(1, 2)}
  shared = {}
  means = []
  for scores in ([1., -4.], [3., 0.], [8., 1.]):
    scores = {'w': np.array([scores], np.float32)}
    _, shared = method.commit(backbone, scores, shared, ROUTE)
    means.append(method.init(jax.random.key(0), backbone, shared, ROUTE)['w'])
  np.testing.assert_allclose(means, [[[1., -4.]], [[2., -2.]], [[4., -1.]]],
                             rtol=1e-6)
  assert int(shared['tasks']) == 3


@pytest.mark.parametrize('options, message', [
    ({'density': .5}, 'threshold masks have no set density'),
    ({'sampler': 'topk', 'density': .5}, "unknown sampler 'topk'; known: "),
    ({'sampler': 'top_k'}, 'exactly one of density and eps'),
    ({'sampler': 'top_k', 'density': .5, 'eps': 1.}, 'exactly one of'),
    ({'densty': .5}, 'method supsup.*densty')])
def test_supsup_refuses(options, message):
  with pytest.raises(ValueError, match=message):
    methods.make('supsup', **options)


@pytest.mark.parametrize('masked, message', [
    (['.*kernal'], "pattern '.*kernal' matches no leaf.*body/kernel"),
    ([], 'the mask covers nothing: no leaf pattern was given')])
def test_patterns_that_cover_nothing_are_refused(masked, message):
  method = methods.make('supsup', masked=masked)
  with pytest.raises(ValueError, match=message):
    method.init(jax.random.key(0), BACKBONE, {}, ROUTE)


def test_soft_and_hard_masks_agree():
  for options in ({}, {'kind': 'top_k', 'density': .4}):
    sampling = supsup.sampler(**({'kind': 'threshold'} | options))
    np.testing.assert_array_equal(
        np.asarray(sampling.soft(SCORES)['w']).astype(bool),
        sampling.hard(SCORES)['w'])


def test_piggyback_starts_with_the_whole_network_and_drops_low_scores():
  """https://arxiv.org/abs/1801.06519: scores of 1e-2, kept from 5e-3 on."""
  method = methods.make('supsup', threshold=5e-3, start=1e-2)
  scores = method.init(jax.random.key(0), BACKBONE, {}, ROUTE)
  assert trees.digests(method.bind(BACKBONE, scores, {}, ROUTE)) == (
      trees.digests(BACKBONE))
  kernel = np.full((4, 6), 1e-2, np.float32)
  kernel[0, :3] = 4.9e-3, 5e-3, -1.
  scores = {'body': {'kernel': kernel, 'bias': None}, 'head': scores['head']}
  mask = method.commit(BACKBONE, scores, {}, ROUTE)[0].masks['body']['kernel']
  np.testing.assert_array_equal(mask[0], [0, 1, 0, 1, 1, 1])
  assert mask[1:].all()
  gradient = jax.grad(lambda s: method.bind(BACKBONE, s, {}, ROUTE)['body'][
      'kernel'].sum())(scores)  # straight through: the weights themselves
  np.testing.assert_array_equal(gradient['body']['kernel'],
                                BACKBONE['body']['kernel'])


@pytest.mark.parametrize('options, text', [
    ({'threshold': .1, 'sampler': 'top_k', 'density': .5},
     "threshold is 0.1; .* of the sampler 'threshold' alone"),
    ({'threshold': float('inf')}, 'threshold is inf; it is a finite number'),
    ({'start': .1, 'sampler': 'top_k', 'density': .5}, 'start is 0.1: a first'),
    ({'start': 1e-3, 'threshold': 5e-3}, 'a start of at least 0.005')])
def test_starts_that_keep_nothing_are_refused(options, text):
  with pytest.raises(ValueError, match=text):
    methods.make('supsup', **options)
