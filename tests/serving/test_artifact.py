"""A task as one file has the same logits to the bit, wherever it goes."""

import os
import sys

import numpy as np
import pytest
import tiny
import tiny_rounds
import tiny_search
import tiny_subnetworks

import mtl_jax
from mtl_jax import registry
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.data import sources
from mtl_jax.serving import artifact
from mtl_jax.serving import verification
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import tensor_file

EXAMPLES = [tiny.ROOT / 'examples' / f'{name}.py'
            for name in ('lora', 'packnet', 'piggyback')]


@pytest.fixture(name='system')
def _system(tmp_path):
  return mtl_jax.load(tiny.learned(tmp_path / 'run', 'few'))


@pytest.fixture(name='other')
def _other(tmp_path):
  """A system of the same two masks, and nothing else."""
  found = mtl_jax.load(tiny.learned(tmp_path / 'other', 'few'))
  found.delete('permuted-12')
  return found


def images(system, task, rows=5):
  metadata = checkpoint.load_metadata(system.workdir.task(task))
  return np.random.RandomState(1).randint(
      0, 256, (rows, *metadata['source_shape'])).astype(np.uint8)


def logits(system, task):
  return np.asarray(system.predict(images(system, task), task=task))


def assert_travels(system, task, path, plugins=None):
  """Its file alone gives the same bits, and is verified."""
  system.export(task, path, with_basis=True)
  alone = mtl_jax.load(path, plugins)
  np.testing.assert_array_equal(logits(alone, task), logits(system, task))
  found = verification.check(alone)
  assert not found.faults and not found.partly and task in alone


def test_masks_and_coefficients_travel(system, tmp_path):
  for task in ('permuted-00', 'permuted-12'):
    assert_travels(system, task, tmp_path / 'task.safetensors')


def test_a_mask_takes_a_bit_for_each_weight_and_8_kb(system, tmp_path):
  path = system.export('permuted-00', tmp_path / 'a')
  weights = trees.size(system.backbone.params)
  assert os.path.getsize(path) <= weights / 8 + 8000


def test_the_header_says_what_the_task_is(system, tmp_path):
  path = system.export('permuted-12', tmp_path / 'a', licence='CC0',
                       text='for tests')
  found = artifact.read(path)
  part = found.parts['permuted-12']
  assert (found.licence, found.text, found.task) == (
      'CC0', 'for tests', 'permuted-12')
  assert found.backbone == system.backbone.recipe
  assert part.metadata['method']['name'] == 'impresslearn'
  assert part.metadata['record']['accuracy']['test'] is not None
  assert part.metadata['transforms'] and part.metadata['versions']['jax']
  assert [name for name, _ in part.needs] == ['permuted-00']
  # And goes on saying it.
  system.export('permuted-12', path, with_basis=True, licence='CC0')
  other = mtl_jax.load(path)
  assert artifact.read(other.export('permuted-12', path)).licence == 'CC0'


@pytest.mark.parametrize('given, said', [
    (5, 'is 5; it must be a string'), (b'CC0', "is b'CC0'; it must be a strin"),
    (['CC0'], 'must be a string'), ('CC\ud800', 'that UTF-8 cannot represent')])
@pytest.mark.parametrize('name', ['licence', 'text'])
def test_texts_that_a_file_cannot_hold(system, tmp_path, name, given, said):
  for export in (system.export, system.export_network):
    with pytest.raises(ValueError, match=f'{name} .*{said}'):
      export('permuted-00', tmp_path / 'a.safetensors', **{name: given})
  assert not list(tmp_path.glob('*.safetensors'))


def test_texts_that_are_too_long_for_a_header(system, tmp_path):
  with pytest.raises(ValueError, match='cannot be written: .*too large.* give '
                                       'shorter texts, or fewer tasks'):
    system.export('permuted-00', tmp_path / 'a', text='x' * 11 ** 8)
  assert not list(tmp_path.glob('a*'))
  path = system.export('permuted-00', tmp_path / 'a', False, None, 'ä\0\n')
  assert artifact.read(path).text == 'ä\0\n'


