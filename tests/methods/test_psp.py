"""Parameter superposition: signs before every layer of one weight tree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_methods import BACKBONE, ROUTE, X, context_of, forward, learned

from mtl_jax import impressions
from mtl_jax import methods
from mtl_jax import trees


def by_hand(weights, signs, x=X):
  """(x * c) W, layer by layer."""
  weights = jax.tree.map(np.asarray, weights)
  body, head = (np.asarray(signs[name]) for name in ('body.kernel',
                                                     'head.kernel'))
  hidden = np.maximum((x * body) @ weights['body']['kernel']
                      + weights['body']['bias'], 0)
  return (hidden * head) @ weights['head']['kernel']


def second(found):
  """What a second task is given after the first one."""
  _, kept = found.commit(ROUTE)
  context = context_of('psp')
  return found.method.prepare(context._replace(
      group=context.group._replace(kept=kept)))


def test_the_network_is_that_of_the_paper():
  found = learned('psp')
  np.testing.assert_allclose(
      forward(found.bind(ROUTE), X),
      by_hand(found.trainable, found.shared['signs']), rtol=1e-4, atol=1e-5)


def test_signs_are_fair_coins_and_differ_from_task_to_task():
  wide = {'layer': {'kernel': np.ones((4000, 2), np.float32)}}
  method = methods.make('psp')
  made = []
  for tasks in (0, 1):
    context = context_of('psp')
    kept = {'common': wide, 'tasks': jnp.int32(tasks)}
    shared = method.prepare(context._replace(
        backbone=wide, group=context.group._replace(kept=kept)))
    made.append(np.asarray(shared['signs']['layer.kernel']))
  assert set(made[0]) == set(made[1]) == {-1., 1.}
  assert max(abs(made[0].mean()), abs(made[1].mean())) < .05
  assert abs((made[0] * made[1]).mean()) < .05


def test_the_next_task_starts_from_the_weights_that_were_left():
  found = learned('psp')
  shared = second(found)
  start = found.method.init(jax.random.key(0), found.backbone, shared, ROUTE)
  assert trees.fingerprint(start) == trees.fingerprint(found.trainable)
  assert int(shared['tasks']) == 1
  assert any(np.any(shared['signs'][name] != signs)
             for name, signs in found.shared['signs'].items())


def test_a_task_on_what_a_later_one_left():
  found = learned('psp')
  impression, _ = found.commit(ROUTE)
  later = impressions.Impression(
      values=jax.tree.map(lambda x: x + 1, found.trainable),
      parts={'signs': None})
  made = found.method.materialise(
      found.backbone, found.method.abilities.carries(impression, later), {})
  np.testing.assert_allclose(forward(made, X), by_hand(
      later.values, found.shared['signs']), rtol=1e-4, atol=1e-4)


def test_a_task_owns_a_bit_per_input_unit():
  sizes = impressions.bytes_by_part(learned('psp').commit(ROUTE)[0])
  assert sizes['signs'] == 1 + 1  # 4 and 6 units
  assert sizes['values'] == trees.nbytes(BACKBONE)


def test_tasks_at_once_are_refused():
  check = methods.make('psp').check
  with pytest.raises(ValueError, match='the weights go from task to task'):
    check(methods.Training('a', tasks_at_once=2), BACKBONE, (), ())
