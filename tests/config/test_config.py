"""Configs: every file builds, and whatever is wrong is refused by name."""

import copy
import json

import jax.numpy as jnp
import configs
import pytest

from mtl_jax import methods
from mtl_jax.config import config as config_lib
from mtl_jax.config import parts as config_parts
from mtl_jax.methods import impresslearn
from mtl_jax.methods import supsup


def test_the_configs_are_found():
  assert {'quickstart'} < {path.stem for path in configs.FILES}


@pytest.mark.parametrize('path', configs.FILES, ids=lambda path: path.stem)
def test_every_config_file_survives_json(path):
  fields = configs.load(path)
  kept = copy.deepcopy(fields)
  config = config_lib.from_dict(fields)
  assert fields == kept  # the caller's dict is not eaten
  assert hash(config) == hash(config_lib.from_dict(fields))
  written = json.loads(json.dumps(config_lib.to_dict(config)))
  assert config_lib.from_dict(written) == config
  assert config_lib.to_dict(config_lib.from_dict(written)) == written
  # Nothing that the file says is lost.
  assert written['seed'] == fields['seed']
  assert written['suite'] == json.loads(json.dumps(fields['suite']))
  for name, phase in fields['phases'].items():
    for key, value in phase.items():
      found = written['phases'][name].get(key)
      said = json.loads(json.dumps(value))
      if key == 'options':  # those that say the default are left out
        assert found.items() <= said.items()
        assert methods.options_of(phase['method'], found) == (
            methods.options_of(phase['method'], said))
      elif isinstance(value, dict):
        assert found | said == found  # with the defaults of what isn't said
      else:
        assert found == said
  assert [phase.name for phase in config.phases] == list(fields['schedule'])


def test_a_config_is_frozen_dataclasses_with_defaults():
  config = config_lib.from_dict(configs.small(
      matrix='full', phases__a__repeats=2, backbone__options={}))
  first, second = config.phases
  assert (config.seed, config.matrix, first.repeats) == (1, 'full', 2)
  assert config.suite.options == (('num_tasks', 6), ('source', 'digits'))
  assert first.tasks == (0, 4) and first.driver is None
  assert second.options.basis == impresslearn.Basis('heterogeneous', 4, 'a')
  assert first.training == config_parts.Training(
      steps=5, optimizer='rmsprop', learning_rate=1e-4, batch_size=128)
  assert first.options == methods.options_of('supsup', dict(
      density=.5, masked=('.*kernel',), sampler='top_k'))
  assert isinstance(first.options, supsup.Options)
  with pytest.raises(AttributeError):
    config.seed = 2


def test_steps_or_epochs_make_the_recipe():
  first, second = config_lib.from_dict(configs.small(
      phases__a__learning_rate=.5, phases__a__momentum=.9,
      phases__a__optimizer='sgd',
      phases__b__batch_size=30)).phases
  assert first.recipe(1000).steps == 5
  assert first.recipe(1000).learning_rate == .5
  assert first.recipe(1000).momentum == .9
  assert second.recipe(100).steps == 2 * 3  # 3 whole batches an epoch


def test_options_reach_the_method():
  method = config_lib.from_dict(configs.small()).phases[0].make_method()
  scores = {'kernel': jnp.array([-3., 1., 2., 0.])}
  impression, _ = method.commit({}, scores, {}, None)
  assert impression.masks['kernel'].tolist() == [True, False, True, False]


