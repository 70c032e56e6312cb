"""Task inference against dense references that hold a float per weight."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import identify
from mtl_jax import masks
from mtl_jax import trees

RANDOM = np.random.RandomState(0)
BACKBONE = {
    'body': {'kernel': RANDOM.randn(4, 5).astype(np.float32),  # 20, 15 and 3
             'bias': RANDOM.randn(5).astype(np.float32)},  # weights: none is
    'head': {'kernel': RANDOM.randn(5, 3).astype(np.float32),  # whole bytes
             'scale': RANDOM.randn(3).astype(np.float32)}}
X = RANDOM.randn(6, 4).astype(np.float32)
EVERY = np.ones(6, bool)


def draw(size, seed=0):
  """`size` masks, bool leaves [size, ...]; no mask for the bias."""
  random = np.random.RandomState(seed)
  make = lambda x: random.rand(size, *x.shape) < .5
  return {'body': {'kernel': make(BACKBONE['body']['kernel']), 'bias': None},
          'head': jax.tree.map(make, BACKBONE['head'])}


def packed(bank):
  return jax.tree.map(lambda m: np.packbits(m.reshape(len(m), -1), axis=1),
                      bank)


def bank_of(size, seed=0):
  return identify.of_masks(packed(draw(size, seed)), BACKBONE)


def dense_mix(bank, beliefs):
  """The definition: sum_i beliefs_i M^i with a float copy of every mask."""
  return jax.tree.map(
      lambda m: jnp.tensordot(beliefs, m.astype(np.float32), 1), bank)


def logits_of(params, x=X):
  hidden = jax.nn.relu(x @ params['body']['kernel']
                       + params['body']['bias'][None])
  return hidden @ params['head']['kernel'] * params['head']['scale'][None]


def loss(params, x=X, counted=EVERY):
  return identify.entropy(logits_of(params, x), counted)


def dense_gradient(bank):
  """d loss / d beliefs by JAX, through the float superposition."""
  return jax.jit(jax.grad(lambda beliefs: loss(
      masks.apply(BACKBONE, dense_mix(bank, beliefs)))))


def close(a, b, rtol=2e-5):
  """Trees with equal structure, `None`s included, and close leaves."""
  trees.check_same_structure(a, b)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(
      x, y, rtol=rtol, atol=1e-6), a, b)


def used(size):
  return np.ones(size, bool)


def infer(rule, tasks, chosen=None, loss_fn=loss):
  """A rule, compiled as a whole."""
  chosen = used(tasks.size) if chosen is None else chosen
  return jax.jit(lambda chosen: identify.RULES[rule](
      loss_fn, BACKBONE, tasks, chosen))(chosen)


# The superposition.


@pytest.mark.parametrize('at_once', [1, 2, 3, 2 ** 23])
@pytest.mark.parametrize('size', [1, 7])
def test_masks_mix_and_agree_like_dense_ones(monkeypatch, size, at_once):
  monkeypatch.setattr(identify, 'BLOCK_WEIGHTS', 20 * at_once)
  bank, tasks = draw(size), bank_of(size)
  # Eighths: their sums have no rounding.
  beliefs = RANDOM.randint(-8, 9, size).astype(np.float32) / 8
  assert tasks.size == size
  mixed = tasks.mix(beliefs)
  jax.tree.map(np.testing.assert_array_equal, mixed,
               dense_mix(bank, beliefs))
  assert mixed['body']['bias'] is None
  cotangent = jax.tree.map(lambda m: RANDOM.randn(*m.shape[1:]).astype(
      np.float32), bank)
  by_hand = [sum(float(c[m[i]].sum()) for c, m in zip(
      jax.tree.leaves(cotangent), jax.tree.leaves(bank)))
             for i in range(size)]
  np.testing.assert_allclose(tasks.agree(cotangent), by_hand, rtol=1e-4,
                             atol=1e-5)


@pytest.mark.parametrize('make', ['masks', 'coefficients', 'joined', 'hybrid'])
def test_agree_is_the_transpose_of_mix(make):
  tasks = KINDS[make]()
  beliefs = RANDOM.randn(tasks.size).astype(np.float32)
  mixed, pull = jax.vjp(tasks.mix, beliefs)
  cotangent = jax.tree.map(lambda m: RANDOM.randn(*m.shape).astype(
      np.float32), mixed)
  np.testing.assert_allclose(tasks.agree(cotangent), pull(cotangent)[0],
                             rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('make', ['masks', 'coefficients', 'joined', 'hybrid'])
def test_one_is_mix_with_all_belief_in_it(make):
  tasks = KINDS[make]()
  one, mix = jax.jit(tasks.one), jax.jit(tasks.mix)
  for i, belief in enumerate(np.eye(tasks.size, dtype=np.float32)):
    close(one(i), mix(belief))


def test_mix_and_agree_under_vmap(monkeypatch):
  monkeypatch.setattr(identify, 'BLOCK_WEIGHTS', 40)
  tasks = bank_of(5)
  beliefs = RANDOM.randn(3, 5).astype(np.float32)
  mix, agree = jax.jit(tasks.mix), jax.jit(tasks.agree)
  mixed = jax.jit(jax.vmap(mix))(beliefs)
  found = jax.jit(jax.vmap(agree))(mixed)
  for i in range(3):
    alone = mix(beliefs[i])
    close(jax.tree.map(lambda x: x[i], mixed), alone)
    np.testing.assert_allclose(found[i], agree(alone), rtol=1e-4, atol=1e-5)


BASIS = draw(4, seed=9)
ALPHAS = jax.tree.map(
    lambda m: np.random.RandomState(m.size).randn(3, 4).astype(np.float32),
    BASIS)


def hybrid():
  """Tasks with coefficients for the body and a mask of their own above."""
  own = draw(3, seed=4)
  own['body']['kernel'] = None
  combined = dict(ALPHAS, head={'kernel': None, 'scale': None})
  return identify.beside(identify.of_masks(packed(own), BACKBONE),
                         identify.of_coefficients(combined, BASIS))


KINDS = {
    'masks': lambda: bank_of(5),
    'coefficients': lambda: identify.of_coefficients(ALPHAS, BASIS),
    'joined': lambda: identify.joined(
        bank_of(5), identify.of_coefficients(ALPHAS, BASIS)),
    'hybrid': hybrid,
}


def test_coefficients_mix_like_dense_ones():
  beliefs = RANDOM.randn(3).astype(np.float32)
  dense = jax.tree.map(
      lambda a, m: np.einsum('t,tk,k...->...', beliefs, a, m), ALPHAS, BASIS)
  close(KINDS['coefficients']().mix(beliefs), dense, rtol=1e-4)


def test_joined_keeps_the_order_and_beside_the_leaves():
  a, b = draw(2, seed=1), draw(3, seed=2)
  both = jax.tree.map(lambda x, y: np.concatenate([x, y]), a, b)
  tasks = identify.joined(identify.of_masks(packed(a), BACKBONE),
                          identify.of_masks(packed(b), BACKBONE))
  beliefs = np.array([1, 2, 4, 8, 16], np.float32)
  assert tasks.size == 5
  jax.tree.map(np.testing.assert_array_equal, tasks.mix(beliefs),
               dense_mix(both, beliefs))
  own, mixed = draw(3, seed=4), hybrid().mix(beliefs[:3])
  close(mixed['head'], dense_mix(own, beliefs[:3])['head'])
  close(mixed['body'], KINDS['coefficients']().mix(beliefs[:3])['body'])


def test_joined_tasks_mask_the_same_leaves():
  fewer = packed(draw(2))
  fewer['body']['kernel'] = None
  tasks = identify.joined(identify.of_masks(fewer, BACKBONE), bank_of(3))
  with pytest.raises(ValueError, match='body/kernel'):
    tasks.mix(np.ones(5, np.float32))


def test_one_hot_coefficients_are_masks():
  """The specification's test: one-shot over one-hot alphas is SupSup's."""
  one_hot = jax.tree.map(lambda m: np.eye(4, dtype=np.float32), BASIS)
  combined = identify.of_coefficients(one_hot, BASIS)
  tasks = identify.of_masks(packed(BASIS), BACKBONE)
  for i in range(4):
    jax.tree.map(np.testing.assert_array_equal, combined.one(i), tasks.one(i))
  for rule in identify.RULES:
    a, b = infer(rule, combined), infer(rule, tasks)
    assert a.task == b.task and a.passes == b.passes
    np.testing.assert_allclose(a.gradient, b.gradient, rtol=1e-4, atol=1e-6)


def test_normalised_divides_by_the_sum_of_magnitudes():
  alphas = {'a': np.array([[3., -1.], [0., 0.], [.5, .5]], np.float32),
            'b': None}
  found = identify.normalised(alphas)
  np.testing.assert_allclose(found['a'], [[.75, -.25], [0, 0], [.5, .5]])
  assert found['b'] is None


def test_a_bank_that_does_not_fit_is_refused():
  bits = packed(draw(3))
  with pytest.raises(ValueError, match='the bank is empty'):
    identify.of_masks(jax.tree.map(lambda _: None, bits), BACKBONE)
  wrong = dict(bits, head=dict(bits['head'], kernel=bits['head']['scale']))
  with pytest.raises(ValueError, match=r'\(3, 1\) but head/kernel of shape '
                                       r'\(5, 3\) needs \[3, 2\] bytes'):
    identify.of_masks(wrong, BACKBONE)
  fewer = dict(bits, head=dict(bits['head'], scale=bits['head']['scale'][:2]))
  with pytest.raises(ValueError, match='head/scale of shape'):
    identify.of_masks(fewer, BACKBONE)
  with pytest.raises(ValueError, match='leaf head/scale stands only in'):
    identify.of_masks(bits, dict(BACKBONE, head={'kernel': 0}))


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
  value, gradient = jax.jit(jax.value_and_grad(entropy))(sure, used(1))
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
  """`loss` that notes every run, forward or backward, on the host."""
  def note(what):
    jax.debug.callback(lambda: calls.append(what))

  @jax.custom_vjp
  def noted(params):
    note('forward')
    return loss(params)

  def forward(params):
    return jax.vjp(loss, params)

  def backward(pull, cotangent):
    note('backward')
    return pull(cotangent)
  noted.defvjp(forward, backward)
  return noted


def run(rule, size):
  """(what it found, the passes that really ran)."""
  calls = []
  found = infer(rule, bank_of(size), loss_fn=counting(calls))
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
  bank = draw(size)
  expected = dense_gradient(bank)(np.full(size, 1 / size, np.float32))
  found = infer('one_shot', bank_of(size))
  np.testing.assert_allclose(found.gradient, expected, rtol=1e-4, atol=1e-6)
  assert found.task == np.argmin(expected)


@pytest.mark.parametrize('size', [1, 2, 7, 9])
def test_binary_halves_like_a_loop(size):
  dense, alive = dense_gradient(draw(size, seed=3)), list(range(size))
  while len(alive) > 1:
    beliefs = np.isin(np.arange(size), alive).astype(np.float32) / len(alive)
    gradient = dense(beliefs).tolist()
    alive = sorted(alive, key=lambda i: gradient[i])[:(len(alive) + 1) // 2]
  found = infer('binary', bank_of(size, 3))
  assert found.task == alive[0]


def test_brute_force_evaluates_every_tasks_own_network():
  bank = draw(5)
  values = [loss(masks.apply(BACKBONE, jax.tree.map(lambda m: m[i], bank)))
            for i in range(5)]
  found = infer('brute_force', bank_of(5))
  np.testing.assert_allclose(found.gradient, values, rtol=1e-5)
  assert found.task == np.argmin(values)


@pytest.mark.parametrize('rule', identify.RULES)
def test_a_subset_in_play_is_a_smaller_bank(rule):
  bank, alive = draw(9), np.array([1, 4, 5, 7, 8])
  few = identify.of_masks(packed(jax.tree.map(lambda m: m[alive], bank)),
                          BACKBONE)
  a = infer(rule, bank_of(9), np.isin(np.arange(9), alive))
  b = infer(rule, few)
  assert a.task == alive[b.task] and a.passes == b.passes
  np.testing.assert_allclose(a.gradient[alive], b.gradient, rtol=1e-4,
                             atol=1e-6)
  assert np.isinf(a.gradient[np.array([0, 2, 3, 6])]).all()


@pytest.mark.parametrize('rule', identify.RULES)
def test_rules_under_vmap_are_the_rules(rule):
  tasks = bank_of(6)
  one = jax.jit(lambda x: identify.RULES[rule](
      lambda p: loss(p, x[None], used(1)), BACKBONE, tasks, used(6)))
  many = jax.jit(jax.vmap(one))(X)
  assert len(set(many.task.tolist())) > 1  # not one answer for all
  for i, x in enumerate(X):
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
  assert identify.fits_no_task(gradient, used(4)) == new
  # Rows out of play neither count nor explain.
  more = np.concatenate([gradient, [-100., np.inf]]).astype(np.float32)
  assert identify.fits_no_task(more, np.arange(6) < 4) == new


def test_fits_no_task_has_a_tolerance():
  gradient = -np.log(np.array([.28, .24, .24, .24], np.float32))
  assert identify.fits_no_task(gradient, used(4), .13)
  assert not identify.fits_no_task(gradient, used(4), .11)


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
  monkeypatch.setattr(identify, 'BLOCK_WEIGHTS', 2 ** 16)
  backbone, count = {'w': np.ones((256, 16), np.float32)}, 2048
  bits = np.random.RandomState(0).randint(0, 256, (count, 512), np.uint8)
  x = np.random.RandomState(1).randn(4, 1, 256).astype(np.float32)

  def infer(bits, images):
    tasks = identify.of_masks({'w': bits}, backbone)
    return jax.vmap(lambda x: identify.RULES[rule](
        lambda p: identify.entropy(x @ p['w'], used(1)), backbone, tasks,
        used(count)))(images)
  assert largest(jax.make_jaxpr(infer)(bits, x).jaxpr) <= 2 ** 16
  memory = jax.jit(infer).lower(bits, x).compile().memory_analysis()
  # A padded copy of the packed bank (1 MiB) and a few blocks; 32 MiB of float.
  assert memory.temp_size_in_bytes < 4 * 2 ** 20
