"""Sizes and constants of the official networks, a row each with its source."""

import jax
import numpy as np
import pytest

from mtl_jax import masks
from mtl_jax import models
from mtl_jax import trees

CIFAR, IMAGENET = (32, 32, 3), (224, 224, 3)
GEM = 'RAIVNLab/supsup models/gemresnet.py'
VIT = 'google-research/vision_transformer configs/models.py, models_vit.py'
PART = 'MahsaPaknezhad/PaRT src/CIFAR_Parallel/cifar_net.py'
SMALL = 'RAIVNLab/supsup models/small.py'
PART_OPTIONS = dict(heads=(10,) * 10, modules=1, active=1, width=64)

# (model, outputs, options, image, leaf, shape, source)
LEAVES = [
    ('gem_resnet18', 5, {}, CIFAR, leaf, shape, GEM) for leaf, shape in (
        ('stem/kernel', (3, 3, 3, 20)),
        ('stage1_block1/conv1/kernel', (3, 3, 20, 20)),
        ('stage2_block1/conv1/kernel', (3, 3, 20, 40)),
        ('stage2_block1/shortcut/kernel', (1, 1, 20, 40)),
        ('stage3_block1/shortcut/kernel', (1, 1, 40, 80)),
        ('stage4_block1/shortcut/kernel', (1, 1, 80, 160)),
        ('stage4_block2/conv2/kernel', (3, 3, 160, 160)),
        ('classifier/kernel', (160, 5)))
] + [
    (f'vit_{name}', 2, {'num_layers': 1}, IMAGENET, leaf, shape, VIT)
    for name, width, hidden, heads in (
        ('ti', 192, 768, 3), ('s', 384, 1536, 6), ('b', 768, 3072, 12),
        ('l', 1024, 4096, 16))
    for leaf, shape in (
        ('embedding/kernel', (16, 16, 3, width)),
        ('cls', (1, 1, width)),
        ('posembed_input/pos_embedding', (1, 197, width)),
        ('encoderblock_0/MultiHeadDotProductAttention_1/query/kernel',
         (width, heads, width // heads)),
        ('encoderblock_0/MlpBlock_3/Dense_0/kernel', (width, hidden)),
        ('encoder_norm/scale', (width,)),
        ('head/kernel', (width, 2)))
] + [
    ('part_cifar', 10, PART_OPTIONS, CIFAR, f'level{level}/module00/{leaf}',
     shape, PART)
    for level, leaf, shape in (
        (1, 'conv1/kernel', (3, 3, 3, 64)), (2, 'conv2/kernel', (3, 3, 64, 64)),
        (4, 'conv1/kernel', (3, 3, 64, 128)),
        (6, 'conv1/kernel', (3, 3, 128, 256)),
        (8, 'conv1/kernel', (3, 3, 256, 512)),
        (9, 'conv2/kernel', (3, 3, 512, 512)), (9, 'conv2/bias', (512,)))]

# (model, outputs, options, image, weights, source)
WEIGHTS = [
    ('lenet_300_100', 10, {}, (28, 28, 1), 266_200, SMALL),
    ('lenet_300_100', 100, {}, (28, 28, 1), 275_200, SMALL),
    ('lenet_300_100', 500, {}, (28, 28, 1), 315_200, SMALL),
    ('fc1024', 10, {}, (28, 28, 1), 1_861_632, SMALL),
    ('fc1024', 200, {}, (28, 28, 1), 2_056_192, SMALL),
    ('fc1024', 500, {}, (28, 28, 1), 2_363_392, SMALL),
    ('gem_resnet18', 5, {}, CIFAR, 1_090_940, GEM),
    ('vit_l', 2, {}, IMAGENET, 303_303_682, 'get_exp_config_large'),
    ('vit_b', 2, {}, CIFAR, 85_652_738, 'get_exp_config_base_deca'),
    ('vit_ti', 2, {'num_layers': 3}, CIFAR, 1_484_162,
     'get_exp_config_ti3_chars'),
    ('part_cifar', 10, PART_OPTIONS, CIFAR, 10_998_912 + 51_300, PART)]

# eps -> percent of GEM ResNet-18 that main.py's Erdos-Renyi rule keeps.
DENSITIES = ((1, .26), (2, .53), (4, 1.03), (8, 2.0), (16, 3.9), (32, 7.5),
             (75, 15.8))


def shapes(name, outputs, image, **options):
  network = models.make(name, outputs, **options)
  return jax.eval_shape(lambda key: network.init(key, image),
                        jax.random.key(0))[0]


@pytest.mark.parametrize('name, outputs, options, image, leaf, shape', [
    pytest.param(*row[:-1], id=f'{row[0]}-{row[4]}') for row in LEAVES])
def test_a_leaf_has_the_official_shape(name, outputs, options, image, leaf,
                                       shape):
  found = trees.flatten(shapes(name, outputs, image, **options))
  assert leaf in found, sorted(found)
  assert found[leaf].shape == shape


@pytest.mark.parametrize('name, outputs, options, image, weights', [
    pytest.param(*row[:-1], id=f'{row[0]}-{row[1]}') for row in WEIGHTS])
def test_a_network_has_the_official_number_of_weights(
    name, outputs, options, image, weights):
  assert trees.size(shapes(name, outputs, image, **options)) == weights


@pytest.mark.parametrize('eps, percent', DENSITIES)
def test_erdos_renyi_budgets_are_the_official_ones(eps, percent):
  params = shapes('gem_resnet18', 5, CIFAR)
  densities = trees.flatten(masks.erdos_renyi(params, eps))
  sizes = {name: leaf.size for name, leaf in trees.flatten(params).items()}
  kept = sum(densities[name] * size for name, size in sizes.items())
  assert kept / sum(sizes.values()) * 100 == pytest.approx(percent, rel=.02)
  for name, leaf in trees.flatten(params).items():
    fan = np.prod(leaf.shape[:-2])  # of a kernel, height x width
    assert densities[name] == pytest.approx(min(
        .5, eps * sum(leaf.shape[-2:]) / (np.prod(leaf.shape[-2:]) * fan)))
