"""Exported files with values that can't be meant, and their commands."""

import copy
import random
import re

import jax
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax import commands
from mtl_jax import experiment
from mtl_jax import impressions
from mtl_jax.config import config as config_lib
from mtl_jax.data import official
from mtl_jax.data import pipeline
from mtl_jax.evaluation import similarity
from mtl_jax.methods import impresslearn
from mtl_jax.methods import supsup
from mtl_jax.serving import artifact
from mtl_jax.serving import verification
from mtl_jax.storage import checkpoint
from mtl_jax.storage import tensor_file

X = np.random.RandomState(0).randint(0, 256, (5, 8, 8, 1)).astype(np.uint8)
# Values of every kind that a forged header may have.
VALUES = (None, 0, -1, 10 ** 30, 1.5, float('nan'), '', 'x', '../x', [], {},
          [1], {'a': 1}, True, [[]], [None], 1e308)


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  return tiny.learned(tmp_path_factory.mktemp('forged') / 'run', 'few')


@pytest.fixture(name='system')
def _system(folder):
  return mtl_jax.load(folder)


def paths(value, path=()):
  """The path of every value in nested dicts and lists."""
  if path:
    yield path
  steps = value if isinstance(value, dict) else range(
      min(len(value), 2) if isinstance(value, list) else 0)
  for step in steps:
    yield from paths(value[step], (*path, step))


def changed(header, path, value):
  """A copy of a header with another value, or without it (`del`)."""
  header = copy.deepcopy(header)
  node = header
  for step in path[:-1]:
    node = node[step]
  if value is del_:
    del node[path[-1]]
  else:
    node[path[-1]] = value
  return header


del_ = object()


def test_every_field_of_a_header(system, tmp_path):
  """A changed field is refused in a sentence, or the outputs are the same."""
  path = system.export('permuted-12', tmp_path / 'a', with_basis=True)
  logits = np.asarray(system.predict(X, task='permuted-12'))
  arrays, header = tensor_file.read(path)
  rng, read, loaded = random.Random(0), 0, 0
  fields = list(paths(header))
  for field in fields:
    for value in rng.sample(VALUES, 3) + [del_]:
      forged = changed(header, field, value)
      try:
        found = artifact._artifact(arrays, forged)
      except (ValueError, KeyError, TypeError, AttributeError):
        continue  # `read` makes a sentence of these
      read += 1
      if rng.random() > (.2 if {'backbone', 'method'} & set(field) else .02):
        continue
      assert found.task == 'permuted-12'
      tensor_file.write(path, arrays, forged)
      try:
        alone = mtl_jax.load(path)
        np.testing.assert_array_equal(alone.predict(X, task=found.task), logits)
        loaded += 1
      except ValueError:
        pass
  assert len(fields) > 150 and read > 300 and loaded > 5


