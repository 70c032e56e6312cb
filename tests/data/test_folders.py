"""Folders of images: every file is read or named, each once."""

import logging
import os
import shutil
import socket
import unicodedata

import numpy as np
import pytest
from PIL import Image

from mtl_jax.data import sources


def picture(file, value=7, format_='PNG', size=(2, 2)):
  file.parent.mkdir(parents=True, exist_ok=True)
  Image.new('L', size, value).save(file, format_)
  return file


@pytest.fixture(name='root')
def _root(tmp_path):
  """Two classes of six different images each."""
  for i in range(12):
    picture(tmp_path / 'data' / 'ab'[i % 2] / f'{i:02d}.png', 20 * i)
  return tmp_path / 'data'


def load(root, more=''):
  sources._load.cache_clear()  # as a new process would
  return sources.load(f'folder:{root}{more}', root.parent / 'cache')


def count(source):
  return sum(len(part.labels) for part in (source.train, source.valid,
                                           source.test))


def test_images_are_known_by_their_content(root):
  picture(root / 'a' / 'one.jfif', 1, 'JPEG')
  picture(root / 'a' / 'two', 2, 'BMP')
  picture(root / 'b' / 'deep' / 'three.dat', 3, 'TIFF')
  picture(root / 'b' / 'four.PNG', 4)
  assert count(load(root)) == 16


def test_what_is_no_image_is_named(root, caplog):
  for name in ('a/notes.txt', 'a/IMG_1.heic', 'b/labels.csv', 'README'):
    (root / name).write_text('no image')
  with caplog.at_level(logging.WARNING):
    source = load(root)
  assert count(source) == 12
  named = 'README, a/IMG_1.heic, a/notes.txt, b/labels.csv'
  note, = (n for n in source.notes if 'left out' in n)
  assert '4 files or folders are no image of a class and left out: ' in note
  assert note.endswith(named) and named in caplog.text


def test_many_files_that_are_no_images_are_counted(root, caplog):
  for i in range(30):
    (root / 'a' / f'{i}.txt').write_text('no image')
  with caplog.at_level(logging.INFO):
    assert load(root).notes[-1].endswith('a/17.txt and 20 more')
  assert all(f'a/{i}.txt' in caplog.text for i in range(30))


def test_a_file_that_is_meant_as_an_image_must_be_one(root):
  (root / 'a' / 'x.JFIF').write_text('no image')
  with pytest.raises(ValueError, match='x.JFIF can not be read as an image'):
    load(root)


def test_hidden_files_and_folders_are_hidden_at_every_depth(root):
  for name in ('.DS_Store', 'a/._00.png', 'a/.cache/x.png', 'b/c/.git/y.png',
               '.hidden/a/z.png'):
    picture(root / name, 99)
  source = load(root)
  assert count(source) == 12 and source.class_names == ('a', 'b')
  assert not any('left out' in note for note in source.notes)


@pytest.mark.parametrize('link, target', [
    ('self', '.'), ('a/self', '..'), ('up', '..'), ('a/deep/loop', '../..'),
    ('c', 'a'), ('b/more', '../a'), ('a/again', 'deep')])
def test_a_folder_stands_once(root, link, target):
  picture(root / 'a' / 'deep' / 'x.png')
  (root / link).symlink_to(target, target_is_directory=True)
  with pytest.raises(ValueError, match='is a link to .*, whose images would be '
                     'taken twice; remove the link'):
    load(root)


def test_a_test_split_that_links_to_the_training_split(root):
  shutil.copytree(root, root / 'train')
  for name in 'ab':
    shutil.rmtree(root / name)
  (root / 'test').symlink_to('train', target_is_directory=True)
  with pytest.raises(ValueError, match='test/a is a link to .*train/a'):
    load(root)
  (root / 'test').unlink()
  shutil.copytree(root / 'train', root / 'test')
  with pytest.raises(ValueError, match='its 12 test images are its 11 train'):
    load(root)


def test_links_to_other_places_are_followed(root, tmp_path):
  elsewhere = tmp_path / 'elsewhere'
  for i in range(4):
    picture(elsewhere / f'{i}.png', 5 + i)
  (root / 'c').symlink_to(elsewhere, target_is_directory=True)
  (root / 'a' / 'link.png').symlink_to(elsewhere / '0.png')
  source = load(root)
  assert source.class_names == ('a', 'b', 'c') and count(source) == 17


