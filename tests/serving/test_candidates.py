"""Stored tasks as candidates; `identify`, `observe` and `predict(x)`."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax.data import pipeline
from mtl_jax.data import sources
from mtl_jax.data import transforms
from mtl_jax.inference import identify
from mtl_jax.serving import candidates
from mtl_jax.storage import checkpoint

MASKED = ['permuted-00', 'permuted-01', 'permuted-02']
COMBINED = ['permuted-03', 'permuted-04']
EVERY = MASKED + COMBINED
HYBRID = ['permuted-04@hybrid', 'permuted-05@hybrid']
IMAGES = sources.load('digits').test.images[:32]


def gather(system, names):
  return candidates.gather(names, system.read_mask, system.shared,
                           system.backbone.params)


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  return tiny.learned(tmp_path_factory.mktemp('candidates') / 'run', 'infer')


@pytest.fixture(name='system', scope='module')
def _system(folder):
  return mtl_jax.load(folder)


def effective(system, name):
  """A task's mask as floats, however it is stored."""
  stored = system.task(name)
  own = stored.impression
  ones = jax.tree.map(jnp.ones_like, system.backbone.params)
  return impressions.materialise(
      ones, own._replace(stats=None), stored.shared.get('basis'))


def reference(system, names, images, objective, train=False):
  """d objective / d beliefs by JAX through a dense superposition."""
  bank = [effective(system, name) for name in names]
  x = pipeline.apply((('normalise',),), system.task(
      names[0]).parameters[-1:], images)

  def value(beliefs):
    mixed = jax.tree.map(lambda *m: sum(b * x for b, x in zip(beliefs, m)),
                         *bank)
    logits, _ = system.backbone.network.apply(
        masks.apply(system.backbone.params, mixed), system.backbone.stats, x,
        train=train)
    return identify.OBJECTIVES[objective](logits, np.ones(len(x), bool), 10)
  return jax.jit(jax.grad(value))(np.full(len(names), 1 / len(names),
                                          np.float32))


@pytest.mark.parametrize('names, objective', [
    (MASKED, 'entropy'), (COMBINED, 'entropy'), (HYBRID, 'superfluous'),
    (MASKED + COMBINED, 'superfluous'), (MASKED + HYBRID, 'entropy'),
    (['permuted-02'], 'entropy')])
def test_identify_is_the_gradient_of_a_dense_superposition(system, names,
                                                           objective):
  shown = system.observe(IMAGES, names[0])
  found = system.identify(shown, objective=objective, names=names)
  expected = np.asarray(reference(system, names, shown, objective))
  assert list(found.gradient) == names and found.passes == 1
  np.testing.assert_allclose(list(found.gradient.values()), expected,
                             rtol=1e-3, atol=1e-5)
  assert found.task == names[np.argmin(expected)]


@pytest.mark.parametrize('objective', ['entropy', 'superfluous'])
@pytest.mark.parametrize('rule', ['one_shot', 'binary'])
def test_clearly_trained_tasks_are_recognised(system, rule, objective):
  for name in MASKED:
    found = system.identify(system.observe(IMAGES, name), rule, objective,
                            names=MASKED[::-1])
    assert found.task == name
    assert found.passes == {'one_shot': 1, 'binary': 2}[rule]


def test_brute_force_is_the_entropy_of_every_tasks_outputs(system):
  for name in MASKED + COMBINED:
    shown = system.observe(IMAGES, name)
    found = system.identify(shown, 'brute_force', names=EVERY)
    assert list(found.gradient) == MASKED + COMBINED  # no control
    for other, value in found.gradient.items():
      stored = system.task(other)
      params = impressions.materialise(
          system.backbone.params, stored.impression,
          stored.shared.get('basis'))
      x = pipeline.apply((('normalise',),), stored.parameters[-1:], shown)
      logits, _ = system.backbone.network.apply(params, {}, x)
      p = np.asarray(jax.nn.softmax(logits), np.float64)
      np.testing.assert_allclose(value, -np.sum(p * np.log(p), 1).mean(),
                                 rtol=1e-4)
    assert found.task == min(found.gradient, key=found.gradient.get)


