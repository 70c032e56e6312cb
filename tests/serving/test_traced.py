"""A system inside functions that JAX traces, and arrays that were deleted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax.data import sources

TASK, OTHER = 'permuted-00', 'permuted-01'
MIXED = 'permuted-12'  # coefficients over a basis of two tasks
X = sources.load('digits').test.images[:4]
TRACED = {
    'jit': lambda f, x: jax.jit(f)(x),
    'scan': lambda f, x: jax.lax.scan(
        lambda seen, _: (seen, f(x)), 0, jnp.arange(1))[1][0],
    'checkpoint': lambda f, x: jax.checkpoint(f)(x),
    'vmap': lambda f, x: jax.vmap(lambda row: f(row[None])[0])(x),
    'grad': lambda f, x: jax.value_and_grad(
        lambda one: (one * f(x).sum(), f(x)), has_aux=True)(1.)[0][1]}
REFUSED = {
    'identify': lambda s, x: s.identify(x, names=[TASK, OTHER]),
    'predict_mixed': lambda s, x: s.predict_mixed(x, [TASK] * len(x)),
    'apply_fn': lambda s, x: s.apply_fn(TASK),
    'parameters': lambda s, x: s.parameters(TASK),
    'learn': lambda s, x: s.learn('digits', method='supsup', steps=1),
    'merge': lambda s, x: s.merge([TASK, OTHER]),
    'rename': lambda s, x: s.rename(TASK, 'a'),
    'delete': lambda s, x: s.delete(TASK),
    'load': lambda s, x: mtl_jax.load(s.workdir.root)}


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  return tiny.learned(tmp_path_factory.mktemp('run') / 'run', 'few')


@pytest.fixture(name='system', scope='module')
def _system(folder):
  return mtl_jax.load(folder)


@pytest.mark.parametrize('how', TRACED)
@pytest.mark.parametrize('task', [TASK, MIXED])
def test_a_task_that_is_first_read_while_jax_traces(folder, how, task):
  """Its arrays are those of the file, also for all later calls."""
  system = mtl_jax.load(folder)
  found = TRACED[how](lambda x: system.predict(x, task=task), jnp.asarray(X))
  wanted = mtl_jax.load(folder).predict(X, task=task)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(system.predict(X, task=task), wanted)
  np.testing.assert_allclose(system.predict_mixed(X, [task] * 4), wanted,
                             rtol=1e-4, atol=1e-5)
  assert not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(
      (system.task(task).impression, system.task(task).shared)))


@pytest.mark.parametrize('call', REFUSED)
def test_what_no_trace_can_hold_is_refused(system, call):
  before = tiny.files(system.workdir.root)
  for given in (lambda x: REFUSED[call](system, x),  # the images are traced
                lambda x: REFUSED[call](system, X)):
    with pytest.raises(ValueError, match='cannot be a part of a function that '
                                         'JAX traces.*call it before') as said:
      jax.jit(given)(X)
    assert '\n' not in str(said.value)
  assert tiny.files(system.workdir.root) == before


def test_the_remedy_works(system):
  apply, params = system.apply_fn(TASK)  # before
  np.testing.assert_array_equal(
      jax.jit(lambda x: apply(params, x))(X), system.predict(X, task=TASK))


@pytest.mark.parametrize('call', [
    lambda s, x: s.predict(x, task=TASK), lambda s, x: s.observe(x, TASK),
    REFUSED['predict_mixed'], REFUSED['identify']])
def test_deleted_images_are_named(system, call):
  x = jnp.asarray(X)
  x.delete()
  with pytest.raises(ValueError, match='needs was deleted.*still there'):
    call(system, x)


def test_deleted_arrays_of_a_system_are_named(folder):
  system = mtl_jax.load(folder)
  for leaf in jax.tree.leaves(system.task(TASK).impression):
    leaf.delete()
  with pytest.raises(ValueError, match='load the system again'):
    system.predict(X, task=TASK)
  assert mtl_jax.load(folder).predict(X, task=TASK).shape == (4, 10)  # remedy
