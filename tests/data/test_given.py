"""Arrays, numbers and texts of other kinds, and the remedies that are named."""

import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.data import sources

RANDOM = np.random.RandomState(0)
IMAGES = RANDOM.randint(0, 256, (60, 4, 4), np.uint8)
LABELS = np.arange(60) % 3
COLUMN = np.arange(30.)


def made(images=IMAGES, labels=LABELS, **options):
  return sources.from_arrays('mine', images, labels, **options)


@pytest.mark.parametrize('labels, text, mended', [
    (np.eye(3, dtype=int)[LABELS], r'not int64 \[60, 3\]; if they are one-hot, '
     r'give labels\.argmax\(1\)', lambda a: a.argmax(1)),
    (LABELS[:, None], r'not int64 \[60, 1\]; give labels\[:, 0\]',
     lambda a: a[:, 0]),
    (np.array(list('abc'))[LABELS], 'not <U1; number them: class_names, labels '
     r'= np\.unique', lambda a: np.unique(a, return_inverse=True)[1]),
    (LABELS.astype(float), r'not float64; give labels\.astype\(int\)',
     lambda a: a.astype(int)),
    (np.where(LABELS == 1, 2 ** 40, LABELS.astype(np.uint64)),
     '1099511627776 in row 1 does not fit int32; renumber',
     lambda a: np.unique(a, return_inverse=True)[1]),
    (LABELS - 1, '-1 in row 0 is below 0; 20 such '
     'rows; leave them out, or renumber',
     lambda a: np.unique(a, return_inverse=True)[1]),
])
def test_labels_of_other_kinds(labels, text, mended):
  with pytest.raises(ValueError, match=f"'mine', split 'train': label.*{text}"):
    made(labels=labels)
  assert made(labels=mended(labels)).classes >= 3


@pytest.mark.parametrize('labels, text', [
    (np.int32(0), r'not int32 \[\]; give a list'),
    ((n for n in LABELS), r'are a generator.*np\.array\(list\(labels\)\)'),
    (np.ma.array(LABELS, mask=LABELS == 2), r'masked entries.*\.filled\(\)'),
    (LABELS / 7, 'to sources.from_table')])
def test_labels_that_are_none(labels, text):
  with pytest.raises(ValueError, match=f"'mine', split 'train': label.*{text}"):
    made(labels=labels)


def test_a_label_is_named_by_its_own_row():
  labels = LABELS.copy()
  labels[57] = 3
  with pytest.raises(ValueError, match=r'label 3 in row 57 is not in \[0, 3\)'):
    made(labels=labels, classes=3)


