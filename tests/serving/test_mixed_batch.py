"""A batch of several tasks gives what each task's own call gives."""

import shutil
from unittest import mock

import jax
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax.data import pipeline
from mtl_jax.data import sources
from mtl_jax.data import transforms
from mtl_jax.serving import mixed_batch
from mtl_jax.serving import system as system_lib
from mtl_jax.serving import task_cache
from mtl_jax.storage import checkpoint

IMAGES = sources.load('digits').test.images


def store(folder, name, like, change=lambda arrays: None, **metadata):
  """Stores a task that differs from the task `like`."""
  work = mtl_jax.load(folder).workdir
  arrays, old = checkpoint.load(work.task(like))
  change(arrays)
  kept = {k: v for k, v in old.items() if k not in checkpoint.OWN}
  checkpoint.save(work.task(name), arrays, kept | {'name': name} | metadata)


def own_head(arrays):
  """Makes coefficients for all leaves the hybrid with a mask for the head."""
  del arrays['coefficients/Dense_2/kernel']
  arrays['masks/Dense_2/kernel'] = np.arange(125, dtype=np.uint8)


def own_values(arrays):
  """Makes masks owned weights: of two leaves, the third is the backbone's."""
  for name in [name for name in arrays if name.startswith('masks/')]:
    del arrays[name]
  rng = np.random.RandomState(3)
  for name, shape in (('Dense_0', (64, 300)), ('Dense_2', (100, 10))):
    arrays[f'values/{name}/kernel'] = rng.standard_normal(shape).astype('f4')


def rotated(degrees):
  return transforms.to_json((transforms.rotate(degrees),
                             transforms.normalise(0.1, 0.3)))


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  """Supermasks, coefficients, owned values, a hybrid, rotations, 4 classes."""
  folder = tiny.learned(tmp_path_factory.mktemp('mixed') / 'run')
  store(folder, 'hybrid', 'permuted-13', own_head)
  store(folder, 'owned', 'permuted-00', own_values)
  store(folder, 'turned-20', 'permuted-01', transforms=rotated(20))
  store(folder, 'turned-70', 'permuted-02', transforms=rotated(70))
  store(folder, 'four', 'permuted-03', classes=4)
  return folder


@pytest.fixture(name='system')
def _system(folder):
  return mtl_jax.load(folder)


def draw(system, n, seed=0, known=None):
  """n images and as many names, every known task at least once."""
  rng = np.random.RandomState(seed)
  known = known or system.tasks
  names = (known + [known[i] for i in rng.randint(0, len(known), n)])[:n]
  rows = rng.randint(0, len(IMAGES), n)
  return IMAGES[rows], [names[i] for i in rng.permutation(n)]


def rows_of(names, name):
  return [i for i, other in enumerate(names) if other == name]


def assert_as_predict(system, x, names, out):
  """Row by row what `predict` gives, and -inf beyond a task's classes."""
  for name in set(names) - {None}:
    rows = rows_of(names, name)
    expected = np.asarray(system.predict(x[rows], task=name))
    classes = expected.shape[1]
    ulp = np.spacing(np.abs(expected).max())
    np.testing.assert_allclose(out[rows, :classes], expected, rtol=0,
                               atol=4 * ulp)
    np.testing.assert_array_equal(out[rows, :classes].argmax(1),
                                  expected.argmax(1))
    assert np.all(out[rows, classes:] == -np.inf)


def test_every_kind_of_impression_in_one_batch(system):
  x, names = draw(system, 120)
  out = system.predict_mixed(x, names)
  assert out.devices() == {jax.devices()[0]}
  if jax.default_backend() == 'cpu':  # so the line above says something
    assert jax.device_count() > 1
  assert out.shape == (120, 10) and out.dtype == np.float32
  assert_as_predict(system, x, names, np.asarray(out))
  kinds = {tuple(part is not None for part in shelf.stack.impression[:4])
           for shelf in system.shelves.of_shape((8, 8, 1))}
  assert kinds == {(True, False, False, False), (False, True, False, False),
                   (True, True, False, False), (False, False, True, False)}
  assert len(system.shelves.of_shape((8, 8, 1))) == 5  # one more: rotations


