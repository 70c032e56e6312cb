"""Every field of a config can be set from a command line."""

import dataclasses
import re

import configs as fixtures
import ml_collections
import pytest

from mtl_jax.config import config as config_lib
from mtl_jax.config import files
from mtl_jax.config import overrides
from mtl_jax.config import parts
from mtl_jax.config import phase as phase_lib
from mtl_jax.config import schema


def built(*pairs, **changes):
  """The run of a small config, with fields set."""
  return config_lib.from_dict(overrides.apply(fixtures.small(**changes), pairs))


SHIPPED = {name: {'subnetworks_boston': ':x.csv', 'folder': ':a/b'}.get(
    name, '') for name in files.shipped()}


def load(name):
  return overrides.to_dict(files.load(name + SHIPPED[name]))


@pytest.mark.parametrize('name', SHIPPED)
def test_every_config_has_all_fields_and_their_defaults_change_nothing(name):
  given = load(name)
  plain = config_lib.from_dict(given)
  filled = config_lib.from_dict(schema.filled(given))
  assert filled.phases == plain.phases
  assert filled.identify == plain.identify
  known = schema.known(given)
  assert {f.name for f in dataclasses.fields(config_lib.Config)} <= {
      field.split('.')[0] for field in [*known, 'identify']}
  for phase in plain.phases:
    own = {field.removeprefix(f'phases.{phase.name}.').split('.')[0]
           for field in known if field.startswith(f'phases.{phase.name}.')}
    wanted = {f.name for cls in (phase_lib.Phase, parts.Training)
              for f in dataclasses.fields(cls)}
    assert wanted - own - {'options'} == {'name', 'training', 'driver'}


@pytest.mark.parametrize('name', SHIPPED)
def test_every_field_can_be_set_to_what_it_is(name):
  given = load(name)
  before = config_lib.from_dict(given)
  pairs = []
  for field, found in schema.known(given).items():
    value = overrides._at(given, field)
    value = found.default if value is None else value
    if value is not schema.REQUIRED and not found.inside:
      pairs.append((field, value if isinstance(value, str) else repr(value)))
  assert len(pairs) > 40
  after = config_lib.from_dict(overrides.apply(given, pairs))
  assert config_lib.to_dict(after) == config_lib.to_dict(before)


def test_fields_that_no_file_writes():
  made = built(('eval_batch_size', '500'), ('chunk_steps', '9'),
               ('tensorboard', 'True'), ('transparency', '7'),
               ('progress_seconds', '1e-1'), ('matrix', 'full'),
               ('phases.a.learning_rate', '3e-4'),
               ('phases.a.batch_size', '32'), ('backbone.seed', '5'),
               ('suite.seed', '4'), ('phases.b.options.penalty', '0.5'))
  assert (made.eval_batch_size, made.chunk_steps) == (500, 9)
  assert made.tensorboard is True and made.transparency == 7
  assert made.progress_seconds == 0.1 and made.matrix == 'full'
  assert made.phases[0].training.learning_rate == 3e-4
  assert made.phases[0].training.batch_size == 32
  assert made.backbone.seed == 5 and dict(made.suite.options)['seed'] == 4
  assert made.phases[1].options.penalty == .5


def test_parts_that_are_off_are_made_by_their_fields():
  made = built(('phases.a.early_stop.patience', '2'), ('phases.a.steps', '0'),
               ('phases.a.epochs', '4'),
               ('identify.mine.images_per_inference', '3'),
               ('identify.mine.phases', 'a'))
  assert made.phases[0].early_stop.patience == 2
  assert made.identify[0].name == 'mine'
  assert made.identify[0].images_per_inference == 3
  assert made.identify[0].phases == ('a',)


def test_a_number_or_a_word():
  for text, value in (('auto', 'auto'), ('4', 4)):
    made = built(('phases.a.tasks_at_once', text))
    assert made.phases[0].tasks_at_once == value


def test_a_mesh_is_made_by_its_fields():
  assert built().mesh is None
  assert built(('mesh.model', '4')).mesh == parts.MeshAxes(model=4)


def test_parts_are_turned_off():
  asked = {'mine': {'phases': ('a',)}}
  assert built(identify=asked).identify
  assert built(('identify', 'None'), identify=asked).identify == ()


def test_an_option_may_be_named_flat_or_in_options():
  for name in ('phases.a.density', 'phases.a.options.density'):
    assert built((name, '0.25')).phases[0].options.density == .25


def test_what_is_chosen_decides_which_fields_there_are():
  made = built(('suite.groups', '((0, 1), (2, 3))'), ('suite.kind', 'split'),
               ('suite.num_tasks', 'None'))
  assert made.suite.kind == 'split'
  assert dict(made.suite.options)['groups'] == ((0, 1), (2, 3))


def test_a_field_set_to_its_default_leaves_the_config_as_it_was():
  assert config_lib.to_dict(built(('suite.augment', '0'))) == (
      config_lib.to_dict(built()))


def test_references_follow():
  """An ml_collections reference to a field that is set."""
  config = ml_collections.ConfigDict(fixtures.small())
  config.phases.b.batch_size = config.phases.a.get_oneway_ref('steps')
  config.lock()
  made = config_lib.from_dict(overrides.apply(config, [
      ('phases.a.steps', '64')]))
  assert made.phases[1].training.batch_size == 64


@pytest.mark.parametrize('name, text, said', [
    ('tensorbord', '1', 'config has no field tensorbord (did you mean: tens'),
    ('phases.aa.steps', '1', 'phases of the config has no field aa (did you m'),
    ('phases.a.step', '1', 'phases.a of the config has no field step (did you'),
    ('phases.a.options.densty', '1', 'no field densty (did you mean: density'),
    ('suite.sorce', 'x', 'no field sorce (did you mean: source'),
    ('seed.x', '1', 'seed of the config has no fields'),
    ('seed', 'abc', "seed is 'abc'; it must be a whole number"),
    ('tensorboard', 'maybe', "tensorboard is 'maybe'; it must be True or Fal"),
    ('phases.a.learning_rate', 'fast', "is 'fast'; it must be a number"),
    ('phases.a.tasks_at_once', 'most', "is 'most'; give a number, or 'auto'"),
    ('phases.a.tasks_at_once', '1.5', 'must be a whole number or a string'),
    ('seed', '1.5', 'seed is 1.5; it must be a whole number'),
    ('phases.a.tasks', '3', 'tasks 3 is not a range')])
def test_what_is_refused(name, text, said):
  with pytest.raises(ValueError, match=re.escape(said)):
    built((name, text))
