"""A network of one's own that can't be used is refused in a sentence."""

import re

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from mtl_jax import experiment
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.config import parts
from mtl_jax.serving import backbone


def linen(body):
  """A factory of a Linen model from the body of its call."""
  class Own(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, x, train=False):
      return body(self.outputs, x, train)
  return lambda outputs: models.from_linen(Own(outputs))


def dense(outputs, x, train=False):
  del train
  return nn.Dense(outputs)(x.reshape(len(x), -1))


class NoTrain(nn.Module):
  """Takes x alone."""
  outputs: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.outputs)(x.reshape(len(x), -1))


class Dropped(nnx.Module):
  """NNX with dropout."""

  def __init__(self, outputs, rngs):
    self.dense = nnx.Linear(64, outputs, rngs=rngs)
    self.dropout = nnx.Dropout(.5, rngs=rngs)

  def __call__(self, x):
    return self.dense(self.dropout(x.reshape(len(x), -1)))


def dropout(stream='dropout'):
  return lambda outputs, x, train: dense(outputs, nn.Dropout(
      .5, deterministic=not train, rng_collection=stream)(x))


TAKEN = {
    'without train': lambda outputs: models.from_linen(NoTrain(outputs)),
    'with dropout': linen(dropout()),
    'nnx with dropout': lambda outputs: models.from_nnx(
        lambda rngs: Dropped(outputs, rngs)),
}


@pytest.mark.parametrize('name', TAKEN)
def test_taken(name):
  models.check('own', TAKEN[name](10), 10, [(8, 8, 1)])


