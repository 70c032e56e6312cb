"""Heads of any method: which leaves they are, what a task leaves of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_methods import BACKBONE, ROUTE, learned

from mtl_jax import fields
from mtl_jax import impressions
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.methods import heads
from mtl_jax.storage import impression_arrays


def layers(*names, bias=True):
  layer = {'kernel': np.zeros((4, 4))} | ({'bias': np.zeros(4)} if bias else {})
  return {name: layer for name in names}


def head_of(params, patterns=None):
  found = trees.flatten(heads.leaves_of(params, patterns))
  return sorted(name for name, own in found.items() if own)


def test_the_last_layer_is_called_head_or_has_the_highest_number():
  assert head_of(layers('Dense_2', 'Dense_10', 'Dense_9')) == [
      'Dense_10/bias', 'Dense_10/kernel']
  assert head_of(layers('stem', 'head', 'body', bias=False)) == ['head/kernel']
  convolutions = {'Conv_3': {'kernel': np.zeros((3, 3, 2, 4))}}
  assert head_of(layers('Dense_0') | convolutions) == [
      'Dense_0/bias', 'Dense_0/kernel']
  assert head_of({'a': layers('fc1', 'fc2')} | convolutions) == [
      'a/fc2/bias', 'a/fc2/kernel']
  assert head_of(layers('out', 'mid'), ('out/.*',)) == ['out/bias',
                                                        'out/kernel']


@pytest.mark.parametrize('model, shape, last', [
    ('lenet_300_100', (8, 8, 1), 'Dense_2'),
    ('gem_resnet18', (8, 8, 3), 'classifier'), ('fc1024', (8, 8, 1), 'Dense_2'),
    ('convolutional', (8, 8, 1), 'head'), ('vit_ti', (16, 16, 3), 'head'),
    ('fully_connected', (8, 8, 1), 'head')])
def test_the_last_layers_of_our_models(model, shape, last):
  network = models.make(model, 3)
  params, _ = jax.eval_shape(lambda: network.init(jax.random.key(0), shape))
  assert {name.split('/')[0] for name in head_of(params)} == {last}
  assert trees.flatten(params)[f'{last}/kernel'].shape[-1] == 3


def test_a_network_whose_last_layer_is_not_clear_names_what_helps():
  for params in (layers('out', 'mid'), {'w1': np.zeros((2, 3)), 'w2': np.zeros(
      (3, 2))}):
    with pytest.raises(ValueError, match='do not say by their numbers which is '
                                         'the last .*give head_leaves'):
      heads.leaves_of(params)
    last = list(trees.flatten(params))[-1]
    assert head_of(params, (last,)) == [last]
  with pytest.raises(ValueError, match='has every leaf of this network'):
    heads.leaves_of(layers('Dense_0'))
  with pytest.raises(ValueError, match="'haed/.*' matches no leaf"):
    heads.leaves_of(BACKBONE, ('haed/.*',))


def test_what_each_kind_leaves_by_hand():
  """24 bits of the body's mask; 18 weights of the head."""
  for case, masks, values in (('supsup_dense', 3, 72), ('supsup_mask', 6, 0),
                              ('supsup_none', 3, 0)):
    impression, _ = learned(case).commit(ROUTE)
    assert impressions.bytes_by_part(impression) == {
        'masks': masks, 'values': values, 'coefficients': 0, 'stats': 0}
  start = methods.make('supsup', head='dense')
  trainable = start.init(jax.random.key(0), BACKBONE, {}, ROUTE)
  np.testing.assert_array_equal(start.bind(BACKBONE, trainable, {}, ROUTE)[
      'head']['kernel'], BACKBONE['head']['kernel'])


def test_what_a_dense_head_cannot_do_is_not_promised():
  dense, none = (methods.make('supsup', head=head).abilities
                 for head in ('dense', 'none'))
  assert not dense.superposes and not dense.streams
  assert none.superposes and none.streams


def test_a_heads_rate_is_that_of_the_config():
  found = learned('batche_dense')
  rates = found.method.abilities.rates(found.trainable)
  assert jax.tree.leaves(rates['own_head']) == [1.]
  assert set(jax.tree.leaves(rates['vectors'])) == {2.}


