"""Scalars for TensorBoard and Weights & Biases: whole, once, and offline."""

import doctest
import shutil
import struct
import sys
import types

import pytest
import tiny

from mtl_jax import experiment
from mtl_jax.training import writers

RECORD = {
    'entry': 'a', 'steps': 4, 'curve': {
        'step': [2, 4], 'loss': [.5, .25], 'accuracy': [.5, 1.]},
    'validation': {'step': [0, 4], 'loss': [.9, .3], 'accuracy': [.1, .9]},
    'loss': {'valid': .3, 'test': .4}, 'accuracy': {'valid': .9, 'test': .8}}
REGRESSION = RECORD | {
    'curve': RECORD['curve'] | {'accuracy': [None, None]},
    'validation': None, 'accuracy': {'valid': None, 'test': None}}
BY_STEP = {
    0: {'valid/loss': .9, 'valid/accuracy': .1},
    2: {'train/loss': .5, 'train/accuracy': .5},
    4: {'train/loss': .25, 'train/accuracy': 1., 'valid/loss': .3,
        'test/loss': .4, 'valid/accuracy': .9, 'test/accuracy': .8}}


class FakeWandb(types.ModuleType):
  """What the writer calls of wandb; keeps what it is told."""

  def __init__(self):
    super().__init__('wandb')
    self.runs, self.fails = [], False
    self.__spec__ = types.SimpleNamespace(name='wandb')

  def Settings(self, **given):  # pylint: disable=invalid-name
    return given

  def init(self, **given):
    run = types.SimpleNamespace(given=given, logged={}, ended=False)

    def log(values, step):
      if self.fails:
        raise KeyboardInterrupt
      assert step not in run.logged and step >= max(run.logged, default=0)
      run.logged[step] = values
    run.log = log
    run.finish = lambda: setattr(run, 'ended', True)
    self.runs.append(run)
    return run


@pytest.fixture(name='fake')
def _fake(monkeypatch):
  module = FakeWandb()
  monkeypatch.setitem(sys.modules, 'wandb', module)
  monkeypatch.delenv('WANDB_MODE', raising=False)
  return module


def config(**changes):
  return tiny.only('basis', phases__basis__tasks=(0, 1), **changes)


def events(folder):
  """{step: {tag: value}} of the TensorBoard events in a folder."""
  from tensorboardX import proto
  found: dict = {}
  for file in folder.iterdir():
    data = file.read_bytes()
    while data:
      size, = struct.unpack('<Q', data[:8])
      event = proto.event_pb2.Event.FromString(data[12:12 + size])
      for value in event.summary.value:
        found.setdefault(event.step, {})[value.tag] = round(
            value.simple_value, 4)
      data = data[12 + size + 4:]
  return found


def test_docstrings():
  found = doctest.testmod(writers)
  assert found.attempted and not found.failed


def test_scalars_are_those_of_the_record():
  assert writers.scalars(RECORD) == BY_STEP
  found = writers.scalars(REGRESSION)
  assert {name for values in found.values() for name in values} == {
      'train/loss', 'valid/loss', 'test/loss'}


def test_tensorboard_events_are_whole(tmp_path):
  pytest.importorskip('tensorboardX')
  on = config(tensorboard=True)
  writers.write(on, tmp_path, RECORD)
  folder = tmp_path / 'tensorboard'
  assert events(folder / 'a') == BY_STEP
  shutil.move(folder / 'a', folder / '.a')  # as a kill would leave it
  writers.write(on, tmp_path, RECORD)
  assert [p.name for p in folder.iterdir()] == ['a']
  assert events(folder / 'a') == BY_STEP


def test_wandb_stays_on_this_machine_and_gets_a_task_once(tmp_path, fake):
  on = config(wandb='masks')
  for _ in range(2):
    writers.write(on, tmp_path, RECORD)
    writers.write(on, tmp_path, REGRESSION | {'entry': 'b'})
  first, second = fake.runs
  assert first.logged == BY_STEP and first.ended and second.ended
  assert first.given['mode'] == 'offline'
  assert first.given['project'] == 'masks' and first.given['name'] == 'a'
  assert first.given['group'] == second.given['group'] == tmp_path.name
  assert first.given['id'] != second.given['id']
  assert first.given['dir'] == str(tmp_path)


def test_wandb_goes_online_only_where_the_user_says_so(tmp_path, fake,
                                                       monkeypatch):
  monkeypatch.setenv('WANDB_MODE', 'online')
  writers.write(config(wandb='masks'), tmp_path, RECORD)
  assert fake.runs[0].given['mode'] == 'online'


def test_a_task_that_a_kill_cut_off_is_given_again(tmp_path, fake):
  fake.fails = True
  with pytest.raises(KeyboardInterrupt):
    writers.write(config(wandb='masks'), tmp_path, RECORD)
  fake.fails = False
  writers.write(config(wandb='masks'), tmp_path, RECORD)
  one, again = fake.runs
  assert one.given == again.given  # the same run goes on
  assert not one.ended and again.logged == BY_STEP


def test_off_by_default(tmp_path, fake):
  writers.require(config())
  writers.write(config(), tmp_path, RECORD)
  assert not fake.runs and not list(tmp_path.iterdir())


def test_a_run_writes_what_its_record_says(tmp_path, fake):
  on = config(wandb='masks', phases__basis__validate_every=2)
  tiny.train_alone(on, tmp_path / 'run')
  run, = fake.runs
  assert run.given['name'] == 'permuted-00'
  assert sorted(run.logged) == list(range(7))  # a curve of six steps, and 0
  assert {'valid/loss', 'valid/accuracy'} <= set(run.logged[2])
  assert 'test/accuracy' in run.logged[6]


@pytest.mark.parametrize('field,value,module', [
    ('wandb', 'masks', 'wandb'), ('tensorboard', True, 'tensorboardX')])
def test_what_is_not_installed_is_refused_at_once(tmp_path, monkeypatch, field,
                                                  value, module):
  find = writers.importlib.util.find_spec
  monkeypatch.setattr(
      writers.importlib.util, 'find_spec',
      lambda name: None if name == module else find(name))
  with pytest.raises(ImportError, match=(
      rf'config.{field} needs {module}, which is not installed; pip install '
      rf'"mtl_jax\[{field}\]", or leave {field} out')):
    experiment.run(config(**{field: value}), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
