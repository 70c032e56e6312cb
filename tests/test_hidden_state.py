"""What is registered again under its name is what a session gets from then on.

As in a notebook: cells are run again, with other code under the same names.
"""

import builtins
import os
import sys

import flax.linen as nn
import numpy as np
import pytest
import tiny
from PIL import Image

from mtl_jax import methods
from mtl_jax import models
from mtl_jax import registry
from mtl_jax.config import files
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.evolution import spaces
from mtl_jax.methods import dedicated
from mtl_jax.serving import system as system_lib


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
  """What a test registers is gone after it."""
  for table in (methods.METHODS, models.MODELS):
    monkeypatch.setattr(table, '_known', dict(table._known))
  monkeypatch.setattr(methods, '_OPTIONS', dict(methods._OPTIONS))
  monkeypatch.setattr(sources, 'REGISTRY', dict(sources.REGISTRY))
  monkeypatch.setattr(suites, 'SUITES', dict(suites.SUITES))
  yield
  methods.of_options.cache_clear()
  models._make.cache_clear()
  sources._load.cache_clear()


class Dense(nn.Module):
  """One layer, whose outputs are multiplied."""
  outputs: int
  factor: float

  @nn.compact
  def __call__(self, x):
    return self.factor * nn.Dense(self.outputs, use_bias=False)(
        x.reshape(len(x), -1))


def images(seed):
  labels = np.arange(40) % 2
  drawn = np.random.RandomState(seed).randint(0, 156, (40, 4, 4, 1))
  return sources.from_arrays('mine', (
      drawn + 99 * labels[:, None, None, None]).astype(np.uint8), labels)


def learn(folder):
  """Runs one config, made of nothing but names; what it left."""
  config = tiny.make(
      'few', suite={'kind': 'mine'}, backbone={'model': 'mine', 'outputs': 2,
                                               'init': 'default'},
      phases={'only': dict(method='mine', tasks=(0, 1), steps=2, batch_size=8,
                           learning_rate=.1)}, schedule=('only',),
      matrix='final')
  tiny.learn(config, folder)
  system = system_lib.load(folder)
  name, = system.tasks
  x = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1)
  return np.asarray(system.predict(x, task=name)), system


def register(factor=1., seed=0, patterns=('.*',), turned=False):
  models.register('mine', lambda outputs: models.from_linen(
      Dense(outputs, factor)))
  sources.register('mine', lambda: images(seed))
  methods.register('mine', lambda: dedicated.dedicated(patterns))
  kind = 'rotated' if turned else 'permuted'
  suites.register('mine', lambda: suites.make(kind, source='mine',
                                              num_tasks=2))


def test_the_same_names_again_mean_what_they_say_now(tmp_path):
  register()
  first, system = learn(tmp_path / 'first')
  found = {}
  for i, changes in enumerate((dict(factor=2.), dict(seed=1),
                               dict(turned=True))):
    register(**changes)
    found[str(changes)], _ = learn(tmp_path / f'{i}')
  register()
  again, _ = learn(tmp_path / 'again')
  assert np.array_equal(first, again)
  for name, other in found.items():
    assert not np.array_equal(first, other), name
  # What was loaded before keeps what it was loaded with.
  x = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1)
  register(factor=5.)
  assert np.array_equal(system.predict(x, task=system.tasks[0]), first)


def test_a_method_again(tmp_path):
  register()
  one = methods.make('mine')
  register(patterns=('.*bias',))
  assert methods.make('mine') is not one
  with pytest.raises(ValueError, match="pattern '.*bias' matches no leaf"):
    learn(tmp_path / 'run')


def test_a_source_whose_files_have_changed_is_read_again(tmp_path):
  table = tmp_path / 'numbers.csv'

  def write(folder, value, count=4):
    for name in ('a', 'b'):
      (folder / name).mkdir(parents=True, exist_ok=True)
      for i in range(count):
        pixels = np.full((4, 4), value + i + 100 * (name == 'b'), np.uint8)
        Image.fromarray(pixels).save(folder / name / f'{i}.png')
  rows = [f'{i},{i % 2}' for i in range(20)]
  write(tmp_path / 'images', 1)
  table.write_text('\n'.join(rows) + '\n')
  names = (f'folder:{tmp_path}/images', f'own=folder:{tmp_path}/images@2x2',
           f'table:{table}')
  before = [sources.load(name) for name in names]
  assert [sources.load(name) for name in names][0] is before[0]
  write(tmp_path / 'images', 31)
  table.write_text('\n'.join(rows) + '\n99,1\n')
  for name, old in zip(names, before):
    assert sources.load(name).version != old.version, name


def test_a_space_of_the_same_name_is_the_one_that_is_there(monkeypatch):
  one = spaces.make('mu2net_ti0')
  monkeypatch.setitem(spaces.SPACES, 'mu2net_ti0',
                      one.replace(learning_rate=.5))
  assert spaces.make('mu2net_ti0')['learning_rate'].values == (.5,)


