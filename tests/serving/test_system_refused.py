"""A system says in a sentence which argument it can't take."""

import shutil

import jax
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax import models
from mtl_jax.serving import doors
from mtl_jax.serving import verification

IMAGES = np.zeros((4, 8, 8, 1), np.uint8)
PAIR = ['permuted-00', 'permuted-01']


@pytest.fixture(name='system', scope='module')
def _system(tmp_path_factory):
  return mtl_jax.load(tiny.learned(
      tmp_path_factory.mktemp('refused') / 'run', 'few'))


@pytest.mark.parametrize('name', [None, 3, b'permuted-00', ['permuted-00'],
                                  ('permuted-00',)])
@pytest.mark.parametrize('method', ['task', 'metadata', 'record', 'predict',
                                    'parameters', 'delete'])
def test_names_of_tasks_are_strings(system, method, name):
  call = (lambda: system.predict(IMAGES, task=name or 3)) if (
      method == 'predict') else lambda: getattr(system, method)(name)
  with pytest.raises(ValueError, match='the name of a task is .*give a string|'
                                       'unknown task'):
    call()


@pytest.mark.parametrize('call, said', [
    (lambda s: mtl_jax.load(s.workdir.root, foo=1), 'load has no option foo'),
    (lambda s: mtl_jax.load(s.workdir.root, plugin='a.py'),
     r'load has no option plugin \(did you mean: plugins\?\)'),
    (lambda s: s.learn('digits'), 'learn needs a method=, one of batche, '),
    (lambda s: s.learn('digits', method='supsup', phase=['a']),
     r"phase is \['a'\]; give the name"),
    (lambda s: s.learn('digits', method='supsup', options=np.ones(2)),
     'phases.learned.options'),
    (lambda s: models.make('lenet_300_100', [10]), r'outputs is \[10\]; give'),
    (lambda s: s.rename(np.str_('permuted-00'), 'permuted-01'),
     'there is a task permuted-01 already'),
    (lambda s: s.predict_mixed(IMAGES, 3), 'tasks must be a sequence .*got 3'),
    (lambda s: s.identify(IMAGES, names=3), 'names is 3; give the names of'),
    (lambda s: s.identify(IMAGES, names=PAIR, rule=['one_shot']),
     r"unknown rule \['one_shot'\] .*known: "),
    (lambda s: s.export_network(PAIR[0], 3), '3 does not end with .safetens'),
    (lambda s: s.merge(PAIR, [1e308, 1e308]), 'a finite number per task that '
                                              'float32 has'),
    (lambda s: s.merge(PAIR, [1e-320, 1e-320]), 'that float32 has'),
    (lambda s: s.learn('digits', method='supsup', name='', steps=1),
     "''.*name"),
    (lambda s: mtl_jax.load(s.workdir.root, cache_bytes=-1),
     'cache_bytes is -1; give a number of bytes, 0 to keep'),
    (lambda s: mtl_jax.load(s.workdir.root, cache_bytes=float('nan')),
     'cache_bytes is nan'),
    (lambda s: mtl_jax.load(s.workdir.root, cache_bytes='1'), "is '1'; give")])
def test_what_is_refused_leaves_nothing(system, call, said):
  before = tiny.bits(system.workdir.root)
  with pytest.raises(ValueError, match=said):
    call(system)
  assert tiny.bits(system.workdir.root) == before


@pytest.mark.parametrize('name, wrong, near', [
    ('predict', 'taks', 'task'), ('observe', 'tasks', 'task'),
    ('predict_mixed', 'task', 'tasks'), ('identify', 'normalize', 'normalise'),
    ('export', 'basis', 'with_basis'), ('export_network', 'license', 'licence'),
    ('delete', 'tasks', 'task'), ('rename', 'names', 'name'),
    ('merge', 'weight', 'weights'), ('parameters', 'name', None),
    ('apply_fn', 'tasks', 'task')])
def test_a_wrong_keyword_is_named_with_the_nearest(system, name, wrong, near):
  said = f'{name} has no option {wrong}' + (
      rf' \(did you mean: {near}\b.*\?\)' if near else '') + '; it takes '
  with pytest.raises(ValueError, match=said):
    getattr(system, name)(**{wrong: 3})


