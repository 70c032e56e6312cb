"""Sources: fixed splits, checked labels, and errors that help."""

import io
import os
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image
from source_facts import digest, sizes

from mtl_jax.data import readers
from mtl_jax.data import sources
from mtl_jax.data import splits


@pytest.fixture(scope='module')
def cache_dir(tmp_path_factory):
  return tmp_path_factory.mktemp('cache')


def numbered(n, first=0):
  """Images that tell which row they were."""
  values = np.arange(first, first + n, dtype=np.uint16)
  return values.view(np.uint8).reshape(n, 1, 2, 1), values % 3


def rows(split):
  return split.images.reshape(-1, 2).copy().view(np.uint16).ravel()


def test_digits():
  pytest.importorskip('sklearn')
  source = sources.load('digits')
  assert (source.name, source.classes, source.image_shape) == (
      'digits', 10, (8, 8, 1))
  assert sizes(source) == (1295, 143, 359)
  assert source.train.images.max() == 255
  assert digest(source) == 'f657ed4dab098cdf'
  assert sources.leaks(source) == 0
  assert sources.load('digits') is source


def test_split_of_arrays_is_the_documented_one():
  source = sources.from_arrays('toy', *numbered(100))
  order = np.random.RandomState(0).permutation(100)
  assert rows(source.test).tolist() == sorted(order[:20])
  assert rows(source.valid).tolist() == sorted(order[20:28])
  assert rows(source.train).tolist() == sorted(order[28:])
  np.testing.assert_array_equal(source.valid.labels, rows(source.valid) % 3)


def test_official_test_is_kept_and_validation_drawn_from_train():
  source = sources.from_arrays('toy', *numbered(50), test=numbered(9, 50))
  order = np.random.RandomState(0).permutation(50)
  assert rows(source.test).tolist() == list(range(50, 59))
  assert rows(source.valid).tolist() == sorted(order[:5])
  assert rows(source.train).tolist() == sorted(order[5:])


def test_given_splits_stay():
  source = sources.from_arrays('toy', *numbered(50), test=numbered(9, 50),
                               valid=numbered(7, 60))
  assert sizes(source) == (50, 7, 9)
  assert rows(source.train).tolist() == list(range(50))


def test_validation_has_at_most_5000():
  images = np.zeros((60000, 1, 1), np.uint8)
  labels = np.zeros(60000, int)
  test = (images[:10000] + np.uint8(1), labels[:10000])
  assert sizes(sources.from_arrays('big', images, labels, test=test)) == (
      55000, 5000, 10000)


def test_leaks_counts_test_images_in_train_or_validation():
  images, labels = numbered(30)
  test = (np.concatenate([images[:4], numbered(2, 50)[0]]), np.zeros(6, int))
  assert sources.leaks(sources.from_arrays('t', images, labels,
                                           test=test)) == 4


def test_arrays_are_read_only_but_the_caller_s_are_not():
  images, labels = numbered(50)
  source = sources.from_arrays('toy', images, labels, test=numbered(9),
                               valid=numbered(9))
  with pytest.raises(ValueError, match='read-only'):
    source.train.images[0] = 1
  images[0] = 1


@pytest.mark.parametrize('change, message', [
    ({'labels': np.array([0, 1, 2, 7, 1, 9])},
     "source 'toy', split 'train': label 7 in row 3 is not in .0, 3.; 2"),
    ({'labels': np.array([0, -1, 2, 0, 1, 0])}, 'label -1 in row 1'),
    ({'labels': np.zeros(5, int)}, 'split .train.: 6 inputs but 5 labels'),
    ({'labels': np.zeros(6)}, 'must be integers'),
    ({'labels': np.full(6, 2**32)}, 'int32'),
    ({'images': np.zeros((6, 2, 2), np.float32)}, 'uint8.*astype'),
    ({'images': np.zeros((6, 2), np.uint8)}, 'uint8 .n, H, W, C.'),
    ({'images': np.zeros((0, 2, 2), np.uint8), 'labels': np.zeros(0, int)},
     "split 'train': there are no images"),
    ({'test': (np.zeros((2, 3, 3), np.uint8), np.zeros(2, int))},
     "split 'test': images are .3, 3, 1. but"),
    ({'test': (np.zeros((1, 2, 2), np.uint8), np.array([3]))},
     "split 'test': label 3 in row 0"),
])
def test_bad_arrays_are_named(change, message):
  pair = (np.zeros((6, 2, 2), np.uint8), np.zeros(6, int))
  options = {'images': pair[0], 'labels': pair[1], 'classes': 3, 'test': pair,
             'valid': pair} | change
  with pytest.raises(ValueError, match=message):
    sources.from_arrays('toy', **options)


