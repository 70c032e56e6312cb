"""Every config in configs/ passes all that a run checks before it trains."""

import importlib.util
import pathlib

import pytest
import tiny

from mtl_jax.config import config as config_lib
from mtl_jax.evaluation import final
from mtl_jax.evaluation import scenario_phases
from mtl_jax.evaluation import transparency

FOLDER = pathlib.Path(__file__).parents[2] / 'configs'
VARIANTS = {
    'comparison': ('permuted', 'rotated', 'datasets', 'permuted,grid'),
    'hopsupsup_split_mnist': (None,),
    'impresslearn_nameless_rotated_mnist': (None,),
    'impresslearn_permuted_mnist': ('', 'blocks', 'blocks,grid', 'many',
                                    'many,grid'),
    'impresslearn_rotated_mnist': ('', 'grid', 'chosen'),
    'impresslearn_split_cifar100': ('', 'after_supsup', 'after_supsup,short'),
    'munet_preliminary': ('', 'one_block'),
    'munet_root': (None,),
    'part_cifar100': (None,),
    'part_five_tasks': ('0', '1,4'),
    'piggyback_mnist_family': ('root', 'random'),
    'piggyback_split_cifar100': ('root', 'random'),
    'quickstart': (None,),
    'subnetworks_capacity': ('13', '50'),
    'subnetworks_fashion': ('split', 'ensemble', 'split,small',
                            'ensemble,small'),
    'subnetworks_four_datasets': (None,),
    'subnetworks_less_data': ('1000', '55000'),
    'subnetworks_mnist_fashion': ('fc', 'controls', 'conv', 'conv,strided'),
    'supsup_2500_tasks': (None,),
    'supsup_nameless_permuted_mnist': (None,),
    'supsup_permuted_mnist': (None,),
    'supsup_rotated_mnist': (None,),
    'supsup_split_cifar100': ('', 'short', 'short,controls'),
}
# They need files of your own, or sets that need more than TFDS.
OTHERS = {'folder', 'munet_characters', 'part_cifar10_100',
          'subnetworks_boston'}


def loaded(name):
  spec = importlib.util.spec_from_file_location(name, FOLDER / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_no_config_is_left_out():
  assert {path.stem for path in FOLDER.glob('*.py')} == OTHERS | set(VARIANTS)


@pytest.mark.parametrize('name', [
    name for name, found in VARIANTS.items() if found != (None,)])
@pytest.mark.parametrize('variant', ['x', '-1', ',', '0,x'])
def test_a_variant_that_there_is_not_is_named(name, variant):
  with pytest.raises(ValueError, match=repr(variant)):
    loaded(name).get_config(variant)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize('name, variant', [
    (name, variant) for name, found in VARIANTS.items() for variant in found])
def test_a_config_passes_the_checks_before_training(name, variant):
  config = config_lib.from_dict(loaded(name).get_config(
      *() if variant is None else (variant,)).to_dict())
  try:
    suite, _, backbone = tiny.prepared(config)
  except FileNotFoundError as error:
    pytest.skip(str(error).splitlines()[0])
  scenario_phases.check(config, suite)
  transparency.check(config, backbone.network)
  tiny.check(config)
  final.check_mixed(config, suite, tiny.prepared(config)[1])
