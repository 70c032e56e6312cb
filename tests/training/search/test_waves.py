"""On an accelerator, a search trains as many children at once as fit."""

import jax
import pytest
import tiny_search as little

from mtl_jax.training import sizing
from mtl_jax.training.search import iteration
from mtl_jax.training.search import waves

DEVICES = jax.device_count()


def _linear(asked, constant=100, each=10):
  def need(count):
    asked.append(count)
    return constant + each * count
  return need


@pytest.mark.parametrize('available, wanted', [
    (10 ** 9, 8), (180, 8), (179, 4), (140, 4), (139, 2), (110, 1)])
def test_the_largest_number_that_fits(available, wanted):
  asked = []
  assert waves.largest(8, _linear(asked), available, 'p') == wanted
  assert asked[0] == 8 and len(asked) <= 4


def test_a_whole_generation_where_no_memory_is_known():
  assert waves.largest(8, _linear([]), None, 'p') == 8
  assert waves.largest(8, lambda _: None, 5, 'p') == 8


def test_a_child_that_does_not_fit_is_refused_with_remedies():
  with pytest.raises(ValueError, match='phase grow: training one child needs '
                     'about 3.0 MB .* which has 2.0 MB for it; give a smaller '
                     'batch_size, suite.image_shape or backbone'):
    waves.largest(4, lambda _: 3_000_000, 2_000_000, 'grow')


@pytest.mark.slow
def test_a_search_trains_what_fits(tmp_path, monkeypatch):
  """The compiled round says what a child needs; half of that is refused."""
  monkeypatch.setattr(waves, 'one_by_one', lambda: False)
  needs, chosen = {}, []
  need, wave = iteration._TaskIteration._need, iteration._TaskIteration._wave

  def measured(self, state, child, images, each):
    needs[each] = need(self, state, child, images, each)
    return needs[each]

  def kept(self, *args):
    chosen.append(wave(self, *args))
    return chosen[-1]
  monkeypatch.setattr(iteration._TaskIteration, '_need', measured)
  monkeypatch.setattr(iteration._TaskIteration, '_wave', kept)
  config = little.make(phases__grow__tasks=(0, 1), phases__grow__search=dict(
      space='mu2net_ti0', generations=1, children=4 * DEVICES, validations=1,
      valid_cap=32))
  monkeypatch.setattr(sizing, 'limit', lambda: 10 ** 12)
  little.learn(config, tmp_path / 'all')
  assert chosen == [(4 * DEVICES, True)] and set(needs) == {4}
  monkeypatch.setattr(sizing, 'limit', lambda: needs[4] - 1)
  little.learn(config, tmp_path / 'some')
  assert chosen[1] == (2 * DEVICES, True) and needs[2] < needs[4]
  names = []
  for run in ('all', 'some'):
    record, = little.records(tmp_path / run).values()
    names.append([line['path'] for line in record['search']['children']])
  assert names[0] == names[1] and len(names[0]) == 4 * DEVICES
  monkeypatch.setattr(sizing, 'limit', lambda: needs[2] // 10)
  with pytest.raises(ValueError, match='phase grow: training one child needs'):
    little.learn(config, tmp_path / 'none')
