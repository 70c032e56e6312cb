"""Tables and texts as sources."""

import collections
import hashlib

import numpy as np
import pytest

from mtl_jax.data import pipeline
from mtl_jax.data import sources
from mtl_jax.data import suites

ROWS = np.random.RandomState(0).uniform(-3, 9, (200, 4))


@pytest.mark.parametrize('delimiter', [' ', ',', '\t'])
def test_a_table_from_a_file(tmp_path, delimiter):
  path = tmp_path / 'table.data'
  np.savetxt(path, ROWS, delimiter=delimiter)
  source = sources.load(f'table:{path}')
  assert source.regression and not source.tokens and source.classes == 1
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  stored, _, scaled = source.version.partition('-')
  assert len(stored) == 12 and digest.startswith(stored)
  assert scaled == 'float64'
  assert [len(part.labels) for part in (
      source.train, source.valid, source.test)] == [144, 16, 40]
  for part in (source.train.images, source.train.labels):
    np.testing.assert_allclose(part.min(0), 0, atol=1e-6)
    np.testing.assert_allclose(part.max(0), 1, atol=1e-6)
  # The test rows are those of the documented permutation, scaled alike.
  order = np.random.RandomState(0).permutation(200)
  train, test = np.sort(order[56:]), np.sort(order[:40])
  low, high = ROWS[train].min(0), ROWS[train].max(0)
  wanted = (ROWS[test] - low) / (high - low)
  np.testing.assert_allclose(source.test.images, wanted[:, :-1], atol=1e-5)
  np.testing.assert_allclose(source.test.labels, wanted[:, -1:], atol=1e-5)


@pytest.mark.parametrize('text, message', [
    ('1 2\n3 x\n', 'not a table of numbers'), ('1\n2\n', '1 column; at'),
    ('a,b\n1,2\n', 'no line of names'),
    ('1 2\n3 nan\n', 'has nan in row 1, column 1, of 1 value')])
def test_bad_tables_are_refused(tmp_path, text, message):
  path = tmp_path / 'bad.data'
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    sources.load(f'table:{path}')
  with pytest.raises(FileNotFoundError, match='there is no file .*none'):
    sources.load(f'table:{tmp_path / "none"}')
  path.write_bytes(b'1 \xff\n')
  with pytest.raises(ValueError, match='bad.data is not a table of numbers'):
    sources.load(f'table:{path}')


def test_a_constant_column_stays_finite():
  features = np.stack([np.ones(50), np.arange(50)], 1)
  source = sources.from_table('constant', features, np.arange(50)[:, None])
  assert not source.train.images[:, 0].any()


def test_texts_become_tokens_of_the_training_words():
  train = (['good good film', 'a bad film', 'good', 'bad bad'] * 5,
           [1, 0, 1, 0] * 5)
  source = sources.from_texts('films', train, (['unseen film good'], [1]),
                              words=4, length=3)
  # The most frequent word of the training part has number 1.
  counted = collections.Counter()
  for row in source.train.images:
    counted.update(row[row > 0].tolist())
  assert [n for n, _ in counted.most_common()] == [1, 2, 3]
  film, good, rest = source.test.images[0]
  assert {film, good} < {1, 2, 3} and film != good and not rest
  assert source.tokens and not source.regression and source.classes == 2
  task, = suites.make('datasets', sources=('films',),
                      load=lambda name: source).tasks
  assert task.transforms == () and not task.regression
  assert suites.view(task, source).label_map.tolist() == [0, 1]


def test_test_texts_give_the_vocabulary_no_words():
  texts = [f'word{i} common' for i in range(30)]
  source = sources.from_texts('own', (texts, [0, 1] * 15), words=100, length=2)
  assert len(source.train.labels) < 30 and len(source.test.labels) == 6
  first = {int(row[0]) for row in source.train.images}
  assert len(first) == len(source.train.labels)  # a word of each text's own
  for part in (source.valid, source.test):  # 'common' alone is known
    assert (part.images[:, 0] == 1).all() and not part.images[:, 1].any()


def test_a_missing_text_set_says_how_to_prepare_it(tmp_path):
  with pytest.raises(FileNotFoundError, match="builder\\('imdb_reviews'\\)"):
    sources.load('text:imdb_reviews', tfds_dir=str(tmp_path))


def test_tables_keep_their_values_on_the_way_to_the_network():
  x = np.array([[.5, -1.]], np.float32)
  kept = pipeline.apply((), (), x)
  assert kept.dtype == np.float32
  np.testing.assert_array_equal(kept, x)
  with pytest.raises(ValueError, match='must be uint8'):
    pipeline.apply((('permute',),), ({},), x)


def test_a_task_of_a_file_has_the_files_name(tmp_path):
  path = tmp_path / 'house prices.data'
  np.savetxt(path, ROWS)
  task, = suites.make('datasets', sources=(f'table:{path}',)).tasks
  assert task.name == 'house-prices' and task.regression


def test_pixels_of_a_table_cannot_be_moved():
  source = sources.from_table('plain', ROWS[:, :-1], ROWS[:, -1:])
  with pytest.raises(ValueError, match='has no pixels to move'):
    suites.make('permuted', source='plain', num_tasks=2,
                load=lambda name: source)


@pytest.mark.parametrize('groups, message', [
    (((0, 1), (1, 2)), 'must be disjoint'), (((0, 1), (2,)), 'of equal size')])
def test_groups_of_classes(groups, message):
  suite = suites.make('split', source='digits', groups=((1, 5), (0, 9)))
  assert [task.labels for task in suite.tasks] == [(1, 5), (0, 9)]
  with pytest.raises(ValueError, match=message):
    suites.make('split', source='digits', groups=groups)
  with pytest.raises(ValueError, match='no other way'):
    suites.make('split', source='digits', groups=((1,), (2,)), num_tasks=2)
