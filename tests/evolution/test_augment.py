"""Augmentation of the search: what every draw may and must do."""

import jax
import numpy as np
import pytest
import tiny_evolution

from mtl_jax.evolution import augment

NOTHING = tiny_evolution.NOTHING


def pictures(n=64, channels=3):
  return np.random.RandomState(0).uniform(-1, 1, (n, 8, 8, channels)).astype(
      np.float32)


def augmented(images=None, seed=0, **how):
  images = pictures() if images is None else images
  return np.asarray(jax.jit(augment.apply)(
      augment.of(NOTHING | how), jax.random.key(seed), images))


def test_nothing_asked_nothing_done():
  np.testing.assert_allclose(augmented(), pictures(), atol=1e-5)
  np.testing.assert_allclose(augmented(crop=1), pictures(), atol=1e-5)
  np.testing.assert_allclose(augmented(area_min=.1), pictures(), atol=1e-5)


def test_half_of_the_images_are_flipped():
  found = augmented(flip=1)
  same = np.abs(found - pictures()).max((1, 2, 3)) < 1e-4
  turned = np.abs(found - pictures()[:, :, ::-1]).max((1, 2, 3)) < 1e-4
  assert np.all(same | turned) and 15 < turned.sum() < 49


def test_boxes_keep_area_and_aspect():
  how = augment.of(NOTHING | dict(crop=1, area_min=.1, aspect_min=.5))
  top, left, tall, broad = map(np.asarray, augment.boxes(
      how, jax.random.key(0), 4000))
  area, aspect = tall * broad, broad / tall
  assert area.min() >= .1 - 1e-4 and area.max() <= 1 + 1e-5
  assert .1 < area.min() < .15 and area.max() > .8
  assert aspect.min() >= .5 - 1e-3 and aspect.max() <= 2 + 1e-3
  assert aspect.min() < .55 and aspect.max() > 1.9
  assert np.all(top >= 0) and np.all(top + tall <= 1 + 1e-5)
  assert np.all(left >= 0) and np.all(left + broad <= 1 + 1e-5)
  assert left.max() > .4


@pytest.mark.parametrize('area, aspect', [(.5, .25), (.95, .5), (.95, .25)])
def test_crops_take_the_aspect_ratios_that_fit(area, aspect):
  """As drawing again until one fits, and not the whole image instead."""
  how = augment.of(NOTHING | dict(crop=1, area_min=area, aspect_min=aspect))
  _, _, tall, broad = map(np.asarray, augment.boxes(
      how, jax.random.key(0), 4000))
  assert np.mean((tall == 1) & (broad == 1)) < .01
  assert (tall * broad).min() >= area - 1e-4
  ratio = np.sort(broad / tall)
  drawn = np.random.RandomState(0).uniform(aspect, 1 / aspect, 100_000)
  fits = np.sort(drawn[(drawn >= area) & (drawn <= 1 / area)])
  np.testing.assert_allclose(np.quantile(ratio, [.1, .5, .9]),
                             np.quantile(fits, [.1, .5, .9]), rtol=.03)


def test_a_crop_shows_a_part_of_the_image():
  """A ramp from left to right stays a ramp, with a smaller range."""
  ramp = np.broadcast_to(np.linspace(-1, 1, 8, dtype=np.float32)[
      None, None, :, None], (64, 8, 8, 3))
  found = augmented(ramp, crop=1, area_min=.05)
  steps_ = np.diff(found, axis=2)
  assert np.all(steps_ > -1e-5) and np.all(np.ptp(found, axis=1) < 1e-5)
  spans = found[:, 0, -1, 0] - found[:, 0, 0, 0]
  assert spans.min() < 1 and spans.max() < 2


@pytest.mark.parametrize('name', ['brightness', 'contrast', 'saturation',
                                  'hue'])
def test_colours_move_within_their_delta(name):
  images = pictures() * .5
  found = augmented(images, **{name: .2})
  assert np.abs(found - images).max() > .01
  mean = lambda x: x.mean((1, 2))
  if name == 'brightness':
    shift = mean(found) - mean(images)
    assert np.ptp(shift, axis=1).max() < 1e-4
    assert .15 < np.abs(shift).max() < .2 + 1e-4
  elif name == 'contrast':
    np.testing.assert_allclose(mean(found), mean(images), atol=1e-4)
    factor = found.std((1, 2, 3)) / images.std((1, 2, 3))
    assert .8 - .02 < factor.min() < .9 and 1.1 < factor.max() < 1.22
  else:
    np.testing.assert_allclose(found.max(-1), images.max(-1), atol=1e-4)
    if name == 'hue':
      np.testing.assert_allclose(found.min(-1), images.min(-1), atol=1e-4)


def test_grey_images_have_no_colour_to_change():
  grey = np.repeat(pictures(channels=1), 3, -1)
  np.testing.assert_allclose(augmented(grey, saturation=.2, hue=.2), grey,
                             atol=1e-5)
  one = augmented(pictures(channels=1), hue=.2, brightness=.1)
  assert one.shape == (64, 8, 8, 1)


def test_every_image_draws_its_own_and_every_key_others():
  images = np.repeat(pictures(1), 8, 0)
  found = augmented(images, crop=1, area_min=.05)
  assert len({x.tobytes() for x in found}) == 8
  assert np.any(found != augmented(images, seed=1, crop=1, area_min=.05))
