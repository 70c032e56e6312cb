"""Names, selection, partition, fingerprints: on trees written out by hand."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import trees

TREE = {'body': {'Dense_0': {'kernel': 1, 'bias': 2}},
        'head': {'kernel': 3, 'bias': None}}


class Pair(NamedTuple):
  left: object
  right: object


def test_names_are_paths_and_none_is_a_leaf():
  assert trees.flatten(TREE) == {
      'body/Dense_0/bias': 2, 'body/Dense_0/kernel': 1,
      'head/bias': None, 'head/kernel': 3}
  assert trees.flatten(Pair([4, 5], None)) == {
      'left/0': 4, 'left/1': 5, 'right': None}
  assert trees.flatten(7) == {'': 7}


def test_unflatten_inverts_flatten():
  assert trees.unflatten(trees.flatten(TREE)) == TREE


def test_select_takes_the_first_rule_that_matches_the_whole_name():
  rules = [('head/.*', 'a'), ('.*kernel', 'b'), ('.*/bias', 'c')]
  assert trees.select(TREE, rules) == {
      'body': {'Dense_0': {'kernel': 'b', 'bias': 'c'}},
      'head': {'kernel': 'a', 'bias': 'a'}}
  only = trees.select(TREE, [('head/kernel', 0)])
  assert trees.flatten(only) == {'body/Dense_0/bias': None,
                                 'body/Dense_0/kernel': None,
                                 'head/bias': None, 'head/kernel': 0}
  assert trees.select({'kernel': 1, 'kernel_2': 2}, [('kernel', 0)]) == {
      'kernel': 0, 'kernel_2': None}


@pytest.mark.parametrize('pattern, hint', [
    ('head/kernal', 'did you mean: head/kernel'),
    ('kernel', 'the leaves are: body/Dense_0/bias'),  # fullmatch, not search
])
def test_a_pattern_without_leaf_is_refused(pattern, hint):
  with pytest.raises(ValueError, match=f"'{pattern}' matches no leaf.*{hint}"):
    trees.select(TREE, [('.*', 1), (pattern, 2)])


def test_partition_and_combine_are_inverse():
  chosen = {'body': {'Dense_0': {'kernel': True, 'bias': None}},
            'head': {'kernel': False, 'bias': True}}
  first, second = trees.partition(TREE, chosen)
  assert trees.flatten(first) == {
      'body/Dense_0/bias': None, 'body/Dense_0/kernel': 1,
      'head/bias': None, 'head/kernel': None}
  assert trees.flatten(second) == {
      'body/Dense_0/bias': 2, 'body/Dense_0/kernel': None,
      'head/bias': None, 'head/kernel': 3}
  assert trees.combine(first, second) == TREE
  assert trees.combine(second, first) == TREE
  assert trees.combine({'a': 1}, {'a': 2}) == {'a': 1}


@pytest.mark.parametrize('f', [
    lambda a, b: trees.map_leaves(lambda x, y: x, a, b),
    lambda a, b: trees.map_named(lambda n, x, y: x, a, b),
    trees.check_same_structure, trees.combine, trees.partition,
])
def test_another_structure_is_refused_by_leaf_name(f):
  with pytest.raises(ValueError, match=(
      r'leaf a/kernal is in the second tree but not in the first \(did you '
      r'mean: a/kernel\?\)')):
    f({'a': {'kernel': 1, 'm': 0}}, {'a': {'kernel': 1, 'm': 0, 'kernal': 2}})
  with pytest.raises(ValueError, match='leaf b is in the first tree but not'):
    f({'a': 1, 'b': None}, {'a': 1})
  with pytest.raises(ValueError, match='different containers'):
    f([1, 2], (1, 2))


def test_check_shapes_names_the_leaf_and_passes_over_none():
  trees.check_shapes({'a': np.ones(3), 'b': None},
                     {'a': np.ones(3), 'b': np.ones(2)}, 'it')
  with pytest.raises(ValueError, match=r'it has shape \(2,\) but a/b is \(3,'):
    trees.check_shapes({'a': {'b': np.ones(2)}}, {'a': {'b': np.ones(3)}},
                       'it')


def test_size_and_bytes():
  tree = {'a': np.ones((2, 3), np.float32), 'b': np.ones(5, np.uint8),
          'c': None, 'd': jax.ShapeDtypeStruct((), jnp.int32)}
  assert trees.size(tree) == 6 + 5 + 1
  assert trees.nbytes(tree) == 24 + 5 + 4


BASE = {'w': np.array([[0., 1.]], np.float32), 'b': np.zeros(1, np.int32)}


@pytest.mark.parametrize('change', [
    {'w': np.array([[-0., 1.]], np.float32)},  # equal in value, not in bits
    {'w': np.array([[0.], [1.]], np.float32)},
    {'w': np.array([[0., 1.]], np.float64)},
    {'b': np.zeros(1, np.uint32)},
    {'c': np.zeros(1, np.int32)},
])
def test_fingerprint_tells_one_bit_shape_dtype_or_name(change):
  assert trees.fingerprint(BASE | change) != trees.fingerprint(BASE)


def test_fingerprint_is_that_of_the_names_and_bytes():
  golden = (
      '2060f1ab460b68b5cdd6f03d6a45006a9ba9aa9adf0864934ca278111fc4b662')
  assert trees.fingerprint(BASE) == golden
  same = {'b': jnp.zeros(1, jnp.int32), 'n': None, 'w': jnp.array([[0., 1.]])}
  assert trees.fingerprint(same) == golden
  swapped = {'w': BASE['b'], 'b': BASE['w']}
  assert trees.fingerprint(swapped) != golden
