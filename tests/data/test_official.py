"""The official tasks as data, and the images that their splits share."""

import functools
import json
import zlib

import numpy as np
import pytest

from mtl_jax.data import label_makers
from mtl_jax.data import official
from mtl_jax.data import sources
from mtl_jax.data import suites

COUNTS = {'vit': 3, 'vtab': 23, 'vdd': 10, 'characters': 8, 'vtab_1k': 25}


def test_sixty_nine_tasks_in_five_benchmarks():
  assert {name: len(official.BENCHMARKS[name]) for name in COUNTS} == COUNTS
  assert len(official.TASKS) == sum(COUNTS.values()) == 69
  assert official.BENCHMARKS['preliminary'] == (
      'cmaterdb/bangla', 'cmaterdb/devanagari', 'cmaterdb/telugu')


def test_the_three_names_are_mended():
  for name in ('smallnorb/label_azimuth/1k', 'smallnorb/label_elevation',
               'smallnorb/label_elevation/1k'):
    assert name in official.TASKS
  with pytest.raises(ValueError, match='unknown official task .smallnorb/'
                                       'label_elevatio. .did you mean: '
                                       'smallnorb/label_elevation'):
    official.task('smallnorb/label_elevatio')


@pytest.mark.parametrize('name, split, expected', [
    ('imagenet2012', 'valid', ('imagenet_v2', 'test')),
    ('imagenet2012', 'test', ('imagenet2012', 'validation')),
    ('cifar10', 'valid', ('cifar10_1', 'test')),
    ('cifar100', 'train', ('cifar100', 'train[:98%]')),
    ('cifar100/1k', 'train', ('cifar100', 'train[:800]')),
    ('cifar100/1k', 'valid', ('cifar100', 'train[90%:][:200]')),
    ('smallnorb/label_azimuth/1k', 'valid', (
        'smallnorb:label_azimuth', 'test[:50%][:200]')),
    ('clevr/count_all', 'test', ('clevr:=clevr_count_all', 'validation')),
    ('visual_domain_decathlon/dtd', 'test', (
        'visual_domain_decathlon/dtd', 'validation[50%:]')),
    ('emnist/letters', 'valid', ('emnist/letters', 'train[:5%]')),
    ('omniglot', 'test', ('omniglot', 'small2'))])
def test_official_splits(name, split, expected):
  assert getattr(official.task(name), split) == expected


@pytest.mark.parametrize('name', official.TASKS)
def test_slices_of_one_split_are_disjoint(name):
  seen: dict = {}
  for base, expression in official.task(name):
    rows = official.rows(expression, 3001)
    assert len(rows) and len(set(rows)) == len(rows)
    key = base, expression.partition('[')[0]
    assert not seen.setdefault(key, set()) & set(rows), name
    seen[key] |= set(rows)


def test_slices():
  assert list(official.rows('train', 3)) == [0, 1, 2]
  assert list(official.rows('train[20%:]', 11)) == list(range(2, 11))
  assert list(official.rows('train[:20%]', 11)) == [0, 1]
  assert list(official.rows('test[50%:][:2]', 10)) == [5, 6]


def clevr(shapes, depth):
  return {'objects': {'size': np.zeros(len(shapes)), 'shape': np.array(shapes),
                      'pixel_coords': np.array([[0, 0, d] for d in depth])}}


def kitti(types, depth):
  return {'objects': {'type': np.array(types),
                      'location': np.array([[0, 0, d] for d in depth])}}


@pytest.mark.parametrize('maker, row, label', [
    ('clevr_count_all', clevr([0, 1, 2, 2, 0], [9.] * 5), 2),
    ('clevr_count_cylinders', clevr([0, 1, 2, 2, 0], [9.] * 5), 2),
    ('clevr_distance', clevr([0, 0], [9.7, 8.2]), 1),
    ('clevr_distance', clevr([0], [12.]), 5),
    ('clevr_distance', clevr([0], [3.]), 0),
    ('kitti_count_vehicles', kitti([0, 1, 2, 0, 5], [1.] * 5), 3),
    ('kitti_count_vehicles', kitti([3, 1], [1.] * 2), 1),
    ('kitti_vehicle_distance', kitti([3, 0], [1., 9.]), 1),
    ('kitti_vehicle_distance', kitti([3], [1.]), 3),  # no vehicle at all
    ('kitti_object_distance', kitti([3, 0], [1., 9.]), 0),
    ('kitti_object_distance', kitti([0], [30.]), 4)])
def test_derived_labels(maker, row, label):
  found = label_makers.MAKERS[maker]
  assert found.make(row) == label < found.classes


def test_every_maker_is_used():
  used = {base.partition(':=')[2] for splits in official.TASKS.values()
          for base, _ in splits}
  assert used - {''} == set(label_makers.MAKERS)


def test_a_missing_set_is_named_with_its_command(tmp_path):
  with pytest.raises(FileNotFoundError, match=(
      r"(?s)missing .*cifar10.*tfds.builder\('cifar10'\).download_and_prepare")
                     ):
    sources.load('official:cifar10@32x32', tfds_dir=str(tmp_path))
  with pytest.raises(ValueError, match="unknown benchmark: 'char'"):
    suites.make('official', benchmark='char')
  with pytest.raises(ValueError, match="unknown task of benchmark 'vit'"):
    suites.make('official', benchmark='vit', only=('cifar1',))


