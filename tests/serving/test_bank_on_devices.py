"""Task inference whose bits are divided over several devices."""

import jax
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax.data import sources
from mtl_jax.parallel import divided
from mtl_jax.serving import candidate_shelf

DEVICES = 4
MASKED = ['permuted-00', 'permuted-01', 'permuted-02']
COMBINED = ['permuted-03', 'permuted-04']
IMAGES = sources.load('digits').test.images[:32]

pytestmark = pytest.mark.skipif(jax.local_device_count() < DEVICES,
                                reason=f'needs {DEVICES} devices')


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  return tiny.learned(tmp_path_factory.mktemp('divided') / 'run', 'infer')


@pytest.fixture(name='spread')
def _spread(folder, monkeypatch):
  monkeypatch.setattr(divided, 'accelerators',
                      lambda: jax.local_devices()[:DEVICES])
  return mtl_jax.load(folder)


@pytest.mark.parametrize('rule', ['one_shot', 'binary', 'brute_force'])
@pytest.mark.parametrize('names', [MASKED, COMBINED, MASKED + COMBINED],
                         ids=['masks', 'coefficients', 'both'])
def test_the_same_as_on_one_device(folder, spread, rule, names):
  whole = mtl_jax.load(folder)
  shown = whole.observe(IMAGES, names[0])
  wanted = whole.identify(shown, rule, names=names)
  found = spread.identify(shown, rule, names=names)
  assert found.task == wanted.task and found.passes == wanted.passes
  np.testing.assert_allclose(list(found.gradient.values()),
                             list(wanted.gradient.values()), rtol=1e-3,
                             atol=1e-5)


def test_a_device_holds_its_part_of_the_bits_and_sends_none(spread,
                                                            monkeypatch):
  texts, infer = [], candidate_shelf._infer

  def compiled(*args):
    texts.append(infer.lower(*args).compile().as_text())
    return infer(*args)
  monkeypatch.setattr(candidate_shelf, '_infer', compiled)
  shown = spread.observe(IMAGES, MASKED[0])
  spread.identify(shown, names=MASKED[:1])
  spread.identify(shown, names=MASKED)  # a new row, and the backbone's copy
  stack, = spread._identifiable._stacks.values()
  for leaf in jax.tree.leaves(stack.tree):
    shards = leaf.addressable_shards
    assert len(shards) == DEVICES
    assert shards[0].data.nbytes * DEVICES == leaf.nbytes
  for text in texts:
    moved = [line for line in text.splitlines() if ' all-gather(' in line
             or ' all-to-all(' in line or ' collective-permute(' in line]
    assert not [line for line in moved if ' u8[' in line], moved
    assert ' all-reduce(' in text


def test_bits_that_do_not_divide_are_whole_on_each_device():
  devices = jax.local_devices()[:DEVICES]
  found = divided.divide_bits({'bits': np.zeros((3, 10), np.uint8),
                             'numbers': np.zeros((3, 8), np.float32)}, devices)
  for leaf in found.values():
    assert len(leaf.addressable_shards) == DEVICES
    assert leaf.addressable_shards[0].data.shape == leaf.shape
