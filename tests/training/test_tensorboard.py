"""Scalars for TensorBoard: whole, for every kind of task."""

import shutil

import pytest

from mtl_jax.training import tensorboard

RECORD = {
    'steps': 4, 'curve': {'step': [2, 4], 'loss': [.5, .25],
                          'accuracy': [.5, 1.]},
    'loss': {'valid': .3, 'test': .4}, 'accuracy': {'valid': .9, 'test': .8}}
REGRESSION = RECORD | {
    'curve': RECORD['curve'] | {'accuracy': [None, None]},
    'accuracy': {'valid': None, 'test': None}}


def written(folder):
  """{tag: [(step, value)]} of the events in a folder."""
  from tensorboardX import proto
  from tensorboardX.record_writer import RecordWriter  # noqa: F401
  import struct
  found: dict = {}
  for file in folder.iterdir():
    data = file.read_bytes()
    while data:
      size, = struct.unpack('<Q', data[:8])
      event = proto.event_pb2.Event.FromString(data[12:12 + size])
      for value in event.summary.value:
        found.setdefault(value.tag, []).append(
            (event.step, round(value.simple_value, 4)))
      data = data[12 + size + 4:]
  return found


@pytest.fixture(autouse=True)
def _needs_the_extra():
  pytest.importorskip('tensorboardX')


def test_curves_and_accuracies(tmp_path):
  tensorboard.write(tmp_path / 'a', RECORD)
  assert written(tmp_path / 'a') == {
      'train/loss': [(2, .5), (4, .25)], 'train/accuracy': [(2, .5), (4, 1.)],
      'valid/loss': [(4, .3)], 'test/loss': [(4, .4)],
      'valid/accuracy': [(4, .9)], 'test/accuracy': [(4, .8)]}


def test_a_regression_has_no_accuracy(tmp_path):
  tensorboard.write(tmp_path / 'a', REGRESSION)
  assert set(written(tmp_path / 'a')) == {'train/loss', 'valid/loss',
                                          'test/loss'}


def test_what_a_kill_left_is_written_again(tmp_path):
  tensorboard.write(tmp_path / 'a', RECORD)
  shutil.move(tmp_path / 'a', tmp_path / '.a')  # before its final name
  tensorboard.write(tmp_path / 'a', RECORD)
  assert [p.name for p in tmp_path.iterdir()] == ['a']
  assert len(written(tmp_path / 'a')['train/loss']) == 2