def test_a_task_keeps_its_own_head_on_what_a_later_one_left():
  for case in ('psp_dense', 'fine_tuning_dense'):
    first, second = (learned(case, seed) for seed in (0, 1))
    before, later = (f.commit(ROUTE)[0] for f in (first, second))
    later = later._replace(values=jax.tree.map(lambda x: x + 1, later.values))
    carried = first.method.abilities.carries(before, later)
    np.testing.assert_array_equal(carried.values['head']['kernel'],
                                  before.values['head']['kernel'])
    np.testing.assert_array_equal(carried.values['body']['kernel'],
                                  later.values['body']['kernel'])


def strange():
  """A method whose trainable is no dict."""
  return methods.Method(
      lambda key, backbone, shared, route: (backbone['body']['kernel'],),
      lambda backbone, own, shared, route: backbone | {
          'body': backbone['body'] | {'kernel': own[0]}},
      lambda backbone, own, shared, route: (methods.Impression(
          parts={'kernel': own[0]}), shared),
      lambda backbone, impression, shared: backbone | {
          'body': backbone['body'] | {'kernel': impression.parts['kernel']}})


def test_a_strangers_method_gets_a_head_without_knowing():
  for head, values in (('dense', 72), ('none', 0)):
    method = heads.with_head(strange(), head)
    trainable = jax.tree.map(lambda x: jnp.asarray(x) + 1, method.init(
        None, BACKBONE, {}, ROUTE))
    impression, _ = method.commit(BACKBONE, trainable, {}, ROUTE)
    bound = method.bind(BACKBONE, trainable, {}, ROUTE)
    assert trees.digests(bound) == trees.digests(
        method.materialise(BACKBONE, impression, {}))
    assert impressions.bytes_by_part(impression)['values'] == values
    np.testing.assert_array_equal(
        bound['head']['kernel'],
        BACKBONE['head']['kernel'] + (head == 'dense'))


def adapted(structure):
  """A method whose networks have a leaf that the backbone lacks."""
  def commit(backbone, own, shared, route):
    if not structure:
      return methods.Impression(parts={'own': own}), shared
    return methods.Impression(values=own, structure=impressions.Structure(
        ('adapter', 'body', 'head'))), shared

  def materialise(backbone, impression, shared):
    return (impressions.materialise(backbone, impression) if structure else
            backbone | impression.parts['own'])
  return methods.Method(
      lambda key, backbone, shared, route: {'adapter': {'up': jnp.ones(3)}},
      lambda backbone, own, shared, route: backbone | own, commit, materialise)


@pytest.mark.parametrize('structure', [True, False])
@pytest.mark.parametrize('head', ['dense', 'none'])
def test_a_method_that_adds_leaves_gets_a_head(structure, head):
  method = heads.with_head(adapted(structure), head)
  trainable = jax.tree.map(lambda x: jnp.asarray(x) + 1, method.init(
      None, BACKBONE, {}, ROUTE))
  bound = method.bind(BACKBONE, trainable, {}, ROUTE)
  np.testing.assert_array_equal(bound['adapter']['up'], 2.)
  np.testing.assert_array_equal(
      bound['head']['kernel'], BACKBONE['head']['kernel'] + (head == 'dense'))
  impression, _ = method.commit(BACKBONE, trainable, {}, ROUTE)
  arrays = impression_arrays.impression_to_arrays(impression)
  read = impression_arrays.arrays_to_impression(
      {name: a for name, a in arrays.items() if a is not None}, BACKBONE, {},
      impression_arrays.impression_metadata(impression))
  assert trees.digests(bound) == trees.digests(
      method.materialise(BACKBONE, read, {}))


def test_a_method_with_a_head_of_its_own_keeps_it():
  own = fields.from_signature('mine', lambda head=3: strange())
  assert heads.extended(own) is own
  more = heads.extended(fields.from_signature('mine', lambda rank: strange()))
  assert more(rank=2, head='none') == more(rank=2, head='none')
  assert more(rank=2).head is None and hash(more(rank=2, head='dense'))


@pytest.mark.parametrize('options, text', [
    ({'head': 'dens'}, 'did you mean: dense'),
    ({'head_leaves': 'a'}, 'but head is not given; give one of dense, mask')])
def test_words_that_are_no_head_are_refused(options, text):
  with pytest.raises(ValueError, match=text):
    methods.make('supsup', **options)
