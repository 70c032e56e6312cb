"""What a run says of results that can't be right."""

import tiny

from mtl_jax.data import suites
from mtl_jax.evaluation import hints


def record(test, **more):
  return {'entry': 'one', 'phase': 'p', 'classes': 10, 'basis': None,
          'accuracy': {'test': test}, 'bytes': {'masks': 9},
          'data': {'images': {'test': 400}}} | more


def test_no_better_than_a_guess():
  said, = hints.after([record(.09), record(.12), record(.5)])
  assert said.startswith('phase p: no better than guessing among 10 classes '
                         '(10.0 %): one 9.0 %, one 12.0 %. Train longer')
  said, = hints.after([record(.1)] * 5)
  assert 'and 2 more. ' in said


def test_what_is_no_guess():
  assert hints.after([record(.2), record(None), record(1., classes=1)]) == []
  # Of 100,000 images 10.5 % are more than luck.
  assert hints.after([record(.105, data={'images': {'test': 100000}})]) == []


def test_few_masks():
  few = record(.3, basis={'size': 10, 'kind': 'random'}, phase='c', bytes={})
  said, = hints.after([record(.9), few])
  assert said.startswith('phase c: coefficients over 10 masks reach 30.0 %, '
                         'masks 90.0 %: a larger basis')
  enough = few | {'basis': {'size': 100, 'kind': 'random'}}
  near = few | {'accuracy': {'test': .8}}
  assert hints.after([record(.9), enough, near]) == []
  assert hints.after([few]) == []  # nothing to compare with


def test_no_superfluous_outputs_for_inference():
  def before(**changes):
    config = tiny.make('infer', **changes)
    suite = suites.make(config.suite.kind, **dict(config.suite.options))
    return hints.before(config, suite)
  asked = {'h': {'objective': 'entropy', 'phases': ('basis',)}}
  said, = before(identify=asked, backbone__outputs=10)
  assert said.startswith('identify.h: tasks with 10 classes on 10 outputs')
  assert 'backbone.outputs=100' in said
  assert before(identify=asked, backbone__outputs=100) == []
