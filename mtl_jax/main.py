"""Flags, and nothing else.

    python -m mtl_jax.main --config=configs/quickstart.py --workdir=DIR
"""

import logging as std_logging
import pathlib
import re
import sys

import jax
from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

from mtl_jax import experiment
from mtl_jax import parallel
from mtl_jax.config import config as config_lib
from mtl_jax.storage import provenance

_CONFIG = config_flags.DEFINE_config_file('config', None, 'What to do.')
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Where results go; the same one again continues.')
_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'host:port of the first process of a run on several '
    "hosts, or 'auto' on Cloud TPU.")
_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Processes in all.')
_PROCESS = flags.DEFINE_integer('process_id', None, 'Number of this one.')
_CPU_DEVICES = flags.DEFINE_integer(
    'cpu_devices', None, 'Devices to make of this CPU; as many as '
    'tasks_at_once train on separate cores.')


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  file = config_flags.get_config_filename(flags.FLAGS['config'])
  file = re.sub(r'(\.py):.*', r'\1', file)
  if not pathlib.Path(file).is_file():
    sys.exit(f'error: --config: there is no file {file}')
  if not _WORKDIR.value:
    sys.exit('error: --workdir is empty; name a folder')
  logging.set_verbosity(logging.WARNING)
  std_logging.getLogger('orbax').setLevel(std_logging.WARNING)
  try:
    config = config_lib.from_dict(_CONFIG.value.to_dict())
    if _CPU_DEVICES.value:
      jax.config.update('jax_num_cpu_devices', _CPU_DEVICES.value)
    parallel.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    summary = experiment.run(config, _WORKDIR.value, provenance.command())
  except (ValueError, FloatingPointError, OSError, ImportError) as error:
    sys.exit(f'error: {error}')
  if not summary['verified']['ok']:
    sys.exit('error: ' + '\n'.join(summary['verified']['faults']))


def parse(argv):
  """absl's parsing; ml_collections' many exceptions become one line."""
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError, TypeError, ValueError, OSError,
          ImportError, SyntaxError) as error:
    said = ' '.join(str(error).split())
    if isinstance(error, KeyError):
      said = 'the config has no field ' + said.strip('\'"')
    return sys.exit(f'error: --config: {said}')


if __name__ == '__main__':
  jax.config.config_with_absl()
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=parse)