def test_same_bits_where_products_do_not_depend_on_the_rows(system):
  if jax.default_backend() != 'cpu':
    pytest.skip('the row counts with equal bits were found on CPU')
  x, names = draw(system, 8, known=['permuted-00', 'permuted-13'])
  names = ['permuted-00', 'permuted-13'] * 4
  out = np.asarray(system.predict_mixed(x, names))
  for name in set(names):
    rows = rows_of(names, name)
    np.testing.assert_array_equal(out[rows],
                                  system.predict(x[rows], task=name))


def test_bare_backbone_of_tasks_that_disagree(system):
  with pytest.raises(ValueError, match='None needs transforms that all '
                     r'tasks have in common, but four has .* and turned-20 '
                     r"\[\['normalise', .*; name a task"):
    system.predict_mixed(IMAGES[:2], ['four', None])


def test_bare_backbone(tmp_path):
  system = mtl_jax.load(tiny.learned(tmp_path / 'run'))
  x, names = draw(system, 40, known=[None, 'permuted-00', 'permuted-13'])
  out = np.asarray(system.predict_mixed(x, names))
  assert_as_predict(system, x, names, out)
  rows = rows_of(names, None)
  backbone = system.backbone
  for seed in (0, 1):  # permuted tasks: the common part doesn't permute
    found = transforms.from_json(
        system.task(f'permuted-{seed:02d}').metadata['transforms'])
    common = found[1:]
    assert found[0].kind == 'permute'
  images = pipeline.apply(transforms.kinds(common), pipeline.parameters(
      common, (8, 8, 1)), x[rows])
  expected = backbone.network.apply(backbone.params, backbone.stats, images)[0]
  np.testing.assert_allclose(out[rows], expected, rtol=1e-5, atol=1e-6)


def test_the_bare_backbone_is_that_of_the_tasks_of_now(tmp_path):
  folder = tiny.learned(tmp_path / 'run', 'few')
  system = mtl_jax.load(folder)
  system.predict_mixed(IMAGES[:1], [None])
  mtl_jax.load(folder).learn(  # as another process would
      'digits', name='other', method='supsup', steps=1, batch_size=8,
      normalise=((.3,), (.4,)))
  with pytest.raises(ValueError, match='None needs transforms that all tasks'):
    system.predict_mixed(IMAGES[:1], [None])


def test_norm_statistics_are_the_tasks_own(tmp_path):
  system = mtl_jax.load(tiny.learned(tmp_path / 'run', 'norm'))
  images = sources.load('blobs').test.images
  x = images[np.arange(30) % len(images)]
  names = (system.tasks + [None, system.tasks[0]]) * 6
  out = np.asarray(system.predict_mixed(x, names))
  assert out.shape == (30, 2)
  assert_as_predict(system, x, names, out)
  bare = system.predict_mixed(x[:1], [None])
  np.testing.assert_allclose(out[3], system.predict_mixed(x[3:4], [None])[0],
                             rtol=1e-5, atol=1e-5)
  assert bare.shape == (1, 2)


def test_fewer_classes_make_a_narrower_result(system):
  out = np.asarray(system.predict_mixed(IMAGES[:3], ['four'] * 3))
  assert out.shape == (3, 4) and np.isfinite(out).all()
  out = np.asarray(system.predict_mixed(IMAGES[:2], ['four', 'permuted-00']))
  assert out.shape == (2, 10)
  assert (out == -np.inf).sum() == 6 and np.all(out[0, 4:] == -np.inf)


@pytest.mark.parametrize('n', [1, 2, 3, 17])
def test_one_task(system, n):
  x = IMAGES[:n]
  out = np.asarray(system.predict_mixed(x, ['permuted-05'] * n))
  assert_as_predict(system, x, ['permuted-05'] * n, out)


def test_order_of_rows_does_not_matter(system):
  x, names = draw(system, 60)
  out = np.asarray(system.predict_mixed(x, names))
  order = np.random.RandomState(1).permutation(60)
  again = system.predict_mixed(x[order], [names[i] for i in order])
  np.testing.assert_array_equal(again, out[order])