@pytest.mark.parametrize('kind', ['FIFO', 'socket', 'link to nothing'])
@pytest.mark.parametrize('name', ['x.png', 'x'])
def test_what_is_no_file_is_refused_before_it_is_opened(root, kind, name,
                                                        monkeypatch):
  if kind == 'FIFO':
    os.mkfifo(root / 'a' / name)  # which blocks whoever opens it
  elif kind == 'socket':
    monkeypatch.chdir(root / 'a')  # its path must be short
    with socket.socket(socket.AF_UNIX) as made:
      made.bind(name)
  else:
    (root / 'a' / name).symlink_to('nowhere')
  with pytest.raises(ValueError, match=f'a/{name} is a {kind}, not a file; '
                     'remove it'):
    load(root)


def test_devices_are_refused(root):
  (root / 'a' / 'x.png').symlink_to('/dev/zero')  # which never ends
  with pytest.raises(ValueError, match='a/x.png is a device, not a file'):
    load(root)


def test_classes_keep_their_names(tmp_path):
  for i in range(1, 12):
    for j in range(5):
      picture(tmp_path / 'data' / str(i) / f'{j}.png', i)
  source = load(tmp_path / 'data')
  names = ('1', '10', '11', '2', '3', '4', '5', '6', '7', '8', '9')
  assert source.class_names == names
  for part in (source.train, source.valid, source.test):
    assert [names[label] for label in part.labels] == [
        str(pixel) for pixel in part.images[:, 0, 0, 0]]
  assert ': class 0 is 1, 1 is 10, 2 is 11, 3 is 2, ' in source.notes[0]


def test_classes_that_are_called_by_their_numbers_need_no_sentence(tmp_path):
  for i in range(20):
    picture(tmp_path / 'data' / str(i % 2) / f'{i}.png', i)
  assert load(tmp_path / 'data').notes == ()


def test_names_of_any_letters(tmp_path):
  names = ('日本', 'a b', 'A', 'a', 'x' * 200, 'ж=1@3x3', 'con.', "o'h\"<b>")
  for i, name in enumerate(names):
    for j in range(5):
      picture(tmp_path / 'da ta' / name / f'{j}.png', 9 * i + j)
  source = load(tmp_path / 'da ta')
  assert source.class_names == tuple(sorted(names))


def test_bytes_that_are_no_letters_can_be_written(tmp_path):
  for name in (b'\xff', b'b'):
    for j in range(5):
      folder = tmp_path / 'data' / os.fsdecode(name)
      picture(folder / f'{j}.png', j)
  assert load(tmp_path / 'data').class_names == ('b', '\ufffd')
  (folder / os.fsdecode(b'\xfe.txt')).write_text('no image')
  load(tmp_path / 'data').notes[-1].encode()


def test_an_accent_is_one_however_it_is_written(tmp_path):
  one, two = (unicodedata.normalize(form, 'é') for form in ('NFC', 'NFD'))
  for i, folder in enumerate((f'train/{one}', 'train/x', f'test/{two}',
                              'test/x')):
    for j in range(4):
      picture(tmp_path / 'data' / folder / f'{j}.png', 20 * i + j)
  source = load(tmp_path / 'data')
  assert source.class_names == ('x', one)
  assert source.test.labels.tolist() == [0] * 4 + [1] * 4
  picture(tmp_path / 'data' / 'train' / two / '0.png')
  with pytest.raises(ValueError, match='names differ only in how accents'):
    load(tmp_path / 'data')


def test_a_path_that_looks_like_a_size_or_a_name(tmp_path):
  for name in ('x@2x2', 'a=b', 'x!label'):
    for i in range(12):
      picture(tmp_path / name / 'ab'[i % 2] / f'{i}.png', 20 * i, size=(3, 3))
    assert load(tmp_path / name).image_shape == (3, 3, 1)
  assert load(tmp_path / 'x@2x2', '@5x4').image_shape == (5, 4, 1)
  source = load(tmp_path / 'x!label', '!label')
  assert np.bincount(source.test.labels).tolist() == [1, 1]


def test_classes_are_divided_alike(root):
  for i in range(8):
    picture(root / 'rare' / f'{i}.png', i)
  source = load(root, '!label')
  assert [np.bincount(part.labels).tolist() for part in (
      source.train, source.valid, source.test)] == [
          [4, 4, 6], [1, 1, 1], [1, 1, 1]]
  assert source.class_names == ('a', 'b', 'rare')
  picture(root / 'one' / '0.png')
  with pytest.raises(ValueError, match='a group of 1 image is too small'):
    load(root, '!label')