def test_a_file_that_is_edited_later_is_not_what_was_registered(tmp_path):
  path = tmp_path / 'mine.py'
  text = ('from mtl_jax import methods\nfrom mtl_jax.methods import dedicated\n'
          "methods.register('mine', lambda: dedicated.dedicated(('.*',)))\n")
  path.write_text(text)
  registry.load_plugins(path)
  before = methods.METHODS.origin('mine')
  path.write_text(text + '# Edited.\n')
  assert methods.METHODS.origin('mine') == before
  registry.load_plugins(path)
  assert methods.METHODS.origin('mine')['sha256'] != before['sha256']
  assert methods.METHODS.origin('supsup') is None


@pytest.mark.parametrize('link', [False, True])
def test_a_file_beside_it_that_is_edited_is_another_method(
    tmp_path, monkeypatch, link):
  path, tmp_path = tmp_path / 'link', tmp_path / f'pack-{link}'
  tmp_path.mkdir()
  path.symlink_to(tmp_path)
  for name in [name for name in sys.modules if name.startswith('beside_')]:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.syspath_prepend(path if link else tmp_path)
  plugin, first, last = (tmp_path / f'{name}.py' for name in (
      'beside_mine', 'beside_one', 'beside_pack/last'))
  last.parent.mkdir()
  (last.parent / '__init__.py').write_text('')
  plugin.write_text(
      'from beside_one import make\nfrom mtl_jax import methods\n'
      "methods.register('mine', lambda: make())\n")
  first.write_text('def make():\n  from beside_pack import last\n'
                   '  return last.make()\n')
  last.write_text('from mtl_jax.methods import dedicated\n\n'
                  "def make():\n  return dedicated.dedicated(('.*',))\n")
  (tmp_path / 'beside_other.py').write_text('# Nothing imports it.\n')

  def origin():
    registry.load_plugins(plugin)
    return methods.METHODS.origin('mine')
  then = origin()
  assert list(then['beside']) == ['beside_one.py', 'beside_pack/__init__.py',
                                  'beside_pack/last.py']
  assert methods.make('mine').facts() == {}
  last.write_text(last.read_text().replace(
      "('.*',))", "('.*',))._replace(facts=lambda: {'edited': True})"))
  now = origin()
  assert methods.make('mine').facts() == {'edited': True}
  assert registry.changed(then, now) == (
      'beside_pack/last.py, which beside_mine.py imports, is another file now')
  # As earlier versions recorded it.
  assert not registry.changed({key: then[key] for key in (
      'file', 'sha256')}, now)
  assert methods.METHODS.origin('supsup') is None


@pytest.mark.parametrize('read', [registry.load_plugins, files.load])
def test_an_edit_that_keeps_size_and_time_is_seen(
    tmp_path, monkeypatch, read):
  """As after a copy that keeps times, or with a clock that was set back."""
  monkeypatch.setattr(sys, 'dont_write_bytecode', False)
  path, seen = tmp_path / 'mine.py', []
  monkeypatch.setattr(builtins, 'seen', seen, raising=False)
  for value in (1, 2):
    path.write_text(f'seen.append({value})\nget_config = dict\n')
    os.utime(path, (1000, 1000))
    read(str(path))
  assert seen == [1, 2]


BESIDE = """
import os, pathlib, sys
from mtl_jax import registry
folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder))
pack = folder / 'beside_kept'
pack.mkdir(exist_ok=True)
(folder / 'mine.py').write_text(
    'import beside_kept\\nfrom beside_kept import one\\ndef late():\\n'
    '  from beside_kept import two\\n  return two.VALUE\\n')
for value in sys.argv[2:]:
  for file in (pack / '__init__.py', pack / 'one.py', pack / 'two.py'):
    file.write_text(f'VALUE = {value}\\n')
    os.utime(file, (1000, 1000))
  registry.load_plugins(folder / 'mine.py')
  module, = [m for name, m in sys.modules.items() if '_plugin_mine_' in name]
  print(module.beside_kept.VALUE, module.one.VALUE, module.late())
"""


@pytest.mark.parametrize('processes', ['12', '1 2'])
def test_an_edit_beside_it_that_keeps_size_and_time_is_seen(
    tmp_path, processes):
  """The bytecode of a file that a file imports lies on the disk."""
  said = ''
  for values in processes.split():
    done = tiny.call([sys.executable, '-c', BESIDE, str(tmp_path), *values],
                     PYTHONDONTWRITEBYTECODE='')
    assert done.returncode == 0, done.stderr
    said += done.stdout
  assert said == '1 1 1\n2 2 2\n'


def test_a_suite_that_is_edited_between_two_starts(tmp_path):
  def start(**options):
    suites.register('mine', lambda: suites.make(
        'split', source='mine', **{'groups': ((0, 1),)} | options))
    return learn(tmp_path / 'run')
  register()
  start()
  before = tiny.files(tmp_path / 'run')
  for changed in ({'normalise': (0., 1.)}, {'groups': ((1, 0),)}):
    with pytest.raises(ValueError, match='task .* has another source, other '
                       'labels or other transforms now than when'):
      start(**changed)
  assert tiny.files(tmp_path / 'run') == before
  start()  # the remedy
