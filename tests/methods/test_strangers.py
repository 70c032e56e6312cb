"""A stranger's wrong method is refused in the first second, with a sentence.

From a config, as a user meets it: the sentence names the phase, and the
function, part or leaf; nothing is trained and nothing is written.
"""

import dataclasses
import random
import re

import configs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from strangers import GOOD, bind, commit, config, init, materialise, update

from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.methods import base
from mtl_jax.training import loop

KERNELS = ('Dense_0/kernel', 'Dense_1/kernel', 'Dense_2/kernel')


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
  """What a test registers is gone after it; nothing is ever trained."""
  monkeypatch.setattr(methods.METHODS, '_known', dict(methods.METHODS))
  monkeypatch.setattr(methods, '_OPTIONS', dict(methods._OPTIONS))
  monkeypatch.setattr(loop, 'learn_phase', None)
  yield
  methods.of_options.cache_clear()


def leave(**parts):
  return lambda backbone, pairs, shared, route: (
      impressions.Impression(**{name: part(backbone, pairs) if callable(part)
                                else part for name, part in parts.items()}),
      shared)


def kept(after):
  """A commit that returns another `shared`."""
  return lambda backbone, pairs, shared, route: (
      commit(backbone, pairs, shared, route)[0], after)


def changed_leaf(name, change):
  """(backbone) -> a tree like it, one leaf of which is changed."""
  return lambda backbone, _: trees.map_named(
      lambda other, w: change(w) if other == name else None, backbone)


def both(change, sentence):
  """Changes what bind and materialise give in the same way."""
  return (dict(bind=lambda *given: change(bind(*given)),
               materialise=lambda *given: change(materialise(*given))),
          sentence)


def test_the_method_that_is_changed_is_sound():
  configs.check(config(lambda: GOOD))


