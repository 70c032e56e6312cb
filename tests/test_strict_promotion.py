"""A user's `JAX_NUMPY_DTYPE_PROMOTION=strict`, from training to predicting."""

import jax
import numpy as np
import pytest

import mtl_jax
import tiny
from mtl_jax import models
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
  system.predict(np.zeros((3, 8, 8, 1), np.uint8))
