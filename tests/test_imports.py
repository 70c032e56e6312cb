"""What an import brings with it, and which way imports point."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(p.relative_to(ROOT).as_posix()
               for p in (ROOT / 'mtl_jax').rglob('*.py'))
CONFIGS = sorted(p.relative_to(ROOT).as_posix()
                 for p in (ROOT / 'configs').glob('*.py'))
EXPERIMENTS = sorted(p.relative_to(ROOT).as_posix()
                     for p in (ROOT / 'experiments').rglob('*.py'))
HEAVY = ('absl', 'chex', 'flax', 'jinja2', 'matplotlib',
         'ml_collections', 'optax', 'orbax', 'PIL', 'rich', 'safetensors',
         'sklearn', 'tensorboardX', 'tensorflow', 'tensorflow_datasets',
         'torch', 'wandb')


def imported(path):
  """Full names of all modules and names that a file imports, anywhere."""
  names = set()
  for node in ast.walk(ast.parse((ROOT / path).read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}: relative import'
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def importers(package, files=tuple(FILES)):
  """The files that import a package."""
  return {path for path in files if any(
      name == package or name.startswith(f'{package}.')
      for name in imported(path))}


def mentions(words):
  """The files in whose code (not comments or strings) a name occurs."""
  return {path for path in FILES
          for node in ast.walk(ast.parse((ROOT / path).read_text()))
          if getattr(node, 'attr', getattr(node, 'id', None)) in words}


def loaded(statement, names):
  """Which of the modules a fresh interpreter has after a statement."""
  code = f'{statement}; import sys; print(*(n for n in {names} if n in '
  found = subprocess.run([sys.executable, '-c', f'{code}sys.modules))'],
                         capture_output=True, text=True, check=True, cwd=ROOT)
  return set(found.stdout.split())


def test_the_core_needs_jax_alone():
  assert loaded('import mtl_jax', HEAVY + ('jax',)) == {'jax'}


def test_the_probe_for_loaded_modules_can_see_them():
  assert loaded('import rich', HEAVY) == {'rich'}


@pytest.mark.parametrize('package, homes', [
    ('orbax', {'mtl_jax/storage/checkpoint.py'}),
    ('fsspec', {'mtl_jax/storage/bucket.py'}),
    ('safetensors', {'mtl_jax/storage/tensor_file.py'}),
    ('ml_collections', set()),  # configs alone
    ('absl', set()),
])
def test_one_outside_system_behind_each_file(package, homes):
  assert importers(package) == homes


def test_tensorflow_datasets_is_known_to_data_alone():
  homes = importers('tensorflow_datasets')
  assert homes and all(path.startswith('mtl_jax/data/') for path in homes)
  assert not importers('tensorflow')


def test_pmap_and_meshes_stand_in_parallel_alone():
  words = {'pmap', 'make_mesh', 'Mesh', 'NamedSharding', 'PartitionSpec',
           'shard_map', 'multihost_utils', 'process_index', 'device_count'}
  parallel = 'mtl_jax/parallel/'
  # Beside calls of parallel's own functions of the same name.
  elsewhere = {path for path in mentions(words - {'device_count'})
               if not path.startswith(parallel)}
  assert not elsewhere
  assert f'{parallel}__init__.py' in mentions({'pmap'}) & mentions({'Mesh'})


# From the bottom up. A part of mtl_jax, a module or a package, may import the
# layers below its own, and a package its own modules.
LAYERS = (
    ('host', 'json_files', 'messages', 'npz', '_version', '_top_k', 'aliases',
     'neighbours', 'tracing'),
    ('trees',),
    ('registry', 'fields', 'fans', '_mask_leaves'),
    ('masks',),
    ('impressions', 'parallel'),
    ('methods', 'models', 'data'),
    ('inference', 'steps'),
    ('evolution',),
    ('config', 'storage'),
    ('serving',),
    ('training',),
    ('evaluation',),
    ('report', 'validate'),
    ('experiment',),
    ('learning',),
    ('lifecycle',),
    ('commands',),
    ('main', 'verify', '__main__'),
)
# `mtl_jax.load` reaches up when it is called, not when it is imported.
FACADE = {'mtl_jax/__init__.py': {'lifecycle', 'serving'}}


def part_of(path):
  return path.split('/')[1].removesuffix('.py')


def level_of(part):
  return next(i for i, layer in enumerate(LAYERS) if part in layer)


def test_every_part_has_its_layer():
  parts = {part_of(path) for path in FILES} - {'__init__'}
  assert parts == {part for layer in LAYERS for part in layer}


def arrows(path):
  """The parts that a file imports."""
  parts = set()
  for name in imported(path):
    words = name.split('.')
    if words[0] == 'mtl_jax':
      known = {part_of(other) for other in FILES} - {'__init__'}
      parts |= {words[1]} & known
  return parts


@pytest.mark.parametrize('path', FILES)
def test_imports_point_down_only(path):
  if path in FACADE:
    return
  own = part_of(path)
  for part in arrows(path) - {own}:
    assert level_of(part) < level_of(own), f'{path} imports {part}'


def test_the_facade_imports_the_core_alone():
  core = {'trees', 'masks', 'impressions', '_version'}
  assert arrows('mtl_jax/__init__.py') - core == FACADE['mtl_jax/__init__.py']


def test_modules_of_one_room_import_each_other_without_a_cycle():
  graph = {}
  names = {path.removesuffix('.py').replace('/', '.'): path for path in FILES}
  for name, path in names.items():
    graph[name] = {n for n in imported(path) if n in names}
  done, open_ = set(), []

  def visit(name):
    assert name not in open_, ' -> '.join([*open_, name])
    if name not in done:
      open_.append(name)
      for other in graph[name]:
        visit(other)
      done.add(open_.pop())
  for name in graph:
    visit(name)


def test_nothing_is_typed_any_to_hide_an_import():
  for path in FILES:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
      if isinstance(node, ast.arg) and node.arg in (
          'run', 'running', 'run_', 'system'):
        typed = ast.unparse(node.annotation) if node.annotation else ''
        assert typed != 'Any', f'{path}:{node.lineno}: {node.arg}: Any'


@pytest.mark.parametrize('path, never', [
    ('mtl_jax/methods', 'mtl_jax.models'),
    ('mtl_jax/models', 'mtl_jax.methods'),
    ('mtl_jax/methods', 'mtl_jax.data'),
    ('mtl_jax/data', 'mtl_jax.methods'),
    ('mtl_jax/methods', 'flax'),
    ('mtl_jax/inference', 'mtl_jax.methods'),
    ('mtl_jax/inference', 'mtl_jax.models'),
    ('mtl_jax/inference', 'mtl_jax.data'),
    ('mtl_jax/inference', 'flax'),
    ('mtl_jax/inference', 'optax'),
    ('mtl_jax/steps', 'mtl_jax.models'),
    ('mtl_jax/steps', 'mtl_jax.methods'),
    ('mtl_jax/steps', 'mtl_jax.parallel'),
    ('mtl_jax/evaluation/sparse.py', 'mtl_jax'),
    ('mtl_jax/evaluation/metrics.py', 'jax'),
    ('mtl_jax/evaluation/metrics.py', 'mtl_jax.config'),
    ('mtl_jax/evaluation/metrics.py', 'mtl_jax.serving'),
    ('mtl_jax/evaluation/metrics.py', 'mtl_jax.training'),
])
def test_what_must_not_know_of_each_other(path, never):
  files = tuple(p for p in FILES if p == path or p.startswith(f'{path}/'))
  assert files, f'{path} is gone'
  assert not importers(never, files)


def test_what_knows_of_devices_knows_nothing_else_of_the_library():
  for path in FILES:
    if path.startswith('mtl_jax/parallel/'):
      assert arrows(path) <= {'parallel'}, path


METHODS = ('supsup', 'impresslearn', 'subnetworks', 'munet', 'dedicated',
           'joint', 'part', 'batche', 'psp')
# Where a method may be known by name.
AT_HOME = ('mtl_jax/methods/', 'mtl_jax/evolution/', 'mtl_jax/report/')
# What has the word of a method and means something else.
OTHER_WORDS = {
    # Values of a phase's `together`.
    ('mtl_jax/config/config.py', 'joint'), ('mtl_jax/config/phase.py', 'joint'),
    # Fields of results: bytes of a dense network, components of a search.
    ('mtl_jax/evaluation/capacity.py', 'dedicated'),
    ('mtl_jax/training/commit.py', 'dedicated'),
    ('mtl_jax/serving/merging.py', 'dedicated'),
    ('mtl_jax/training/search/state.py', 'part'),
}


def words_of_methods(source):
  """The names of methods that stand as strings in a module's code."""
  tree = ast.parse(source)
  return {node.value for node in ast.walk(tree)
          if isinstance(node, ast.Constant) and node.value in METHODS}


