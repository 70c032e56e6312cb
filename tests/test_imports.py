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
HEAVY = ('absl', 'chex', 'flax', 'jinja2', 'matplotlib',
         'ml_collections', 'optax', 'orbax', 'PIL', 'rich', 'sklearn',
         'tensorboardX', 'tensorflow', 'tensorflow_datasets', 'torch')


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
    ('orbax', {'mtl_jax/checkpoint.py'}),
    ('ml_collections', {'mtl_jax/main.py'}),
    ('absl', {'mtl_jax/main.py'}),
])
def test_one_outside_system_behind_each_file(package, homes):
  assert importers(package) == homes


def test_tensorflow_datasets_is_known_to_data_alone():
  homes = importers('tensorflow_datasets')
  assert homes and all(in_layer(path, ('mtl_jax/data',)) for path in homes)
  assert not importers('tensorflow')


def test_pmap_and_meshes_stand_in_parallel_alone():
  words = {'pmap', 'make_mesh', 'Mesh', 'NamedSharding', 'PartitionSpec',
           'shard_map', 'multihost_utils', 'process_index', 'device_count'}
  parallel = 'mtl_jax/parallel.py'
  # Beside calls of parallel's own functions of the same name.
  elsewhere = {path for path in mentions(words - {'device_count'})
               if path != parallel}
  assert not elsewhere
  assert parallel in mentions({'pmap'}) and parallel in mentions({'Mesh'})


# A layer may import those below it (and its own, unless it is flat).
LAYERS = (
    ('mtl_jax/trees.py', 'mtl_jax/exact_top_k.py', 'mtl_jax/host.py'),
    ('mtl_jax/masks.py',),
    ('mtl_jax/impressions.py', 'mtl_jax/hopfield.py', 'mtl_jax/paths.py',
     'mtl_jax/allocation.py'),
    ('mtl_jax/superposition.py', 'mtl_jax/methods', 'mtl_jax/models',
     'mtl_jax/data'),
    ('mtl_jax/identify.py',),
)


def in_layer(path, layer):
  return any(path == part or path.startswith(f'{part}/') for part in layer)


def modules_of(parts):
  return [part.removesuffix('.py').replace('/', '.') for part in parts]


@pytest.mark.parametrize('number', range(len(LAYERS)))
def test_imports_point_down_only(number):
  below = [m for layer in LAYERS[:number] for m in modules_of(layer)]
  for path in FILES:
    if not in_layer(path, LAYERS[number]):
      continue
    package = '.'.join(path.split('/')[:2])
    for name in imported(path):
      if name.startswith('mtl_jax'):
        assert any(name == ok or name.startswith(f'{ok}.')
                   for ok in (*below, package)), f'{path} imports {name}'


@pytest.mark.parametrize('path, never', [
    ('mtl_jax/methods', 'mtl_jax.models'),
    ('mtl_jax/models', 'mtl_jax.methods'),
    ('mtl_jax/methods', 'mtl_jax.data'),
    ('mtl_jax/data', 'mtl_jax.methods'),
    ('mtl_jax/methods', 'flax'),
    ('mtl_jax/superposition.py', 'mtl_jax.methods'),
    ('mtl_jax/superposition.py', 'mtl_jax.models'),
    ('mtl_jax/superposition.py', 'mtl_jax.data'),
    ('mtl_jax/identify.py', 'mtl_jax.methods'),
    ('mtl_jax/identify.py', 'mtl_jax.models'),
    ('mtl_jax/identify.py', 'mtl_jax.data'),
    ('mtl_jax/identify.py', 'flax'),
    ('mtl_jax/identify.py', 'optax'),
    ('mtl_jax/candidates.py', 'mtl_jax.system'),
    ('mtl_jax/steps.py', 'mtl_jax.models'),
    ('mtl_jax/steps.py', 'mtl_jax.methods'),
    ('mtl_jax/steps.py', 'mtl_jax.parallel'),
    ('mtl_jax/parallel.py', 'mtl_jax'),
    ('mtl_jax/metrics.py', 'mtl_jax'),
])
def test_what_must_not_know_of_each_other(path, never):
  files = tuple(p for p in FILES if in_layer(p, (path,)))
  assert files, f'{path} is gone'
  assert not importers(never, files)


def test_programs_are_imported_by_programs_alone():
  programs = {'main', 'train', 'experiment', 'evaluate', 'report', 'verify',
              'scenarios', 'stream', 'final', 'combined', 'capacity', 'checks',
              'search', 'search_children', 'search_paths', 'search_state'}
  allowed = {f'mtl_jax/{p}.py' for p in programs} | {'mtl_jax/commit.py'}
  for program in programs:
    assert importers(f'mtl_jax.{program}') <= allowed, program
  assert not importers('mtl_jax.main')


@pytest.mark.parametrize('path', CONFIGS)
def test_configs_import_nothing_of_the_library(path):
  assert imported(path) <= {'ml_collections'}


def test_nothing_executable_is_read():
  assert not importers('pickle') | importers('marshal') | importers('dill')
  for path in FILES:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
      if isinstance(node, ast.keyword) and node.arg == 'allow_pickle':
        assert ast.literal_eval(node.value) is False, path
