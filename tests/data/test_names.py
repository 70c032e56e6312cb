"""Names of tasks and sources, what numbers come from, and own suites."""

import functools
import json
import unicodedata

import numpy as np
import pytest
import tiny
from PIL import Image

from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.data import cache
from mtl_jax.data import names as names_lib
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.data import transforms


def toy(name, seed=None):
  seed = len(name) if seed is None else seed
  images = np.random.RandomState(seed).randint(0, 256, (300, 4, 4, 1))
  return sources.from_arrays(name, images.astype(np.uint8), np.arange(300) % 6)


def permuted(count, **options):
  return suites.make('permuted', source='toy', num_tasks=count,
                     load=functools.lru_cache(toy), **options)


def keys(suite):
  phase = config_lib.from_dict(tiny.get_config('few').to_dict()).phases[0]
  entries = [plan.Entry(task.name, task, phase) for task in suite.tasks]
  return [(entry.seed(3), entry.key(3)) for entry in entries]


@pytest.mark.parametrize('name', ['..', '~', '!!!', 'folder:/x/@', '\udcff'])
def test_a_source_without_letters_has_tasks_with_names(name):
  load = lambda _: toy(name)
  called, = (task.name for task in suites.make(
      'datasets', sources=(name,), load=load).tasks)
  assert called.startswith('source-')
  assert called != names_lib.of_source(f'{name}~')
  own, = suites.make('datasets', sources=(name,), names=('own',),
                     load=load).tasks
  assert own.name == 'own'
  with pytest.raises(ValueError, match="name '[.][.]' may .* name= of learn"):
    suites.make('datasets', sources=(name,), names=('..',), load=load)


# Numbers of tasks.


@pytest.mark.parametrize('count', [100, 101, 250, 1001])
def test_the_first_tasks_of_many_are_those_of_a_short_run(count):
  short, long_ = permuted(3), permuted(count)
  assert keys(short) == keys(long_)[:3]
  assert [t.transforms for t in short.tasks] == [
      t.transforms for t in long_.tasks[:3]]
  assert len(set(map(str, keys(long_)))) == count
  names = [task.name for task in long_.tasks]
  assert names == sorted(names)


@pytest.mark.parametrize('kind, options', [
    ('split', dict(source='toy', classes_per_task=2)),
    ('groups', dict(groups=(('toy', (0, 1)), ('toy', (2, 3)),
                            ('toy', (0, 5)))))])
def test_numbers_of_other_suites(kind, options):
  make = lambda **more: suites.make(
      kind, load=functools.lru_cache(toy), **options, **more)
  assert keys(make()) == keys(make(number_width=2)) != keys(
      make(number_width=3))
  first = make(number_width=5).tasks[0].name
  assert first in ('split-00000', 'toy-00000')


def test_the_names_of_shipped_configs_are_their_keys():
  """So that committed results keep their bits."""
  for name, count in (('supsup_permuted_mnist', 250),
                      ('impresslearn_permuted_mnist', 110),
                      ('supsup_2500_tasks', 2500),
                      ('supsup_nameless_permuted_mnist', 100),
                      ('quickstart', 20)):
    space = {}
    exec((tiny.ROOT / f'configs/{name}.py').read_text(), space)
    options = space['get_config']().suite.to_dict()
    assert options.pop('num_tasks') == count
    for short in (3, count):
      number = [names_lib.of_number('permuted', i, short,
                                    options.get('number_width'))
                for i in range(3)]
      assert all(n['name'] == n['key'] for n in number), name
    assert number[0]['name'] == f'permuted-{0:0{max(2, len(str(count - 1)))}d}'


def test_a_short_run_has_the_bits_of_the_long_one(tmp_path):
  found = []
  for count in (2, 101):
    config = tiny.only('basis', suite__num_tasks=count)
    tiny.train_alone(config, tmp_path / str(count))
    found.append(list(tiny.bits(tmp_path / str(count)).items()))
  assert [name for name, _ in found[0]] == ['permuted-00', 'permuted-01']
  assert [name for name, _ in found[1]] == ['permuted-000', 'permuted-001']
  for (_, short), (_, long_) in zip(*found):
    assert short == long_


def test_what_a_task_is_called_changes_no_number():
  suite = permuted(2, names=('left', 'rechts-é'))
  assert [task.name for task in suite.tasks] == ['left', 'rechts-é']
  assert keys(suite) == keys(permuted(2))
  assert keys(suites.make('datasets', sources=('digits',), names=('x',))
              ) == keys(suites.make('datasets', sources=('digits',)))


