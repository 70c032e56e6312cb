"""Reads image folders and prepared TFDS sets as plain arrays.

TFDS is imported only to decode, and never asked to download or to prepare.
"""

import difflib
import functools
import hashlib
import io
import json
import logging
import pathlib
import re

import numpy as np

from mtl_jax.data import cache
from mtl_jax.data import label_makers

# TFDS keeps the shapes of dSprites as ones.
_FACTORS = {'dsprites': 255}
_SPLITS = {'train': 'train', 'test': 'test', 'valid': 'valid', 'val': 'valid',
           'validation': 'valid'}
_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV',
          'LAB')  # Pillow's, of 8 bits
_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.gif', '.pgm', '.ppm', '.tif',
             '.tiff', '.webp')


def split_size(name):
  """'omniglot@28x28x1' -> ('omniglot', (28, 28, 1)); C may be missing."""
  match = re.fullmatch(r'(.+)@(\d+)x(\d+)(?:x([13]))?', name)
  if not match:
    return name, None
  base, *size = match.groups()
  return base, tuple(int(s) for s in size if s)


def _shrink(image, size):
  """Resizes one uint8 [H, W, C] image; Pillow's bilinear filter."""
  if size is None:
    return image
  from PIL import Image
  picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  if len(size) == 3:
    picture = picture.convert('L' if size[2] == 1 else 'RGB')
  resized = np.asarray(picture.resize(size[1::-1], Image.Resampling.BILINEAR))
  return resized[..., None] if resized.ndim == 2 else resized


def _stack(where, count, images, size):
  """Fills one array from an iterable of (label of the image, uint8 image)."""
  found = None
  for row, (which, image) in enumerate(images):
    image = _shrink(image, size)
    if found is None:
      found = np.empty((count, *image.shape), np.uint8)
    if image.shape != found.shape[1:]:
      raise ValueError(
          f'{where}: {which} is {image.shape} but the first image is '
          f'{found.shape[1:]}; add a size to the name, as in "...@32x32x3"')
    found[row] = image
  if found is None:
    raise ValueError(f'{where}: there are no images')
  return found


def folder(name, root, size, cache_dir):
  """An image folder: (version, classes, {split: (images, labels)})."""
  root = pathlib.Path(root).expanduser()
  if not root.is_dir():
    raise FileNotFoundError(f'source {name!r}: there is no folder {root}')
  folders = _split_folders(name, root)
  names = sorted({f.name for part in folders.values() for f in part.iterdir()
                  if f.is_dir() and not f.name.startswith('.')})
  if not names:
    raise FileNotFoundError(
        f'source {name!r}: {root} has no class folders; expected '
        'CLASS/IMAGE.png, or train/CLASS/IMAGE.png with valid/ and test/')
  splits, version = {}, hashlib.sha256()
  for split, part in folders.items():
    files = [(f, i) for i, c in enumerate(names)
             for f in sorted((part / c).rglob('*'))
             if f.suffix.lower() in _SUFFIXES]
    empty = [c for i, c in enumerate(names) if i not in {i for _, i in files}]
    if split == 'train' and empty:
      raise ValueError(f'source {name!r}: {part / empty[0]} holds no image '
                       f'({", ".join(_SUFFIXES)}); a class without images '
                       'cannot be learned')
    listing = [[f.relative_to(root).as_posix(), *_seen(f)] for f, _ in files]
    state = hashlib.sha256(json.dumps([names, listing]).encode()).hexdigest()
    images, labels, _ = cache.fetch(
        name, state[:16], split, functools.partial(
            _read_files, f'source {name!r}, split {split!r}', files, size,
            len(names)), cache_dir)
    splits[split] = images, labels
    version.update(images.tobytes() + labels.tobytes())
  return version.hexdigest()[:16], len(names), splits


def _split_folders(name, root):
  """{split: folder}; of a folder of classes alone, {'train': root}."""
  inside = sorted(f.name for f in root.iterdir()
                  if f.is_dir() and not f.name.startswith('.'))
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
  if found and len(named) < len(inside):
    logging.info('%s: %s is neither a split nor a class; left out.', name,
                 ', '.join(f for f in inside if f not in named))
  return found or {'train': root}


def _read_files(where, files, size, classes):
  images = ((file, _pixels(where, file, file)) for file, _ in files)
  labels = np.array([label for _, label in files], np.int32)
  return _stack(where, len(files), images, size), labels, classes


