"""What users register: it replaces, it is refused, it is found again."""

import dataclasses
import functools
import hashlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_jax
from mtl_jax import impressions
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import registry
from mtl_jax.config import files
from mtl_jax.methods import base
from mtl_jax.methods import dedicated
from mtl_jax.models import mlp


def made_of(value):
  return lambda: value


@pytest.fixture(name='known')
def _known():
  return registry.Registry('thing', {'first': made_of(1)})


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
  """What a test registers is gone after it."""
  for table in (methods.METHODS, models.MODELS):
    monkeypatch.setattr(table, '_known', dict(table._known))
  monkeypatch.setattr(methods, '_OPTIONS', dict(methods._OPTIONS))
  yield
  methods.of_options.cache_clear()
  models._make.cache_clear()


def test_a_registry_is_a_mapping(known):
  known.register('second', made_of(2))
  assert list(known) == ['first', 'second'] and len(known) == 2
  assert 'second' in known and 'third' not in known and 3 not in known
  assert known['second']() == 2
  with pytest.raises(ValueError, match=(
      r"unknown thing 'secnd' \(did you mean: second\?\); known: first, seco")):
    known['secnd']
  with pytest.raises(TypeError):
    known['third'] = made_of(3)


def test_the_second_of_one_name_takes_the_place_of_the_first(known):
  cleared = []
  made = functools.cache(lambda name: known[name]())
  known.on_change(made.cache_clear)
  known.on_change(lambda: cleared.append(made.cache_info().currsize))
  assert made('first') == 1
  known.register('first', made_of(2))
  assert made('first') == 2 and cleared == [0]
  assert list(known) == ['first']


@pytest.mark.parametrize('name', ['', 'a b', 'a/b', '../a', '.a', '-a', 3, None,
                                  'a\n', ('a',)])
def test_names_that_could_not_stand_in_a_config(known, name):
  with pytest.raises(ValueError, match='a name has letters, digits, _, . and'):
    known.register(name, made_of(1))
  assert list(known) == ['first']


@pytest.mark.parametrize('value', [3, None, 'a', base.Method])
def test_only_functions_are_registered(known, value):
  if callable(value):
    return known.register('a', value)
  with pytest.raises(ValueError, match=f"'a': {value!r} cannot be called"):
    known.register('a', value)
  assert 'a' not in known


# Where something comes from.


def test_the_packages_own_functions_have_no_origin():
  for table, module in ((methods.METHODS, methods), (models.MODELS, models)):
    shipped = {name: table[name] for name in table
               if table[name].__module__.startswith(module.__name__)}
    assert len(shipped) >= 6
    for name, function in shipped.items():
      assert registry.origin(function) is None, name


def test_a_function_of_ones_own_names_its_file():
  with open(__file__, 'rb') as file:
    digest = hashlib.sha256(file.read()).hexdigest()
  wanted = {'file': 'test_registry.py', 'sha256': digest}
  assert registry.origin(made_of) == wanted
  assert registry.origin(functools.partial(made_of, 1)) == wanted
  assert registry.origin(functools.partial(dedicated.make, None)) is None


def test_what_has_no_file_names_its_module():
  space = {}
  exec('def f(): pass', space)  # pylint: disable=exec-used
  assert registry.origin(space['f'])['sha256'] == ''
  assert registry.origin(print) == {'file': 'builtins', 'sha256': ''}


# Plugins.


PLUGIN = '''
import mtl_jax
from mtl_jax.methods import dedicated

def mine(rank: int = 2):
  return dedicated.dedicated((f'.*{rank}.*',))

mtl_jax.methods.register('mine', mine)
'''


def test_a_plugin_registers_and_is_the_origin(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(PLUGIN)
  for given in (path, str(path), [path], (str(path),)):
    registry.load_plugins(given)
  assert methods.options_of('mine', {'rank': 3}).rank == 3
  assert registry.origin(methods.METHODS['mine']) == {
      'file': 'mine.py',
      'sha256': hashlib.sha256(path.read_bytes()).hexdigest()}
  path.write_text(PLUGIN.replace('rank: int = 2', 'size: int = 4'))
  registry.load_plugins(path)
  assert methods.options_of('mine').size == 4


def test_plugins_of_one_name_are_two(tmp_path):
  for folder, name in (('a', 'one'), ('b', 'two')):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / 'mine.py').write_text(
        PLUGIN.replace("'mine'", f"'{name}'"))
  registry.load_plugins([tmp_path / 'a/mine.py', tmp_path / 'b/mine.py'])
  assert {'one', 'two'} <= set(methods.METHODS)
  assert (methods.METHODS['one'].__module__
          != methods.METHODS['two'].__module__)


