"""Values that no run could mean: refused first, by the name of their field."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import configs
import tiny
import tiny_subnetworks as little

import mtl_jax
from mtl_jax import masks
from mtl_jax.config import config as config_lib
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import claims
from mtl_jax.training import commit
from mtl_jax.training import loop

NAN = float('nan')


def changed(name, value):
  """A config's dict with one field changed, by dotted name."""
  fields = configs.small()
  *path, last = name.split('.')
  node = fields
  for part in path:
    node = node[part]
  node[last] = value
  return fields


@pytest.mark.parametrize('name, value, text', [
    ('seed', '0', "seed is '0'; it must be a whole number"),
    ('seed', 1.5, 'seed is 1.5; it must be a whole number'),
    ('seed', True, 'seed is True; it must be a whole number'),
    ('progress_seconds', 'x', "progress_seconds is 'x'; it must be a number"),
    ('progress_seconds', NAN, 'progress_seconds is nan; it must be a number'),
    ('tensorboard', 'false', "tensorboard is 'false'; it must be True or"),
    ('phases', None, 'phases is None; it must be a dict of fields'),
    ('suite', 'digits', "suite is 'digits'; it must be a dict of fields"),
    ('phases.a', 3, 'phases.a is 3; it must be a dict of fields'),
    ('phases.a.steps', 2.5, 'phases.a.steps is 2.5; it must be a whole'),
    ('phases.b.epochs', -2, 'phase b: epochs is -2; it must be above 0'),
    ('phases.b.batch_size', 0, 'phase b: batch_size is 0; it must be above 0'),
    ('phases.a.control', 'no', "phases.a.control is 'no'; it must be True or"),
    ('phases.a.learning_rate', NAN, 'phases.a.learning_rate is nan; it must'),
    ('phases.a.learning_rate', float('inf'), 'learning_rate is inf'),
    ('phases.a.weight_decay', -1., 'weight_decay is -1.0; it must not be'),
    ('phases.a.momentum', 2., r'momentum is 2.0; it must lie in \[0, 1\)'),
    ('phases.b.basis', 'random', "phases.b.basis is 'random'; it must be a"),
    ('backbone.outputs', 20.5, 'backbone.outputs is 20.5; it must be a whole'),
    ('backbone.model', 3, 'backbone.model is 3; it must be a string')])
def test_types_of_fields(name, value, text):
  with pytest.raises(ValueError, match=text):
    config_lib.from_dict(changed(name, value))


@pytest.mark.parametrize('name', ['x/y', '../x', 'a b', 'a*', '[a]', '', '.a'])
def test_names_of_phases_become_names_of_files(name):
  fields = configs.small()
  fields['phases'] = {name: fields['phases']['a']}
  fields['schedule'] = (name,)
  with pytest.raises(ValueError, match='a name has letters, digits'):
    config_lib.from_dict(fields)


@pytest.mark.parametrize('option, value, text', [
    ('num_tasks', '3', "suite.num_tasks is '3'; it must be a whole number"),
    ('num_tasks', 2.5, 'suite.num_tasks is 2.5; it must be a whole number'),
    ('seed', 'a', "suite.seed is 'a'; it must be a whole number"),
    ('source', 3, 'suite.source is 3; it must be the name of a source'),
    ('image_shape', (28, 28), r'image_shape is \(28, 28\); it must be \(H, W'),
    ('image_shape', (28, 0, 1), 'three whole numbers above 0'),
    ('normalise', (.5,), r'suite.normalise is \(0.5,\); it must be \(mean')])
def test_options_of_suites(option, value, text):
  options = dict(source='digits', num_tasks=2) | {option: value}
  with pytest.raises(ValueError, match=text):
    suites.make('permuted', **options)


# Before anything is trained.


@pytest.mark.parametrize('changes, text', [
    ({'phases__impress__options__head': '.*Dense_9.*'}, 'impress.*Dense_9'),
    ({'phases__impress__options__head': '.*'}, 'takes every leaf'),
    ({'phases__impress__options__penalty': NAN}, 'penalty is nan'),
    ({'phases__impress__options__penalty': -1.}, 'penalty is -1.0'),
    ({'phases__basis__method': 'dedicated'},
     'phase impress: its basis comes from phase basis, which leaves no masks'),
    ({'phases__basis__pool': True, 'phases__impress__basis__size': 2},
     'a heterogeneous basis of 2 masks, but phase basis trains 1'),
    ({'phases__impress__basis': dict(kind='random', size=2, density=1.5)},
     r'basis density is 1.5; it must lie in \(0, 1\]'),
    ({'phases__basis__options': dict(sampler='top_k', density=1.5)},
     'density of .* is 1.5; it must lie between 0 and 1'),
    ({'phases__basis__options': dict(sampler='top_k', density='0.5')},
     "basis.options.density is '0.5'; it must be a number")])
