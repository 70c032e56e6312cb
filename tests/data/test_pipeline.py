"""The pipeline: exact geometry, one executable, the same bits every way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.data import pipeline
from mtl_jax.data import transforms

SMALL = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8)
NOISE = np.random.RandomState(7).randint(0, 256, (5, 12, 12, 3), np.uint8)


def run(spec, images, **options):
  return np.asarray(pipeline.apply(
      transforms.kinds(spec), pipeline.parameters(spec, images.shape[1:]),
      images, **options))


def pixels(spec, images):
  return pipeline.prepare(spec, images, every=True)[0]


def grey(image):
  return image[None, :, :, None]


def test_permutation_is_numpys_and_bijective():
  index, = (p['index'] for p in pipeline.parameters(
      (transforms.permute(5),), (28, 28, 1)))
  np.testing.assert_array_equal(
      index, np.random.RandomState(5).permutation(784))
  assert index.dtype == np.int32
  np.testing.assert_array_equal(np.sort(index), np.arange(784))


def test_permutation_moves_whole_pixels():
  order = np.random.RandomState(1).permutation(4)
  image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
  expected = image.reshape(4, 3)[order].reshape(1, 2, 2, 3)
  np.testing.assert_array_equal(
      pixels((transforms.permute(1),), image), expected)


@pytest.mark.parametrize('turns', [0, 1, 2, 3, 4, -1])
@pytest.mark.parametrize('size', [3, 12])
def test_quarter_turns_are_exact_and_counter_clockwise(turns, size):
  image = SMALL if size == 3 else NOISE[0, :, :, 0]
  turned = pixels((transforms.rotate(90 * turns),), grey(image))
  np.testing.assert_array_equal(turned[0, :, :, 0], np.rot90(image, turns))


def test_rotation_by_45_degrees_by_hand():
  image = np.zeros((3, 3), np.uint8)
  image[1, 2] = 200  # one pixel right of the centre goes up and left
  turned = pixels((transforms.rotate(45),), grey(image))[0, :, :, 0]
  s = np.sqrt(0.5)
  # (0, 2) samples the source at (1, 1 + 2 s): 2 s - 1 beyond the pixel.
  assert turned[0, 2] == round(200 * (2 - 2 * s))
  # (0, 1) samples (1 - s, 1 + s), and (1, 2) samples (1 + s, 1 + s).
  assert turned[0, 1] == turned[1, 2] == round(200 * (1 - s) * s)
  assert turned[1, 1] == turned[2, 0] == turned[0, 0] == 0


def test_rotation_agrees_with_pillow_inside():
  image_lib = pytest.importorskip('PIL.Image')
  smooth = np.zeros((28, 28), np.uint8)
  smooth[8:20, 8:20] = (np.arange(144).reshape(12, 12) * 1.5).astype(np.uint8)
  for degrees in (10, 37, 120, 350):
    expected = np.asarray(image_lib.fromarray(smooth).rotate(
        degrees, image_lib.Resampling.BILINEAR)).astype(int)
    turned = pixels((transforms.rotate(degrees),), grey(smooth))[0, :, :, 0]
    assert np.abs(turned - expected).max() <= 1


@pytest.mark.parametrize('shape', [(28, 28), (32, 20), (5, 7)])
def test_nearest_rotation_is_pillows_pixel_for_pixel(shape):
  """And so what SupSup's RotatedMNIST shows."""
  image_lib = pytest.importorskip('PIL.Image')
  image = np.random.RandomState(0).randint(1, 256, shape).astype(np.uint8)
  for degrees in (*range(0, 360, 5), 1, 33.3, -20, 400):
    turned = pixels((transforms.rotate(degrees, 'nearest'),), grey(image))
    np.testing.assert_array_equal(
        turned[0, :, :, 0],
        np.asarray(image_lib.fromarray(image).rotate(degrees)), str(degrees))


def test_rotation_keeps_a_wide_image_s_shape():
  image = np.arange(15, dtype=np.uint8).reshape(1, 3, 5, 1)
  turned = pixels((transforms.rotate(180),), image)
  np.testing.assert_array_equal(turned, image[:, ::-1, ::-1])


@pytest.mark.parametrize('channel, expected', [(0, 76), (1, 150), (2, 29)])
def test_fit_makes_grey_by_luminance(channel, expected):
  image = np.zeros((1, 2, 2, 3), np.uint8)
  image[..., channel] = 255  # 0.299, 0.587 and 0.114 times 255
  assert (pixels((transforms.fit(2, 2, 1),), image) == expected).all()


def test_fit_makes_grey_exactly_as_pillow():
  image_lib = pytest.importorskip('PIL.Image')
  expected = np.asarray(image_lib.fromarray(NOISE[0]).convert('L'))
  np.testing.assert_array_equal(
      pixels((transforms.fit(12, 12, 1),), NOISE)[0, :, :, 0], expected)


def test_fit_repeats_grey():
  np.testing.assert_array_equal(
      pixels((transforms.fit(3, 3, 3),), grey(SMALL)),
      np.repeat(grey(SMALL), 3, -1))


def test_fit_resizes():
  image = np.array([[0, 100], [200, 40]], np.uint8)
  assert pixels((transforms.fit(1, 1, 1),), grey(image)).item() == 85
  bigger = pixels((transforms.fit(1, 4, 1),), grey(image[:1]))
  assert bigger.ravel().tolist() == [0, 25, 75, 100]
  for value in (0, 255):
    flat = np.full((1, 105, 105, 3), value, np.uint8)
    assert (pixels((transforms.fit(28, 31, 3),), flat) == value).all()


