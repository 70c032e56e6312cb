"""Suites: which images, which labels, which transform; nothing shared."""

import functools

import numpy as np
import pytest

from mtl_jax.data import pipeline
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.data import transforms


def source(name='toy', classes=6, shape=(4, 4, 1), n=300):
  images = np.random.RandomState(len(name)).randint(0, 256, (n, *shape))
  return sources.from_arrays(name, images.astype(np.uint8),
                             np.arange(n) % classes, classes)


TOY = source()


def load(name):
  known = {'toy': TOY, 'mnist@4x4': source('mnist@4x4', 10),
           'cifar100': source('cifar100', 7, (6, 6, 3))}
  return known[name]


def make(kind, **options):
  return suites.make(kind, load=load, **options)


def test_permuted_task_i_has_seed_i_plus_seed():
  suite = make('permuted', source='toy', num_tasks=3, seed=5)
  assert [t.name for t in suite.tasks] == [
      'permuted-00', 'permuted-01', 'permuted-02']
  assert [t.transforms[0] for t in suite.tasks] == [
      transforms.permute(s) for s in (5, 6, 7)]
  assert {t.classes for t in suite.tasks} == {6}
  assert [t.index for t in suite.tasks] == [0, 1, 2]


def test_names_sort_in_order():
  for suite in (make('permuted', source='toy', num_tasks=101),
                make('rotated', source='toy', num_tasks=36),
                make('rotated', source='toy', num_tasks=7)):
    names = [t.name for t in suite.tasks]
    assert names == sorted(names)
  assert names[:2] == ['rotated-000.0000', 'rotated-051.4286']


def test_nearest_rotations_are_by_whole_degrees():
  suite = make('rotated', source='toy', num_tasks=35, interpolation='nearest')
  turns = [task.transforms[0] for task in suite.tasks]
  assert [turn['degrees'] for turn in turns] == [10. * i for i in range(35)]
  assert {turn.kind for turn in turns} == {'rotate_nearest'}
  assert suite.tasks[1].name == 'rotated-010'
  with pytest.raises(ValueError, match='num_tasks is 361, but there are 360'):
    make('rotated', source='toy', num_tasks=361, interpolation='nearest')
  ours = make('rotated', source='toy', num_tasks=35).tasks[1].transforms[0]
  assert ours == transforms.rotate(360 / 35)  # as it was: runs go on


def test_rotated_angles_are_exact():
  for n in (36, 7):
    suite = make('rotated', source='toy', num_tasks=n)
    assert [t.transforms[0]['degrees'] for t in suite.tasks] == [
        i * 360 / n for i in range(n)]
  assert make('rotated', source='toy', num_tasks=36).tasks[1].name == (
      'rotated-010')


def test_split_is_consecutive_or_numpys_partition():
  suite = make('split', source='toy', classes_per_task=2)
  assert [t.labels for t in suite.tasks] == [(0, 1), (2, 3), (4, 5)]
  drawn = make('split', source='toy', classes_per_task=2, seed=3)
  order = np.random.RandomState(3).permutation(6)
  assert [t.labels for t in drawn.tasks] == [
      tuple(order[i:i + 2].tolist()) for i in (0, 2, 4)]
  assert len(make('split', source='toy', classes_per_task=4,
                  num_tasks=1).tasks) == 1


def test_split_without_shared_outputs_gives_each_class_its_own():
  suite = make('split', source='toy', classes_per_task=2, seed=3,
               shared_outputs=False)
  a, b, c, d, e, f = np.random.RandomState(3).permutation(6).tolist()
  no = -1
  assert [t.labels for t in suite.tasks] == [
      (a, b, no, no, no, no), (no, no, c, d, no, no), (no, no, no, no, e, f)]
  assert {t.classes for t in suite.tasks} == {6}
  shared = make('split', source='toy', classes_per_task=2, seed=3)
  for own, other in zip(suite.tasks, shared.tasks):
    view, same = suites.view(own, TOY), suites.view(other, TOY)
    np.testing.assert_array_equal(view.train, same.train)
    first = 2 * own.index
    np.testing.assert_array_equal(
        view.label_map, np.where(same.label_map < 0, -1,
                                 same.label_map + first))
  consecutive = make('split', source='toy', classes_per_task=2,
                     shared_outputs=False).tasks[1]
  assert suites.view(consecutive, TOY).label_map.tolist() == [
      -1, -1, 2, 3, -1, -1]


def test_split_views_are_disjoint_and_cover():
  suite = make('split', source='toy', classes_per_task=2, seed=1)
  views = [suites.view(task, TOY) for task in suite.tasks]
  for split in ('train', 'valid', 'test'):
    rows = np.concatenate([getattr(v, split) for v in views])
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(
        np.sort(rows), np.arange(len(getattr(TOY, split).labels)))


def test_label_map_follows_the_order_of_labels():
  task = suites.Task('t', 0, 'toy', (), (4, 1, 2), 3)
  view = suites.view(task, TOY)
  assert view.label_map.tolist() == [-1, 1, 2, -1, 0, -1]
  labels = TOY.train.labels[view.train]
  assert set(labels.tolist()) == {1, 2, 4}
  assert (view.label_map[labels] == np.select(
      [labels == 4, labels == 1, labels == 2], [0, 1, 2])).all()


def test_all_labels_keep_their_place():
  view = suites.view(make('permuted', source='toy', num_tasks=1).tasks[0], TOY)
  assert view.label_map.tolist() == [0, 1, 2, 3, 4, 5]
  assert len(view.train) == len(TOY.train.labels)