def test_too_few_images_to_split():
  with pytest.raises(ValueError, match='2 images cannot be divided: too few'):
    sources.from_arrays('toy', *numbered(2))


def test_register(monkeypatch):
  monkeypatch.setattr(sources, 'REGISTRY', dict(sources.REGISTRY))
  sources.register('mine', lambda: sources.from_arrays('mine', *numbered(50)))
  assert sources.load('mine') is sources.load('mine')
  sources.register('mine', lambda: None)
  with pytest.raises(ValueError, match="'mine' returned a NoneType"):
    sources.load('mine')
  with pytest.raises(ValueError, match='needs a function'):
    sources.register('mine', 3)


def save(file, pixels):
  image_lib = pytest.importorskip('PIL.Image')
  file.parent.mkdir(parents=True, exist_ok=True)
  image_lib.fromarray(np.asarray(pixels, np.uint8)).save(file)


def test_folder_without_splits(tmp_path, cache_dir):
  for i in range(20):
    save(tmp_path / ('ant', 'bee')[i % 2] / f'{i:02d}.png', [[i, 7], [8, 9]])
  (tmp_path / 'ant' / 'notes.txt').write_text('not an image')
  source = sources.load(f'folder:{tmp_path}', cache_dir)
  assert source.classes == 2 and source.image_shape == (2, 2, 1)
  assert sizes(source) == (15, 1, 4)
  for split in (source.train, source.valid, source.test):
    np.testing.assert_array_equal(split.images[:, 0, 0, 0] % 2, split.labels)


def test_folder_with_splits_and_changed_file(tmp_path, cache_dir):
  for split, count in (('train', 12), ('test', 3)):
    for i in range(count):
      save(tmp_path / split / ('a', 'b')[i % 2] / f'{i:02d}.bmp',
           np.full((2, 3, 3), i))
  source = sources.load(f'folder:{tmp_path}', cache_dir)
  assert sizes(source) == (11, 1, 3)
  assert source.image_shape == (2, 3, 3)
  assert source.test.labels.tolist() == [0, 0, 1]  # a/00, a/02, b/01
  assert source.test.images[:, 0, 0, 0].tolist() == [0, 2, 1]
  # A BMP's size does not tell that its pixels changed; its time does.
  save(tmp_path / 'test' / 'a' / '00.bmp', np.full((2, 3, 3), 99))
  os.utime(tmp_path / 'test' / 'a' / '00.bmp', ns=(1, 1))
  sources._load.cache_clear()  # as a new process would
  changed = sources.load(f'folder:{tmp_path}', cache_dir)
  assert changed.test.images[0, 0, 0, 0] == 99
  assert changed.version != source.version


def test_folder_of_pixels_that_are_not_bytes(tmp_path, cache_dir):
  image_lib = pytest.importorskip('PIL.Image')
  (tmp_path / 'a').mkdir()
  for dtype, mode in ((np.uint16, 'I;16'), (np.float32, 'F')):
    name = f'x{np.dtype(dtype).itemsize}.tiff'
    image_lib.fromarray(np.ones((2, 2), dtype)).save(tmp_path / 'a' / name)
    with pytest.raises(ValueError, match=f'{name} has pixels of mode '
                                         f"'{mode}.*convert it to 8 bits"):
      sources.load(f'folder:{tmp_path}', cache_dir)
    (tmp_path / 'a' / name).unlink()


def test_hidden_folders_are_no_classes(tmp_path, cache_dir):
  (tmp_path / '.ipynb_checkpoints').mkdir()
  for i in range(20):
    save(tmp_path / ('ant', 'bee')[i % 2] / f'{i:02d}.png', [[i, 7], [8, 9]])
  assert sources.load(f'folder:{tmp_path}', cache_dir).classes == 2
  (tmp_path / 'cat').mkdir()
  sources._load.cache_clear()
  with pytest.raises(ValueError, match='cat holds no image'):
    sources.load(f'folder:{tmp_path}', cache_dir)


def test_a_set_that_was_prepared_anew_is_another_state(tmp_path):
  version = tmp_path / '3.0.1'
  version.mkdir()
  (version / 'dataset_info.json').write_text('{}')
  before = readers._state(version)
  assert before == readers._state(version) and before.startswith('3.0.1-')
  os.utime(version / 'dataset_info.json', ns=(1, 1))
  assert readers._state(version) != before


