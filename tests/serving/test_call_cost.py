"""What a call does must not grow with the tasks that it isn't about."""

import os
import time

import jax
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax.data import sources
from mtl_jax.serving import candidate_shelf
from mtl_jax.serving import candidates
from mtl_jax.storage import checkpoint
from mtl_jax.storage import deduplicate
from mtl_jax.storage import workdir as workdir_lib

IMAGES = sources.load('digits').test.images[:8]
MASKED = [f'permuted-{i:02d}' for i in range(12)]


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  folder = tiny.learned(tmp_path_factory.mktemp('growth') / 'run')
  # As if it had been finished a while ago: see `workdir._TICK`.
  os.utime(folder / 'tasks', (1, 1))
  return folder


@pytest.fixture(name='system')
def _system(folder):
  return mtl_jax.load(folder)


@pytest.fixture(name='count')
def _count(monkeypatch):
  """Counts the calls of a function that go on as before."""
  def count(owner, name):
    calls, real = [], getattr(owner, name)

    def counted(*args, **kwargs):
      calls.append(args)
      return real(*args, **kwargs)
    monkeypatch.setattr(owner, name, counted)
    return calls
  return count


def test_a_task_is_read_without_orbax(system, monkeypatch):
  monkeypatch.setattr(checkpoint, 'type_handlers', None)
  path = system.workdir.task(MASKED[0])
  assert checkpoint.load_metadata(path)['name'] == MASKED[0]
  assert checkpoint.exists(path) and checkpoint.load(path)[0]


def test_what_is_read_and_answered_is_put_without_a_program(folder):
  """`jnp.asarray` of NumPy's arrays compiles one for every new shape."""
  system = mtl_jax.load(folder)  # draws a backbone from a number
  compiled = []
  counting = [True]  # a listener can't be taken away again

  def listen(name, *_, fun_name='', **__):
    if counting[0] and name == '/jax/core/compile/backend_compile_duration':
      compiled.append(fun_name)
  jax.monitoring.register_event_duration_secs_listener(listen)
  jax.clear_caches()
  for name in system.tasks[::7]:
    system.predict(IMAGES[:3], task=name)
    system.predict_mixed(IMAGES[:3], [name] * 3)
  counting[0] = False
  # One at most, whatever the shapes: of the seed that a key is made of.
  assert compiled and sum('stage' in name for name in compiled) <= 1


def test_the_workdir_is_listed_once(system, count):
  listed = count(workdir_lib.os, 'listdir')
  shown = system.observe(IMAGES, MASKED[0])
  for name in MASKED:
    system.predict(IMAGES, task=name)
    system.identify(shown, names=MASKED[:2])
  assert len(system.tasks) == 15
  tasks = system.workdir.tasks
  assert len([path for path, in listed if path == tasks]) == 1


def test_known_tasks_of_a_workdir_that_changes_now_need_no_list(
    folder, system, count):
  later = time.time() + 1000
  os.utime(folder / 'tasks', (later, later))
  try:
    shown = system.observe(IMAGES, MASKED[0])
    listed = count(workdir_lib.os, 'listdir')
    for name in system.tasks:  # lists
      system.predict(IMAGES, task=name)
    system.identify(shown, names=MASKED)
    system.predict_mixed(IMAGES[:3], MASKED[:3])
    assert not system.workdir.has_task('permuted-99')
    assert [path for path, in listed].count(system.workdir.tasks) == 1
  finally:
    os.utime(folder / 'tasks', (1, 1))


def test_nameless_candidates_are_chosen_once(system, count):
  read = count(checkpoint, 'load_metadata')
  choose = lambda: candidates.by_default(MASKED, system.record)
  assert len(choose()) == 12
  first = len(read)
  assert len(choose()) == 12 and len(read) == first
  with pytest.raises(ValueError, match='permuted-00 left masks and permuted-1'):
    system.identify(IMAGES)


def test_tasks_that_were_used_are_not_read_or_uploaded_again(system, count):
  for name in system.tasks:
    system.predict(IMAGES, task=name)
  read = count(checkpoint, 'load')
  with jax.transfer_guard_host_to_device('disallow_explicit'):
    stored = [system.task(name) for name in system.tasks]
  for name in system.tasks:
    system.predict(IMAGES, task=name)
  assert not read
  assert all(isinstance(leaf, jax.Array) for task in stored
             for leaf in jax.tree.leaves((task.impression, task.parameters)))


def test_a_cache_of_no_bytes_still_answers(folder, system, count):
  small = mtl_jax.load(folder, cache_bytes=0)
  for name in MASKED[:3] * 2:
    np.testing.assert_array_equal(small.predict(IMAGES, task=name),
                                  system.predict(IMAGES, task=name))
  read = count(checkpoint, 'load')
  small.predict(IMAGES, task=MASKED[2])  # the newest
  small.predict(IMAGES, task=MASKED[0])
  assert len(read) == 1


def test_another_choice_of_candidates_reads_and_compiles_what_is_new(
    system, count, caplog):
  shown = system.observe(IMAGES, MASKED[0])
  for names in (MASKED[:4], MASKED[:3], MASKED[4:6], MASKED[6:8]):
    system.identify(shown, names=names)
  read = count(checkpoint, 'load')
  with jax.log_compiles():
    for names in (MASKED[1:4], MASKED[4:8], [MASKED[7], MASKED[0]]):
      found = system.identify(shown, names=names)
      assert list(found.gradient) == names
  assert not read
  assert not [r for r in caplog.records if 'Compiling' in r.getMessage()]
  system.identify(shown, names=MASKED[:9])  # grows
  assert len(read) == 1


@pytest.mark.parametrize('sizes', [[1], [3, 5], [8, 1], [2] * 9, [20]])
def test_a_stack_keeps_its_rows(sizes):
  rng = np.random.RandomState(0)
  rows = [{'a': rng.rand(3).astype('f4'), 'b': None} for _ in range(sum(sizes))]
  stack, added = candidate_shelf.Stack(rows[0]), []
  for size in sizes:
    before = stack.tree['a']
    added += stack.add(rows[len(added):len(added) + size])
    assert not before.is_deleted()
  assert added == list(range(sum(sizes)))
  found = np.asarray(stack.tree['a'])
  assert len(found) == max(8, candidate_shelf.power_of_two(sum(sizes)))
  np.testing.assert_array_equal(found[:len(rows)], [r['a'] for r in rows])
  assert not found[len(rows):].any()


def test_a_commit_does_not_list_the_tasks_before_it(tmp_path, count):
  work = workdir_lib.Workdir(tmp_path)
  work.prepare()
  params = {'a': np.zeros(600, np.float32)}
  checkpoint.save(work.task('a'), {'values/a': params['a'] + 1}, {})
  index = deduplicate.Index(work, params)
  read, listed = count(checkpoint, 'load_metadata'), count(
      workdir_lib.os, 'listdir')
  for i, name in enumerate('bcdef', 2):
    own, referred = index.split({'values/a': params['a'] + i})
    assert list(own) == ['values/a'] and not referred
    checkpoint.save(work.task(name), own, {})
    index.add(name)
    assert index.split({'values/a': params['a'] + i})[1]['values/a'][
        'task'] == name
  assert [args[0].name for args in read] == list('abcdef')
  assert len([path for path, in listed if path == work.tasks]) == 1
