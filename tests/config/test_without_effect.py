"""An option that another one leaves without effect is refused, before training.

Each case is a config that would otherwise run to its end as if the option were
not there; beside it stands what the refusal says.
"""

import pytest
import tiny
import tiny_rounds
import tiny_search

from mtl_jax.evaluation import transparency
from mtl_jax.evolution import spaces

MASKS = dict(method='supsup', tasks=(0, 2), steps=4, batch_size=16)
BASIS = dict(kind='heterogeneous', size=2, phase='masks')
RANDOM = dict(kind='random', size=2, density=.5)
SHARED = dict(method='joint', tasks=(0, 2), steps=4, batch_size=16)
OPTION, SEARCH = 'phases__part__options__', 'phases__grow__search__'


def check(impress=None, **masks):
  """Checks a config of masks, and of coefficients over them."""
  fields = dict(
      seed=0, suite=dict(kind='permuted', source='digits', num_tasks=14),
      backbone=dict(model='lenet_300_100', outputs=10),
      phases=dict(masks=dict(MASKS, **masks)), schedule=('masks',))
  if impress is not None:
    fields['phases']['own'] = dict(
        dict(MASKS, method='impresslearn', tasks=(2, 3), basis=BASIS),
        **impress)
    fields['schedule'] = ('masks', 'own')
  tiny.check(tiny.config_lib.from_dict(fields))


@pytest.mark.parametrize('changes, text', [
    (dict(absolute=False), "the sampler 'threshold' ranks no scores"),
    (dict(transfer=True, pool=True), 'neither repeats nor a pool'),
    (dict(transfer=True, repeats=2), 'neither repeats nor a pool'),
    (dict(sampler='top_k', density=0.), 'a density of 0 keeps none of the 192'),
    (dict(sampler='top_k', density=1e-4),
     'density: a density of 0.0001 keeps none of the 1000 weights of Dense_2/'),
    (dict(sampler='top_k', eps=1e-9), 'eps: a density of .* keeps none'),
    (dict(head='dense', masked=('Dense_1/kernel', 'Dense_2/.*')),
     "'Dense_2/.\\*' matches only leaves of the head"),
    (dict(SHARED, pool=True, own='Dense_2/.*'), 'own tells tasks apart, and a'),
    (dict(SHARED, pool=True, carry=True), 'carry tells tasks apart, and a'),
    (dict(SHARED, carry=True, own='Dense_2/.*', head='dense'),
     'matches only leaves of the head'),
    (dict(method='batche', layers='Dense_2/kernel', head='none'),
     'matches only leaves of the head')])
def test_options_of_masks_and_dense_networks(changes, text):
  with pytest.raises(ValueError, match=f'phase masks: .*{text}'):
    check(**changes)


@pytest.mark.parametrize('changes, text', [
    (dict(sampler='top_k', density=.1), "sampler is 'top_k', but no head has"),
    (dict(sampler='top_k', eps=4., head='dense'), 'but no head has a mask'),
    (dict(absolute=False, head='none'), 'absolute is False, but no head'),
    (dict(absolute=False, head='mask'), "'threshold' ranks no scores"),
    (dict(sampler='top_k', density=1e-4, head='mask'),
     'keeps none of the 1000 weights of Dense_2/kernel'),
    (dict(basis=dict(BASIS, masked='Dense_0/kernel')),
     'masks from a phase cover what that phase masked; leave masked out'),
    (dict(basis=dict(RANDOM, density=1e-6)),
     'basis.density: a density of 1e-06 keeps none of the 19200 weights')])
def test_options_of_coefficients(changes, text):
  with pytest.raises(ValueError, match=f'phase own: .*{text}'):
    check(changes)


def test_the_remedies_work():
  """What the refusals propose, and options that do have their effect."""
  check(sampler='top_k', density=.1, absolute=False)
  check(transfer=True, start=.1)
  check(head='dense', masked='Dense_1/kernel')
  check(**SHARED, carry=True, own='Dense_2/.*')
  check(dict(sampler='top_k', eps=4., absolute=False, head='mask'))
  check(dict(basis=dict(RANDOM, masked='Dense_0/kernel')))


@pytest.mark.parametrize('changes, text', [
    (dict(paths='official'),
     "overlap is 1, and paths='official' looks at none; leave it out, or take "
     "paths='overlapping'"),
    (dict(similarity=((1., .5), (.5, 1.))),
     "paths='overlapping' looks at none; leave it out, or take paths='guided'"),
    (dict(head='dense', head_leaves='level1/.*'),
     'a dense head of its own; leave head_leaves out'),
    (dict(active=3, overlap=3),
     'level1 has 3 modules but the model has slots for 2; give the method and'),
    (dict(active=1), 'level1 has 1 module but the model has slots for 2')])
def test_options_of_paths(changes, text):
  with pytest.raises(ValueError, match=f'phase part: .*{text}'):
    tiny.check(tiny_rounds.make(
        **{OPTION + name: value for name, value in changes.items()}))


@pytest.mark.parametrize('changes, text', [
    (dict(path_seed=-1), 'path_seed is -1; it must lie between 0 and 2'),
    (dict(path_seed=1 << 32), 'path_seed is 4294967296; it must lie between'),
    (dict(first=-1), 'first is -1; it must be at least 0')])
def test_numbers_of_paths(changes, text):
  with pytest.raises(ValueError, match=f'phases.part: {text}'):
    tiny_rounds.make(
        **{OPTION + name: value for name, value in changes.items()})


@pytest.mark.parametrize('changes, text', [
    ({'phases__grow__milestones': (.5,)}, 'a search takes no milestones'),
    ({'phases__grow__batch_size': 0}, 'batch_size is 0; it must be at least 1'),
    ({'phases__grow__steps': -1}, 'steps is -1; it must be at least 0'),
    ({SEARCH + 'train_cap': 7}, 'train_cap is 7, and steps, 3, takes its'),
    ({SEARCH + 'fixed': dict(adapter=8)},
     'fixed gives adapter, and the space mu2net_ti0 inserts no adapters'),
    ({SEARCH + 'fixed': dict(learning_rate=(.1, .2, .1))}, 'give each once'),
    ({SEARCH + 'scale_weights': 5.},
     'scale_weights is 5.0, and with scale_size=1 cost does not lower'),
    ({SEARCH + 'scale_flops': 5.}, 'give scale_compute below 1, or leave')])
def test_options_of_searches(changes, text):
  with pytest.raises(ValueError, match=text):
    tiny_search.make(**changes)


def test_options_of_searches_with_effect():
  tiny_search.make(**{SEARCH + 'scale_weights': 5., SEARCH + 'scale_size': .9})
  tiny_search.make(**{SEARCH + 'train_cap': 7, 'phases__grow__steps': 0})
  for space, found in spaces.SPACES.items():
    if found.insert_adapters:
      tiny_search.make(**{SEARCH + 'space': space,
                          SEARCH + 'fixed': dict(adapter=8)})


def test_transparency_without_segments(tmp_path):
  config = tiny.make('one', transparency=5)
  with pytest.raises(ValueError, match='transparency is 5, but lenet_300_100 '
                     'has no segments that tasks could share; set it to 0'):
    tiny.learn(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
  _, _, backbone = tiny.prepared(tiny_rounds.make())
  transparency.check(tiny_rounds.make(transparency=5), backbone.network)
