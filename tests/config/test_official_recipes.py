"""The recipes of the official codes, as our configs have them: a row a value.

Deviations are in the headers of the configs and on the experiments' pages.
"""

import pathlib

import configs
import numpy as np
import pytest

from mtl_jax.config import config as config_lib

ROOT = pathlib.Path(__file__).parents[2]
SUPSUP = 'RAIVNLab/supsup experiments/'
GG = f'{SUPSUP}GG/splitcifar100/rn18-supsup.py'
BASIS = 'rn18-supsup-basis.py of the authors, trainers/alphareg.py'
CMATERDB = 'mu2Net.ipynb get_exp_config_ti0_cmaterdb'

# (config, phase, {what: value}, source); 'a.b' is looked up in a mapping.
ROWS = [
    ('supsup_permuted_mnist', 'supermasks', {
        'optimizer': 'rmsprop', 'learning_rate': 1e-4, 'schedule': 'constant',
        'steps': 1000, 'batch_size': 128, 'weight_decay': 0.},
     f'{SUPSUP}GNu/MNISTPerm'),
    ('supsup_rotated_mnist', 'supermasks', {
        'optimizer': 'rmsprop', 'learning_rate': 1e-4, 'schedule': 'constant',
        'steps': 1000, 'batch_size': 128, 'tasks': (0, 36)},
     f'{SUPSUP}GNu/MNISTRotate/supsup.py'),
    ('supsup_split_cifar100', 'supermasks', {
        'optimizer': 'adam', 'learning_rate': 1e-3, 'schedule': 'cosine',
        'epochs': 250, 'batch_size': 128, 'weight_decay': 1e-4,
        'options.sampler': 'top_k', 'options.eps': 16., 'tasks': (0, 20)}, GG),
    *(('impresslearn_split_cifar100', phase, {
        'optimizer': 'adam', 'learning_rate': rate, 'schedule': 'cosine',
        'epochs': 150, 'batch_size': 64, 'weight_decay': .01,
        'options.penalty': .005}, BASIS)
      for phase, rate in (('heterogeneous', .02), ('homogeneous', .005),
                          ('hybrid', .008))),
    ('munet_preliminary', 'grow', {
        'batch_size': 512, 'search.train_cap': 51_200,
        'search.validations': 4, 'search.valid_cap': 5_120,
        'search.iterations': 2, 'search.generations': 4, 'search.children': 8,
        'search.space': 'mu2net_ti0', 'search.scale_size': 1.,
        'search.private': ('cmaterdb-telugu',)}, CMATERDB),
]


@pytest.mark.parametrize('name, phase, what, value', [
    pytest.param(name, phase, what, value, id=f'{name}-{phase}-{what}')
    for name, phase, values, _ in ROWS for what, value in values.items()])
def test_a_config_has_the_official_value(name, phase, what, value):
  found = config_lib.from_dict(configs.load(ROOT / f'configs/{name}.py'))
  node = next(p for p in found.phases if p.name == phase)
  if '.' not in what and not hasattr(node, what):
    node = node.training
  for part in what.split('.'):
    node = getattr(node, part)
  assert node == value


@pytest.mark.parametrize('name', ['supsup_permuted_mnist',
                                  'supsup_rotated_mnist'])
def test_mnist_masks_are_thresholded(name):
  """FastMultitaskMaskConv: at 0, of the raw scores."""
  found = config_lib.from_dict(configs.load(ROOT / f'configs/{name}.py'))
  method = found.phases[0].make_method()
  scores = {'layer': {'kernel': np.array([[-2., -.1, 0., .1, 3.]])}}
  mask = method.commit(None, scores, {}, None)[0].masks['layer']['kernel']
  assert np.asarray(mask).tolist() == [[False, False, True, True, True]]
