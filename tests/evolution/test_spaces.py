"""The values that a search's hyper-parameters may take."""

import pytest
from tiny_evolution import LARGE, TI0, sample

from mtl_jax.evolution import spaces


def test_the_published_space():
  assert LARGE[spaces.RATE].values == (
      .1, .12, .14, .16, .18, .2, .22, .24, .26, .28, .3)
  assert len(LARGE['learning_rate'].values) == 12
  assert LARGE.defaults() == {
      spaces.RATE: .2, 'learning_rate': .01, 'warmup': .05, 'momentum': .9,
      'nesterov': False, 'schedule': 'cosine', 'adapter': 16,
      'area_min': .05, 'crop': True, 'aspect_min': .75, 'flip': True,
      'brightness': 0., 'contrast': 0., 'saturation': 0., 'hue': 0.}
  assert TI0['num_layers'].values == (0, 1, 2, 3)
  assert TI0['warmup'].default == .1 and TI0['num_layers'].default == 0
  assert 'num_layers' not in dict(LARGE.ranges)
  plus = spaces.make('mu2net_plus_ti3')
  assert plus.rate_per_action and plus['flip'].default is False
  assert len(plus[spaces.RATE].values) == 15
  assert 'linear' in plus['schedule'].values
  munet = spaces.make('munet_ti3')
  assert munet.insert_adapters and munet[spaces.RATE].values == (.1,)


def test_spaces_can_be_narrowed_and_unknown_names_are_refused():
  fixed = spaces.make('mu2net_ti0', (('learning_rate', .05),))
  assert fixed['learning_rate'] == spaces.Range((.05,), .05)
  with pytest.raises(ValueError, match='has no learningrate .did you mean: '
                                       'learning_rate'):
    TI0.replace(learningrate=1)
  for name, value, words in (
      ('schedule', 'exponential', 'schedule is .exponential.*known: cosine'),
      ('learning_rate', -1., 'learning_rate is -1.0; it must be above 0'),
      ('warmup', 3, 'warmup is 3; it must lie between 0 and 1'),
      ('adapter', 0, 'adapter is 0; it must be a whole number of at least 1'),
      (spaces.RATE, 7, 'mutation_rate is 7; it must lie between'),
      ('nesterov', 'no', "nesterov is 'no'; it must be True or False"),
      ('crop', .3, 'crop is 0.3; it must be True or False'),
      ('momentum', None, 'momentum is None; it must be a number .no momentum'),
      ('num_layers', float('nan'), 'num_layers is nan; it must be a whole'),
      ('warmup', float('nan'), 'warmup is nan; it must lie between 0 and 1'),
      ('warmup', (.1, 3), 'warmup is 3; it must lie between 0 and 1'),
      ('warmup', (), 'warmup has no value')):
    with pytest.raises(ValueError, match=words):
      TI0.replace(**{name: value})
  with pytest.raises(ValueError, match='unknown space .mu3net.*known: mu2net_'):
    spaces.make('mu3net')
  with pytest.raises(ValueError, match='the default 3 is not among'):
    spaces.Range((1, 2), 3)


def test_a_range_can_be_replaced():
  some = LARGE.replace(momentum=(.5, .9), learning_rate=(1., 2.),
                       num_layers=(1, 2, 3))
  assert some['momentum'] == spaces.Range((.5, .9), .9)  # the default stays
  assert some['learning_rate'] == spaces.Range((1., 2.), 1.)
  assert some['num_layers'].values == (1, 2, 3)
  assert sample(some, seed=3).hyper['num_layers'] in (1, 2, 3)
  assert {sample(some, seed=i, **{spaces.RATE: 0.}).hyper['num_layers']
          for i in range(3)} == {2}  # the root's


def test_the_four_spaces_of_mu2net_plus():
  for size, layers, rate in (('ti0', 3, .1), ('ti3', 3, .1), ('b', 12, .1),
                             ('large', 24, .2)):
    space = spaces.make(f'mu2net_plus_{size}')
    assert space['num_layers'].values == tuple(range(layers + 1))
    assert space[spaces.RATE].default == rate and space.rate_per_action
