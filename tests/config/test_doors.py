"""Numbers of other types are taken, or refused before a folder is made."""

import datetime
import decimal
import enum
import fractions
import json
import pathlib

import configs
import jax
import numpy as np
import pytest
import tiny

from mtl_jax import experiment
from mtl_jax import fields
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.data import suites


class Seed(enum.IntEnum):
  three = 3


class Kind(enum.StrEnum):
  permuted = 'permuted'


def kept(**changes):
  """What a run would write to config.json, read again."""
  config = config_lib.from_dict(configs.small(**changes))
  text = json.dumps(config_lib.to_dict(config), allow_nan=False)
  assert config_lib.from_dict(json.loads(text)) == config
  return json.loads(text)


@pytest.mark.parametrize('path, value, wanted', [
    ('seed', np.int64(3), 3), ('seed', Seed.three, 3), ('seed', np.array(3), 3),
    ('suite__num_tasks', np.uint8(6), 6), ('suite__kind', Kind.permuted,
                                           'permuted'),
    ('suite__normalise', (fractions.Fraction(1, 2), np.float32(.5)), [.5, .5]),
    ('suite__image_shape', np.array([8, 8, 1]), [8, 8, 1]),
    ('suite__augment', np.int8(0), 0), ('tensorboard', np.bool_(False), False),
    ('progress_seconds', fractions.Fraction(1, 2), .5),
    ('progress_seconds', decimal.Decimal('.5'), .5),
    ('phases__a__tasks', np.array([0, 4]), [0, 4]),
    ('phases__a__tasks', range(2), [0, 2]),
    ('phases__a__tasks', range(0, 4), [0, 4]),
    ('phases__a__learning_rate', np.float64(.25), .25),
    ('phases__a__control', np.True_, True)])
def test_taken(path, value, wanted):
  found = kept(**{path: value})
  for name in path.split('__'):
    found = found[name]
  assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize('path, value, said', [
    ('seed', True, 'seed is True; it must be a whole number'),
    ('seed', 3., 'seed is 3.0; it must be a whole number'),
    ('seed', fractions.Fraction(3), 'seed is 3.0; it must be a whole number'),
    ('phases__a__steps', np.True_, 'phases.a.steps is True'),
    ('phases__a__tasks', (False, True), r'tasks \(False, True\) is not a rang'),
    ('phases__a__control', 1, 'phases.a.control is 1; it must be True or Fals'),
    ('tensorboard', 'False', "tensorboard is 'False'"),
    ('progress_seconds', np.inf, 'progress_seconds is inf; it must be finite'),
    ('phases__a__steps', 10 ** 400, 'phases.a.steps has 401 digits'),
    ('phases__a__learning_rate', 1 + 0j, 'learning_rate is'),
    ('suite__image_shape', {8, 1}, 'suite.image_shape is .*, of type set'),
    ('suite__seed', datetime.date(2020, 1, 1), 'suite.seed is .*of type date'),
    ('suite__source', print, 'suite.source is <built-in'),
    ('backbone__options', {3: 4}, '^backbone.options has a field 3; names'),
    ('backbone__options', 3, '^backbone.options is 3; it must be a dict of'),
    ('backbone__options', 'ab', "^backbone.options is 'ab'; it must be a dict"),
    ('suite__options', 3, '^suite.options is 3; it must be a dict of fields'),
    ('suite__options', {3: 4}, '^suite.options has a field 3'),
    # Beyond what floats have.
    ('seed', fractions.Fraction(10 ** 400), 'seed is inf; it must be a whole'),
    ('phases__a__learning_rate', fractions.Fraction(-10 ** 400),
     'learning_rate is -inf'),
    ('phases__a__learning_rate', decimal.Decimal('sNaN'),
     'phases.a.learning_rate is nan; it must be a number'),
    ('phases__a__learning_rate', 1e-320,
     'phase a: learning_rate is 1e-320, which float32 takes for 0 or infini'),
    ('phases__a__learning_rate', 1e308, 'give one between 1e-37 and 1e38'),
    ('suite__normalise', (.5, 1e-40), 'std .* is beyond what float32 divides'),
    ('suite__normalise', (1e300, .5), 'mean .* is beyond what float32 divid'),
    ('suite__normalise', (1, (2, (3,))), r'suite.normalise is .*; it must be '
     r'\(mean, std\), each a finite number or a sequence'),
    # What no run means.
    ('progress_seconds', -1, 'progress_seconds is -1.0; it must be at least'),
    ('suite__num_tasks', 2 ** 31, 'suite.num_tasks is 2147483648; .* at most '
                                  '1,000,000'),
    ('suite__augment', 8, 'suite.augment is 8; .* between 0, which is none, '
                          'and 7, as the images are 8 x 8'),
    ('suite__augment', -1, 'suite.augment is -1'),
    ('suite__drop_shared', None, 'suite.drop_shared is None; it must be True'),
    ('suite__source', 'x' * 300, 'missing .*xxx'),
    ('backbone__outputs', 2 ** 40, 'backbone lenet_300_100 with 1099511627776 '
     'outputs takes .* GB, and this machine has .* smaller backbone.outputs'),
    ('phases__a__repeats', 2 ** 31, 'phase a: .* repeats at most 100,000; got '
                                    '1 and 2147483648'),
    ('phases__a__batch_size', 2 ** 40, 'batch_size is 1099511627776 but the'),
    ('seed', jax.random.key(3), '(?s)seed is Array.*; it must be a whole numb'),
    ('phases__a__tasks', range(0, 8, 4), r'phases\.a\.tasks is range\(0, 8, 4'
     r'\); a phase takes all tasks .*give \(first, last \+ 1\)'),
    ('phases__a__together', np.array([1, 2]),
     r"phases.a.together is \(1, 2\); known: \(None, 'joint'"),
    ('phases__a__method', {'a': 1}, "unknown method {'a': 1}; known: batche"),
    ('phases__a__method', ['supsup'], r"unknown method \['supsup'\]"),
    # What another field overrides.
    ('phases__a__momentum', .9, "phase a: momentum is 0.9, and optimizer "
     "'rmsprop' takes none; leave it out, or set optimizer='sgd'"),
    ('phases__a__milestones', (.5,), "milestones is .0.5,. with schedule "
     "'constant'; 'halved', and it alone, takes"),
    ('phases__a__schedule', 'halved', "milestones is .. with schedule 'halv")])
