"""Labels that make numbers meaningless are refused, or said by the run."""

import json
import pathlib

import numpy as np
import pytest

from mtl_jax.data import labels as labels_lib
from mtl_jax.data import readers
from mtl_jax.data import sources
from mtl_jax.data import splits
from mtl_jax.data import suites


def images_of(count, seed=0):
  return np.random.RandomState(seed).randint(
      0, 256, (count, 4, 4, 1)).astype(np.uint8)


def source(labels, name='toy', **options):
  return sources.from_arrays(name, images_of(len(labels)), np.array(labels),
                             **options)


def make(found, kind='datasets', **options):
  if kind == 'datasets':
    options['sources'], options['image_shape'] = (found.name,), (4, 4, 1)
  else:
    options['source'] = found.name
  return suites.make(kind, load=lambda name: found, **options)


# Sources.


@pytest.mark.parametrize('labels, text', [
    (np.arange(100) % 10 + 1, 'class 0 has no images; labels count from 0, so '
                              'renumber them'),
    (np.arange(100) % 10 * 3, 'largest label is 27 but there are only 10 '),
    (np.arange(100) % 2 * 1_000_000, r'largest label is 1000000 but there are '
     r'only 2 different labels; renumber them from 0 \(np.unique\(labels, '
     r'return_inverse=True\)\[1\]\), or give classes=1000001'),
    ([0, 1, 3] * 20, 'class 2 has no images')])
def test_labels_that_do_not_count_from_zero(labels, text):
  with pytest.raises(ValueError, match=f"source 'toy': .*{text}"):
    source(labels)
  renumbered = np.unique(labels, return_inverse=True)[1]
  assert source(renumbered).classes == len(set(renumbered.tolist()))
  kept = source(labels, classes=int(np.max(labels)) + 1)
  assert kept.classes == max(labels) + 1


def test_stars_of_texts_count_from_zero_too():
  with pytest.raises(ValueError, match='class 0 has no images'):
    sources.from_texts('stars', (['good', 'bad'] * 30,
                                 np.arange(60) % 5 + 1))
  with pytest.raises(ValueError, match="'train': labels must be integers"):
    sources.from_texts('stars', (['good', 'bad'] * 30, np.arange(60) / 7))


@pytest.mark.parametrize('rare', range(0, 60, 7))
@pytest.mark.parametrize('count', [1, 2, 4, 10])
def test_no_drawing_leaves_a_class_without_training(rare, count):
  labels = np.arange(60) % 2
  labels[(rare + np.arange(count)) % 60] = 2
  found = source(labels)
  per_class = [np.bincount(part.labels, minlength=3)[2] for part in
               splits.parts(found)]
  assert per_class[0] and sum(per_class) == count
  assert len(np.concatenate([p.labels for p in splits.parts(found)])) == 60
  drawn = np.random.RandomState(0).permutation(60)[12 + 4:]
  expected = [n for n in found.notes if 'class 2 divided by itself' in n]
  assert bool(expected) == (not (labels[drawn] == 2).any())


def test_a_class_that_was_divided_by_itself_moves_no_other():
  labels = np.arange(60) % 2
  order = np.random.RandomState(0).permutation(60)
  labels[order[:5]] = 2
  found = source(labels)
  assert np.bincount(found.test.labels)[2] == 1
  assert np.bincount(found.train.labels)[2] == 4
  other = np.setdiff1d(order[16:], order[:5])
  np.testing.assert_array_equal(
      found.train.images[found.train.labels < 2],
      images_of(60)[np.sort(other)])


