"""Files of weights, as other programs write them."""

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from orbax.checkpoint import v1

from mtl_jax.storage import checkpoint
from mtl_jax.storage import tensor_file
from mtl_jax.storage import weights

TREE = {'params': {'a': {'kernel': np.arange(6, dtype=np.float32).reshape(
    2, 3)}}, 'batch_stats': {'n': {'mean': np.ones(3, np.float32)}}}
FLAT = {'params/a/kernel': TREE['params']['a']['kernel'],
        'batch_stats/n/mean': TREE['batch_stats']['n']['mean']}

OWN = {'network': 'a', 'format': tensor_file.FORMAT}


def assert_read(path):
  found = weights.read(path)
  assert set(found) == set(FLAT)
  for name, array in FLAT.items():
    np.testing.assert_array_equal(found[name], array)


def test_numpy_and_safetensors_files(tmp_path):
  np.savez(tmp_path / 'a.npz', **FLAT)
  assert_read(tmp_path / 'a.npz')
  safetensors.numpy.save_file(FLAT, tmp_path / 'a.safetensors')
  assert_read(tmp_path / 'a.safetensors')
  tensor_file.write(tmp_path / 'own.safetensors', FLAT, OWN)
  assert_read(tmp_path / 'own.safetensors')
  half = {'x': np.ones(3, jnp.bfloat16)}
  safetensors.numpy.save_file(half, tmp_path / 'half.safetensors')
  assert weights.read(tmp_path / 'half.safetensors')['x'].dtype == jnp.bfloat16


@pytest.mark.filterwarnings('ignore:Sharding info')
def test_folders_of_orbax_of_either_interface(tmp_path):
  v1.save(tmp_path / 'v1', TREE)
  assert_read(tmp_path / 'v1')
  with ocp.StandardCheckpointer() as old:
    old.save(tmp_path / 'v0', TREE)
  assert_read(tmp_path / 'v0')


def test_nothing_that_could_run_is_opened(tmp_path):
  np.savez(tmp_path / 'a.npz', x=np.array([{}], object))
  with pytest.raises(ValueError, match='a.npz holds pickled objects, which '
                                       'could run code .*numpy.savez'):
    weights.read(tmp_path / 'a.npz')
  (tmp_path / 'model.pt').write_bytes(b'')
  with pytest.raises(ValueError, match='model.pt has none of the forms .*'
                                       'write its arrays with safetensors'):
    weights.read(tmp_path / 'model.pt')


def test_what_is_no_file_of_weights_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='no weights at .*nowhere.npz; '
                                              'backbone.weights is'):
    weights.read(tmp_path / 'nowhere.npz')
  (tmp_path / 'a.npz').write_text('nothing')
  with pytest.raises(ValueError, match='a.npz cannot be read as .npz'):
    weights.read(tmp_path / 'a.npz')
  np.savez(tmp_path / 'empty.npz')
  with pytest.raises(ValueError, match='empty.npz holds no arrays'):
    weights.read(tmp_path / 'empty.npz')
  (tmp_path / 'a.safetensors').write_text('nothing')
  with pytest.raises(ValueError, match='cannot be read as .safetensors'):
    weights.read(tmp_path / 'a.safetensors')
  tensor_file.write(tmp_path / 't.safetensors', FLAT, OWN | {'parts': {}})
  with pytest.raises(ValueError, match='holds a task, not a network: write '
                                       'its network with .*--network'):
    weights.read(tmp_path / 't.safetensors')
  tensor_file.write(tmp_path / 'n.safetensors', FLAT, OWN | {
      'format': 9, 'versions': {'mtl_jax': '7.1'}})
  with pytest.raises(ValueError, match='format 9; this version reads format 1: '
                                       'read it with mtl_jax 7.1 that wrote'):
    weights.read(tmp_path / 'n.safetensors')
  (tmp_path / 'folder').mkdir()
  with pytest.raises(ValueError, match='folder cannot be read as a checkpoint '
                                       'of Orbax .*give the folder of one'):
    weights.read(tmp_path / 'folder')


def test_a_part_of_a_workdir_is_no_file_of_weights(tmp_path):
  checkpoint.save(tmp_path / 'task', FLAT, {})
  with pytest.raises(ValueError, match='task is a part of a workdir, not a net'
                                       'work: write .*export_network'):
    weights.read(tmp_path / 'task')
  with pytest.raises(FileNotFoundError, match='there are no weights at xxx'):
    weights.read('x' * 300)


def test_an_own_file_that_was_changed_is_refused(tmp_path):
  path = tensor_file.write(tmp_path / 'w.safetensors', FLAT, OWN)
  raw = bytearray(path.read_bytes())
  raw[-1] ^= 1
  path.write_bytes(raw)
  with pytest.raises(ValueError, match='changed since it was written'):
    weights.read(path)
