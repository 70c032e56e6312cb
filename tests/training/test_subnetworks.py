"""Subnetworks of one weight tree, from a config to stored tasks."""

import shutil
import types

import jax
import numpy as np
import pytest
import tiny
import tiny_subnetworks as little

import mtl_jax
from mtl_jax import impressions
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.data import sources
from mtl_jax.evaluation import ensembles
from mtl_jax.methods import allocation
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.serving import verification
from mtl_jax.steps import single
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import gradients
from mtl_jax.training import progress


def test_parallel_and_sequence_leave_the_same_weights():
  first, second = (little.system_of(**phases)
                   for phases in (little.PARALLEL, little.SEQUENCE))
  assert first.tasks == second.tasks and len(first.tasks) == 3
  for name in first.tasks:
    a, b = (trees.flatten(s.task(name).impression._asdict())
            for s in (first, second))
    assert set(a) == set(b)
    for leaf, value in a.items():
      if value is None:
        assert b[leaf] is None
      elif leaf.startswith('masks'):
        np.testing.assert_array_equal(value, b[leaf])
      else:
        np.testing.assert_allclose(value, b[leaf], atol=2e-6)


def test_subnetworks_are_disjoint_and_of_exact_size():
  system = little.system_of(**little.SEQUENCE)
  bits = little.own_masks(system, system.tasks)
  values = [system.task(name).impression.values for name in system.tasks]
  weights, owner = allocation.fold(values, bits)
  for name, leaf in trees.flatten(owner).items():
    if leaf is not None:
      assert name.startswith('layer') and name.endswith('kernel')
      assert [np.sum(leaf == n) for n in (1, 2, 3)] == [
          round(.3 * leaf.size)] * 3
  # The folded tree gives back every task's network bit for bit.
  for number, name in enumerate(system.tasks, 1):
    impression = system.task(name).impression
    again = impressions.Impression(
        values=trees.map_leaves(
            lambda w, v: v if w is None else w,
            allocation.subnetwork(weights, owner, number), impression.values))
    params = system.backbone.params
    assert trees.fingerprint(impressions.materialise(params, again)) == (
        trees.fingerprint(impressions.materialise(params, impression)))


@pytest.mark.parametrize('draws', ['own', 'common'])
def test_a_task_trains_its_own_weights_from_their_draw(draws):
  system = little.system_of(net=(('allocation', (
      ('density', .3), ('sample', 100), ('draws', draws))),))
  common = trees.flatten(system.backbone.params)
  for number, name in enumerate(system.tasks, 1):
    own = trees.flatten(backbone_lib.another_draw(system.backbone, number))
    assert (own['layer1/kernel'] != common['layer1/kernel']).all()
    backbone = {leaf: own[leaf] if draws == 'own' and leaf.startswith(
        'layer') and leaf.endswith('kernel') else x
                for leaf, x in common.items()}
    impression = system.task(name).impression
    masks = trees.flatten(impression.masks)
    for leaf, value in trees.flatten(impression.values).items():
      mask = masks[leaf]
      value, start = np.asarray(value), np.asarray(backbone[leaf])
      if mask is None:
        assert value.shape == start.shape
      else:
        assert not value[~mask].any()
        assert np.abs(value - start)[mask].max() > 1e-3
        assert np.abs(value - start)[mask].max() < .3


def test_stored_once_and_nothing_is_forgotten():
  folder, summary = little.learned(**little.SEQUENCE)
  work = workdir_lib.Workdir(folder)
  weights = (64 * 32 + 32 * 24)
  own = 32 + 24 + 24 * 10 + 10
  for name in work.task_names():
    sizes = checkpoint.load_metadata(work.task(name))['record']['bytes']
    kept = round(.3 * 64 * 32) + round(.3 * 32 * 24)
    assert sizes['values'] == 4 * (kept + own)
    assert sizes['masks'] == weights // 8
  forgetting = {m['name']: m['value'] for m in summary['metrics']}
  assert forgetting['forgetting'] == 0
  assert summary['verified']['ok']