def test_values_of_other_tasks_count_where_they_are_stored(system, other,
                                                           tmp_path):
  for name in ('mean', 'again'):  # the second refers to the first
    system.merge(['permuted-00', 'permuted-12'], name=name)
  said = system.record('again')['bytes']
  assert said['referenced'] > said['values']
  path = system.export('again', tmp_path / 'a')
  mtl_jax.import_task(tmp_path / 'other', path)
  found = mtl_jax.load(tmp_path / 'other')
  sizes = {leaf: a.nbytes for leaf, a in checkpoint.load(
      found.workdir.task('again'))[0].items() if leaf != 'probe'}
  assert found.record('again')['bytes'] == said | {
      'values': said['values'] + said['referenced'], 'referenced': 0,
      'total': sum(sizes.values())}


def test_an_import_changes_no_other_task(system, other, tmp_path):
  before = tiny.bits(tmp_path / 'other')
  path = system.export('permuted-12', tmp_path / 'a')
  name = mtl_jax.import_task(str(tmp_path / 'other'), str(path), name='mine')
  other = mtl_jax.load(tmp_path / 'other')
  assert name == 'mine' and before.items() < tiny.bits(
      tmp_path / 'other').items()
  np.testing.assert_array_equal(logits(other, 'mine'),
                                logits(system, 'permuted-12'))
  assert verification.check(other) == verification.Result(3, [], [])
  assert mtl_jax.import_task(tmp_path / 'other', path, 'mine') == 'mine'


@pytest.mark.slow
def test_a_run_goes_on_beside_an_imported_task(system, other, tmp_path):
  mtl_jax.import_task(tmp_path / 'other', system.export(
      'permuted-12', tmp_path / 'a'), 'mine')
  summary = tiny.learn(tiny.make('few'), tmp_path / 'other')
  assert summary['verified'] == {'ok': True, 'tasks': 4, 'faults': []}


def test_a_basis_is_found_under_another_name(system, other, tmp_path):
  other.rename('permuted-00', 'first')
  for with_basis in (False, True):
    path = system.export('permuted-12', tmp_path / 'a', with_basis)
    mtl_jax.import_task(tmp_path / 'other', path)
  assert other.tasks == ['first', 'permuted-01', 'permuted-12']
  np.testing.assert_array_equal(logits(other, 'permuted-12'),
                                logits(system, 'permuted-12'))


def test_a_missing_basis_is_named_with_what_helps(system, tmp_path):
  path = system.export('permuted-12', tmp_path / 'a')
  with pytest.raises(ValueError, match='permuted-12 needs the task permuted-00 '
                                       '.*with_basis=True'):
    mtl_jax.import_task(tmp_path / 'new', path)
  assert not (tmp_path / 'new').exists()
  with pytest.raises(ValueError, match=(
      r'/a holds the task permuted-12 without its heterogeneous basis of 1 '
      r'mask: that of the task permuted-00 \(\w+\). Export it with '
      r'with_basis=True \(--with_basis\) from the workdir where it was learned '
      r'\(suite permuted-digits\), or import it into a workdir that holds that '
      'task')) as alone:
    mtl_jax.load(path)
  assert 'mtl_jax-' not in str(alone.value)  # the folder of a loaded file
  # Both remedies.
  mtl_jax.import_task(tmp_path / 'new', system.export('permuted-00',
                                                      tmp_path / 'b'))
  mtl_jax.import_task(tmp_path / 'new', path)
  mtl_jax.import_task(tmp_path / 'newer', system.export(
      'permuted-12', path, with_basis=True))


def test_another_task_of_that_name_stays(system, other, tmp_path):
  (tmp_path / 'other' / 'plan.json').unlink()  # names are free then
  for old, new in (('permuted-00', 'x'), ('permuted-01', 'permuted-00'),
                   ('x', 'permuted-01')):
    other.rename(old, new)
  other.merge(['permuted-00', 'permuted-01'], how='union', name='more')
  other.delete('permuted-01')
  other.rename('more', 'permuted-01')
  before = tiny.bits(tmp_path / 'other')
  path = system.export('permuted-01', tmp_path / 'a')
  with pytest.raises(ValueError, match='another task permuted-01, which stays; '
                                       'give this one another name'):
    mtl_jax.import_task(tmp_path / 'other', path)
  path = system.export('permuted-12', tmp_path / 'a', with_basis=True)
  with pytest.raises(ValueError, match='another task permuted-00 than the one '
                                       'that permuted-12 relies on'):
    mtl_jax.import_task(tmp_path / 'other', path)
  assert tiny.bits(tmp_path / 'other') == before


