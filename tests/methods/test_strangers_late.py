"""A stranger's method that fails after the check: a sentence, and no loss."""

import json
import pathlib
import shutil
import types

import pytest
import tiny

from mtl_jax import experiment
from mtl_jax import methods
from mtl_jax import registry
from mtl_jax.training import method_errors

PLUGIN = '''
import jax
from mtl_jax import methods

def prepare(context):
  if len(context.earlier) == 1:
    {late}
  return {{}}

def mine():
  return methods.make('supsup')._replace(
      prepare=prepare, relies_on=methods.base.same_phase)

methods.register('mine', mine)
'''


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
  monkeypatch.setattr(methods.METHODS, '_known', dict(methods.METHODS))
  monkeypatch.setattr(methods, '_OPTIONS', dict(methods._OPTIONS))
  yield
  methods.of_options.cache_clear()


class Own(Exception):
  """An error of the caller's."""


def test_an_error_of_another_file_is_not_the_methods():
  phase = types.SimpleNamespace(name='a', method='mine')
  methods.register('mine', lambda: methods.make('supsup'))
  with pytest.raises(ValueError, match='fails: Own: mine'):
    with method_errors.named(phase):
      raise Own('mine')  # in the file that registered the method
  with pytest.raises(json.JSONDecodeError):
    with method_errors.named(phase):
      json.loads('')
  registry.load_plugins(pathlib.Path(__file__).parents[2] / 'examples/lora.py')
  with pytest.raises(Own):
    with method_errors.named(types.SimpleNamespace(name='a', method='lora')):
      raise Own


def test_what_fails_at_the_second_task_is_named_and_mended(tmp_path):
  plugin = tmp_path / 'mine.py'

  def run(late):
    plugin.write_text(PLUGIN.format(late=late))
    registry.load_plugins(plugin)
    config = tiny.only('basis', phases__basis__method='mine')
    return experiment.run(config, tmp_path / 'run', quiet=True)
  with pytest.raises(ValueError, match=(
      r"phase basis: method mine: prepare \(line 7 of mine.py\) fails: "
      r"KeyError: 'late'\. What is finished is kept: correct the function, and "
      'start again')):
    run("raise KeyError('late')")
  kept = tiny.bits(tmp_path / 'run')
  assert list(kept) == ['permuted-00']
  # The remedy.
  assert run('pass')['verified'] == {'ok': True, 'tasks': 2, 'faults': []}
  assert kept.items() < tiny.bits(tmp_path / 'run').items()


ANOTHER = '''
import jax
from mtl_jax import masks, methods
from mtl_jax.methods import base

SUPSUP = methods.make('supsup')

def prepare(context):
  if context.group is None{also}:
    return {{'over': context.backbone}}
  return {{'over': jax.tree.map(lambda w: len(context.earlier) * w + w,
                              context.backbone)}}

def bind(backbone, scores, shared, route):
  return SUPSUP.bind(shared['over'], scores, {{}}, route)

def materialise(backbone, impression, shared):
  return masks.apply(shared['over'], impression.masks)

methods.register('mine', lambda: SUPSUP._replace(
    prepare=prepare, relies_on=base.same_phase, bind=bind,
    materialise=materialise, abilities=base.Abilities(needs_earlier=True)))
'''


def test_a_network_that_would_be_read_otherwise_is_not_stored(tmp_path):
  """The first task, which relies on no other, shows nothing of it."""
  plugin, run = tmp_path / 'mine.py', tmp_path / 'run'
  plugin.write_text(ANOTHER.format(also=''))
  registry.load_plugins(plugin)
  config = tiny.only('basis', phases__basis__method='mine')
  with pytest.raises(ValueError, match=(
      'phase basis: method mine: of task permuted-01, materialise gives '
      'Dense_0/kernel with other values than bind, .* Nothing of it was')):
    experiment.run(config, run, quiet=True)
  kept = tiny.bits(run)
  assert list(kept) == ['permuted-00']
  plugin.write_text(ANOTHER.format(also=' and False'))
  registry.load_plugins(plugin)
  with pytest.raises(ValueError, match='or remove .*progress/permuted-01'):
    experiment.run(config, run, quiet=True)
  shutil.rmtree(run / 'progress')  # the remedy
  assert experiment.run(config, run, quiet=True)['verified']['ok']
  assert kept.items() < tiny.bits(run).items()
