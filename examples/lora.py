"""LoRA (Hu et al. 2021, arXiv 2106.09685): a method and its config, one file.

A task leaves a low-rank update of every kernel, r (in + out) numbers each.

    python -m mtl_jax.main --config=examples/lora.py --workdir=runs/lora
    python -m mtl_jax.verify --workdir=runs/lora --plugins=examples/lora.py

Half a minute on 2 CPU cores; 96 % on three permuted-digits tasks.
"""

import jax
import jax.numpy as jnp
import ml_collections

from mtl_jax import impressions, methods, trees
from mtl_jax.methods import base


def lora(rank: int = 4, masked: tuple = ('.*kernel',)) -> methods.Method:
  """Trains pairs a [in, rank], b [rank, out] beside each kernel."""
  def init(key, backbone, shared, route):
    chosen = trees.flatten(base.masked_part(backbone, masked))
    names = [name for name, w in chosen.items() if w is not None]
    return {name.replace('/', '.'): {
        'a': jax.random.normal(k, (chosen[name].shape[0], rank)) * .1,
        'b': jnp.zeros((rank, chosen[name].shape[1]))}
            for k, name in zip(jax.random.split(key, len(names)), names)}

  def bind(backbone, pairs, shared, route):
    def leaf(name, w):
      pair = pairs.get(name.replace('/', '.'))
      return w if pair is None else w + pair['a'] @ pair['b']
    return trees.map_named(leaf, backbone)

  def commit(backbone, pairs, shared, route):
    return impressions.Impression(parts={'lora': pairs}), shared

  def materialise(backbone, impression, shared):
    return bind(backbone, impression.parts['lora'], shared, None)

  return methods.Method(init, bind, commit, materialise)


methods.register('lora', lora)


def get_config():
  return ml_collections.ConfigDict(dict(
      seed=0, suite=dict(kind='permuted', source='digits', num_tasks=3),
      backbone=dict(model='lenet_300_100', outputs=10, init='default'),
      phases=dict(lora=dict(
          method='lora', tasks=(0, 3), steps=400, batch_size=64,
          optimizer='adam', learning_rate=5e-3, options=dict(rank=4))),
      schedule=('lora',)))
