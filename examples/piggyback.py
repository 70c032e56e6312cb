"""Piggyback (Mallya et al. 2018, arXiv 1801.06519): method and config.

A task leaves a binary mask over weights that are given, found by thresholding
real-valued scores, and a dense head of its own.

    python -m mtl_jax.main --config=examples/piggyback.py --workdir=runs/piggy
    python -m mtl_jax.verify --workdir=runs/piggy \
        --plugins=examples/piggyback.py

Half a minute on 2 CPU cores. The backbone's weights are drawn here; give
`backbone` the weights of a trained network for the paper's setting.
"""

import jax
import jax.numpy as jnp
import ml_collections

from mtl_jax import impressions, masks, methods, trees
from mtl_jax.methods import base


def piggyback(threshold: float = 5e-3, start: float = 1e-2,
              masked: tuple = ('.*kernel',),
              head: tuple = ('head.*',)) -> methods.Method:
  """Scores from `start`, kept where they exceed `threshold`."""
  sample = masks.straight_through(
      lambda scores: masks.threshold(scores, threshold))

  def init(key, backbone, shared, route):
    own = base.masked_part(backbone, head)
    rest = trees.map_leaves(lambda w, h: w if h is None else None,
                            backbone, own)
    kernels = base.masked_part(rest, masked)
    return {'scores': jax.tree.map(lambda w: jnp.full(w.shape, start), kernels),
            'head': own}

  def bind(backbone, trainable, shared, route):
    params = masks.apply(backbone, sample(trainable['scores']))
    return trees.combine(trainable['head'], params)

  def commit(backbone, trainable, shared, route):
    return impressions.Impression(
        masks=masks.threshold(trainable['scores'], threshold),
        values=trainable['head']), shared

  return methods.Method(init, bind, commit, base.materialise)


methods.register('piggyback', piggyback)


def get_config():
  return ml_collections.ConfigDict(dict(
      seed=0, suite=dict(kind='permuted', source='digits', num_tasks=3),
      backbone=dict(model='lenet_300_100', outputs=10, init='default'),
      phases=dict(piggyback=dict(
          method='piggyback', tasks=(0, 3), steps=400, batch_size=64,
          optimizer='adam', learning_rate=1e-3,
          options=dict(head=('head.*',)))),
      schedule=('piggyback',)))