def test_another_backbone_is_refused(system, other, tmp_path):
  path = system.export('permuted-01', tmp_path / 'a')
  kept = other.workdir.backbone
  json_records.write_json(kept, json_records.read_json(kept) | {
      'fingerprint': 'f' * 64})
  with pytest.raises(ValueError, match='was made on the backbone .* has .*its '
                                       'impression does not fit'):
    mtl_jax.import_task(tmp_path / 'other', path)
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'letter').write_text('dear')
  with pytest.raises(ValueError, match='neither a workdir nor empty'):
    mtl_jax.import_task(tmp_path / 'mine', path)


def test_a_backbone_from_a_file_is_named(system, tmp_path):
  path = system.export('permuted-01', tmp_path / 'a')
  arrays, header = tensor_file.read(path)
  header['backbone']['weights'] = 'big.npz'
  tensor_file.write(path, arrays, header)
  with pytest.raises(ValueError, match='made on the weights big.npz, which it '
                                       'does not hold'):
    mtl_jax.load(path)


@pytest.mark.parametrize('change, text', [
    (lambda h: h.update(format=9), 'has format 9; this version reads format 1'),
    (lambda h: h.pop('backbone'), "KeyError: 'backbone'"),
    (lambda h: h.update(task='other'), 'task other is not in it'),
    (lambda h: h['parts']['permuted-01']['metadata'].pop('method'),
     "its description lacks 'method'"),
    (lambda h: h['parts'].update({'../up': h['parts']['permuted-01']}),
     "'../up' is no name of a task"),
    (lambda h: h['parts']['permuted-01']['metadata'].update(
        source_shape=[1 << 20, 1 << 20]), 'cannot be meant'),
    (lambda h: h['parts']['permuted-01'].update(needs=[['/etc', 'x']]),
     "'/etc' is no name"),
    (lambda h: h.update(parts=[]), 'AttributeError')])
def test_forged_headers_are_refused(system, tmp_path, change, text):
  path = system.export('permuted-01', tmp_path / 'a')
  arrays, header = tensor_file.read(path)
  change(header)
  tensor_file.write(path, arrays, header)
  with pytest.raises(ValueError, match=text):
    mtl_jax.import_task(tmp_path / 'new', path)
  assert not (tmp_path / 'new').exists()


def test_forged_arrays_are_a_fault_of_verify(system, tmp_path):
  path = system.export('permuted-01', tmp_path / 'a')
  arrays, header = tensor_file.read(path)
  arrays['permuted-01/masks/Dense_1/kernel'] ^= 255
  tensor_file.write(path, arrays, header)
  fault, = verification.check(mtl_jax.load(path)).faults
  assert 'permuted-01: its outputs' in fault


@pytest.mark.slow
def test_statistics_travel(tmp_path):
  run = tiny.learned(tmp_path / 'run', 'norm')
  system = mtl_jax.load(run)
  for task in system:
    assert_travels(system, task, tmp_path / 'task')


@pytest.mark.slow
def test_tables_and_texts_travel(tmp_path):
  """Their probes are numbers and words, none of them beyond the vocabulary."""
  texts = [' '.join(np.random.RandomState(i).choice(list('abcdefg'), 12))
           for i in range(200)]
  config = tiny_subnetworks.get_config(net={})
  sources.register('words', lambda: sources.from_texts(
      'words', (texts, np.arange(200) % 2), words=20, length=16))
  config.suite = dict(kind='datasets', sources=('digits', 'sums', 'words'),
                      image_shape=(8, 8, 1))
  config.backbone.options = dict(widths=(32, 24), inputs=64, scale=.1, words=20)
  config.phases = dict(m=dict(method='dedicated', tasks=(0, 3), steps=3,
                              batch_size=16, learning_rate=1e-2))
  config.schedule = ('m',)
  tiny.learn(config_lib.from_dict(config.to_dict()), tmp_path / 'run')
  system = mtl_jax.load(tmp_path / 'run')
  for task in system:
    x = system.probe(task)
    alone = mtl_jax.load(system.export(task, tmp_path / 'task'))
    np.testing.assert_array_equal(alone.predict(x, task=task),
                                  system.predict(x, task=task))
    assert verification.check(alone) == verification.Result(1, [], [])
  accuracy = system.learn('words', name='again', method='dedicated', steps=3,
                          batch_size=16, learning_rate=1e-2)
  assert 0 <= accuracy <= 1
  assert system.learn('sums', name='more', method='dedicated', steps=3,
                      batch_size=16, learning_rate=1e-2) is None


