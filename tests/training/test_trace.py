"""A method's wrong functions are named before anything is trained."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_search

import mtl_jax
from mtl_jax import impressions
from mtl_jax import methods
from mtl_jax.methods import base
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.storage import checkpoint
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import claims
from mtl_jax.training import loop
from mtl_jax.training import trace

PARAMS = {'a': {'kernel': np.ones((2, 3), np.float32)},
          'b': np.zeros(3, np.float32)}
Impression = impressions.Impression


def bind(backbone, trainable, shared, route):
  del shared, route
  return backbone | {'b': backbone['b'] + trainable}


def commit(backbone, trainable, shared, route):
  return Impression(values={'a': {'kernel': None}, 'b': bind(
      backbone, trainable, shared, route)['b']}), shared


GOOD = methods.Method(lambda key, backbone, shared, route: jnp.zeros(3), bind,
                      commit, base.materialise)


def check(method):
  entry = types.SimpleNamespace(route=methods.Route(3), phase=(
      types.SimpleNamespace(together=None, method='unregistered')))
  return trace.of_group(method, backbone_lib.Backbone(None, PARAMS, {}, {}),
                        [], [entry], seed=0).impression


def leaves(**parts):
  """A commit that leaves these parts."""
  return lambda backbone, trainable, shared, route: (
      Impression(**parts), shared)


def values(**changes):
  return leaves(values={'a': {'kernel': None}, 'b': None} | changes)


def test_a_sound_method_is_gone_through_without_computing():
  made = check(GOOD)
  assert made.values['b'].shape == (3,) and made.masks is None
  assert isinstance(made.values['b'], jax.ShapeDtypeStruct)


def test_what_the_library_records_is_reserved(tmp_path):
  """Each key of a record, however a task was trained, and of its line."""
  folders = [tiny.learned(tmp_path / 'few', 'few'), tmp_path / 'search',
             tmp_path / 'curve']
  tiny_search.learn(tiny_search.make(), folders[1])
  tiny.train_alone(tiny.only('basis', phases__basis__validate_every=3),
                   folders[2])
  system = mtl_jax.load(folders[0])
  system.merge(['permuted-00', 'permuted-01'], name='both')
  keys = set()
  for folder in folders:
    work = workdir_lib.Workdir(folder)
    for name in work.task_names():
      keys |= checkpoint.task_metadata(work.task(name))['record'].keys()
    for line in work.metrics.read_text().splitlines():
      line = json.loads(line)
      keys |= line.keys() if line['kind'] == 'task' else set()
  assert {'search', 'validation', 'merged', 'sha256'} <= keys
  assert keys - claims.RECORDED == {'basis'}  # which methods may state


@pytest.mark.parametrize('changes, text', [
    # Functions that can't be traced, or fail.
    (dict(init=lambda key, backbone, *_: jnp.zeros(int(backbone['b'].sum()))),
     'init reads the values of its arrays, but the check before training has '
     'none: use jax.numpy and lax in it'),
    (dict(bind=lambda backbone, *_: {'b': np.asarray(backbone['b'])}),
     'bind reads the values of its arrays'),
    (dict(bind=lambda backbone, t, *_: backbone if t.sum() > 0 else {}),
     'bind reads the values of its arrays'),
    (dict(init=lambda key, backbone, *_: backbone['c']),
     "init fails: KeyError: 'c'"),
    (dict(init=lambda key: jnp.zeros(3)), 'init fails: TypeError: .*argument'),
    (dict(materialise=lambda backbone, impression, shared:
          backbone | {'b': impression.parts['x']}),
     'materialise fails: TypeError: '),
    (dict(prepare=lambda context: context.earlier[0]),
     'prepare fails: IndexError: '),
    # What they must give.
    (dict(prepare=lambda context: [1.]),
     'prepare must return `shared` as a dict of arrays; it returned a list'),
    (dict(commit=lambda *_: Impression()),
     r'commit must return \(impression, shared\); it returned a Impression'),
    (dict(commit=lambda *_: {}), r'\(impression, shared\); .* a dict'),
    (dict(commit=lambda *_: ({}, {})),
     'commit must return an impressions.Impression first; it returned a dict'),
    (dict(commit=lambda *_: (Impression(), ())),
     'commit must return `shared` as a dict of arrays; it returned a tuple'),
    # What can't be stored.
    (dict(commit=leaves(parts={'values': jnp.ones(1)})),
     "a part 'values', but that is the name of a known part"),
    (dict(commit=leaves(parts={'lora': [jnp.ones(1)]})),
     'part lora is a list; a part is a dict of arrays'),
    (dict(commit=leaves(values={'bb': jnp.ones(3)})),
     r'values of bb, but the backbone has no such leaf \(did you mean: b\?\)'),
    (dict(commit=values(b=jnp.ones(4))),
     r'values of b with the shape \(4,\), but the leaf has \(3,\); put arrays '
     'of another form into Impression'),
    (dict(commit=leaves(masks={'a': {'kernel': jnp.ones((2, 3))}, 'b': None})),
     'a mask of a/kernel with the dtype float32; masks are bool'),
    # Another network than the one that was trained.
    (dict(materialise=lambda backbone, *_: {'b': backbone['b']}),
     'bind gives the leaf a/kernel, which the other one of bind and mat'),
    (dict(abilities=base.Abilities(rates=lambda trainable: {'b': 1.})),
     'rates must give a number for every leaf that init gives'),
    (dict(materialise=lambda backbone, *_: backbone | {'c': backbone['b']}),
     'materialise gives the leaf c, which the other'),
    (dict(materialise=lambda backbone, *_: backbone | {
        'b': backbone['b'].astype(jnp.float16)}),
     r'materialise gives b as float16\(3,\), but bind as float32\(3,\)')])
def test_a_wrong_function_is_named(changes, text):
  with pytest.raises(ValueError, match=text):
    check(GOOD._replace(**changes))


def test_a_run_with_a_wrong_method_writes_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(methods.METHODS, '_known', dict(methods.METHODS))
  monkeypatch.setattr(methods, '_OPTIONS', dict(methods._OPTIONS))
  monkeypatch.setattr(loop, 'learn_phase', None)
  methods.register('halved', lambda: methods.make('supsup')._replace(
      materialise=lambda backbone, impression, shared: {}))
  config = tiny.only('dedicated', phases__dedicated__method='halved')
  with pytest.raises(ValueError, match=(
      'phase dedicated: method halved: bind gives the leaf Dense_0/kernel, '
      'which the other one')):
    tiny.learn(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
  methods.of_options.cache_clear()
