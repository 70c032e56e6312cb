"""A search of seconds: its config, its run, and what it recorded."""

import numpy as np
import tiny

from mtl_jax import config as config_lib
from mtl_jax import workdir as workdir_lib


def fields(**changes):
  """Three tasks, twice; the second one is private. Small enough for seconds."""
  found = dict(
      seed=0, eval_batch_size=100, progress_seconds=1000.,
      suite=dict(kind='split', source='digits', classes_per_task=3,
                 num_tasks=3, image_shape=(8, 8, 3), normalise=(.5, .5)),
      backbone=dict(model='vit_ti', outputs=3, init='default', options=dict(
          num_layers=1, patch=4, width=16, hidden=24, heads=2)),
      phases=dict(grow=dict(
          method='munet', tasks=(0, 3), batch_size=16, steps=3, search=dict(
              space='mu2net_ti0', iterations=2, generations=2, children=3,
              validations=2, valid_cap=32, private=('split-01',),
              fixed=dict(learning_rate=.1)))),
      schedule=('grow',))
  for name, value in changes.items():
    node, path = found, name.split('__')
    for part in path[:-1]:
      node = node.setdefault(part, {})
    node[path[-1]] = value
  return found


def make(**changes):
  return config_lib.from_dict(fields(**changes))


def learn(config, folder, stop_after=np.inf):
  """The searches of a config alone; stops after so many rounds."""
  return tiny.train_alone(config, folder,
                          lambda seen: len(seen) > stop_after)


def records(folder):
  return {line['entry']: line for line in
          workdir_lib.read_lines(folder / 'metrics.jsonl')
          if line['kind'] == 'task'}