def test_a_class_of_one_image_is_trained(tmp_path):
  for i in range(40):
    picture(tmp_path / 'data' / 'ab'[i % 2] / f'{i}.png', i)
  for place in range(6):  # somewhere it would be for the test
    folder = tmp_path / 'data' / ('Z' if place % 2 else 'z') / str(place)
    picture(folder / 'only.png', 99)
    source = load(tmp_path / 'data')
    assert 99 in source.train.images
    shutil.rmtree(folder.parent)


def test_a_changed_file_is_looked_at_again(root):
  (root / 'a' / 'x').write_text('no image')
  assert count(load(root)) == 12
  picture(root / 'a' / 'x', 3)
  assert count(load(root)) == 13


def test_what_earlier_versions_decoded_is_not_taken(root):
  """They ignored the tag that says how a picture stands."""
  exif = Image.Exif()
  exif[0x112] = 6
  for file in sorted(root.rglob('*.png')):
    Image.new('L', (2, 3), 9).save(file, exif=exif)
  assert load(root).image_shape == (2, 3, 1)
  states = [f.parent.name for f in (root.parent / 'cache').rglob('*.npz')]
  assert states and all(state.endswith('-shown') for state in states)


def test_long_paths_are_cached(tmp_path):
  root = tmp_path / 'long' / ('x' * 120) / ('ü' * 90)
  for i in range(12):
    picture(root / 'ab'[i % 2] / f'{i}.png', 20 * i)
  sources._load.cache_clear()
  cache = tmp_path / 'cache'
  sources.load(f'folder:{root}', cache)
  assert len(list(cache.rglob('*.npz'))) == 1


def test_mixed_sizes_and_colours_are_named(root):
  Image.new('RGB', (2, 2)).save(root / 'b' / 'colour.png')
  with pytest.raises(ValueError, match='b/colour.png is .2, 2, 3. but the first'
                     ' image is .2, 2, 1.; add a size to the name'):
    load(root)
  assert load(root, '@2x2x3').image_shape == (2, 2, 3)


def test_empty_classes_say_what_is_there(root):
  (root / 'c').mkdir()
  (root / 'c' / 'IMG.heic').write_text('no image')
  with pytest.raises(ValueError, match=r'data/c holds no image that can be read'
                     r' \(but IMG.heic\); a class without images'):
    load(root)


@pytest.mark.parametrize('own', ['__MACOSX', 'a/@eaDir/00.png', '$RECYCLE.BIN',
                                 'b/lost+found'])
def test_folders_of_systems_are_no_data(root, own):
  before = load(root)
  picture(root / own / 'SYNOPHOTO_THUMB_M.png', 99)
  after = load(root)
  assert (count(after), after.class_names) == (12, ('a', 'b'))
  assert (after.version, after.notes) == (before.version, before.notes)


@pytest.mark.parametrize('more, said', [
    ('@0x4', 'images of 0 x 4 pixels cannot be made; .* from 1 to 16,384'),
    ('@99999999x9', 'images of 99999999 x 9 pixels cannot be made'),
    ('@4', 'a size is written @HEIGHTxWIDTH'), ('@4X4', 'a size is written'),
    ('@4x4x2', 'or @HEIGHTxWIDTHx1 or x3'), ('@4x4!label', 'at the end'),
    ('/none', 'there is no folder .*none; give the folder')])
def test_sizes_that_no_image_can_have(root, more, said):
  with pytest.raises((ValueError, FileNotFoundError), match=said):
    load(root, more)
  assert load(root, '@4x4').image_shape == (4, 4, 1)


@pytest.mark.parametrize('name, said', [
    ('folder:', "names no folder; write 'folder:PATH', or 'folder:.'"),
    ('folder:gs://mine/images', 'gs://mine/images is an address, .* copy'),
    ('folder:file:///images', 'file:///images is an address')])
def test_names_of_no_folder_here(name, said):
  with pytest.raises(FileNotFoundError, match=said):
    sources.load(name)


@pytest.mark.parametrize('split', ['test', 'valid'])
def test_a_split_without_classes_is_named(root, split):
  for folder in 'ab':
    (root / folder).rename(picture(root / 'train' / 'x.png').parent / folder)
  picture(root / split / '0.png')
  with pytest.raises(ValueError, match=(
      f'{split} has no image in a class folder; put them into {split}/CLASS/')):
    load(root)
  shutil.rmtree(root / split)
  assert count(load(root)) == 12
