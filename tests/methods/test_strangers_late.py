"""A stranger's method that fails after the check: a sentence, and no loss."""

import pytest
import tiny

from mtl_jax import experiment
from mtl_jax import methods
from mtl_jax import registry

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