@pytest.mark.parametrize('options, text', [
    (dict(names=('a',)), 'suite.names has 1 name, but the suite has 2 tasks'),
    (dict(names='ab'), 'it must be a sequence of strings'),
    (dict(names=('a', 7)), 'it must be a sequence of strings'),
    (dict(names=('a', 'a')), "two tasks 'a'; give each a name of its own"),
    (dict(names=('a', 'A')), "two tasks 'A' and 'a'"),
    (dict(names=('a', 'b c')), "'b c' may hold only letters"),
    (dict(names=('a', '../b')), 'may hold only letters'),
    (dict(names=('a', 'b@c')), 'may hold only letters'),
    (dict(names=('a', '')), 'may hold only letters'),
    (dict(names=('a', 'x' * 101)), 'at most 100 bytes'),
    (dict(names=('a', 'é' * 51)), 'at most 100 bytes'),
    (dict(number_width=0), 'number_width is 0; it must be between 1 and 9'),
    (dict(number_width=2.), 'number_width is 2.0; it must be a whole number')])
def test_names_that_cannot_be(options, text):
  with pytest.raises(ValueError, match=text):
    permuted(2, **options)


def test_a_letter_and_its_accent_are_one_name():
  one, two = (unicodedata.normalize(form, 'é') for form in ('NFC', 'NFD'))
  assert names_lib.of_source(f'folder:/{one}') == names_lib.of_source(
      f'folder:/{two}') == one


# Names of sources.


def folder(root, seed):
  random = np.random.RandomState(seed)
  for i in range(24):
    file = root / 'xy'[i % 2] / f'{i}.png'
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.randint(0, 256, (8, 8), np.uint8)).save(file)
  return f'folder:{root}'


def test_folders_of_one_name_are_several_tasks(tmp_path):
  """And learned, stored and predicted as such."""
  given = [folder(tmp_path / name / 'images', i)
           for i, name in enumerate(('a', 'b/c', 'B/C2', 'b/d'))]
  make = lambda *chosen, **options: [t.name for t in suites.make(
      'datasets', sources=chosen, image_shape=(8, 8, 1), **options).tasks]
  assert make(*given[:2]) == ['a-images', 'c-images']
  assert make(*given) == ['a-images', 'c-images', 'C2-images', 'd-images']
  assert make(*given[:2], names=('left', 'right')) == ['left', 'right']
  assert make(f'left={given[0]}', f'right={given[1]}') == ['left', 'right']
  config = config_lib.from_dict(dict(
      seed=0, suite=dict(kind='datasets', sources=tuple(given[:2]),
                         image_shape=(8, 8, 1)),
      backbone=dict(model='lenet_300_100', outputs=2),
      phases=dict(m=dict(method='supsup', tasks=(0, 2), steps=1,
                         batch_size=8)), schedule=('m',)))
  assert tiny.learn(config, tmp_path / 'run')['names'] == [
      'a-images', 'c-images']


@pytest.mark.parametrize('given, expected', [
    (('folder:/a/images', 'folder:/b/images/'), ['a-images', 'b-images']),
    (('folder:/x/a/1/z', 'folder:/x/b/1/z'), ['a-1-z', 'b-1-z']),
    (('folder:/v1.2', 'folder:/v1.3'), ['v1.2', 'v1.3']),
    (('table:/a/t.csv', 'table:/b/t.csv', 'mnist'), ['a-t', 'b-t', 'mnist']),
    (('folder:/Cat', 'folder:/x/cat'), ['Cat', 'x-cat']),
    (('a/b', 'a-b', 'folder:/a-b'), ['a-b', 'a-b-2', 'a-b-3']),
    (('folder:/日本/絵 画', 'x y=mnist'), ['絵-画', 'x-y'])])
def test_names_that_tell_sources_apart(given, expected):
  found = names_lib.of_sources(given)
  assert found == expected
  suites.Suite('s', tuple(suites.Task(name, i, 'digits', (), None, 10)
                          for i, name in enumerate(found)))


@pytest.mark.parametrize('letter', 'xéж日')
def test_long_names_are_shortened_and_differ(letter):
  one, two = (f'folder:/{letter * 150}{end}' for end in 'ab')
  found = names_lib.of_sources((one, two))
  assert found[0] != found[1]
  assert all(len(name.encode()) <= 100 for name in found)
  suites.Task(found[0], 0, 'digits', (), None, 10)