def test_a_class_of_the_own_test_split_must_be_trained():
  test = images_of(9, seed=1), np.full(9, 2)
  with pytest.raises(ValueError, match='class 2 has 9 images, none of them for '
                     'training'):
    source(np.arange(60) % 2, test=test)
  with pytest.raises(ValueError, match=r'class 2 \(cat\) has 9 images'):
    source(np.arange(60) % 2, test=test, class_names=('ant', 'bee', 'cat'))
  kept = source(np.arange(60) % 2, test=test, classes=3)
  with pytest.raises(ValueError, match='class 2 has 9 images for validation '
                     'and '
                     'test but none for training; .*suite.incomplete=True'):
    make(kept)
  suite = make(kept, incomplete=True)
  notes = labels_lib.facts(suite.tasks[0], kept)['notes']
  assert 'class 2 has 9 images for validation and test but none' in notes[0]
  assert 'class 2 is the only class with test images' in notes[1]


def test_a_test_split_of_training_images():
  images, labels = images_of(60), np.arange(60) % 2
  order = np.random.RandomState(1).permutation(60)
  with pytest.raises(ValueError, match="source 'm': its 60 test images are its "
                     '54 training images'):
    sources.from_arrays('m', images, labels,
                        test=(images[order], labels[order]))
  some = sources.from_arrays('m', images, labels,
                             test=(images[:10], labels[:10]))
  with pytest.raises(ValueError, match='every test image is also a training or '
                     'validation image'):
    make(some, 'permuted', num_tasks=2)
  assert sources.leaks(some) == 10


def test_classes_are_divided_alike():
  found = source([0] * 40 + [1] * 4 + [2] * 3, stratified=True)
  counts = [np.bincount(p.labels).tolist() for p in splits.parts(found)]
  assert counts == [
      [32, 2, 1], [4, 1, 1], [4, 1, 1]]
  with pytest.raises(ValueError, match='leave out test and valid'):
    source([0, 1] * 30, stratified=True, test=(images_of(5), [0] * 5))


@pytest.mark.parametrize('names, text', [
    (('a', 'a', 'b'), 'are 3, 2 of them different'), ('abc', 'sequence'),
    ((1, 2, 3), 'sequence of strings'), (('a', 'b'), 'label 2 in row ')])
def test_names_of_classes(names, text):
  with pytest.raises(ValueError, match=text):
    source([0, 1, 2] * 20, class_names=names)
  assert source([0, 1, 2] * 20, class_names=['a', 'b', 'c']).class_names == (
      'a', 'b', 'c')


@pytest.mark.parametrize('classes', [True, 2.5, 0, '3', -1])
def test_numbers_of_classes(classes):
  with pytest.raises(ValueError, match='classes is .*whole number above 0'):
    source([0, 0, 0] * 20, classes=classes)
  found = source([0, 1, 2] * 20, classes=np.int64(4))
  assert json.dumps(found.classes) == '4'


@pytest.mark.parametrize('name', [7, '', None, pathlib.Path('/x')])
def test_names_of_sources(name):
  with pytest.raises(ValueError, match='its name must be a string'):
    source([0, 1] * 20, name=name)
  with pytest.raises(ValueError, match='needs a name that is a string'):
    sources.register(name, lambda: None)
  with pytest.raises(ValueError, match='needs a kind that is a string'):
    suites.register(name, lambda: None)
  with pytest.raises(ValueError, match='must be a string, not None'):
    sources.load(None)


# Prepared sets, as TFDS has them.


@pytest.mark.parametrize('given, expected', [
    (('train',), [72, 8, 20]), (('train', 'valid'), [90, 10, 30]),
    (('train', 'test'), [90, 10, 30]),
    (('train', 'valid', 'test'), [100, 30, 30])])
def test_sets_without_a_test_split(monkeypatch, given, expected):
  parts = {split: (images_of(100 if split == 'train' else 30, seed),
                   np.arange(100 if split == 'train' else 30, dtype=np.int32)
                   % 3) for seed, split in enumerate(given)}
  monkeypatch.setattr(readers, 'tfds', lambda *_: ('1.0.0', 3, parts))
  found = sources._tfds('some', 'some', None, None, '/nowhere')
  assert [len(part.labels) for part in splits.parts(found)] == expected
  if given == ('train', 'valid'):  # which is then the test
    np.testing.assert_array_equal(found.test.images, parts['valid'][0])


