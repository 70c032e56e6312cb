"""Chunks are given to the devices before earlier ones are fetched."""

import threading
import time

import jax
import numpy as np
import pytest
import tiny

from mtl_jax.evaluation import final
from mtl_jax.steps import single
from mtl_jax.storage import json_records
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import drivers
from mtl_jax.training import in_flight
from mtl_jax.training import loop


def _metrics(value):
  return single.Metrics(np.full((1, 2), value), np.zeros((1, 2)))


def test_chunks_come_back_in_order_and_one_may_stay():
  with in_flight.Chunks() as chunks:
    for start in (0, 2, 4):
      state = chunks.give(start, lambda start: (
          f'after {start}', lambda: _metrics(start)), start)
      assert state == f'after {start}'
    first = chunks.take(keep=1)
    assert [found.start for found in first] == [0, 2]
    assert [found.metrics.loss[0, 0] for found in first] == [0, 2]
    assert [found.start for found in chunks.take()] == [4]
    assert chunks.take() == []


def test_a_chunk_is_given_while_the_one_before_is_computed():
  may_end = threading.Event()
  with in_flight.Chunks() as chunks:
    chunks.give(0, lambda: (None, lambda: may_end.wait(60) and _metrics(0.)))
    chunks.give(2, lambda: (None, lambda: _metrics(1.)))  # does not wait
    may_end.set()
    assert [found.start for found in chunks.take()] == [0, 2]


def test_busy_is_the_time_in_which_a_chunk_was_computed(monkeypatch):
  now = [0.]
  monkeypatch.setattr(time, 'perf_counter', lambda: now[0])

  def chunk(seconds):
    def fetch():
      now[0] += seconds
      return _metrics(0.)
    return lambda: (None, fetch)
  with in_flight.Chunks(busy=10.) as chunks:
    chunks.give(0, chunk(2.))
    chunks.take()
    now[0] += 5.  # the devices wait
    chunks.give(1, chunk(3.))
    chunks.take()
    assert chunks.busy == 15.


def test_compiling_is_no_work(monkeypatch):
  now = [0.]
  monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
  with in_flight.Chunks() as chunks:
    def advance():
      now[0] += 7.
      jax.monitoring.record_event_duration_secs(
          '/jax/core/compile/backend_compile_duration', 7.)
      return None, lambda: _metrics(0.)
    chunks.give(0, advance)
    chunks.take()
    assert chunks.busy == 0.


def test_an_error_of_a_chunk_reaches_who_takes_it():
  def fetch():
    raise FloatingPointError('the loss is nan')
  with in_flight.Chunks() as chunks:
    chunks.give(0, lambda: (None, fetch))
    with pytest.raises(FloatingPointError, match='the loss is nan'):
      chunks.take()


def test_a_loss_that_is_nan_is_named_with_its_own_step(tmp_path, monkeypatch):
  """Of the first of two chunks in flight."""
  make = drivers.make

  def broken(*args):
    driver, calls = make(*args), []

    def advance(shared, state, first, count):
      state, fetch = driver.advance(shared, state, first, count)
      calls.append(first)

      def spoilt():
        found = fetch()
        assert found.loss.shape[1] == count
        loss = np.array(found.loss)
        loss[:, 1:] = np.nan if first == 2 else loss[:, 1:]
        return found._replace(loss=loss)
      return state, spoilt
    return driver._replace(advance=advance)
  monkeypatch.setattr(loop.drivers, 'make', broken)
  config = tiny.only('basis', chunk_steps=2, phases__basis__tasks=(0, 1))
  with pytest.raises(FloatingPointError, match='is nan at step 3.'):
    tiny.train_alone(config, tmp_path / 'run')


def test_the_summary_says_how_busy_the_devices_were(tmp_path):
  tiny.learn(tiny.only('basis', phases__basis__tasks=(0, 2)), tmp_path / 'run')
  work = workdir_lib.Workdir(tmp_path / 'run')
  lines = list(json_records.read_lines(work.metrics))
  tasks = [line for line in lines if line['kind'] == 'task']
  share = next(x for x in lines if x['kind'] == 'summary')['busy']
  assert 0 < share <= 1 and share == final.busy(tasks)
  assert f'{100 * share:.1f}' in work.report.read_text()