@pytest.mark.parametrize('changes, sentence', [
    # init
    (dict(init=lambda backbone, shared, route: {}),
     'init fails: TypeError: .*argument'),
    (dict(init=lambda key, backbone, shared, route: {
        'a': jax.random.normal(backbone['Dense_9']['kernel'], (3,))}),
     "init fails: KeyError: 'Dense_9'"),
    (dict(init=lambda key, backbone, shared, route: {
        'a': np.random.RandomState(int(key)).rand(3)}),
     'init fails: TypeError'),
    (dict(init=lambda key, backbone, shared, route: jax.tree.map(
        lambda w: np.linalg.svd(np.asarray(w))[0], backbone)),
     'init reads the values of its'),
    (dict(init=lambda key, backbone, shared, route: {
        'a': jnp.concatenate([jnp.zeros(2), 3.])}),
     'init fails: (Type|Value)Error: '),
    (dict(init=lambda key, backbone, shared, route: {}),
     'init gives no array: nothing would be trained'),
    (dict(init=lambda key, backbone, shared, route: {'a': jnp.zeros((3, 0))}),
     'init gives arrays without a number: nothing would be trained'),
    # commit
    (dict(commit=lambda *given: (*commit(*given), 1)),
     r'commit must return \(impression, shared\); it returned 3 values'),
    *((dict(commit=leave(parts=lambda _, pairs, name=name: {name: pairs})),
       f"the impression has a part {name!r}; names of parts are strings "
       "without '/'") for name in ('lo/ra', '', 3)),
    # materialise
    (dict(materialise=lambda *given: jax.tree.map(
        lambda w: w * (1 + .01 * random.random()), materialise(*given))),
     'materialise computes something else when it is called again .*pure'),
    (dict(bind=lambda *given: jax.jit(lambda *inner: jax.tree.map(
        lambda w: w + 1e-5 * np.random.randn(*w.shape), bind(
            *inner, {}, None)))(*given[:2])),
     'bind computes something else when it is called again .*pure'),
    (dict(init=lambda key, backbone, shared, route: {'a': jnp.zeros(3)}),
     "bind fails: KeyError: 'Dense_0.kernel'"),
    (dict(init=lambda key, backbone, shared, route: 'weights'),
     "init fails: TypeError: .*<class 'str'>"),
    (dict(init=lambda key, backbone, shared, route: 1),
     'init gives an array as int32; what is trained must be of floats'),
    (dict(init=lambda key, backbone, shared, route: {
        'a': jnp.zeros(3, jnp.int32), **init(key, backbone, shared, route)}),
     'init gives a as int32; what is trained must be of floats'),
    # bind
    (dict(bind=lambda backbone, pairs, shared, route: backbone),
     'bind does not depend on what init gives: nothing would be learned'),
    (dict(bind=lambda backbone, pairs, shared, route: pairs),
     'bind gives the leaf Dense_0.kernel/a, which the other one of bind and'),
    both(lambda params: jax.tree.map(jnp.transpose, params),
         r'bind gives Dense_0/kernel as float32\(300, 64\), but the backbone '
         r'has float32\(64, 300\), and the network cannot be applied to that'),
    both(lambda params: params | {'Dense_2': params['Dense_1']},
         r'bind gives Dense_2/kernel as .*cannot be applied to that'),
    both(lambda params: {'Dense_0': params['Dense_0']},
         'bind gives no leaf Dense_1/kernel, which the backbone has, and the '
         'network cannot be applied to that'),
    both(lambda params: params | {'Dense_2': {
        'kernel': params['Dense_2']['kernel'][:, :3]}},
         r'bind gives Dense_2/kernel as float32\(100, 3\), but the backbone '
         r'has float32\(100, 10\), and the network cannot be applied to that'),
    (dict(bind=lambda backbone, pairs, shared, route: jax.tree.map(
        lambda w: w.astype(jnp.float16), update(backbone, pairs))),
     r'materialise gives Dense_0/kernel as float32\(64, 300\), but bind as '
     r'float16'),
    both(lambda params: params | {'adapter': {'up': params['Dense_2']}},
         'bind gives the leaf adapter/up/kernel, which the backbone lacks and '
         'the network does not read: nothing would be learned of it'),
    (dict(bind=lambda backbone, pairs, shared: backbone),
     'bind fails: TypeError'),
    # commit
    (dict(commit=lambda backbone, pairs, shared, route: None),
     r'commit must return \(impression, shared\)'),
    (dict(commit=lambda backbone, pairs, shared, route: (pairs, shared)),
     'commit must return an impressions.Impression first'),
    (dict(commit=leave(parts=lambda b, pairs: pairs['Dense_0.kernel']['a'])),
     'parts of the impression are a .*; they must be a dict of parts by'),
    (dict(commit=leave(parts={'pairs': {'a/b': jnp.ones(3)}})),
     "part pairs has the key 'a/b'"),
    (dict(commit=leave(parts={'masks': {}})), "a part 'masks', but that is"),
    (dict(commit=leave(masks=changed_leaf(KERNELS[0], jnp.abs))),
     'a mask of Dense_0/kernel with the dtype float32; masks are bool'),
    (dict(commit=leave(values=changed_leaf(KERNELS[1], jnp.transpose))),
     r'values of Dense_1/kernel with the shape \(100, 300\)'),
    (dict(commit=leave(masks=changed_leaf(KERNELS[0], jnp.isfinite),
                       structure=impressions.Structure(('Dense_0',)))),
     'commit leaves an Impression.*; with a structure of its own it takes n'),
    (dict(commit=leave(values={'Dense_0': {'kernle': jnp.ones(3)}})),
     'values of Dense_0/kernle, but the backbone has no such leaf .did you '
     'mean: Dense_0/kernel'),
    (dict(commit=leave(stats={'a': jnp.ones(3)})),
     'commit returned stats, but the library stores norm statistics'),
    # materialise
    (dict(materialise=base.materialise),
     'materialise does not depend on what commit leaves'),
    (dict(materialise=lambda backbone, impression, shared: impression.parts),
     'bind gives the leaf Dense_0/kernel, which the other one of bind and mat'),
    (dict(materialise=lambda backbone, impression, shared: update(
        backbone, impression.parts['lora'])), "materialise fails: KeyError: '"),
    (dict(materialise=lambda backbone, impression: backbone),
     'materialise fails: TypeError'),
    # prepare and the rest
    (dict(prepare=lambda context: None),
     'prepare must return `shared` as a dict of arrays; it returned a None'),
    (dict(prepare=lambda context: {'before': context.earlier[0].masks}),
     'prepare fails: IndexError'),
    (dict(prepare=lambda context: {'rank': 'two'}),
     r"prepare fails: TypeError: .*<class 'str'> .*\['rank'\]"),
    (dict(relies_on=lambda before, phase: ['a task']),
     "relies_on must give those of the impressions that it was given; 'a t"),
    (dict(relies_on=lambda before, phase: 1 / 0),
     'relies_on fails: ZeroDivisionError'),
    (dict(check=lambda *_: {}['x']), "check fails: KeyError: 'x'"),
    (dict(penalty=lambda trainable: jnp.ones(3)),
     r'penalty must give a number; it gives float32\(3,\)'),
    (dict(penalty=lambda trainable: trainable['x']),
     "penalty fails: KeyError: 'x'"),
    (dict(facts=lambda: {'rank': jnp.ones(3)}),
     'facts must give values that JSON has'),
    (dict(facts=lambda: ['rank']), r"facts .*: \['rank'\] is no dict"),
    (dict(facts=lambda: {3: 1}), 'facts .*: {3: 1} is no dict with names'),
    (dict(facts=lambda: {'rank': float('nan')}), 'facts must give values that'),
    (dict(facts=lambda: {'accuracy': 1.}),
     "'accuracy' is what every record says; choose another name"),
    (dict(facts=lambda: {'search': 3}), "'search' is what every record says"),
    (dict(facts=lambda: {'validation': 3}), "'validation' is what every rec"),
    (dict(facts=lambda: {'sha256': 'x'}), "'sha256' is what every record say"),
    (dict(facts=lambda: {'basis': 'ten masks'}),
     'the basis is malformed: expected an object, got "ten masks"'),
    (dict(facts=lambda: {'basis': {'kind': 'own'}}), "the basis lacks 'size'"),
    (dict(penalty=lambda trainable: jnp.complex64(1)),
     r'penalty must give a number; it gives complex64\(\)'),
    (dict(init=None), 'mine: init is None; give a function'),
    (dict(abilities=None), 'abilities must be a methods.Abilities'),
    # Abilities.
    (dict(abilities=base.Abilities(superposes='yes')),
     "the ability superposes is 'yes'; it must be True or False"),
    (dict(abilities=base.Abilities(watch=5)),
     'the ability watch is 5; it must be a function'),
    (dict(abilities=base.Abilities(folds='tree')),
     "the ability folds is 'tree'; it must be a base.Folds"),
    (dict(abilities=base.Abilities(rates=lambda pairs: jax.tree.map(
        lambda x: jnp.ones(7), pairs))),
     r'rates must give a number for every leaf; of .* it gives float32\(7,\)'),
    # What the files would not give back as it was.
    (dict(commit=leave(parts={'pairs': lambda b, p: p, 'n': {'k': 3}})),
     'commit leaves .*k as a int; every leaf is an array of numbers'),
    (dict(commit=leave(parts={'n': {'k': jax.random.key(0)}})),
     'commit leaves .*k as a key.*random.key_data'),
    (dict(commit=kept({3: jnp.ones(2)})), 'a `shared` that is not kept as it'),
    (dict(commit=kept({'a': [jnp.ones(2)]})), 'dicts of arrays, whose keys'),
    (dict(commit=kept({'a/b': jnp.ones(2)})), "strings without '/'"),
    # Another network is stored than the one that was trained.
    (dict(commit=lambda backbone, pairs, shared, route: commit(
        backbone, jax.tree.map(jnp.zeros_like, pairs), shared, route)),
     'materialise gives Dense_0/kernel with other values than bind, by up to'),
    (dict(materialise=lambda backbone, impression, shared: jax.tree.map(
        lambda w, new: 2 * w - new, backbone, update(
            backbone, impression.parts['pairs']))),
     'with other values than bind, .*: the network that is stored must be'),
])
def test_a_wrong_function_is_refused(tmp_path, changes, sentence):
  given = config(lambda: GOOD._replace(**changes))
  with pytest.raises(ValueError, match=sentence) as refused:
    configs.check(given)
  assert re.match('phase a: .*', str(refused.value))


