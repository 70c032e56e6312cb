"""A system says in a sentence which argument it can't take."""

import jax
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax import models
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