@pytest.mark.parametrize('where, value, text', [
    (('backbone', 'image_shape', 0), 'x', r"image_shape = \['x', 8, 1\]"),
    (('backbone', 'image_shape', 2), 0, 'sizes are whole numbers above 0'),
    (('backbone', 'seed'), 10 ** 30, r'it must be below 2 \*\* 63'),
    (('backbone', 'outputs'), -1, 'outputs = -1; it must be at least 1'),
    (('parts', 'permuted-00', 'metadata', 'record', 'phase'), del_,
     "its record lacks 'phase'"),
    (('parts', 'permuted-00', 'metadata', 'record', 'accuracy'), 'high',
     "'accuracy' is \"high\", expected"),
    (('parts', 'permuted-00', 'metadata', 'record', 'bytes', 'referenced'),
     None, 'its bytes referenced are None; expected a whole number'),
    (('backbone', 'outputs'), '10', "outputs = '10', which is no int"),
    (('parts', 'permuted-00', 'metadata', 'method'), 1,
     "task permuted-00: .*'method' is 1, expected an object"),
    (('parts', 'permuted-00', 'metadata', 'method', 'name'), del_,
     "its method lacks 'name'"),
    (('parts', 'permuted-00', 'metadata', 'method', 'options'), 1,
     "'options' is 1, expected an object"),
    (('parts', 'permuted-00', 'metadata', 'method', 'defined_in'),
     {'file': 'a.py', 'sha256': True}, "'defined_in' .*expected null, or"),
    (('parts', 'permuted-00', 'metadata', 'record'), 1.5,
     "'record' is 1.5, expected an object"),
    (('parts', 'permuted-00', 'metadata', 'record', 'control'), 'no',
     "its record .*'control' is \"no\", expected true or false"),
    (('parts', 'permuted-00', 'metadata', 'classes'), {'a': 1}, "'classes' is"),
    (('parts', 'permuted-00', 'metadata', 'classes'), 0, 'classes is 0'),
    (('parts', 'permuted-00', 'metadata', 'seed'), [1], "'seed' is .1., expe"),
    (('parts', 'permuted-00', 'metadata', 'source_shape'), [8, 8, -1],
     r'source_shape is \[8, 8, -1\]; expected the sizes'),
    (('parts', 'permuted-00', 'metadata', 'transforms', 0, 1, 'seed'),
     float('nan'), 'does not hold a task'),
    (('parts', 'permuted-00', 'metadata', 'transforms', 1, 1, 'mean'),
     [float('nan')], 'mean is .nan.; give finite numbers'),
    (('parts', 'permuted-00', 'metadata', 'transforms', 1, 1, 'std'), [1e308],
     r'std is \[1e\+308\]; give finite numbers'),
    (('parts', 'permuted-00', 'metadata', 'transforms', 1, 1, 'mean'), None,
     'does not hold a task')])
def test_values_of_another_kind(system, tmp_path, where, value, text):
  path = system.export('permuted-00', tmp_path / 'a')
  arrays, header = tensor_file.read(path)
  tensor_file.write(path, arrays, changed(header, where, value))
  with pytest.raises(ValueError, match=text):
    mtl_jax.import_task(tmp_path / 'new', path)
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('value', ['no', 'False', 0, 1, None, [], np.int8(1)])
@pytest.mark.parametrize('name, call', [
    ('with_basis', lambda s, v: s.export('permuted-12', '/nowhere/a', v)),
    ('quiet', lambda s, v: experiment.run(tiny.make('few'), s.workdir.root,
                                          quiet=v)),
    ('normalise', lambda s, v: s.identify(X, names=['permuted-12'],
                                          normalise=v)),
    ('unbiased', lambda s, v: similarity.linear_cka(X[0, ..., 0], X[0, ..., 0],
                                                    v)),
    ('units', lambda s, v: impressions.agreement(X > 9, X[0] / 1., v)),
    ('leaking', lambda s, v: official.source('mnist', (8, 8), v)),
    ('every', lambda s, v: pipeline.prepare((), X, v)),
    ('train', lambda s, v: pipeline.apply((), (), X, None, v)),
    ('transfer', lambda s, v: supsup.supsup(transfer=v))])
def test_switches_are_true_or_false(system, name, call, value):
  with pytest.raises(ValueError, match=f'{name} is .*; give True or False'):
    call(system, value)


@pytest.mark.parametrize('inside', [
    'config.json', 'tasks/permuted-00/0', 'metrics.jsonl', 'tasks/new.csv'])
