"""Dense heads in stored systems: sizes, export, mixed batches, verification."""

import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax.data import sources
from mtl_jax.serving import verification

HEAD = 64 * 30  # weights of the last layer
DENSE = ('dense-00', 'dense-01')


@pytest.fixture(name='run', scope='module')
def _run(tmp_path_factory):
  config = tiny.get_config('infer')
  common = dict(steps=20, batch_size=64, optimizer='adam', learning_rate=1e-2,
                method='supsup')
  basis = dict(kind='random', size=3, density=.5)
  config.suite.names = tuple(
      f'{name}-{n:02d}' for n, name in enumerate((
          'dense', 'dense', 'none', 'none', 'combined', 'owned', 'owned')))
  config.phases = dict(
      dense=dict(common, tasks=(0, 2), head='dense'),
      none=dict(common, tasks=(2, 4), head='none'),
      combined=dict(common, tasks=(4, 5), method='impresslearn', basis=basis,
                    options=dict(head='dense')),
      owned=dict(common, tasks=(5, 7), method='subnetworks', together='joint',
                 allocation=dict(density=.2, sample=64),
                 options=dict(head='dense')))
  config.schedule = tuple(config.phases)
  folder = tmp_path_factory.mktemp('heads') / 'run'
  tiny.learn(tiny.config_lib.from_dict(config.to_dict()), folder)
  return folder


def test_a_dense_head_is_stored_whole_and_counted(run):
  system = mtl_jax.load(run)
  assert verification.check(system) == verification.Result(7, [], [])
  for task, own, bits in (('dense-00', HEAD, 64 * 64), ('none-02', 0, 64 * 64),
                          ('combined-04', HEAD + 3, 0)):
    found = system.parameters(task)
    assert (found.own, found.mask_bits) == (own, bits)
    sizes = system.record(task)['bytes']
    assert sizes['values'] == (HEAD * 4 if own else 0)
  kernels = [np.asarray(system.effective(system.task(task))[0]['Dense_1'][
      'kernel']) for task in ('none-02', 'none-03', *DENSE)]
  np.testing.assert_array_equal(kernels[0], system.backbone.params['Dense_1'][
      'kernel'])
  np.testing.assert_array_equal(kernels[0], kernels[1])
  assert not np.array_equal(kernels[2], kernels[3])


def test_tasks_with_dense_heads_travel_and_mix(run, tmp_path):
  system = mtl_jax.load(run)
  x = sources.load('digits').test.images[:6]
  names = ['dense-00', 'dense-01', 'none-02', 'owned-05', 'owned-06',
           'combined-04']
  mixed = np.asarray(system.predict_mixed(x, names))
  for i, name in enumerate(names):
    own = np.asarray(system.predict(x[i:i + 1], task=name))[0]
    np.testing.assert_allclose(mixed[i, :10], own, rtol=1e-4, atol=1e-4)
    file = system.export(name, tmp_path / f'{name}.safetensors')
    np.testing.assert_array_equal(
        mtl_jax.load(file).predict(x, task=name), system.predict(x, task=name))
  system.merge(DENSE, name='both')
  assert 'both' in system and not verification.check(system).faults
  system.delete('both')
  with pytest.raises(ValueError, match='needs tasks that left only masks'):
    system.merge(DENSE, how='union', name='union')


def test_inference_is_refused_for_dense_heads_alone(run):
  system = mtl_jax.load(run)
  x = system.observe(sources.load('digits').test.images[:32], 'none-03')
  assert system.identify(x, names=['none-02', 'none-03']).task in (
      'none-02', 'none-03')
  with pytest.raises(ValueError, match='dense-00 was learned by supsup, whose '
                                       'impressions cannot be superposed'):
    system.identify(x, names=DENSE)


@pytest.mark.parametrize('phase, changes, text', [
    ('many', {'stream': dict(every=2, tolerance=.5), 'tasks_at_once': 1,
              'head': 'dense'}, 'leaves masks and nothing between tasks'),
    ('basis', {'method': 'dedicated', 'head': 'mask'}, "phase basis: head is "
     "'mask', but the method leaves no mask of Dense_2/kernel; choose dense or "
     'none, or name them'),
    ('basis', {'head': 'mask', 'options': {'masked': ['Dense_0/kernel']}},
     "head is 'mask', but .* or name them among the leaves that it masks"),
    ('basis', {'head': 'none', 'options': {'masked': ['Dense_2/kernel']}},
     'phase basis: .* matches only leaves of the head, which head=')])
def test_heads_that_make_no_sense_are_refused_first(phase, changes, text):
  changes = {f'phases__{phase}__{name}': value
             for name, value in changes.items()}
  with pytest.raises(ValueError, match=text):
    tiny.check(tiny.only(phase, **changes))