def test_predict_without_a_task_is_predict_of_the_task(system):
  for name in MASKED + COMBINED:
    shown = system.observe(IMAGES, name)
    assert shown.dtype == np.uint8 and shown.shape == IMAGES.shape
    assert not np.array_equal(shown, IMAGES)
    inferred = system.identify(shown, names=EVERY).task
    found = np.asarray(system.predict(shown, names=EVERY))
    if inferred == name:
      np.testing.assert_array_equal(found, system.predict(IMAGES, task=name))
    else:
      assert not np.array_equal(found, system.predict(IMAGES, task=name))
  assert system.identify(system.observe(IMAGES, 'permuted-01'),
                         names=EVERY
                         ).task == 'permuted-01'


def test_one_image_is_enough_to_ask(system):
  found = system.identify(system.observe(IMAGES[:1], 'permuted-01'),
                          names=EVERY)
  assert set(found.gradient) == set(MASKED + COMBINED)


@pytest.mark.slow
def test_norm_statistics_of_the_images_infer_and_the_tasks_predict(tmp_path):
  system = mtl_jax.load(tiny.learned(tmp_path / 'run', 'norm'))
  images = sources.load('blobs').test.images
  for name in system.tasks:
    shown = system.observe(images, name)
    found = system.identify(shown, names=system.tasks)
    expected = reference(system, list(found.gradient), shown, 'entropy', True)
    np.testing.assert_allclose(list(found.gradient.values()), expected,
                               rtol=1e-3, atol=1e-5)
    stored = system.task(found.task)
    params = impressions.materialise(system.backbone.params, stored.impression,
                                     stored.shared.get('basis'))
    x = pipeline.apply((('normalise',),), stored.parameters[-1:], shown)
    logits, _ = system.backbone.network.apply(params, stored.impression.stats,
                                              x)
    np.testing.assert_allclose(system.predict(shown, names=system.tasks),
                               logits, rtol=1e-4, atol=1e-4)
  with pytest.raises(ValueError, match='2 outputs, of which 2 are classes'):
    system.identify(images, objective='superfluous', names=system.tasks)


# The bank.


