"""Trees and impressions come back from named arrays, or are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.storage import checkpoint
from mtl_jax.storage import impression_arrays


def test_trees_with_keys_and_scalars_come_back(tmp_path):
  tree = {'key': jax.random.key(3), 'step': jnp.int32(7), 'none': None,
          'many': jax.random.split(jax.random.key(4), 3)}
  checkpoint.save(tmp_path / 'a', impression_arrays.tree_to_arrays(tree), {})
  like = {'key': jax.random.key(0), 'step': jnp.int32(0), 'none': None,
          'many': jax.random.split(jax.random.key(0), 3)}
  found = impression_arrays.arrays_to_tree(
      checkpoint.load(tmp_path / 'a')[0], like)
  assert found['step'] == 7 and found['none'] is None
  for name in ('key', 'many'):
    np.testing.assert_array_equal(jax.random.key_data(found[name]),
                                  jax.random.key_data(tree[name]))


@pytest.mark.parametrize('like, text', [
    ({'w': np.zeros((2, 1), np.float32)}, r'leaf w is float32\(2,\)'),
    ({'w': np.zeros(2, np.int32)}, 'float32.*but int32'),
    ({'v': np.zeros(2, np.float32)}, 'leaf v is in only one of')])
def test_tree_of_another_form_is_refused(like, text):
  with pytest.raises(checkpoint.CheckpointError, match=text):
    impression_arrays.arrays_to_tree({'w': np.zeros(2, np.float32)}, like)


def test_impression_comes_back():
  backbone = {'w': jnp.zeros((3, 3)), 'v': jnp.zeros(2)}
  mask = np.array([[True, False, True], [False, False, True],
                   [True, True, False]])
  made = impressions.Impression(
      masks={'w': jnp.array(mask), 'v': None},
      coefficients={'w': None, 'v': jnp.array([2., -3.])},
      stats={'mean': jnp.array([5.])})
  arrays = impression_arrays.impression_to_arrays(made)
  assert arrays['masks/w'].dtype == np.uint8 and arrays['masks/w'].size == 2
  found = impression_arrays.arrays_to_impression(
      {k: v for k, v in arrays.items() if v is not None}, backbone,
      {'mean': jnp.zeros(1)}, impression_arrays.impression_metadata(made))
  np.testing.assert_array_equal(found.masks['w'], mask)
  assert found.masks['v'] is None and found.values is None
  np.testing.assert_array_equal(found.coefficients['v'], [2., -3.])
  np.testing.assert_array_equal(found.stats['mean'], [5.])


def test_impression_of_another_network_is_refused():
  with pytest.raises(checkpoint.CheckpointError,
                     match='leaf masks/u has no counterpart'):
    impression_arrays.arrays_to_impression({'masks/u': np.zeros(1, np.uint8)},
                                           {'w': jnp.zeros(2)}, {}, {})


def test_a_structure_of_its_own_survives(tmp_path):
  grown = impressions.Impression(
      values={'cls': np.ones(3, np.float32), 'new': {'w': np.zeros((2, 2))}},
      structure=impressions.Structure(('body', 'cls', 'new')),
      stats={'mean': np.ones(2)}, parts={'scale': np.ones(1)})
  checkpoint.save(
      tmp_path / 'x', impression_arrays.impression_to_arrays(grown) | {
          'probe': np.zeros(1)}, impression_arrays.impression_metadata(grown))
  arrays, metadata = checkpoint.load(tmp_path / 'x')
  found = impression_arrays.arrays_to_impression(
      arrays, {'body': np.zeros(2), 'cls': np.zeros(9)}, {'mean': np.zeros(2)},
      metadata)
  assert found.structure == grown.structure and found.masks is None
  for part in ('values', 'stats', 'parts'):
    assert trees.digests(getattr(found, part)) == trees.digests(
        getattr(grown, part))
  with pytest.raises(checkpoint.CheckpointError, match='masks/body has no '
                                                       'counterpart'):
    impression_arrays.arrays_to_impression({'masks/body': np.zeros(1)}, {}, {},
                                           {'structure': ['a']})


def test_named_parts_survive(tmp_path):
  """Of any shape, beside leaves that the backbone has; also what is absent."""
  made = impressions.Impression(
      values={'w': jnp.ones(2), 'v': None},
      parts={'lora': {'w': {'down': jnp.ones((2, 1)), 'up': None},
                      'scale': jnp.float32(.5)}, 'steps': jnp.arange(3)})
  checkpoint.save(tmp_path / 'x', impression_arrays.impression_to_arrays(made),
                  impression_arrays.impression_metadata(made))
  found = impression_arrays.arrays_to_impression(
      checkpoint.load(tmp_path / 'x')[0], {'w': jnp.zeros(2), 'v': jnp.ones(1)},
      {}, checkpoint.load_metadata(tmp_path / 'x'))
  assert trees.digests(found.parts) == trees.digests(made.parts)
  trees.check_same_structure(found.parts, made.parts)
  assert found.parts['lora']['w']['up'] is None
  assert trees.digests(found.values) == trees.digests(made.values)
  assert impressions.bytes_by_part(made) == {
      'masks': 0, 'coefficients': 0, 'values': 8, 'stats': 0,
      'lora': 8 + 4, 'steps': 12}


@pytest.mark.parametrize('parts, text', [
    ({'masks': {'w': np.ones(1)}}, "part 'masks', but that is the name of a"),
    ({'a': [np.ones(1)]}, 'part a is a list; a part is a dict of arrays'),
    ({'a': {'b/c': np.ones(1)}}, "part a has the key 'b/c'; keys of a part"),
    ({'a': {3: np.ones(1)}}, 'part a has the key 3'),
    ({'a': {'b': {}}}, 'part a/b is a dict; a part is a dict of arrays'),
    ({'a': {'b': 1.}}, 'part a/b is a float')])
def test_parts_that_could_not_be_read_again_are_refused(parts, text):
  with pytest.raises(ValueError, match=text):
    impression_arrays.impression_metadata(impressions.Impression(parts=parts))