def test_sharing_uses_earlier_weights_and_changes_none():
  sharing = dict(net=(('options', (('sharing', True),)),))
  system = little.system_of(**sharing)
  alone = little.system_of(**little.SEQUENCE)
  used = np.zeros((64, 32), bool)
  for name in system.tasks:
    stored = system.task(name)
    mask = np.asarray(stored.impression.masks['layer1']['kernel'])
    assert np.sum(mask) == round(.3 * 64 * 32)
    np.testing.assert_array_equal(
        mask, alone.task(name).impression.masks['layer1']['kernel'])
    used |= mask
    # Its network has its own weights, those of the tasks before, and no other.
    params = system.effective(stored)[0]
    assert not np.asarray(params['layer1']['kernel'])[~used].any()
  assert np.sum(used) == 3 * round(.3 * 64 * 32)
  whole = system.effective(system.task(system.tasks[-1]))[0]
  for name in system.tasks:
    part = system.task(name).impression
    mask = np.asarray(part.masks['layer2']['kernel'])
    np.testing.assert_array_equal(
        np.asarray(whole['layer2']['kernel'])[mask],
        np.asarray(part.values['layer2']['kernel'])[mask])
  sizes = [system.task(name).metadata['record']['bytes']['values']
           for name in system.tasks]
  assert len(set(sizes)) == 1  # what others own is not stored again
  result = verification.check(system)
  assert result.tasks == 3 and not result.faults
  # Trained with the others' weights in place, so not the exclusive network.
  third = system.task(system.tasks[-1]).impression
  assert (third.values['layer1']['kernel'] != alone.task(
      system.tasks[-1]).impression.values['layer1']['kernel']).any()


def test_sharing_needs_the_tasks_that_it_uses(tmp_path):
  sharing = dict(net=(('options', (('sharing', True),)),))
  shutil.copytree(little.learned(**sharing)[0], tmp_path / 'run')
  system = mtl_jax.load(tmp_path / 'run')
  first, _, third = system.tasks
  shutil.rmtree(tmp_path / 'run' / 'tasks' / first)
  with pytest.raises(checkpoint.CheckpointError, match=first):
    system.task(third)


def test_later_phases_fill_what_is_free_and_controls_have_their_own_tree():
  config = little.get_config(
      first=dict(tasks=(0, 2)), second=dict(tasks=(2, 4), allocation=dict(
          density=.2, score='magnitude')),
      alone=dict(tasks=(2, 4), control=True, allocation=dict(
          density=.2, score='magnitude', tree=None)))
  folder = tiny.new_folder()
  tiny.learn(little.make(config), folder)
  system = mtl_jax.load(folder)
  main = [name for name in system.tasks if '@' not in name]
  allocation.fold([system.task(n).impression.values for n in main],
                  little.own_masks(system, main))  # refuses an overlap
  alone = little.own_masks(system, ['permuted-02@alone', 'permuted-03@alone'])
  np.testing.assert_array_equal(alone[0]['layer1']['kernel'],
                                alone[1]['layer1']['kernel'])
  kernel = np.abs(np.asarray(backbone_lib.another_draw(
      system.backbone, 1)['layer1']['kernel']))
  smallest = kernel[alone[0]['layer1']['kernel']].min()
  assert kernel[~alone[0]['layer1']['kernel']].max() <= smallest


def test_a_gradient_score_is_the_gradient_of_the_mean_loss():
  """Of a linear regression: 2 X^T (X w - y) / (n targets), by hand."""
  rng = np.random.RandomState(0)
  x, y, w = (rng.randn(*shape).astype(np.float32)
             for shape in ((7, 3), (7, 2), (3, 2)))
  found = gradients.gradient(
      models.Network(None, lambda p, s, x, **_: (x @ p['w'], s)),
      methods.Route(classes=2, loss='mse'), {'w': w, 'b': None},
      {'w': 9 * w, 'b': w}, {}, single.Source(x, y),
      single.TaskArrays((), np.zeros(0, np.int32)),
      np.array([[0, 1, 2, 3], [4, 5, 6, -1]], np.int32))
  np.testing.assert_allclose(found['w'], 2 * x.T @ (x @ w - y) / (7 * 2),
                             rtol=1e-5)
  assert found['b'] is None


def test_early_stopping_ends_before_the_last_epoch(tmp_path):
  summary = tiny.learn(little.make(**little.watched()), tmp_path)
  lines = [line for line in json_records.read_lines(tmp_path / 'metrics.jsonl')
           if line['kind'] == 'task']
  per_epoch = len(sources.load('digits').train.labels) // 32
  for line in lines:
    assert line['steps'] % per_epoch == 0
    assert 3 * per_epoch <= line['steps'] < 30 * per_epoch
    assert line['accuracy']['test'] > .8
  assert summary['verified']['ok']


def test_sparsify_leaves_fewer_weights_and_the_next_task_more_room(tmp_path):
  config = little.make(**little.watched(
      epochs=12, allocation=dict(density=.6, sample=100),
      sparsify=dict(start=.6, rate=.2, least=.2, cutoff=.3, patience=1)))
  tiny.learn(config, tmp_path)
  system = mtl_jax.load(tmp_path)
  bits = little.own_masks(system, system.tasks)
  allocation.fold(
    [system.task(n).impression.values for n in system.tasks], bits)
  for mask in bits:
    share = np.mean(mask['layer1']['kernel'])
    assert .19 < share < .21  # both fit, though 0.6 + 0.6 would not


