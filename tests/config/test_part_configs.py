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
  pairs = [(np.full((classes, 32, 32, 3), pixel, np.uint8), np.arange(classes))
           for pixel in (0, 1)]
  return sources.from_arrays(name, *pairs[0], classes, pairs[1], pairs[0])


OFFICIAL_NORM = transforms.normalise((.4914, .4822, .4465),
                                     (.2023, .1994, .2010))
# From the authors' pickles of test case 0: task, source, classes by label.
OFFICIAL_TASKS = {
    'part_cifar100': """
        0 cifar100 24 76 67 69 77 45 13 46 21 14
        1 cifar100 32 72 99 86 96 6 49 20 60 36
        2 cifar100 16 28 48 34 62 43 70 26 23 42
        3 cifar100 81 87 74 59 80 51 57 15 12 7
        4 cifar100 73 0 2 37 9 53 91 22 71 98
        5 cifar100 27 18 88 19 39 75 29 56 65 58
        6 cifar100 63 83 40 89 84 33 95 31 97 79
        7 cifar100 54 90 17 35 5 55 8 4 38 10
        8 cifar100 82 41 93 44 25 52 68 30 50 85
        9 cifar100 64 66 3 92 78 61 1 94 47 11""",
    'part_cifar10_100': """
        0 cifar100 58 31 98 82 93 50 94 20 90 21 11 43 49 76 91 6 74 80 56 96
        1 cifar10 1 3
        2 cifar10 4 5
        3 cifar10 8 9
        4 cifar100 0 29 86 3 13 40 73 75 95 9 63 2 61 99 24 37 54 18 39 65
        5 cifar100 17 67 15 97 81 88 12 23 7 47 5 28 30 71 70 64 25 27 87 33
        6 cifar10 6 7
        7 cifar10 0 2
        8 cifar100 19 38 55 1 60 45 36 83 68 89 59 52 57 42 79 92 46 14 32 26
        9 cifar100 22 53 51 48 35 44 72 10 41 16 62 85 8 4 66 34 84 78 69 77"""}


@pytest.mark.parametrize('name, place, source, classes', [
    pytest.param(name, int(row.split()[0]), row.split()[1],
                 tuple(map(int, row.split()[2:])),
                 id=f'{name}-{row.split()[0]}')
    for name, rows in OFFICIAL_TASKS.items()
    for row in rows.strip().splitlines()])
def test_the_published_classes_and_their_norm(name, place, source, classes):
  options = dict(load(name).suite.options)
  assert tuple(options['groups'][place]) == (source, classes)
  assert transforms.normalise(*options['normalise']) == OFFICIAL_NORM


# (config, what, value, where in the official code)
OFFICIAL_RECIPE = [
    (name, what, value, where)
    for name in OFFICIAL_TASKS for what, value, where in (
        ('optimizer', 'adam', 'CIFAR_Parallel/learner.py'),
        ('learning_rate', 1e-3, 'scripts/test_case0_*.json'),
        ('weight_decay', 0., 'scripts/test_case0_*.json'),
        ('epochs', 60, 'scripts/test_case0_*.json'),
        ('batch_size', 16, 'scripts/test_case0_*.json'),
        ('schedule', 'halved', 'learner.py: 0.5 at epochs 20, 30, 40'),
        ('milestones', (20 / 60, 30 / 60, 40 / 60), 'learner.py'),
        ('set_batches', 10, 'learner.py: batch-sets'),
        ('order', 'drawn', 'learner.py: tasks are shuffled every round'),
        ('moments', 'own', 'learner.py: an optimizer per task'),
        ('path_seed', 456, 'scripts/test_case0_*.json'),
        ('paths', 'official', 'util.py get_path'),
        ('active', 4, 'N of scripts/test_case0_*.json'))]


@pytest.mark.parametrize('name, what, value', [
    pytest.param(name, what, value, id=f'{name}-{what}')
    for name, what, value, _ in OFFICIAL_RECIPE])
def test_the_published_recipe(name, what, value):
  phase, = load(name).phases
  found = vars(phase.options) | vars(phase.training) | vars(phase.rounds)
  assert found[what] == value


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
  assert phase.options.active == seed_shape.active
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
    assert {getattr(phase.options, name) for phase in config.phases} == {common}
  assert [name for name, phase in by_name.items()
          if phase.options.paths != 'official'] == ['hard_sharing']
  assert [name for name, phase in by_name.items()
          if phase.options.copies] == ['single']
  assert len({phase.order_name for phase in config.phases}) == 1
  assert {phase.options.path_seed for phase in config.phases} == {36}
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