REFUSED = {
    'no parameters': (linen(lambda outputs, x, train: jnp.zeros((
        len(x), outputs))), 'Own has no parameters: there is nothing that a t'),
    'another stream': (linen(dropout('noise')), "come from the stream 'dropo"),
    'more outputs': (linen(lambda outputs, x, train: dense(outputs + 3, x)),
                     'predicting inputs [8, 8, 1] gives [n, 13] where the conf'
                     'ig says backbone.outputs=10: it must return logits [n, '),
    'fewer outputs': (linen(lambda outputs, x, train: dense(7, x)), '[n, 7]'),
    'several outputs': (linen(lambda outputs, x, train: (dense(10, x), x)),
                        'gives a tuple'),
    'images': (linen(lambda outputs, x, train: nn.Dense(outputs)(x)),
               'gives [n, 8, 8, 10]'),
    'few bits': (linen(lambda outputs, x, train: dense(outputs, x).astype(
        jnp.bfloat16)), 'gives bfloat16 logits; it must return float32'),
    'classes': (linen(lambda outputs, x, train: dense(outputs, x).astype(int)),
                'gives int32 logits; it must return float32'),
    'weights of numpy': (lambda outputs: models.from_functions(
        lambda key, shape: {'w': np.random.randn(64, outputs)},
        lambda params, x: x.reshape(len(x), -1) @ params['w']),
                         'making its weights for inputs [8, 8, 1] computes som'
                         'ething else each time'),
    'weights of numpy in a module': (linen(lambda outputs, x, train: nn.Dense(
        outputs, kernel_init=lambda key, *_: jnp.array(np.random.randn(64, 10)
                                                       ))(x.reshape(-1, 64))),
                                     'making its weights for inputs [8, 8, 1] '
                                     'computes something else each time'),
    'noise of numpy': (lambda outputs: models.from_functions(
        lambda key, shape: {'w': jnp.ones((64, outputs))},
        lambda params, x: (x.reshape(len(x), -1) + np.random.randn(1, 64)
                           ) @ params['w']),
                       'predicting inputs [8, 8, 1] computes something else'),
    'it fails': (linen(lambda outputs, x, train: dense(10, x.reshape(3, -1))),
                 'making its weights for inputs [8, 8, 1] failed: TypeError'),
    'a module': (NoTrain, 'returned a NoTrain, not a Network; return models.fr'
                 'om_linen(module)'),
    'nothing': (lambda outputs: None, 'returned a NoneType, not a Network'),
    'a fault': (lambda outputs: 1 // 0, 'failed: ZeroDivisionError'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused_before_a_folder_is_made(name, tmp_path):
  factory, said = REFUSED[name]
  given = tiny.get_config('few').to_dict()
  models.register('own', factory)
  with pytest.raises(ValueError, match=f'^model own.*{re.escape(said)}'):
    experiment.run(config_lib.from_dict(given | {'backbone': {
        'model': 'own', 'outputs': 10, 'init': 'default'}}),
                   tmp_path / 'run', quiet=True)
  assert not (tmp_path / 'run').exists()


def test_a_plain_number_among_the_weights_is_an_array(monkeypatch):
  monkeypatch.setattr(models.MODELS, '_known', dict(models.MODELS))
  models.register('own', lambda outputs: models.from_functions(
      lambda key, shape: {'w': jnp.ones((4, outputs)), 'scale': 2.},
      lambda params, x: params['scale'] * x @ params['w']))
  made = backbone.make({'model': 'own', 'outputs': 3, 'options': {}, 'seed': 0,
                        'init': 'default', 'image_shape': [4]})
  trees.check_arrays(made.params, 'weights', True)
  assert made.params['scale'].dtype == np.float32


@pytest.mark.parametrize('name, option, value, said', [
    ('vit_ti', 'patch', 'abc', "patch is 'abc'; it must be a whole number"),
    ('vit_ti', 'num_layers', 1.5, 'num_layers is 1.5; it must be a whole numb'),
    ('vit_ti', 'num_layers', True, 'num_layers is True; it must be a whole'),
    ('vit_ti', 'num_layers', -1, 'num_layers of vit_ti is -1; .* at least 0'),
    ('vit_ti', 'heads', 0, 'heads of vit_ti is 0; it must be above 0'),
    ('vit_ti', 'width', {1}, 'width is .1., of type set'),
    ('part_cifar', 'heads', True, 'heads is True; it must be a tuple'),
    ('part_cifar', 'modules', None, 'modules is None; it must be a whole num'),
    ('part_cifar', 'active', -1, 'active of part_cifar is -1; .* above 0'),
    ('part_cifar', 'modules', 10 ** 9, 'modules .* must be at most 10,000'),
    ('part_resnet', 'blocks', (3, 10 ** 9), 'blocks .* must be at most 10,000'),
    ('vit_ti', 'num_layers', 10 ** 9, 'num_layers .* must be at most 10,000'),
    ('part_resnet', 'noise', -.1, 'noise of part_resnet is -0.1; .* at least'),
    ('part_resnet', 'blocks', (3, 0, 6, 3), r'blocks .* is \(3, 0, 6, 3\)'),
    ('convolutional', 'norm', 1, 'norm is 1; it must be True or False'),
    ('convolutional', 'scale', 0., 'scale of convolutional is 0.0'),
    ('fully_connected', 'widths', 300, 'widths is 300; it must be a tuple'),
    ('gem_resnet18', 'width', np.float32(20), 'width is 20.0; it must be a')])
def test_options_of_another_type_are_refused(name, option, value, said):
  with pytest.raises(ValueError, match=f'backbone.options.{said}|{said}'):
    models.make(name, 10, **{option: value})


@pytest.mark.parametrize('changes', [
    {}, {'weights': 'there.npz', 'names': (('a', 'b'),)}], ids=str)
def test_noise_belongs_to_weights_in_their_published_form(changes):
  with pytest.raises(ValueError, match='options.noise .* or leave noise out'):
    parts.Backbone('part_resnet', 10, options=(('noise', .1),), **changes)


def test_options_of_other_libraries_numbers_are_taken():
  models.make('vit_ti', 10, num_layers=np.int64(1), width=np.uint8(12),
              heads=np.array(3))
  models.make('part_cifar', 10, heads=[5, 5], modules=2, active=2)
  models.make('convolutional', 10, norm=np.True_, channels=np.array([4, 8]))
  models.make('part_resnet', 10, noise=0)