WRONG = [
    # Unknown keys, at every level.
    ({'sede': 1}, r'unknown key sede \(did you mean: seed\?\); known: .*seed'),
    ({'backbone__modle': 1},
     r'unknown key backbone\.modle \(did you mean: model\?\)'),
    ({'phases__a__step': 1},
     r'unknown key phases\.a\.step \(did you mean: steps, stream, eps\?\)'),
    ({'phases__b__basis__sise': 1},
     r'unknown key phases\.b\.basis\.sise \(did you mean: size\?\)'),
    ({'phases__a__options__densty': .5}, r'densty.*did you mean: density'),
    ({'backbone__options': {'widht': 4}, 'backbone__model': 'gem_resnet18'},
     r'widht.*did you mean: width'),
    # Unknown names.
    ({'phases__a__method': 'supsub'},
     r"unknown method 'supsub' \(did you mean: supsup\?\); known: .*dedicated"),
    ({'backbone__model': 'lenet'},
     r"unknown model 'lenet'.*known: bnnet, .*fc1024, .*gem_resnet18"),
    ({'phases__a__optimizer': 'adamm'},
     r"unknown optimizer 'adamm' \(did you mean: adam\?\); known: adam, rmsp"),
    ({'phases__a__schedule': 'linear'},
     "unknown schedule 'linear'.*constant, cosine"),
    ({'backbone__init': 'zeros'}, "unknown backbone init 'zeros'"),
    ({'matrix': 'none'}, "matrix is 'none'; known: 'full', 'final'"),
    ({'phases__b__basis__kind': 'homogenous'},
     r"unknown basis kind 'homogenous' \(did you mean: homogeneous"),
    # What is missing.
    ({'seed': configs.REMOVED}, 'the config lacks seed'),
    ({'schedule': configs.REMOVED}, 'the config lacks schedule'),
    ({'phases__a__tasks': configs.REMOVED}, r'phases\.a lacks tasks'),
    ({'backbone__outputs': configs.REMOVED}, 'backbone.outputs is missing; gi'),
    ({'phases': {}, 'schedule': ()}, 'nothing would be learned'),
    # Values.
    ({'phases__a__steps': 0}, 'phase a: give either steps or epochs'),
    ({'phases__a__epochs': 1}, 'phase a: give either steps or epochs'),
    ({'phases__a__steps': -1}, 'steps is -1; it must be above 0'),
    ({'phases__a__batch_size': 0}, 'batch_size is 0; it must be above 0'),
    ({'phases__a__learning_rate': 0.}, 'learning_rate is 0.0; it must be'),
    ({'phases__a__tasks': (3, 3)}, r'phase a: tasks \(3, 3\) is not a range'),
    ({'phases__a__tasks': (-1, 3)}, r'phase a: tasks \(-1, 3\) is not a ran'),
    ({'phases__a__tasks': (3,)}, 'phase a: tasks'),
    ({'phases__a__tasks': 3}, 'phase a: tasks'),
    ({'phases__a__repeats': 0}, 'tasks_at_once and repeats must be at least'),
    ({'phases__a__tasks_at_once': 0}, 'tasks_at_once and repeats must be at'),
    ({'chunk_steps': 0}, 'chunk_steps is 0'),
    ({'eval_batch_size': 0}, 'eval_batch_size is 0'),
    ({'backbone__outputs': 0}, 'outputs is 0'),
    ({'seed': -1}, 'seed is -1'),
    ({'phases__a__options__density': None}, 'exactly one of density and eps'),
    # Bases.
    ({'phases__a__basis': {'kind': 'random', 'size': 1, 'density': .5}},
     r'unknown key phases\.a\.basis, an option of impresslearn alone; known: '),
    ({'phases__b__basis__size': 0}, 'basis size is 0; it must be at least 1'),
    ({'phases__b__basis__phase': None}, 'needs the phase that trains them'),
    ({'phases__b__basis__density': .5}, 'a random basis needs a density, and'),
    ({'phases__b__basis__kind': 'random'}, 'a random basis needs a density'),
    # The schedule names every phase once.
    ({'schedule': ('a',)}, 'must name every phase once; the phases are: a, b'),
    ({'schedule': ('a', 'b', 'c')}, 'must name every phase once'),
    ({'schedule': ('a', 'b', 'b')}, 'must name every phase once'),
    ({'schedule': 'ab'}, r"schedule \('ab',\) must name every phase once"),
    ({'schedule': None}, 'schedule None must name every phase once'),
    ({'schedule': ('a', 3)}, r"schedule \('a', 3\) must name every phase"),
]


@pytest.mark.parametrize('change, message', WRONG)
def test_what_is_wrong_is_named(change, message):
  config_lib.from_dict(configs.small())
  with pytest.raises(ValueError, match=message):
    config_lib.from_dict(configs.small(**change))


# What needs the other phases, or the backbone, is known once these are.
LATER = [
    ({'phases__b__basis': None}, 'phase b: impresslearn needs a basis'),
    ({'phases__b__basis__size': 5},
     'phase b: a heterogeneous basis of 5 masks, but phase a trains 4'),
    ({'phases__b__basis__kind': 'homogeneous'}, 'of 4 masks, but .* trains 1'),
    ({'phases__b__basis__phase': 'c'}, "phase 'c', which must be an earlier"),
    ({'phases__b__basis__phase': 'b'}, 'an earlier one; earlier phases: a'),
    ({'schedule': ('b', 'a')}, 'an earlier one; earlier phases: none'),
    ({'phases__b__method': 'joint', 'phases__b__basis': None},
     'phase b: joint without together would train a network for each task'),
    ({'phases__a__options__masked': ['.*kernal']},
     "phase a: pattern '.*kernal' matches no leaf"),
]


@pytest.mark.parametrize('change, message', LATER)
def test_what_is_wrong_beside_other_phases_is_named(change, message):
  configs.check(configs.small())
  with pytest.raises(ValueError, match=message):
    configs.check(configs.small(**change))


def test_a_key_is_named_as_it_was_given():
  nested = configs.small(phases__b__basis=None, phases__b__options={
      'basis': {'kind': 'random', 'sise': 3}})
  with pytest.raises(ValueError, match=r'key phases\.b\.options\.basis\.sise'):
    config_lib.from_dict(nested)
  with pytest.raises(ValueError, match=r'key phases\.b\.basis\.sise'):
    config_lib.from_dict(configs.small(phases__b__basis__sise=3))


def test_an_option_may_stand_among_the_fields_of_its_phase():
  fields = configs.small()
  flat = fields['phases']['a'].pop('options')
  fields['phases']['a'] |= flat
  assert config_lib.from_dict(fields) == config_lib.from_dict(configs.small())