def _pixels(where, which, file, mode=None):
  """Decodes an image file to uint8 [H, W, C]; grey only if it is grey."""
  from PIL import Image
  try:
    with Image.open(file) as picture:
      if picture.mode not in _MODES:
        raise ValueError(f'{where}: {which} has pixels of mode '
                         f'{picture.mode!r}, which are not 0..255; convert it '
                         'to 8 bits, or use sources.from_arrays')
      if (picture.has_transparency_data and
          picture.convert('RGBA').getextrema()[3][0] < 255):
        raise ValueError(f'{where}: {which} is transparent in places, and what '
                         'stands behind it is not known; put it on a '
                         'background')
      mode = mode or ('L' if picture.mode in ('1', 'L', 'LA') else 'RGB')
      pixels = np.asarray(picture.convert(mode))
  except (OSError, SyntaxError, Image.DecompressionBombError) as error:
    raise ValueError(f'{where}: {which} can not be read as an image '
                     f'({error})') from error
  return pixels[..., None] if mode == 'L' else pixels


def tfds(name, base, size, cache_dir, tfds_dir, known):
  """A prepared TFDS set: (version, classes, {split: (images, labels)}).

  Args:
    name: of the source, for messages and the cache.
    base: TFDS name, with ':feature' to take another label.
    size: (H, W) or (H, W, C) to resize to, or `None`.
    cache_dir: see `cache.directory`.
    tfds_dir: where prepared sets lie.
    known: names of other sources, for the message if this one is missing.
  """
  base, _, label = base.partition(':')
  version = _prepared(name, base, tfds_dir, known)
  info = json.loads((version / 'dataset_info.json').read_text())
  present = [split['name'] for split in info['splits']]
  splits, classes = {}, 0
  for split, ours in (('train', 'train'), ('validation', 'valid'),
                      ('test', 'test')):
    if split in present:
      images, labels, count = cache.fetch(
          name, _state(version), split, functools.partial(
              _decode, f'source {name!r}, split {split!r}', version, split,
              label, size), cache_dir)
      classes = max(classes, count)
      if not np.all(labels == -1):  # TFDS's mark of withheld labels
        splits[ours] = images, labels
  if 'train' not in splits:
    raise ValueError(f'source {name!r}: TFDS splits are {present}; a train '
                     'split with labels is needed')
  return version.name, classes, splits


def texts(name, base, tfds_dir, known):
  """A prepared TFDS set of texts: (version, {split: (texts, labels)})."""
  version = _prepared(name, base, tfds_dir, known)
  import tensorflow_datasets
  builder = tensorflow_datasets.builder_from_directory(version)
  for feature in ('text', 'label'):
    if feature not in builder.info.features:
      raise ValueError(f'source {name!r}: no {feature!r} among its features '
                       f'{sorted(builder.info.features)}')
  found = {}
  for split in ('train', 'test'):
    if split in builder.info.splits:
      rows = list(builder.as_data_source(split=split))
      found[split] = ([row['text'].decode() for row in rows],
                      [int(row['label']) for row in rows])
  return version.name, found


def split(base, name, size, cache_dir, tfds_dir, known):
  """One split of a prepared TFDS set, whatever its name.

  Args:
    base: TFDS name, with ':feature' to take another label, or ':=MAKER' for
      one that `labels.MAKERS` derives.
    name: of the split.
    size, cache_dir, tfds_dir, known: as in `tfds`.

  Returns:
    (version, classes, images, labels).

  Raises:
    ValueError: there is no such split; names those that there are.
  """
  own = base + ('@' + 'x'.join(map(str, size)) if size else '')
  plain, _, label = base.partition(':')
  version = _prepared(own, plain, tfds_dir, known)
  info = json.loads((version / 'dataset_info.json').read_text())
  present = [found['name'] for found in info['splits']]
  if name not in present:
    raise ValueError(f'source {own!r} has no split {name!r}; its splits are '
                     f'{present}')
  images, found, classes = cache.fetch(
      own, _state(version), name, functools.partial(
          _decode, f'source {own!r}, split {name!r}', version, name, label,
          size), cache_dir)
  return version.name, classes, images, found


