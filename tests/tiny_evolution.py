"""A tiny root of a search, and its children without training."""

import dataclasses

import jax
import numpy as np

from mtl_jax import models
from mtl_jax.evolution import mutations
from mtl_jax.evolution import networks
from mtl_jax.evolution import spaces

SHAPE = (8, 8, 3)
NETWORK = models.make('vit_ti', 7, num_layers=2, patch=4, width=16, hidden=24,
                      heads=2)
LARGE = spaces.make('mu2net_large')
TI0 = spaces.make('mu2net_ti0')


def rng(seed=0):
  return np.random.default_rng(seed)


def root():
  params, _ = NETWORK.init(jax.random.key(0), SHAPE)
  return networks.path_of(jax.tree.map(np.asarray, params),
                          name=networks.ROOT, task=None, parent=None, hyper={})


ROOT = root()


def path(name, task, score=0., components=None, **fields):
  return networks.Path(name, task, fields.pop('parent', networks.ROOT),
                       fields.pop('hyper', {}), components or ROOT.components,
                       score=score, quality=score, **fields)


def changed(component, amount):
  return networks.component(component.name, jax.tree.map(
      lambda x: x + np.float32(amount), component.tree))


def learn(made, task, amount, name=None, classes=3, score=.5):
  """A 'trained' child: everything that it trains moves by an amount."""
  params = {name: part.tree for name, part in made.cloned.items()}
  for new in made.new:
    params[new] = jax.tree.map(np.asarray, NETWORK.parts.create(
        new, classes, made.hyper['adapter'], jax.random.key(1)))
  params = jax.tree.map(lambda x: x + np.float32(amount), params)
  return mutations.finished(made, params, dict.fromkeys(params), task=task,
                            name=name or task, score=score, quality=score)


def sample(space=LARGE, lineage=(ROOT,), locked=None, classes=3,
           seed=0, control=None, **hyper):
  images = space.defaults(spaces.AUGMENT)
  lineage = [dataclasses.replace(lineage[0], hyper=dict(
      lineage[0].hyper) | hyper), *lineage[1:]]
  locked = networks.locked('a', [ROOT]) if locked is None else locked
  return mutations.child(rng(seed), space, lineage, images, locked, classes,
                         control)


def rate_of(value):
  """The space in which every mutation has this rate."""
  return dataclasses.replace(LARGE, ranges=spaces._ranges(
      dict(LARGE.ranges) | {spaces.RATE: (value,)}))
