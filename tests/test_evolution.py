"""The search's decisions: parents, mutations, scores, spaces."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from mtl_jax import models
from mtl_jax import trees
from mtl_jax.evolution import mutations
from mtl_jax.evolution import networks
from mtl_jax.evolution import parents
from mtl_jax.evolution import spaces

SHAPE = (8, 8, 3)
NETWORK = models.make('vit_ti', 7, num_layers=2, patch=4, width=16, hidden=24,
                      heads=2)
LARGE = spaces.make('mu2net_large')
TI0 = spaces.make('mu2net_ti0')


def rng(seed=0):
  return np.random.default_rng(seed)


def root():
  params, _ = NETWORK.init(jax.random.key(0), SHAPE)
  return networks.path_of(jax.tree.map(np.asarray, params),
                          name=networks.ROOT, task=None, parent=None, hyper={})


ROOT = root()


def path(name, task, score=0., components=None, **fields):
  return networks.Path(name, task, fields.pop('parent', networks.ROOT),
                       fields.pop('hyper', {}), components or ROOT.components,
                       score=score, quality=score, **fields)


def changed(component, amount):
  return networks.component(component.name, jax.tree.map(
      lambda x: x + np.float32(amount), component.tree))


def learn(made, task, amount, name=None, classes=3, score=.5):
  """A 'trained' child: everything that it trains moves by an amount."""
  params = {name: part.tree for name, part in made.cloned.items()}
  for new in made.new:
    params[new] = jax.tree.map(np.asarray, NETWORK.parts.create(
        new, classes, made.hyper['adapter'], jax.random.key(1)))
  params = jax.tree.map(lambda x: x + np.float32(amount), params)
  return mutations.finished(made, params, dict.fromkeys(params), task=task,
                            name=name or task, score=score, quality=score)


def sample(space=LARGE, lineage=(ROOT,), locked=None, classes=3,
           seed=0, control=None, **hyper):
  images = space.defaults(spaces.AUGMENT)
  lineage = [dataclasses.replace(lineage[0], hyper=dict(
      lineage[0].hyper) | hyper), *lineage[1:]]
  locked = networks.locked('a', [ROOT]) if locked is None else locked
  return mutations.child(rng(seed), space, lineage, images, locked, classes,
                         control)


# Spaces.


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


@pytest.mark.parametrize('value', LARGE['learning_rate'].values)
def test_a_step_is_one_place_and_stays_on_the_list(value):
  values = LARGE['learning_rate'].values
  at = values.index(value)
  seen = collections.Counter(
      values.index(mutations.step(rng(seed), LARGE['learning_rate'], value))
      for seed in range(200))
  expected = {max(at - 1, 0), min(at + 1, len(values) - 1)}
  assert set(seen) == expected
  assert all(60 < count < 140 for count in seen.values())


def test_booleans_step_half_of_the_time():
  seen = collections.Counter(
      mutations.step(rng(seed), LARGE['nesterov'], True) for seed in range(200))
  assert 60 < seen[False] < 140


# Parents.


def test_acceptance_halves_with_every_child():
  """One own path, and no other: 1, 1/2, 1/4 before the fallback."""
  one = path('a', 'a')
  other = path('b', 'b')
  for children, expected in ((0, 1.), (1, .5), (2, .25), (3, .125)):
    taken = sum(parents.choose(
        rng(seed), [one], [other], ['b'], {'a': children, 'b': 0}
        ).parent is one for seed in range(2000))
    assert abs(taken / 2000 - expected) < .04, children


def test_the_best_own_path_is_asked_first_and_the_newest_of_equals():
  own = [path(str(i), 'a', score) for i, score in enumerate((.5, .9, .9, .1))]
  assert parents.choose(rng(), own, [], [], {}).parent.name == '2'
  found = parents.choose(rng(), own, [], [], {'2': 99})
  assert found.parent.name == '1'


def test_seeds_take_turns():
  others = [path(name, name) for name in 'wxyz']
  order, seen, children = ('w', 'x', 'y', 'z'), [], {}
  for _ in range(4):
    found = parents.choose(rng(len(seen)), [], others, order, children)
    order = found.seeds
    seen.append(found.parent.name)
    children[seen[-1]] = 1
  assert seen == ['w', 'x', 'y', 'z'] and order == ('w', 'x', 'y', 'z')
  # After one child each a seed that is passed over keeps its turn.
  found = parents.choose(rng(3), [], others, order, dict.fromkeys('wxy', 99))
  assert found.parent.name == 'z' and found.seeds == ('w', 'x', 'y', 'z')


def test_the_fallback_is_any_path():
  own, others = [path('a', 'a')], [path('x', 'x'), path('y', 'y')]
  tired = dict.fromkeys('axy', 99)
  seen = collections.Counter(
      parents.choose(rng(seed), own, others, 'xy', tired).parent.name
      for seed in range(600))
  assert set(seen) == set('axy') and min(seen.values()) > 130
  with pytest.raises(ValueError, match='no path'):
    parents.choose(rng(), [], [], [], {})


def test_mu2net_plus_takes_any_path_where_no_own_one_is_accepted():
  own, others = [path('a', 'a')], [path('x', 'x')]
  seen = collections.Counter(
      parents.choose(rng(seed), own, others, 'x', {'a': 99}, True).parent.name
      for seed in range(400))
  assert 130 < seen['a'] < 270


def test_seeds_start_in_a_drawn_order():
  names = list('abcdef')
  orders = {parents.shuffled(rng(seed), names) for seed in range(9)}
  assert len(orders) > 6 and all(sorted(order) == names for order in orders)
  assert parents.shuffled(rng(1), names) == parents.shuffled(rng(1), names)


# Children.


def rate_of(value):
  """The space in which every mutation has this rate."""
  return dataclasses.replace(LARGE, ranges=spaces._ranges(
      dict(LARGE.ranges) | {spaces.RATE: (value,)}))


def test_without_mutations_head_and_norm_are_trained():
  made = sample(rate_of(0.), classes=11)
  assert made.trained == ['encoder_norm', 'head'] and made.new == ('head',)
  assert set(made.shared) == set(ROOT.components) - {'encoder_norm', 'head'}
  assert all(made.shared[name] is ROOT.components[name]
             for name in made.shared)
  head = NETWORK.parts.create('head', 11, 0, jax.random.key(0))
  sizes = {'head': trees.size(head)}
  assert mutations.weights(made, sizes) == 2 * 16 + 16 * 11 + 11


@pytest.mark.parametrize('classes', [10, 1000])
def test_weights_trained_of_a_vit_large_without_mutations(classes):
  network = models.make('vit_l', 2)
  shapes = jax.eval_shape(lambda key: network.init(key, (224, 224, 3))[0],
                          jax.random.key(0))
  parts = {name: networks.Component(name, name, tree, trees.size(tree))
           for name, tree in shapes.items()}
  large = networks.Path(networks.ROOT, None, None, {}, parts)
  made = mutations.child(rng(), rate_of(0.), [large], {},
                         networks.locked('a', [large]), classes)
  head = jax.eval_shape(lambda: network.parts.create(
      'head', classes, 0, jax.random.key(0)))
  assert mutations.weights(made, {'head': trees.size(head)}) == (
      2_048 + 1024 * classes + classes)


def test_a_rate_of_one_clones_everything():
  made = sample(rate_of(1.))
  assert not made.shared and set(made.trained) == set(ROOT.components)
  assert all(made.cloned[name] is ROOT.components[name]
             for name in made.cloned)


def test_cloning_has_the_rate_of_the_child():
  counts = [len(sample(rate_of(.2), seed=seed).cloned) - 1
            for seed in range(300)]
  # embedding, cls, posembed_input and two blocks; the norm is always cloned.
  assert abs(np.mean(counts) - 5 * .2) < .15


def test_hyper_parameters_mutate_and_the_rate_comes_first():
  moved = collections.Counter()
  for seed in range(300):
    made = sample(seed=seed)
    for name, value in LARGE.defaults().items():
      if made.hyper[name] != value:
        moved[name] += 1
        assert made.changed[name] == [value, made.hyper[name]]
        assert made.hyper[name] in LARGE[name].values
  assert set(moved) == {spaces.RATE, 'learning_rate', 'warmup', 'momentum',
                        'nesterov'}
  assert abs(moved['learning_rate'] / 300 - .2) < .07
  assert abs(moved['nesterov'] / 300 - .1) < .06  # half of the steps stay


def test_hyper_parameters_are_inherited():
  made = sample(rate_of(0.), learning_rate=.2, momentum=.5, unknown=3)
  assert made.hyper['learning_rate'] == .2 and made.hyper['momentum'] == .5
  assert 'unknown' not in made.hyper
  assert sample(rate_of(0.), learning_rate=7.).hyper['learning_rate'] == .01


def test_a_child_takes_the_generations_augmentation():
  images = LARGE.defaults(spaces.AUGMENT) | {'hue': .2}
  made = mutations.child(rng(), rate_of(0.), [ROOT], images,
                         networks.locked('a', [ROOT]), 3)
  assert made.hyper['hue'] == .2 and made.changed['hue'] == [0., .2]


def test_a_generations_augmentation():
  draws = [mutations.sample_images(rng(seed), LARGE, None)
           for seed in range(300)]
  assert abs(np.mean([d['crop'] is False for d in draws]) - .1) < .06
  assert all(set(d) == set(spaces.AUGMENT) for d in draws)
  best = path('a', 'a', hyper={'hue': .2, 'learning_rate': .5})
  same = [mutations.sample_images(rng(seed), LARGE, best)['hue'] == .2
          for seed in range(300)]
  assert np.mean(same) > .8
  plus = spaces.make('mu2net_plus_ti3')
  assert mutations.sample_images(rng(), plus, None) == plus.defaults(
      spaces.AUGMENT)


def test_own_components_are_always_cloned_and_others_stay_locked():
  mine = learn(sample(rate_of(1.)), 'a', .5)
  theirs = learn(sample(rate_of(0.), [mine, ROOT],
                        networks.locked('b', [ROOT, mine])), 'b', .25)
  assert theirs.components['embedding'] is mine.components['embedding']
  again = sample(rate_of(0.), [mine, ROOT],
                 networks.locked('a', [ROOT, mine, theirs]))
  # What b uses too is locked; a's own norm and head are trained on.
  assert again.trained == ['encoder_norm', 'head'] and not again.new
  assert again.cloned['head'] is mine.components['head']
  alone = sample(rate_of(0.), [mine, ROOT],
                 networks.locked('a', [ROOT, mine]))
  assert set(alone.trained) == set(ROOT.components)
  assert 'embedding' not in alone.changed  # not a mutation: it is its own


def test_heads_of_others_are_not_taken_over():
  mine = learn(sample(rate_of(0.)), 'a', .5)
  other = sample(rate_of(0.), [mine, ROOT],
                 networks.locked('b', [ROOT, mine]))
  assert other.new == ('head',)
  grandchild = sample(rate_of(0.), [
      path('x', 'a', components=dict(ROOT.components)), mine, ROOT],
                      networks.locked('a', [ROOT]))
  assert grandchild.cloned['head'] is mine.components['head']
  other_size = sample(rate_of(0.), [mine, ROOT], classes=4)
  assert other_size.new == ('head',)


def test_layers_come_and_go_at_the_top():
  space = TI0.replace(**{'num_layers': 1})
  made = sample(space)
  assert 'encoderblock_0' in made.shared | made.cloned
  assert 'encoderblock_1' not in made.shared | made.cloned
  more = sample(TI0.replace(num_layers=3))
  assert 'encoderblock_2' in more.new and 'encoderblock_1' not in more.new
  # A layer that an ancestor had comes back from it.
  tall = learn(sample(TI0.replace(num_layers=2)), 'a', .5, 'tall')
  short = learn(sample(TI0.replace(num_layers=1), [tall, ROOT]), 'a', .5,
                'short')
  back = sample(TI0.replace(num_layers=2), [short, tall, ROOT])
  assert (back.shared | back.cloned)['encoderblock_1'] is tall.components[
      'encoderblock_1']


def test_adapters_are_inserted_and_follow_their_layers():
  space = spaces.make('munet_ti3')
  every = dataclasses.replace(space, ranges=spaces._ranges(
      dict(space.ranges) | {spaces.RATE: (1.,), 'adapter': (32,)}))
  made = sample(every)
  assert made.hyper[mutations.ADAPTED] == [0, 1]
  assert {'residual_adapter_0', 'residual_adapter_1'} <= set(made.new)
  grown = learn(made, 'a', .5)
  wide = sample(space.replace(adapter=32), [grown, ROOT])
  part = grown.components['residual_adapter_1']
  assert (wide.shared | wide.cloned)['residual_adapter_1'] is part
  other = sample(space.replace(adapter=8), [grown, ROOT])
  assert 'residual_adapter_1' in other.new
  assert not sample(LARGE).hyper[mutations.ADAPTED]


def test_mu2net_plus_evolves_a_rate_for_every_action():
  plus = spaces.make('mu2net_plus_ti3')
  rates = collections.Counter()
  for seed in range(100):
    made = sample(plus, seed=seed)
    own = {name: value for name, value in made.hyper.items() if '|' in name}
    rates.update(own)
    assert all(value in (.08, .12) for value in own.values())
  assert {f'{spaces.RATE}|hp:learning_rate', f'{spaces.RATE}|clone:embedding',
          f'{spaces.RATE}|add:residual_adapter_0'} <= set(rates)
  made = sample(plus, [path('p', 'b', hyper={
      f'{spaces.RATE}|clone:cls': .3})])
  assert made.hyper[f'{spaces.RATE}|clone:cls'] in (.28, .3)


@pytest.mark.parametrize('control, trained', [
    ('finetune', set(ROOT.components)), ('head', {'encoder_norm', 'head'}),
    ('adapters', {'encoder_norm', 'head', 'residual_adapter_0',
                  'residual_adapter_1'})])
def test_controls_change_no_hyper_parameter(control, trained):
  for seed in range(5):
    made = sample(seed=seed, control=control, learning_rate=.5)
    assert set(made.trained) == trained
    assert {k: v for k, v in made.hyper.items() if k != mutations.ADAPTED
            } == LARGE.defaults()
  with pytest.raises(ValueError, match='unknown control .lora'):
    sample(control='lora')


def test_equal_generators_decide_alike():
  one, two = (sample(seed=7) for _ in range(2))
  assert one.hyper == two.hyper and one.trained == two.trained
  assert any(sample(seed=seed).hyper != one.hyper for seed in range(9))


def test_lineage_ends_with_the_root():
  a = path('a', 'a')
  b = path('b', 'a', parent='a')
  orphan = path('c', 'a', parent='gone')
  known = {p.name: p for p in (ROOT, a, b, orphan)}
  assert [p.name for p in mutations.lineage(b, known)] == ['b', 'a', 'root']
  assert [p.name for p in mutations.lineage(orphan, known)] == ['c', 'root']
  assert [p.name for p in mutations.lineage(ROOT, known)] == ['root']


# What paths cost.


def test_components_are_named_by_their_content():
  part = ROOT.components['encoderblock_0']
  assert changed(part, 0.).id == part.id
  assert changed(part, 1e-3).id != part.id
  assert networks.component('encoderblock_1', part.tree).id != part.id
  assert part.weights == trees.size(part.tree)


def test_accounted_weights_sum_to_the_weights_in_use():
  a = learn(sample(rate_of(.5), seed=1), 'a', .5)
  b = learn(sample(rate_of(.3), [a, ROOT], networks.locked(
      'b', [ROOT, a]), seed=2), 'b', .25)
  c = learn(sample(rate_of(.3), [b, a, ROOT], networks.locked(
      'c', [ROOT, a, b]), seed=3), 'c', .125)
  retained = [ROOT, a, b, c]
  used = {part.id: part.weights for p in (a, b, c)
          for part in p.components.values()}
  total = sum(networks.accounted(p, retained) for p in (a, b, c))
  assert total == pytest.approx(sum(used.values()))
  assert len({part.id for part in c.components.values()}
             & {part.id for part in b.components.values()}) > 1
  # A component of three tasks counts a third, one of the root alone whole.
  alone = dataclasses.replace(ROOT, task='z', name='z')
  assert networks.accounted(alone, [ROOT]) == sum(
      part.weights for part in ROOT.components.values())


def test_the_published_score_is_the_quality():
  assert networks.Scale().factor(1e9, 1e12) == 1.
  scale = networks.Scale(size=.98, weights=100., compute=.99, flops=10.)
  assert scale.factor(50., 20.) == pytest.approx(.98 ** .5 * .99 ** 2)
  with pytest.raises(ValueError, match='bases must lie in'):
    networks.Scale(size=1.5)


def test_the_best_path_is_the_newest_of_the_highest_score():
  paths = [path(str(i), 'a', score) for i, score in enumerate((.5, .9, .9, .8))]
  assert networks.best(paths).name == '2'
  assert networks.best([]) is None


def test_a_child_of_the_root_is_as_deep_as_the_root():
  assert sample(TI0.replace(**{spaces.RATE: .1}), seed=3).hyper[
      'num_layers'] in (1, 2, 3)
  made = sample(TI0, control='head')
  assert made.hyper['num_layers'] == 2