REGISTERS = {
    'method': PLUGIN,
    'model': 'import mtl_jax\nmtl_jax.models.register("twice", lambda n: n)',
    'source': ('from mtl_jax.data import sources\n'
               'sources.register("twice", lambda: None)'),
    'suite': ('from mtl_jax.data import suites\n'
              'suites.register("twice", lambda: None)')}


@pytest.mark.parametrize('kind', REGISTERS)
def test_two_plugins_that_register_the_same_name(tmp_path, kind):
  """Their order would decide; the same file twice is no question."""
  one, two = tmp_path / 'one.py', tmp_path / 'two.py'
  for path in (one, two):
    path.write_text(REGISTERS[kind])
  with pytest.raises(ValueError, match=(
      f'two.py failed: .*one.py registers the {kind} .* too; give one of')):
    registry.load_plugins([one, two])
  registry.load_plugins([one, one])
  registry.load_plugins(two)  # another call: the new one replaces the old


def test_no_plugins():
  registry.load_plugins(None)
  registry.load_plugins([])


@pytest.mark.parametrize('name, text, message', [
    ('gone.py', None, 'plugins: there is no file .*gone.py'),
    ('folder', None, 'plugins: there is no file .*folder'),
    ('mine.txt', PLUGIN, 'plugins: .*mine.txt is not a Python file'),
    ('mine.py', '1 / 0', 'plugins: .*mine.py failed: ZeroDivisionError: div'),
    ('mine.py', 'def f(:', 'plugins: .*mine.py failed: SyntaxError: '),
    ('mine.py', "import mtl_jax\nmtl_jax.methods.register('a b', print)",
     "mine.py failed: ValueError: method 'a b': a name has letters"),
    ('mine.py', 'raise SystemExit(3)', 'mine.py failed: SystemExit: 3')])
def test_plugins_that_fail(tmp_path, name, text, message):
  (tmp_path / 'folder').mkdir()
  if text is not None:
    (tmp_path / name).write_text(text)
  before = set(sys.modules)
  with pytest.raises(ValueError, match=message):
    registry.load_plugins(tmp_path / name)
  assert not [m for m in set(sys.modules) - before if 'plugin' in m]


# Methods.


BACKBONE = {'kernel': jnp.ones((2, 3)), 'bias': jnp.zeros(3)}
ROUTE = methods.Route(3)


def shift(by: float = 1., leaves='kernel'):
  """A method that adds a number that it learns."""
  def init(key, backbone, shared, route):
    del key, backbone, shared, route
    return {'by': jnp.float32(by)}

  def bind(backbone, trainable, shared, route):
    del shared, route
    return backbone | {leaves: backbone[leaves] + trainable['by']}

  def commit(backbone, trainable, shared, route):
    del backbone, route
    return impressions.Impression(parts={'shift': trainable}), shared

  def materialise(backbone, impression, shared):
    return bind(backbone, impression.parts['shift'], shared, None)

  return methods.Method(init, bind, commit, materialise)


def test_a_method_takes_its_keywords_as_options():
  assert mtl_jax.methods is methods
  methods.register('shift', shift)
  method = methods.make('shift', by=np.float32(2))
  trainable = method.init(jax.random.key(0), BACKBONE, {}, ROUTE)
  found = method.bind(BACKBONE, trainable, {}, ROUTE)
  np.testing.assert_array_equal(found['kernel'], np.full((2, 3), 3.))
  impression, _ = method.commit(BACKBONE, trainable, {}, ROUTE)
  np.testing.assert_array_equal(
      method.materialise(BACKBONE, impression, {})['kernel'], found['kernel'])
  for options, text in (
      ({'bye': 1.}, r'key method shift: option bye \(did you mean: by\?\)'),
      ({'by': 'x'}, "shift: option by is 'x'; it must be a number")):
    with pytest.raises(ValueError, match=text):
      methods.make('shift', **options)


