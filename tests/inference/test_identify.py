"""Task inference against dense references that hold a float per weight."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_banks as banks

from mtl_jax import masks
from mtl_jax.inference import identify
from mtl_jax.inference import superposition

# The objectives.

LOG = np.log(np.array([[1, 3, 4], [2, 2, 4], [1, 1, 1]], np.float32))


def test_entropy_literals_and_padding():
  by_hand = [-(.125 * math.log(.125) + .375 * math.log(.375)
               + .5 * math.log(.5)), 1.5 * math.log(2), math.log(3)]
  entropy = jax.jit(identify.entropy)
  for rows in ([0], [1], [0, 1], [0, 1, 2]):
    counted = np.isin(np.arange(3), rows)
    np.testing.assert_allclose(entropy(LOG, counted),
                               np.mean([by_hand[r] for r in rows]), rtol=1e-5)
  gradient = jax.jit(jax.grad(entropy))(LOG, np.arange(3) < 2)
  assert np.any(gradient[:2]) and not np.any(gradient[2])
  sure = np.array([[0, 200, 0]], np.float32)  # exp underflows
  value, gradient = jax.jit(jax.value_and_grad(entropy))(
      sure, banks.used(1))
  assert value == 0 and not np.any(gradient)


def test_superfluous_literals_and_padding():
  counted = np.array([True, True, False])
  value, gradient = jax.value_and_grad(identify.superfluous)(
      LOG, counted, classes=2)
  np.testing.assert_allclose(value, math.log(8), rtol=1e-6)
  # The softmax of the superfluous output, over two counted rows.
  np.testing.assert_allclose(
      gradient, [[0, 0, .25], [0, 0, .25], [0, 0, 0]], atol=1e-7)
  for classes in (None, 0, 3, 4):
    with pytest.raises(ValueError, match='3 outputs, of which .*superfluous|'
                                         'superfluous outputs: 3'):
      identify.superfluous(LOG, counted, classes)


# The rules.


def counting(calls):
  """`banks.loss` that notes every pass on the host."""
  def note(what):
    jax.debug.callback(lambda: calls.append(what))

  @jax.custom_vjp
  def noted(params):
    note('forward')
    return banks.loss(params)

  def forward(params):
    return jax.vjp(banks.loss, params)

  def backward(pull, cotangent):
    note('backward')
    return pull(cotangent)
  noted.defvjp(forward, backward)
  return noted


def run(rule, size):
  """(what it found, the passes that really ran)."""
  calls = []
  found = banks.infer(rule, banks.bank_of(size), loss_fn=counting(calls))
  jax.block_until_ready(found)
  jax.effects_barrier()
  return found, calls


@pytest.mark.parametrize('rule, size, passes', [
    ('one_shot', 1, 1), ('one_shot', 9, 1), ('binary', 1, 0),
    ('binary', 2, 1), ('binary', 7, 3), ('binary', 8, 3), ('binary', 9, 4)])
def test_so_many_backward_passes(rule, size, passes):
  found, calls = run(rule, size)
  assert calls == ['backward'] * passes and found.passes == passes
  assert 0 <= found.task < size


def test_brute_force_needs_no_gradient():
  found, calls = run('brute_force', 5)
  assert calls == ['forward'] * 5 and found.passes == 0


@pytest.mark.parametrize('size', [1, 2, 9])
def test_one_shot_is_the_gradient_through_a_dense_superposition(size):
  bank = banks.draw(size)
  expected = banks.dense_gradient(bank)(
      np.full(size, 1 / size, np.float32))
  found = banks.infer('one_shot', banks.bank_of(size))
  np.testing.assert_allclose(found.gradient, expected, rtol=1e-4, atol=1e-6)
  assert found.task == np.argmin(expected)


@pytest.mark.parametrize('size', [1, 2, 7, 9])
def test_binary_halves_like_a_loop(size):
  dense = banks.dense_gradient(banks.draw(size, seed=3))
  alive = list(range(size))
  while len(alive) > 1:
    beliefs = np.isin(np.arange(size), alive).astype(np.float32) / len(alive)
    gradient = dense(beliefs).tolist()
    alive = sorted(alive, key=lambda i: gradient[i])[:(len(alive) + 1) // 2]
  found = banks.infer('binary', banks.bank_of(size, 3))
  assert found.task == alive[0]


def value_of(bank, i):
  return float(banks.loss(masks.apply(
      banks.BACKBONE, jax.tree.map(lambda m: m[i], bank))))


@pytest.mark.parametrize('size, last', [(1, 2), (2, 2), (7, 2), (9, 3), (9, 4),
                                        (9, 20)])
def test_reranked_compares_the_last_tasks_by_their_own_networks(size, last):
  bank = banks.draw(size, seed=3)
  dense, alive, passes = banks.dense_gradient(bank), list(range(size)), 0
  while len(alive) > last:
    beliefs = np.isin(np.arange(size), alive).astype(np.float32) / len(alive)
    gradient = dense(beliefs).tolist()
    alive = sorted(alive, key=lambda i: gradient[i])[:(len(alive) + 1) // 2]
    passes += 1
  rule = identify.Rule('binary', rerank=last)
  found = jax.jit(lambda used: rule.infer(
      banks.loss, banks.BACKBONE, banks.bank_of(size, 3), used))(
          banks.used(size))
  assert found.passes == passes
  assert sorted(alive) == np.flatnonzero(np.isfinite(found.gradient)).tolist()
  np.testing.assert_allclose(found.gradient[np.array(alive)],
                             [value_of(bank, i) for i in alive], rtol=1e-5)
  assert found.task == min(alive, key=lambda i: value_of(bank, i))


@pytest.mark.parametrize('change, told', [
    (dict(rerank=1), 'rerank is 1'), (dict(rerank=-2), 'rerank is -2'),
    (dict(rerank=2.), 'rerank is 2.0'), (dict(rerank=True), 'rerank is True'),
    (dict(rule='one_shot'), 'here the rule is one_shot'),
    (dict(objective='superfluous'), 'the objective superfluous')])
def test_what_cannot_be_reranked_is_refused(change, told):
  with pytest.raises(ValueError, match=told):
    identify.Rule(**{'rule': 'binary', 'rerank': 2} | change)


def test_brute_force_evaluates_every_tasks_own_network():
  bank = banks.draw(5)
  values = [banks.loss(masks.apply(
      banks.BACKBONE, jax.tree.map(lambda m: m[i], bank))) for i in range(5)]
  found = banks.infer('brute_force', banks.bank_of(5))
  np.testing.assert_allclose(found.gradient, values, rtol=1e-5)
  assert found.task == np.argmin(values)


@pytest.mark.parametrize('rule', identify.RULES)
def test_a_subset_in_play_is_a_smaller_bank(rule):
  bank, alive = banks.draw(9), np.array([1, 4, 5, 7, 8])
  few = superposition.of_masks(
      banks.packed(jax.tree.map(lambda m: m[alive], bank)), banks.BACKBONE)
  a = banks.infer(rule, banks.bank_of(9), np.isin(np.arange(9), alive))
  b = banks.infer(rule, few)
  assert a.task == alive[b.task] and a.passes == b.passes
  np.testing.assert_allclose(a.gradient[alive], b.gradient, rtol=1e-4,
                             atol=1e-6)
  assert np.isinf(a.gradient[np.array([0, 2, 3, 6])]).all()


@pytest.mark.parametrize('rule', identify.RULES)
def test_rules_under_vmap_are_the_rules(rule):
  tasks = banks.bank_of(6)
  one = jax.jit(lambda x: identify.RULES[rule](
      lambda p: banks.loss(p, x[None], banks.used(1)), banks.BACKBONE, tasks,
      banks.used(6)))
  many = jax.jit(jax.vmap(one))(banks.X)
  assert len(set(many.task.tolist())) > 1  # not one answer for all
  for i, x in enumerate(banks.X):
    alone = one(x)
    assert many.task[i] == alone.task and many.passes[i] == alone.passes
    np.testing.assert_allclose(many.gradient[i], alone.gradient, rtol=1e-4,
                               atol=1e-6)


def test_unknown_rules_and_objectives():
  with pytest.raises(ValueError, match="unknown rule 'oneshot' .did you mean: "
                                       "one_shot.*brute_force"):
    identify.Rule(rule='oneshot')
  with pytest.raises(ValueError, match="unknown objective 'H'.*entropy"):
    identify.Rule(objective='H')
  assert hash(identify.Rule()) == hash(dataclasses.replace(identify.Rule()))


# New tasks.


@pytest.mark.parametrize('share, new', [
    ([.25, .25, .25, .25], True), ([.28, .24, .24, .24], True),
    ([.29, .25, .23, .23], False), ([.97, .01, .01, .01], False)])
def test_fits_no_task_is_the_papers_rule(share, new):
  gradient = -np.log(np.array(share, np.float32)) + 7
  assert (4 * max(share) < 1 + .125) == new
  assert identify.fits_no_task(gradient, banks.used(4)) == new
  # Rows out of play neither count nor explain.
  more = np.concatenate([gradient, [-100., np.inf]]).astype(np.float32)
  assert identify.fits_no_task(more, np.arange(6) < 4) == new


def test_fits_no_task_has_a_tolerance():
  gradient = -np.log(np.array([.28, .24, .24, .24], np.float32))
  assert identify.fits_no_task(gradient, banks.used(4), .13)
  assert not identify.fits_no_task(gradient, banks.used(4), .11)


def test_one_hot_coefficients_are_masks():
  """The specification's test: one-shot over one-hot alphas is SupSup's."""
  one_hot = jax.tree.map(lambda m: np.eye(4, dtype=np.float32), banks.BASIS)
  combined = superposition.of_coefficients(one_hot, banks.BASIS)
  tasks = superposition.of_masks(banks.packed(banks.BASIS),
                                 banks.BACKBONE)
  for i in range(4):
    jax.tree.map(np.testing.assert_array_equal, combined.one(i), tasks.one(i))
  for rule in identify.RULES:
    a, b = banks.infer(rule, combined), banks.infer(rule, tasks)
    assert a.task == b.task and a.passes == b.passes
    np.testing.assert_allclose(a.gradient, b.gradient, rtol=1e-4, atol=1e-6)


# Memory.


def largest(jaxpr):
  """The largest float array, in numbers, that a program makes anywhere."""
  sizes = [0]
  for eqn in jaxpr.eqns:
    sizes += [v.aval.size for v in eqn.outvars
              if jnp.issubdtype(v.aval.dtype, jnp.floating)]
    inner = jax.tree.leaves(tuple(eqn.params.values()), is_leaf=lambda x:
                            hasattr(x, 'eqns') or hasattr(x, 'jaxpr'))
    sizes += [largest(getattr(x, 'jaxpr', x)) for x in inner
              if hasattr(x, 'eqns') or hasattr(x, 'jaxpr')]
  return max(sizes)


@pytest.mark.parametrize('rule', ['one_shot', 'binary', 'brute_force'])
def test_two_thousand_masks_are_never_floats(monkeypatch, rule):
  monkeypatch.setattr(superposition, 'BLOCK_WEIGHTS', 2 ** 16)
  backbone, count = {'w': np.ones((256, 16), np.float32)}, 2048
  bits = np.random.RandomState(0).randint(0, 256, (count, 512), np.uint8)
  x = np.random.RandomState(1).randn(4, 1, 256).astype(np.float32)

  def infer(bits, images):
    tasks = superposition.of_masks({'w': bits}, backbone)
    return jax.vmap(lambda x: identify.RULES[rule](
        lambda p: identify.entropy(x @ p['w'], banks.used(1)), backbone,
        tasks, banks.used(count)))(images)
  assert largest(jax.make_jaxpr(infer)(bits, x).jaxpr) <= 2 ** 16
  memory = jax.jit(infer).lower(bits, x).compile().memory_analysis()
  # A padded copy of the packed bank (1 MiB) and a few blocks; 32 MiB of float.
  assert memory.temp_size_in_bytes < 4 * 2 ** 20
