"""Reads prepared TFDS sets as plain arrays.

TFDS is imported only to decode; it never downloads or prepares anything.
"""

import difflib
import functools
import hashlib
import io
import json
import pathlib
import re

import numpy as np

from mtl_jax import json_files
from mtl_jax.data import cache
from mtl_jax.data import folders
from mtl_jax.data import label_makers
from mtl_jax.data import pictures

# TFDS stores the shapes of dSprites as ones.
_FACTORS = {'dsprites': 255}


def split_size(name):
  """'omniglot@28x28x1' -> ('omniglot', (28, 28, 1)); C may be missing."""
  match = re.fullmatch(r'(.+)@(\d+)x(\d+)(?:x([13]))?', name)
  if not match:
    return name, None
  base, *size = match.groups()
  return base, tuple(int(s) for s in size if s)


def tfds(name, base, size, cache_dir, tfds_dir, known):
  """A prepared TFDS set: (version, classes, {split: (images, labels)}).

  Args:
    name: name of the source, for messages and the cache.
    base: TFDS name, with ':feature' for another label.
    size: (H, W) or (H, W, C) to resize to, or `None`.
    cache_dir: see `cache.directory`.
    tfds_dir: folder of the prepared sets.
    known: names of other sources, for the message if this one is missing.
  """
  base, _, label = base.partition(':')
  version = _prepared(name, base, tfds_dir, known)
  present = [split['name'] for split in _info(name, version)['splits']]
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
    base: TFDS name, with ':feature' for another label, or ':=MAKER' for a
      label that `label_makers.MAKERS` derives.
    name: name of the split.
    size, cache_dir, tfds_dir, known: as in `tfds`.

  Returns:
    (version, classes, images, labels).

  Raises:
    ValueError: there is no such split; names the existing ones.
  """
  own = base + ('@' + 'x'.join(map(str, size)) if size else '')
  plain, _, label = base.partition(':')
  version = _prepared(own, plain, tfds_dir, known)
  present = [found['name'] for found in _info(own, version)['splits']]
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
  # Decoded here: TFDS turns Omniglot's black and white into 0 and 1, and its
  # decoding of a JPEG depends on whether OpenCV is installed.
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
        yield which, factor * pictures.read(
            where, which, io.BytesIO(row[pixels]), mode, seen=False)
  stacked = pictures.stack(where, len(rows), images(), size)
  whole = np.array(labels)
  if not np.issubdtype(whole.dtype, np.integer):
    raise ValueError(f'{where}: labels must be integers, not {whole.dtype}')
  if made is not None:
    return stacked, whole.astype(np.int32), label_makers.MAKERS[made].classes
  classes = getattr(features[label], 'num_classes', None)
  return stacked, whole.astype(np.int32), classes or 1 + int(whole.max())


def _state(version):
  """The version with a digest of its files, for the cache: a set that was
  prepared again is decoded again."""
  listing = [[f.name, *folders.seen(f)] for f in sorted(version.iterdir())]
  digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
  return f'{version.name}-{digest[:12]}'


def class_names(base, tfds_dir, classes):
  """The label names of a prepared set; `None` if it has none.

  Args:
    base: TFDS name, with ':feature' for another label.
    tfds_dir: folder of the prepared sets.
    classes: number of classes.
  """
  base, _, label = base.partition(':')
  version = _newest(base, tfds_dir)
  file = version and version / f'{label or "label"}.labels.txt'
  if not file or not file.is_file():
    return None
  names = tuple(file.read_text(encoding='utf-8').splitlines())
  return names if len(set(names)) == len(names) == classes else None


def _folder(tfds_dir, *parts):
  """Of prepared sets; an address, such as gs://BUCKET/sets, as TFDS has it.
  """
  if '://' in str(tfds_dir):
    from etils import epath  # comes with TFDS
    return epath.Path(tfds_dir, *parts)
  return pathlib.Path(tfds_dir, *parts)


def _newest(base, tfds_dir):
  """The folder of the newest prepared version, or `None`."""
  try:
    versions = [f.parent for f in _folder(tfds_dir, base).glob(
        '*/dataset_info.json') if re.fullmatch(r'\d+\.\d+\.\d+',
                                               f.parent.name)]
  except OSError:  # no folder can have that name
    return None
  return max(versions, default=None,
             key=lambda f: [int(n) for n in f.name.split('.')])


def _info(name, version):
  """TFDS's description of a prepared set."""
  file, what = version / 'dataset_info.json', 'what TFDS says of the set'
  remedy = f'prepare the set of source {name!r} anew'
  info = json_files.read(file, {'name': str, 'splits': list}, what, remedy)
  for split in info['splits']:
    json_files.check(split, {'name': str, 'shardLengths': list}, str(file),
                     what, remedy)
  return info


def _prepared(name, base, tfds_dir, known):
  """The folder of the newest complete prepared version."""
  version = _newest(base, tfds_dir)
  if version is None:
    raise FileNotFoundError(_missing(
        name, base, tfds_dir, known,
        _folder(tfds_dir, base, 'VERSION/dataset_info.json')))
  info = _info(name, version)
  for split in info['splits']:
    count = len(split['shardLengths'])
    for shard in range(count):
      file = version / (f'{info["name"]}-{split["name"]}.array_record-'
                       f'{shard:05d}-of-{count:05d}')
      if not file.exists():
        raise FileNotFoundError(_missing(name, base, tfds_dir, known, file))
  return version


def _missing(name, base, tfds_dir, known, file):
  root = _folder(tfds_dir)
  prepared = {f.parent.parent.relative_to(root).as_posix()
              for pattern in ('*/*/', '*/*/*/') for f in
              root.glob(pattern + 'dataset_info.json')}
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
