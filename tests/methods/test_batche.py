"""BatchEnsemble: rank-one vectors over weights that the first task trains."""

import jax
import numpy as np
import pytest
import tiny
from tiny_methods import BACKBONE, ROUTE, X, forward, learned

import mtl_jax
from mtl_jax import impressions
from mtl_jax import methods
from mtl_jax import trees
from mtl_jax.config import config as config_lib
from mtl_jax.serving import verification
from mtl_jax.storage import json_records


def by_hand(weights, vectors, x=X):
  """((x * r) W) * s, layer by layer."""
  weights = jax.tree.map(np.asarray, weights)
  own = {name: {side: np.asarray(v) for side, v in pair.items()}
         for name, pair in vectors.items()}
  body, head = own['body.kernel'], own['head.kernel']
  hidden = ((x * body['in']) @ weights['body']['kernel']) * body['out']
  hidden = np.maximum(hidden + weights['body']['bias'], 0)
  return ((hidden * head['in']) @ weights['head']['kernel']) * head['out']


def test_vectors_start_as_random_signs():
  start = methods.make('batche').init(jax.random.key(0), BACKBONE, {}, ROUTE)
  found = np.concatenate([v for pair in start['vectors'].values()
                          for v in pair.values()])
  assert set(found) == {-1., 1.}
  assert [len(v) for pair in start['vectors'].values()
          for v in pair.values()] == [4, 6, 6, 3]
  assert trees.fingerprint(start['slow']['head']) == trees.fingerprint(
      BACKBONE['head'])


def test_the_network_is_that_of_the_paper():
  first = learned('batche')
  weights = trees.combine(first.trainable['slow'], BACKBONE)
  np.testing.assert_allclose(
      forward(first.bind(ROUTE), X),
      by_hand(weights, first.trainable['vectors']), rtol=1e-4, atol=1e-5)
  later = learned('batche_later')
  np.testing.assert_allclose(
      forward(later.bind(ROUTE), X),
      by_hand(weights, later.trainable['vectors']), rtol=1e-4, atol=1e-5)


def test_later_tasks_train_and_keep_vectors_alone():
  first, later = learned('batche'), learned('batche_later')
  sizes = [impressions.bytes_by_part(found.commit(ROUTE)[0])
           for found in (first, later)]
  assert set(later.trainable) == {'vectors'}
  assert [size['vectors'] for size in sizes] == [4 * (4 + 6 + 6 + 3)] * 2
  assert [size['values'] for size in sizes] == [4 * (24 + 18), 0]


def test_frozen_weights_are_the_backbones():
  found = learned('batche_frozen')
  pair = found.trainable['vectors']['head.kernel']
  np.testing.assert_allclose(
      found.bind(ROUTE)['head']['kernel'],
      BACKBONE['head']['kernel'] * np.outer(pair['in'], pair['out']), rtol=1e-6)
  assert found.commit(ROUTE)[0].values is None


def test_a_convolution_has_vectors_over_channels():
  backbone = {'conv': {'kernel': np.ones((3, 3, 2, 5), np.float32)}}
  method = methods.make('batche', slow='frozen')
  trainable = method.init(jax.random.key(0), backbone, {}, ROUTE)
  pair = jax.tree.map(np.asarray, trainable['vectors']['conv.kernel'])
  kernel = method.bind(backbone, trainable, {}, ROUTE)['conv']['kernel']
  np.testing.assert_array_equal(kernel, np.broadcast_to(
      np.outer(pair['in'], pair['out']), (3, 3, 2, 5)))


@pytest.mark.parametrize('options, message', [
    ({'slow': 'second'}, "slow is 'second'; known: .'first', 'frozen'"),
    ({'vector_rate': -1.}, 'vector_rate is -1.0; it must be a number above 0')])
def test_options_out_of_range_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    methods.make('batche', **options)


def test_a_bias_has_no_vectors():
  with pytest.raises(ValueError, match=(
      r'body/bias has shape \(6,\), so it has no input and output units; '
      'leave it out of layers')):
    methods.make('batche', layers='.*bias').init(
        jax.random.key(0), BACKBONE, {}, ROUTE)


def config(**phases):
  return config_lib.from_dict({
      'seed': 0, 'suite': {'kind': 'permuted', 'source': 'digits',
                           'num_tasks': 3},
      'backbone': {'model': 'lenet_300_100', 'outputs': 10},
      'phases': {name: dict(tasks=(0, 3), steps=30, batch_size=64,
                            control=True) | phase
                 for name, phase in phases.items()},
      'schedule': tuple(phases)})


def test_tasks_at_once_cannot_share_what_the_first_one_trains(tmp_path):
  given = config(a=dict(method='batche', tasks_at_once=8))
  with pytest.raises(ValueError, match='takes neither tasks_at_once nor'):
    tiny.learn(given, tmp_path)


def test_a_run_stores_the_weights_once_and_psp_forgets(tmp_path):
  """And what psp ends with is its tasks' signs on the last weights."""
  adam = dict(optimizer='adam', learning_rate=1e-3)
  summary = tiny.learn(config(
      batche=dict(adam, method='batche', options=dict(vector_rate=30.)),
      psp=dict(adam, method='psp')), tmp_path)
  records = {line['entry']: line for line in json_records.read_lines(
      tmp_path / 'metrics.jsonl') if line['kind'] == 'task'}
  values = [records[f'permuted-{n:02d}@batche']['bytes']['values']
            for n in range(3)]
  assert values[0] > 0 and values[1:] == [0, 0]
  assert all(line['accuracy']['test'] > .5 for line in records.values())
  found, = summary['carried']
  assert found['phase'] == 'psp'
  for n, row in enumerate(found['matrix']):
    assert row[n] == pytest.approx(
        records[f'permuted-{n:02d}@psp']['accuracy']['test'], abs=1e-6)
  assert np.mean(found['end'][:2]) < np.mean(
      [found['matrix'][n][n] for n in range(2)])
  assert summary['verified']['ok']


@pytest.mark.parametrize('first', [
    dict(method='supsup'), dict(method='dedicated'),
    dict(method='batche', options=dict(slow='frozen'))])
def test_tasks_of_other_kinds_under_the_phases_name_are_none_of_its(
    tmp_path, first):
  """`learn` may give one name to all; those hold no weights for it."""
  given = dict(steps=4, batch_size=64, learning_rate=1e-3)
  tiny.learn(config(learned=first | given), tmp_path)
  system = mtl_jax.load(tmp_path)
  for name in ('one', 'two'):
    system.learn('digits', name=name, method='batche', **given)
  relies = [system.metadata(name)['relies_on'] for name in ('one', 'two')]
  assert [list(names) for names in relies] == [[], ['one']]
  assert not verification.check(mtl_jax.load(tmp_path)).faults