@pytest.mark.parametrize('width', [2, 4])
def test_several_blocks_at_once(system, width):
  x, names = draw(system, 70)
  with mock.patch.dict(mixed_batch.WIDTH, {'cpu': width}):
    out = np.asarray(system.predict_mixed(x, names))
  assert_as_predict(system, x, names, out)


def test_tasks_within_capacity_compile_nothing(folder, tmp_path, caplog):
  many = shutil.copytree(folder, tmp_path / 'many')
  system, traces = mtl_jax.load(many), []
  apply = system.backbone.network.apply

  def traced(*args, **kwargs):
    traces.append(None)
    return apply(*args, **kwargs)
  network = system.backbone.network._replace(apply=traced)
  system = system_lib.System(system.workdir,
                             system.backbone._replace(network=network))
  for names in (['permuted-00', 'permuted-01'], ['permuted-00'] * 2):
    system.predict_mixed(IMAGES[:4], names * 2)
  assert traces
  traces.clear()
  caplog.clear()
  with jax.log_compiles():
    for i in range(2, 8):
      name = f'permuted-{i:02d}'
      two, one = (np.asarray(system.predict_mixed(IMAGES[:4], names))
                  for names in (['permuted-00', name] * 2, [name] * 4))
      np.testing.assert_allclose(two[1::2], one[1::2], rtol=1e-5, atol=1e-5)
  assert not traces
  assert not [r for r in caplog.records if 'Compiling' in r.getMessage()]
  shelf, = system.shelves.of_shape((8, 8, 1))
  assert len(shelf) == shelf.capacity == 8
  with jax.log_compiles():
    system.predict_mixed(IMAGES[:4], ['permuted-00', 'permuted-08'] * 2)
  assert traces and len(shelf) == 9 and shelf.capacity == 16
  assert [r for r in caplog.records if 'Compiling' in r.getMessage()]


def test_shelves_start_anew_beyond_the_cache(folder):
  system = mtl_jax.load(folder, cache_bytes=1)
  kept = set()
  for name in system.tasks * 2:
    found = system.predict_mixed(IMAGES[:2], [name] * 2)
    assert_as_predict(system, IMAGES[:2], [name] * 2, np.asarray(found))
    kept.add(len(system.shelves._places))
  assert max(kept) <= 2
  system.predict_mixed(IMAGES[:9], system.tasks[:9])
  shelves = system.shelves
  system.predict_mixed(IMAGES[:9], system.tasks[:9])
  assert system.shelves is shelves  # all of one call's are needed


