"""Folders of images: which files are read, and what their classes are.

    CLASS/IMAGE               one folder per class; files may be in sub-folders
    train/CLASS/IMAGE         the same with splits: train, and optionally valid
                              (or val, validation) and test

Classes are numbered by their names in alphabetical order ('1', '10', '2'); the
source keeps the names. Every file is read or reported: a file whose content is
not an image is left out, and a note says so. Files and folders whose names
begin with a dot are hidden, at every depth, and so are those that systems make
for themselves: thumbnails, recycle bins, `__MACOSX`.
"""

import difflib
import functools
import hashlib
import json
import logging
import os
import pathlib
import re
import stat
import unicodedata
from typing import NamedTuple

import numpy as np

from mtl_jax import host
from mtl_jax.data import cache
from mtl_jax.data import pictures

_SPLITS = {'train': 'train', 'test': 'test', 'valid': 'valid', 'val': 'valid',
           'validation': 'valid'}
# Files with these suffixes are meant as images; others are tried by content.
_SUFFIXES = ('.avif', '.bmp', '.gif', '.ico', '.jfif', '.jp2', '.jpe', '.jpeg',
             '.jpg', '.pbm', '.pgm', '.png', '.pnm', '.ppm', '.tga', '.tif',
             '.tiff', '.webp')
# Of macOS's archives, Synology, QNAP, Windows and Linux, in lower case.
_OF_SYSTEMS = ('__macosx', '@eadir', '#recycle', '@recycle',
               '@recently-snapshot', '$recycle.bin',
               'system volume information', 'lost+found')
_KINDS = {stat.S_IFIFO: 'a FIFO', stat.S_IFSOCK: 'a socket',
          stat.S_IFCHR: 'a device', stat.S_IFBLK: 'a device'}
_SHOWN = 10  # largest number of file names in a note
_NUMBERED = 20  # largest number of class names in a note


class Folder(NamedTuple):
  """The content of a folder.

  Attributes:
    version: digest of the content.
    class_names: name of every class.
    splits: by name, (images uint8 [n, H, W, C], labels int32 [n]).
    notes: sentences about files that were left out.
  """
  version: str
  class_names: tuple[str, ...]
  splits: dict[str, tuple[np.ndarray, np.ndarray]]
  notes: tuple[str, ...]


def read(name, root, size, cache_dir) -> Folder:
  """Reads a folder of images.

  Args:
    name: name of the source, for messages and the cache.
    root: the folder.
    size: (H, W) or (H, W, C) to resize to, or `None`.
    cache_dir: see `cache.directory`.

  Raises:
    FileNotFoundError: the folder doesn't exist, or it contains no class.
    ValueError: a class has no images, a file can't be read, or a folder
      contains itself or occurs twice; names it.
  """
  root = _found(name, root)
  parts, beside = _split_folders(name, root)
  listed = {split: _classes(name, part, root) for split, part in parts.items()}
  names = sorted(set().union(*listed.values()))
  if not names:
    raise FileNotFoundError(
        f'source {name!r}: {root} has no class folders; expected '
        'CLASS/IMAGE.png, or train/CLASS/IMAGE.png with valid/ and test/')
  walk = _Walk(name, root)
  splits, version = {}, hashlib.sha256()
  left_out = [*beside, *(f for part in parts.values() for f in _loose(part))]
  for split, part in parts.items():
    found = {c: walk.files(listed[split][c]) if c in listed[split] else []
             for c in names}
    files = [(f, i) for i, c in enumerate(names) for f in found[c]
             if is_image(f)]
    left_out += [f for c in names for f in found[c] if not is_image(f)]
    if split == 'train':
      _require_images(name, part, found)
    elif not files:
      raise ValueError(
          f'source {name!r}: {part} has no image in a class folder; put them '
          f'into {part.name}/CLASS/, or remove {part.name}')
    splits[split] = _cached(name, split, root, names, files, size, cache_dir)
    version.update(splits[split][0].tobytes() + splits[split][1].tobytes())
  shown = tuple(map(_shown, names))
  return Folder(version.hexdigest()[:16], shown, splits, (
      *_numbers(name, shown), *_note(name, root, left_out)))