def test_general_code_knows_no_method_by_name():
  found = {(path, word) for path in FILES if not path.startswith(AT_HOME)
           for word in words_of_methods((ROOT / path).read_text())}
  assert found == OTHER_WORDS
  # Nor by its module, with which `isinstance` could ask for it.
  homes = {f'mtl_jax.methods.{name}' for name in METHODS}
  importing = {path for path in FILES if not path.startswith(AT_HOME)
               and any(importers(home, (path,)) for home in homes)}
  assert not importing


def test_the_probe_for_names_of_methods_can_see_them():
  assert words_of_methods("if method == 'part': pass") == {'part'}
  assert words_of_methods('x = {"supsup": 1}') == {'supsup'}
  assert words_of_methods("f'{x} of part'") == set()
  registered = (ROOT / 'mtl_jax/methods/__init__.py').read_text()
  assert words_of_methods(registered) == set(METHODS)
  assert registered.count('\nregister(') == len(METHODS)


def unbounded_caches(source):
  """Functions of a module that keep all that they ever gave.

  Those without parameters have one result.
  """
  return [node.name for node in ast.parse(source).body
          if isinstance(node, ast.FunctionDef) and node.args.args
          and {'functools.lru_cache(maxsize=None)', 'functools.cache',
               'functools.lru_cache(None)'} & set(
                   map(ast.unparse, node.decorator_list))]


