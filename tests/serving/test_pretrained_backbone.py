"""A backbone from a file of weights, through runs that learn on it."""

import shutil

import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax import trees
from mtl_jax.commands import export
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.serving import verification
from mtl_jax.storage import checkpoint
from mtl_jax.storage import tensor_file


@pytest.fixture(name='root', scope='module')
def _root(tmp_path_factory):
  """A system with norm statistics, and the file of one task's network."""
  folder = tmp_path_factory.mktemp('root')
  config = tiny.get_config('norm')
  config.phases = {'one': dict(method='dedicated', tasks=(0, 1), steps=6,
                               batch_size=16, optimizer='adam')}
  config.schedule = ('one',)
  tiny.learn(tiny.config_lib.from_dict(config.to_dict()), folder / 'run')
  system = mtl_jax.load(folder / 'run')
  return system, system.export_network('permuted-00',
                                       folder / 'w.safetensors')


def config_on(file, **changes):
  return tiny.only('basis', kind='norm', backbone__weights=str(file), **changes)


def recipe(file, **changes):
  return {'model': 'norm', 'outputs': 2, 'options': {}, 'init': 'default',
          'seed': 0, 'image_shape': [8, 8, 3], 'weights': str(file),
          'names': None, 'fresh': ()} | changes


def test_a_network_becomes_another_runs_backbone(root, tmp_path):
  system, file = root
  params, stats = system.effective(system.task('permuted-00'))
  assert trees.size(stats)
  copy = shutil.copy(file, tmp_path / 'w.safetensors')
  config = config_on(copy)
  tiny.learn(config, tmp_path / 'run')
  before = tiny.bits(tmp_path / 'run')
  # The workdir goes without the file: to load, to verify, to learn again.
  (tmp_path / 'w.safetensors').unlink()
  other = mtl_jax.load(tmp_path / 'run')
  assert trees.digests(other.backbone.params) == trees.digests(params)
  assert trees.digests(other.backbone.stats) == trees.digests(stats)
  assert verification.check(other) == verification.Result(2, [], [])
  shutil.rmtree(tmp_path / 'run/tasks/permuted-00')
  tiny.learn(config, tmp_path / 'run')
  assert tiny.bits(tmp_path / 'run') == before
  with pytest.raises(FileNotFoundError, match='no weights at'):
    tiny.learn(config, tmp_path / 'other')
  assert not (tmp_path / 'other').exists()


def test_the_backbone_that_is_kept_is_held_against_its_hash(root, tmp_path):
  _, file = root
  copy = shutil.copy(file, tmp_path / 'w.safetensors')
  tiny.learn(config_on(copy), tmp_path / 'run')
  kept = tmp_path / 'run/backbone'
  tiny.rewrite(kept, lambda arrays: arrays['Conv_0/kernel'].__setitem__(0, 1.))
  with pytest.raises(checkpoint.CheckpointError, match='leaf Conv_0/kernel was '
                                                       'changed .*restore'):
    mtl_jax.load(tmp_path / 'run')
  # The remedies: a copy, or the file once more.
  shutil.rmtree(kept)
  assert not verification.check(mtl_jax.load(tmp_path / 'run')).faults
  arrays, header = tensor_file.read(copy)
  tensor_file.write(copy, arrays | {
      'Conv_0/kernel': arrays['Conv_0/kernel'] + 1}, header)
  with pytest.raises(ValueError, match="fingerprint is .* was recorded.*the "
                                       'file of weights'):
    mtl_jax.load(tmp_path / 'run')


def test_fresh_leaves_are_drawn_and_the_others_are_the_files(root):
  system, file = root
  params = system.effective(system.task('permuted-00'))[0]
  made = backbone_lib.make(recipe(file, fresh=('Dense_0/.*',)))
  drawn = backbone_lib.make({k: v for k, v in recipe(file).items()
                             if k != 'weights'})
  assert trees.digests(made.params['Dense_0']) == trees.digests(
      drawn.params['Dense_0'])
  assert trees.digests(made.params['Conv_0']) == trees.digests(
      params['Conv_0'])
  again = backbone_lib.another_draw(made, 1)
  assert trees.digests(again['Conv_0']) == trees.digests(params['Conv_0'])
  assert trees.digests(again['Dense_0']) != trees.digests(
      made.params['Dense_0'])


def test_a_signed_constant_is_drawn_for_fresh_leaves_alone(root):
  _, file = root
  made = backbone_lib.make(recipe(file, fresh=('Dense_0/.*',),
                                  init='signed_constant'))
  assert len(np.unique(made.params['Dense_0']['kernel'])) == 2
  assert len(np.unique(made.params['Conv_0']['kernel'])) > 2


def test_an_exported_task_names_the_weights_that_it_lacks(root, tmp_path):
  _, file = root
  tiny.learn(config_on(file), tmp_path / 'run')
  task = mtl_jax.load(tmp_path / 'run').export('permuted-01', tmp_path / 'a')
  with pytest.raises(ValueError, match='made on the weights w.safetensors, '
                                       'which it does not hold'):
    mtl_jax.load(task)
  # The remedy.
  tiny.learn(config_on(file, phases__basis__tasks=(0, 1)), tmp_path / 'new')
  mtl_jax.import_task(tmp_path / 'new', task)
  assert not verification.check(mtl_jax.load(tmp_path / 'new')).faults


def test_the_command_writes_the_same_file(root, tmp_path, capsys):
  import argparse
  system, file = root
  parser = argparse.ArgumentParser()
  export.flags(parser)
  words = [f'--workdir={system.workdir.root}', '--task=permuted-00',
           '--network', f'--output={tmp_path / "c.safetensors"}']
  export.main(parser.parse_args(words))
  assert 'bytes' in capsys.readouterr().out
  assert (tmp_path / 'c.safetensors').read_bytes() == file.read_bytes()
  with pytest.raises(ValueError, match='does not end with .safetensors'):
    system.export_network('permuted-00', tmp_path / 'c.npz')
  with pytest.raises(SystemExit):
    parser.parse_args([*words, '--with_basis'])


def test_a_file_of_a_network_is_no_task(root, tmp_path):
  _, file = root
  for call in (lambda: mtl_jax.load(file),
               lambda: mtl_jax.import_task(tmp_path / 'new', file)):
    with pytest.raises(ValueError, match='weights of a whole network, and no'):
      call()
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('changes, text', [
    ({'names': (('a', 'b'),)}, 'backbone.names says how a file .*give weights'),
    ({'fresh': 'head'}, 'backbone.fresh says how a file'),
    ({'weights': 'a.npz', 'names': (('(', 'b'),)}, 'no pattern'),
    ({'weights': 3}, 'weights is 3; it must be a string')])
def test_settings_that_make_no_sense_are_refused(changes, text):
  config = tiny.get_config('norm').to_dict()
  with pytest.raises(ValueError, match=text):
    tiny.config_lib.from_dict(config | {'backbone': config['backbone']
                                        | changes})


def test_settings_survive_json():
  import json
  config = config_on('a.npz', backbone__names=(('a', None), ('b(.)', r'\1')),
                     backbone__fresh=('x',))
  text = json.dumps(tiny.config_lib.to_dict(config))
  assert tiny.config_lib.from_dict(json.loads(text)) == config