@pytest.mark.parametrize('text, expected', [
    ('ant\nbee\n', ('ant', 'bee')), ('ant\n', None), ('ant\nant\n', None)])
def test_a_prepared_set_keeps_names_of_classes(tmp_path, text, expected):
  folder = tmp_path / 'insects/1.0.0'
  folder.mkdir(parents=True)
  (folder / 'dataset_info.json').write_text('{}')
  (folder / 'kind.labels.txt').write_text(text)
  assert readers.class_names('insects:kind', tmp_path, 2) == expected
  assert readers.class_names('insects', tmp_path, 2) is None
  assert readers.class_names('others', tmp_path, 2) is None


@pytest.mark.parametrize('text', ['', '[]', '7', '{"name": "x"}', '\xff',
                                  '{"name": "x", "splits": [{"name": 7}]}'])
def test_a_damaged_description_is_named(tmp_path, text):
  folder = tmp_path / 'insects/1.0.0'
  folder.mkdir(parents=True)
  (folder / 'dataset_info.json').write_bytes(text.encode('latin-1'))
  with pytest.raises(ValueError, match=(
      'dataset_info.json.*what TFDS says of the set.*prepare the set of source '
      '.insects. anew')):
    sources.load('insects', tfds_dir=tmp_path)


# Suites.


@pytest.mark.parametrize('kind, options, text', [
    ('split', dict(classes_per_task=2),
     "task 'split-01': .*class 2 is the only "),
    ('split', dict(groups=((0, 3), (1, 2))), "task 'split-00': .*class 0 is "
     'the only class with training images'),
    ('split', dict(classes_per_task=1, num_tasks=2), 'class 0 is the only'),
    ('split', dict(classes_per_task=1, num_tasks=2, shared_outputs=False),
     'class 0 is the only'),
    ('permuted', dict(num_tasks=2), 'class 3 has no images'),
    ('rotated', dict(num_tasks=2), 'class 3 has no images'),
    ('datasets', {}, 'class 3 has no images')])
def test_every_kind_of_suite_looks_at_labels(kind, options, text):
  found = source(np.arange(90) % 3, classes=4)
  with pytest.raises(ValueError, match=text):
    make(found, kind, **options)
  assert make(found, kind, incomplete=True, **options).tasks


def test_groups_and_suites_of_ones_own_are_looked_at():
  found = source(np.arange(90) % 3, classes=4)
  with pytest.raises(ValueError, match="'toy-00'.*class 3 has no images"):
    suites.make('groups', groups=(('toy', (1, 2, 3)),), load=lambda _: found)
  own = lambda load: suites.Suite('own', (
      suites.Task('one', 0, 'toy', (), (3, 1), 2),))
  suites.register('of-a-test', own)
  try:
    with pytest.raises(ValueError, match="task 'one': .*class 1 is the only"):
      suites.make('of-a-test', load=lambda _: found)
  finally:
    del suites.SUITES['of-a-test']


def test_a_class_without_test_images_is_said():
  labels = np.arange(60) % 3
  found = sources.from_arrays('toy', images_of(60), labels, test=(
      images_of(10, 1), np.arange(10) % 2))
  task, = make(found).tasks
  assert labels_lib.facts(task, found)['notes'] == [
      "source 'toy': class 2 has no test images"]


def repeated():
  """Of 20 test images 5 are for training too, and of those one twice."""
  images, tests = images_of(60), images_of(20, 1)
  images[10:15] = tests[3:8]
  images[30] = tests[3]
  return sources.from_arrays(
      'twice', images, np.arange(60) % 3, test=(tests, np.arange(20) % 3),
      valid=(images_of(20, 2), np.arange(20) % 3))


