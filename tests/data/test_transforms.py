"""Transforms: what each takes, and their JSON."""

import json

import pytest

from mtl_jax.data import transforms


def task(seed):
  return (transforms.fit(10, 10, 1), transforms.crop_flip(2),
          transforms.rotate(7.0 * seed), transforms.permute(seed),
          transforms.normalise(0.1 * seed, 0.5))


def test_json_round_trip_through_text():
  spec = task(3)
  text = json.dumps(transforms.to_json(spec), sort_keys=True)
  assert transforms.from_json(text) == spec
  assert transforms.from_json(json.loads(text)) == spec
  assert hash(transforms.from_json(text)) == hash(spec)


@pytest.mark.parametrize('value, message', [
    ([['premute', {'seed': 1}]], "unknown transform 'premute'.*permute"),
    ([['permute', {'sede': 1}]], "'permute' takes .*seed"),
    ([['permute', {'seed': 1, 'more': 2}]], 'more'),
])
def test_bad_json_is_refused(value, message):
  with pytest.raises(ValueError, match=message):
    transforms.from_json(value)


@pytest.mark.parametrize('make, message', [
    (lambda: transforms.permute(-1), 'permute: seed -1'),
    (lambda: transforms.rotate(float('nan')), 'rotate'),
    (lambda: transforms.rotate(9, 'cubic'), "interpolation is 'cubic'; known: "
     'bilinear, nearest'),
    (lambda: transforms.fit(2, 2, 4), 'fit'),
    (lambda: transforms.normalise(0, 0), 'normalise'),
    (lambda: transforms.normalise((0, 0), 1), 'normalise'),
    (lambda: transforms.crop_flip(-1), 'crop_flip'),
    (lambda: transforms.kinds((transforms.normalise(0, 1),
                               transforms.permute(0))), 'last'),
])
def test_bad_input_names_the_transform(make, message):
  with pytest.raises(ValueError, match=message):
    make()
