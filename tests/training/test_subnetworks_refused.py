"""Subnetworks that are refused: what does not fit, or would be wrong."""

import jax
import numpy as np
import pytest
import tiny
import tiny_subnetworks as little

from mtl_jax.data import sources
from mtl_jax.methods import allocation
from mtl_jax.methods import subnetworks
from mtl_jax.storage import json_records

WHOLE = dict(scope='global')


def test_what_does_not_fit_is_refused_before_training(tmp_path):
  for phases, text in (
      (dict(net=dict(tasks=(0, 4))),
       r'phase net: 4 x 614 weights of layer1/kernel are needed, but only '
       r'2048 of 2048 are free: at most 3'),
      (dict(one=dict(tasks=(0, 3)), two=dict(tasks=(3, 4))),
       r'phase two: 1 x 614 .* but only 206 of 2048 are free'),
      (dict(one=dict(tasks=(0, 3), allocation=WHOLE | dict(density=.3)),
            two=dict(tasks=(3, 4), allocation=WHOLE | dict(density=.2))),
       'phase two: with the phases before, 282 weights more are needed than '
       'the 2816 of the tree main'),
      (dict(one=dict(tasks=(0, 3), allocation=WHOLE | dict(density=.3)),
            two=dict(tasks=(3, 4))), 'phase two: with the phases before'),
      (dict(one=little.watched(allocation=dict(density=.9), sparsify=dict(
          start=.9, least=.2))['net']), 'phase one: 1 x 1843 .* only 1638 of'),
      (dict(one=little.watched(tasks=(0, 1), allocation=dict(
          density=.6), sparsify=dict(start=.6, least=.5))['net'],
            two=dict(tasks=(1, 2), allocation=dict(density=.6))),
       'phase two: 1 x 1229 .* but only 1024 of 2048'),
      (dict(net=dict(allocation=dict(density=.5, fit=True))),
       'phase net: subnetwork 3: none of the 2048 weights of layer1/kernel '
       'is free'),
      (dict(one=dict(tasks=(0, 1)), two=dict(
          tasks=(1, 3), allocation=dict(density=.7, fit=True))),
       'phase two: subnetwork 3: none of the 2048'),
      (dict(one=dict(tasks=(0, 1)), two=dict(tasks=(1, 2), options=dict(
          own=('.*bias', 'head.*', 'layer1.*')))),
       "phase two: layer1/kernel is a task's own in one phase of the tree"),
      (dict(one=dict(tasks=(0, 1)), two=dict(
          tasks=(0, 2), options=dict(sharing=True), control=True)),
       'phase two: permuted-00@two would use the weights of permuted-00, '
       'which is the same task'),
      (dict(one=dict(repeats=90, allocation=dict(density=.003))),
       'phase one: 270 subnetworks in the tree main.* at most 255')):
    with pytest.raises(ValueError, match=text):
      tiny.learn(little.make(**phases), tmp_path / 'run')
    assert not (tmp_path / 'run' / 'tasks').exists()


PRUNED = little.watched(allocation=dict(density=.3))['net']


@pytest.mark.parametrize('changes, text', [
    (dict(allocation=None), 'phase net: subnetworks need an allocation'),
    (dict(method='supsup'), 'unknown key phases.net.allocation'),
    (dict(early_stop=dict()), 'early_stop counts epochs'),
    (dict(allocation=dict(density=0)), r'density must lie in \(0, 1\]'),
    (dict(allocation=dict(density=.2, score='random')),
     "score is 'random'"),
    (dict(allocation=dict(density=.2, percentile=90)),
     'unknown key phases.net.allocation.percentile'),
    (dict(sparsify=dict(start=.3)),
     'looks at the validation images after every epoch; give epochs, not'),
    (dict(sparsify=dict(start=.3), steps=0, epochs=2),
     'sparsify prunes one subnetwork'),
    (little.watched(sparsify=dict(start=.3), allocation=dict(
        density=.3, scope='global'))['net'], "needs early_stop and scope="),
    (dict(sparsify=dict(start=.3, cutoff=95.)), r'cutoff is .* in \(0, 1\]'),
    (dict(allocation=dict(density=.3, fit=True, scope='global')),
     'allocation.fit takes what is free of every leaf'),
    (dict(allocation=dict(density=.3, score='magnitude', sample=5)),
     "sample is 5, and the score 'magnitude' looks at no images"),
    (dict(allocation=dict(density=.3, fit=True, tree=None)),
     'with tree=None there are none; leave fit out'),
    (dict(PRUNED, sparsify=dict(start=.3, rate=.3)),
     'would prune nothing: its rate, 0.3, is larger than start - least'),
    (dict(PRUNED, sparsify=dict(start=.3, rate=1e-9)), 'rate, 1e-09, is too'),
    (dict(PRUNED, sparsify=dict(start=.3, cutoff=.5, tolerance=.1)),
     'tolerance is 0.1, and cutoff, 0.5, takes its place'),
    (dict(tasks_at_once=3), "train them with together='joint', not tasks_at"),
    (dict(together='joint', options=dict(sharing=True)),
     'use no weights of each other; leave out sharing'),
    (dict(together='joint', allocation=dict(density=.3, tree=None)),
     'and give a tree'),
    (dict(options=dict(sharing=True), allocation=dict(density=.3, tree=None)),
     'earlier tasks of a tree; give allocation.tree')])
