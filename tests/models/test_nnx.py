"""NNX modules as networks: their own logits, statistics and noise."""

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_networks import (KEY, ROUTE, X, DroppedNnx, assert_drops, init,
                           train_step)

from mtl_jax import methods
from mtl_jax import models
from mtl_jax import trees


class Whole(nnx.Module):
  """Layers in a list, batch norm and dropout, and a stream of another name."""

  def __init__(self, rngs):
    self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs),
                            nnx.Linear(4, 4, rngs=rngs)])
    self.norm = nnx.BatchNorm(4, momentum=.9, rngs=rngs)
    self.dropout = nnx.Dropout(.5, rngs=rngs)
    self.offset = nnx.Param(jax.random.normal(rngs.other(), (4,)))
    self.head = nnx.Linear(4, 2, rngs=rngs)

  def __call__(self, x):
    for layer in self.layers:
      x = nnx.relu(layer(x))
    return self.head(self.dropout(self.norm(x + self.offset[...][None])))


def test_dropout_of_nnx_has_a_key_in_training_alone():
  assert_drops(models.from_nnx(DroppedNnx))


def test_logits_are_the_nnx_modules_own():
  module = Whole(nnx.Rngs(5))
  network = models.from_nnx(lambda rngs: Whole(rngs))
  like, like_stats = init(network)
  graph, own, other, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
  plain = lambda state: {'/'.join(map(str, path)): np.asarray(v) for path, v in
                         nnx.traversals.flatten_mapping(
                             nnx.to_pure_dict(state)).items()}
  params, stats = trees.unflatten(plain(own)), trees.unflatten(plain(rest))
  trees.check_same_structure(params, like)
  trees.check_same_structure(stats, like_stats)
  trees.check_shapes(params, like, 'nnx')
  assert 'layers/0/kernel' in trees.flatten(params)
  module.eval()
  logits, after = jax.jit(lambda p, s: network.apply(p, s, X))(params, stats)
  np.testing.assert_allclose(logits, module(X), rtol=1e-6, atol=1e-6)
  assert trees.fingerprint(after) == trees.fingerprint(stats)
  # In training the statistics do not depend on what is dropped behind them.
  module = nnx.merge(graph, own, other, rest)
  module.train()
  module(X)
  _, after = network.apply(params, stats, X, train=True, key=KEY)
  wanted = trees.unflatten(plain(nnx.split(
      module, nnx.Param, nnx.RngState, ...)[3]))
  for name, leaf in trees.flatten(after).items():
    np.testing.assert_allclose(leaf, trees.flatten(wanted)[name], rtol=1e-5)
    assert np.any(leaf != trees.flatten(stats)[name])


def test_an_nnx_network_learns_under_every_method():
  network = models.from_nnx(Whole)
  state, losses = train_step(network, 30)
  assert np.mean(losses[-5:]) < np.mean(losses[:5])
  params, stats = init(network)
  method = methods.make('supsup', masked='.*kernel')
  scores = method.init(KEY, params, {}, ROUTE)
  impression, _ = method.commit(params, scores, {}, ROUTE)
  logits, _ = network.apply(method.materialise(params, impression, {}), stats,
                            X)
  assert logits.shape == (16, 2) and state.stats.keys() == stats.keys()


def test_an_nnx_module_is_drawn_from_the_key():
  network = models.from_nnx(Whole)
  drawn = [trees.digests(network.init(jax.random.key(k), (3,))[0])
           for k in (0, 0, 1)]
  assert drawn[0] == drawn[1]
  different = {n for n, d in drawn[0].items() if drawn[2][n] != d}
  assert different == {'layers/0/kernel', 'layers/1/kernel', 'head/kernel',
                       'offset'}


class EmptyNnx(nnx.Module):

  def __init__(self, rngs):
    del rngs


def test_an_nnx_module_without_parameters():
  with pytest.raises(ValueError, match='EmptyNnx has no parameters'):
    init(models.from_nnx(EmptyNnx))
