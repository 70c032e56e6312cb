"""A generation in one program: the official optimizer, gates and masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_evolution

from mtl_jax import methods
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.evolution import augment
from mtl_jax.evolution import batches
from mtl_jax.evolution import mutations
from mtl_jax.evolution import spaces
from mtl_jax.evolution import training
from mtl_jax.steps import single

NETWORK, ROOT, SHAPE = (tiny_evolution.NETWORK, tiny_evolution.ROOT,
                        tiny_evolution.SHAPE)
CLASSES, ROUNDS, STEPS = 3, 2, 4
CHAIN = (transforms.normalise(.5, .5),)
ROUTE = methods.Route(CLASSES, transforms.kinds(CHAIN))
NOTHING = tiny_evolution.NOTHING
SPACE = tiny_evolution.rate_of(0.)


@functools.lru_cache(maxsize=None)
def data():
  random = np.random.RandomState(0)
  labels = random.randint(0, CLASSES, 60).astype(np.int32)
  images = random.randint(0, 100, (60, *SHAPE)) + 70 * labels[:, None, None,
                                                              None]
  task = single.TaskArrays(pipeline.parameters(CHAIN, SHAPE),
                          np.arange(CLASSES, dtype=np.int32))
  return (single.Source(images.astype(np.uint8)[:40], labels[:40]),
          single.Source(images.astype(np.uint8)[40:], labels[40:]), task)


def new_of(made):
  return {name: jax.tree.map(np.asarray, NETWORK.parts.create(
      name, CLASSES, made.hyper['adapter'], jax.random.key(1)))
          for name in made.new}


def learner(made, start=-np.inf, factor=1., layers=2, adapter=0, new=None,
            space=SPACE):
  network = training.largest(ROOT, NETWORK.parts.create, CLASSES, layers,
                             adapter)
  return training.learner_of(
      made, network, new_of(made) if new is None else new,
      training.hyper_of(made.hyper, ROUNDS, STEPS, space), start, factor)


def index(seed=0):
  return batches.training(np.arange(40), ROUNDS * STEPS, 10, (seed,))


@functools.lru_cache(maxsize=None)
def program():
  return jax.jit(training.make_round(NETWORK.parts.apply), static_argnums=0)


def train(state, how=None, rounds=ROUNDS, run=None):
  source, valid, task = data()
  rows, found = index(), []
  checks = batches.validation(np.arange(20), 8, 100)
  for number in range(rounds):
    state, measured = (run or program())(
        ROUTE, source, valid, task, state,
        rows[number * STEPS:(number + 1) * STEPS], checks,
        augment.of(how or NOTHING), jax.random.key(5))
    found.append(jax.device_get(measured))
  return jax.device_get(state), found


@pytest.mark.parametrize('schedule', training.SCHEDULES)
@pytest.mark.parametrize('warmup', [0., .1, .4])
def test_the_schedules_are_the_official_ones(schedule, warmup):
  total, cycle, peak = 40, 10, .3
  hyper = training.hyper_of(
      dict(learning_rate=peak, momentum=.9, nesterov=False, schedule=schedule,
           warmup=warmup), 4, cycle, SPACE)
  found = [float(training.rate(hyper, jnp.int32(i))) for i in range(total)]
  length = cycle if schedule == 'restarts' else total
  rise = int(warmup * length)
  if schedule == 'constant':
    expected = lambda step: peak / 2
  elif schedule == 'linear':
    expected = optax.join_schedules(
        [optax.linear_schedule(peak * .01, peak, rise),
         optax.linear_schedule(peak, peak * .01, length - rise)], [rise])
  else:
    expected = optax.warmup_cosine_decay_schedule(
        peak * .01, peak, rise, length)
  np.testing.assert_allclose(
      found, [float(expected(step % length)) for step in range(total)],
      rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('nesterov', [True, False])
@pytest.mark.parametrize('scale', [.01, 5.])  # below and above the clip
@pytest.mark.parametrize('accumulator', spaces.ACCUMULATORS)
def test_updates_equal_optax(nesterov, scale, accumulator):
  made = tiny_evolution.sample(SPACE, learning_rate=.1, nesterov=nesterov)
  state = learner(made, space=SPACE.replace(accumulator=accumulator))
  own = {name: state.params[name] for name in made.trained}
  optimizer = optax.chain(
      optax.clip_by_global_norm(1.),
      optax.sgd(lambda step: training.rate(state.hyper, step), .9, nesterov,
                accumulator_dtype=accumulator))
  reference, random = optimizer.init(own), np.random.RandomState(0)
  for _ in range(8):
    gradients = jax.tree.map(
        lambda x: scale * random.randn(*x.shape).astype(np.float32),
        state.params)
    state = jax.jit(training.update)(state, gradients)
    moves, reference = optimizer.update(
        {name: gradients[name] for name in own}, reference, own)
    own = optax.apply_updates(own, moves)
    for name, leaf in trees.flatten(own).items():
      np.testing.assert_allclose(trees.flatten(state.params)[name], leaf,
                                 rtol=1e-5, atol=3e-5)
    for leaf in jax.tree.leaves(state.trace):
      if accumulator == 'bfloat16':  # which holds it
        np.testing.assert_array_equal(
            leaf, np.asarray(leaf, jnp.bfloat16).astype(np.float32))
  for name in made.shared:
    assert trees.digests(state.params[name]) == trees.digests(
        ROOT.components[name].tree)
    assert not any(np.any(x) for x in jax.tree.leaves(state.trace[name]))


@pytest.mark.parametrize('accumulator, factor', [
    ('bfloat16', .8984375), ('float32', .9)])
def test_the_official_momentum_is_rounded(accumulator, factor):
  """Without a gradient a trace shrinks by bfloat16(0.9)."""
  made = tiny_evolution.sample(SPACE, learning_rate=.1)
  state = learner(made, space=SPACE.replace(accumulator=accumulator))
  state = state._replace(trace=jax.tree.map(np.ones_like, state.trace))
  state = training.update(state, jax.tree.map(np.zeros_like, state.params))
  np.testing.assert_array_equal(state.trace['head']['bias'],
                                np.float32(factor))


def test_only_what_is_trained_changes_and_it_learns():
  made = tiny_evolution.sample(SPACE, learning_rate=.1)
  state, found = train(learner(made))
  assert found[-1].loss < found[0].loss < np.log(3) + .05
  params, traces = training.trained_parts(made, state, new_of(made))
  assert sorted(params) == made.trained == ['encoder_norm', 'head']
  for name in made.shared:
    assert trees.digests(state.params[name]) == trees.digests(
        ROOT.components[name].tree)
  assert np.any(params['head']['kernel']) and np.any(traces['head']['bias'])
  # What a path of them predicts is what was measured.
  path = mutations.finished(made, params, traces, name='x', task='a')
  source, valid, task = data()
  images, labels = single.make_batch(ROUTE, valid, task, None, np.arange(18),
                                    False)
  logits, _ = NETWORK.apply(path.params, {}, images)
  right = np.mean(np.argmax(logits, 1) == labels)
  assert right == pytest.approx(max(m.quality for m in found))


def test_children_of_all_kinds_share_one_program():
  traces, round_ = [], training.make_round(NETWORK.parts.apply)

  def counted(*args):
    traces.append(1)
    return round_(*args)
  run = jax.jit(counted, static_argnums=0)
  kinds = [tiny_evolution.sample(SPACE, learning_rate=.1),
           tiny_evolution.sample(tiny_evolution.rate_of(1.), momentum=.5),
           tiny_evolution.sample(tiny_evolution.TI0.replace(num_layers=0)),
           tiny_evolution.sample(SPACE, control='adapters')]
  results = [train(learner(made, adapter=32), dict(NOTHING, hue=.1 * (i > 1)),
                   1, run) for i, made in enumerate(kinds)]
  assert len(traces) == 1
  assert len({float(found[0].loss) for _, found in results}) == 4


@pytest.mark.slow
def test_a_gated_and_padded_child_equals_its_own_network():
  """Fewer layers, a narrow adapter: as if there were nothing else."""
  space = tiny_evolution.TI0.replace(num_layers=1, adapter=32)
  made = tiny_evolution.sample(space, control='adapters')._replace(
      new=('residual_adapter_0', 'head'))
  hyper = dict(made.hyper, adapter=8)
  made = made._replace(hyper=hyper)
  new = new_of(made)
  new['residual_adapter_0'] = jax.tree.map(lambda x: x + .1,
                                           new['residual_adapter_0'])
  wide, _ = train(learner(made, layers=3, adapter=16, new=new))
  narrow, _ = train(learner(made, layers=1, adapter=8, new=new), run=jax.jit(
      training.make_round(NETWORK.parts.apply), static_argnums=0))
  a, b = (training.trained_parts(made, s, new)[0] for s in (wide, narrow))
  for name, leaf in trees.flatten(a).items():
    np.testing.assert_allclose(leaf, trees.flatten(b)[name], rtol=1e-3,
                               atol=1e-5)
  assert a['residual_adapter_0']['Dense_0']['kernel'].shape == (16, 8)


def test_the_best_validation_is_kept():
  made = tiny_evolution.sample(SPACE, learning_rate=.5)
  first, found = train(learner(made), rounds=1)
  both, more = train(learner(made))
  better = more[1].quality >= found[0].quality
  wanted = both.params if better else first.params
  assert trees.digests(both.best_params) == trees.digests(wanted)
  assert both.best_score == max(m.score for m in more) and both.improved


def test_a_child_must_reach_its_parents_score():
  made = tiny_evolution.sample(SPACE)
  state, found = train(learner(made, start=1.01))
  assert not state.improved and not any(m.taken for m in found)
  equal, found = train(learner(made, start=found[0].score), rounds=1)
  assert equal.improved and found[0].taken  # >=
  half, found = train(learner(made, factor=.5), rounds=1)
  assert half.best_score == np.float32(found[0].quality) * np.float32(.5)


def test_a_component_without_a_place_is_refused():
  made = tiny_evolution.sample(SPACE)
  with pytest.raises(RuntimeError, match='has encoderblock_1, for which'):
    learner(made, layers=1)


def test_nan_is_never_taken():
  made = tiny_evolution.sample(SPACE)
  bad = learner(made)
  bad.params['embedding'] = jax.tree.map(lambda x: x + np.float32(np.nan),
                                         bad.params['embedding'])
  state, found = train(bad)
  assert not state.improved and found[0].quality == found[0].score == -1


def stacked():
  makes = [tiny_evolution.sample(SPACE, learning_rate=rate, seed=i)
           for i, rate in enumerate((.02, .1, .02, .1, .5, .5, .01, .01))]
  return makes, parallel.split_tasks(jax.tree.map(
      lambda *x: np.stack(x), *map(learner, makes)))


@pytest.mark.parametrize('together', [
    pytest.param(False, marks=pytest.mark.slow), True])
def test_a_generation_at_once_equals_child_by_child(together):
  makes, states = stacked()
  run = parallel.over_children(training.make_round(NETWORK.parts.apply),
                               together)
  states, found = train(states, run=run)
  for i, made in enumerate(makes[:3]):
    alone, measured = train(learner(made))
    own = jax.tree.map(lambda x: np.asarray(x)[i, 0], states)
    for name, leaf in trees.flatten(alone.best_params).items():
      np.testing.assert_allclose(trees.flatten(own.best_params)[name], leaf,
                                 rtol=1e-3, atol=1e-5)
    assert [float(m.quality[i, 0]) for m in found] == pytest.approx(
        [float(m.quality) for m in measured], abs=.06)