def _found(name, given):
  """The folder of a source's name."""
  if not given:
    raise FileNotFoundError(f'source {name!r} names no folder; write '
                            "'folder:PATH', or 'folder:.' for this one")
  if re.match(r'[A-Za-z][\w+.-]+://', given):
    raise FileNotFoundError(
        f'source {name!r}: {given} is an address, and images are read from '
        'folders of this machine; copy them here, and give that folder')
  root = host.expanded(given)
  if root.is_dir():
    return root
  before = given.rpartition('@')[0].removesuffix('!label')
  raise FileNotFoundError(
      f'source {name!r}: there is no folder {root}; ' + (
          'a size is written @HEIGHTxWIDTH, or @HEIGHTxWIDTHx1 or x3 with its '
          'channels, at the end' if before and host.expanded(before).is_dir()
          else 'give the folder of your images, as in --config=folder:PATH'))


def snapshot(path) -> str:
  """A digest that changes when a file, or any file below a folder, changes."""
  files = [path] if path.is_file() else sorted(
      pathlib.Path(folder, name) for folder, below, names in os.walk(path)
      for name in (*below, *names))
  found = [[str(file), *seen(file)] for file in files if file.exists()]
  return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _require_images(name, part, found):
  for class_, files in found.items():
    if not any(map(is_image, files)):
      held = ', '.join(_shown(f.name) for f in files[:3])
      raise ValueError(
          f'source {name!r}: {part / class_} holds no image that can be read'
          f'{f" (but {held})" if held else ""}; a class without images cannot '
          'be learned: give it some, or remove its folder from every split')


@functools.lru_cache(maxsize=1 << 16)
def _is_picture(file, state):
  del state  # part of the cache's key, so that changed files are read again
  return pictures.readable(file)


def is_hidden(name) -> bool:
  """Whether a file or folder of that name is not part of the data."""
  return name.startswith('.') or name.lower() in _OF_SYSTEMS


def is_image(file) -> bool:
  """Whether a file is meant as an image, by its name or its content."""
  return file.suffix.lower() in _SUFFIXES or _is_picture(file, seen(file))


def seen(file) -> tuple[int, int, int]:
  """A value that changes when a file does, even if its time is set back."""
  found = file.stat()
  if not hasattr(found, 'st_size'):  # of an address
    return found.length, found.mtime, 0
  return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _cached(name, split, root, names, files, size, cache_dir):
  """One split, from the cache if no file has changed."""
  listing = [[f.relative_to(root).as_posix(), *seen(f)] for f, _ in files]
  state = hashlib.sha256(json.dumps([names, listing]).encode()).hexdigest()
  where = f'source {name!r}, split {split!r}'

  def decode():
    images = ((file, pictures.read(where, file, file)) for file, _ in files)
    return (pictures.stack(where, len(files), images, size),
            np.array([label for _, label in files], np.int32), len(names))
  # 'shown' says how images are decoded; other ways have other words.
  return cache.fetch(name, f'{state[:16]}-shown', split, decode, cache_dir)[:2]


def _split_folders(name, root):
  """({split: folder}, other files); without splits, the root is train."""
  inside = sorted(f.name for f in root.iterdir()
                  if f.is_dir() and not is_hidden(f.name))
  named = [f for f in inside if f in _SPLITS]
  found = {split: root / f for split in ('train', 'valid', 'test')
           for f in named if _SPLITS[f] == split}
  wrong = [f for f in inside if f not in _SPLITS and (
      re.fullmatch('(?i)(train|test|val|valid|eval|dev)(ing|idation|uation)?',
                   f) or named and difflib.get_close_matches(
                       f.lower(), _SPLITS, cutoff=.7))]
  if wrong or len(found) < len(named) or found and 'train' not in found:
    raise FileNotFoundError(
        f"source {name!r}: {root} has {inside}; expected class folders alone, "
        "or 'train' with one 'valid' (or 'val') and 'test' beside it")
  if not found:
    return {'train': root}, []
  return found, [root / f for f in inside if f not in named] + _loose(root)


