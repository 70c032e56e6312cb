"""A file is read as it was written, or refused with a sentence."""

import errno
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from mtl_jax import json_files
from mtl_jax.storage import tensor_file
from mtl_jax.storage import weights

ARRAYS = {
    'a/masks': np.arange(5, dtype=np.uint8), 'scalar': np.float32(2.),
    'half': np.asarray(jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)),
    'one': np.asarray(jnp.bfloat16(3)), 'none': np.zeros((0, 3)),
    'turned': np.arange(6).reshape(2, 3).T, 'complex': np.array([1 + 2j])}


@pytest.fixture(name='path')
def _path(tmp_path):
  return tensor_file.write(tmp_path / 'x.safetensors', ARRAYS, {'said': 'ä'})


def test_arrays_of_every_dtype_and_the_header_come_back(path):
  arrays, header = tensor_file.read(path)
  assert header == {'said': 'ä'} and set(arrays) == set(ARRAYS)
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(arrays[name], array)
    assert arrays[name].dtype == np.asarray(array).dtype
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_equal_content_makes_equal_bytes(path):
  first = path.read_bytes()
  for _ in range(20):  # safetensors orders its metadata anew in each call
    assert tensor_file.write(path, ARRAYS, {'said': 'ä'}).read_bytes() == first


def test_every_flipped_byte_is_found(path):
  whole = path.read_bytes()
  for at in range(0, len(whole), 7):
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
    with pytest.raises(tensor_file.FileError, match='copy it again|lacks'):
      tensor_file.read(path)


@pytest.mark.parametrize('content', [b'', b'x', b'\x80\x04K\x01.', b'{}' * 99])
def test_other_files_are_refused(path, content):
  path.write_bytes(content)
  with pytest.raises(tensor_file.FileError, match='is no safetensors file'):
    tensor_file.read(path)


def test_half_a_file_is_refused(path):
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(tensor_file.FileError, match='cannot be read'):
    tensor_file.read(path)


def test_a_safetensors_file_of_another_program_is_refused(path):
  path.write_bytes(safetensors_numpy.save({'w': np.zeros(3)}, {'format': 'pt'}))
  with pytest.raises(tensor_file.FileError, match="header lacks 'mtl_jax'"):
    tensor_file.read(path)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(tensor_file.FileError, match='there is no file .*/gone'):
    tensor_file.read(tmp_path / 'gone')
  for place in (tmp_path, tmp_path / 'no' / 'file'):
    with pytest.raises(ValueError, match='is no place for a file'):
      tensor_file.write(place, {}, {})


def test_a_write_that_fails_leaves_the_old_file(path):
  before = path.read_bytes()
  with pytest.raises(TypeError):
    tensor_file.write(path, ARRAYS, {'not JSON': object()})
  assert path.read_bytes() == before


@pytest.mark.parametrize('read', [tensor_file.read, weights.read])
def test_a_file_of_another_user_is_not_called_damaged(path, read, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(errno.EACCES, 'Permission denied')
  monkeypatch.setattr(pathlib.Path, 'open', refuse)
  with pytest.raises(json_files.Unreadable, match=(
      f'{path} cannot be read: Permission denied; see to it')):
    read(path)
