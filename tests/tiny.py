"""A whole run in seconds: a config for tests, and what they share.

    python -m mtl_jax.main --config=tests/tiny.py --workdir=DIR

Every kind of phase on permuted digits: supermasks, eight at once, with
transfer, and ImpressLearn. `tests/tiny.py:norm` has batch norm instead, on an
array source and a network of its own that compile in a second;
`tests/tiny.py:few` are three tasks of two phases; `tests/tiny.py:infer` has
three supermasks that are told apart clearly, and coefficients over them;
`tests/tiny.py:stream` shows the three tasks twice, without their names.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import flax.linen as nn
import ml_collections
import numpy as np
from orbax.checkpoint import v1 as ocp

from mtl_jax import checkpoint
from mtl_jax import checks
from mtl_jax import config as config_lib
from mtl_jax import evaluate
from mtl_jax import experiment
from mtl_jax import models
from mtl_jax import system as system_lib
from mtl_jax import train
from mtl_jax import workdir as workdir_lib
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.models import mlp

ROOT = pathlib.Path(__file__).parent.parent


class Norm(nn.Module):
  """A convolution with batch norm and a dense layer."""
  outputs: int
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x, train: bool = False):
    x = nn.Conv(4, (3, 3), strides=(2, 2), use_bias=False)(x)
    x = nn.relu(nn.BatchNorm(
        use_running_average=not train, momentum=0.9, use_scale=False,
        use_bias=False, axis_name=self.axis_name if train else None)(x))
    return nn.Dense(self.outputs, use_bias=False)(x.reshape(len(x), 64))


def blobs():
  """Two easy classes of 8 x 8 colour images."""
  rng = np.random.RandomState(0)
  labels = np.arange(120) % 2
  images = rng.randint(0, 156, (120, 8, 8, 3)) + 99 * labels[:, None, None,
                                                             None]
  return sources.from_arrays('blobs', images.astype(np.uint8), labels)


def get_config(kind='lenet'):
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.chunk_steps = 2
  config.progress_seconds = 0.  # progress is saved after every chunk
  common = dict(method='supsup', steps=6, batch_size=16, optimizer='adam',
                learning_rate=1e-2)
  impress = dict(common, method='impresslearn', options=dict(penalty=0.1),
                 basis=dict(kind='heterogeneous', size=2, phase='basis'))
  if kind == 'norm':
    sources.register('blobs', blobs)
    models.MODELS['norm'] = lambda outputs: models.from_linen(
        lambda axis_name=None: Norm(outputs, axis_name))
    config.suite = dict(kind='permuted', source='blobs', num_tasks=3)
    config.backbone = dict(model='norm', outputs=2)
    config.phases = dict(basis=dict(common, tasks=(0, 2)),
                         impress=dict(impress, tasks=(2, 3)))
    config.schedule = ('basis', 'impress')
    return config
  if kind in ('infer', 'stream'):
    models.MODELS['small'] = lambda outputs: models.from_linen(
        lambda **_: mlp.MLP((64, outputs)))
    config.chunk_steps, config.progress_seconds = 60, 1000.
    config.suite = dict(kind='permuted', source='digits', num_tasks=7)
    config.backbone = dict(model='small', outputs=30)
    common.update(steps=60, batch_size=64, learning_rate=3e-2)
    impress.update(batch_size=64, learning_rate=3e-2, steps=20)
    impress['basis']['size'] = 3
    config.phases = dict(
        basis=dict(common, tasks=(0, 3)), impress=dict(impress, tasks=(3, 5)),
        hybrid=dict(impress, tasks=(4, 6), options=dict(head='Dense_1/.*'),
                    control=True))
    config.schedule = ('basis', 'impress', 'hybrid')
    if kind == 'stream':
      config.phases = dict(stream=dict(common, tasks=(0, 3), stream=dict(
          every=30, tolerance=0.57, passes=2)))
      config.schedule = ('stream',)
    return config
  config.suite = dict(kind='permuted', source='digits', num_tasks=14)
  config.backbone = dict(model='lenet_300_100', outputs=10)
  config.phases = dict(
      basis=dict(common, tasks=(0, 2)),
      transfer=dict(common, tasks=(2, 4), options=dict(transfer=True)),
      many=dict(common, tasks=(4, 12), tasks_at_once=8),
      impress=dict(impress, tasks=(12, 14)),
      dedicated=dict(common, tasks=(12, 13), control=True))
  config.schedule = ('basis', 'transfer', 'many', 'impress', 'dedicated')
  config.matrix = 'full'
  if kind == 'few':
    config.schedule = ('basis', 'impress')
    config.phases = {name: config.phases[name] for name in config.schedule}
    config.phases.impress.tasks = (12, 13)
    config.phases.impress.basis.size = 1
  return config


def make(kind='lenet', **changes):
  """The config as the library's dataclass.

  Args:
    kind: as in `get_config`.
    **changes: by dotted name with '__' for the dots.
  """
  config = get_config(kind)
  for name, value in changes.items():
    config.update_from_flattened_dict({name.replace('__', '.'): value})
  return config_lib.from_dict(config.to_dict())


def only(*phases, kind='lenet', **changes):
  """A config with these phases alone."""
  config = get_config(kind)
  config.schedule = phases
  config.phases = {name: config.phases[name] for name in phases}
  config.update_from_flattened_dict(
      {name.replace('__', '.'): value for name, value in changes.items()})
  return config_lib.from_dict(config.to_dict())


def learn(config, folder):
  """Runs a config in this process; returns its summary."""
  return experiment.run(config, folder, quiet=True)


_FOLDERS: list[tempfile.TemporaryDirectory] = []


def new_folder():
  """One for a run that several tests read; `clean` removes it."""
  _FOLDERS.append(tempfile.TemporaryDirectory(prefix='mtl_jax-tiny-'))
  return _FOLDERS[-1].name


def clean():
  """Removes the new folders: processes of pytest-xdist end without that."""
  for folder in _FOLDERS:
    folder.cleanup()


class Stopped(Exception):
  """Stands for a kill, within this process."""


def prepared(config):
  """Suite, data and backbone; with them what was compiled is kept too."""
  return _prepared(dataclasses.replace(
      make('few'), suite=config.suite, backbone=config.backbone,
      seed=config.seed))


@functools.lru_cache(maxsize=None)
def _prepared(config):
  suite = suites.make(config.suite.kind, **dict(config.suite.options))
  data = evaluate.Data()
  return suite, data, experiment.make_backbone(
      config, suite, data, workdir_lib.Workdir('/nowhere'))


def train_alone(config, folder, stop=lambda seen: False, suite=None):
  """`experiment.run` without all that follows training.

  Args:
    config: of the run.
    folder: of the run.
    stop: whether to raise `Stopped`, from all (task, steps) so far.
    suite: in place of the config's.

  Returns:
    (train.Run, those (task, steps)).
  """
  known, data, backbone = prepared(config)
  work, seen = workdir_lib.Workdir(folder), []

  def advance(count, name):
    seen.append((name, count))
    if stop(seen):
      raise Stopped
  checks.check_config(work, config)
  work.prepare()
  experiment.claim(work, config, backbone, '')
  run = train.Run(config, suite or known, backbone, data, work,
                  system_lib.System(work, backbone), advance)
  for phase in config.phases:
    experiment.learn_phase(run, phase)
  return run, seen


@functools.lru_cache(maxsize=None)
def _learned(kind):
  folder = new_folder()
  return folder, learn(make(kind), folder)


def learned(folder, kind='lenet'):
  """A copy, in a new `folder`, of a run that is made once per process."""
  return shutil.copytree(_learned(kind)[0], folder)


def summary(kind='lenet'):
  """The summary of `learned`."""
  return _learned(kind)[1]


def steps(config):
  """Steps of a whole run, over all its tasks."""
  return sum(phase.steps * (phase.tasks[1] - phase.tasks[0])
             for phase in config.phases)


def parse(line):
  """A strict JSON value: no NaN, which other readers refuse."""
  def refuse(constant):
    raise ValueError(f'{constant} is not JSON')
  return json.loads(line, parse_constant=refuse)


def environment(**extra):
  """For a process of its own: one CPU device, this checkout's package."""
  env = dict(os.environ, JAX_PLATFORMS='cpu',
             PYTHONPATH=os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
  env.pop('XLA_FLAGS', None)
  return env | extra


def command(folder, *flags, config='tests/tiny.py'):
  """The command line of a run."""
  return [sys.executable, '-m', 'mtl_jax.main', f'--config={ROOT / config}',
          f'--workdir={folder}', *flags]


def call(words, cwd=ROOT, **extra):
  """Runs a command; its code and output are in the result."""
  return subprocess.run(words, env=environment(**extra), text=True,
                        capture_output=True, check=False, cwd=cwd)


def verify(folder):
  """`python -m mtl_jax.verify` on a workdir."""
  return call([sys.executable, '-m', 'mtl_jax.verify',
               f'--workdir={folder}'])


def bits(folder):
  """The SHA-256 of every array of every task: {'task': {'leaf': digest}}."""
  work = workdir_lib.Workdir(folder)
  return {name: checkpoint.load(work.task(name))[1]['hashes']
          for name in work.task_names()}


def files(folder):
  """The SHA-256 of every file below a folder."""
  return {p.relative_to(folder).as_posix():
          hashlib.sha256(p.read_bytes()).hexdigest()
          for p in sorted(pathlib.Path(folder).rglob('*')) if p.is_file()}


def rewrite(path, change, metadata=None):
  """Stores a checkpoint again with other arrays.

  Args:
    path: of the checkpoint.
    change: called with the arrays by name, which it changes in place.
    metadata: as `checkpoint.save` takes it, for an honest checkpoint; `None`
      keeps the old one with its digests, as damage on the disk would.
  """
  raw = ocp.metadata(path).custom_metadata
  arrays = {name: array.copy() for name, array in ocp.load(path).items()}
  change(arrays)
  shutil.rmtree(path)
  if metadata is None:
    ocp.save(path, arrays, custom_metadata=raw)
  else:
    checkpoint.save(path, arrays, metadata)