def test_gather_puts_masks_first_and_keeps_them_packed(system):
  names = [COMBINED[0], *MASKED, HYBRID[0]]
  with pytest.raises(ValueError, match='left masks of different leaves|left '
                                       'coefficients of different leaves'):
    gather(system, names)
  found = gather(system, [COMBINED[1], *MASKED[::-1], COMBINED[0]])
  assert found.names == (*MASKED[::-1], *COMBINED[::-1])
  assert found.classes == 10 and found.image_shapes == ((8, 8, 1),)
  assert [t.kind for t in found.transforms] == ['normalise']
  bank = found.bank
  assert bank.head is None
  assert {(x.dtype.name, x.shape) for x in jax.tree.leaves(bank.packed)} == {
      ('uint8', (3, 64 * 64 // 8)), ('uint8', (3, 64 * 30 // 8))}
  assert {x.shape for x in jax.tree.leaves(bank.coefficients)} == {(2, 3)}
  assert {x.dtype.name for x in jax.tree.leaves(bank.basis)} == {'bool'}
  own = system.task('permuted-02').impression.masks
  jax.tree.map(lambda m, bits: np.testing.assert_array_equal(
      np.packbits(np.asarray(m)), bits[0]), own, bank.packed)


@pytest.mark.parametrize('chosen', [
    ['permuted-01'], ['permuted-04'], ['permuted-02', 'permuted-00'],
    ['permuted-04', 'permuted-01', 'permuted-03']])
def test_a_subset_is_what_gather_gives(system, chosen):
  part = candidates.subset(gather(system, MASKED + COMBINED),
                           chosen)
  whole = gather(system, sorted(chosen))
  assert part.names == whole.names == tuple(sorted(chosen))
  assert jax.tree.structure(part.bank) == jax.tree.structure(whole.bank)
  jax.tree.map(np.testing.assert_array_equal, part.bank, whole.bank)


def test_a_subset_of_hybrids_keeps_their_heads(system):
  for names in (MASKED + HYBRID, HYBRID):
    part = candidates.subset(gather(system, names), HYBRID[1:])
    assert part.names == (HYBRID[1],)
    tasks = candidates.superposition(part.bank, system.backbone.params)
    jax.tree.map(np.testing.assert_allclose, tasks.mix(
        np.ones(1, np.float32)), effective(system, HYBRID[1]))


def test_normalised_coefficients_have_magnitudes_of_one(system):
  bank = gather(system, COMBINED).bank
  like = system.backbone.params
  plain, scaled = (candidates.superposition(bank, like, n).one(0)
                   for n in (False, True))
  alphas = system.task(COMBINED[0]).impression.coefficients
  jax.tree.map(lambda p, s, a: np.testing.assert_allclose(
      p, s * np.abs(a).sum(), rtol=1e-4), plain, scaled, alphas)
  assert not np.allclose(plain['Dense_0']['kernel'],
                         scaled['Dense_0']['kernel'])


def test_masks_have_no_coefficients_to_normalise(system):
  with pytest.raises(ValueError, match='but all candidates have masks'):
    system.identify(IMAGES[:3], names=MASKED, normalise=True)


# Refusals.


def changed(folder, tmp_path, name, change=lambda arrays: None, metadata=()):
  """A copy of the run in which one task is stored differently."""
  copy = shutil.copytree(folder, tmp_path / 'changed')
  path = copy / 'tasks' / name
  given = checkpoint.load_metadata(path) | dict(metadata)
  given['source_shape'] = list(given['source_shape'])
  tiny.rewrite(path, change, given)
  return mtl_jax.load(copy)


@pytest.mark.parametrize('rule', ['one_shot', 'binary', 'brute_force'])
def test_candidates_that_are_not_told_apart_are_refused(
    folder, tmp_path, rule):
  masks = checkpoint.load(folder / 'tasks' / MASKED[0])[0]
  system = changed(folder, tmp_path, MASKED[1], lambda arrays: arrays.update({
      name: a for name, a in masks.items() if name.startswith('masks/')}),
      checkpoint.load_metadata(folder / 'tasks' / MASKED[1]))
  with pytest.raises(ValueError, match='3 images cannot tell the 2 candidates '
                     'apart'):
    system.identify(IMAGES[:3], rule, names=MASKED[:2])
  assert system.identify(IMAGES[:3], rule, names=MASKED[:1]).task == MASKED[0]


def own_value(arrays):
  arrays['values/Dense_0/kernel'] = np.zeros((64, 64), np.float32)


def without_a_leaf(arrays):
  for part in ('masks', 'coefficients'):
    arrays.pop(f'{part}/Dense_1/kernel', None)


def not_a_number(arrays):
  arrays['coefficients/Dense_0/kernel'][1] = np.nan


@pytest.mark.parametrize('name, change, metadata, text', [
    ('permuted-01', own_value, {}, 'task permuted-01 left weights of its own'),
    ('permuted-04', without_a_leaf, {},
     'permuted-03 and permuted-04 left coefficients of different leaves'),
    ('permuted-01', None, {'backbone': 'another'},
     'task permuted-01 was made on the backbone another'),
    ('permuted-02', None, {'transforms': transforms.to_json(
        (transforms.permute(2), transforms.normalise(.1, .5)))},
     'permuted-00 and permuted-02 prepare their images differently'),
    ('permuted-04', None, {'relies_on': MASKED[::-1]},
     'permuted-03 and permuted-04 combine different bases')])
def test_tasks_that_cannot_be_superposed(folder, system, tmp_path, name,
                                         change, metadata, text):
  if 'relies_on' in metadata:  # the same masks in another order
    kept = checkpoint.load_metadata(folder / 'tasks' / name)['relies_on']
    assert list(kept) == MASKED
    metadata = {'relies_on': {n: kept[n] for n in metadata['relies_on']}}
  other = changed(folder, tmp_path, name, change or (lambda a: None), metadata)
  shown = system.observe(IMAGES, 'permuted-00')
  for ask in (other.identify, other.predict):
    with pytest.raises(ValueError, match=text):
      ask(shown, names=EVERY)


def test_masks_and_coefficients_of_other_leaves(folder, tmp_path):
  other = changed(folder, tmp_path, 'permuted-03', without_a_leaf)
  with pytest.raises(ValueError, match='permuted-00 and permuted-03 do not '
                                       r'mask the same leaves \(Dense_1/kern'):
    gather(other, ['permuted-03', 'permuted-00'])


def test_coefficients_that_are_not_finite(folder, system, tmp_path):
  other = changed(folder, tmp_path, 'permuted-04', not_a_number)
  shown = system.observe(IMAGES, 'permuted-00')
  for rule in identify.RULES:
    with pytest.raises(FloatingPointError, match='met NaN'):
      other.identify(shown, rule, names=EVERY)
  assert other.identify(shown, names=MASKED).task == 'permuted-00'


def test_no_candidate_and_unknown_ones(folder, system, tmp_path):
  for names, text in (([], r'names is \[\]; give the names of the candidates'),
                      (['permuted-1'], "unknown task 'permuted-1' .did you"),
                      (['permuted-00', '../probe/digits'], 'unknown task'),
                      ('permuted-00', "names is 'permuted-00'; give")):
    with pytest.raises(ValueError, match=text):
      system.identify(IMAGES, names=names)
  copy = shutil.copytree(folder, tmp_path / 'copy')
  for name in MASKED + COMBINED:
    shutil.rmtree(copy / 'tasks' / name)
  with pytest.raises(ValueError, match='no task has left masks'):
    mtl_jax.load(copy).predict(IMAGES)


def test_questions_that_make_no_sense(system):
  with pytest.raises(ValueError, match='no image to infer'):
    system.identify(IMAGES[:0], names=EVERY)
  for wrong in (IMAGES.astype(np.float32), IMAGES[0], IMAGES[:, :4], None):
    with pytest.raises(ValueError, match=r'uint8 \[n, 8, 8, 1\]'):
      system.identify(wrong, names=EVERY)
  with pytest.raises(ValueError, match='permuted-00 left masks and permuted-'
                                       '03 coefficients.*name the candidates'):
    system.predict(IMAGES)
  with pytest.raises(ValueError, match='unknown rule'):
    system.identify(IMAGES, rule='best', names=EVERY)
  with pytest.raises(ValueError, match='only the gradient of superfluous'):
    system.identify(IMAGES, 'brute_force', 'superfluous', EVERY)
  with pytest.raises(ValueError, match="unknown task 'permuted-9'"):
    system.observe(IMAGES, 'permuted-9')


def test_raw_images_of_other_shapes_are_fitted(folder, tmp_path):
  """Tasks that only fit take what `observe` gives, and their sources' own."""
  chain = transforms.to_json((transforms.fit(8, 8, 1),
                              transforms.normalise(.5, .5)))
  system = changed(folder, tmp_path, 'permuted-00', metadata=dict(
      transforms=chain, source_shape=(12, 10, 3)))
  shutil.move(system.workdir.root, tmp_path / 'once')
  system = changed(tmp_path / 'once', tmp_path, 'permuted-01', metadata=dict(
      transforms=chain, source_shape=(16, 16, 1)))
  draw = lambda *shape: np.random.RandomState(0).randint(
      0, 256, (4, *shape), np.uint8)
  both = MASKED[:2]
  for name, raw in (('permuted-00', draw(12, 10, 3)),
                    ('permuted-01', draw(16, 16, 1))):
    shown = system.observe(raw, name)
    assert shown.shape == (4, 8, 8, 1)
    assert (system.identify(raw, names=both)
            == system.identify(shown, names=both))
  with pytest.raises(ValueError, match=r'uint8 \[n, 8, 8, 1\]'):
    system.identify(draw(16, 16, 3), names=both)


@pytest.mark.parametrize('names', [[], (), 'permuted-00', iter(())])
def test_candidates_are_a_list_of_names(tmp_path, names):
  system = mtl_jax.load(tiny.learned(tmp_path / 'run', 'few'))
  with pytest.raises(ValueError, match='names is .*; give the names of the'):
    system.identify(np.zeros((1, 8, 8, 1), np.uint8), names=names)


def test_outputs_that_training_did_not_reach_are_not_read(tmp_path):
  tiny.learn(tiny.only('basis', kind='infer', phases__basis__loss='classes',
                       phases__basis__tasks=(0, 2), identify={}),
             tmp_path / 'run')
  system = mtl_jax.load(tmp_path / 'run')
  by_entropy = system.identify(IMAGES, objective='entropy').gradient
  assert system.identify(IMAGES).gradient == by_entropy
  with pytest.raises(ValueError, match="training of permuted-00 did not .*"
                                       "take objective='entropy'"):
    system.identify(IMAGES, objective='superfluous')