def test_an_unknown_task_is_named(system, tmp_path):
  for bad in ('permuted-0', '../run'):
    with pytest.raises(ValueError, match='unknown task'):
      system.export(bad, tmp_path / 'a')


def every_method():
  """A config with phases of every method that one backbone can have."""
  registry.load_plugins(EXAMPLES)
  config = tiny.get_config()
  common = dict(steps=2, batch_size=16, optimizer='adam', learning_rate=1e-2)
  masks = dict(common, method='supsup')
  impress = dict(common, method='impresslearn')
  basis = dict(kind='heterogeneous', size=3, phase='masks')
  subs = dict(common, method='subnetworks', allocation=dict(
      density=.2, sample=50), own=('Dense_2/.*',))
  phases = dict(
      masks=dict(masks, tasks=(0, 24), tasks_at_once=8),
      top_k=dict(masks, tasks=(24, 32), tasks_at_once=8,
                 options=dict(sampler='top_k', density=.3)),
      transfer=dict(masks, tasks=(32, 34), options=dict(transfer=True)),
      impress=dict(impress, tasks=(34, 58), tasks_at_once=8, basis=basis),
      hybrid=dict(impress, tasks=(58, 66), tasks_at_once=8, basis=basis,
                  options=dict(head='Dense_2/.*')),
      drawn=dict(impress, tasks=(66, 74), tasks_at_once=8,
                 basis=dict(kind='random', size=4, density=.5)),
      whole=dict(common, method='dedicated', tasks=(74, 78)),
      joint=dict(common, method='joint', tasks=(78, 80), together='joint',
                 own=('Dense_2/.*',)),
      subs=dict(subs, tasks=(80, 82)),
      sharing=dict(subs, tasks=(82, 84), options=dict(sharing=True)),
      lora=dict(common, method='lora', tasks=(84, 88)),
      piggyback=dict(common, method='piggyback', tasks=(88, 92),
                     options=dict(head='dense')),
      packnet=dict(common, method='packnet', tasks=(92, 94), steps=0, epochs=2,
                   options=dict(prune_after=1)),
      batche=dict(common, method='batche', tasks=(94, 96)),
      psp=dict(common, method='psp', tasks=(96, 98)))
  config.suite.num_tasks = 98
  config.matrix = 'final'
  config.phases, config.schedule = phases, tuple(phases)
  return config_lib.from_dict(config.to_dict())


_LOAD = """
import pathlib, sys
import numpy as np
import mtl_jax, tiny, tiny_rounds
tiny.get_config('norm')
plugins = sys.argv[2:]
same = 0
for path in sorted(pathlib.Path(sys.argv[1]).glob('*.safetensors')):
  expected = np.load(path.with_suffix('.npz'))
  system = mtl_jax.load(path, plugins)
  found = np.asarray(system.predict(expected['x'], task=str(expected['task'])))
  same += np.array_equal(found, expected['logits'])
print(same)
"""


@pytest.mark.slow
def test_a_hundred_tasks_of_all_methods_in_another_process(tmp_path):
  out = tmp_path / 'out'
  out.mkdir()
  count, methods = 0, set()
  for name, config in (
      ('dense', every_method()), ('paths', tiny_rounds.make()),
      ('search', tiny_search.make()), ('norm', tiny.make('norm'))):
    tiny.learn(config, tmp_path / name)
    system = mtl_jax.load(tmp_path / name)
    for task in system:
      x = images(system, task, 3 + count % 11)
      path = system.export(task, out / f'{name}-{task}.safetensors', True)
      np.savez(path.with_suffix('.npz'), x=x, task=task,
               logits=system.predict(x, task=task))
      methods.add(checkpoint.load_metadata(
          system.workdir.task(task))['method']['name'])
      count += 1
  assert count >= 100
  assert methods == {'supsup', 'impresslearn', 'dedicated', 'joint', 'part',
                     'subnetworks', 'munet', 'batche', 'psp', 'lora',
                     'packnet', 'piggyback'}
  done = tiny.call([sys.executable, '-c', _LOAD, str(out),
                    *map(str, EXAMPLES)])
  assert done.returncode == 0, done.stderr
  assert done.stdout.split()[-1] == str(count)
