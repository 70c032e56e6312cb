"""The cache never returns what was not written to it."""

import logging
import subprocess
import sys

import numpy as np
import pytest

from mtl_jax.data import cache

IMAGES = np.arange(48, dtype=np.uint8).reshape(3, 4, 4, 1)
LABELS = np.array([2, 0, 1], np.int32)


def decode():
  return IMAGES, LABELS, 3


def refuse():
  raise AssertionError('decoded again')


def fetch(folder, how=decode, name='toy', version='1.0.0', split='train'):
  return cache.fetch(name, version, split, how, folder)


def test_second_fetch_reads_what_the_first_wrote(tmp_path):
  fetch(tmp_path)
  images, labels, classes = fetch(tmp_path, refuse)
  assert images.dtype == np.uint8 and labels.dtype == np.int32
  np.testing.assert_array_equal(images, IMAGES)
  np.testing.assert_array_equal(labels, LABELS)
  assert classes == 3


def test_name_version_and_split_are_the_key(tmp_path):
  fetch(tmp_path)
  for other in ({'name': 'toy2'}, {'version': '2'}, {'split': 'test'}):
    with pytest.raises(AssertionError, match='decoded again'):
      fetch(tmp_path, refuse, **other)


@pytest.mark.parametrize('names', [('a/b', 'a-b'), ('a:b', 'a_b'),
                                   ('a@2x2', 'a2x2'), ('a/b', 'a%2Fb')])
def test_similar_names_have_different_files(names):
  paths = {cache.path(name, '1', 'train', '/c') for name in names}
  assert len(paths) == 2
  assert all(len(p.parts) == 5 for p in paths)


@pytest.mark.parametrize('damage', ['truncated', 'flipped', 'empty', 'other'])
def test_damaged_file_is_reported_and_decoded_again(tmp_path, caplog, damage):
  fetch(tmp_path)
  file = cache.path('toy', '1.0.0', 'train', tmp_path)
  content = bytearray(file.read_bytes())
  if damage == 'truncated':
    content = content[:len(content) // 2]
  elif damage == 'flipped':
    content[content.index(IMAGES.tobytes()) + 20] ^= 1
  elif damage == 'empty':
    content = b''
  else:  # a sound file, but of another split
    fetch(tmp_path, lambda: (IMAGES[::-1], LABELS, 3), split='test')
    content = cache.path('toy', '1.0.0', 'test', tmp_path).read_bytes()
  file.write_bytes(content)
  with caplog.at_level(logging.WARNING):
    images, _, _ = fetch(tmp_path)
  np.testing.assert_array_equal(images, IMAGES)
  assert str(file) in caplog.text and 'damaged' in caplog.text
  fetch(tmp_path, refuse)  # and was repaired


def test_pickled_objects_are_not_loaded(tmp_path, caplog):
  file = cache.path('toy', '1.0.0', 'train', tmp_path)
  file.parent.mkdir(parents=True)
  np.savez(file, images=np.array([{}], object), labels=LABELS, classes=3,
           key=np.array('toy 1.0.0 train'))
  images, _, _ = fetch(tmp_path)
  np.testing.assert_array_equal(images, IMAGES)
  assert 'allow_pickle=False' in caplog.text


def test_folder_that_cannot_be_made_costs_only_a_warning(tmp_path, caplog):
  (tmp_path / 'file').write_text('in the way')
  images, _, _ = fetch(tmp_path / 'file')
  np.testing.assert_array_equal(images, IMAGES)
  assert 'could not be cached' in caplog.text


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
  def full(*_):
    raise OSError('disk full')
  monkeypatch.setattr(cache.os, 'fsync', full)
  fetch(tmp_path)
  assert [p for p in tmp_path.rglob('*') if p.is_file()] == []


def test_environment_chooses_the_directory(monkeypatch):
  monkeypatch.setenv('MTL_JAX_CACHE', '/a')
  monkeypatch.setenv('XDG_CACHE_HOME', '/b')
  assert cache.directory().as_posix() == '/a'
  assert cache.directory('/c').as_posix() == '/c'
  monkeypatch.delenv('MTL_JAX_CACHE')
  assert cache.directory().as_posix() == '/b/mtl_jax'
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', '/h')
  assert cache.directory().as_posix() == '/h/.cache/mtl_jax'


# Both processes wait in `decode` until the other is there too, so that both
# write, and then read every round's file.
_RACE = """
import pathlib, sys, time
import numpy as np
from mtl_jax.data import cache
folder, me, other = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
for r in range(10):
  def decode():
    (folder / f'{me}{r}').touch()
    while not (folder / f'{other}{r}').exists():
      time.sleep(0.001)
    return np.full((2000, 28, 28, 1), r, np.uint8), np.zeros(2000, np.int32), 1
  for _ in range(2):
    images, _, _ = cache.fetch('toy', str(r), 'train', decode, folder / 'c')
    assert images.shape == (2000, 28, 28, 1) and (images == r).all()
"""


def test_two_processes_at_once(tmp_path):
  both = [subprocess.Popen([sys.executable, '-c', _RACE, str(tmp_path), *names],
                           stderr=subprocess.PIPE, text=True)
          for names in (('a', 'b'), ('b', 'a'))]
  for process in both:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert 'damaged' not in errors
  files = [p.name for p in (tmp_path / 'c').rglob('*') if p.is_file()]
  assert files == ['train.npz'] * 10
