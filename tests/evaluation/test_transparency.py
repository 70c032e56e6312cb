"""What tasks on shared segments have in common, and its figures."""

import functools
import json
import shutil
import types

import jax
import matplotlib
import numpy as np
import pytest
import tiny
import tiny_rounds
from sklearn import linear_model

import mtl_jax
from mtl_jax import impressions
from mtl_jax.config import config as config_lib
from mtl_jax.data import corruptions
from mtl_jax.data import pipeline
from mtl_jax.data import sources
from mtl_jax.data import transforms
from mtl_jax.evaluation import transparency
from mtl_jax.methods import path_sampling
from mtl_jax.report import figures as figures_lib
from mtl_jax.report import segments as segments_report
from mtl_jax.storage import json_records

NAMES = ['noisy3', 'noisy2']


def noisy(name, classes):
  """A pattern per class under noise: some images are taken for others."""
  random = np.random.RandomState(classes)
  patterns = random.randint(0, 256, (classes, 8, 8, 1))
  labels = np.arange(100 * classes) % classes
  noise = random.randint(0, 256, (len(labels), 8, 8, 1))
  pixels = (.3 * patterns[labels] + .7 * noise).astype(np.uint8)
  return sources.from_arrays(name, pixels, labels)


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  return tmp_path_factory.mktemp('laid_open') / 'run'


@pytest.fixture(name='summary', scope='module')
def _summary(folder):
  for name, classes in (('noisy3', 3), ('noisy2', 2)):
    sources.register(name, functools.partial(noisy, name, classes))
  # All 60 and 40 test images are looked at, and 100 for training probes.
  fields = config_lib.to_dict(tiny_rounds.make(transparency=100,
                                               phases__part__steps=24))
  fields['suite']['sources'] = ('noisy3', 'noisy2')
  part = fields['phases']['part']
  fields['phases']['single'] = dict(
      part, control=True, options=dict(part['options'], copies=True))
  # On other paths: no module is the same.
  fields['phases']['other'] = dict(
      part, control=True, steps=1, options=dict(part['options'], overlap=2))
  fields['schedule'] = ['part', 'single', 'other']
  found = tiny.learn(config_lib.from_dict(fields), folder)
  assert found['verified']['ok']
  assert '>Which tasks use which modules<' in (
      folder / 'report.html').read_text()
  return json.loads(json.dumps(found))


def test_paths_and_what_they_share(summary):
  found = summary['segments']
  drawn = path_sampling.overlapping(456, 2, path_sampling.Shape(2, 4, 2), 1)
  assert found['names'] == NAMES
  assert found['paths'] == drawn.tolist()
  assert found['overlap'] == [[4, 2], [2, 4]]
  assert found['relation'][0][1] == found['relation'][1][0] < 1
  users = {(line['level'], line['module']): line['users']
           for line in found['ablation']}
  assert sorted(users.values()) == [1] * 4 + [2] * 2
  assert len(found['ablation']) == 8


def test_the_common_images_of_a_sorted_source_are_of_many_classes(monkeypatch):
  images = np.repeat(np.arange(25), 20)[:, None]  # a task's, class by class
  seen = []

  def features(network, task, x):
    del network, task
    seen.append(x)
    return np.random.RandomState(len(seen)).normal(size=(len(x), 3))
  monkeypatch.setattr(transparency, '_features', features)
  monkeypatch.setattr(transparency, '_prepare', lambda task, x: x)
  tasks = [transparency.Seen(None, None, None, np.array([[k]]))
           for k in range(5)]
  transparency._relation(None, tasks, lambda task, split: (images, None))
  assert [x.shape for x in seen] == [(100, 1)] * 25
  assert len(np.unique(np.concatenate(seen[:5]))) > 20


def test_controls_are_compared_on_the_same_paths_alone(summary):
  found = summary['segments']
  assert set(found['similarity']) == {'single'}
  assert set(found['robustness']) == {'', 'single'}
  similarity = np.array(found['similarity']['single'], float)
  assert similarity.shape == (2, 2, 2)
  assert np.nanmax(similarity) < 1 - 1e-6 and np.nanmin(similarity) >= 0


def test_controls_are_paired_by_their_tasks():
  def seen(phase, name, module):
    entry = types.SimpleNamespace(phase=types.SimpleNamespace(name=phase),
                                  task=types.SimpleNamespace(name=name))
    return transparency.Seen(entry, None, None, np.array([[module]]))
  tasks = [seen('part', 'b', 1), seen('later', 'a', 0)]
  found = transparency._beside(tasks, [
      seen('single', 'a', 0), seen('single', 'b', 1),  # in another order
      seen('other', 'a', 0), seen('other', 'b', 0),  # on another path
      seen('some', 'a', 0)])
  assert {phase: [s.entry.task.name for s in own]
          for phase, own in found.items()} == {'single': ['b', 'a']}


