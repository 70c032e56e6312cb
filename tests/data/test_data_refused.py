"""Data that would train to a silently wrong number is refused, or right."""

import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from mtl_jax import validate
from mtl_jax.data import pictures
from mtl_jax.data import readers
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.storage import json_records
from mtl_jax.storage import workdir as workdir_lib

RANDOM = np.random.RandomState(0)


def picture(file, value=7, mode='L', size=(2, 2)):
  file.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, size, value).save(file)
  return file


# Arrays, tables and texts.


@pytest.mark.parametrize('make, text', [
    (lambda: sources.from_arrays('m', np.zeros((100, 2, 2), np.uint8),
                                 np.zeros(90, int)),
     "source 'm', split 'train': 100 inputs but 90 labels"),
    (lambda: sources.from_arrays('m', np.zeros((90, 2, 2), np.uint8),
                                 np.zeros(100, int)), '90 inputs but 100'),
    (lambda: sources.from_table('m', RANDOM.rand(100, 3), RANDOM.rand(50, 1)),
     '100 inputs but 50 labels'),
    (lambda: sources.from_table('m', RANDOM.rand(100), RANDOM.rand(100)),
     r"source 'm': features are \[100\] and targets \[100, 1\]"),
    (lambda: sources.from_texts('m', (['a b'] * 100, [0, 1] * 30)),
     '100 inputs but 60 labels'),
    (lambda: sources.from_texts('m', (['a b'] * 50, [0, 1] * 25), words=1),
     'at least 2 words'),
    (lambda: sources.from_texts('m', (['a b'] * 50, [0, 1] * 25),
                                length=10 ** 12),
     r'length=1,000,000,000,000 words each take 200,000.0 GB, and this'),
    (lambda: sources.from_texts('m', (['a b'] * 50, [0, 1] * 25), length=0),
     'a length of 0; at least'),
    (lambda: sources.load('text:m@5x6x3'), 'give two numbers, @WORDSxLENGTH')])
def test_inputs_that_do_not_fit_their_labels(make, text):
  with pytest.raises(ValueError, match=text):
    make()


def test_a_target_may_be_a_plain_list_of_numbers():
  features, targets = RANDOM.rand(60, 3), RANDOM.rand(60)
  one, two = (sources.from_table('m', features, t)
              for t in (targets, targets[:, None]))
  np.testing.assert_array_equal(one.train.labels, two.train.labels)


def test_large_numbers_are_scaled_before_they_are_rounded():
  source = sources.from_table('m', 1.7e9 + np.arange(100.)[:, None],
                              np.arange(100.))
  assert len(np.unique(source.train.images)) == len(source.train.images)
  np.testing.assert_array_equal(source.train.images, source.train.labels)


def test_a_source_keeps_its_pixels_when_the_arrays_change():
  pair = lambda pixel: (np.full((9, 2, 2), pixel, np.uint8),
                        np.zeros(9, np.int32))
  test, valid = pair(1), pair(1)
  source = sources.from_arrays('m', *pair(2), test=test, valid=valid)
  for images, labels in (test, valid):
    images[:], labels[:] = 5, 3
  for part in (source.test, source.valid):
    assert (part.images == 1).all() and (part.labels == 0).all()


def test_a_table_in_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  np.savetxt(tmp_path / 'mine.txt', RANDOM.rand(40, 3))
  assert sources.load('table:~/mine.txt').version.endswith('-float64')


# Image folders.


@pytest.mark.parametrize('folders', [
    ('training', 'testing'), ('Train', 'Test'), ('train', 'tset'),
    ('valid', 'test'), ('train', 'val', 'validation')])
def test_splits_by_other_names_are_no_classes(tmp_path, folders):
  for folder in folders:
    for i in range(20):
      picture(tmp_path / folder / str(i % 2) / f'{i}.png')
  with pytest.raises(FileNotFoundError,
                     match="class folders alone, or 'train'"):
    sources.load(f'folder:{tmp_path}', tmp_path / 'cache')


@pytest.mark.parametrize('name', ['val', 'validation', 'valid'])
def test_a_validation_folder_by_its_common_names(tmp_path, name):
  for split, count in (('train', 6), (name, 4), ('test', 2)):
    for i in range(count):
      picture(tmp_path / 'data' / split / 'ab'[i % 2] / f'{i}.png', 20 * i)
  source = sources.load(f'folder:{tmp_path}/data', tmp_path / 'cache')
  assert [len(s.labels) for s in (source.train, source.valid, source.test)
          ] == [6, 4, 2]


@pytest.mark.parametrize('mode, value', [('RGBA', (0, 0, 0, 100)),
                                         ('LA', (0, 0))])
def test_transparent_images(tmp_path, mode, value):
  file = picture(tmp_path / 'a.png', value, mode)
  with pytest.raises(ValueError, match='a.png is transparent in places'):
    pictures.read('here', 'a.png', file)
  opaque = picture(tmp_path / 'b.png', (*value[:-1], 255), mode)
  assert pictures.read('here', 'b.png', opaque).max() == 0


def test_other_pixels_in_a_file_of_the_same_size_and_time(tmp_path):
  name, cache = f'folder:{tmp_path}/data', tmp_path / 'cache'
  files = [tmp_path / 'data' / 'ab'[i % 2] / f'{i}.pgm' for i in range(20)]
  versions = []
  for value in (10, 200):
    for file in files:
      picture(file, value)
      os.utime(file, ns=(1, 1))
    sources._load.cache_clear()
    source = sources.load(name, cache)
    assert (source.train.images == value).all()
    versions.append(source.version)
  assert versions[0] != versions[1]


# Data sets.


