"""Searches: programs compiled, controls, mixed batches and refusals."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
import tiny
import tiny_search as little

import mtl_jax
from mtl_jax import experiment
from mtl_jax import impressions
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.data import transforms
from mtl_jax.serving import system as system_lib
from mtl_jax.serving import verification
from mtl_jax.storage import checkpoint
from mtl_jax.storage import impression_arrays
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import run as run_lib
from mtl_jax.training.search import iteration


# Compilation.


@pytest.mark.slow
def test_a_task_iteration_of_32_children_compiles_six_programs_at_most(
    tmp_path):
  """Of a second task, with another number of classes than the first."""
  for name, classes in (('munet-three', 3), ('munet-four', 4)):
    random = np.random.RandomState(classes)
    sources.register(name, functools.partial(
        sources.from_arrays, name, random.randint(
            0, 256, (60, 8, 8, 3)).astype(np.uint8), np.arange(60) % classes))
  config = little.make(
      suite=dict(kind='datasets', sources=('munet-three', 'munet-four'),
                 image_shape=(8, 8, 3)), backbone__outputs=4,
      phases__grow=dict(method='munet', tasks=(0, 2), batch_size=8, steps=1,
                        search=dict(children=8, generations=4, validations=1,
                                    space='mu2net_ti0')))
  suite = suites.make(config.suite.kind, **dict(config.suite.options))
  data, work = run_lib.Data(), workdir_lib.Workdir(tmp_path)
  backbone = experiment.make_backbone(config, suite, data, work)
  work.prepare()
  experiment.claim(work, config, backbone, '')
  run = run_lib.Run(config, suite, backbone, data, work,
                 system_lib.System(work, backbone), lambda *_: None)
  first, second = iteration.plan.entries(config.phases[0], suite)
  iteration._TaskIteration(run, first, {}).run()
  compiled: list[str] = []
  counting = [True]  # a listener can't be taken away again

  def listen(name, *_, **__):
    if counting[0] and name == '/jax/core/compile/backend_compile_duration':
      compiled.append(name)
  jax.monitoring.register_event_duration_secs_listener(listen)
  iteration._TaskIteration(run, second, {}).run()
  counting[0] = False
  assert 1 <= len(compiled) <= 6
  children = little.records(tmp_path)['munet-four']['search']['children']
  assert len(children) == 32
  assert len({str(child['trained']) for child in children}) > 5


# Controls, reports and refusals.


@pytest.mark.slow
@pytest.mark.parametrize('control, trained', [
    ('head', {'encoder_norm', 'head'}),
    ('adapters', {'encoder_norm', 'head', 'residual_adapter_0'}),
    ('finetune', None)])
def test_controls_start_from_the_root(tmp_path, control, trained):
  grow = little.fields()['phases']['grow'] | dict(tasks=(0, 2), control=True)
  grow['search'] = dict(grow['search'], control=control, iterations=1,
                        private=())
  config = little.make(phases={'c': grow}, schedule=('c',))
  run, _ = little.learn(config, tmp_path / 'run')
  found = little.records(tmp_path / 'run')
  assert list(found) == ['split-00@c', 'split-01@c']
  for record in found.values():
    assert {child['parent'] for child in record['search']['children']} == {
        'root'}
    assert set(record['search']['trained']) == (trained or set(
        run.backbone.params))
    evals = [child['evals'] for child in record['search']['children']]
    assert evals[0] != evals[-1]  # repeats see other batches
  assert not verification.check(run.system).faults


def test_one_batch_of_tasks_with_different_networks(tmp_path):
  """Other depths, and heads of other sizes."""
  _, _, backbone = tiny.prepared(little.make())
  work = workdir_lib.Workdir(tmp_path)
  work.prepare()
  create = backbone.network.parts.create
  chain = (transforms.fit(8, 8, 3), transforms.normalise(.5, .5))
  for name, classes, blocks in (('a', 2, 0), ('b', 5, 1), ('c', 3, 2)):
    random = np.random.RandomState(classes)
    parts = dict(backbone.params) | {'head': create('head', classes, 0, None)}
    parts.pop('encoderblock_0')
    parts |= {f'encoderblock_{i}': create(f'encoderblock_{i}', 2, 0,
                                          jax.random.key(i))
              for i in range(blocks)}
    values = jax.tree.map(lambda x: x + random.randn(*x.shape).astype(
        np.float32), parts)
    grown = impressions.Impression(
        values=values, structure=impressions.Structure(tuple(sorted(values))))
    arrays = impression_arrays.impression_to_arrays(grown)
    checkpoint.save(work.task(name), arrays | {
        'probe': np.zeros(1)}, {
            'backbone': backbone.recipe['fingerprint'],
            'method': {'name': 'munet', 'options': {}},
            'transforms': transforms.to_json(chain), 'classes': classes,
            'source_shape': [8, 8, 1],
            'structure': list(grown.structure.parts)})
  system = system_lib.System(work, backbone)
  images = np.random.RandomState(0).randint(0, 256, (6, 8, 8, 1)).astype(
      np.uint8)
  names = ['a', 'c', 'b', 'b', 'a', 'c']
  mixed = np.asarray(system.predict_mixed(images, names))
  assert mixed.shape == (6, 5)
  for i, name in enumerate(names):
    own = np.asarray(system.predict(images[i:i + 1], task=name))[0]
    np.testing.assert_allclose(mixed[i, :len(own)], own, rtol=1e-4, atol=1e-4)
    assert np.all(mixed[i, len(own):] == -np.inf)


@pytest.mark.slow
def test_a_root_from_a_file_stays_with_the_run(tmp_path):
  backbone = dict(little.fields()['backbone'])
  network = models.make(backbone['model'], 3, **backbone['options'])
  params, _ = network.init(jax.random.key(3), (8, 8, 3))
  file = tmp_path / 'root.npz'
  np.savez(file, **trees.flatten(params))
  backbone['weights'] = str(file)
  config = little.make(backbone=backbone, phases__grow__tasks=(0, 1),
                       phases__grow__search__private=())
  tiny.learn(config, tmp_path / 'run')
  before = tiny.bits(tmp_path / 'run')
  file.unlink()
  shutil.rmtree(tmp_path / 'run/tasks/split-00')
  tiny.learn(config, tmp_path / 'run')
  assert tiny.bits(tmp_path / 'run') == before
  system = mtl_jax.load(tmp_path / 'run')
  assert not verification.check(system).faults
  block = system.backbone.params['encoderblock_0']
  assert trees.fingerprint(block) == trees.fingerprint(
      params['encoderblock_0'])
  with pytest.raises(FileNotFoundError, match='no weights at'):
    tiny.learn(config, tmp_path / 'other')


def test_searches_survive_json():
  config = little.make()
  text = json.dumps(config_lib.to_dict(config))
  assert config_lib.from_dict(json.loads(text)) == config
  plain = config_lib.to_dict(tiny.make())
  assert all('search' not in phase for phase in plain['phases'].values())


@pytest.mark.parametrize('changes, text', [
    ({'phases__grow__search': None},
     'munet needs a search .space, generations'),
    ({'phases__grow__method':
     'dedicated'}, 'dedicated is not found by a search; leave out'),
    ({'phases__grow__learning_rate': .1}, 'takes no learning_rate'),
    ({'phases__grow__epochs': 2}, 'takes no epochs'),
    ({'phases__grow__repeats': 2}, 'takes no repeats'),
    ({'phases__grow__control': True}, 'a search with a control is a phase'),
    ({'phases__grow__search__control': 'head'}, 'starts from the root every'),
    ({'phases__grow__search__space': 'mu2net'}, 'unknown space .mu2net.'),
    ({'phases__grow__search__fixed': {'lr': 1}}, 'the space has no lr'),
    ({'phases__grow__search__children': 0}, 'children is 0'),
    ({'phases__grow__search__scale_size': 2.}, 'bases must lie in'),
    ({'phases__grow__search__childs': 3},
     'unknown key phases.grow.search.childs .did you mean: children')])
def test_searches_that_are_refused(changes, text):
  with pytest.raises(ValueError, match=text):
    little.make(**changes)


@pytest.mark.parametrize('changes, text', [
    ({'backbone': dict(model='lenet_300_100', outputs=3)},
     'munet needs a network of components .vit_ti'),
    ({'phases__grow__search__private': ('split-07',)},
     "private task 'split-07' is not one"),
    ({'suite__augment': 1}, 'a search augments its images as its space says'),
    ({'backbone__options__num_layers': 5}, 'the root has 5 blocks, but')])
def test_searches_that_do_not_fit_are_refused_first(tmp_path, changes, text):
  with pytest.raises(ValueError, match=text):
    tiny.learn(little.make(**changes), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