def test_one_image_of_each_task_is_too_little_but_no_error(
    folder, summary, tmp_path):
  shutil.copytree(folder, tmp_path / 'run')
  fields = json_records.read_json(folder / 'config.json') | {'transparency': 1}
  again = tiny.learn(config_lib.from_dict(fields), tmp_path / 'run')
  found = json.loads(json.dumps(again))['segments']
  assert found['images'] == 1 and found['paths'] == summary['segments']['paths']
  assert found['probe'] == [[None, None]] * 2
  assert again['verified']['ok']


def test_robustness_starts_at_the_accuracy_without_corruption(folder, summary):
  found = summary['segments']['robustness']
  assert set(found['']) == {'none', *corruptions.STRENGTHS}
  test = {line['entry']: line['accuracy']['test']
          for line in json_records.read_lines(folder / 'metrics.jsonl')
          if line['kind'] == 'task'}
  for phase, suffix in (('', ''), ('single', '@single')):
    own = [test[name + suffix] for name in NAMES]
    assert found[phase]['none'] == pytest.approx(np.mean(own), abs=1e-4)
    assert max(own) < 1
    # The strongest contrast hides the most.
    assert found[phase]['contrast'][-1] < found[phase]['none'] - .1


def test_what_a_module_is_worth_is_what_is_lost_without_it(folder, summary):
  system, lost = mtl_jax.load(folder), []
  for line in summary['segments']['ablation']:
    stored = system.task(line['task'])
    test = sources.load(line['task']).test
    right = lambda stored, test=test: np.mean(np.asarray(
        system.outputs(stored, test.images)).argmax(-1) == test.labels)
    level, module = f'level{line["level"]}', f'module{line["module"]:02d}'
    values = stored.impression.values
    silent = jax.tree.map(lambda x: 0 * x, values[level][module])
    changed = stored._replace(impression=stored.impression._replace(
        values=values | {level: values[level] | {module: silent}}))
    lost.append(line['lost'])
    assert lost[-1] == pytest.approx(right(stored) - right(changed),
                                     abs=.026)  # one of 40 images
  assert max(lost) > .1


def test_a_probe_learns_one_task_from_the_features_of_another(folder, summary):
  system, found = mtl_jax.load(folder), summary['segments']['probe']

  def features(stored, images):
    params = impressions.materialise(system.backbone.params, stored.impression)
    x = pipeline.apply(transforms.kinds(stored.transforms),
                       stored.parameters, images)
    return np.asarray(system.backbone.network.trace(
        params, stored.impression.stats, x)['level2'])

  for a, b in ((0, 1), (1, 0)):
    stored, source = system.task(NAMES[a]), sources.load(NAMES[b])
    rows = np.random.RandomState(0).permutation(len(source.train.labels))[:100]
    x, y = (features(stored, images) for images in (
        source.train.images[rows], source.test.images))
    mean, std = x.mean(0), x.std(0)
    std = np.where(std > 0, std, 1)
    model = linear_model.LogisticRegression(max_iter=1000).fit(
        (x - mean) / std, source.train.labels[rows])
    right = np.mean(model.predict((y - mean) / std) == source.test.labels)
    assert found[a][b] == pytest.approx(right, abs=.03)  # of at least 40 images
  assert abs(found[0][1] - found[1][0]) > .1  # so the two cannot be swapped


def test_the_figure_of_corruptions_shows_every_measured_phase():
  curves = {'none': .9, 'blur': [.8] * 5, 'noise': [.7] * 5}
  canvas, _ = segments_report.robustness([], {'segments': {
      'robustness': {'': curves, 'single': curves, 'joint': curves}}})
  legend, = canvas.legends
  assert [text.get_text() for text in legend.get_texts()] == [
      'blur', 'noise', 'shared', 'single', 'joint']
  curves = [line for line in canvas.axes[0].lines if len(line.get_xdata())]
  assert len(curves) == 6  # three phases, two kinds


def test_every_figure_is_drawn_and_none_without_measurements(summary):
  names = {'segments', 'relation', 'similarity', 'ablation', 'probe',
           'robustness'}
  drawn = {figure.name: figure for figure in figures_lib.draw([], summary)}
  assert names <= set(drawn)
  assert '2 modules serve several tasks, 4 one task and 2 none' in (
      drawn['segments'].caption)
  assert not names & {figure.name for figure in figures_lib.draw(
      [], summary | {'segments': None})}


@pytest.mark.parametrize('tasks', [8, 10, 20])
def test_the_graph_has_a_colour_for_each_of_many_tasks(tasks):
  drawn = path_sampling.official(
        456, tasks, path_sampling.Shape(9, 12, 4)).tolist()
  canvas, _ = segments_report.graph([], {'segments': {
      'names': [f'task{k}' for k in range(tasks)], 'paths': drawn,
      'modules': 12}})
  dots = [line for line in canvas.axes[0].lines if line.get_marker() == 'o']
  assert len({matplotlib.colors.to_hex(line.get_color())
              for line in dots}) == tasks
  # A module's dots stay nearer to its level than to the next.
  for line in dots:
    assert sorted(np.round(line.get_xdata()).tolist()) == [
        level + 1 for level in range(9) for _ in range(4)]