def test_later_phases_are_checked_first(tmp_path, monkeypatch, changes, text):
  monkeypatch.setattr(loop, 'learn_phase', None)
  fields = tiny.make('few')
  fields = config_lib.to_dict(fields)
  for name, value in changes.items():
    *path, last = name.split('__')
    node = fields
    for part in path:
      node = node[part]
    node[last] = value
  with pytest.raises(ValueError, match=text):
    tiny.learn(config_lib.from_dict(fields), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_masks_of_subnetworks_can_be_a_basis(tmp_path):
  """ImpressLearn over the masks that another phase allocated."""
  config = little.get_config(net=dict(tasks=(0, 2)), over=dict(
      method='impresslearn', tasks=(2, 3), allocation=None,
      basis=dict(kind='heterogeneous', size=2, phase='net')))
  tiny.learn(little.make(config), tmp_path)
  system = mtl_jax.load(tmp_path)
  coefficients = system.task('permuted-02').impression.coefficients
  assert {a.shape for a in jax.tree.leaves(coefficients)} == {(2,)}


def test_tasks_at_once_need_epochs_of_one_length(tmp_path):
  random = np.random.RandomState(0)
  labels = np.repeat([0, 1, 2, 3], [100, 100, 20, 20])
  sources.register('uneven', lambda: sources.from_arrays(
      'uneven', random.randint(0, 256, (240, 8, 8)).astype(np.uint8), labels))
  config = tiny.make('few')
  fields = config_lib.to_dict(config)
  fields['suite'] = dict(kind='split', source='uneven', classes_per_task=2)
  fields['phases'] = {'a': dict(
      method='supsup', tasks=(0, 2), epochs=2, batch_size=8,
      tasks_at_once=2)}
  fields['schedule'] = ('a',)
  with pytest.raises(ValueError, match='phase a: .*split-0'):
    tiny.learn(config_lib.from_dict(fields), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('density', [np.float32(.5), jnp.float32(.5), .5,
                                     np.float64(.5), np.array(.5)])
def test_densities_are_numbers_of_any_kind(density):
  scores = {'a': jnp.arange(8.), 'b': None}
  assert int(masks.top_k(scores, density)['a'].sum()) == 4


@pytest.mark.parametrize('field', ['seed', 'backbone__seed'])
def test_seeds_that_keys_would_cut(field):
  with pytest.raises(ValueError, match='2 .. 32'):
    tiny.make('few', **{field: 1 << 32})
  tiny.make('few', **{field: (1 << 32) - 1})


# What training made of itself.


def test_nothing_of_nan_or_empty_is_stored(tmp_path):
  wild = dict(optimizer='sgd', learning_rate=1e30, weight_decay=1e20)
  config = tiny.only('basis', kind='few', **{
      f'phases__basis__{name}': value for name, value in wild.items()})
  with pytest.raises((FloatingPointError, ValueError),
                     match='(NaN or infinity|an empty mask).*nothing was '
                           'stored|the loss of task'):
    tiny.learn(config, tmp_path / 'run')
  assert not list((tmp_path / 'run/tasks').iterdir())


def test_soundness_of_what_a_task_leaves():
  entry = type('Entry', (), {'name': 'a', 'phase': tiny.make('one').phases[0]})
  with pytest.raises(FloatingPointError,
                     match='would leave scores or weights/w with NaN'):
    claims.require_finite(entry, {'scores or weights': {
        'w': np.full((2, 2), NAN), 'b': None}})
  impression = commit.impressions.Impression(
      masks={'w': np.zeros((2, 2), bool)})
  with pytest.raises(ValueError, match='would leave an empty mask of w, thr'):
    claims.require_sound(entry, impression, {})
  sound = impression._replace(masks={'w': np.eye(2, dtype=bool), 'b': None})
  claims.require_sound(entry, sound, {})
  with pytest.raises(FloatingPointError, match='would leave shared/owner with'):
    claims.require_sound(entry, sound, {'owner': np.array([NAN])})


def test_seconds_are_divided_by_the_tasks_that_shared_them(tmp_path,
                                                           monkeypatch):
  """Nine tasks, eight at once: the last one had its time to itself."""
  shares, describe = [], commit.describe

  def noted(run, entry, impression, curve, trained, *rest):
    shares.append(trained.entries)
    return describe(run, entry, impression, curve, trained, *rest)
  monkeypatch.setattr(commit, 'describe', noted)
  tiny.train_alone(tiny.only('many', phases__many__tasks=(0, 9)), tmp_path)
  assert shares == [8] * 8 + [1]


# Two processes.


def test_one_process_at_a_time(tmp_path):
  work = workdir_lib.Workdir(tmp_path / 'run')
  code = ('import sys; from mtl_jax.storage import workdir\n'
          'with workdir.Workdir(sys.argv[1]).locked(): pass')
  start = lambda: subprocess.run(
      [sys.executable, '-c', code, str(work.root)], capture_output=True,
      text=True, check=False, env=os.environ | {
          'PYTHONPATH': str(pathlib.Path(__file__).parents[1])})
  with work.locked():
    other = start()
  assert other.returncode and (
      f'pid {os.getpid()}) works in {work.root}' in other.stderr)
  assert not start().returncode
  with work.locked():  # and again, in this one
    pass
