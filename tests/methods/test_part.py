"""PaRT's method: what a task reads and writes, and what it leaves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import methods
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.methods import graph
from mtl_jax.methods import path_sampling
from mtl_jax.storage import impression_arrays

HEADS = (3, 2, 3)
SHAPE = path_sampling.Shape(2, 4, 2)
ROUTES = tuple(methods.Route(classes, loss='classes', member=k)
               for k, classes in enumerate(HEADS))
CASES = {
    'statistics': {}, 'affine': dict(norm='affine'),
    'shared_norms': dict(norm='shared'), 'copies': dict(copies=True),
    'hard_sharing': dict(paths='identical'),
    'overlapping': dict(paths='overlapping', overlap=1),
    'affine_copies': dict(copies=True, norm='affine')}


@functools.lru_cache(maxsize=None)
def network():
  return models.make('part_resnet', 3, heads=HEADS, modules=4, active=2,
                     width=2, blocks=(1,))


@functools.lru_cache(maxsize=None)
def backbone():
  return network().init(jax.random.key(0), (8, 8, 1))[0]


@functools.lru_cache(maxsize=None)
def learned(case):
  """Method and a trainable that training has moved everywhere."""
  method = methods.make('part', active=2, **CASES[case])
  start = method.init(jax.random.key(0), backbone(), {}, ROUTES)
  moved = trees.map_named(lambda name, x: x + .01 * (1 + jnp.arange(
      x.size, dtype=x.dtype).reshape(x.shape) / x.size), start)
  return method, start, moved


def own_path(case, k):
  options = CASES[case]
  return path_sampling.draw(options.get('paths', 'official'), 456, 3, SHAPE,
                    options.get('overlap', 0))[k]


@pytest.mark.parametrize('case', CASES)
class TestContract:

  def test_before_training_a_task_has_its_modules_of_the_backbone(self, case):
    method, start, _ = learned(case)
    for k, route in enumerate(ROUTES):
      params = method.bind(backbone(), start, {}, route)
      for level, modules in enumerate(own_path(case, k)):
        for n, m in enumerate(modules):
          assert trees.fingerprint(
              params[f'level{level + 1}'][f'slot{n}']) == trees.fingerprint(
                  backbone()[f'level{level + 1}'][f'module{m:02d}'])
      assert trees.fingerprint(params['head']) == trees.fingerprint(
          backbone()['head'][f'task{k:02d}'])

  def test_materialise_is_bind_bit_for_bit_also_from_the_disk(self, case):
    method, _, moved = learned(case)
    for route in ROUTES:
      bound = method.bind(backbone(), moved, {}, route)
      impression, shared = method.commit(backbone(), moved, {}, route)
      assert shared == {}
      stored = impression_arrays.arrays_to_impression(
          impression_arrays.impression_to_arrays(impression),
          backbone(), {}, {})
      assert stored.path == impression.path
      for made in (impression, stored):
        params = jax.jit(lambda i: method.materialise(backbone(), i, {}))(made)
        assert trees.digests(params) == trees.digests(bound)

  def test_a_task_leaves_its_path_and_head_alone(self, case):
    method, _, moved = learned(case)
    for k, route in enumerate(ROUTES):
      impression, _ = method.commit(backbone(), moved, {}, route)
      left = {'/'.join(name.split('/')[:2]) for name, value in
              trees.flatten(impression.values).items() if value is not None}
      wanted = {f'level{i + 1}/module{m:02d}' for i, level in
                enumerate(own_path(case, k)) for m in level}
      assert left == wanted | {f'head/task{k:02d}'}

  def test_gradients_reach_what_a_task_reads_and_nothing_else(self, case):
    method, _, moved = learned(case)
    rows = method.abilities.banks.rows(moved)
    grads = jax.grad(lambda t: sum(jnp.sum(jnp.square(x)) for x in (
        jax.tree.leaves(method.bind(backbone(), t, {}, ROUTES[1])))))(moved)
    for bank, tree in grads.items():
      for name, leaf in trees.flatten(tree).items():
        hit = set(np.flatnonzero(np.any(leaf.reshape(len(leaf), -1), axis=1)))
        assert hit == set(rows[bank][1]), (bank, name)


def test_statistics_and_affine_differ_in_whose_norms_are_trained():
  scale = lambda case: learned(case)[1]['level1'].get('bn1')
  assert scale('statistics')['scale'].shape == (4, 2)
  assert scale('affine') is None
  own = learned('affine')[1]['own']['norms']['level1']['bn1']['scale']
  assert own.shape == (3, 2, 2)  # tasks, slots, channels


@pytest.mark.parametrize('norm', ['statistics', 'affine'])
def test_a_later_group_freezes_what_earlier_ones_left(norm):
  method, _, moved = learned(norm)
  left = [method.commit(backbone(), moved, {}, r)[0] for r in ROUTES[:2]]
  shared = graph.segments_of(backbone(), left)
  used = path_sampling.users(path_sampling.official(456, 2, SHAPE), 4) > 0
  assert [shared['frozen'][f'level{i + 1}'].tolist() for i in (0, 1)] == (
      used.tolist())
  later = methods.make('part', active=2, first=2, norm=norm)
  route = methods.Route(3, loss='classes')
  start = later.init(jax.random.key(0), backbone(), shared, route)
  path = path_sampling.official(456, 3, SHAPE)[2]
  bound = later.bind(backbone(), start, shared, route)
  grads = jax.grad(lambda t: sum(jnp.sum(x) for x in (
      jax.tree.leaves(later.bind(backbone(), t, shared, route)))))(start)
  for i, level in enumerate(path):
    name = f'level{i + 1}'
    for n, m in enumerate(level):
      kernel = bound[name][f'slot{n}']
      original = backbone()[name][f'module{m:02d}']
      same = trees.fingerprint(kernel) == trees.fingerprint(original)
      assert same != used[i, m]  # free modules start at the backbone's
    moves = [any(np.any(g[m]) for g in jax.tree.leaves(grads[name]))
             for m in range(4)]
    assert moves == [m in level and not used[i, m] for m in range(4)]
    # Scales and shifts of its own are trained, also on frozen modules.
    own = jax.tree.leaves(grads['own']['norms'].get(name, {}))
    assert bool(own) == (norm == 'affine')
    assert all(np.all(np.any(g, axis=2)) for g in own)
  assert 0 < sum(used[i, m] for i, row in enumerate(path) for m in row) < 4
  assert graph.segments_of(backbone(), []) == {}


@pytest.mark.parametrize('levels, modules', [(11, 3), (2, 105)])
@pytest.mark.parametrize('copies', [False, True])
def test_numbers_of_more_digits_keep_their_order(levels, modules, copies):
  """'level10' comes after 'level9', and 'module100' after 'module99'."""
  named = {f'level{i + 1}': {f'module{m:02d}': {
      'kernel': np.full(2, 1000 * i + m, np.float32)} for m in range(modules)}
           for i in range(levels)}
  named['head'] = {'task00': {'kernel': np.zeros((2, 2), np.float32),
                              'bias': np.zeros(2, np.float32)}}
  method = methods.make('part', active=2, copies=copies)
  route = methods.Route(2, loss='classes', member=0)
  start = method.init(jax.random.key(0), named, {}, (route,))
  left = method.commit(named, start, {}, route)[0]
  for own, name in left.path.parts[:-1]:
    level, _, module = name.partition('/')
    for bits in (named[level][module], left.values[level][module]):
      np.testing.assert_array_equal(
          method.bind(named, start, {}, route)[level][own.split('/')[1]]
          ['kernel'], bits['kernel'])
  shared = graph.segments_of(named, [left])
  assert [np.flatnonzero(shared['frozen'][f'level{i + 1}']).tolist()
          for i in range(levels)] == [sorted(
              int(name.partition('module')[2]) for _, name in left.path.parts
              if name.startswith(f'level{i + 1}/')) for i in range(levels)]


@pytest.mark.parametrize('options, heads, message', [
    (dict(norm='group'), HEADS, "unknown norm 'group'"),
    (dict(active=5), HEADS, 'takes 5 of only 4'),
    (dict(paths='disjoint'), HEADS, 'need 6 modules a level'),
    ({}, (3, 2), 'none named task02'),
    ({}, (3, 3, 3), 'head task01 has 3 outputs but its task has 2')])
def test_misfits_are_refused_before_training(options, heads, message):
  wrong = backbone() | {'head': {
      f'task{k:02d}': {'kernel': np.zeros((8, c)), 'bias': np.zeros(c)}
      for k, c in enumerate(heads)}}
  with pytest.raises(ValueError, match=message):
    methods.make('part', **({'active': 2} | options)).init(
        jax.random.key(0), wrong, {}, ROUTES)


def test_other_backbones_are_refused():
  with pytest.raises(ValueError, match='levels of parallel modules'):
    methods.make('part', active=1).init(
        jax.random.key(0), {'Dense_0': {}}, {}, ROUTES)
