"""Merged tasks are what their definition says, and say what is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax import masks
from mtl_jax import trees
from mtl_jax.serving import merging
from mtl_jax.serving import verification
from mtl_jax.storage import checkpoint

PAIR = ['permuted-00', 'permuted-01']


@pytest.fixture(name='system')
def _system(tmp_path):
  return mtl_jax.load(tiny.learned(tmp_path / 'run', 'few'))


def params(system, task):
  return system.effective(system.task(task))[0]


def assert_sound(system, count):
  found = verification.check(mtl_jax.load(system.workdir.root))
  assert found == verification.Result(count, [], [])


def test_masks_are_united_and_intersected(system):
  bits = tiny.bits(system.workdir.root)
  one, other = (system.task(task).impression.masks for task in PAIR)
  for how, by in (('union', masks.union), ('intersection',
                                           masks.intersection)):
    merged = system.merge(PAIR, how=how, name=how)
    jax.tree.map(np.testing.assert_array_equal,
                 system.task(how).impression.masks, by(one, other))
    assert [text.split(':')[0] for text in merged.lost] == PAIR
    gone = int(sum(np.sum(a & ~b) for a, b in zip(*map(
        jax.tree.leaves, (one, other)))))
    said = f'{gone if how == "intersection" else 0:,} of its weights are gone'
    assert said in merged.lost[0]
  assert 'its transforms are replaced by those of permuted-00' in merged.lost[1]
  assert 'transforms' not in merged.lost[0]
  assert str(merged).startswith('intersection:\n  permuted-00: ')
  assert bits.items() < tiny.bits(system.workdir.root).items()
  assert_sound(system, 5)


def test_masks_are_combined_and_stay(system):
  system.merge(PAIR, [.75, -.5], name='mix')
  one, other = (params(system, task) for task in PAIR)
  jax.tree.map(lambda found, a, b: np.testing.assert_allclose(
      found, .75 * a - .5 * b, atol=1e-6), params(system, 'mix'), one, other)
  assert system.parameters('mix').own == 6  # two numbers a layer
  with pytest.raises(ValueError, match='permuted-01 stays: mix relies'):
    system.delete('permuted-01')
  assert_sound(system, 4)
  system.delete('mix')
  assert_sound(system, 3)


def test_a_merged_task_says_what_it_takes_and_nothing_of_a_training(system):
  first = system.metadata('permuted-00')['record']
  assert first['data'] and first['batch_size'] == 16
  system.merge(PAIR, how='union', name='union')
  system.merge(['permuted-00', 'permuted-12'], name='mean')
  system.merge(['permuted-00', 'permuted-12'], name='again')  # refers to it
  for name in ('union', 'mean', 'again'):
    record = system.metadata(name)['record']
    arrays, metadata = checkpoint.load(system.workdir.task(name))
    stored = {leaf: array.nbytes for leaf, array in arrays.items()
              if leaf != 'probe'}
    assert record['bytes']['total'] == sum(stored.values())
    masked = system.task(name).impression.masks or {}
    assert record['density'] == {
        leaf: round(float(np.mean(m)), 6) for leaf, m in trees.flatten(
            masked).items() if m is not None}
    assert record['kept'] == (round(float(masks.density(masked)), 6)
                              if masked else None)
    assert not {'validation', 'data', 'batch_size'} & set(record)
    assert set(record['bytes']) >= {'masks', 'values', 'dedicated'}
  assert metadata['references'] and record['bytes']['referenced'] == (
      trees.nbytes(system.task('again').impression.values)
      - record['bytes']['values'])


def test_coefficients_over_one_basis_are_combined(system):
  system.rename('permuted-12', 'a')
  tiny.learn(tiny.make('few'), system.workdir.root)  # the same again
  found = mtl_jax.load(system.workdir.root)
  found.merge(['a', 'permuted-12'], [2., 1.], name='three')
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, 3 * y, rtol=1e-6),
               found.task('three').impression.coefficients,
               found.task('a').impression.coefficients)
  assert found.parameters('three').own == 3
  assert_sound(found, 5)


def test_networks_of_other_kinds_are_averaged(system):
  merged = system.merge(['permuted-00', 'permuted-12'])
  assert merged.name == 'permuted-00-and-permuted-12'
  jax.tree.map(lambda found, a, b: np.testing.assert_allclose(
      found, (a + b) / 2, atol=1e-7), params(system, merged.name),
      params(system, 'permuted-00'), params(system, 'permuted-12'))
  with pytest.raises(ValueError, match=r'only masks, but not all of these did: '
                                       r'.*permuted-12 \(impresslearn\)'):
    system.merge(['permuted-00', 'permuted-12'], how='union', name='no')
  assert_sound(system, 4)


def test_a_weighted_mean_of_networks_has_weights_that_sum_to_one(system):
  one, other = (params(system, task) for task in ('permuted-00', 'permuted-12'))
  system.merge(['permuted-00', 'permuted-12'], [3., 1.], name='mean')
  jax.tree.map(lambda found, a, b: np.testing.assert_allclose(
      found, .75 * a + .25 * b, atol=1e-6), params(system, 'mean'), one, other)


def test_the_order_of_a_basis_is_kept_in_a_mixed_batch(system):
  """Two merges of one pair of masks, in both orders, are two networks."""
  system.merge(PAIR, [.9, .1], name='first')
  system.merge(PAIR[::-1], [.9, .1], name='last')
  x = system.probe('digits')[:8]
  found = np.asarray(system.predict_mixed(x, ['first', 'last'] * 4))
  for k, name in enumerate(('first', 'last')):
    np.testing.assert_allclose(
        found[k::2], np.asarray(system.predict(x, task=name))[k::2], rtol=1e-5,
        atol=1e-5)


def test_two_calls_at_once_do_not_take_one_name(system, monkeypatch):
  """What was checked holds until the new task is stored."""
  other, real = mtl_jax.load(system.workdir.root), merging._combined

  def meanwhile(*given):
    with pytest.raises(ValueError, match='another thread'):
      other.merge(PAIR, name='mix')
    return real(*given)
  monkeypatch.setattr(merging, '_combined', meanwhile)
  system.merge(PAIR, name='mix')
  assert_sound(system, 4)


def test_a_merge_travels(system, tmp_path):
  system.merge(PAIR, name='mix')
  path = system.export('mix', tmp_path / 'mix', with_basis=True)
  x = system.probe('digits')
  np.testing.assert_array_equal(mtl_jax.load(path).predict(x, task='mix'),
                                system.predict(x, task='mix'))


@pytest.mark.parametrize('tasks, options, text', [
    (PAIR[:1], {}, 'name two different ones or more'),
    (PAIR[:1] * 2, {}, 'name two different ones or more'),
    ('permuted-00', {}, 'give a list of their names'),
    (PAIR, {'how': 'unoin'}, 'did you mean: union'),
    (PAIR, {'weights': [1.]}, 'a finite number per task'),
    (PAIR, {'weights': [1., np.nan]}, 'a finite number per task'),
    (PAIR, {'weights': [1., -1.]}, 'whose sum is not 0'),
    (PAIR, {'weights': [1., 1.], 'how': 'union'}, 'nothing else takes any'),
    (PAIR, {'name': '../x'}, 'a name has letters'),
    (PAIR, {'name': 'permuted-12'}, 'there is a task permuted-12 already')])
def test_what_cannot_be_merged(system, tasks, options, text):
  with pytest.raises(ValueError, match=text):
    system.merge(tasks, **options)
  assert len(system) == 3


def test_tasks_of_other_classes_cannot_be_one(system, monkeypatch):
  stored = system.task('permuted-01')
  monkeypatch.setattr(system, 'task', lambda name: stored._replace(
      name=name, classes=10 if name == PAIR[0] else 7))
  with pytest.raises(ValueError, match=r'have other classes \(10 and 7\)'):
    system.merge(PAIR)


def test_masks_without_a_common_weight_are_refused(system, monkeypatch):
  stored = system.task('permuted-01')
  like = stored.impression.masks
  monkeypatch.setattr(system, 'task', lambda name: stored._replace(
      name=name, impression=stored.impression._replace(masks=jax.tree.map(
          lambda m: jnp.full(m.shape, name == PAIR[0]), like))))
  with pytest.raises(ValueError, match='keeps no weight of Dense_0/kernel'):
    system.merge(PAIR, how='intersection')
