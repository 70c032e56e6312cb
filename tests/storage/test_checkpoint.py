"""A checkpoint is read as it was written, or refused."""

import errno
import logging
import os
import pickle
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mtl_jax.storage import array_files
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import removal
from mtl_jax.storage import workdir as workdir_lib

ARRAYS = {'masks/a': np.array([3, 255], np.uint8),
          'coefficients/b': np.array([0.5, -1.5], np.float32)}


@pytest.fixture(name='path')
def _path(tmp_path):
  path = tmp_path / 'task'
  checkpoint.save(path, ARRAYS | {'stats/c': None}, {'classes': 10})
  return path


def test_arrays_and_metadata_come_back(path):
  arrays, metadata = checkpoint.load(path)
  assert sorted(arrays) == ['coefficients/b', 'masks/a']
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(arrays[name], array)
    assert arrays[name].dtype == array.dtype
  assert metadata['classes'] == 10 and 'digest' not in metadata


def test_arrays_of_any_kind_come_back(tmp_path):
  arrays = {
      'zeros': np.zeros((10, 7), np.float32), 'scalar': np.float64(3.),
      'empty': np.zeros((0, 4), np.int32), 'bools': np.array([True, False]),
      'short': np.asarray(jnp.arange(5, dtype=jnp.bfloat16)),
      'big_endian': np.arange(3, dtype='>f4'), 'words': np.array(['a', 'bc']),
      'turned': np.arange(6, dtype=np.int16).reshape(2, 3).T}
  checkpoint.save(tmp_path / 'x', arrays, {})
  found, _ = checkpoint.load(tmp_path / 'x')
  assert sorted(found) == sorted(arrays)
  for name, array in arrays.items():
    assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)
  checkpoint.save(tmp_path / 'y', {}, {})
  assert checkpoint.load(tmp_path / 'y')[0] == {}


def test_a_leaf_is_read_without_the_files_of_others(tmp_path):
  """A large checkpoint takes several files; one of them is damaged."""
  arrays = {'a': np.full(3_000_000, 7, np.uint8),
            'b': np.random.RandomState(0).randint(0, 256, 6_000_000, np.uint8)}
  checkpoint.save(tmp_path / 'x', arrays, {})
  assert sorted(p.name for p in (tmp_path / 'x').iterdir()) == [
      '0', '1', '2', '_CHECKPOINT_METADATA']
  (tmp_path / 'x/2').write_bytes(b'damaged')
  np.testing.assert_array_equal(
      checkpoint.load(tmp_path / 'x', ['a'])[0]['a'], arrays['a'])
  with pytest.raises(checkpoint.CheckpointError, match='files of leaf b are'):
    checkpoint.load(tmp_path / 'x', ['b'])
  (tmp_path / 'x/2').unlink()
  with pytest.raises(checkpoint.CheckpointError, match='some are missing'):
    checkpoint.load(tmp_path / 'x')


def test_many_are_written_at_once(tmp_path):
  """Of other sizes, too; what one of them can't have leaves none."""
  arrays = [{'a': np.full(size, size % 251, np.uint8)} for size in (5, 300, 5)]
  checkpoint.save_all([
      checkpoint.Made(tmp_path / str(i), a, {'number': i})
      for i, a in enumerate(arrays)])
  for i, own in enumerate(arrays):
    found, metadata = checkpoint.load(tmp_path / str(i))
    np.testing.assert_array_equal(found['a'], own['a'])
    assert metadata['number'] == i
  before = tiny.files(tmp_path)
  with pytest.raises(checkpoint.CheckpointError, match='never overwritten'):
    checkpoint.save_all([checkpoint.Made(tmp_path / 'new', arrays[0], {}),
                         checkpoint.Made(tmp_path / '1', arrays[0], {})])
  assert tiny.files(tmp_path) == before


def test_a_disk_that_is_full_leaves_nothing(tmp_path, monkeypatch):
  def fail(*_):
    raise OSError(28, 'No space left on device')
  monkeypatch.setattr(checkpoint.os, 'fsync', fail)
  with pytest.raises(OSError, match='No space left'):
    checkpoint.save(tmp_path / 'x', ARRAYS, {})
  assert list(tmp_path.iterdir()) == []


def test_what_tensorstore_cannot_write_is_an_error_of_the_disk(
    tmp_path, capfd):
  """A limit on the size of files stands for a disk that is full."""
  resource = pytest.importorskip('resource')
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
  try:
    with pytest.raises(OSError, match='File too large') as raised:
      checkpoint.save(tmp_path / 'x', {
          'a': np.random.RandomState(0).randint(0, 256, 60000, np.uint8)}, {})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert raised.value.errno == errno.EFBIG
  assert raised.value.filename == str(tmp_path / 'x')
  assert list(tmp_path.iterdir()) == [] and capfd.readouterr().err == ''


@pytest.mark.parametrize('write', [
    lambda path: json_records.write_atomic(path, 'x'),
    lambda path: json_records.append_line(path, {'kind': 'run'}),
    lambda path: checkpoint.save(path, ARRAYS, {})])
