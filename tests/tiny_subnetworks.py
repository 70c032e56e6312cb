"""Three little tasks in one network: configs and runs for tests."""

import functools

import numpy as np
import tiny

import mtl_jax
from mtl_jax import config as config_lib
from mtl_jax.data import sources

TABLE = np.random.RandomState(0).rand(300, 6)
TABLE[:, -1] = TABLE[:, 0] + TABLE[:, 1]


def get_config(**phases):
  """Three permuted-digits tasks in one small network; phases as given."""
  sources.register('sums', lambda: sources.from_table(
      'sums', TABLE[:, :-1], TABLE[:, -1:]))
  config = tiny.get_config('few')
  config.chunk_steps, config.progress_seconds = 5, 1000.
  config.suite = dict(kind='permuted', source='digits', num_tasks=4)
  config.backbone = dict(
      model='fully_connected', outputs=10, init='default',
      options=dict(widths=(32, 24), inputs=64, scale=.1))
  common = dict(method='subnetworks', tasks=(0, 3), steps=12, batch_size=32,
                optimizer='adam', learning_rate=1e-2,
                allocation=dict(density=.3, sample=100))
  config.phases = {name: common | changes for name, changes in phases.items()}
  config.schedule = tuple(phases)
  return config


def make(config=None, **phases):
  config = config or get_config(**phases)
  return config_lib.from_dict(config.to_dict())


@functools.lru_cache(maxsize=None)
def learned(**phases):
  folder = tiny.new_folder()
  summary = tiny.learn(make(**{k: dict(v) for k, v in phases.items()}), folder)
  return folder, summary


def system_of(**phases):
  return mtl_jax.load(learned(**phases)[0])


def own_masks(system, names):
  return [system.own_part(name).masks for name in names]


PARALLEL = dict(net=(('together', 'joint'),))
SEQUENCE = dict(net=())


def watched(**changes):
  return dict(net=dict(steps=0, epochs=30, tasks=(0, 2), early_stop=dict(
      min_delta=.05, patience=2)) | changes)
