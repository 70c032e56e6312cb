"""Sets that TFDS prepared: missing ones, buckets, and the real ones."""

import os
import pathlib
import re

import numpy as np
import pytest
from fsspec.implementations import local
from source_facts import digest, sizes

from mtl_jax.data import readers
from mtl_jax.data import sources

TFDS = pathlib.Path(os.environ.get('TFDS_DATA_DIR')
                    or '~/tensorflow_datasets').expanduser()


def needs(name):
  return pytest.mark.skipif(
      not (TFDS / name).is_dir(),
      reason=f'{name} is not prepared in {TFDS}; see mtl_jax.data.sources')


@pytest.fixture(scope='module')
def cache_dir(tmp_path_factory):
  return tmp_path_factory.mktemp('cache')


def test_missing_data_says_what_where_and_how(tmp_path):
  (tmp_path / 'kmnist' / '3.0.1').mkdir(parents=True)
  (tmp_path / 'kmnist' / '3.0.1' / 'dataset_info.json').write_text(
      '{"name": "kmnist", "splits": [{"name": "train", "shardLengths": '
      '["5", "5"]}]}')
  with pytest.raises(FileNotFoundError) as error:
    sources.load('kmnits', tfds_dir=tmp_path)
  message = str(error.value)
  assert f'missing {tmp_path}/kmnits/' in message
  assert "Did you mean 'kmnist'" in message and 'digits' in message
  assert 'pip install "mtl_jax[prepare]"' in message
  assert ("tfds.builder('kmnits').download_and_prepare("
          "file_format='array_record')") in message
  with pytest.raises(FileNotFoundError) as error:
    sources.load('kmnist', tfds_dir=tmp_path)
  assert 'kmnist-train.array_record-00000-of-00002' in str(error.value)


class Bucket(local.LocalFileSystem):
  """`gs://b/` is a folder, for what TFDS's paths ask of a bucket."""
  folder = ''

  @classmethod
  def _strip_protocol(cls, path):
    path = str(path).removeprefix('gs://').removeprefix(f'{cls.folder}/')
    return f'{cls.folder}/{path}'

  def glob(self, path, **kwargs):
    return [found.removeprefix(f'{self.folder}/')
            for found in super().glob(path, **kwargs)]

  def ls(self, path, detail=False, **kwargs):
    return super().ls(self._strip_protocol(path), detail, **kwargs)


def test_prepared_sets_in_a_bucket_go_to_tfds_by_their_address(
    tmp_path, monkeypatch):
  from etils.epath import backend
  monkeypatch.setattr(Bucket, 'folder', str(tmp_path))
  monkeypatch.setattr(backend.fsspec_backend, 'fs', lambda path: Bucket())
  folder = tmp_path / 'b/sets/kmnist/3.0.1'
  folder.mkdir(parents=True)
  (folder / 'dataset_info.json').write_text(
      '{"name": "kmnist", "splits": [{"name": "train", "shardLengths": '
      '["5"]}]}')
  (folder / 'label.labels.txt').write_text('a\nb\n')
  monkeypatch.setenv('TFDS_DATA_DIR', 'gs://b/sets')
  with pytest.raises(FileNotFoundError, match='missing gs://b/sets/kmnist/3.0.1'
                                              '/kmnist-train'):
    sources.load('kmnist')
  with pytest.raises(FileNotFoundError, match='Did you mean .kmnist.*\n*.*'
                                              'Looked in gs://b/sets'):
    sources.load('kmnits')
  (folder / 'kmnist-train.array_record-00000-of-00001').write_text('x')
  asked = []

  def builder(version):
    asked.append(str(version))
    raise InterruptedError
  import tensorflow_datasets
  monkeypatch.setattr(tensorflow_datasets, 'builder_from_directory', builder)
  with pytest.raises(InterruptedError):
    sources.load('kmnist', tmp_path / 'cache')
  assert asked == ['gs://b/sets/kmnist/3.0.1']
  assert readers.class_names('kmnist', 'gs://b/sets', 2) == ('a', 'b')


@pytest.mark.data
@needs('mnist')
def test_mnist(cache_dir):
  source = sources.load('mnist', cache_dir)
  assert sizes(source) == (55000, 5000, 10000)
  assert re.fullmatch('3.0.1-[0-9a-f]{12}', source.version)
  assert source.classes == 10
  assert digest(source) == 'f720a0e1b1d83b4a'
  # The class counts of the official test file.
  assert np.bincount(source.test.labels).tolist() == [
      980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
  assert sources.leaks(source) == 0
  sources._load.cache_clear()
  assert digest(sources.load('mnist', cache_dir)) == digest(source)


@pytest.mark.data
@needs('omniglot')
def test_omniglot_alphabets_are_pooled_and_black_and_white(cache_dir):
  source = sources.load('omniglot:alphabet@28x28x1', cache_dir)
  assert source.classes == 50 and source.image_shape == (28, 28, 1)
  assert sizes(source) == (23372, 2596, 6492)
  for split in (source.train, source.test):
    assert len(np.unique(split.labels)) == 50
  assert source.train.images.max() == 255


@pytest.mark.data
@needs('cmaterdb/bangla')
def test_config_and_label_feature(cache_dir):
  source = sources.load('cmaterdb/bangla', cache_dir)
  assert sizes(source) == (4500, 500, 1000)
  # The original has a few drawings twice; they are counted, not removed.
  assert sources.leaks(source) == 7
  with pytest.raises(ValueError, match="label 'lable'.*label"):
    sources.load('cmaterdb/bangla:lable', cache_dir)


@pytest.mark.data
@needs('omniglot')
@pytest.mark.slow
def test_omniglot_divides_within_each_character(cache_dir):
  source = sources.load('omniglot:alphabet!label@32x32x1', cache_dir)
  assert source.classes == 50 and source.image_shape == (32, 32, 1)
  assert sizes(source) == (16 * 1623, 2 * 1623, 2 * 1623)
  assert sources.leaks(source) == 0
  letters = sources.load('omniglot:label!label@32x32x1', cache_dir)
  assert letters.classes == 1623
  for split, drawings in zip((letters.train, letters.valid, letters.test),
                             (16, 2, 2)):
    assert set(np.bincount(split.labels)) == {drawings}
  np.testing.assert_array_equal(letters.test.images, source.test.images)
