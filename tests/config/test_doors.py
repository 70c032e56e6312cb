"""Numbers of other types are taken, or refused before a folder is made."""

import datetime
import decimal
import enum
import fractions
import json
import pathlib

import configs
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
    ('phases__a__tasks', range(0, 8, 4), [0, 4]),
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
    ('backbone__options', {3: 4}, "backbone.options|has a field 3|3")])
def test_refused(path, value, said, tmp_path):
  with pytest.raises(ValueError, match=said):
    experiment.run(config_lib.from_dict(configs.small(**{path: value})),
                   tmp_path / 'run', quiet=True)
  assert not (tmp_path / 'run').exists()


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
