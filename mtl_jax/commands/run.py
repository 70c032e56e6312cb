"""`mtl-jax run`: learns the tasks of a config, evaluates and reports."""

import argparse
import ast
import contextlib
import logging
import pathlib

import jax

from mtl_jax import experiment
from mtl_jax import host
from mtl_jax import parallel
from mtl_jax import registry
from mtl_jax import trees
from mtl_jax.commands import configs
from mtl_jax.config import config as config_lib
from mtl_jax.config import files
from mtl_jax.config import overrides
from mtl_jax.storage import bucket
from mtl_jax.storage import folders
from mtl_jax.storage import provenance
from mtl_jax.storage import workdir as workdir_lib

DESCRIPTION = (
    'Learns the tasks of a config one after another on one immutable '
    'backbone, measures and verifies them, and writes report.html. It can be '
    'stopped at any moment: the same command resumes it.')
EXAMPLES = (
    ('{} --config=quickstart --workdir=runs/quickstart',
     'a shipped config, by name from any folder'),
    ('{} --config=folder:my/images --workdir=runs/mine',
     'your own images: one sub-folder per class'),
    ('{} --config=mine.py --workdir=runs/b --config.seed=1 '
     '--config.phases.masks.epochs=5',
     'your own file; every field can be set, even if the file leaves it out'),
)
OVERRIDES = True


def flags(parser: argparse.ArgumentParser) -> None:
  """The flags of a run."""
  parser.add_argument('--config', metavar='FILE', help=(
      'a Python file with get_config(), or the name of a shipped config; '
      'after a colon its argument'))
  parser.add_argument('--config.FIELD', metavar='VALUE', dest='_', help=(
      'sets a field of the config; `configs NAME` lists all of them'))
  parser.add_argument('--workdir', metavar='DIR', help=(
      'where the results go: a folder, or gs://BUCKET/RUN; the same one '
      'again continues the run'))
  parser.add_argument('--list_configs', action='store_true', help=(
      'list the shipped configs and exit'))
  parser.add_argument('--plugins', action='append', metavar='FILE', help=(
      'a Python file that registers your own methods, models, sources or '
      'suites; may be given several times'))
  parser.add_argument('--quiet', action='store_true',
                      help='no progress bar, no table')
  parser.add_argument('--compilation_cache', metavar='DIR', help=(
      "folder for compiled programs (JAX's persistent cache), so that the "
      'next start does not compile again'))
  parser.add_argument('--profile', nargs='?', const='', metavar='DIR', help=(
      'write a profile of the first chunks of training for TensorBoard or '
      'Perfetto; by default to WORKDIR/profile'))
  several = parser.add_argument_group('several devices and hosts')
  several.add_argument('--cpu_devices', type=int, metavar='N', help=(
      'use this CPU as N devices, so that each core trains other tasks '
      '(tasks_at_once) or a part of every batch'))
  several.add_argument('--coordinator', metavar='HOST:PORT', help=(
      "address of the first process of several hosts, or 'auto' on Cloud TPU"))
  several.add_argument('--num_processes', type=int, metavar='N',
                       help='processes in all')
  several.add_argument('--process_id', type=int, metavar='I',
                       help='index of this process')


def main(given: argparse.Namespace) -> int | None:
  """Runs a config."""
  if given.list_configs:
    configs.show_list()
    return None
  if given.config is None:
    raise ValueError('--config must have a value: a Python file, or a name '
                     'that --list_configs lists')
  if not given.workdir:
    raise ValueError('--workdir must have a value: the folder for the results')
  remote = bucket.is_remote(given.workdir)
  workdir = (given.workdir if remote else
             folders.local(given.workdir))
  if not remote and workdir.exists() and not workdir.is_dir():
    raise ValueError(f'--workdir={given.workdir} is a file; name a folder')
  registry.load_plugins(given.plugins)
  config = config_lib.from_dict(overrides.apply(files.load(given.config),
                                                given.overrides))
  _quiet_logs()
  _set_jax(given)
  parallel.initialize(given.coordinator, given.num_processes, given.process_id)
  host.require_devices()
  with _profile(given, workdir) as step:
    summary = experiment.run(config, workdir, provenance.command(),
                             given.quiet, step)
  if not summary['verified']['ok']:
    raise ValueError('\n'.join(summary['verified']['faults']))
  return None


@contextlib.contextmanager
def _profile(given, workdir):
  """The function to call after every chunk; it records a profile if asked."""
  if given.profile is None:
    yield lambda: None
    return
  folder = (_made('profile', given.profile) if given.profile else
            workdir_lib.Workdir(workdir).root / 'profile')
  profile = host.Profile(folder)
  try:
    yield profile.step
  finally:
    profile.end()
  print(f'profile: {folder} (tensorboard --logdir={folder}, or '
        'https://ui.perfetto.dev)')


def _made(flag: str, given: str) -> pathlib.Path:
  """The folder that a flag names, made if it isn't there.

  Raises:
    ValueError: the flag names none, or a file is there or above it.
  """
  if not given:
    raise ValueError(f'--{flag} must have a value: a folder')
  folder = folders.local(given)
  for path in (folder, *folder.parents):
    if path.exists() and not path.is_dir():
      raise ValueError(f'--{flag}={given}: {path} is a file; name a folder')
  folder.mkdir(parents=True, exist_ok=True)
  return folder


def _quiet_logs() -> None:
  for name in ('orbax', 'absl', 'jax'):
    logging.getLogger(name).setLevel(logging.WARNING)


def _set_jax(given: argparse.Namespace) -> None:
  """Sets JAX's flags, its compilation cache and the number of CPU devices."""
  known = jax.config.values
  for name, text in given.jax_flags:
    if f'jax_{name}' not in known:
      raise ValueError(f'--jax_{name}: JAX has no such flag'
                       f'{trees.nearest(f"jax_{name}", known)}')
    try:
      value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      value = {'true': True, 'false': False}.get(text.lower(), text)
    if isinstance(known[f'jax_{name}'], bool) and value not in (True, False):
      raise ValueError(f'--jax_{name} is {text!r}; it must be True or False')
    try:
      jax.config.update(f'jax_{name}', value)
    except (TypeError, ValueError, AttributeError) as error:
      raise ValueError(f'--jax_{name} is {text!r}: {error}') from error
  if given.compilation_cache is not None:
    folder = (given.compilation_cache
              if bucket.is_remote(given.compilation_cache) else
              _made('compilation_cache', given.compilation_cache))
    jax.config.update('jax_compilation_cache_dir', str(folder))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  if given.cpu_devices is not None:
    if given.cpu_devices < 1:
      raise ValueError(f'--cpu_devices is {given.cpu_devices}; it must be at '
                       'least 1')
    jax.config.update('jax_num_cpu_devices', given.cpu_devices)