def _decode(where, version, split, label, size):
  """Reads a split through `as_data_source`, without TensorFlow."""
  try:
    import tensorflow_datasets
  except ImportError as error:
    raise ImportError(f'{where}: reading it needs tensorflow_datasets; '
                      'pip install "mtl_jax[prepare]"') from error
  builder = tensorflow_datasets.builder_from_directory(version)
  features = builder.info.features
  keys = builder.info.supervised_keys or (None, None)
  pixels = 'image' if 'image' in features else keys[0]
  made = label[1:] if label.startswith('=') else None
  label = label or ('label' if 'label' in features else keys[1])
  if pixels not in features or made is None and label not in features:
    raise ValueError(f'{where}: no image {pixels!r} or label {label!r} among '
                     f'its features {sorted(features)}; name the label as in '
                     '"NAME:FEATURE"')
  if features[pixels].np_dtype != np.uint8:
    raise ValueError(f'{where}: {pixels!r} is {features[pixels].np_dtype}; '
                     'only uint8 images are read')
  # Decoded here: TFDS makes 0 and 1 of Omniglot's black and white, and its
  # pixels of a JPEG depend on whether OpenCV is installed.
  mode = 'L' if features[pixels].shape[-1] == 1 else 'RGB'
  skip = tensorflow_datasets.decode.SkipDecoding()
  rows = builder.as_data_source(split=split, decoders={pixels: skip})
  labels, factor = [], np.uint8(_FACTORS.get(builder.name, 1))

  def images():
    for start in range(0, len(rows), 256):
      for row in rows.__getitems__(range(start, min(start + 256, len(rows)))):
        which = f'image {len(labels)}'
        labels.append(row[label] if made is None
                      else label_makers.MAKERS[made].make(row))
        yield which, factor * _pixels(where, which, io.BytesIO(row[pixels]),
                                      mode)
  stacked = _stack(where, len(rows), images(), size)
  whole = np.array(labels)
  if not np.issubdtype(whole.dtype, np.integer):
    raise ValueError(f'{where}: labels must be integers, not {whole.dtype}')
  if made is not None:
    return stacked, whole.astype(np.int32), label_makers.MAKERS[made].classes
  classes = getattr(features[label], 'num_classes', None)
  return stacked, whole.astype(np.int32), classes or 1 + int(whole.max())


def _seen(file):
  """What changes when a file does, even if its time is set back."""
  found = file.stat()
  return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _state(version):
  """The version with a digest of its files, for the cache: a set that was
  prepared anew is decoded anew."""
  listing = [[f.name, *_seen(f)] for f in sorted(version.iterdir())]
  digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
  return f'{version.name}-{digest[:12]}'


def _prepared(name, base, tfds_dir, known):
  """The folder of the newest prepared version, complete."""
  root = pathlib.Path(tfds_dir, base)
  versions = [f.parent for f in root.glob('*/dataset_info.json')
              if re.fullmatch(r'\d+\.\d+\.\d+', f.parent.name)]
  if not versions:
    raise FileNotFoundError(_missing(
        name, base, tfds_dir, known, f'{root}/VERSION/dataset_info.json'))
  version = max(versions, key=lambda f: [int(n) for n in f.name.split('.')])
  info = json.loads((version / 'dataset_info.json').read_text())
  for split in info['splits']:
    count = len(split['shardLengths'])
    for shard in range(count):
      file = version / (f'{info["name"]}-{split["name"]}.array_record-'
                       f'{shard:05d}-of-{count:05d}')
      if not file.exists():
        raise FileNotFoundError(_missing(name, base, tfds_dir, known, file))
  return version


def _missing(name, base, tfds_dir, known, file):
  prepared = {f.parent.parent.relative_to(tfds_dir).as_posix()
              for pattern in ('*/*/', '*/*/*/') for f in
              pathlib.Path(tfds_dir).glob(pattern + 'dataset_info.json')}
  known = sorted(prepared | set(known))
  near = difflib.get_close_matches(base, known, n=3)
  return (
      f'source {name!r}: missing {file}\n'
      + (f'Did you mean {" or ".join(map(repr, near))}? ' if near else '')
      + f'Known here: {", ".join(known)}, folder:/PATH.\n'
      f'Looked in {tfds_dir} (tfds_dir, or $TFDS_DATA_DIR). To prepare a TFDS '
      'data set:\n'
      '  pip install "mtl_jax[prepare]"\n'
      '  python -c "import tensorflow_datasets as tfds; tfds.builder('
      f"'{base}').download_and_prepare(file_format='array_record')\"")