def test_bad_phases_are_refused(changes, text):
  with pytest.raises(ValueError, match=text):
    tiny.check(little.make(net=changes))


def test_every_leaf_of_its_own_is_refused(tmp_path):
  config = little.make(net=dict(options=dict(own=('.*',))))
  with pytest.raises(ValueError, match='nothing is left to divide'):
    tiny.learn(config, tmp_path / 'run')


def test_own_leaves_are_named_or_biases_stems_and_heads():
  params = {'layer1': {'kernel': np.ones((2, 2)), 'bias': np.ones(2)},
            'head': {'kernel': np.ones((2, 2))}}
  own, folded = subnetworks.parts(params, None)
  assert own['layer1']['kernel'] is None and folded['layer1']['bias'] is None
  assert own['head']['kernel'] is not None
  assert len(jax.tree.leaves((own, folded))) == 3
  with pytest.raises(ValueError, match='haed'):
    subnetworks.parts(params, ('haed.*', '.*bias'))
  with pytest.raises(ValueError, match='no leaf of this network is called h'):
    subnetworks.parts({'layer1': params['layer1']}, None)
  with pytest.raises(ValueError, match='norm/scale is a vector'):
    subnetworks.parts(params | {'norm': {'scale': np.ones(2)}}, None)


def test_a_cutoff_is_no_error_of_a_regression(tmp_path):
  config = little.get_config(**little.watched(
      tasks=(1, 2), loss='classes', allocation=dict(density=.3),
      sparsify=dict(start=.3, cutoff=.9)))
  config.suite = dict(kind='datasets', sources=('digits', 'sums'),
                      image_shape=(8, 8, 1))
  with pytest.raises(ValueError, match='phase net: sparsify.cutoff is an acc.*'
                     'task sums is a regression'):
    tiny.learn(little.make(config), tmp_path / 'run')
  assert not (tmp_path / 'run' / 'tasks').exists()


def test_two_owners_of_a_weight_are_no_report(tmp_path, monkeypatch):
  config = little.make(net=dict(tasks=(0, 2), steps=2))
  real = allocation.allocate

  def twice(scores, owner, number, *rest):
    return real(scores, jax.tree.map(np.zeros_like, owner), number, *rest)
  monkeypatch.setattr(allocation, 'allocate', twice)
  monkeypatch.setattr(subnetworks, 'of_tree', lambda *_: [])
  with pytest.raises(ValueError, match='belong to both permuted-00.*'
                                       'train the phase again'):
    tiny.learn(config, tmp_path)


def test_a_source_that_changed_is_refused(tmp_path):
  config = little.get_config(net=dict(tasks=(0, 1), loss='classes', steps=2))
  config.suite = dict(kind='datasets', sources=('sums',))
  config = little.make(config)
  tiny.learn(config, tmp_path)
  before = tiny.bits(tmp_path)
  lines = json_records.read_lines(tmp_path / 'metrics.jsonl')
  line = next(line for line in lines
              if line['kind'] == 'run')
  made, = line['sources'].values()
  sources.register('sums', lambda: sources.from_table(
      'sums', little.TABLE[:, :-1], little.TABLE[:, -1:], version='2'))
  with pytest.raises(ValueError, match='source sums is version 2, but .* with '
                     f'version {made}'):
    tiny.learn(config, tmp_path)
  assert tiny.bits(tmp_path) == before


def test_more_words_than_the_embedding_has(tmp_path):
  texts = [f'word{i % 20} common' for i in range(60)]
  sources.register('texts', lambda: sources.from_texts(
      'texts', (texts, [0, 1] * 30), words=15, length=2))
  config = little.get_config(net=dict(tasks=(0, 1)))
  config.suite = dict(kind='datasets', sources=('texts',))
  config.backbone.options.update(words=14, embedding=4)
  with pytest.raises(ValueError, match='texts has words up to number 14, but '
                     'the embedding has 14: .* words=15'):
    tiny.learn(little.make(config), tmp_path / 'run')
  assert not (tmp_path / 'run' / 'tasks').exists()
