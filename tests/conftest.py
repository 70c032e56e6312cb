"""Strict by default: eight devices, no rank promotion, warnings are errors.

The process gets eight virtual CPU devices, so that everything in `parallel` is
tested on more than one. Processes that a test starts get the environment as
it was.
"""

import os
import sys
import tempfile

import pytest

_FLAGS = os.environ.get('XLA_FLAGS')
os.environ['XLA_FLAGS'] = ' '.join(
    [_FLAGS or '', '--xla_force_host_platform_device_count=8']).strip()

import jax  # pylint: disable=wrong-import-position # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
# Runs of one config make the same programs anew. A cache of this process alone:
# one that a killed process or a second writer left half written would warn.
_COMPILED = tempfile.TemporaryDirectory(prefix='mtl_jax_tests_')
jax.config.update('jax_compilation_cache_dir', _COMPILED.name)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
jax.devices()  # reads XLA_FLAGS, once and for all

if _FLAGS is None:
  del os.environ['XLA_FLAGS']
else:
  os.environ['XLA_FLAGS'] = _FLAGS

# The last one that matches decides.
WARNINGS = (
    'error',
)


def pytest_addoption(parser):
  parser.addoption('--slow', action='store_true', help='also the slow tests')


def pytest_configure(config):
  for line in WARNINGS:
    config.addinivalue_line('filterwarnings', line)


def pytest_unconfigure():
  """What ends by itself in one process; not in those of pytest-xdist."""
  _COMPILED.cleanup()
  if 'tiny' in sys.modules:
    sys.modules['tiny'].clean()


def pytest_collection_modifyitems(config, items):
  """Skips what is marked slow, unless --slow; `data` skips by itself."""
  if config.getoption('--slow'):
    return
  for item in items:
    if 'slow' in item.keywords:
      item.add_marker(pytest.mark.skip(reason='slow; run with --slow'))
