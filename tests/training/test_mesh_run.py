"""A run on a mesh leaves what a run without one does."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from mtl_jax.config import config as config_lib
from mtl_jax.storage import workdir as workdir_lib

pytestmark = pytest.mark.skipif(jax.device_count() != 8, reason=(
    'a mesh of eight devices'))
MASKS = dict(method='supsup', steps=4, batch_size=16, optimizer='adam',
             learning_rate=1e-2)


def config(mesh=True, **changes):
  """Three supermasks, two at once, and coefficients over two of them."""
  given = tiny.get_config('infer')
  given.chunk_steps, given.progress_seconds = 2, 0.
  given.phases = dict(
      masks=dict(MASKS, tasks=(0, 3), tasks_at_once=2, options=dict(
          sampler='top_k', density=.5)) | changes,
      mixed=dict(MASKS, tasks=(3, 4), method='impresslearn', basis=dict(
          kind='heterogeneous', size=2, phase='masks')))
  given.schedule = ('masks', 'mixed')
  given.mesh = dict(tasks=2, data=2, model=2) if mesh else None
  return config_lib.from_dict(given.to_dict())


def masks_of(run):
  return {name: jax.tree.map(np.asarray, run.system.task(name).impression.masks)
          for name in run.workdir.task_names()}


@pytest.mark.slow
def test_masks_and_accuracies_are_those_without_a_mesh(tmp_path):
  tiny.check(config())
  one, _ = tiny.train_alone(config(), tmp_path / 'mesh')
  other, _ = tiny.train_alone(config(mesh=False), tmp_path / 'plain')
  assert len(one.workdir.task_names()) == 4
  for name, mask in masks_of(other).items():
    for found, expected in zip(jax.tree.leaves(masks_of(one)[name]),
                               jax.tree.leaves(mask), strict=True):
      np.testing.assert_array_equal(found, expected)
    records = [run.system.record(name) for run in (one, other)]
    assert records[0]['accuracy'] == records[1]['accuracy']


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_bits(tmp_path):
  tiny.train_alone(config(), tmp_path / 'run')
  with pytest.raises(tiny.Stopped):
    tiny.train_alone(config(), tmp_path / 'stopped', lambda seen: len(seen) > 2)
  assert list(workdir_lib.Workdir(tmp_path / 'stopped').progress.iterdir())
  tiny.train_alone(config(), tmp_path / 'stopped')
  assert tiny.bits(tmp_path / 'stopped') == tiny.bits(tmp_path / 'run')


@pytest.mark.parametrize('changes, text', [
    (dict(method='dedicated', tasks_at_once=1, options={}),
     'phase masks: the arrays of dedicated are not divided over devices; leave '
     'out mesh, or take one of .*supsup'),
    (dict(tasks_at_once=1, options={}, stream=dict(every=2)),
     'phase masks: a mesh divides tasks that are trained apart'),
])
def test_what_no_mesh_divides_is_refused(changes, text):
  with pytest.raises(ValueError, match=text):
    config(**changes)


def test_a_mesh_of_other_devices_is_refused():
  made = config()
  with pytest.raises(ValueError, match='mesh 1 x 2 x 2 takes 4 devices'):
    tiny.check(dataclasses.replace(made, mesh=dataclasses.replace(
        made.mesh, tasks=1)))
  with pytest.raises(ValueError, match='tasks, data and model must be at least '
                                       '1'):
    dataclasses.replace(made.mesh, model=0)
  with pytest.raises(ValueError, match='batch_size is 15, but mesh.data'):
    tiny.check(config(batch_size=15))