@pytest.mark.parametrize('name, white', [('dsprites', 255), ('other', 1)])
def test_shapes_kept_as_ones_are_white(tmp_path, monkeypatch, name, white):
  """TFDS writes dSprites' 0 and 1 as they are; VTAB multiplies by 255."""
  import tensorflow_datasets as tfds
  shape = np.eye(8, dtype=np.uint8)
  png = io.BytesIO()
  Image.fromarray(shape).save(png, 'PNG')

  class Rows(list):
    def __getitems__(self, rows):
      return [self[row] for row in rows]
  builder = types.SimpleNamespace(
      name=name, info=types.SimpleNamespace(
          features={'image': tfds.features.Image(shape=(8, 8, 1)),
                    'label': tfds.features.ClassLabel(num_classes=3)},
          supervised_keys=None),
      as_data_source=lambda split, decoders: Rows(
          [{'image': png.getvalue(), 'label': 2}] * 4))
  monkeypatch.setattr(tfds, 'builder_from_directory', lambda _: builder)
  images, labels, classes = readers._decode('here', tmp_path, 'train', '',
                                            None)
  np.testing.assert_array_equal(images, np.stack([shape[..., None]] * 4)
                                * white)
  assert labels.tolist() == [2] * 4 and classes == 3


def test_versions_of_arrays_are_their_content():
  images = np.zeros((30, 4, 4), np.uint8)
  make = lambda images, **given: sources.from_arrays(
      'mine', images, np.arange(30) % 3, **given).version
  assert make(images) == make(images.copy()) != make(images + np.uint8(1))
  assert make(images, version='7') == '7'
  numbers = np.random.RandomState(0).rand(30, 3)
  tables = [sources.from_table('t', numbers + i, numbers[:, :1]).version
            for i in (0, 0, 1)]
  assert tables[0] == tables[1] != tables[2]
  texts = [sources.from_texts('t', ([word] * 30, np.arange(30) % 3)).version
           for word in ('a', 'a', 'a a')]
  assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize('shape, dtype', [
    ((30, 784), np.int32), ((30, 1, 28, 28), np.uint8),
    ((30, 0, 0), np.uint8), ((30, 4, 4, 2), np.uint8), ((30, 4, 4), float)])
def test_arrays_that_are_no_images(shape, dtype):
  with pytest.raises(ValueError, match="source 'mine', split 'train': images "
                     r'must be uint8 \[n, H, W, C\] with 1 or 3 channels'):
    sources.from_arrays('mine', np.zeros(shape, dtype), np.arange(30) % 3)


def test_folder_of_several_sizes_needs_a_size(tmp_path, cache_dir):
  for i in range(10):
    save(tmp_path / 'a' / f'{i}.png', np.full((2 + i % 2, 2), 50))
  with pytest.raises(ValueError, match='1.png.*@32x32x3'):
    sources.load(f'folder:{tmp_path}', cache_dir)
  source = sources.load(f'folder:{tmp_path}@4x5x3', cache_dir)
  assert source.image_shape == (4, 5, 3)
  assert (source.train.images == 50).all()


def test_folder_errors(tmp_path, cache_dir):
  with pytest.raises(FileNotFoundError, match='no folder .*nowhere'):
    sources.load(f'folder:{tmp_path}/nowhere')
  with pytest.raises(FileNotFoundError, match='no class folders'):
    sources.load(f'folder:{tmp_path}')
  (tmp_path / 'a').mkdir()
  with pytest.raises(ValueError, match='/a holds no image .*without images'):
    sources.load(f'folder:{tmp_path}', cache_dir)
  (tmp_path / 'a' / 'x.png').write_bytes(b'not a picture')
  with pytest.raises(ValueError, match='x.png can not be read'):
    sources.load(f'folder:{tmp_path}', cache_dir)


def test_import_needs_neither_tfds_nor_sklearn_nor_pillow():
  code = ('import sys, mtl_jax.data; print([m for m in ("tensorflow_datasets",'
          ' "sklearn", "PIL", "tensorflow") if m in sys.modules])')
  result = subprocess.run([sys.executable, '-c', code], capture_output=True,
                          text=True, check=True)
  assert result.stdout.strip() == '[]'


def test_division_within_groups_takes_a_tenth_of_each():
  images, labels = numbered(60)
  groups = np.repeat([7, 1, 3], [20, 30, 10])
  whole = sources.Arrays(images, labels.astype(np.int32))
  source = splits.divide_within('toy', '1', 3, whole, groups)
  per_group = [np.bincount(groups[rows(split)], minlength=8)[[7, 1, 3]].tolist()
               for split in (source.train, source.valid, source.test)]
  assert per_group == [[16, 24, 8], [2, 3, 1], [2, 3, 1]]
  everything = np.concatenate([rows(s) for s in (source.train, source.valid,
                                                 source.test)])
  assert sorted(everything) == list(range(60))
  assert np.all(np.diff(rows(source.train)) > 0)
  with pytest.raises(ValueError, match='group of 2 images is too small'):
    splits.divide_within('toy', '1', 3, whole, np.arange(60) // 2)
