"""Tasks of images, of a table and of texts on one network of a user's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_jax
from mtl_jax import experiment
from mtl_jax import methods
from mtl_jax import models
from mtl_jax.config import config
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.data import transforms
from mtl_jax.serving import checks
from mtl_jax.serving import verification

RANDOM = np.random.RandomState(0)
ROWS = RANDOM.rand(60, 5)


class Net(nn.Module):
  """A stem for each kind of input, and a common trunk."""
  outputs: int

  @nn.compact
  def __call__(self, x):
    if np.issubdtype(x.dtype, np.integer):
      x = nn.Embed(9, 8)(x).mean(1)
    else:
      x = x.reshape(len(x), -1)
      x = nn.Dense(8, name=f'stem{x.shape[-1]}')(x)
    return nn.Dense(self.outputs, name='head')(nn.relu(x))


def suite():
  return suites.Suite('own', tuple(
      suites.Task(name, i, name, steps, None, classes, regression)
      for i, (name, steps, classes, regression) in enumerate((
          ('digits', (transforms.rotate(90),), 10, False),
          ('rows', (), 1, True), ('words', (), 2, False)))))


@pytest.fixture(name='system', scope='module')
def _system(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(models.MODELS, '_known', dict(models.MODELS))
    patch.setattr(sources, 'REGISTRY', dict(sources.REGISTRY))
    patch.setattr(suites, 'SUITES', dict(suites.SUITES))
    models.register('own', lambda outputs: models.from_linen(Net(outputs)))
    sources.register('rows', lambda: sources.from_table(
        'rows', ROWS, ROWS.sum(1)))
    sources.register('words', lambda: sources.from_texts(
        'words', (['a b', 'c d e'] * 30, np.arange(60) % 2), length=4))
    suites.register('own', suite)
    root = tmp_path_factory.mktemp('run') / 'run'
    experiment.run(config.from_dict(dict(
        seed=0, suite=dict(kind='own'), backbone=dict(
            model='own', outputs=10, init='default'),
        phases=dict(a=dict(method='supsup', tasks=(0, 3), steps=3,
                           batch_size=8, options=dict(head='dense'))),
        schedule=('a',))), root, quiet=True)
    yield mtl_jax.load(root)
  sources._load.cache_clear()
  models._make.cache_clear()


INPUTS = {'digits': RANDOM.randint(0, 256, (3, 8, 8, 1)).astype(np.uint8),
          'rows': ROWS[:3].astype(np.float32),
          'words': np.array([[1, 2, 0, 0]] * 3, np.int32)}


def test_every_task_takes_its_own_inputs(system):
  for name, x in INPUTS.items():
    logits = system.predict(x, task=name)
    assert logits.shape == (3, {'digits': 10, 'rows': 1, 'words': 2}[name])
    # As the task shows them.
    np.testing.assert_array_equal(logits, system.predict(
        system.observe(x, name), names=[name]))
  assert verification.check(system) == verification.Result(3, [], [])


def test_what_takes_images_alone_says_so(system):
  for name in ('rows', 'words'):
    x = INPUTS[name]
    with pytest.raises(ValueError, match=(
        rf"predict_mixed takes raw images .*call predict\(x, task='{name}'\)")):
      system.predict_mixed(x, [name] * 3)
    with pytest.raises(ValueError, match=f'task {name} takes .* inputs, and '):
      checks.require_images(x, name, system.metadata)


def test_networks_with_leaves_of_their_own_have_no_mean(tmp_path, monkeypatch):
  """A function reads what a method adds; the backbone has no such leaf."""
  monkeypatch.setattr(models.MODELS, '_known', dict(models.MODELS))
  monkeypatch.setattr(methods.METHODS, '_known', dict(methods.METHODS))
  monkeypatch.setattr(methods, '_OPTIONS', dict(methods._OPTIONS))
  models.register('plain', lambda outputs: models.from_functions(
      lambda key, shape: {'w': jax.random.normal(key, (64, outputs))},
      lambda params, x: x.reshape(len(x), 64) @ (
          params['w'] + params.get('more', 0.))))
  methods.register('adding', lambda: methods.Method(
      lambda key, backbone, shared, route: jnp.zeros((64, 10)),
      lambda backbone, own, shared, route: backbone | {'more': own},
      lambda backbone, own, shared, route: (
          methods.Impression(parts={'more': own}), shared),
      lambda backbone, impression, shared: backbone | impression.parts))
  experiment.run(config.from_dict(dict(
      seed=0, suite=dict(kind='permuted', source='digits', num_tasks=2),
      backbone=dict(model='plain', outputs=10, init='default'),
      phases=dict(a=dict(method='adding', tasks=(0, 2), steps=3)),
      schedule=('a',))), tmp_path / 'run', quiet=True)
  system = mtl_jax.load(tmp_path / 'run')
  with pytest.raises(ValueError, match='permuted-00 has a network of its own'):
    system.merge(system.tasks)
  models._make.cache_clear()
  methods.of_options.cache_clear()
