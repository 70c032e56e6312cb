"""Your own images in a folder, one sub-folder per class: a first supermask.

    python -m mtl_jax run --config=folder:PATH --workdir=DIR

PATH/CLASS/IMAGE.png, or PATH/train/CLASS/IMAGE.png with valid/ and test/ beside
train/. Several folders, separated by commas, become several tasks on one
backbone: --config=folder:birds=PATH,signs=OTHER. To classify new images:

    python -m mtl_jax predict --workdir=DIR NEW/*.png --output=answers.csv

Images are resized to 32x32x3. --config.suite.image_shape='(64, 64, 3)' keeps
more detail; above that, PATH@128x128x3 reads larger images.
With fewer than about 40 images give --config.phases.masks.batch_size=8.

Hardware: 2 CPU cores.
Minutes: under 1 for a thousand images.
Accuracy: not run.
Results: docs/guide.md
"""

import ml_collections


def _sized(path):
  """Whether a path ends with a size, such as @64x64x3."""
  size = path.rpartition('@')[2].split('x')
  return '@' in path and len(size) == 3 and all(map(str.isdigit, size))


def _named(path):
  """('name=', path): the name given before '=', or that of the folder."""
  name, equals, folder = path.partition('=')
  if not equals or '/' in name:
    plain = path.rpartition('@')[0] if _sized(path) else path
    name = plain.rstrip('/').rpartition('/')[2]
    folder = path
  name = ''.join(c if c.isalnum() or c in '._-' else '-' for c in name)
  return f'{name}=' if name.strip('.-') else '', folder


def get_config(paths='PATH'):
  config = ml_collections.ConfigDict()
  config.seed = 0  # of scores, batches and the backbone
  folders = [_named(path) for path in paths.split(',') if path]
  if not folders or not all(folder for _, folder in folders):
    raise ValueError(f'folder:{paths} names no folder; give the folder of your '
                     'images: --config=folder:PATH')
  config.suite = dict(
      kind='datasets', image_shape=(32, 32, 3),
      sources=tuple(
          f'{name}folder:{path}{"" if _sized(path) else "@64x64x3"}'
          for name, path in folders))
  # More outputs than classes: what tells tasks apart without their names.
  config.backbone = dict(model='lenet_300_100', outputs=200)
  config.phases = dict(masks=dict(
      method='supsup', tasks=(0, len(folders)), epochs=30, batch_size=32,
      optimizer='adam', learning_rate=3e-3, schedule='cosine'))
  config.schedule = ('masks',)
  return config
