"""What a child inherits, changes and trains; what paths cost."""

import collections
import dataclasses

import jax
import numpy as np
import pytest
from tiny_evolution import (
    LARGE, NETWORK, ROOT, TI0, changed, learn, path, rate_of, rng, sample)

from mtl_jax import models
from mtl_jax import trees
from mtl_jax.evolution import mutations
from mtl_jax.evolution import networks
from mtl_jax.evolution import spaces


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
