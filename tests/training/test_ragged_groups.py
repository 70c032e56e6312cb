"""Tasks at once that do not divide over the devices train as they would."""

import jax
import pytest
import tiny

from mtl_jax.config import plan
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import drivers

DEVICES = jax.device_count()


def many(first, stop, **changes):
  return tiny.only('many', phases__many__tasks=(first, stop), **{
      f'phases__many__{name}': value for name, value in changes.items()})


def hashes(folder, names=None):
  bits = tiny.bits(folder)
  return {name: bits[name] for name in names or bits}


@pytest.fixture(scope='module', name='whole')
def _whole(tmp_path_factory):
  """Eight tasks, one on each device."""
  folder = tmp_path_factory.mktemp('whole') / 'run'
  tiny.train_alone(many(4, 12), folder)
  return folder


@pytest.mark.skipif(DEVICES != 8, reason='a task on each of eight devices')
@pytest.mark.parametrize('first, stop', [(4, 9), (6, 12)])
def test_a_ragged_group_leaves_what_a_whole_one_does(whole, tmp_path, first,
                                                     stop):
  config = many(first, stop)
  tiny.check(config)
  run, seen = tiny.train_alone(config, tmp_path / 'run')
  names = run.workdir.task_names()
  assert len(names) == stop - first
  assert hashes(tmp_path / 'run') == hashes(whole, names)
  assert sum(count for _, count in seen) == 6 * len(names)  # no copies


def test_a_ragged_group_goes_on_after_a_kill(tmp_path):
  config = many(4, 7)
  tiny.train_alone(config, tmp_path / 'run')
  with pytest.raises(tiny.Stopped):
    tiny.train_alone(config, tmp_path / 'stopped', lambda seen: len(seen) > 3)
  assert list(workdir_lib.Workdir(tmp_path / 'stopped').progress.iterdir())
  tiny.train_alone(config, tmp_path / 'stopped')
  assert hashes(tmp_path / 'stopped') == hashes(tmp_path / 'run')


@pytest.mark.skipif(DEVICES == 1, reason='any batch divides over one device')
def test_a_last_task_alone_needs_no_batch_that_divides(tmp_path):
  config = many(4, 6, tasks_at_once=2, batch_size=12)
  alone = many(5, 6, tasks_at_once=2, batch_size=12)
  for one in (config, alone):
    tiny.check(one)
  tiny.train_alone(config, tmp_path / 'two')
  with pytest.raises(tiny.Stopped):
    tiny.train_alone(alone, tmp_path / 'one', lambda seen: len(seen) > 2)
  run, _ = tiny.train_alone(alone, tmp_path / 'one')
  name, = run.workdir.task_names()
  assert hashes(tmp_path / 'one') == hashes(tmp_path / 'two', [name])


def test_a_last_task_alone_divides_its_batch_if_it_can():
  group = plan.groups(many(4, 5).phases[0], tiny.prepared(many(4, 5))[0])[0]
  assert not drivers.at_once(group, 2 * DEVICES)
  assert drivers.at_once(group, DEVICES + 1) == (DEVICES > 1)
  one = many(4, 5, tasks_at_once=1)
  group = plan.groups(one.phases[0], tiny.prepared(one)[0])[0]
  assert not drivers.at_once(group, DEVICES + 1)