def test_pooled_classes_leave_no_validation_of_their_own(monkeypatch):
  """Train, validation and test of other classes, as some sets have them."""
  def read(*_):
    return '1.0.0', 9, {split: (
        np.zeros((30, 2, 2, 1), np.uint8), np.arange(30, dtype=np.int32) % 3
        + 3 * i) for i, split in enumerate(('train', 'valid', 'test'))}
  monkeypatch.setattr(readers, 'tfds', read)
  source = sources._tfds('some', 'some', None, None, '/nowhere')
  for part in (source.train, source.valid):
    assert len(np.unique(part.labels)) > 3
  assert set(source.train.labels.tolist()) == set(range(9))


def test_two_preparations_of_one_version_differ(monkeypatch):
  def versions(value):
    monkeypatch.setattr(readers, 'tfds', lambda *_: ('3.0.1', 3, {'train': (
        np.full((30, 2, 2, 1), value, np.uint8),
        np.arange(30, dtype=np.int32) % 3)}))
    return sources._tfds('some', 'some', None, None, '/nowhere').version
  assert versions(1) == versions(1) != versions(2)
  assert versions(1).startswith('3.0.1-')


class Data:
  """Of sources whose versions are known."""

  def __init__(self, **versions):
    self.versions = versions

  def source(self, name):
    return type('Source', (), {'version': self.versions[name]})


def suite_of(*names):
  return type('Suite', (), {'tasks': [
      type('Task', (), {'source': name}) for name in names]})


@pytest.mark.parametrize('before, now, fits', [
    ('3.0.1-aa', '3.0.1-aa', True), ('3.0.1-aa', '3.0.1-ab', False),
    ('3.0.1', '3.0.1-aa', False), ('aa', 'ab', False)])
def test_versions_of_an_earlier_start(tmp_path, before, now, fits):
  work = workdir_lib.Workdir(tmp_path)
  json_records.append_line(work.metrics, {'kind': 'run',
                                          'sources': {'mnist': before}})
  if fits:
    checked = validate.check_sources(
        work, suite_of('mnist'), Data(mnist=now))
    assert checked == {'mnist': now}
  else:
    with pytest.raises(ValueError, match='mnist is version'):
      validate.check_sources(work, suite_of('mnist'), Data(mnist=now))


def test_a_folder_of_splits_keeps_its_version_and_ignores_the_rest(tmp_path):
  for split, count in (('train', 6), ('valid', 4), ('test', 2)):
    for i in range(count):
      picture(tmp_path / 'data' / split / 'ab'[i % 2] / f'{i}.png', 20 * i)
  picture(tmp_path / 'data' / 'annotations' / 'x' / '0.png')
  source = sources.load(f'folder:{tmp_path}/data', tmp_path / 'cache')
  content = hashlib.sha256()
  for part in (source.train, source.valid, source.test):
    content.update(part.images.tobytes() + part.labels.tobytes())
  assert source.version == content.hexdigest()[:16] and source.classes == 2


def test_probes_have_folders_of_their_own(tmp_path):
  work = workdir_lib.Workdir(tmp_path)
  paths = [work.probe_of(name) for name in (
      'folder:/x/a/b', 'folder:/x/a-b', 'folder:/' + 'long/' * 99,
      'folder:/' + '日' * 90, 'mnist', 'cmaterdb/bangla')]
  assert len(set(paths)) == 6
  assert max(len(p.name.encode()) for p in paths) < 100
  assert [p.name for p in paths[4:]] == ['mnist', 'cmaterdb-bangla']
  with pytest.raises(ValueError, match="'a/b' and 'a-b' would share"):
    validate.check_sources(work, suite_of('a/b', 'a-b'),
                         Data(**{'a/b': '1', 'a-b': '1'}))


# Suites.


@pytest.mark.parametrize('kind, options, text', [
    ('groups', dict(groups=(('digits', (1.7, 2.2)),)), '1.7 is no class'),
    ('split', dict(source='digits', groups=((0, -1), (1, 2))),
     '-1 is no class of .digits.; its classes are 0 to 9'),
    ('split', dict(source='digits', groups=((0, 1), (3, 99))), '99 is no'),
    ('permuted', dict(source='digits', num_tasks=None),
     'num_tasks is None; it must be given'),
    ('rotated', dict(source='digits', num_tasks=3, order_seed='a'),
     "order_seed is 'a'; it must be a whole number"),
    ('split', dict(source='digits', classes_per_task=2,
                   shared_outputs='False'), 'must be True or False'),
    ('permuted', dict(source='digits', num_tasks=2,
                      normalise=(0., float('inf'))), 'finite'),
    ('permuted', dict(source='digits', num_tasks=2, normalise=('a', 1.)),
     'suite.normalise is')])
def test_options_of_suites(kind, options, text):
  with pytest.raises(ValueError, match=text):
    suites.make(kind, **options)


def test_classes_are_plain_numbers():
  suite = suites.make('groups', groups=(('digits', tuple(np.arange(3))),))
  assert [type(label) for label in suite.tasks[0].labels] == [int] * 3


def test_tables_of_the_same_features_are_several_regressions():
  features = RANDOM.rand(60, 3)
  for name, targets in (('sum', features.sum(1)), ('same', features.sum(1)),
                        ('first', features[:, 0])):
    sources.register(f'of-{name}', lambda name=name, targets=targets:
                     sources.from_table(f'of-{name}', features, targets))
  assert len(suites.make('datasets', sources=('of-sum', 'of-first')).tasks) == 2
  with pytest.raises(ValueError, match='one task twice'):
    suites.make('datasets', sources=('of-sum', 'of-same'))