def test_datasets_end_in_one_shape_and_one_executable():
  suite = make('datasets', sources=('toy', 'cifar100'), image_shape=(5, 5, 1))
  assert [t.name for t in suite.tasks] == ['toy', 'cifar100']
  assert [t.classes for t in suite.tasks] == [6, 7]
  kinds = {transforms.kinds(t.transforms) for t in suite.tasks}
  assert len(kinds) == 1
  shapes = {pipeline.output_shape(*kinds, load(t.source).image_shape)
            for t in suite.tasks}
  assert shapes == {(5, 5, 1)}


def test_datasets_refuses_one_set_under_two_names():
  twin = sources.Source('twin', '1', 6, TOY.train, TOY.valid, TOY.test)
  make = functools.partial(suites.make, 'datasets', sources=('toy', 'twin'),
                           load={'toy': TOY, 'twin': twin}.get)
  with pytest.raises(ValueError, match="'toy' and 'twin' hold the same test "
                     'images in the same classes.*leave one out'):
    make()


def test_order_of_transforms():
  task = make('permuted', source='cifar100', num_tasks=1, augment=4,
              image_shape=(8, 8, 3)).tasks[0]
  assert [t.kind for t in task.transforms] == [
      'fit', 'crop_flip', 'permute', 'normalise']


@pytest.mark.parametrize('name, options, expected', [
    ('toy', {}, transforms.normalise(0.5, 0.5)),
    ('mnist@4x4', {}, transforms.normalise(0.1307, 0.3081)),
    ('cifar100', {}, transforms.normalise((0.491, 0.482, 0.447),
                                          (0.247, 0.243, 0.262))),
    ('cifar100', {'normalise': (0.1, 0.2)}, transforms.normalise(0.1, 0.2)),
])
def test_normalisation_is_the_source_s_unless_given(name, options, expected):
  task = make('permuted', source=name, num_tasks=1, **options).tasks[0]
  assert task.transforms[-1] == expected


@pytest.mark.parametrize('call, message', [
    (lambda: make('permutted', source='toy'),
     "'permutted' .did you mean: permuted.*rotated, split, .*datasets"),
    (lambda: make('permuted', source='toy', num_task=3),
     "'num_task' .did you mean: num_tasks.*seed"),
    (lambda: make('permuted', source='toy'), 'needs num_tasks'),
    (lambda: make('rotated', source='toy', num_tasks=0),
     'num_tasks is 0; it must'),
    (lambda: make('rotated', source='toy', num_tasks=2, order_seed=-1),
     'suite.order_seed is -1; it must be between 0 and 2 .. 32 - 1'),
    (lambda: make('split', source='toy', classes_per_task=2, seed=1 << 32),
     'suite.seed is 4294967296; it must be between 0'),
    (lambda: make('split', source='toy', classes_per_task=4), 'num_tasks=1'),
    (lambda: make('split', source='toy', classes_per_task=4, num_tasks=2),
     'more than the 6'),
    (lambda: make('datasets', sources='toy'), 'sequence'),
    (lambda: make('permuted', source='toy', num_tasks=1,
                  normalise=((0, 0), (1, 1))), 'normalise: mean has 2'),
    (lambda: suites.Task('a/b', 0, 'toy', (), None, 6), "'a/b'"),
    (lambda: suites.Task('a', 0, 'toy', (), (1, 1), 2), 'different'),
    (lambda: suites.Task('a', 0, 'toy', (), (-1, -1), 2), 'different'),
    (lambda: suites.Suite('s', (suites.Task('a', 0, 'toy', (), None, 6),
                                suites.Task('a', 1, 'toy', (), None, 6))),
     "two tasks 'a'"),
    (lambda: suites.view(suites.Task('a', 0, 'x', (), None, 6), TOY),
     "'x', not 'toy'"),
    (lambda: suites.view(suites.Task('a', 0, 'toy', (), (6,), 1), TOY),
     'has 6'),
    (lambda: suites.view(suites.Task('a', 0, 'toy', (), None, 5), TOY),
     'has 6'),
])
def test_bad_input_says_what_is_wrong(call, message):
  with pytest.raises(ValueError, match=message):
    call()


@pytest.mark.parametrize('kind, options, said', [
    ('groups', dict(groups=3), 'groups must be pairs of a source and its'),
    ('groups', dict(groups=(1, 2)), r'not \(1, 2\)'),
    ('groups', dict(groups=(('digits', 3),)), 'groups must be pairs'),
    ('datasets', dict(sources=3), 'sources must be a sequence of names, not 3'),
    ('split', dict(source='digits', groups=(1, 2)),
     r'suite.groups is \(1, 2\); it must be a sequence of the sequences'),
    ('split', dict(source='digits', groups=3), 'suite.groups is 3'),
    ('official', dict(benchmark={'a': 1}), "unknown benchmark: {'a': 1}"),
    ('official', dict(benchmark='characters', only=0), 'suite.only is 0;'),
    ('official', dict(benchmark='characters', more='mnist'), "more is 'mnist'"),
    ('official', dict(benchmark='characters', image_shape=None),
     'suite.image_shape is None, .*give'),
    ('rotated', dict(source='digits', num_tasks=2 ** 31), 'at most 1,000,000')])
def test_options_of_another_type_are_refused(kind, options, said):
  with pytest.raises(ValueError, match=said):
    suites.make(kind, **options)


def test_a_split_into_larger_tasks_than_there_are_classes():
  with pytest.raises(ValueError, match='give at most 6'):
    make('split', source='toy', classes_per_task=20)
  assert len(make('split', source='toy', classes_per_task=6).tasks) == 1