def test_tasks_that_rely_on_each_other_are_not_trained_at_once():
  given = config(lambda: GOOD._replace(relies_on=base.same_phase))
  configs.check(given)
  given['phases']['a'].update(tasks_at_once=2)
  with pytest.raises(ValueError, match=(
      'a task of the method mine relies on those before it, and permuted-00 is '
      'trained at the same time as permuted-01; leave out tasks_at_once')):
    configs.check(given)


def test_a_network_with_too_few_outputs_is_refused(monkeypatch):
  """Of functions alone: nothing holds their parameters against shapes."""
  monkeypatch.setattr(models.MODELS, '_known', dict(models.MODELS))
  models.register('plain', lambda outputs: models.from_functions(
      lambda key, shape: {'kernel': jnp.ones((64, outputs))},
      lambda params, x: x.reshape(len(x), 64) @ params['kernel']))
  narrow = lambda own: {'kernel': own['kernel'][:, :3]}
  given = config(lambda: methods.Method(
      lambda key, backbone, shared, route: backbone,
      lambda backbone, own, shared, route: narrow(own),
      lambda backbone, own, shared, route: (
          impressions.Impression(values=own), shared),
      lambda backbone, impression, shared: narrow(impression.values)))
  given['backbone'] = {'model': 'plain', 'outputs': 10, 'init': 'default'}
  with pytest.raises(ValueError, match=(
      r'bind gives kernel as float32\(64, 3\), but the backbone has float32'
      r'\(64, 10\), and the network then gives float32\(2, 3\) for 2 images of '
      '10 classes')):
    configs.check(given)
  models._make.cache_clear()


