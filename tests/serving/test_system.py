"""A run can be used without its data, by task names."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax import impressions
from mtl_jax.config import plan
from mtl_jax.data import pipeline
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.data import transforms
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import checkpoint
from mtl_jax.training import evaluate
from mtl_jax.training import run as run_lib


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  return tiny.learned(tmp_path_factory.mktemp('system') / 'run')


@pytest.fixture(name='system')
def _system(folder):
  return mtl_jax.load(folder)


IMAGES = sources.load('digits').test.images


def test_tasks_are_listed(system):
  assert system.tasks == sorted(
      [f'permuted-{i:02d}' for i in range(14)] + ['permuted-12@dedicated'])


# One of each: supermask, transfer, many at once, coefficients, control.
@pytest.mark.parametrize('name', [
    'permuted-00', 'permuted-03', 'permuted-07', 'permuted-13',
    'permuted-12@dedicated'])
def test_predict_has_the_recorded_accuracy(system, folder, name):
  logits = system.predict(IMAGES, task=name)
  assert logits.shape == (len(IMAGES), 10) and logits.dtype == jnp.float32
  right = np.argmax(np.asarray(logits), 1) == sources.load('digits').test.labels
  record = checkpoint.load_metadata(folder / 'tasks' / name)['record']
  assert right.mean() == pytest.approx(record['accuracy']['test'], abs=1e-9)


def test_predict_has_the_accuracy_of_evaluate(system):
  suite = suites.make('permuted', source='digits', num_tasks=14)
  entry = plan.Entry('permuted-02', suite.tasks[2], tiny.make().phases[0])
  found = evaluate.stored_accuracy(system, entry, run_lib.Data(), 50)
  right = (np.argmax(np.asarray(system.predict(IMAGES, task='permuted-02')), 1)
           == sources.load('digits').test.labels)
  assert found == pytest.approx(right.mean(), abs=1e-9)


def test_norm_statistics_are_the_tasks_own(tmp_path):
  system = mtl_jax.load(tiny.learned(tmp_path / 'run', 'norm'))
  source = sources.load('blobs')
  for name in system.tasks:
    logits = np.asarray(system.predict(source.test.images, task=name))
    record = checkpoint.load_metadata(system.workdir.task(name))['record']
    right = (logits.argmax(1) == source.test.labels).mean()
    assert right == pytest.approx(record['accuracy']['test'], abs=1e-9)
    stored = system.task(name)
    params = impressions.materialise(system.backbone.params, stored.impression,
                                     stored.shared.get('basis'))
    x = pipeline.apply(transforms.kinds(stored.transforms),
                       stored.parameters, source.test.images)
    of_backbone = system.backbone.network.apply(
        params, system.backbone.stats, x)[0]
    assert not np.allclose(logits, of_backbone, atol=0.1)


def test_one_image_has_the_logits_that_it_has_in_a_batch(system):
  whole = np.asarray(system.predict(IMAGES[:20], task='permuted-13'))
  alone = np.asarray(system.predict(IMAGES[3:4], task='permuted-13'))
  np.testing.assert_allclose(alone[0], whole[3], rtol=1e-5, atol=1e-5)
  assert system.predict(IMAGES[:0], task='permuted-13').shape == (0, 10)


def test_predict_takes_jax_arrays(system):
  np.testing.assert_array_equal(
      system.predict(jnp.asarray(IMAGES[:5]), task='permuted-00'),
      system.predict(IMAGES[:5], task='permuted-00'))


def test_twenty_tasks_compile_once(folder, tmp_path):
  many = shutil.copytree(folder, tmp_path / 'many')
  for i in range(20):
    copy = many / f'tasks/copy-{i:02d}'
    shutil.copytree(many / f'tasks/permuted-{i % 12:02d}', copy)
    tiny.rewrite(copy, lambda arrays: None,
                 checkpoint.load_metadata(copy) | {'name': copy.name})
  system, traces = mtl_jax.load(many), []
  apply = system.backbone.network.apply

  def traced(*args, **kwargs):
    traces.append(None)
    return apply(*args, **kwargs)
  network = system.backbone.network._replace(apply=traced)
  system = system_lib.System(system.workdir,
                             system.backbone._replace(network=network))
  for i in range(20):
    system.predict(IMAGES[:8], task=f'copy-{i:02d}')
  assert len(traces) == 1
  system.predict(IMAGES[:7], task='copy-00')  # padded to eight
  assert len(traces) == 1
  system.predict(IMAGES[:9], task='copy-00')
  assert len(traces) == 2


def test_neither_data_nor_config_is_needed(folder, tmp_path):
  bare = shutil.copytree(folder, tmp_path / 'bare')
  for name in ('config.json', 'metrics.jsonl', 'report.html'):
    (bare / name).unlink()
  code = '''
import sys
sys.modules['sklearn'] = None
sys.modules['tensorflow_datasets'] = None
import mtl_jax, numpy as np
system = mtl_jax.load(sys.argv[1])
x = np.zeros((2, 8, 8, 1), np.uint8)
for name in system.tasks:
  assert system.predict(x, task=name).shape == (2, 10)
print(len(system.tasks))
'''
  done = tiny.call([tiny.sys.executable, '-c', code, str(bare)],
                   TFDS_DATA_DIR='/nowhere', MTL_JAX_CACHE='/nowhere')
  assert (done.returncode, done.stdout) == (0, '15\n'), done.stderr


@pytest.mark.parametrize('task, text', [
    ('permuted-1', r"unknown task 'permuted-1' \(did you mean: permuted-1"),
    ('permuted-12@dedicate', 'did you mean: permuted-12@dedicated'),
    ('zzz', "unknown task 'zzz'; known: permuted-00, "),
    ('', "unknown task ''; known"),
    ('../probe/digits', "unknown task '../probe/digits'"),
    ('.', "unknown task '.'"), ('..', "unknown task '..'"),
    (3, 'unknown task 3')])
def test_unknown_task(system, task, text):
  with pytest.raises(ValueError, match=text):
    system.predict(IMAGES, task=task)


def test_a_candidate_is_named_once(system):
  with pytest.raises(ValueError, match='names= has a task twice'):
    system.identify(IMAGES[:2], names=['permuted-00', 'permuted-00'])


@pytest.mark.parametrize('x, text', [
    (IMAGES[:2].astype(np.float32), r'uint8 \[n, 8, 8, 1\]; got float32'),
    (IMAGES[0], r'got uint8 \(8, 8, 1\)'),
    (IMAGES[:2, :, :, 0], r'got uint8 \(2, 8, 8\)'),
    (np.zeros((2, 28, 28, 1), np.uint8), r'got uint8 \(2, 28, 28, 1\)'),
    (IMAGES[:2].tolist(), 'got list, which is no array'),
    (None, 'got NoneType')])
def test_wrong_images(system, x, text):
  with pytest.raises(ValueError, match=f'task permuted-00 takes .*{text}'):
    system.predict(x, task='permuted-00')


def test_not_a_workdir(tmp_path):
  with pytest.raises(ValueError, match='backbone.json is missing'):
    mtl_jax.load(tmp_path)


def test_workdir_may_be_a_string(folder):
  assert len(mtl_jax.load(str(folder)).tasks) == 15


def test_the_current_folder_may_change(folder, system, monkeypatch):
  name = system.tasks[0]
  monkeypatch.chdir(folder.parent)
  found = mtl_jax.load(folder.name)
  monkeypatch.chdir('/')
  np.testing.assert_array_equal(found.predict(IMAGES[:2], task=name),
                                system.predict(IMAGES[:2], task=name))


def test_predicting_changes_nothing(folder, system):
  before = tiny.files(folder)
  params = jax.tree.map(np.array, system.backbone.params)
  for name in system.tasks:
    system.predict(IMAGES[:2], task=name)
  assert tiny.files(folder) == before
  jax.tree.map(np.testing.assert_array_equal, params, system.backbone.params)


# What a notebook prints.


def test_a_system_a_task_and_an_impression_are_printed_in_a_line(tmp_path):
  system = system_lib.load(tiny.learned(tmp_path / 'run', 'infer'))
  said = repr(system)
  assert '\n' not in said and len(said) < 200 + len(str(tmp_path))
  for word in (str(tmp_path / 'run'), f'{len(system.tasks)} tasks',
               'permuted-00', 'small', 'weights'):
    assert word in said
  stored = system.task('permuted-00')
  assert repr(stored) == (
      "StoredTask('permuted-00' by supsup: 10 classes, "
      'Impression(masks: 2 leaves of 6,016))')
  assert repr(system.task('permuted-03').impression) == (
      'Impression(coefficients: 2 leaves of 6)')