def test_an_unknown_split_is_refused(tmp_path):
  folder = tmp_path / 'sets/omniglot/3.0.0'
  folder.mkdir(parents=True)
  (folder / 'dataset_info.json').write_text(json.dumps(
      {'name': 'omniglot', 'splits': []}))
  with pytest.raises(ValueError, match="has no split 'train'; its splits are"):
    sources.load('official:omniglot', tfds_dir=str(tmp_path / 'sets'))


# With the sets at hand.


def at_hand(name):
  try:
    return sources.load(name)
  except FileNotFoundError as error:
    return pytest.skip(str(error).splitlines()[0])


SOURCES = sorted({official.source(name, (32, 32)) for name in (
    'mnist', 'kmnist', 'omniglot', 'cmaterdb/bangla', 'cmaterdb/devanagari',
    'cmaterdb/telugu', 'emnist/digits', 'emnist/letters')})


# Test images that the original data hold in their training part as well: what
# stands twice there stays, and is counted.
TWICE = {f'official:cmaterdb/{name}@32x32': count for name, count in (
    ('bangla', 7), ('devanagari', 14), ('telugu', 3))}


@pytest.mark.data
@pytest.mark.parametrize('name', SOURCES)
def test_no_other_test_image_is_trained_on(name):
  assert sources.leaks(at_hand(name)) == TWICE.get(name, 0)


@pytest.mark.data
def test_the_official_omniglot_tests_on_training_images():
  source = at_hand('official:omniglot@32x32')
  assert sources.leaks(source) == len(source.test.labels) == 3120


@pytest.mark.data
def test_official_numbers_of_images():
  for name, expected in (('cmaterdb/bangla', [4000, 1000, 1000]),
                         ('cmaterdb/devanagari', [2000, 500, 500]),
                         ('cmaterdb/telugu', [2000, 500, 500]),
                         ('mnist', [57_000, 3_000, 10_000])):
    source = at_hand(f'official:{name}@32x32')
    assert [len(part.labels) for part in (source.train, source.valid,
                                          source.test)] == expected


def made(name, seed):
  images = np.random.RandomState(seed).randint(0, 256, (60, 8, 8, 1))
  return sources.from_arrays(name, images.astype(np.uint8), np.arange(60) % 3)


def one_set_many_labels(name):
  """The same images for every task of a TFDS set; labels for each."""
  base = official.task(name.removeprefix('official:').split('@')[0]).test[0]
  images = np.random.RandomState(zlib.crc32(base.split(':')[0].encode()) >> 1
                                 ).randint(0, 256, (60, 8, 8, 3))
  labels = np.random.RandomState(zlib.crc32(base.encode()) >> 1).permutation(
      np.arange(60) % 3)
  return sources.from_arrays(name, images.astype(np.uint8), labels)


@pytest.mark.parametrize('benchmark', sorted(official.BENCHMARKS))
def test_every_benchmark_makes_a_suite(benchmark):
  suite = suites.make(
      'official', benchmark=benchmark, image_shape=(8, 8, 3), leaking=True,
      load=one_set_many_labels)
  assert len(suite.tasks) == len(official.BENCHMARKS[benchmark])
  assert len({task.name for task in suite.tasks}) == len(suite.tasks)


def test_copies_with_other_names_of_the_classes_are_copies():
  images = np.random.RandomState(0).randint(0, 256, (60, 8, 8, 1)).astype(
      np.uint8)
  labels = {'a': np.arange(60) % 3, 'b': (np.arange(60) + 1) % 3,
            'c': np.arange(60) // 20}
  make = lambda *names: suites.make(
      'datasets', sources=names, image_shape=(8, 8, 1),
      load=lambda name: sources.from_arrays(name, images, labels[name]))
  with pytest.raises(ValueError, match="'a' and 'b' hold the same test images "
                                       'in the same classes'):
    make('a', 'b')
  assert len(make('a', 'c').tasks) == 2


def test_a_suite_of_official_tasks():
  seeds = {'official:mnist@8x8': 0, 'omniglot:label!label@8x8': 1,
           'official:kmnist@8x8': 0, 'digits@8x8': 3}
  make = functools.partial(
      suites.make, 'official', benchmark='characters', image_shape=(8, 8, 3),
      only=('mnist', 'omniglot', 'kmnist'), more=('digits',),
      load=lambda name: made(name, seeds[name]))
  with pytest.raises(ValueError, match="'official:mnist@8x8' and "
                     "'official:kmnist@8x8' hold the same test images"):
    make()
  seeds['official:kmnist@8x8'] = 4
  suite = make()
  assert [task.name for task in suite.tasks] == ['mnist', 'omniglot', 'kmnist',
                                                 'digits']
  assert [task.source for task in suite.tasks] == list(seeds)
  leaking = suites.make('official', benchmark='characters', only=('omniglot',),
                        leaking=True, load=lambda name: made(name, 0))
  assert leaking.tasks[0].source == 'official:omniglot@32x32'


@pytest.mark.data
def test_the_three_scripts_are_three():
  """CMATERdb was once prepared from one file under all three names."""
  for name in ('bangla', 'devanagari', 'telugu'):
    at_hand(f'official:cmaterdb/{name}@32x32')
  suite = suites.make('official', benchmark='preliminary')
  assert [task.name for task in suite.tasks] == [
      'cmaterdb-bangla', 'cmaterdb-devanagari', 'cmaterdb-telugu']