def test_refused(path, value, said, tmp_path):
  with pytest.raises((ValueError, FileNotFoundError), match=said):
    experiment.run(config_lib.from_dict(configs.small(**{path: value})),
                   tmp_path / 'run', quiet=True)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('given', [3, None, 'x'])
def test_a_config_is_a_dict(given):
  with pytest.raises(ValueError, match='^the config is .*must be a dict of fi'):
    config_lib.from_dict(given)


@pytest.mark.parametrize('milestones', [(0.,), (1.,), (-.5,), (2, 3)])
def test_milestones_are_fractions_of_the_steps(milestones):
  given = dict(phases__a__schedule='halved', phases__a__milestones=milestones)
  with pytest.raises(ValueError, match='each is a fraction of the steps, betw'):
    config_lib.from_dict(configs.small(**given))
  config_lib.from_dict(configs.small(**given | {
      'phases__a__milestones': (.25, .75)}))


@pytest.mark.parametrize('fixed', [3, 'ab', (1, 2), ((1, 2),), {1: 2}, [[]]])
def test_what_a_search_fixes_is_named_by_hyper_parameter(fixed):
  with pytest.raises(ValueError, match='fixed is .*; give a dict of|has no 1'):
    config_lib.from_dict(configs.small(phases__a__search={'fixed': fixed}))


def test_a_part_that_lacks_a_field_names_it():
  with pytest.raises(ValueError, match='phases.b.basis.size is missing; give'):
    config_lib.from_dict(configs.small(phases__b__basis={
        'kind': 'heterogeneous', 'phase': 'a'}))


def test_paths_become_strings():
  assert fields.frozen({'weights': pathlib.Path('a/b')}) == (
      ('weights', 'a/b'),)


# Names.


@pytest.mark.parametrize('name', ['größe', '相', 'a.b-c_d', 'x' * 60, '模' * 20])
def test_names_of_phases(name, tmp_path):
  config = tiny.get_config('few').to_dict()
  config['phases'] = {name: config['phases']['basis'] | {
      'control': True, 'tasks': (0, 1), 'steps': 2}}
  config['schedule'] = (name,)
  config['suite'] |= {'names': [f't{i}' + 'ж' * 45 for i in range(14)]}
  experiment.run(config_lib.from_dict(config), tmp_path / 'run', quiet=True)
  task, = (tmp_path / 'run/tasks').iterdir()
  assert task.name.endswith(f'@{name}')
  assert 'Traceback' not in (tmp_path / 'run/report.html').read_text('utf-8')


@pytest.mark.parametrize('name', ['a b', '', '/', '../x', 'x' * 61, '模' * 21,
                                  'a@b', '.a'])
def test_names_of_phases_that_no_file_can_have(name):
  given = configs.small()
  given['phases'][name] = given['phases'].pop('b')
  with pytest.raises(ValueError, match='a name has letters, digits, _, . and -'
                                       ', at most 60 bytes'):
    config_lib.from_dict(given | {'schedule': ('a', name)})


def test_phases_that_differ_in_case_only():
  given = configs.small()
  given['phases']['A'] = given['phases']['a'] | {'control': True}
  config = config_lib.from_dict(given | {'schedule': ('a', 'b', 'A')})
  suite = suites.make(config.suite.kind, **dict(config.suite.options))
  with pytest.raises(ValueError, match="phases 'a' and 'A' would share files"):
    plan.check(config, suite)
