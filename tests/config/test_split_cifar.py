"""The SplitCIFAR-100 configs on a stand-in of the same shapes."""

import importlib.util
import pathlib

import numpy as np
import pytest

import mtl_jax
from mtl_jax import experiment
from mtl_jax.config import config as config_lib
from mtl_jax.data import sources
from mtl_jax.serving import verification

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'


def stand_in():
  """100 classes of noise around a colour of their own, 32 x 32 x 3."""
  rng = np.random.RandomState(0)
  labels = np.arange(3000) % 100
  colours = rng.randint(0, 256, (100, 1, 1, 3))
  noise = rng.randint(-40, 41, (3000, 32, 32, 3))
  images = np.clip(colours[labels] + noise, 0, 255).astype(np.uint8)
  return sources.from_arrays('cifar100', images, labels, 100)


@pytest.fixture(name='cifar')
def fixture_cifar():
  before = dict(sources.REGISTRY)
  sources.register('cifar100', stand_in)
  yield sources.load('cifar100')
  sources.REGISTRY.clear()
  sources.REGISTRY.update(before)
  sources._load.cache_clear()


def read_config(name, *variant):
  spec = importlib.util.spec_from_file_location(name, CONFIGS / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(*variant).to_dict()


def shorten(fields, tasks):
  """Two steps per task, and only the phases and tasks that are named."""
  fields['schedule'] = tuple(tasks)
  fields['phases'] = {name: fields['phases'][name] for name in tasks}
  for name, phase in fields['phases'].items():
    phase.update(epochs=0, steps=2, batch_size=16, tasks=tasks[name])
    if phase.get('basis'):
      phase['basis']['size'] = 2
  return config_lib.from_dict(fields)


def test_published_settings():
  supsup = read_config('supsup_split_cifar100')['phases']['supermasks']
  assert (supsup['epochs'], supsup['batch_size']) == (250, 128)
  assert supsup['options']['eps'] == 16
  recipe = config_lib.from_dict(read_config('supsup_split_cifar100')
                                ).phases[0].recipe(2250)
  assert recipe.steps == 250 * (2250 // 128)


def test_the_short_variants_are_the_recipe_with_fewer_epochs():
  whole = read_config('supsup_split_cifar100')
  short = read_config('supsup_split_cifar100', 'short')
  masks = whole['phases']['supermasks']
  assert short == dict(whole, phases=dict(supermasks=dict(masks, epochs=12)))
  controls = read_config('supsup_split_cifar100', 'short,controls')
  shared = {field: masks[field] for field in masks
            if field not in ('method', 'options', 'epochs')}
  for phase in controls['phases'].values():
    assert shared.items() <= phase.items()
    assert (phase['epochs'], phase['control']) == (12, True)
  after = read_config('impresslearn_split_cifar100', 'after_supsup,short')
  added = config_lib.from_dict(after).phases
  assert added[0] == config_lib.from_dict(short).phases[0]
  assert [phase.name for phase in added[1:]] == ['heterogeneous', 'blocks_head']
  assert [phase.name for phase in config_lib.from_dict(read_config(
      'impresslearn_split_cifar100', 'after_supsup')).phases] == [
          'supermasks', 'heterogeneous', 'hybrid']
  with pytest.raises(ValueError, match='take after_supsup'):
    read_config('impresslearn_split_cifar100', 'short')


@pytest.mark.slow
def test_whole_path_on_the_gem_resnet(cifar, tmp_path):
  config = shorten(read_config('impresslearn_split_cifar100'), {
      'supermasks': (0, 2), 'hybrid': (2, 3)})
  summary = experiment.run(config, tmp_path, quiet=True)
  assert summary['verified'] == {'ok': True, 'tasks': 3, 'faults': []}
  system = mtl_jax.load(tmp_path)
  assert system.predict(cifar.test.images[:3], task='split-00').shape == (3, 5)
  hybrid = system.task('split-02@hybrid').impression
  assert hybrid.masks['classifier']['kernel'] is not None
  assert hybrid.masks['stem']['kernel'] is None
  assert hybrid.coefficients['stem']['kernel'].shape == (2,)
  assert hybrid.coefficients['classifier']['kernel'] is None
  statistics = [system.task(f'split-0{i}').impression.stats['stem_norm']['mean']
                for i in range(2)]
  assert not np.array_equal(*statistics)  # each task has its own
  budget = system.task('split-00').metadata['record']['density']
  assert budget['stem/kernel'] == pytest.approx(0.5)
  assert budget['stage4_block2/conv2/kernel'] == pytest.approx(
      16 * 320 / (9 * 160 * 160), abs=1e-5)
  assert not verification.check(system).faults