def test_an_error_of_the_disk_names_the_file(tmp_path, monkeypatch, write):
  def fail(*_):
    raise OSError(28, 'No space left on device')
  monkeypatch.setattr(os, 'fsync', fail)
  with pytest.raises(OSError, match='No space left') as raised:
    write(tmp_path / 'x')
  assert raised.value.filename == str(tmp_path / 'x')


def test_a_supermask_takes_three_inodes_and_at_most_48_kilobytes(tmp_path):
  """LeNet-300-100's: 2,500 take at most 120 MB of blocks of 4 kB."""
  bits = {f'masks/{i}': np.random.RandomState(i).randint(
      0, 256, size // 8).astype(np.uint8)
          for i, size in enumerate((784 * 300, 300 * 100, 100 * 10))}
  checkpoint.save(tmp_path / 'x', bits | {
      'probe': np.random.RandomState(0).randn(16, 10).astype(np.float32)},
                  {'record': 'x' * 3000})
  files = [tmp_path / 'x', *(tmp_path / 'x').iterdir()]
  assert len(files) == 3
  blocks = sum(-(-max(1, file.stat().st_size) // 4096) for file in files)
  assert blocks * 4096 * 2500 <= 120e6


def test_a_sound_checkpoint_is_not_called_malformed(tmp_path):
  """Names as a training state has them, many folders deep."""
  said = []
  handler = logging.Handler()
  handler.emit = lambda record: said.append(record.getMessage())
  logger = logging.getLogger('absl')
  logger.addHandler(handler)
  try:
    checkpoint.save(tmp_path / 'state', {'state/weights/a/kernel': np.ones(3)},
                    {})
    checkpoint.load(tmp_path / 'state')
  finally:
    logger.removeHandler(handler)
  assert not [text for text in said if 'malformed' in text]


def test_nothing_is_overwritten(path):
  before = tiny.files(path)
  with pytest.raises(checkpoint.CheckpointError, match='never overwritten'):
    checkpoint.save(path, {'a': np.zeros(1)}, {})
  assert tiny.files(path) == before


def test_missing_folder(tmp_path):
  with pytest.raises(checkpoint.CheckpointError, match='no checkpoint at .*x'):
    checkpoint.load(tmp_path / 'x')


def test_one_changed_bit_names_the_leaf(path):
  def flip(arrays):
    arrays['masks/a'][1] ^= 4
  tiny.rewrite(path, flip)
  with pytest.raises(checkpoint.CheckpointError,
                     match='leaf masks/a was changed'):
    checkpoint.load(path)


@pytest.mark.parametrize('change', [
    lambda arrays: arrays.pop('masks/a'),
    lambda arrays: arrays.update({'masks/a2': np.zeros(1)})])
def test_missing_or_added_leaf_is_named(path, change):
  tiny.rewrite(path, change)
  with pytest.raises(checkpoint.CheckpointError,
                     match='leaf masks/a2? is missing or was added'):
    checkpoint.load(path)


def test_same_bytes_of_another_shape_are_refused(path):
  def reshape(arrays):
    arrays['masks/a'] = arrays['masks/a'][None]
  tiny.rewrite(path, reshape)
  with pytest.raises(checkpoint.CheckpointError, match='leaf masks/a was'):
    checkpoint.load(path)


def test_changed_metadata_is_refused(path):
  file = path / '_CHECKPOINT_METADATA'
  file.write_text(file.read_text().replace('"classes": 10', '"classes": 11'))
  with pytest.raises(checkpoint.CheckpointError, match='metadata of .*changed'):
    checkpoint.load_metadata(path)


@pytest.mark.parametrize('other', [1, 4])
def test_another_format_is_refused(tmp_path, monkeypatch, other):
  monkeypatch.setattr(checkpoint, 'FORMAT', other)
  checkpoint.save(tmp_path / 'task', ARRAYS, {})
  monkeypatch.undo()
  with pytest.raises(checkpoint.CheckpointError, match=(
      f'has format {other}; this version reads formats 2 and 3')):
    checkpoint.load(tmp_path / 'task')


def test_half_written_folder_is_not_there(tmp_path, path):
  half = tmp_path / 'task.orbax-checkpoint-tmp'
  path.rename(half)
  assert not checkpoint.exists(half)
  with pytest.raises(checkpoint.CheckpointError, match='not a finished'):
    checkpoint.load(half)


@pytest.mark.parametrize('name', ['arrays.pkl', 'checkpoint', '_METADATA'])
def test_folder_of_pickles_is_not_opened(tmp_path, name):
  class Trap:
    def __reduce__(self):
      return (tmp_path / 'sprung').touch, ()
  folder = tmp_path / 'task'
  folder.mkdir()
  (folder / name).write_bytes(pickle.dumps(Trap()))
  with pytest.raises(checkpoint.CheckpointError, match='task (is not a fini'
                     'shed checkpoint|cannot be read)'):
    checkpoint.load(folder)
  assert not (tmp_path / 'sprung').exists()


def test_pickle_beside_the_arrays_is_not_opened(path, tmp_path):
  class Trap:
    def __reduce__(self):
      return (tmp_path / 'sprung').touch, ()
  for file in [p for p in path.rglob('*') if p.is_dir()] + [path]:
    (file / 'extra.pkl').write_bytes(pickle.dumps(Trap()))
  arrays, _ = checkpoint.load(path)
  assert sorted(arrays) == sorted(ARRAYS)
  assert not (tmp_path / 'sprung').exists()


def test_removal_by_pattern(tmp_path, path):
  for name in ('a.000000002', 'a.000000004', 'a.v2.000000002'):
    shutil.copytree(path, tmp_path / name)
  removal.remove_all(tmp_path, 'a.' + '[0-9]' * 9, keep=['a.000000004'])
  assert sorted(p.name for p in tmp_path.iterdir()) == [
      'a.000000004', 'a.v2.000000002', 'task']


def test_only_unfinished_folders_are_removed(tmp_path, path):
  for name in ('x.orbax-checkpoint-tmp', '.y.removed', 'kept', 'my.removed'):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'file').touch()
  before = tiny.files(path)
  removal.remove_unfinished(tmp_path)
  assert sorted(p.name for p in tmp_path.iterdir()) == [
      'kept', 'my.removed', 'task']
  assert tiny.files(path) == before


def test_a_task_takes_its_bits_and_little_more(tmp_path):
  work = workdir_lib.Workdir(tiny.learned(tmp_path / 'run'))
  bits = (64 * 300 + 300 * 100 + 100 * 10) / 8
  more = {}
  for name in work.task_names():
    parts = checkpoint.load_metadata(work.task(name))['record']['bytes']
    assert parts['total'] == bits or parts['masks'] == 0
    more[name] = array_files.stored_bytes(work.task(name)) - parts['total']
  assert max(more.values()) <= 5000, more


def test_lines_that_were_cut_are_passed_over(tmp_path):
  file = tmp_path / 'metrics.jsonl'
  json_records.append_line(file, {'kind': 'run'})
  json_records.append_line(file, {'kind': 'task', 'entry': 'a'})
  file.write_text(file.read_text()[:-5])
  assert list(json_records.read_lines(file)) == [{'kind': 'run'}]


@pytest.mark.parametrize('cut, left', [(1, 2), (2, 1), (20, 1)])
def test_a_line_that_was_cut_is_not_joined_with_the_next(tmp_path, cut, left):
  file = tmp_path / 'metrics.jsonl'
  lines = [{'kind': 'run'}, {'kind': 'task', 'entry': 'a', 'seconds': {}}]
  json_records.append_lines(file, lines)
  file.write_bytes(file.read_bytes()[:-cut])
  assert list(json_records.read_lines(file)) == lines[:left]
  new = {'kind': 'merged', 'entry': 'b'}
  json_records.append_line(file, new)
  assert list(json_records.read_lines(file)) == [*lines[:left], new]


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
  file = tmp_path / 'config.json'
  json_records.write_atomic(file, 'old')

  def fail(*_):
    raise OSError('disk full')
  monkeypatch.setattr(json_records.whole_files.os, 'fsync', fail)
  with pytest.raises(OSError, match='disk full'):
    json_records.write_atomic(file, 'new')
  assert file.read_text() == 'old' and list(tmp_path.iterdir()) == [file]


def test_metadata_that_cannot_be_replaced_stay(tmp_path, path, monkeypatch):
  before = tiny.files(tmp_path)

  def fail(*_):
    raise OSError('disk full')
  monkeypatch.setattr(json_records.whole_files.os, 'fsync', fail)
  with pytest.raises(OSError, match='disk full'):
    checkpoint.change_metadata(path, {'classes': 3})
  assert tiny.files(tmp_path) == before


def test_metadata_of_a_linked_folder_never_move_between_disks(
    tmp_path, path, monkeypatch):
  (tmp_path / 'other').mkdir()
  path.rename(tmp_path / 'other/task')
  path.symlink_to(tmp_path / 'other/task')
  real = os.replace

  def replace(old, new):
    if os.path.realpath(new).startswith(f'{tmp_path}/other/') != str(
        old).startswith(f'{tmp_path}/other/'):
      raise OSError(errno.EXDEV, 'Invalid cross-device link')
    real(old, new)
  monkeypatch.setattr(json_records.whole_files.os, 'replace', replace)
  checkpoint.change_metadata(path, {'classes': 3})
  assert checkpoint.load_metadata(path)['classes'] == 3
  assert [p.name for p in (tmp_path / 'other').iterdir()] == ['task']


def test_of_a_link_the_link_alone_is_removed(tmp_path, path):
  (tmp_path / 'tasks').mkdir()
  link, left = tmp_path / 'tasks/a', tmp_path / 'tasks/.a.removed'
  left.symlink_to(path)  # by a process that was killed
  link.symlink_to(path)
  removal.remove_all(link.parent, 'a')
  assert not list(link.parent.iterdir()) and checkpoint.exists(path)
  left.symlink_to(path)
  (tmp_path / 'tasks/.metadata.x1').write_text('{')
  removal.remove_unfinished(link.parent)
  assert not list(link.parent.iterdir()) and checkpoint.exists(path)
