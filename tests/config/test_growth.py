"""Which configs go on where an earlier one ended."""

import configs
import pytest

from mtl_jax.config import config as config_lib
from mtl_jax.config import growth
from mtl_jax.data import sources


def check(old, new):
  growth.check(config_lib.from_dict(old), config_lib.from_dict(new))


def more(**changes):
  """The small config with a task more in its last phase."""
  return configs.small(**({'suite__num_tasks': 8,
                           'phases__b__tasks': (4, 8)} | changes))


def test_a_suite_and_its_last_phase_may_grow():
  check(configs.small(), more())
  check(configs.small(), configs.small(suite__num_tasks=60))
  assert [p.name for p in growth.grown(*map(
      config_lib.from_dict, (configs.small(), more())))] == ['b']


def test_an_earlier_phase_may_grow_if_nobody_minds():
  old = configs.small(phases__b__tasks=(5, 6))
  check(old, configs.small(phases__a__tasks=(0, 5), phases__b__tasks=(5, 6)))


def test_another_data_set_may_come():
  changes = dict(suite=dict(kind='datasets', sources=('digits',),
                            image_shape=(8, 8, 1)),
                 phases__a__tasks=(0, 1), schedule=('a',))
  digits = sources.load('digits').train
  sources.register('negatives', lambda: sources.from_arrays(
      'negatives', 255 - digits.images, digits.labels))
  old = configs.small(phases__b=configs.REMOVED, **changes)
  new = configs.small(**changes | dict(
      suite=dict(kind='datasets', sources=('digits', 'two=digits'),
                 image_shape=(8, 8, 1)),
      schedule=('a', 'b'), phases__b__tasks=(1, 2),
      phases__b__basis__size=1))
  with pytest.raises(ValueError, match='same test images'):
    check(old, new)  # it is the same data
  new['suite']['sources'] = ('digits', 'negatives')
  check(old, new)


@pytest.mark.parametrize('changes, name, why', [
    ({'seed': 2}, 'seed', ''),
    ({'backbone__outputs': 12}, 'backbone/outputs', ''),
    ({'phases__a__steps': 6}, 'phases/a/steps', ''),
    ({'phases__a__tasks': (0, 3)}, 'phases/a/tasks/1', ''),
    ({'phases__b__tasks': (3, 6), 'phases__a__tasks': (0, 3)},
     'phases/a/tasks/1', ''),
    ({'suite__num_tasks': 5, 'phases__b__tasks': (4, 5)},
     'phases/b/tasks/1', ''),
    ({'suite__num_tasks': 101}, 'name of task 0 of the suite', 'number_width'),
    ({'suite__seed': 3}, 'transforms of task 0 of the suite', ''),
    ({'suite': {'kind': 'rotated', 'source': 'digits', 'num_tasks': 8}},
     'suite.kind', '')])
def test_anything_else_is_another_config(changes, name, why):
  with pytest.raises(growth.Other) as found:
    check(configs.small(), configs.small(**changes))
  assert found.value.name == name and why in found.value.why


def test_a_new_phase_stands_at_the_end():
  phases = {name: {'method': 'supsup', 'tasks': tasks, 'steps': 5}
            for name, tasks in (('a', (0, 2)), ('b', (2, 3)), ('c', (3, 4)))}
  make = lambda *names: configs.small(
      phases={name: phases[name] for name in names}, schedule=names)
  for names in (('a', 'c', 'b'), ('c', 'a', 'b')):
    with pytest.raises(growth.Other) as found:
      check(make('a', 'b'), make(*names))
    assert found.value.name == 'schedule' and found.value.now == list(names)
    assert 'new phase c stands before an old one' in found.value.why
  check(make('a', 'b'), make('a', 'b', 'c'))  # the remedy


def test_the_remedy_for_longer_names():
  check(configs.small(), configs.small(suite__num_tasks=99))
  old = configs.small(suite__number_width=3)
  check(old, configs.small(suite__number_width=3, suite__num_tasks=101))


@pytest.mark.parametrize('changes, why', [
    ({'method': 'joint', 'together': 'joint'}, 'trained together'),
    ({'pool': True}, 'pooled'),
    ({'stream': {'every': 5}}, 'learned a stream')])
def test_a_phase_that_is_learned_as_a_whole_does_not_grow(changes, why):
  phase = {'method': 'supsup', 'tasks': (0, 2), 'steps': 5} | changes
  old = configs.small(phases={'a': phase}, schedule=('a',))
  new = configs.small(phases={'a': phase | {'tasks': (0, 3)}}, schedule=('a',))
  with pytest.raises(growth.Other) as found:
    check(old, new)
  assert why in found.value.why
  assert 'give the new tasks a phase of their own' in found.value.why
  # The remedy.
  check(old, configs.small(phases={'a': phase, 'b': phase | {
      'tasks': (2, 3), 'control': bool(changes.get('pool'))}},
                           schedule=('a', 'b')))


def subnetworks(**tasks):
  phases = {name: {
      'method': 'subnetworks', 'steps': 5, 'tasks': own,
      'own': ('Dense_2/.*',), 'allocation': {'density': .2}}
            for name, own in tasks.items()}
  return configs.small(phases=phases, schedule=tuple(phases))


def test_weights_that_a_later_phase_took_are_not_free():
  """In a run of the new config from the start they would have been."""
  check(subnetworks(a=(0, 2)), subnetworks(a=(0, 3)))
  check(subnetworks(a=(0, 2), b=(2, 4)), subnetworks(a=(0, 2), b=(2, 5)))
  with pytest.raises(growth.Other) as found:
    check(subnetworks(a=(0, 2), b=(3, 5)), subnetworks(a=(0, 3), b=(3, 5)))
  assert 'a phase at the end of the schedule' in found.value.why
  check(subnetworks(a=(0, 2), b=(3, 5)),
        subnetworks(a=(0, 2), b=(3, 5), c=(2, 3)))
