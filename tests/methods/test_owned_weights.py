"""Subnetworks: which weights a task reads, and which it trains."""

import jax
import numpy as np
import pytest
from tiny_methods import BACKBONE, OWNED, ROUTE, learned

from mtl_jax import methods


def test_subnetworks_need_to_know_who_owns_what():
  method = methods.make('subnetworks')
  with pytest.raises(ValueError, match='give the phase an allocation'):
    method.init(jax.random.key(0), BACKBONE, {}, ROUTE)


@pytest.mark.parametrize('case', ['subnetworks', 'sharing'])
def test_a_subnetwork_reads_its_own_weights_and_those_it_may_share(case):
  method, backbone, shared, trainable, _ = learned(case)
  own, weights = trainable['weights']['body']['kernel'], shared.get('weights')
  owner = OWNED['owner']['body']['kernel']
  wanted = np.where(owner == 2, own, 0)
  if weights:
    wanted = np.where(owner == 1, weights['body']['kernel'], wanted)
  params = method.bind(backbone, trainable, shared, ROUTE)
  np.testing.assert_array_equal(params['body']['kernel'], wanted)
  # What it doesn't own is never trained, whatever the optimizer sees.
  start = BACKBONE['body']['kernel']
  np.testing.assert_array_equal(own[owner != 2], start[owner != 2])
  assert (own[owner == 2] != start[owner == 2]).any()