@pytest.mark.parametrize('factory, options, sentence', [
    (lambda rank=2: GOOD, {'rank': 2, 'rang': 3},
     r"unknown key .*rang \(did you mean: rank\?\)"),
    (lambda sizes=(2, 3): GOOD, {'sizes': {1, 2}},
     'sizes is {1, 2}; an option is a number, a string, .* or a tuple of them'),
    (lambda f=None: GOOD, {'f': []}, None),  # a list becomes a tuple
    (lambda rank=2: None, {}, 'the factory of mine must return a '
     'methods.Method; it returned a NoneType'),
    (lambda rank=2: {'init': init}, {}, 'must return a methods.Method; .* dic'),
    (lambda rank=2: 1 / 0, {}, 'mine: its factory fails: ZeroDivisionError'),
    (lambda rank: GOOD, {}, 'phases.a.options.rank is missing; give it'),
])
def test_a_wrong_factory_or_option_is_refused(factory, options, sentence):
  given = config(factory, options)
  if sentence is None:
    configs.check(given)
    return
  with pytest.raises(ValueError, match=sentence):
    configs.check(given)


@pytest.mark.parametrize('low', [jnp.bfloat16, jnp.float16])
def test_an_impression_of_few_bits_is_no_other_network(low):
  def materialise_low(backbone, impression, shared):
    return update(backbone, jax.tree.map(
        lambda x: x.astype(jnp.float32), impression.parts['pairs']))
  configs.check(config(lambda: GOOD._replace(
      materialise=materialise_low,
      commit=lambda backbone, pairs, shared, route: (impressions.Impression(
          parts={'pairs': jax.tree.map(lambda x: x.astype(low), pairs)}),
                                                     shared))))


def test_a_method_that_sees_no_head_is_told_so():
  with pytest.raises(ValueError, match=(
      "init fails: AttributeError: .*With head='none' the method finds None in "
      "the places of the head's leaves")):
    configs.check(config(lambda: GOOD, {'head': 'none'}))


@pytest.mark.parametrize('options, sentence', [
    (3, 'options is 3; give a class made by dataclasses.dataclass'),
    (dict, "options is <class 'dict'>; give a class made by"),
    (dataclasses.make_dataclass('Own', [('rank', 'Nowhere', 2)]),
     "type hints of Own cannot be read: name 'Nowhere' is not defined; name")])
def test_options_that_no_config_could_give_are_refused(options, sentence):
  with pytest.raises(ValueError, match=sentence):
    methods.register('mine', lambda own: GOOD, options)
  assert 'mine' not in methods.METHODS


def test_options_that_fail_are_named():
  @dataclasses.dataclass(frozen=True)
  class Options:
    rank: int = 2

    def __post_init__(self):
      raise KeyError('rank')
  methods.register('mine', lambda own: GOOD, Options)
  with pytest.raises(ValueError, match="phases.a.options cannot be made: "
                                       "KeyError: 'rank'"):
    configs.check(configs.small(
        phases__a=dict(method='mine', tasks=(0, 2), steps=5),
        phases__b=configs.REMOVED, schedule=('a',)))


@pytest.mark.parametrize('factory, sentence', [
    (dict, 'give a function whose keyword arguments are its options'),
    (lambda *ranks: GOOD, "must be keyword arguments with names"),
    (lambda **ranks: GOOD, "must be keyword arguments with names"),
    ('lora', "'lora' cannot be called; register a function"),
])
def test_a_factory_without_options_by_name_is_refused(factory, sentence):
  with pytest.raises(ValueError, match=sentence):
    methods.register('mine', factory)
  assert 'mine' not in methods.METHODS


def test_a_run_of_a_wrong_method_writes_nothing(tmp_path):
  methods.register('mine', lambda: GOOD._replace(materialise=dict))
  given = tiny.only('dedicated', phases__dedicated__method='mine')
  with pytest.raises(ValueError, match=(
      'phase dedicated: method mine: materialise fails: TypeError: ')):
    tiny.learn(given, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_method_with_its_own_masks_is_as_able_as_the_librarys():
  """No privilege: what a stranger declares is what general code asks for."""
  sample = masks.straight_through(masks.threshold)
  method = methods.Method(
      lambda key, backbone, shared, route: base.kaiming_uniform(key, backbone),
      lambda backbone, scores, shared, route: masks.apply(
          backbone, sample(scores)),
      lambda backbone, scores, shared, route: (
          impressions.Impression(masks=masks.threshold(scores)), shared),
      base.materialise,
      abilities=methods.Abilities(superposes=True, streams=True))
  configs.check(config(lambda: method, stream=dict(
      every=5, tolerance=.5, passes=1)))
  configs.check(config(lambda: method, tasks_at_once=2) | {})