def growing(source):
  """Names at the top of a module that a session could fill."""
  return [ast.unparse(node.targets[0] if isinstance(node, ast.Assign)
                      else node.target)
          for node in ast.parse(source).body
          if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value
          and ast.unparse(node.value) in (
              '{}', '[]', 'dict()', 'list()', 'set()',
              'weakref.WeakKeyDictionary()', 'weakref.WeakValueDictionary()')
          or isinstance(node, ast.Assign) and ast.unparse(
              node.value).startswith('collections.')]


def test_a_session_with_many_configs_does_not_grow():
  """And asks no cache by a name that may mean something else by now."""
  for path in FILES:
    found = unbounded_caches((ROOT / path).read_text())
    assert not found, f'{path}: {found} keep what they gave for ever'
  assert {(path, name) for path in FILES
          for name in growing((ROOT / path).read_text())} == {
              # Filled by `register` alone, which replaces.
              ('mtl_jax/methods/__init__.py', '_OPTIONS'),
              # By file beside a user's own that was run.
              ('mtl_jax/neighbours.py', '_SEEN')}


def test_the_probes_for_hidden_state_can_see_it():
  cached = '@functools.lru_cache(maxsize=None)\ndef f({}): pass'
  assert unbounded_caches(cached.format('name')) == ['f']
  assert unbounded_caches(cached.format('')) == []
  assert growing('x: dict[str, int] = {}\ny = 3\nz = []') == ['x', 'z']


@pytest.mark.parametrize('path', CONFIGS)
def test_configs_import_nothing_of_the_library(path):
  # It registers a source of its own.
  more = {'functools', 'mtl_jax.data.sources'}
  assert imported(path) <= {'ml_collections'} | (
      more if path == 'configs/subnetworks_less_data.py' else set())


def test_nothing_executable_is_read():
  assert not importers('pickle') | importers('marshal') | importers('dill')
  for path in FILES:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
      if isinstance(node, ast.keyword) and node.arg == 'allow_pickle':
        assert ast.literal_eval(node.value) is False, path


def test_one_reader_of_json():
  """It holds what it reads against a schema, and says where it stands."""
  homes = {path for path in (*FILES, *EXPERIMENTS) for node in ast.walk(
      ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Attribute)
           and node.attr in ('load', 'loads')
           and getattr(node.value, 'id', None) == 'json'}
  assert homes == {'mtl_jax/json_files.py'}