@pytest.mark.parametrize('density', (.6, 1.))
def test_accuracy_before_learning_is_of_the_weights_not_pruned_yet(tmp_path,
                                                                   density):
  common = dict(tasks=(0, 1), allocation=dict(density=density, sample=100))
  tiny.learn(little.make(**little.watched(**common, epochs=1)),
             tmp_path / 'whole')
  tiny.learn(little.make(**little.watched(**common, epochs=12, sparsify=dict(
      start=density, rate=.2, least=.2, cutoff=.3, patience=1))),
             tmp_path / 'pruned')
  whole, pruned = (
      mtl_jax.load(tmp_path / name).task('permuted-00').metadata['record']
      for name in ('whole', 'pruned'))
  assert np.mean(pruned['density']['layer1/kernel']) < density
  assert pruned['accuracy']['before'] == whole['accuracy']['before']


def test_domains_with_stems_and_a_regression(tmp_path):
  config = little.get_config(net=dict(tasks=(0, 2), steps=150, together='joint',
                               loss='classes', allocation=dict(density=.4)))
  config.suite = dict(kind='datasets', sources=('digits', 'sums'),
                      image_shape=(8, 8, 1))
  summary = tiny.learn(little.make(config), tmp_path)
  system = mtl_jax.load(tmp_path)
  digits, sums = (system.task(name) for name in ('digits', 'sums'))
  # A stem that a task has no use for is the backbone's, and not stored.
  assert digits.impression.values['stem_5']['dense']['kernel'] is None
  assert sums.impression.values['stem_5']['dense']['kernel'] is not None
  record = sums.metadata['record']
  assert record['accuracy'] == dict(backbone=None, before=None, valid=None,
                                    test=None)
  assert record['loss']['test'] < .02
  assert summary['names'] == ['digits']  # no regression in an average accuracy
  test = sources.load('sums').test
  found = np.asarray(system.predict(test.images, task='sums'))
  assert found.shape == (len(test.labels), 1)
  assert abs(np.mean((found - test.labels) ** 2) - record['loss']['test']) < (
      1e-5)
  with pytest.raises(ValueError, match=r'sums takes inputs float32 \[n, 5\]'):
    system.predict(np.zeros((1, 8, 8, 1), np.uint8), task='sums')
  report = (tmp_path / 'report.html').read_text()
  assert 'sums' in report and 'NaN' not in report


def test_a_text_is_learned_from_its_tokens(tmp_path):
  """The class is the only word that is not common to all."""
  texts = [f'{("good", "bad")[i % 2]} film' for i in range(200)]
  sources.register('texts', lambda: sources.from_texts(
      'texts', (texts, [0, 1] * 100), words=8, length=2))
  config = little.get_config(net=dict(tasks=(0, 2), together='joint',
                                      loss='classes', steps=60))
  config.suite = dict(kind='datasets', sources=('texts', 'digits'),
                      image_shape=(8, 8, 1))
  config.backbone.options.update(words=8, embedding=4)
  summary = tiny.learn(little.make(config), tmp_path / 'run')
  assert summary['verified']['ok']
  record = mtl_jax.load(tmp_path / 'run').task('texts').metadata['record']
  assert record['accuracy']['test'] == 1.


def test_an_ensemble_sums_the_members_softmax_outputs(tmp_path):
  summary = tiny.learn(little.make(net=dict(
      tasks=(0, 1), repeats=3, together='joint', steps=40)), tmp_path)
  found, = summary['ensembles']
  system = mtl_jax.load(tmp_path)
  assert len(system.tasks) == 3
  allocation.fold([system.task(n).impression.values for n in system.tasks],
                  little.own_masks(system, system.tasks))
  test = sources.load('digits').test
  answers = [np.asarray(jax.nn.softmax(system.predict(test.images, task=n)))
             for n in system.tasks]
  np.testing.assert_allclose(found['members'], [
      np.mean(a.argmax(1) == test.labels) for a in answers], atol=1e-6)
  assert found['accuracy'] == pytest.approx(
      np.mean(sum(answers).argmax(1) == test.labels), abs=3e-3)
  assert 'an ensemble of 3' in (tmp_path / 'report.html').read_text()


def test_a_pool_of_repeats_is_no_ensemble():
  config = little.make(net=dict(method='supsup', allocation=None, pool=True,
                                repeats=2))
  assert ensembles.measure(types.SimpleNamespace(config=config)) == []


