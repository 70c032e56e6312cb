"""A user's `JAX_NUMPY_DTYPE_PROMOTION=strict`, from training to predicting."""

import jax
import numpy as np
import pytest
import tiny
import tiny_banks as banks

import mtl_jax
from mtl_jax import models
from mtl_jax.data import sources
from mtl_jax.inference import identify
from mtl_jax.models import mlp


@pytest.fixture
def strict():
  models.register('small', lambda outputs: models.from_linen(
      lambda **_: mlp.MLP((16, outputs))))
  before = jax.config.jax_numpy_dtype_promotion
  jax.config.update('jax_numpy_dtype_promotion', 'strict')
  yield
  jax.config.update('jax_numpy_dtype_promotion', before)


def check(config, folder):
  """Runs, and predicts by name, by inference and mixed."""
  assert tiny.learn(config, folder)['verified']['ok']
  system = mtl_jax.load(folder)
  name = next(iter(system.tasks))
  images = np.zeros((3, 8, 8, 1), np.uint8)
  logits = system.predict(images, task=name)
  assert logits.dtype == np.float32 and np.isfinite(logits).all()
  return system, name, images, logits


def test_a_run_is_trained_committed_and_predicted(strict, tmp_path):
  check(tiny.only('basis', backbone__model='small'), tmp_path / 'run')


@pytest.mark.slow
def test_coefficients_transfer_and_several_at_once(strict, tmp_path):
  system, name, images, logits = check(
      tiny.make(backbone__model='small'), tmp_path / 'run')
  mixed = system.predict_mixed(images, [name] * 3)
  np.testing.assert_allclose(mixed, logits, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['infer', 'stream'])
def test_inference_and_streams(strict, tmp_path, kind):
  config = tiny.make(kind)
  assert tiny.learn(config, tmp_path / 'run')['verified']['ok']
  system = mtl_jax.load(tmp_path / 'run')
  names = [name for name in system.tasks if '@' not in name
           and system.record(name)['bytes']['masks']]
  raw = sources.load('digits').test.images[:16]
  for rule in identify.RULES:
    found = system.identify(system.observe(raw, names[0]), rule, names=names)
    assert found.task in names


@pytest.mark.parametrize('rule, objective', [
    (rule, objective) for rule in identify.RULES
    for objective in identify.OBJECTIVES
    if (rule, objective) != ('brute_force', 'superfluous')])
def test_every_rule_and_objective(strict, rule, objective):
  loss = lambda params: identify.OBJECTIVES[objective](
      banks.logits_of(params), banks.EVERY, 2)
  found = banks.infer(rule, banks.bank_of(3), np.array([True, True, False]),
                      loss)
  assert int(found.task) in (0, 1)
  assert not identify.fits_no_task(found.gradient, np.ones(3, bool)).shape
