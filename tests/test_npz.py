"""An archive of arrays is read as it was written, or not at all."""

import numpy as np
import pytest

from mtl_jax.commands import inputs
from mtl_jax.data import cache
from mtl_jax.storage import weights

# More than what NumPy and zipfile read at once.
IMAGES = np.random.RandomState(0).randint(0, 256, (300, 32, 32, 1), np.uint8)


def begin_earlier(path):
  """Says that the numbers begin 16 bytes earlier, in the header's padding."""
  content = bytearray(path.read_bytes())
  at = content.index(b'\x93NUMPY') + 8
  assert content[at] & 16
  content[at] ^= 16
  path.write_bytes(content)
  with np.load(path) as found:  # NumPy doesn't see it
    assert found['images'].shape == IMAGES.shape
    assert not np.array_equal(found['images'], IMAGES)


@pytest.mark.parametrize('read', [
    weights.read, lambda path: inputs.read([path], (32, 32, 1), 'uint8')])
def test_numbers_that_begin_elsewhere_are_refused(tmp_path, read):
  path = tmp_path / 'a.npz'
  np.savez(path, images=IMAGES)
  read(path)
  begin_earlier(path)
  with pytest.raises(ValueError, match='images.npy was changed since it was '
                     r"written \(its CRC-32 differs"):
    read(path)


def test_a_cache_of_such_images_is_decoded_again(tmp_path):
  decode = lambda: (IMAGES, np.arange(300, dtype=np.int32), 300)
  fetch = lambda: cache.fetch('mine', '1', 'test', decode, tmp_path)[0]
  fetch()
  begin_earlier(cache.path('mine', '1', 'test', tmp_path))
  assert np.array_equal(fetch(), IMAGES)