def test_outputs_do_not_replace_files_of_a_workdir(
    system, inside, capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  root = system.workdir.root
  before = tiny.bits(root), (root / 'config.json').read_bytes()
  np.savez('x.npz', images=np.zeros((1, 8, 8, 1), np.uint8))
  said = 'belongs to the files of the workdir .*; name another file'
  with pytest.raises(ValueError, match=said):
    system.export('permuted-00', root / inside)
  for words in (['report'], ['predict', 'x.npz', '--task=permuted-00']):
    assert commands.main([*words, f'--workdir={root}',
                          f'--output={root}/{inside}']) == 1
    assert re.search(said, capsys.readouterr().err)
  assert (tiny.bits(root), (root / 'config.json').read_bytes()) == before
  assert not (root / 'tasks/new.csv').exists()
  system.export('permuted-00', root / 'a.safetensors')  # beside them
  (root / 'a.safetensors').unlink()


def test_files_in_the_home_folder(system, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  system.export('permuted-00', '~/a.safetensors')
  assert mtl_jax.load('~/a.safetensors').tasks == ['permuted-00']
  assert mtl_jax.import_task(tmp_path / 'w', '~/a.safetensors')


def test_the_command_takes_the_name_that_a_refusal_advises(
    system, tmp_path, capsys):
  path = system.export('permuted-01', tmp_path / 'a')
  tiny.learned(tmp_path / 'run', 'few')
  other = mtl_jax.load(tmp_path / 'run')
  other.merge(['permuted-00', 'permuted-01'], how='union', name='both')
  other.delete('permuted-12')
  other.delete('permuted-01')
  (tmp_path / 'run/plan.json').unlink()  # its run learns it
  other.refresh()
  other.rename('both', 'permuted-01')
  words = ['import', str(path), f'--workdir={tmp_path / "run"}']
  assert commands.main(words)
  assert 'name=, --name' in capsys.readouterr().err
  assert not commands.main([*words, '--name=mine'])
  assert 'imported mine into' in capsys.readouterr().out
  assert 'mine' in mtl_jax.load(tmp_path / 'run')


@pytest.fixture(name='drawn', scope='module')
def _drawn(tmp_path_factory):
  folder = tmp_path_factory.mktemp('drawn') / 'run'
  config = tiny.get_config('few').to_dict()
  config['schedule'] = ('impress',)
  config['phases'] = {'impress': config['phases']['impress'] | {
      'tasks': (0, 2), 'basis': {'kind': 'random', 'size': 3, 'density': .5}}}
  tiny.learn(config_lib.from_dict(config), folder)
  return folder


def another_basis(monkeypatch):
  """Draws as another version of JAX might."""
  draw = impresslearn.random_basis
  monkeypatch.setattr(impresslearn, 'random_basis', lambda key, *rest: draw(
      jax.random.fold_in(key, 1), *rest))


def test_a_basis_that_is_drawn_otherwise_is_noticed(drawn, tmp_path,
                                                    monkeypatch):
  system = mtl_jax.load(drawn)
  system.merge(['permuted-00', 'permuted-01'], name='both')
  assert not verification.check(system).faults
  path = system.export('both', tmp_path / 'a')
  another_basis(monkeypatch)
  said = ('learned over a basis that is drawn from the seed 0, but another one '
          'is drawn here .*read it with the versions that made it, .*jax')
  for place, task in ((path, 'both'), (drawn, 'both'), (drawn, 'permuted-01')):
    found = mtl_jax.load(place)
    for call in (lambda: found.predict(X, task=task),
                 lambda: found.predict_mixed(X, [task] * len(X)),
                 lambda: found.identify(X, names=[task])):
      with pytest.raises(ValueError, match=said):
        call()
  assert len(verification.check(mtl_jax.load(drawn)).faults) == 3


def test_tasks_without_a_digest_of_their_basis_still_load(
    drawn, tmp_path, monkeypatch):
  path = mtl_jax.load(drawn).export('permuted-00', tmp_path / 'a')
  arrays, header = tensor_file.read(path)
  assert header['parts']['permuted-00']['metadata'].pop('drawn')
  tensor_file.write(path, arrays, header)
  assert not verification.check(mtl_jax.load(path)).faults
  another_basis(monkeypatch)
  old = mtl_jax.load(path)
  old.predict(X, task='permuted-00')
  assert 'its outputs' in verification.check(old).faults[0]


def test_only_what_is_drawn_has_such_a_digest(system):
  for name in system:
    assert 'drawn' not in checkpoint.load_metadata(system.workdir.task(name))