@pytest.mark.parametrize('images, text, mended', [
    (np.zeros((60, 3, 4, 4), np.uint8), r'np\.moveaxis\(images, 1, -1\)',
     lambda a: np.moveaxis(a, 1, -1)),
    (np.zeros((60, 4, 4, 4), np.uint8), r'leave it out: images\[\.\.\., :3\]',
     lambda a: a[..., :3]),
    (IMAGES > 9, r'give images\.astype\(np\.uint8\) \* 255',
     lambda a: a.astype(np.uint8) * 255),
    (IMAGES.reshape(60, 16), r'images\.reshape\(n, H, W\)',
     lambda a: a.reshape(60, 4, 4)),
    (IMAGES / 255, r'give \(images \* 255\)\.round\(\)\.astype\(np\.uint8\)',
     lambda a: (a * 255).round().astype(np.uint8)),
    (IMAGES.astype(int), r'give images\.astype\(np\.uint8\)',
     lambda a: a.astype(np.uint8)),
    (IMAGES.astype(np.uint16) * 257,
     r'give \(images // 257\)\.astype\(np\.uint8\)',
     lambda a: (a // 257).astype(np.uint8)),
    (iter(IMAGES), r'which can be read only once; give np\.array\(list',
     lambda a: np.array(list(a)))])
def test_images_of_other_kinds(images, text, mended):
  with pytest.raises(ValueError, match=f"source 'mine'.*{text}"):
    made(images)
  assert made(mended(images)).classes == 3


@pytest.mark.parametrize('given', [
    IMAGES[:2], {'images': IMAGES[:2], 'labels': LABELS[:2]}, IMAGES[:1]])
def test_a_split_is_a_pair(given):
  with pytest.raises(ValueError, match="split 'test': it is a .*, not a pair "):
    made(test=given)


def test_other_arguments_of_other_kinds():
  names = made(class_names=(name for name in 'abc')).class_names
  assert names == ('a', 'b', 'c')
  for wrong in (dict(version=3), dict(stratified='no'), dict(class_names=3)):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
      made(classes=3, **wrong)


@pytest.mark.parametrize('features, text', [
    (COLUMN[:, None] + 1j, 'features are complex128; give real numbers'),
    (np.array([['1']] * 30), 'features are <U1; give real numbers'),
    (np.zeros((30, 0)), r'features are \[30, 0\].*at least one column'),
    (np.where(COLUMN == 4, np.nan, COLUMN)[:, None],
     r'features hold nan at \[4, 0\], one of 1 value'),
    (np.where(COLUMN == 4, -1e308, 1e308)[:, None],
     r'features hold 1e\+308 at \[0, 0\], one of 30 values')])
def test_tables_of_other_kinds(features, text):
  with pytest.raises(ValueError, match=f"source 't': {text}"):
    sources.from_table('t', features, COLUMN)


@pytest.mark.parametrize('texts, text', [
    ('ab' * 15, 'texts are one str; give a list of strings'),
    ([b'a b', b'c'] * 15, r"text 0 is b'a b', of type bytes; \.decode\(\) it"),
    (['a b', None] * 15, 'text 1 is None, of type NoneType')])
def test_texts_of_other_kinds(texts, text):
  with pytest.raises(ValueError, match=f"source 't', split 'train': {text}"):
    sources.from_texts('t', (texts, [0, 1] * 15))


def test_texts_from_a_generator():
  plain, drawn = (sources.from_texts('t', (texts, [0, 1] * 15)).train for texts
                  in (['a b', 'c'] * 15, iter(['a b', 'c'] * 15)))
  np.testing.assert_array_equal(plain.images, drawn.images)
  with pytest.raises(ValueError, match=r'words is 9\.0 and length 128'):
    sources.from_texts('t', (['a b', 'c'] * 15, [0, 1] * 15), words=9.)


@pytest.mark.parametrize('labels, text, mended', [
    (LABELS[None], r'give labels\[0\], or', lambda a: a[0]),
    (LABELS.astype('m8[s]'), 'not timedelta64.s.; number them',
     lambda a: np.unique(a, return_inverse=True)[1]),
    (np.asarray(jnp.asarray(LABELS, jnp.bfloat16)),
     r'not bfloat16; give labels\.astype\(int\)', lambda a: a.astype(int)),
    (np.asarray(jnp.asarray(LABELS, jnp.int4)),
     r'not int4; give labels\.astype\(int\)', lambda a: a.astype(int)),
])
def test_labels_of_rarer_kinds(labels, text, mended):
  with pytest.raises(ValueError, match=text):
    made(labels=labels)
  assert made(labels=mended(labels)).classes == 3


@pytest.mark.parametrize('hole', [np.nan, np.inf])
def test_labels_with_holes_are_no_numbers_to_predict(hole):
  with pytest.raises(ValueError, match='float64; leave out the rows'):
    made(labels=np.where(LABELS == 1, hole, LABELS))
  with pytest.raises(ValueError, match='given to sources.from_table'):
    made(labels=np.where(LABELS == 1, hole, LABELS + .5))


@pytest.mark.parametrize('names', [
    3, {'a', 'b', 'c'}, {'b': 0, 'a': 1, 'c': 2}, {0: 'a', 1: 'b', 2: 'c'}])
def test_names_of_classes_have_an_order(names):
  with pytest.raises(ValueError, match='sequence of strings, the first for cl'):
    made(class_names=names)


@pytest.mark.parametrize('texts', [None, 3, {'a', 'b'}, {'a': 0, 'b': 1}])
def test_texts_have_an_order(texts):
  with pytest.raises(ValueError, match='in the order of the labels'):
    sources.from_texts('mine', (texts, [0, 1]))