@pytest.mark.parametrize('call, said', [
    (lambda s: mtl_jax.load(), 'load lacks path; it takes path, plugins, and '
                               'others by name$'),
    (lambda s: mtl_jax.load('a', None, 3), 'load has 3 arguments without names,'
                                           ' which are too many; it takes'),
    (lambda s: mtl_jax.import_task(), 'import_task lacks workdir and path; it '
                                      'takes workdir, path, name$'),
    (lambda s: mtl_jax.import_task('a', file='b'),
     'import_task has no option file; it takes workdir, path, name$'),
    (lambda s: s.predict(), 'predict lacks x; it takes x, task, names$'),
    (lambda s: s.predict(IMAGES, x=IMAGES), 'predict has x twice, with and'),
    (lambda s: s.observe(IMAGES, PAIR[0], 3), 'observe has 3 arguments'),
    (lambda s: s.learn(), 'learn lacks source'),
    (lambda s: s.export(PAIR[0]), 'export lacks path'),
    (lambda s: s.task(), 'task lacks name'),
    (lambda s: s.metadata(nam=PAIR[0]), r'no option nam \(did you mean: name'),
    (lambda s: s.record(), 'record lacks name'),
    (lambda s: s.delete(), 'delete lacks task; it takes task$')])
def test_arguments_that_do_not_fit_are_named(system, call, said):
  with pytest.raises(ValueError, match=said):
    call(system)


def test_an_error_of_types_inside_a_function_stays_what_it_is():
  with pytest.raises(TypeError, match='unsupported'):
    doors.public(lambda x: x + {})(3)


@pytest.mark.parametrize('call', [
    lambda s: s.observe(PAIR[0], IMAGES),
    lambda s: s.predict(IMAGES, task=IMAGES),
    lambda s: s.predict(IMAGES, task=IMAGES, names=PAIR),
    lambda s: s.predict(IMAGES, names=IMAGES),
    lambda s: s.identify(IMAGES, names=PAIR, rule=[IMAGES]),
    lambda s: s.identify(IMAGES, names=PAIR, rerank=[IMAGES]),
    lambda s: s.predict_mixed(IMAGES, [IMAGES] * 4),
    lambda s: s.export(PAIR[0], IMAGES),
    lambda s: s.export(PAIR[0], 'a.safetensors', licence=IMAGES),
    lambda s: s.merge(IMAGES),
    lambda s: s.merge(PAIR, how=IMAGES),
    lambda s: s.merge(PAIR, IMAGES),
    lambda s: s.merge(PAIR, name=IMAGES),
    lambda s: s.rename(PAIR[0], IMAGES),
    lambda s: s.learn('digits', method=IMAGES),
    lambda s: s.learn('digits', method='supsup', phase=IMAGES),
    lambda s: s.learn('digits', method='supsup', options=IMAGES),
    lambda s: mtl_jax.load(IMAGES),
    lambda s: mtl_jax.load(s.workdir.root, cache_bytes=IMAGES)])
def test_an_array_at_the_wrong_place_is_described_in_one_line(system, call):
  with pytest.raises(ValueError, match=r'uint8\(|got str') as found:
    call(system)
  assert '\n' not in str(found.value)


@pytest.mark.parametrize('weights', [
    [[1], [2, 3]], [10 ** 400, 1], {1: 2, 3: 4}, np.ones((2, 2))])
def test_weights_of_a_merge_are_a_row_of_numbers(system, weights):
  with pytest.raises(ValueError, match='weights is .*a finite number per task'):
    system.merge(PAIR, weights)


def test_names_from_numpy_name_tasks(system, tmp_path):
  own = mtl_jax.load(shutil.copytree(system.workdir.root, tmp_path / 'run'))
  own.merge(np.array(PAIR).tolist(), how='union', name=np.str_('both'))
  own.rename(np.str_('both'), np.str_('pair'))
  assert type(own.tasks[-1]) is str and 'pair' in own.tasks
  own.delete(np.str_('pair'))
  assert own.tasks == system.tasks and not verification.check(own).faults


@pytest.mark.parametrize('call', [
    lambda s: s.predict(IMAGES, task=PAIR[0]),
    lambda s: s.predict(IMAGES, names=PAIR),
    lambda s: s.observe(IMAGES, PAIR[0]),
    lambda s: s.predict_mixed(IMAGES, PAIR * 2),
    lambda s: s.identify(IMAGES, names=PAIR),
    lambda s: s.apply_fn(PAIR[0]),
    lambda s: s.learn('digits', method='supsup', steps=1)])
def test_a_transfer_that_a_context_forbids_is_explained(system, call):
  system.refresh()
  with jax.transfer_guard('disallow'):
    with pytest.raises(ValueError, match='leave the context of jax.transfer_g'):
      call(system)
  assert len(system.tasks) == 3
  with jax.transfer_guard('log'):
    system.predict(IMAGES, task=PAIR[0])


def test_a_system_that_keeps_no_task(system):
  none = mtl_jax.load(system.workdir.root, cache_bytes=0)
  np.testing.assert_array_equal(none.predict(IMAGES, task=PAIR[0]),
                                system.predict(IMAGES, task=PAIR[0]))
  assert not verification.check(none).faults