def test_images_that_are_trained_and_tested_are_counted():
  found = repeated()
  task, = make(found).tasks
  facts = labels_lib.facts(task, found)
  assert facts['images'] == {'train': 60, 'valid': 20, 'test': 20}
  assert facts['repeated'] == sources.leaks(found) == 5
  assert facts['notes'] == [
      "source 'twice': 5 of its 20 test images are also training or validation "
      'images (suite.drop_shared=True leaves them out there)',
      "source 'twice': 25% of the test images also stand in another class"]
  json.dumps(facts)


def test_images_that_stand_in_several_classes():
  """As of two folders, one of which is a copy of the other."""
  images = images_of(60)
  twice = sources.from_arrays('toy', np.concatenate([images, images]),
                              np.repeat([0, 1], 60))
  with pytest.raises(ValueError, match="source 'toy': every test image also "
                                       'stands in another class; mend the dat'):
    make(twice)
  assert make(twice, incomplete=True)
  some = sources.from_arrays('toy', np.concatenate([images, images[:20]]),
                             np.repeat([0, 1], [60, 20]))
  notes = labels_lib.facts(make(some).tasks[0], some)['notes']
  said = f'{some.contradicted.mean():.0%} of the test images also stand in an'
  assert any(said in note for note in notes)
  clean = sources.from_arrays('toy', images, np.arange(60) % 2)
  assert not clean.contradicted.any()
  assert labels_lib.facts(make(clean).tasks[0], clean)['notes'] == []


def test_they_can_be_left_out_of_training():
  found = repeated()
  task, = make(found, drop_shared=True).tasks
  view = suites.view(task, found)
  left_out = [10, 11, 12, 13, 14, 30]
  assert view.train.tolist() == sorted({*range(60)} - {*left_out})
  assert len(view.test) == len(view.valid) == 20
  facts = labels_lib.facts(task, found)
  assert facts['dropped'] == {'train': 6, 'valid': 0}
  assert facts['notes'] == ["source 'twice': 6 training and 0 validation "
                            'images were left out, which are also test '
                            'images']
  with pytest.raises(ValueError, match='drop_shared is .yes.'):
    make(found, drop_shared='yes')


def test_a_task_is_told_of_its_own_images_alone():
  found = repeated()
  suite = make(found, 'split', groups=((0, 1), (2, 1))
               [:1], drop_shared=True)
  task, = suite.tasks
  rows = suites.view(task, found).train
  assert set(found.train.labels[rows].tolist()) == {0, 1}
  assert labels_lib.facts(task, found)['dropped']['train'] == int(
      np.isin([10, 11, 12, 13, 14, 30], np.flatnonzero(
          found.train.labels < 2)).sum())


def test_a_class_that_loses_all_its_images_is_refused():
  images, tests = images_of(60), images_of(20, 1)
  labels = np.arange(60) % 2
  images[50], labels[50] = tests[0], 2
  found = sources.from_arrays('m', images, labels, valid=(
      images_of(20, 2), np.arange(20) % 2), test=(
          tests, np.array([2] + [0, 1] * 9 + [0])))
  assert make(found).tasks
  with pytest.raises(ValueError, match='class 2 has 1 image for validation and '
                     'test but none for training'):
    make(found, drop_shared=True)


def test_the_official_omniglot_says_that_it_tests_what_it_trains():
  tests = images_of(20, 1)
  found = sources.from_arrays(
      'official:omniglot@32x32', np.concatenate([images_of(60), tests]),
      np.arange(80) % 2, test=(tests, np.arange(60, 80) % 2),
      valid=(images_of(20, 2), np.arange(20) % 2))
  options = dict(benchmark='characters', only=('omniglot',), leaking=True,
                 image_shape=(4, 4, 3), load=lambda name: found)
  task, = suites.make('official', **options).tasks
  note, = labels_lib.facts(task, found)['notes']
  assert note.endswith(
    'every test image is also a training or validation image')
  with pytest.raises(ValueError, match='every test image'):
    suites.make('official', incomplete=False, **options)
