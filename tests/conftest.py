"""Strict by default: eight devices, no rank promotion, warnings are errors.

The process gets eight virtual CPU devices, so that everything in `parallel` is
tested on more than one. Processes that a test starts get the environment as
it was.
"""

import os
import pathlib
import re
import sys
import tempfile

import pytest

_FLAGS = os.environ.get('XLA_FLAGS')
# Eight devices on two busy cores: a collective may wait for long, and XLA would
# end the process after 40 seconds.
os.environ['XLA_FLAGS'] = ' '.join([
    _FLAGS or '', '--xla_force_host_platform_device_count=8',
    '--xla_cpu_collective_call_terminate_timeout_seconds=600']).strip()

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

MOST_MAPS = 30_000  # of a process before it drops its programs
# The last one that matches decides.
WARNINGS = (
    'error',
)


def pytest_addoption(parser):
  parser.addoption('--slow', action='store_true', help='also the slow tests')
  parser.addoption('--part', default='1/1', help=(
      'K/N: every Nth of the chosen tests, from the Kth'))


def pytest_configure(config):
  for line in WARNINGS:
    config.addinivalue_line('filterwarnings', line)


def pytest_unconfigure():
  """What ends by itself in one process; not in those of pytest-xdist."""
  _COMPILED.cleanup()
  if 'tiny' in sys.modules:
    sys.modules['tiny'].clean()


@pytest.fixture(autouse=True, scope='module')
def _room_for_programs():
  """Compiled programs take memory maps: Linux gives a process 65,530, and
  XLA aborts without one."""
  yield
  maps = pathlib.Path('/proc/self/maps')
  if maps.exists() and maps.read_bytes().count(b'\n') > MOST_MAPS:
    jax.clear_caches()


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config, items):
  """Skips what is marked slow, unless --slow; `data` skips by itself."""
  kept = part_of(items, config.getoption('--part'))
  if len(kept) < len(items):
    config.hook.pytest_deselected(items=[x for x in items if x not in kept])
    items[:] = kept
  if config.getoption('--slow'):
    return
  for item in items:
    if item.get_closest_marker('slow'):
      item.add_marker(pytest.mark.skip(reason='slow; run with --slow'))


def part_of(items, part):
  """Every Nth of a list from the Kth, for a part 'K/N'.

  Raises:
    pytest.UsageError: K and N are no numbers, or K is not one of 1 to N.
  """
  first, _, parts = part.partition('/')
  if not (first.isdigit() and parts.isdigit()
          and 1 <= int(first) <= int(parts)):
    raise pytest.UsageError(f'--part is {part!r}; write K/N with K from 1 to N')
  return items[int(first) - 1::int(parts)]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
  """A test of real data that skips although the data are there has failed."""
  report = (yield).get_result()
  if report.skipped and item.get_closest_marker('data'):
    reason = str(report.longrepr[2])
    found = there(reason, _prepared())
    if found:
      report.outcome = 'failed'
      report.longrepr = (f'{item.nodeid} skips, but {found} is prepared: '
                         f'{reason}')


def _prepared():
  """Names of the data sets that are prepared on disk."""
  folder = pathlib.Path(os.environ.get('TFDS_DATA_DIR')
                        or '~/tensorflow_datasets').expanduser()
  return sorted(path.name for path in folder.glob('*') if path.is_dir())


def there(reason, prepared):
  """The data set that a reason for skipping names although it is prepared."""
  named = [name for name in prepared if re.search(
      rf'(?<![\w./]){re.escape(name)}(?!\w)', reason)]
  return named[0] if named else None