def test_what_fine_tuning_ends_with_counts_a_regression_too(tmp_path):
  config = little.get_config(net=dict(
      method='joint', tasks=(0, 2), allocation=None, steps=60, loss='classes',
      control=True, options=dict(own=('head.*', 'stem.*'), carry=True)))
  config.suite = dict(kind='datasets', sources=('digits', 'sums'),
                      image_shape=(8, 8, 1))
  found, = tiny.learn(little.make(config), tmp_path)['carried']
  assert [len(row) for row in found['matrix']] == [1]
  assert found['names'] == ['digits@net'] and len(found['end']) == 1
  assert found['end'][0] < found['matrix'][0][0] - .02


def test_fine_tuning_in_sequence_forgets_and_the_report_shows_it(tmp_path):
  summary = tiny.learn(little.make(net=dict(
      method='joint', allocation=None, steps=60, control=True,
      options=dict(own=('head.*',), carry=True))), tmp_path)
  found, = summary['carried']
  matrix = found['matrix']
  assert [len(row) for row in matrix] == [1, 2, 3]
  assert found['end'] == matrix[-1]
  system = mtl_jax.load(tmp_path)
  records = [system.task(name).metadata['record'] for name in system.tasks]
  for i, record in enumerate(records):  # the diagonal is the task's own
    assert matrix[i][i] == pytest.approx(record['accuracy']['test'], abs=1e-6)
  assert matrix[2][0] < matrix[0][0] - .1  # permutations overwrite each other
  # The second task started where the first had stopped.
  first, second = (system.task(name).impression.values['layer1']['kernel']
                   for name in system.tasks[:2])
  start = np.asarray(system.backbone.params['layer1']['kernel'])
  assert np.abs(second - first).mean() < np.abs(second - start).mean()
  assert 'fine-tuned in sequence' in (tmp_path / 'report.html').read_text()


def test_the_report_counts_free_and_owned_weights():
  folder, summary = little.learned(**little.SEQUENCE)
  tree, = summary['capacity']
  leaf = tree['leaves']['layer1/kernel']
  assert leaf == {'size': 2048, 'owned': [614] * 3, 'free': 2048 - 3 * 614,
                  'used': [614] * 3}
  assert [[n > 0 for n in row] for row in tree['overlap']] == (
      np.eye(3, dtype=bool).tolist())
  weights, own = 64 * 32 + 32 * 24, 32 + 24 + 24 * 10 + 10
  # Biases that are still 0 are the backbone's and take nothing.
  assert 5 * weights < tree['bytes']['folded'] <= 5 * weights + 3 * 4 * own
  assert tree['bytes']['dedicated'] == 3 * 4 * (weights + own)
  text = (tiny.pathlib.Path(folder) / 'report.html').read_text()
  assert '3 subnetworks own' in text and 'Owners of the weights' in text


def test_later_tasks_start_with_what_is_left(tmp_path):
  """The first one dense, then pruned; the second takes what that freed."""
  config = little.make(**little.watched(
      epochs=12, allocation=dict(density=1., fit=True, sample=100),
      sparsify=dict(start=1., rate=.25, least=.25, tolerance=9.)))
  tiny.learn(config, tmp_path)
  system = mtl_jax.load(tmp_path)
  bits = little.own_masks(system, system.tasks)
  allocation.fold(
    [system.task(n).impression.values for n in system.tasks], bits)
  first, second = (np.mean(mask['layer1']['kernel']) for mask in bits)
  assert .25 <= first < 1 and 0 < second <= 1 - first


@pytest.mark.slow
@pytest.mark.parametrize('changes', [
    dict(epochs=6), dict(epochs=6, allocation=dict(density=.4, sample=100),
                         sparsify=dict(start=.4, rate=.1, least=.2,
                                       cutoff=.3, patience=1))])
def test_stopped_in_an_epoch_it_ends_with_the_same_bits(tmp_path, monkeypatch,
                                                        changes):
  config = little.get_config(**little.watched(tasks=(0, 1), **changes))
  config.progress_seconds = 0.  # saved after every chunk
  config = little.make(config)
  tiny.learn(config, tmp_path / 'whole')

  class Killed(Exception):
    """As if by a signal, right after progress was saved."""

  saved, save = [], progress.save

  def stop_at_times(*arguments):
    save(*arguments)
    saved.append(arguments[2])
    if len(saved) in (2, 13, 25):
      raise Killed

  monkeypatch.setattr(progress, 'save', stop_at_times)
  kills = 0
  while True:
    try:
      tiny.learn(config, tmp_path / 'killed')
      break
    except Killed:
      kills += 1
  per_epoch = len(sources.load('digits').train.labels) // 32
  assert kills == 3 and saved[24] > per_epoch  # one after the first look
  assert tiny.bits(tmp_path / 'killed') == tiny.bits(tmp_path / 'whole')
