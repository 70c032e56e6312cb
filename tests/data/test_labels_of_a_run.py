"""A run stores which class is which, and says what is to be known of its data.
"""

import json

import numpy as np
import pytest
import tiny
from PIL import Image

from mtl_jax import experiment
from mtl_jax.config import config as config_lib
from mtl_jax.report import page
from mtl_jax.storage import checkpoint


@pytest.fixture(name='registered', scope='module')
def _registered(tmp_path_factory):
  """A run on a folder whose classes have names, with all there is to say."""
  root = tmp_path_factory.mktemp('images') / 'signs'
  random = np.random.RandomState(0)
  for i in range(120):
    file = root / ('1', '10', 'bee')[i % 3] / f'{i}.png'
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.randint(0, 200, (8, 8)).astype(np.uint8)
                    + np.uint8(20 * (i % 3))).save(file)
  for i in range(30):  # the same image many times: in test as well
    Image.new('L', (8, 8), 255).save(root / 'bee' / f'same{i}.png')
  (root / 'bee' / 'notes.txt').write_text('no image')
  config = config_lib.from_dict(dict(
      seed=0, suite=dict(kind='split', source=f'signs=folder:{root}',
                         groups=((2, 0),), names=('bees',)),
      backbone=dict(model='lenet_300_100', outputs=3),
      phases=dict(m=dict(method='supsup', tasks=(0, 1), steps=2,
                         batch_size=16)), schedule=('m',)))
  work = tmp_path_factory.mktemp('run') / 'work'
  summary = experiment.run(config, work, quiet=True)
  return root, work, summary


def test_a_run_stores_which_class_is_which(registered):
  root, work, _ = registered
  metadata = checkpoint.load_metadata(work / 'tasks' / 'bees')
  assert metadata['labels'] == [2, 0]
  assert metadata['class_names'] == ['bee', '1']
  assert metadata['source'] == f'signs=folder:{root}'
  data = metadata['record']['data']
  assert data['source'] == metadata['source'] and data['repeated'] > 0


def test_table_and_page_say_what_is_to_be_known(registered):
  _, work, summary = registered
  records = [json.loads(line) for line in (
      work / 'metrics.jsonl').read_text().splitlines()]
  records = [r for r in records if r['kind'] == 'task']
  caption = str(page.table(records, summary).caption)
  html = (work / 'report.html').read_text()
  for text in ('class 0 is 1, 1 is 10, 2 is bee', 'left out: bee/notes.txt',
               'test images are also training or validation images'):
    assert text in caption and text in html


def test_all_outputs_of_a_whole_source_are_stored(tmp_path):
  config = tiny.only('basis', kind='norm', suite__drop_shared=True,
                     phases__basis__tasks=(0, 1))
  tiny.learn(config, tmp_path / 'run')
  metadata = checkpoint.load_metadata(tmp_path / 'run/tasks/permuted-00')
  assert metadata['labels'] == [0, 1] and metadata['class_names'] is None
  assert metadata['record']['data']['dropped'] == {'train': 0, 'valid': 0}


def test_a_pool_is_recorded_with_the_images_of_all_its_tasks(tmp_path):
  config = tiny.only('basis', kind='few', phases__basis__tasks=(0, 3),
                     phases__basis__pool=True)
  run, _ = tiny.train_alone(config, tmp_path / 'run')
  path, = (tmp_path / 'run' / 'tasks').iterdir()
  found = checkpoint.load_metadata(path)['record']['data']
  assert found['images'] == {
      split: sum(len(getattr(run.data.view(task), split))
                 for task in run.suite.tasks[:3])
      for split in ('train', 'valid', 'test')}
  assert found['source'] == 'digits' and found['notes'] == []
