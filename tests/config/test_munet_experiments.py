"""The configs of mu2Net, its root's file, and the tables of its results."""

import importlib.util
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest
import tiny_search as little

from mtl_jax.config import config as config_lib
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.report import search as search_report

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'experiments'))

import collected  # noqa: E402 pylint: disable=wrong-import-position
import munet_tables  # noqa: E402 pylint: disable=wrong-import-position
import results  # noqa: E402 pylint: disable=wrong-import-position


def load(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def config_of(name, *args):
  return config_lib.from_dict(
      load(ROOT / f'configs/{name}.py').get_config(*args).to_dict())


def test_the_preliminary_experiment_is_the_official_one():
  config = config_of('munet_preliminary')
  phase, = config.phases
  search = phase.search
  assert (search.iterations, search.generations * search.children,
          search.validations) == (2, 32, 4)
  assert (search.train_cap, search.valid_cap, phase.training.batch_size) == (
      51_200, 5_120, 512)
  assert search.space == 'mu2net_ti0' and search.scale_size == 1
  assert search.private == ('cmaterdb-telugu',)
  assert dict(config.backbone.options)['num_layers'] == 0
  assert phase.round_steps(2000) == 4 and phase.round_steps(10 ** 6) == 100
  seeing = config_of('munet_preliminary', 'one_block')
  assert seeing.phases == config.phases and seeing.suite == config.suite
  assert dict(seeing.backbone.options)['num_layers'] == 1


def test_controls_have_the_budget_of_the_search():
  config = config_of('munet_characters')
  phases = {phase.name: phase for phase in config.phases}
  steps = lambda phase: (phase.search.iterations
                         * phase.recipe(10 ** 5).steps)
  for control in ('finetune', 'head', 'adapters'):
    assert phases[control].search.control == control
    assert steps(phases[control]) == steps(phases['grow'])
  assert phases['newcomer'].tasks == (6, 7)
  leaking = config_of('munet_characters', 'leaking')
  assert dict(leaking.suite.options)['leaking'] is True
  assert [phase.name for phase in leaking.phases] == ['grow']
  config_of('munet_root')


def test_a_learned_network_becomes_a_root(tmp_path):
  """As munet_root.py and munet_characters.py say it."""
  import mtl_jax
  import tiny
  config = little.make(schedule=('one',), phases={'one': dict(
      method='dedicated', tasks=(0, 1), steps=2, batch_size=16)})
  tiny.learn(config, tmp_path / 'run')
  system = mtl_jax.load(tmp_path / 'run')
  file = system.export_network('split-00', tmp_path / 'root.safetensors')
  recipe = dict(system.backbone.recipe, outputs=5, weights=str(file))
  del recipe['fingerprint']
  root = backbone_lib.make(recipe).params
  stored = system.task('split-00').impression.values
  np.testing.assert_array_equal(root['embedding']['kernel'],
                                stored['embedding']['kernel'])
  assert root['head']['kernel'].shape == (stored['head']['kernel'].shape[0], 5)
  assert not np.any(root['head']['kernel'])
  assert jax.tree.leaves(root)[0].dtype == np.float32


def record(task, phase, components, test, control=False, repeat=0):
  return {
      'kind': 'task', 'task': task, 'phase': phase, 'repeat': repeat,
      'control': control, 'accuracy': {'test': test},
      'bytes': {'stored': 1000}, 'search': {
          'components': components, 'from_root': ['a'], 'private': task == 'y',
          'quality': test, 'weights': 30}}


@pytest.fixture(name='folder')
def _folder(tmp_path, monkeypatch):
  """Results of two tasks: y shares a component of x."""
  grow = [record('x', 'grow', [['a', '0', 10], ['head', '1', 5]], .5, repeat=1),
          record('x', 'grow', [['a', '0', 10], ['head', '2', 6]], .75),
          record('y', 'grow', [['a', '3', 10], ['head', '4', 7]], .25)]
  grow[2]['search']['from_root'] = []
  own = [record(task, phase, [['a', f'{phase}{task}', 10]], .125, True)
         for phase in ('finetune', 'head', 'adapters') for task in 'xy']
  for line in own:
    line['search']['from_root'] = []
  run = {'kind': 'run', 'command': 'c --config.seed=0', 'commit': 'abc',
         'hardware': {'platform': 'cpu', 'cpu': 'C', 'cores': 2}}
  summary = {'kind': 'summary', 'seconds': 60., 'verified': {'ok': True}}
  (tmp_path / 'results').mkdir()
  for name in ('preliminary_s0', 'characters_s0'):
    (tmp_path / 'results' / f'{name}.jsonl').write_text(''.join(
        json.dumps(line) + '\n' for line in (run, *grow, *own, summary)))
  monkeypatch.setattr(munet_tables, 'FOLDER', tmp_path)
  return tmp_path


def test_tables_take_the_last_path_of_every_task(folder):
  text = munet_tables.preliminary('preliminary')
  assert '| x | 75.00 | 75.00 | 30 | 6 | 0 | 2,000 |' in text
  assert 'y (private)' in text and 'verified bit for bit' in text
  text = munet_tables.characters()
  assert '| x |  | 75.00 | 12.50 | 12.50 | 12.50 |' in text
  assert '| mean |  | 50.00 |' in text
  # x trained its head (6), y an `a` and a head (17); a control all 10.
  assert '| weights added per task |  | 12 | 10 | 10 | 10 |' in text
  assert munet_tables.headline() == [
      ['mu2Net', 'digits of three scripts (CMATERdb), grown from a random root '
       'without blocks', '50.00', '1'],
      ['mu2Net', 'six sets of characters in a row, twice', '50.00', '1']]
  shutil.rmtree(folder / 'results')
  for text in (munet_tables.preliminary('one_block'), munet_tables.characters(),
               munet_tables.others()):
    assert text == munet_tables.NOT_YET


def test_weights_that_only_another_task_still_uses_are_counted():
  """x made 'a', y took it over, then x dropped it."""
  found = [record('x', 'grow', [['a', '1', 10], ['head', '2', 3]], 0.),
           record('y', 'grow', [['a', '1', 10], ['head', '3', 4]], 0.),
           record('x', 'grow', [['a', '0', 10], ['head', '4', 5]], 0.)]
  for line in found[:2]:
    line['search']['from_root'] = []
  assert search_report.introduced(found) == {'x': 5, 'y': 14}


def test_the_readme_has_the_markers_of_its_tables():
  text = (collected.HERE / 'munet/README.md').read_text()
  for name in results.TABLES['munet/README.md']:
    assert text.count(f'<!-- {name} -->') == text.count(
        f'<!-- /{name} -->') == 1
