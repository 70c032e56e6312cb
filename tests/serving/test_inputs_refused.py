"""Images of another kind are refused with a remedy that works as it stands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax.data import repairs

TASK = 'permuted-00'
X = np.random.RandomState(0).randint(0, 256, (6, 8, 8, 1)).astype(np.uint8)
CALLS = {
    'predict': lambda s, x: s.predict(x, task=TASK),
    'predict_mixed': lambda s, x: s.predict_mixed(x, [TASK] * len(x)),
    'observe': lambda s, x: s.observe(x, TASK),
    'apply_fn': lambda s, x: (lambda f, p: f(p, x))(*s.apply_fn(TASK))}


class Lazy:
  """An array of another library, such as h5py's."""
  dtype, shape = X.dtype, X.shape

  def __len__(self):
    return len(X)

  def __getitem__(self, index):
    return X[index]

  def __array__(self, dtype=None, copy=None):
    return X


class Column:
  """A column of objects, such as a Series of pandas."""
  dtype, shape = np.dtype(object), (len(X),)

  def __len__(self):
    return len(X)

  def to_numpy(self):
    column = np.empty(len(X), object)
    column[:] = list(X)
    return column

  def __array__(self, dtype=None, copy=None):
    return self.to_numpy()


# What means the images X.
SAME = {
    'floats to 1': X / 255, 'floats to 255': X.astype(np.float32),
    'bfloat16': jnp.asarray(X, jnp.bfloat16), 'int64': X.astype(int),
    'a list of images': list(X), 'nested lists': X.tolist(),
    'floats in lists': (X / 255).tolist(), 'objects': X.astype(object),
    '16 bits': X.astype(np.uint16) * 257, 'grey': X[..., 0],
    'channels first': np.moveaxis(X, -1, 1), 'batches': X[None],
    'grey floats': jnp.asarray(X[..., 0]) / 255,
    'colours': np.repeat(X, 3, -1), 'colours to 1': np.repeat(X, 3, -1) / 255,
    'a column': Column()}
NONE = {
    'words': 'abc', 'nothing': None, 'a number': 3, 'a dict': {'x': X},
    'a generator': (row for row in X), 'a shape': jax.ShapeDtypeStruct(
        X.shape, np.uint8), 'texts': X.astype(str), 'NaN': X * np.nan,
    'below 0': X - 1., 'masked': np.ma.array(X, mask=X > 9), 'ragged': [
        X[0], X[0, :2]], 'too large': np.zeros((6, 9, 9, 1), np.uint8),
    'a key': jax.random.key(0), 'complex': X * 1j}


@pytest.fixture(name='system', scope='module')
def _system(tmp_path_factory):
  return mtl_jax.load(tiny.learned(
      tmp_path_factory.mktemp('inputs') / 'run', 'few'))


@pytest.mark.parametrize('call', CALLS)
@pytest.mark.parametrize('kind', SAME)
def test_a_remedy_works_as_it_stands(system, kind, call):
  with pytest.raises(ValueError, match='; give [^;]*$') as refused:
    CALLS[call](system, SAME[kind])
  remedy = str(refused.value).rpartition('; give ')[2]
  mended = eval(  # pylint: disable=eval-used
      remedy, {'x': SAME[kind], 'np': np})
  np.testing.assert_array_equal(mended, X)
  np.testing.assert_array_equal(CALLS[call](system, mended),
                                CALLS[call](system, X))


@pytest.mark.parametrize('call', CALLS)
@pytest.mark.parametrize('kind', NONE)
def test_what_nobody_can_read_is_refused(system, kind, call):
  given = NONE[kind]
  with pytest.raises(ValueError, match='give|fill'):
    system.predict_mixed(given, [TASK] * 6) if call == 'predict_mixed' else (
        CALLS[call](system, given))


@pytest.mark.parametrize('call', CALLS)
@pytest.mark.parametrize('given', [
    np.repeat(X, 2, 1)[:, ::2], np.asfortranarray(X), np.ma.array(X),
    jax.device_put(X, jax.devices()[-1]), Lazy()],
    ids=['strided', 'Fortran', 'unmasked', 'elsewhere', 'lazy'])
def test_arrays_of_other_layouts_are_the_same(system, given, call):
  np.testing.assert_array_equal(CALLS[call](system, given),
                                CALLS[call](system, X))


def test_a_single_image_of_any_form():
  for given in (X[0], X[0, ..., 0], X[:1, ..., 0] / 255):
    text = repairs.remedy(given, (8, 8, 1), 'uint8')
    np.testing.assert_array_equal(eval(  # pylint: disable=eval-used
        text.removeprefix('give '), {'x': given, 'np': np}), X[:1])


@pytest.mark.parametrize('given, dtype, text', [
    (np.ones((2, 3)), 'float32', 'give x.astype(np.float32)'),
    (np.ones((2, 3)), 'int32', 'give x.astype(np.int32)'),
    (np.full((2, 3), .5), 'int32', 'give whole numbers'),
    (np.ones(3, np.float32), 'float32', 'give x[None]')])
def test_rows_of_tables_and_tokens(given, dtype, text):
  assert repairs.remedy(given, (3,), dtype) == text
