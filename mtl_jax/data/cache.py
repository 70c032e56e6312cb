"""Decoded images on disk, so that a second start is immediate.

One file per data set, version and split: an uncompressed `.npz` holding
`images`, `labels`, `classes` and `key`, the name under which it was written.
Every member carries a CRC-32, which is checked as it is read: a truncated,
damaged or misplaced file is reported and decoded again, never used. Nothing
executable is loaded (`allow_pickle=False`).

A file is written under a temporary name, flushed to the disk, and moved into
place, so it is either complete or absent. Processes that start together each
decode, and the last one's file stays, with the same bytes. If a cache can't be
written, the run only takes longer. A set whose files were replaced or copied is
decoded anew; earlier decoded files stay until they are removed by hand.
"""

import hashlib
import logging
import os
import pathlib
import re
import tempfile

import numpy as np

from mtl_jax import host
from mtl_jax import npz

_LONGEST = 200  # bytes; disks allow 255, including '.npz' and the like


def directory(cache_dir=None):
  """The folder of decoded sets: the argument, or the first that is set among
  $MTL_JAX_CACHE, $XDG_CACHE_HOME/mtl_jax and ~/.cache/mtl_jax.

  >>> directory('/tmp/images').as_posix()
  '/tmp/images'
  """
  given = os.environ.get('MTL_JAX_CACHE') if cache_dir is None else cache_dir
  if given and host.protocol(given):
    raise ValueError(f'{given} is an address, and decoded images are kept on '
                     'this machine: give a folder as cache_dir or '
                     '$MTL_JAX_CACHE')
  if given or cache_dir is not None:
    return host.expanded(given)
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return host.expanded(home) / 'mtl_jax'


def path(name, version, split, cache_dir=None):
  """The file of one split; distinct names have distinct files.

  >>> path('omniglot:alphabet', '3.0.0', 'test', '/c').as_posix()
  '/c/omniglot%3Aalphabet/3.0.0/test.npz'
  """
  quoted = [_fit(re.sub(r'[^\w.-]', lambda m: f'%{ord(m[0]):02X}', part))
            for part in (name, version, split)]
  return directory(cache_dir).joinpath(*quoted[:2]) / f'{quoted[2]}.npz'


def _fit(name):
  """The name; if it is too long for a folder, it is cut and gets a digest."""
  if len(name.encode()) <= _LONGEST and name.strip('.'):
    return name
  digest = hashlib.sha256(name.encode()).hexdigest()[:32]
  return f'{name.encode()[:_LONGEST - 40].decode(errors="ignore")}%{digest}'


def fetch(name, version, split, decode, cache_dir=None):
  """Reads a split from the cache, or decodes it and writes the cache.

  Args:
    name: str, the source's name.
    version: str, of the original data.
    split: str, 'train' for example.
    decode: function of no arguments that returns (images uint8 [n, H, W, C],
      labels int32 [n], classes int); called only when there is no sound file.
    cache_dir: see `directory`.

  Returns:
    What `decode` returns.

  >>> with tempfile.TemporaryDirectory() as folder:
  ...   decode = lambda: (np.zeros((1, 2, 2, 1), np.uint8),
  ...                     np.zeros(1, np.int32), 10)
  ...   fetch('toy', '1', 'train', decode, folder)[2]
  10
  """
  file = path(name, version, split, cache_dir)
  key = f'{name} {version} {split}'
  found = _read(file, key)
  if found is None:
    found = decode()
    _write(file, key, *found)
  return found


def _read(file, key):
  """The file's arrays, or None if there is no file or it is damaged."""
  try:
    with open(file, 'rb') as stream:
      npz.require_whole(stream)
      members = np.load(stream, allow_pickle=False)
      if str(members['key']) != key:
        raise ValueError(f'it holds {str(members["key"])!r}, not {key!r}')
      images, labels = members['images'], members['labels']
      if (images.dtype, labels.dtype, labels.shape) != (
          np.uint8, np.int32, images.shape[:1]) or images.ndim != 4:
        raise ValueError(f'it holds {images.dtype} {list(images.shape)} and '
                         f'{labels.dtype} {list(labels.shape)}')
      return images, labels, int(members['classes'])
  except FileNotFoundError:
    return None
  except Exception as error:  # a file with any fault is not used
    logging.warning('Cache file %s is damaged (%s: %s); decoding again.', file,
                    type(error).__name__, error)
    return None


def _write(file, key, images, labels, classes):
  temporary = None
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=file.parent, prefix='.writing-', delete=False) as stream:
      temporary = stream.name
      np.savez(stream, allow_pickle=False, images=images, labels=labels,
               classes=np.int64(classes), key=np.array(key))
      stream.flush()
      os.fsync(stream.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, file)
  except OSError as error:
    logging.warning('Decoded images could not be cached in %s (%s); the next '
                    'start will decode them again.', file, error)
    if temporary is not None:
      pathlib.Path(temporary).unlink(missing_ok=True)
