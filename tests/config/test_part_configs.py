"""The configs of PaRT: their sizes, steps and label maps."""

import functools
import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from mtl_jax import models
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.data import transforms
from mtl_jax.methods import path_sampling
from mtl_jax.steps import rounds

ROOT = pathlib.Path(__file__).parents[2]


def load(name, *arguments):
  spec = importlib.util.spec_from_file_location(
      name, ROOT / 'configs' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return config_lib.from_dict(module.get_config(*arguments).to_dict())


@functools.lru_cache(maxsize=None)
def stand_in(name):
  """As many classes as the data set of that name, one image each and split."""
  classes = {'cifar10': 10, 'cifar100': 100}[name]
  images = np.zeros((classes, 32, 32, 3), np.uint8)
  labels = np.arange(classes)
  return sources.from_arrays(name, images, labels, classes, (images, labels),
                             (images, labels))


@pytest.mark.parametrize('name, weights, classes, seed_shape', [
    ('part_cifar100', 132_038_244, [10] * 10, path_sampling.Shape(9, 12, 4)),
    ('part_cifar10_100', 165_040_110, [20, 2, 2, 2, 20, 20, 2, 2, 20, 20],
     path_sampling.Shape(9, 15, 4))])
def test_sizes_and_tasks_of_the_cifar_configs(name, weights, classes,
                                              seed_shape):
  config = load(name)
  options = dict(config.backbone.options)
  network = models.make(config.backbone.model, config.backbone.outputs,
                        **options)
  params, _ = jax.eval_shape(lambda k: network.init(k, (32, 32, 3)),
                             jax.random.key(0))
  assert trees.size(params) == weights
  phase, = config.phases
  assert config.transparency > 0  # the analyses are part of the run
  assert dict(phase.options)['active'] == seed_shape.active
  assert options['modules'] == seed_shape.modules
  suite = suites.make('groups', load=stand_in,
                      groups=dict(config.suite.options)['groups'])
  assert [task.classes for task in suite.tasks] == classes == list(
      options['heads'])
  used = {'cifar10': [], 'cifar100': []}
  for task in suite.tasks:
    label_map = suites.view(task, stand_in(task.source)).label_map
    # A bijection of the task's classes onto 0 ... n - 1, in their order.
    assert [label_map[label] for label in task.labels] == list(
        range(task.classes))
    assert np.sum(label_map >= 0) == task.classes
    used[task.source] += task.labels
  for source, labels in used.items():
    if labels:
      assert sorted(labels) == list(range(stand_in(source).classes))


@pytest.mark.parametrize('name, images, per_epoch', [
    ('part_cifar100', 4_500, 281), ('part_cifar10_100', 9_000, 562)])
def test_steps_of_the_cifar_configs(name, images, per_epoch):
  phase, = load(name).phases
  recipe = phase.recipe(images)
  assert recipe.steps == 60 * per_epoch
  _, rate = rounds.make_optimizer(recipe)
  assert float(rate(39 * per_epoch)) == pytest.approx(2.5e-4)
  assert float(rate(41 * per_epoch)) == pytest.approx(1.25e-4)


def test_the_five_task_config_has_every_control_on_the_same_batches():
  config = load('part_five_tasks', '3')
  assert config.seed == 3
  by_name = {phase.name: phase for phase in config.phases}
  assert [name for name, phase in by_name.items() if not phase.control] == [
      'part']
  # One recipe: optimizer, rates, batches; and one backbone and graph.
  recipe, = {phase.recipe(55_000) for phase in config.phases}
  assert (recipe.steps, recipe.batch_size, recipe.schedule) == (
      300, 16, 'halved')
  assert {(phase.tasks, phase.loss, phase.repeats)
          for phase in config.phases} == {((0, 5), 'classes', 1)}
  for name, common in (('active', 2), ('norm', 'statistics')):
    assert {dict(phase.options)[name] for phase in config.phases} == {common}
  assert [name for name, phase in by_name.items()
          if dict(phase.options)['paths'] != 'official'] == ['hard_sharing']
  assert [name for name, phase in by_name.items()
          if dict(phase.options)['copies']] == ['single']
  assert len({phase.order_name for phase in config.phases}) == 1
  assert {dict(phase.options)['path_seed'] for phase in config.phases} == {36}
  assert by_name['joint'].together == 'joint'
  assert by_name['sequential'].rounds.set_batches == 0
  assert by_name['part_common'].rounds.moments == 'common'


def test_the_five_task_config_with_fewer_modules():
  config, whole = load('part_five_tasks', '3,4'), load('part_five_tasks', '3')
  assert dict(config.backbone.options) == dict(whole.backbone.options) | {
      'modules': 4}
  assert [phase.name for phase in config.phases] == ['part', 'single']
  assert set(config.phases) < set(whole.phases)
  assert (config.transparency, whole.transparency) == (0, 500)


def test_groups_refuse_what_is_no_group_and_unknown_classes():
  with pytest.raises(ValueError, match='pairs of a source'):
    suites.make('groups', groups=('cifar10',), load=stand_in)
  with pytest.raises(ValueError, match='10 is no class of'):
    suites.make('groups', groups=(('cifar10', (1, 10)),), load=stand_in)


@pytest.fixture(name='drawn')
def _drawn():
  """experiments/part/stand_in.py, with few images in CIFAR's places."""
  spec = importlib.util.spec_from_file_location(
      'stand_in', ROOT / 'experiments' / 'part' / 'stand_in.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  before = dict(sources.REGISTRY)
  module.register((2_000, 500))
  yield module
  sources.REGISTRY.clear()
  sources.REGISTRY.update(before)
  sources._load.cache_clear()


@pytest.mark.parametrize('name', ['part_cifar100', 'part_cifar10_100'])
def test_drawn_images_stand_in_for_cifars_in_its_suites(drawn, name):
  del drawn
  options = dict(load(name).suite.options)
  made = suites.make('groups', **options)
  for task, (source, classes) in zip(made.tasks, options['groups']):
    found = sources.load(task.source)
    assert found.name == task.source == source and found.version == 'drawn'
    assert len(suites.view(task, found).test) == (
        500 // found.classes * len(classes))
    normalise = task.transforms[-1]
    assert normalise == transforms.normalise(*suites.STATISTICS[source])


def test_drawn_images_have_cifars_shapes_and_can_be_learned(drawn):
  source = drawn.make('cifar10', 10, (600, 100))
  assert source.classes == 10 and source.version == 'drawn'
  assert source.test.images.shape == (100, 32, 32, 3)
  assert not sources.leaks(source)
  flat = lambda split: split.images.reshape(-1, 3072).astype(np.float32)
  means = np.stack([flat(source.train)[source.train.labels == c].mean(0)
                    for c in range(10)])
  distance = ((flat(source.test)[:, None] - means) ** 2).sum(-1)
  right = np.mean(distance.argmin(1) == source.test.labels)
  assert right > .5
