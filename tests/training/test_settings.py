"""A run goes on only under the settings of JAX under which it began."""

import json

import jax
import pytest
import tiny

import mtl_jax
from mtl_jax import learning
from mtl_jax.storage import json_records

_OTHERS = {
    'x64': (lambda: jax.enable_x64(True), 'x64=0, and it is 1 now.*start with '
            'JAX_ENABLE_X64=0'),
    'precision': (lambda: jax.default_matmul_precision('highest'),
                  'matmul_precision=default, and it is highest now.*unset '
                  'JAX_DEFAULT_MATMUL_PRECISION')}


def half(folder):
  """A run of two tasks that was killed inside the first."""
  with pytest.raises(tiny.Stopped):
    tiny.train_alone(tiny.only('basis'), folder,
                     stop=lambda seen: len(seen) > 1)
  return folder


@pytest.mark.parametrize('other', _OTHERS)
def test_a_run_that_was_killed(other, tmp_path):
  setting, sentence = _OTHERS[other]
  folder = half(tmp_path / 'run')
  before = tiny.files(folder)
  with setting():
    with pytest.raises(ValueError, match=f'the run in .* with {sentence}'):
      tiny.learn(tiny.only('basis'), folder)
  assert before.items() <= tiny.files(folder).items()  # and the lock
  tiny.learn(tiny.only('basis'), folder)  # the remedy
  whole, _ = tiny.train_alone(tiny.only('basis'), tmp_path / 'whole')
  assert tiny.bits(folder) == tiny.bits(whole.workdir.root)


def test_a_log_of_a_version_that_did_not_record_it(tmp_path):
  folder = half(tmp_path / 'run')
  log = folder / 'metrics.jsonl'
  lines = list(json_records.read_lines(log))
  for line in lines:
    del line['versions']['x64']
  log.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  with jax.enable_x64(True), pytest.raises(ValueError, match='begun with x64'):
    tiny.learn(tiny.only('basis'), folder)


def test_a_run_that_has_ended_is_reported_under_any(tmp_path):
  folder = tiny.learned(tmp_path / 'run', 'one')
  with jax.enable_x64(True):
    assert tiny.learn(tiny.make('one'), folder)['verified']['ok']
    with pytest.raises(ValueError, match='begun with x64=0'):
      tiny.learn(tiny.make('one', phases__basis__tasks=(0, 2)), folder)


def test_a_task_that_python_adds(tmp_path, monkeypatch):
  system = mtl_jax.load(tiny.learned(tmp_path / 'run', 'one'))
  add = lambda: system.learn('digits', method='supsup', name='new', steps=2,
                             batch_size=32)

  def killed(*_):
    raise tiny.Stopped
  with monkeypatch.context() as patch:
    patch.setattr(learning.experiment, 'learn_phase', killed)
    with pytest.raises(tiny.Stopped):
      add()
  with jax.enable_x64(True):
    with pytest.raises(ValueError, match='task new was begun with x64=0'):
      add()
    assert system.learn('digits', method='supsup', name='another', steps=2,
                        batch_size=32) >= 0
  add()
  with jax.enable_x64(True):
    assert add() >= 0  # it is there already