def test_a_shelf_keeps_packed_bits(system):
  system.predict_mixed(IMAGES[:2], ['permuted-04', 'permuted-02'])
  shelf, = system.shelves.of_shape((8, 8, 1))
  assert shelf.names == ['permuted-04', 'permuted-02'] and len(shelf) == 2
  packed = shelf.stack.impression.masks
  assert packed['Dense_0']['kernel'].shape == (8, 64 * 300 // 8)
  for i, name in enumerate(shelf.names):
    bits = jax.tree.map(lambda leaf, i=i: leaf[i], packed)
    jax.tree.map(np.testing.assert_array_equal,
                 task_cache.unpack(bits, system.backbone.params),
                 system.task(name).impression.masks)
  assert all(leaf.dtype == np.uint8 and not leaf[2:].any()
             for leaf in jax.tree.leaves(packed))


@pytest.mark.parametrize('shape, size', [
    ((1,), 1), ((9,), 2), ((7, 3), 3), ((8, 2), 2), ((3, 3, 5, 2), 12),
    ((0, 4), 0)])
def test_planes(shape, size):
  mask = {'w': np.random.RandomState(0).rand(*shape) < 0.5, 'b': None}
  packed = task_cache.pack(mask)
  assert packed['w'].shape == (size,) and packed['w'].dtype == np.uint8
  unpacked = task_cache.unpack(packed, {'w': mask['w'], 'b': np.zeros(3)})
  assert unpacked['b'] is None
  np.testing.assert_array_equal(unpacked['w'], mask['w'])
  with pytest.raises(ValueError, match='packed mask has 7 bytes but w of '):
    task_cache.unpack({'w': np.zeros(7, np.uint8)}, {'w': mask['w']})


def test_a_name_stands_on_a_shelf_once(system):
  system.predict_mixed(IMAGES[:1], ['permuted-04'])
  system.shelves.add([system.task('permuted-04')])
  shelf, = system.shelves.of_shape((8, 8, 1))
  assert shelf.names == ['permuted-04']
  with pytest.raises(ValueError, match='permuted-04 is on the shelf already'):
    shelf.add('permuted-04', None)


def test_plan_pads_blocks_and_puts_rows_back():
  found = mixed_batch.plan(
      np.array([1, 0, 1, 1, 0]), np.array([2, 5, 0, 2, 5]), 2)
  assert found.rows.shape == (2, 2, 2) and found.groups == 2
  assert found.shelf.tolist() == [0, 1]
  assert found.slot.tolist() == [[5, 0], [0, 2]]
  assert found.rows.reshape(-1)[found.position].tolist() == [0, 1, 2, 3, 4]
  assert found.rows.tolist() == [[[1, 4], [0, 0]], [[2, 0], [0, 3]]]


@pytest.mark.parametrize('tasks, text', [
    (['permuted-1', 'permuted-00'], r"unknown task 'permuted-1' \(did you mea"),
    (['permuted-00', 'hybri'], r"unknown task 'hybri' \(did you mean: hybrid"),
    (['permuted-00', '../probe/digits'], "unknown task '../probe/digits'"),
    (['permuted-00', ''], "unknown task ''; known"),
    (['permuted-00', 3], 'a task is named by a string or None, not 3'),
    (['permuted-00'], '2 images but 1 name of tasks'),
    (['permuted-00'] * 3, '2 images but 3 names of tasks'),
    ('permuted-00', "a name, or None, for each of 2 images; got 'permut"),
    ({'permuted-00', 'hybrid'}, 'a sequence with a name, .*; got {'),
    ({'permuted-00': 0, 'hybrid': 1}, 'a sequence with a name, .*; got {'),
    (None, 'a name, or None, for each of 2 images; got None')])
def test_wrong_names(system, tasks, text):
  with pytest.raises(ValueError, match=text):
    system.predict_mixed(IMAGES[:2], tasks)


@pytest.mark.parametrize('x, text', [
    (IMAGES[:2].astype(np.float32), r'uint8 \[n, H, W, C\]; got float32'),
    (IMAGES[0], r'got uint8 \(8, 8, 1\)'),
    (IMAGES[:2].tolist(), 'got list'),
    (np.zeros((2, 28, 28, 1), np.uint8),
     r'task permuted-00 takes .*8, 8, 1\]; got uint8 \(2, 28, 28, 1\)')])
def test_wrong_images(system, x, text):
  for _ in range(2):  # before and after the task is on a shelf
    with pytest.raises(ValueError, match=text):
      system.predict_mixed(x, ['permuted-00'] * 2)
    system.predict_mixed(IMAGES[:2], ['permuted-00'] * 2)


def test_no_task_takes_images_of_that_shape(system):
  with pytest.raises(ValueError, match=r'no task takes images \[9, 9, 1\]'):
    system.predict_mixed(np.zeros((1, 9, 9, 1), np.uint8), [None])


def test_no_rows(system):
  out = system.predict_mixed(IMAGES[:0], [])
  assert out.shape == (0, 0) and out.dtype == np.float32


def test_jax_arrays_and_any_sequence_of_names(system):
  names = ['permuted-00', 'hybrid', 'permuted-00']
  out = system.predict_mixed(IMAGES[:3], names)
  for other in (tuple(names), np.array(names), np.array(names, object)):
    np.testing.assert_array_equal(
        system.predict_mixed(jax.numpy.asarray(IMAGES[:3]), other), out)


def test_predicting_changes_nothing(folder, system):
  before = tiny.files(folder)
  params = jax.tree.map(np.array, system.backbone.params)
  x, names = draw(system, 40)
  first = np.asarray(system.predict_mixed(x, names))
  np.testing.assert_array_equal(system.predict_mixed(x, names), first)
  assert tiny.files(folder) == before
  jax.tree.map(np.testing.assert_array_equal, params, system.backbone.params)
