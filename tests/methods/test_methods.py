"""One contract for every method, and what each method adds to it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import methods
from mtl_jax import trees
from mtl_jax.config import parts as config_parts
from mtl_jax.methods import base
from mtl_jax.methods import impresslearn
from mtl_jax.methods import supsup

ROUTE = methods.Route('phase', classes=3)
RANDOM = np.random.RandomState(0)
BACKBONE = {
    'body': {'kernel': RANDOM.randn(4, 6).astype(np.float32),
             'bias': RANDOM.randn(6).astype(np.float32)},
    'head': {'kernel': RANDOM.randn(6, 3).astype(np.float32)}}
X = RANDOM.randn(16, 4).astype(np.float32)
Y = RANDOM.randint(0, 3, 16)
BASIS = {'body': {'kernel': RANDOM.rand(5, 4, 6) < .5, 'bias': None},
         'head': {'kernel': RANDOM.rand(5, 6, 3) < .5}}

OWNED = {'owner': {'body': {
    'kernel': RANDOM.randint(0, 3, (4, 6)).astype(np.uint8), 'bias': None},
                   'head': {'kernel': None}}, 'number': np.uint8(2)}

# Name, options, shared before the first task, leaves that follow training.
KERNELS = {'body/kernel', 'head/kernel'}
CASES = {
    'threshold': ('supsup', {}, {}, KERNELS),
    'top_k': ('supsup', {'sampler': 'top_k', 'density': .3}, {}, KERNELS),
    'signed_top_k': ('supsup', {'sampler': 'top_k', 'density': .7,
                                'absolute': False}, {}, KERNELS),
    'erdos_renyi': ('supsup', {'sampler': 'top_k', 'eps': 1}, {}, KERNELS),
    'transfer': ('supsup', {'transfer': True}, {}, KERNELS),
    'vector': ('supsup', {'masked': ['body/bias']}, {}, {'body/bias'}),
    'head_mask': ('supsup', {'masked': ['head/.*']}, {}, {'head/kernel'}),
    'impresslearn': ('impresslearn', {}, {'basis': BASIS}, KERNELS),
    'hybrid': ('impresslearn', {'head': 'head/.*', 'penalty': .1},
               {'basis': BASIS}, KERNELS),
    'hybrid_top_k': ('impresslearn', {'head': 'head/.*', 'sampler': 'top_k',
                                      'density': .5},
                     {'basis': BASIS}, KERNELS),
    'dedicated': ('dedicated', {}, {}, KERNELS | {'body/bias'}),
    'joint': ('joint', {'own': 'head/.*'}, {}, KERNELS | {'body/bias'}),
    'subnetworks': ('subnetworks', {}, OWNED, KERNELS | {'body/bias'}),
    'sharing': ('subnetworks', {'sharing': True}, OWNED | {'weights': {
        'body': {'kernel': BACKBONE['body']['kernel'] + 1, 'bias': None},
        'head': {'kernel': None}}}, KERNELS | {'body/bias'}),
    'fine_tuning': ('joint', {'own': 'head/.*', 'carry': True}, {},
                    KERNELS | {'body/bias'}),
    'munet': ('munet', {}, {
        'path': BACKBONE, 'trained': impressions.Structure(('head',))},
              {'head/kernel'}),
    'probe': ('dedicated', {'trained': ['head/.*']}, {}, {'head/kernel'}),
}


def forward(params, x):
  hidden = jax.nn.relu(x @ params['body']['kernel']
                       + params['body']['bias'][None])
  return hidden @ params['head']['kernel']


def cross_entropy(params, x=X, y=Y):
  chosen = jax.nn.log_softmax(forward(params, x))[np.arange(len(y)), y]
  return -jnp.mean(chosen)


@functools.lru_cache(maxsize=None)
def learned(case, seed=0):
  """Method, backbone, shared, and the trainable after three steps."""
  name, options, shared, _ = CASES[case]
  method = methods.make(name, **options)
  backbone, shared = jax.tree.map(jnp.array, (BACKBONE, shared))

  def loss(trainable):
    params = method.bind(backbone, trainable, shared, ROUTE)
    return cross_entropy(params) + method.penalty(trainable)

  trainable = method.init(jax.random.key(seed), backbone, shared, ROUTE)
  gradient = jax.jit(jax.grad(loss))
  for _ in range(3):
    trainable = jax.tree.map(lambda t, g: t - .3 * g, trainable,
                             gradient(trainable))
  return method, backbone, shared, trainable, gradient(trainable)


def alive(tree):
  return not any(leaf.is_deleted() for leaf in jax.tree.leaves(tree))


def test_every_method_has_a_case():
  # PaRT's networks have only the parts on a path: tests/test_part.py.
  assert {case[0] for case in CASES.values()} == (
      set(methods.METHODS) - {'part'})


@pytest.mark.parametrize('case', CASES)
class TestContract:
  """What holds for every method, with any options."""

  def test_gradients_are_finite_and_reach_every_trainable_leaf(self, case):
    *_, trainable, gradient = learned(case)
    assert jax.tree.leaves(trainable)
    trees.check_same_structure(gradient, trainable)
    for name, g in trees.flatten(gradient).items():
      if g is not None:
        assert np.isfinite(g).all() and np.any(g), name

  def test_bind_keeps_the_backbones_shapes_and_other_leaves(self, case):
    method, backbone, shared, trainable, _ = learned(case)
    params = method.bind(backbone, trainable, shared, ROUTE)
    trees.check_same_structure(params, backbone)
    trees.check_shapes(params, backbone, 'bind')
    changed = {name for name, leaf in trees.flatten(params).items()
               if trees.digest(leaf)
               != trees.digest(trees.flatten(backbone)[name])}
    assert changed == CASES[case][3]

  def test_materialise_is_bind_bit_for_bit_with_and_without_jit(self, case):
    method, backbone, shared, trainable, _ = learned(case)
    impression, after = method.commit(backbone, trainable, shared, ROUTE)
    bind = lambda t, s: method.bind(backbone, t, s, ROUTE)
    make = lambda i, s: method.materialise(backbone, i, s)
    bound = bind(trainable, shared)
    for params in (jax.jit(bind)(trainable, shared), make(impression, shared),
                   jax.jit(make)(impression, shared), make(impression, after)):
      assert trees.digests(params) == trees.digests(bound)
    assert impressions.size_in_bytes(impression) > 0

  def test_commit_changes_and_deletes_nothing(self, case):
    method, backbone, shared, trainable, _ = learned(case)
    held = (backbone, shared, trainable)
    before = trees.fingerprint(held)
    method.commit(backbone, trainable, shared, ROUTE)
    assert alive(held) and trees.fingerprint(held) == before
    assert trees.fingerprint(backbone) == trees.fingerprint(BACKBONE)

  def test_a_later_task_does_not_change_an_earlier_one(self, case):
    method, backbone, shared, first, _ = learned(case)
    second = learned(case, seed=1)[3]
    impression, after = method.commit(backbone, first, shared, ROUTE)
    before = method.materialise(backbone, impression, after)
    _, after = method.commit(backbone, second, after, ROUTE)
    again = method.materialise(backbone, impression, after)
    assert trees.fingerprint(again) == trees.fingerprint(before)

  def test_init_is_a_function_of_the_key(self, case):
    method, backbone, shared, _, _ = learned(case)
    make = lambda seed: trees.fingerprint(method.init(
        jax.random.key(seed), backbone, shared, ROUTE))
    assert make(3) == make(3)
    constant = case in ('impresslearn', 'dedicated', 'joint', 'fine_tuning',
                        'munet', 'subnetworks', 'sharing', 'probe', 'vector')
    assert (make(3) == make(4)) == constant


# SupSup.


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


def test_unknown_methods_are_refused():
  with pytest.raises(ValueError, match=(
      r"unknown method 'supsub' \(did you mean: supsup\?\); known: dedicated, "
      'impresslearn, .*supsup')):
    methods.make('supsub')


# ImpressLearn.


def test_coefficients_start_at_one_over_k():
  method = methods.make('impresslearn')
  found = method.init(jax.random.key(0), BACKBONE, {'basis': BASIS}, ROUTE)
  for kernel in trees.flatten(found['coefficients']).values():
    if kernel is not None:
      np.testing.assert_allclose(kernel, np.full(5, .2), rtol=1e-6)


def test_gradient_of_a_coefficient_is_the_inner_product():
  """dL/dalpha_k = <dL/dW_eff, W * M_k>, layer by layer."""
  method, backbone, shared, trainable, gradient = learned('impresslearn')
  effective = method.bind(backbone, trainable, shared, ROUTE)
  outer = trees.flatten(jax.grad(cross_entropy)(effective))
  for name in KERNELS:
    weights, basis = (np.asarray(trees.flatten(t)[name])
                      for t in (BACKBONE, BASIS))
    by_hand = [np.sum(np.asarray(outer[name]) * weights * m) for m in basis]
    found = trees.flatten(gradient['coefficients'])[name]
    np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-6)


def test_penalty_by_hand():
  alphas = {'coefficients': {'a': np.array([.5, -1.5], np.float32),
                             'b': np.array([.25, .25], np.float32),
                             'c': None}, 'scores': None}
  method = methods.make('impresslearn', penalty=.5)
  # .5 ((2 - 1)^2 + (.5 - 1)^2)
  assert float(method.penalty(alphas)) == .5 * (1. + .25)
  assert method.penalty is not base.no_penalty
  assert methods.make('impresslearn').penalty(alphas) == 0.
  slope = jax.grad(method.penalty)(alphas)['coefficients']
  np.testing.assert_allclose(slope['a'], [1., -1.])  # 2 x .5 x 1 x sign
  np.testing.assert_allclose(slope['b'], [-.5, -.5])


def test_the_hybrid_head_has_scores_and_the_body_coefficients():
  *_, trainable, _ = learned('hybrid')
  given = lambda tree: {n for n, x in trees.flatten(tree).items()
                        if x is not None}
  assert given(trainable['coefficients']) == {'body/kernel'}
  assert given(trainable['scores']) == {'head/kernel'}
  method, backbone, shared, *_ = learned('hybrid')
  impression, _ = method.commit(backbone, trainable, shared, ROUTE)
  assert impressions.bytes_by_part(impression) == {
      'masks': 3, 'coefficients': 20, 'values': 0, 'stats': 0}  # 18 bits


def test_impresslearn_refuses_what_it_cannot_combine():
  method = methods.make('impresslearn')
  with pytest.raises(ValueError, match='ImpressLearn needs a basis'):
    method.init(jax.random.key(0), BACKBONE, {}, ROUTE)
  for head, message in (('.*', 'takes every leaf of the basis'),
                        ('haed/.*', "'haed/.*' matches no leaf")):
    method = methods.make('impresslearn', head=head)
    with pytest.raises(ValueError, match=message):
      method.init(jax.random.key(0), BACKBONE, {'basis': BASIS}, ROUTE)


def test_random_basis_has_different_masks_of_exact_density():
  like = base.masked_part(BACKBONE, ['head/kernel'])
  basis = impresslearn.random_basis(jax.random.key(0), like, 4, .25)
  assert basis['body'] == {'kernel': None, 'bias': None}
  kernel = basis['head']['kernel']
  assert kernel.dtype == bool
  np.testing.assert_array_equal(jnp.sum(kernel, (1, 2)), [4] * 4)  # of 18
  assert len({trees.digest(m) for m in kernel}) == 4
  smaller = impresslearn.random_basis(jax.random.key(0), like, 2, .25)
  np.testing.assert_array_equal(smaller['head']['kernel'], kernel[:2])


def test_a_supermask_of_each_basis_task_is_reproduced():
  """Masks learned by SupSup, stacked, and picked by one-hot coefficients."""
  tasks = [learned('threshold', seed) for seed in range(3)]
  method, backbone = tasks[0][:2]
  made = [method.commit(backbone, t[3], {}, ROUTE)[0] for t in tasks]
  basis = masks.stack([impression.masks for impression in made])
  combine = methods.make('impresslearn')
  for k, impression in enumerate(made):
    own = method.materialise(backbone, impression, {})
    task = impressions.Impression(
        coefficients=impresslearn.one_hot(basis, k))
    again = combine.materialise(backbone, task, {'basis': basis})
    assert trees.fingerprint(again) == trees.fingerprint(own)
    assert trees.digest(forward(again, X)) == trees.digest(forward(own, X))


def test_soft_and_hard_masks_agree():
  for options in ({}, {'kind': 'top_k', 'density': .4}):
    sampling = supsup.sampler(**({'kind': 'threshold'} | options))
    np.testing.assert_array_equal(
        np.asarray(sampling.soft(SCORES)['w']).astype(bool),
        sampling.hard(SCORES)['w'])


def test_one_pattern_may_stand_without_a_tuple():
  params = {'a': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}}
  chosen = methods.base.masked_part(params, '.*kernel')
  assert chosen['a']['bias'] is None and chosen['a']['kernel'] is not None
  basis = config_parts.Basis('random', 2, density=.5, masked='.*kernel')
  assert basis.masked == ('.*kernel',)


def test_subnetworks_need_to_know_who_owns_what():
  method = methods.make('subnetworks')
  with pytest.raises(ValueError, match='give the phase an allocation'):
    method.init(jax.random.key(0), BACKBONE, {}, ROUTE)


@pytest.mark.parametrize('case', ['subnetworks', 'sharing'])
def test_a_subnetwork_reads_its_own_weights_and_those_it_may_share(case):
  method, backbone, shared, trainable, _ = learned(case)
  own, weights = trainable['weights']['body']['kernel'], shared.get('weights')
  owner = OWNED['owner']['body']['kernel']
  wanted = np.where(owner == 2, own, 0)
  if weights:
    wanted = np.where(owner == 1, weights['body']['kernel'], wanted)
  params = method.bind(backbone, trainable, shared, ROUTE)
  np.testing.assert_array_equal(params['body']['kernel'], wanted)
  # What it doesn't own is never trained, whatever the optimizer sees.
  start = BACKBONE['body']['kernel']
  np.testing.assert_array_equal(own[owner != 2], start[owner != 2])
  assert (own[owner == 2] != start[owner == 2]).any()