def test_fit_agrees_with_pillow():
  image_lib = pytest.importorskip('PIL.Image')
  image = np.random.RandomState(0).randint(0, 256, (105, 90, 3), np.uint8)
  expected = np.asarray(image_lib.fromarray(image).resize(
      (28, 32), image_lib.Resampling.BILINEAR)).astype(int)
  assert np.abs(pixels((transforms.fit(32, 28, 3),), image[None])[0]
                - expected).max() <= 2


def test_pixels_become_floats_in_unit_range():
  result = run((), np.array([0, 51, 255], np.uint8).reshape(1, 1, 3, 1))
  assert result.dtype == np.float32
  np.testing.assert_allclose(result.ravel(), [0, 0.2, 1], rtol=1e-7)
  assert result.min() == 0 and result.max() == 1


def test_normalise_per_channel():
  image = np.array([0, 255, 51], np.uint8).reshape(1, 1, 1, 3)
  result = run((transforms.normalise((0, 0.5, 0.2), (1, 0.25, 3)),), image)
  np.testing.assert_allclose(result.ravel(), [0, 2, 0], atol=1e-7)


def test_crop_flip_acts_only_in_training():
  spec = (transforms.crop_flip(2),)
  np.testing.assert_array_equal(run(spec, NOISE), run((), NOISE))
  changed = run(spec, NOISE, key=jax.random.key(0), train=True)
  assert (changed != run((), NOISE)).any()
  with pytest.raises(ValueError, match='crop_flip needs a key'):
    run(spec, NOISE, train=True)


def test_crop_flip_gives_exactly_the_crops_of_the_padded_image():
  spec, n = (transforms.crop_flip(1),), 400
  images = np.repeat(grey(SMALL), n, 0)
  padded = np.pad(SMALL, 1)
  allowed = {c[:, ::f].tobytes() for y in range(3) for x in range(3)
             for c in [padded[y:y + 3, x:x + 3]] for f in (1, -1)}
  result = run(spec, images, key=jax.random.key(1), train=True)
  found = {np.rint(r * 255).astype(np.uint8).tobytes() for r in result}
  assert found == allowed and len(allowed) == 18


def test_order_is_kept():
  one = (transforms.permute(1), transforms.rotate(90))
  other = one[::-1]
  by_hand = pixels(one[1:], pixels(one[:1], NOISE))
  np.testing.assert_array_equal(pixels(one, NOISE), by_hand)
  assert (pixels(one, NOISE) != pixels(other, NOISE)).any()


def task(seed):
  return (transforms.fit(10, 10, 1), transforms.crop_flip(2),
          transforms.rotate(7.0 * seed), transforms.permute(seed),
          transforms.normalise(0.1 * seed, 0.5))


def test_tasks_share_one_executable():
  traces = []

  @jax.jit
  def step(parameters, images, key):
    traces.append(1)
    return pipeline.apply(kinds, parameters, images, key, train=True)
  kinds = transforms.kinds(task(0))
  for seed in range(4):
    assert transforms.kinds(task(seed)) == kinds
    assert hash(transforms.kinds(task(seed))) == hash(kinds)
    step(pipeline.parameters(task(seed), (12, 12, 3)), NOISE,
         jax.random.key(seed))
  assert len(traces) == 1


def test_vmapped_scanned_and_looped_give_the_same_bits():
  kinds = transforms.kinds(task(0))
  tasks = [pipeline.parameters(task(s), (12, 12, 3)) for s in range(3)]
  stacked = jax.tree.map(lambda *a: jnp.stack(a), *tasks)
  images = jnp.stack([jnp.asarray(NOISE), jnp.asarray(NOISE[::-1]),
                      jnp.asarray(255 - NOISE)])
  keys = jax.random.split(jax.random.key(0), 3)

  def one(parameters, images, key):
    return pipeline.apply(kinds, parameters, images, key, train=True)
  looped = [one(p, i, k) for p, i, k in zip(tasks, images, keys)]
  vmapped = jax.jit(jax.vmap(one))(stacked, images, keys)
  _, scanned = jax.lax.scan(lambda c, x: (c, one(*x)), 0,
                            (stacked, images, keys))
  for i in range(3):
    assert looped[i].shape == (5, 10, 10, 1)
    np.testing.assert_array_equal(vmapped[i], looped[i])
    np.testing.assert_array_equal(scanned[i], looped[i])


def test_prepare_then_apply_equals_apply():
  spec = (transforms.fit(7, 9, 1), *task(3)[2:])
  ready, rest = pipeline.prepare(spec, NOISE)
  assert ready.shape == (5, 7, 9, 1) and rest == spec[1:]
  np.testing.assert_array_equal(run(rest, ready), run(spec, NOISE))
  untouched, rest = pipeline.prepare(spec[1:], NOISE)
  assert untouched is NOISE and rest == spec[1:]


def test_output_shape():
  assert pipeline.output_shape(transforms.kinds(task(0)), (12, 12, 3)) == (
      10, 10, 1)


@pytest.mark.parametrize('make, message', [
    (lambda: run((transforms.normalise((0, 0), (1, 1)),), NOISE),
     'normalise: mean has 2 values'),
    (lambda: run((transforms.fit(2, 2, 1),), NOISE[..., :2]), 'fit.*channels'),
    (lambda: run((), NOISE.astype(np.float32)), 'uint8'),
    (lambda: run((), NOISE[0]), 'uint8 .n, H, W, C.'),
    (lambda: pipeline.apply((('permute',),), ({'index': np.arange(5)},),
                            NOISE), 'permute: parameters are .5.'),
    (lambda: pipeline.apply((('permute',),), (), NOISE), '1 transforms'),
])
def test_bad_input_names_the_transform(make, message):
  with pytest.raises(ValueError, match=message):
    make()
