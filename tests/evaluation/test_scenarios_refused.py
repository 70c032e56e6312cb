"""Scenarios that are refused before training."""

import numpy as np
import pytest
import configs
import tiny

from mtl_jax.config import config as config_lib
from mtl_jax.data import sources
from mtl_jax.data import splits
from mtl_jax.data import suites


# Digits, and images whose labels are a number each.
NUMBERS = {'suite': {'kind': 'datasets', 'sources': ('digits', 'numbers'),
                     'image_shape': (8, 8, 3)}, 'phases__a__tasks': (0, 2),
           'phases__a__batch_size': 8, 'schedule': ('a',),
           'phases__b': configs.REMOVED}


def numbers():
  images = tiny.blobs().train.images
  return splits.divide('numbers', '1', 1, splits.Arrays(images, np.mean(
      images, (1, 2), np.float32)[:, :1] / 255))


@pytest.mark.parametrize('given, text', [
    ({'rule': 'one-shot'}, "unknown rule 'one-shot' .did you mean: one_shot"),
    ({'objective': 'energy'}, "unknown objective 'energy'"),
    ({'images_per_inference': 129},
     'identify.x: images_per_inference is 129; it '
     'must lie between 1 and batch_size, 128'),
    ({'images_per_inference': 0}, 'images_per_inference is 0'),
    ({'batches_per_task': -1}, 'batches_per_task must not be negative'),
    ({'task_counts': (1, 2)}, 'task_counts must be at least 2'),
    ({'rule': 'brute_force', 'objective': 'superfluous'}, 'only the gradient'),
    ({'batches': 2},
     'unknown key identify.x.batches .did you mean: batch_size, '
     'batches_per_task')])
def test_scenarios_that_are_refused(given, text):
  with pytest.raises(ValueError, match=text):
    config_lib.from_dict(configs.small(identify={'x': given}))


def test_scenarios_survive_json():
  config = config_lib.from_dict(configs.small(
      identify={'b': {'task_counts': [2, 4]}, 'a': {'rule': 'binary'}}))
  assert [s.name for s in config.identify] == ['a', 'b']
  written = tiny.json.loads(tiny.json.dumps(config_lib.to_dict(config)))
  assert config_lib.from_dict(written) == config


@pytest.mark.parametrize('changes, text', [
    ({'identify': {'x': {'objective': 'superfluous'}}},
     'x: the objective superfluous needs more outputs than the 10 classes'),
    ({'identify': {'x': {'objective': 'superfluous'}},
      'backbone__outputs': 20, 'phases__a__loss': 'classes'},
     "x: the objective superfluous reads outputs .* phase a .* loss='softmax'"),
    ({'identify': {'x': {'normalise': True, 'phases': ['a']}}},
     'identify.x: normalise divides coefficients, but phases a leave masks'),
    ({'identify': {'x': {'phases': ['a', 'b']}}, 'phases__b__pool': True},
     'identify.x: b is a pool, which leaves one impression for all its tasks'),
    ({'identify': {'x': {'phases': ['b', 'c']}}, 'phases__c': {
        'method': 'impresslearn', 'tasks': (4, 6), 'epochs': 2,
        'control': True, 'basis': {'kind': 'heterogeneous', 'size': 3,
                                   'phase': 'a'}}, 'schedule': ('a', 'b', 'c')},
     'identify.x: phases b, c combine different bases and cannot be'),
    ({'mixed_rows': 5}, 'mixed_rows is 5 but there are 6 tasks'),
    ({'mixed_rows': 9, 'phases__a__control': True, 'phases__b__pool': True},
     'mixed_rows is 9, but every phase is a control or a pool, which take no'),
    ({'mixed_rows': 9, 'schedule': ('a',), 'phases__b': configs.REMOVED,
      'phases__a__tasks': (0, 2), 'phases__a__batch_size': 8,
      'suite': {'kind': 'datasets', 'sources': ('digits', 'blobs'),
                'image_shape': (8, 8, 3)}, 'backbone__outputs': 20},
     'sources of tasks digits and blobs have images of different shapes'),
    ({'identify': {'x': {}}, 'phases__a__method': 'dedicated',
      'phases__a__options': {}, 'schedule': ('a',),
      'phases__b': configs.REMOVED},
     'phase a leaves weights of its own'),
    ({'identify': {'x': {}}, 'schedule': ('a',),
      'phases__b': configs.REMOVED, 'phases__a__tasks': (0, 2),
      'suite': {'kind': 'datasets', 'sources': ('digits', 'blobs'),
                'image_shape': (8, 8, 3)},
      'backbone__outputs': 20},
     'tasks digits and blobs prepare their images differently'),
    ({'identify': {'x': {}}, **NUMBERS}, 'x: task numbers is a regression'),
    ({'mixed_rows': 9, **NUMBERS}, 'mixed_rows: task numbers is a regression'),
    ({'phases__a__stream': {'every': 2}, **NUMBERS},
     'phase a: task numbers is a regression, whose output says nothing')])
def test_what_cannot_be_inferred_is_refused_before_training(
    tmp_path, monkeypatch, changes, text):
  sources.register('blobs', tiny.blobs)
  sources.register('numbers', numbers)
  for name in ('blobs', 'numbers'):
    monkeypatch.setitem(suites.STATISTICS, name, ((.1,), (.2,)))
  config = config_lib.from_dict(configs.small(**changes))
  with pytest.raises(ValueError, match=text):
    tiny.learn(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
