"""What a run needs of memory is known, and held against what there is."""

import json

import jax
import pytest
import tiny

from mtl_jax import host
from mtl_jax import parallel
from mtl_jax import validate
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.parallel import memory
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import drivers
from mtl_jax.training import run as run_lib
from mtl_jax.training import sizing

DEVICES = jax.device_count()
MASKS = dict(method='supsup', steps=4, batch_size=16, optimizer='adam',
             learning_rate=1e-2)


def config(tasks=5, **changes):
  """Supermasks on a small network; phases change by `changes`."""
  given = tiny.get_config('infer')
  given.chunk_steps = 2
  given.suite.num_tasks = 2 * DEVICES
  given.phases = dict(masks=dict(MASKS, tasks=(0, tasks)) | changes)
  given.schedule = ('masks',)
  return config_lib.from_dict(given.to_dict())


def started(asked, folder):
  """(run, what `sizing.fit` takes beside it)."""
  suite, data, backbone = tiny.prepared(asked)
  work = workdir_lib.Workdir(folder)
  traced = validate.check_methods(asked, suite, backbone)
  return run_lib.Run(asked, suite, backbone, data, work, system_lib.System(
      work, backbone), lambda count, name: None), traced


def need(tmp_path, **changes):
  run, traced = started(config(**changes), tmp_path)
  return sizing.of_phase(run, run.config.phases[0], traced)


def limited(monkeypatch, available):
  monkeypatch.setattr(sizing, 'limit', lambda: available)


@pytest.mark.parametrize('changes', [
    dict(tasks_at_once=5), pytest.param({}, marks=pytest.mark.slow),
    pytest.param(dict(method='joint', together='joint'),
                 marks=pytest.mark.slow)])
def test_the_program_that_was_measured_is_the_one_that_trains(
    tmp_path, changes):
  run, traced = started(config(**changes), tmp_path)
  compiled: list[str] = []
  counting = [False]  # a listener can't be taken away again

  def listen(event, *_, fun_name='', **__):
    if counting[0] and event == '/jax/core/compile/backend_compile_duration':
      compiled.append(fun_name)
  jax.monitoring.register_event_duration_secs_listener(listen)
  phase = run.config.phases[0]
  group = plan.groups(phase, run.suite)[0]
  driver = drivers.make(run, group, phase.recipe(
      len(run.data.rows(group[0]))))
  shared = parallel.put(traced['masks'].shared)
  state = driver.place(driver.start(shared))
  counting[0] = True
  found = sizing.of_phase(run, phase, traced)
  assert len([name for name in compiled if '_fun' in name]) == 1, compiled
  compiled.clear()
  driver.advance(shared, state, 0, 2)[1]()
  counting[0] = False
  assert not [name for name in compiled if '_fun' in name]
  images = sum(run.data.nbytes(run.suite.tasks[0], split)
               for split in ('train', 'valid', 'test'))
  assert found.images + run.data.nbytes(run.suite.tasks[0], 'train') == images
  assert found.step > sum(x.nbytes for x in jax.tree.leaves(
      run.backbone.params)) > 0


def test_what_is_placed_has_the_bytes_that_were_foreseen(tmp_path):
  run, _ = started(config(), tmp_path)
  for split in ('train', 'test'):
    there = run.data.split(run.suite.tasks[0], split)
    assert run.data.nbytes(run.suite.tasks[0], split) == sum(
        x.nbytes for x in jax.tree.leaves(there))


def test_more_tasks_at_once_need_more_and_so_does_a_larger_batch(tmp_path):
  one, many = (need(tmp_path, tasks_at_once=n * DEVICES, tasks=2 * DEVICES)
               for n in (1, 2))
  assert one.total < many.total < 2 * one.total
  assert need(tmp_path, batch_size=256).total > need(tmp_path).total


@pytest.mark.slow
def test_a_phase_that_cannot_fit_is_refused_with_what_helps(
    tmp_path, monkeypatch):
  asked = config(tasks=2 * DEVICES, tasks_at_once=2 * DEVICES)
  run, traced = started(asked, tmp_path)
  whole = sizing.of_phase(run, asked.phases[0], traced)
  limited(monkeypatch, whole.total - 1)
  with pytest.raises(ValueError, match=(
      f'phase masks: training needs about .* of memory on each device .*; give '
      rf"tasks_at_once below {2 * DEVICES} \(or 'auto'\), a batch_size below "
      r"16 or backbone.compute_dtype='bfloat16'")):
    sizing.fit(run, traced)
  # Each of the first two helps.
  for changes in (dict(tasks_at_once='auto'), dict(batch_size=8)):
    asked = config(**dict(tasks=2 * DEVICES, tasks_at_once=2 * DEVICES)
                   | changes)
    run, traced = started(asked, tmp_path)
    chosen, needs = sizing.fit(run, traced)
    assert needs['masks']['needed'] <= needs['masks']['available']
    assert chosen.phases[0].tasks_at_once == (
        DEVICES if 'tasks_at_once' in changes else 2 * DEVICES)
  limited(monkeypatch, 1000)
  with pytest.raises(ValueError, match='has 1.0 kB for it; give a batch_size '
                                       'below 16 or backbone.compute'):
    sizing.fit(*started(config(), tmp_path))
  limited(monkeypatch, None)  # unknown: nothing is refused
  assert sizing.fit(*started(config(), tmp_path)) == (config(), {})


def test_auto_is_refused_where_no_memory_is_known(tmp_path, monkeypatch):
  limited(monkeypatch, None)
  with pytest.raises(ValueError, match="phase masks: tasks_at_once='auto' "
                                       'needs to know .*; give a number'):
    sizing.fit(*started(config(tasks_at_once='auto'), tmp_path))


@pytest.mark.slow
def test_the_number_is_recorded_and_a_later_start_keeps_it(
    tmp_path, monkeypatch):
  asked = config(tasks_at_once='auto')
  limited(monkeypatch, 10 ** 12)
  tiny.learn(asked, tmp_path / 'run')
  kept = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert kept['phases']['masks']['tasks_at_once'] == 4  # of five tasks
  line = json.loads((tmp_path / 'run' / 'metrics.jsonl').read_text()
                    .splitlines()[0])
  assert 0 < line['memory']['masks']['needed'] < 10 ** 12
  before = tiny.bits(tmp_path / 'run')
  limited(monkeypatch, 1)  # another machine
  tiny.learn(asked, tmp_path / 'run')
  tiny.learn(config(tasks_at_once=4), tmp_path / 'run')
  assert tiny.bits(tmp_path / 'run') == before


def test_auto_asks_for_many_of_what_takes_one_alone():
  with pytest.raises(ValueError, match='it needs tasks_at_once=1'):
    tiny.check(config(tasks_at_once='auto', options=dict(transfer=True)))
  with pytest.raises(ValueError, match="tasks_at_once is 'most'; give a "
                                       "number, or 'auto'"):
    config(tasks_at_once='most')
  with pytest.raises(ValueError, match='must be a whole number or a string'):
    config(tasks_at_once=1.5)


def test_limits_by_hand(monkeypatch):
  left = host.available_bytes()
  assert left is None or 0 < left < 1 << 50
  monkeypatch.setattr(host, 'available_bytes', lambda: 8 * 10 ** 9)
  assert sizing.limit() == int(.9 * (8 * 10 ** 9 // DEVICES + memory.held()))
  monkeypatch.setattr(memory, 'limit', lambda: 10 ** 9)
  assert sizing.limit() == 9 * 10 ** 8
