"""A value that an earlier task stored is stored once."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax import impressions
from mtl_jax.storage import array_files
from mtl_jax.storage import checkpoint
from mtl_jax.storage import deduplicate
from mtl_jax.storage import impression_arrays
from mtl_jax.storage import workdir as workdir_lib

BACKBONE = {'a': np.zeros(600, np.float32), 'b': np.ones(3, np.float32)}
LARGE = np.arange(600, dtype=np.float32)


@pytest.fixture(name='work')
def _work(tmp_path):
  work = workdir_lib.Workdir(tmp_path)
  work.prepare()
  checkpoint.save(work.task('one'), {'values/a': LARGE}, {})
  return work


def test_equal_leaves_are_not_stored_again(work):
  own, found = deduplicate.Index(work, BACKBONE).split({
      'values/a': LARGE, 'values/b': BACKBONE['b'],
      'values/c': np.ones(3, np.float32), 'masks/a': np.zeros(1, np.uint8)})
  assert sorted(own) == ['masks/a', 'values/c']
  assert list(found) == ['values/a'] and found['values/a']['task'] == 'one'
  arrays = deduplicate.resolve(work, own, {'references': found})
  np.testing.assert_array_equal(arrays['values/a'], LARGE)
  assert sorted(arrays) == ['masks/a', 'values/a', 'values/c']


@pytest.mark.parametrize('name, value', [
    ('values/a', LARGE + 1), ('values/x', LARGE), ('masks/a', LARGE)])
def test_other_bits_or_names_are_stored(work, name, value):
  own, found = deduplicate.Index(work, BACKBONE).split({name: value})
  assert list(own) == [name] and not found


def test_a_task_committed_later_is_seen(work):
  index = deduplicate.Index(work, BACKBONE)
  assert index.split({'values/x': LARGE})[1] == {}
  checkpoint.save(work.task('two'), {'values/x': LARGE}, {})
  index.add('two')
  assert index.split({'values/x': LARGE})[1]['values/x']['task'] == 'two'


@pytest.mark.parametrize('change, text', [
    (lambda path: shutil.rmtree(path), 'values/a is stored with task one, '
     'which is gone'),
    (lambda path: tiny.rewrite(path, lambda arrays: arrays['values/a'].fill(7),
                               {}), 'holds another one now')])
def test_a_missing_or_other_value_is_refused(work, change, text):
  own, found = deduplicate.Index(work, BACKBONE).split({'values/a': LARGE})
  change(work.task('one'))
  with pytest.raises(checkpoint.CheckpointError, match=text):
    deduplicate.resolve(work, own, {'references': found})


def test_values_under_a_mask_are_stored_alone():
  mask = np.array([[True, False], [True, True]])
  made = impressions.Impression(
      masks={'w': jnp.array(mask), 'b': None},
      values={'w': jnp.array([[1., 0.], [3., 4.]]), 'b': jnp.array([5.])})
  arrays = impression_arrays.impression_to_arrays(made)
  np.testing.assert_array_equal(arrays['values/w'], [1., 3., 4.])
  assert impressions.bytes_by_part(made)['values'] == 4 * 4
  like = {'w': jnp.zeros((2, 2)), 'b': jnp.zeros(1)}
  kept = {k: v for k, v in arrays.items() if v is not None}
  found = impression_arrays.arrays_to_impression(kept, like, {}, {})
  np.testing.assert_array_equal(found.values['w'], made.values['w'])
  np.testing.assert_array_equal(found.values['b'], [5.])
  kept['values/w'] = np.ones(2, np.float32)
  with pytest.raises(checkpoint.CheckpointError, match='its mask keeps 3'):
    impression_arrays.arrays_to_impression(kept, like, {}, {})


def test_two_equal_networks_take_the_space_of_one(tmp_path):
  config = tiny.get_config('few')
  same = dict(method='dedicated', steps=4, batch_size=16, learning_rate=1e-2,
              tasks=(0, 1), control=True)
  config.phases = dict(one=same, two=same)
  config.schedule = ('one', 'two')
  tiny.learn(tiny.config_lib.from_dict(config.to_dict()), tmp_path)
  work = workdir_lib.Workdir(tmp_path)
  first, second = work.task_names()
  sizes = [checkpoint.load_metadata(work.task(name))['record']['bytes']
           for name in (first, second)]
  assert sizes[0]['referenced'] == 0
  assert sizes[1]['values'] == 0
  assert sizes[1]['referenced'] == sizes[0]['values'] > 200_000
  assert array_files.stored_bytes(work.task(second)) < 6000
  system = mtl_jax.load(tmp_path)
  x = system.probe('digits')
  np.testing.assert_array_equal(system.predict(x, task=first),
                                system.predict(x, task=second))
  assert tiny.verify(tmp_path).returncode == 0
  shutil.rmtree(work.task(first))
  result = tiny.verify(tmp_path)
  assert result.returncode == 1 and f'task {first}, which is gone' in (
      result.stdout)
