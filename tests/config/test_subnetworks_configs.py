"""The configs of subnetworks fit into the networks that they name."""

import dataclasses
import importlib.util

import numpy as np
import pytest
import configs

from mtl_jax import experiment
from mtl_jax import validate
from mtl_jax.config import config as config_lib
from mtl_jax.data import suites
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import run as run_lib

CONFIGS = [
    ('subnetworks_mnist_fashion', ''), ('subnetworks_mnist_fashion', 'conv'),
    ('subnetworks_mnist_fashion', 'conv,strided'),
    ('subnetworks_mnist_fashion', 'controls'), ('subnetworks_boston', 'TABLE'),
    ('subnetworks_fashion', 'split'), ('subnetworks_fashion', 'split,small'),
    ('subnetworks_fashion', 'ensemble'),
    ('subnetworks_fashion', 'ensemble,small'),
    ('subnetworks_four_datasets', ''), ('subnetworks_less_data', '1000'),
    *(('subnetworks_capacity', str(tasks)) for tasks in (10, 13, 16))]
QUICK = CONFIGS[6:9]


def load(name):
  path = configs.ROOT / 'configs' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def crowd(phase):
  """The phase, but every task takes all that is free."""
  allocation = dataclasses.replace(phase.options.allocation, density=1.,
                                   fit=False)
  return dataclasses.replace(phase, options=dataclasses.replace(
      phase.options, allocation=allocation))


@pytest.mark.parametrize('name, kind', [
    ('subnetworks_mnist_fashion', 'conv,stride'),
    ('subnetworks_fashion', 'ensembles')])
def test_an_unknown_kind_is_not_another_experiment(name, kind):
  with pytest.raises(ValueError, match=f"unknown kind '{kind}'; known: "):
    load(name).get_config(kind)


@pytest.mark.data
@pytest.mark.parametrize('name, kind', [
    config if config in QUICK else pytest.param(*config, marks=pytest.mark.slow)
    for config in CONFIGS])
def test_there_is_room(name, kind, tmp_path):
  table = tmp_path / 'table'
  np.savetxt(table, np.random.RandomState(0).rand(506, 14))
  given = [str(table) if kind == 'TABLE' else kind] if kind else []
  config = config_lib.from_dict(load(name).get_config(*given).to_dict())
  try:
    suite = suites.make(config.suite.kind, **dict(config.suite.options))
  except FileNotFoundError as error:
    pytest.skip(str(error).splitlines()[0])
  backbone = experiment.make_backbone(config, suite, run_lib.Data(),
                                      workdir_lib.Workdir(tmp_path))
  validate.check_methods(config, suite, backbone)  # raises if there is none
  crowded = dataclasses.replace(config, phases=tuple(
      crowd(phase) if phase.method == 'subnetworks' else phase
      for phase in config.phases))
  with pytest.raises(ValueError, match='free'):
    validate.check_methods(crowded, suite, backbone)
