"""A source or a suite of a user's own: taken as meant, or named and refused."""

import numpy as np
import pytest

from mtl_jax.data import sources
from mtl_jax.data import splits
from mtl_jax.data import suites
from mtl_jax.data import transforms


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
  """What a test registers is gone after it."""
  monkeypatch.setattr(sources, 'REGISTRY', dict(sources.REGISTRY))
  monkeypatch.setattr(suites, 'SUITES', dict(suites.SUITES))
  yield
  sources._load.cache_clear()


def task(i=0, labels=None, classes=10, steps=()):
  return suites.Task(f't{i}', i, 'digits', steps, labels, classes)


def made(tasks):
  suites.register('own', lambda: suites.Suite('own', tasks()))
  return suites.make('own')


def test_tasks_from_a_generator_are_all_there():
  found = made(lambda: (task(i) for i in range(3)))
  assert found.tasks == (task(0), task(1), task(2))


@pytest.mark.parametrize('of', [list, np.array])
def test_labels_and_transforms_in_a_list_are_those_of_a_tuple(of):
  found = made(lambda: [task(0, of([5, 3]), np.int64(2),
                             [transforms.permute(1)])])
  assert found.tasks[0] == task(0, (5, 3), 2, (transforms.permute(1),))
  assert hash(found) == hash(made(lambda: found.tasks))


@pytest.mark.parametrize('tasks, said', [
    (lambda: (), "suite 'own' has no task; give it tasks"),
    (lambda: ['digits'], "suite 'own' has 'digits'; give it tasks, each a"),
    (lambda: [task(steps=transforms.permute(1))], "'t0': transforms is Transf"),
    (lambda: [task(steps=(np.flip,))], "'t0': transforms is .*function flip"),
    (lambda: {}['x'], r"as suite 'own' fails: KeyError: 'x' \(line \d+ of tes"),
    (lambda: suites.Task('a'), "as suite 'own' fails: TypeError: .*missing 5"),
])
def test_a_wrong_suite_is_refused(tasks, said):
  with pytest.raises(ValueError, match=said):
    made(tasks)


@pytest.mark.parametrize('factory, said', [
    (lambda: {}['x'], r"as source 'own' fails: KeyError: 'x' \(line \d+ of te"),
    (lambda name: None, "as source 'own' fails: TypeError: .*'name'$"),
])
def test_a_source_that_fails_is_named(factory, said):
  sources.register('own', factory)
  with pytest.raises(ValueError, match=said):
    sources.load('own')


@pytest.mark.parametrize('make', [
    lambda a: sources.from_arrays(a, a, a),
    lambda a: sources.from_table(a, a, a),
    lambda a: sources.from_texts(a, a)])
def test_a_forgotten_name_is_said_without_the_pixels(make):
  with pytest.raises(ValueError, match='^a source is named uint8.9, 4, 4.; '):
    make(np.zeros((9, 4, 4), np.uint8))


def test_tokens_count_from_0():
  part = splits.Arrays(np.array([[1, -5]], np.int32), np.zeros(1, np.int32))
  with pytest.raises(ValueError, match="'train': there is a token -5; tokens"):
    sources.Source('own', '1', 1, part, part, part)