def test_a_source_has_a_name_of_its_own():
  found = sources.load('mine=digits')
  assert found.name == 'mine=digits' and found is sources.load('mine=digits')
  assert found.version == sources.load('digits').version
  suite = suites.make('permuted', source='mine=digits', num_tasks=2)
  assert suite.name == 'permuted-mine'
  assert suite.tasks[0].source == 'mine=digits'


def test_a_named_source_has_the_constants_of_its_data(monkeypatch):
  monkeypatch.setitem(suites.STATISTICS, 'digits', ((.25,), (.5,)))
  task, _ = suites.make('permuted', source='mine=digits', num_tasks=2).tasks
  assert task.transforms[-1] == transforms.normalise(.25, .5)


def test_long_names_have_a_place_in_the_cache():
  long_ = ['x' * 300, 'x' * 301, 'é' * 300, '..', '.']
  paths = {cache.path(name, '1', 'train', '/c') for name in long_}
  assert len(paths) == 5
  for path in paths:
    assert path.parts[:2] == ('/', 'c') and '..' not in path.parts
    assert len(path.parts) == 5
    assert all(len(part.encode()) < 250 for part in path.parts)


# Sources and suites of one's own.


@pytest.fixture(name='own')
def _own(monkeypatch):
  monkeypatch.setattr(sources, 'REGISTRY', dict(sources.REGISTRY))
  monkeypatch.setattr(suites, 'SUITES', dict(suites.SUITES))
  yield
  sources._load.cache_clear()


def pairs(source, count=2, load=sources.load):
  """A suite as a user would write it."""
  classes = load(source).classes
  return suites.Suite('pairs', tuple(
      suites.Task(f'pair{i}', i, source, (transforms.permute(i),),
                  (2 * i, 2 * i + 1), 2)
      for i in range(min(count, classes // 2))))


def test_a_suite_of_ones_own_from_a_config(own, tmp_path):
  suites.register('pairs', pairs)
  config = config_lib.from_dict(dict(
      seed=0, suite=dict(kind='pairs', source='digits', count=2,
                         names=('one', 'two'), drop_shared=True),
      backbone=dict(model='lenet_300_100', outputs=2),
      phases=dict(m=dict(method='supsup', tasks=(0, 2), steps=1,
                         batch_size=8)), schedule=('m',)))
  assert tiny.learn(config, tmp_path / 'run')['names'] == ['one', 'two']
  with pytest.raises(ValueError, match="unknown option of suite 'pairs': 'cont'"
                     ' .did you mean: count'):
    suites.make('pairs', source='digits', cont=3)
  with pytest.raises(ValueError, match="suite 'pairs' needs source"):
    suites.make('pairs')


def test_what_is_registered_again_is_the_new_one(own):
  for seed in range(2):
    sources.register('toy', functools.partial(toy, 'toy', seed))
    np.testing.assert_array_equal(sources.load('toy').train.images,
                                  toy('toy', seed).train.images)
    assert sources.load('mine=toy').version == toy('toy', seed).version
    suites.register('mine', functools.partial(pairs, count=1 + seed))
    assert len(suites.make('mine', source='toy').tasks) == 1 + seed
    suite = suites.make('permuted', source='toy', num_tasks=2)
    assert suite.tasks[0].classes == 6


def test_functions_that_make_no_suite(own):
  suites.register('none', lambda: None)
  with pytest.raises(ValueError, match="suite 'none' returned a NoneType"):
    suites.make('none')
  with pytest.raises(ValueError, match='needs a function that returns a Suite'):
    suites.register('none', 7)


def test_a_refused_name_spoils_nothing(own):
  with pytest.raises(ValueError, match=r'register\(7, ...\) needs a name'):
    sources.register(7, lambda: toy('toy'))
  with pytest.raises(FileNotFoundError, match='Known here: .*digits'):
    sources.load('diigits', tfds_dir='/nowhere')


def test_options_may_be_numbers_of_numpy(own):
  suite = permuted(np.int64(2), seed=np.int32(1), image_shape=np.array(
      [4, 4, 1]).tolist(), normalise=(np.float32(.5), np.float64(.5)))
  assert [t.transforms[1]['seed'] for t in suite.tasks] == [1, 2]
  json.dumps([transforms.to_json(t.transforms) for t in suite.tasks])
  split = suites.make('split', source='toy', load=toy,
                      classes_per_task=np.int64(2), num_tasks=np.uint8(3))
  json.dumps([task.labels for task in split.tasks])
  rotated = suites.make('rotated', source='toy', load=toy,
                        num_tasks=np.int64(4), order_seed=np.int64(0))
  json.dumps([transforms.to_json(t.transforms) for t in rotated.tasks])