def _loose(folder):
  """Files outside of the class folders."""
  return [f for f in sorted(folder.iterdir())
          if not f.is_dir() and not is_hidden(f.name)]


def _classes(name, part, root):
  """{class: its folder}; names that look the same are one class."""
  found: dict[str, pathlib.Path] = {}
  for folder in sorted(part.iterdir()):
    if is_hidden(folder.name) or not folder.is_dir():
      continue
    # A disk may store an accented letter as one character or as two.
    other = found.setdefault(unicodedata.normalize('NFC', folder.name), folder)
    if other != folder:
      raise ValueError(
          f'source {name!r}: {root} has two folders {other.name!r}, whose '
          'names differ only in how accents are written; rename one')
  return found


class _Walk:
  """Finds the files of folders; visits each folder once."""

  def __init__(self, name, root):
    self._where = f'source {name!r}'
    self._visited = {}
    real = pathlib.Path(os.path.realpath(root))
    self._above = {str(folder) for folder in (real, *real.parents)}

  def files(self, folder):
    """The files below a folder, ordered by path.

    Raises:
      ValueError: a folder contains itself or occurs twice, or something is
        neither a folder nor a file; names it.
    """
    real = os.path.realpath(folder)
    other = self._visited.setdefault(real, folder)
    if other != folder or real in self._above:
      held = real if real in self._above else other
      raise ValueError(f'{self._where}: {folder} is a link to {held}, whose '
                       'images would be taken twice; remove the link')
    found = []
    self._above.add(real)
    for path in sorted(self._listed(folder)):
      if is_hidden(path.name):
        continue
      if path.is_dir():
        found += self.files(path)
      elif path.is_file():
        found.append(path)
      else:
        raise ValueError(f'{self._where}: {path} is {_kind(path)}, not a file; '
                         'remove it')
    self._above.remove(real)
    return found

  def _listed(self, folder):
    try:
      return list(folder.iterdir())
    except OSError as error:
      raise ValueError(f'{self._where}: {folder} can not be read ({error}); '
                       'allow it, or remove the folder') from error


def _kind(path):
  try:
    return _KINDS.get(stat.S_IFMT(path.stat().st_mode), 'something else')
  except OSError:
    return 'a link to nothing'


def _shown(name):
  """A name that can be printed; undecodable bytes are escaped."""
  return os.fsencode(str(name)).decode('utf-8', 'replace')


def _numbers(name, class_names):
  """The number of every class as a sentence; none if it equals the name."""
  if class_names == tuple(map(str, range(len(class_names)))):
    return ()
  more = len(class_names) - _NUMBERED
  return (f'source {_shown(name)!r}: class '
          + ', '.join(f'{i} is {c}'
                      for i, c in enumerate(class_names[:_NUMBERED]))
          + (f' and {more} more' if more > 0 else ''),)


def _note(name, root, left_out):
  """Sentences about files that were left out, which are also logged."""
  if not left_out:
    return ()
  names = [_shown(f.relative_to(root)) for f in left_out]
  more = len(names) - _SHOWN
  files = '1 file or folder is' if len(names) == 1 else (
      f'{len(names)} files or folders are')
  note = (f'source {_shown(name)!r}: {files} no image of a class and left out: '
          + ', '.join(names[:_SHOWN]) + (f' and {more} more' if more > 0
                                         else ''))
  logging.warning('%s', note)
  if more > 0:
    logging.info('%s: left out: %s', name, ', '.join(names))
  return (note,)
