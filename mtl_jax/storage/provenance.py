"""The origin of a result: versions, hardware, command and commit."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys

import jax

from mtl_jax import _version
from mtl_jax import host


_SCRIPT = 'mtl-jax'  # the console script


# Settings of JAX on which the bits of training depend: a value for each that
# was not recorded, and the environment variable with its form.
SETTINGS = {'matmul_precision': ('default', 'JAX_DEFAULT_MATMUL_PRECISION={}'),
            'x64': ('0', 'JAX_ENABLE_X64={}')}


def versions() -> dict[str, str]:
  """Versions and settings on which a result's bits depend."""
  precision = getattr(jax.config, 'jax_default_matmul_precision')
  return {'platform': jax.default_backend(),
          'matmul_precision': precision or 'default',
          'x64': str(int(getattr(jax.config, 'jax_enable_x64'))),
          'python': platform.python_version(),
          'mtl_jax': _version.__version__} | _installed()


def require_settings(before: dict[str, str], whose: str,
                     instead: str) -> None:
  """Refuses to go on with a training under other settings of JAX.

  Args:
    before: `versions` where it began.
    whose: what began, for the message.
    instead: the other remedy.

  Raises:
    ValueError: names the setting, both values, and how to set it.
  """
  now = versions()
  for name, (unrecorded, variable) in SETTINGS.items():
    was = before.get(name, unrecorded)
    if now[name] != was:
      remedy = (f'unset {variable.partition("=")[0]}' if was == 'default'
                else f'start with {variable.format(was)}')
      raise ValueError(
          f'{whose} was begun with {name}={was}, and it is {now[name]} now, '
          f'which trains to other bits: {remedy}, or {instead}. '
          'Nothing was changed')


@functools.cache  # it is called for every committed task
def _installed() -> dict[str, str]:
  found = {}
  for package in ('jax', 'jaxlib', 'flax', 'optax', 'numpy',
                  'orbax-checkpoint'):
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = 'not installed'
  return found


def hardware() -> dict:
  """The devices, the host's processor and XLA's flags."""
  device = jax.devices()[0]
  return {'device': device.device_kind, 'platform': device.platform,
          'count': jax.device_count(), 'processes': jax.process_count(),
          'cpu': _processor(), 'cores': host.cores(),
          'xla_flags': os.environ.get('XLA_FLAGS', '')}


def _processor() -> str:
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    for line in info.read_text().splitlines():
      if line.startswith('model name'):
        return line.split(':', 1)[1].strip()
  return platform.processor() or platform.machine()


def command() -> str:
  """The command line, quoted so that it can be run again."""
  spec = sys.modules['__main__'].__spec__
  if spec:
    words = ['python', '-m', spec.name.removesuffix('.__main__')]
  elif pathlib.Path(sys.argv[0]).stem == _SCRIPT:
    words = [_SCRIPT]
  else:
    words = ['python', *sys.argv[:1]]
  return shlex.join([*words, *sys.argv[1:]])


def commit() -> str | None:
  """The git commit of the package, '+changes' if files differ from it.

  `None` outside a checkout, and where git isn't installed.
  """
  root = pathlib.Path(__file__).parents[2]
  if not (root / '.git').exists() or not shutil.which('git'):
    return None
  git = lambda *words: subprocess.run(
      ['git', '-C', str(root), *words], capture_output=True, text=True,
      check=False).stdout.strip()
  head = git('rev-parse', '--short=12', 'HEAD')
  changed = git('status', '--porcelain', '--untracked-files=no')
  return f'{head}+changes' if head and changed else head or None