def test_a_method_takes_its_options_as_one_object():
  @dataclasses.dataclass(frozen=True)
  class Options:
    by: float = 1.

    def __post_init__(self):
      if self.by < 0:
        raise ValueError(f'by is {self.by}; it must not be negative')
  methods.register('shift', lambda options: shift(options.by), Options)
  made = methods.options_of('shift', {'by': 2})
  assert isinstance(made, Options) and (made.by, made.head) == (2, None)
  assert methods.make('shift', by=2) is methods.of_options('shift', made)
  with pytest.raises(ValueError, match='by is -1.0; it must not be neg'):
    methods.make('shift', by=-1)


def test_a_method_registered_again_is_the_new_one():
  methods.register('shift', shift)
  old = methods.make('shift', by=2.)
  assert methods.make('shift', by=2.) is old
  methods.register('shift', lambda rank=1: shift(float(rank)))
  with pytest.raises(ValueError, match='unknown key method shift: option by'):
    methods.make('shift', by=2.)
  assert methods.make('shift', rank=2) is not old
  methods.register('shift', shift)
  assert methods.make('shift', by=2.) is not old


def test_a_method_that_is_refused_leaves_the_old_one():
  methods.register('shift', shift)
  with pytest.raises(ValueError, match='shift: the factory takes .*options'):
    methods.register('shift', lambda **options: None)
  assert methods.METHODS['shift'] is shift
  assert methods.options_of('shift').by == 1.


# Models.


def test_a_model_registered_again_is_the_new_one():
  def sized(width):
    return lambda outputs, depth=1: models.from_linen(
        mlp.MLP((width,) * depth + (outputs,)))
  models.register('sized', sized(4))
  old = models.make('sized', 2, depth=2)
  assert models.make('sized', 2, depth=2) is old
  models.register('sized', sized(5))
  for depth in (1, 2):
    params, _ = models.make('sized', 2, depth=depth).init(
        jax.random.key(0), (3,))
    assert params['Dense_0']['kernel'].shape == (3, 5)
  assert old.init(jax.random.key(0), (3,))[0]['Dense_0']['kernel'].shape == (
      3, 4)


@pytest.mark.parametrize('name, factory, text', [
    ('a/b', models.from_linen, "model 'a/b': a name has letters"),
    ('a', mlp.MLP((2,)), "model 'a': .* cannot be called; register a function"),
    ('a', None, "model 'a': None cannot be called")])
def test_models_that_are_refused(name, factory, text):
  if isinstance(factory, mlp.MLP):
    factory = dataclasses.asdict(factory)
  with pytest.raises(ValueError, match=text):
    models.register(name, factory)


@pytest.mark.parametrize('words', [
    'import helper_of_mine', 'from . import helper_of_mine'])
def test_a_plugin_that_imports_a_file_beside_it(tmp_path, words, monkeypatch):
  (tmp_path / 'helper_of_mine.py').write_text('rank = 4\n')
  (tmp_path / 'mine.py').write_text(words)
  for read, path in ((registry.load_plugins, tmp_path / 'mine.py'),
                     (files.load, str(tmp_path / 'mine.py'))):
    with pytest.raises(ValueError, match='mine.py failed: .*start Python with '
                       f'PYTHONPATH={tmp_path}$'):
      read(path)
  # The remedy.
  (tmp_path / 'mine.py').write_text('import helper_of_mine')
  monkeypatch.syspath_prepend(tmp_path)
  registry.load_plugins(tmp_path / 'mine.py')
  del sys.modules['helper_of_mine']


def test_other_missing_modules_have_no_such_remedy(tmp_path):
  (tmp_path / 'mine.py').write_text('import no_such_module')
  with pytest.raises(ValueError, match="No module named 'no_such_module'$"):
    registry.load_plugins(tmp_path / 'mine.py')
  with pytest.raises(ValueError, match="plugins: the path is ''; give"):
    registry.load_plugins('')
