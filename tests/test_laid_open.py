"""What tasks on shared segments have in common, and its figures."""

import json

import numpy as np
import pytest
import test_rounds
import tiny

from mtl_jax import config as config_lib
from mtl_jax import laid_open
from mtl_jax import paths
from mtl_jax import report_figures
from mtl_jax.data import corruptions


@pytest.fixture(name='summary', scope='module')
def _summary(tmp_path_factory):
  fields = config_lib.to_dict(test_rounds.make(transparency=12))
  part = fields['phases']['part']
  fields['phases']['single'] = dict(
      part, control=True, options=dict(part['options'], copies=True))
  # On other paths: no module is the same.
  fields['phases']['other'] = dict(
      part, control=True, steps=1, options=dict(part['options'], overlap=2))
  fields['schedule'] = ['part', 'single', 'other']
  folder = tmp_path_factory.mktemp('laid_open') / 'run'
  found = tiny.learn(config_lib.from_dict(fields), folder)
  assert found['verified']['ok']
  assert '>Which tasks use which modules<' in (
      folder / 'report.html').read_text()
  return json.loads(json.dumps(found))


def test_paths_and_what_they_share(summary):
  found = summary['segments']
  drawn = paths.overlapping(456, 2, paths.Shape(2, 4, 2), 1)
  assert found['names'] == ['three', 'two']
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
  monkeypatch.setattr(laid_open, '_features', features)
  monkeypatch.setattr(laid_open, '_prepare', lambda task, x: x)
  tasks = [laid_open.Seen(None, None, None, np.array([[k]])) for k in range(5)]
  laid_open._relation(None, tasks, lambda task, split: (images, None))
  assert [x.shape for x in seen] == [(100, 1)] * 25
  assert len(np.unique(np.concatenate(seen[:5]))) > 20


def test_controls_are_compared_on_the_same_paths_alone(summary):
  found = summary['segments']
  assert set(found['similarity']) == {'single'}
  assert set(found['robustness']) == {'', 'single'}
  similarity = np.array(found['similarity']['single'], float)
  assert similarity.shape == (2, 2, 2)
  assert np.nanmax(similarity) < 1 - 1e-6 and np.nanmin(similarity) >= 0


def test_robustness_starts_at_the_accuracy_without_corruption(summary):
  found = summary['segments']
  assert set(found['robustness']['']) == {'none', *corruptions.STRENGTHS}
  # 12 test images of each task are as many as there are, or all that count.
  assert 0 <= found['robustness']['']['none'] <= 1
  assert np.shape(found['probe']) == (2, 2)


def test_every_figure_is_drawn_and_none_without_measurements(summary):
  names = {'segments', 'relation', 'similarity', 'ablation', 'probe',
           'robustness'}
  drawn = {figure.name: figure for figure in report_figures.draw([], summary)}
  assert names <= set(drawn)
  assert '2 modules serve several tasks, 4 one and 2 none' in (
      drawn['segments'].caption)
  assert not names & {figure.name for figure in report_figures.draw(
      [], summary | {'segments': None})}
