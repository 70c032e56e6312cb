"""A checkpoint that another process exchanges or removes while it is read."""

import numpy as np
import pytest

from mtl_jax.storage import array_files
from mtl_jax.storage import checkpoint
from mtl_jax.storage import removal

ARRAYS = {'masks/a': np.array([3, 255], np.uint8)}


@pytest.fixture(name='path')
def _path(tmp_path):
  path = tmp_path / 'task'
  checkpoint.save(path, ARRAYS, {'classes': 10})
  return path


def test_a_checkpoint_that_is_exchanged_while_it_is_read(
    path, tmp_path, monkeypatch):
  """As when another process renames and deletes tasks: it is not damaged."""
  other = {name: array[::-1] for name, array in ARRAYS.items()}
  checkpoint.save(tmp_path / 'other', other, {'classes': 5})
  read = array_files.read

  def exchange_and_read(*given):
    monkeypatch.undo()
    removal.remove(path)
    (tmp_path / 'other').rename(path)
    return read(*given)
  monkeypatch.setattr(array_files, 'read', exchange_and_read)
  arrays, metadata = checkpoint.load(path)
  assert metadata['classes'] == 5
  for name, array in other.items():
    np.testing.assert_array_equal(arrays[name], array)


def test_a_checkpoint_that_goes_while_it_is_read(path, monkeypatch):
  exists = checkpoint.exists

  def remove_after(path):
    monkeypatch.undo()
    found = exists(path)
    removal.remove(path)
    return found
  monkeypatch.setattr(checkpoint, 'exists', remove_after)
  with pytest.raises(checkpoint.CheckpointError, match='no checkpoint at'):
    checkpoint.load_metadata(path)
