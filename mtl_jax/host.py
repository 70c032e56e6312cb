"""The process of a run: its CPU, memory and devices, signals and profiles."""

import _thread
import contextlib
import functools
import os
import pathlib
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np


def on_cpu() -> contextlib.AbstractContextManager[object]:
  """A context in which JAX computes on this process's CPU.

  Raises:
    ValueError: JAX may not use the CPU.
  """
  try:
    device = jax.local_devices(backend='cpu')[0]
  except RuntimeError as error:
    platforms = jax.config.values.get('jax_platforms')
    raise ValueError(
        f'JAX_PLATFORMS={platforms} leaves out the CPU, on '
        'which backbones are drawn; unset it, or add the CPU at its end: '
        f'JAX_PLATFORMS={platforms},cpu') from error
  return jax.default_device(device)


def require_devices() -> None:
  """Raises ValueError if JAX finds no device to compute on."""
  try:
    jax.devices()
  except RuntimeError as error:
    said = str(error).partition('\n')[0].rstrip('.')
    asked = os.environ.get('JAX_PLATFORMS') or jax.config.values.get(
        'jax_platforms')
    raise ValueError(
        f'JAX finds no device: {said}. ' + (
            f'JAX_PLATFORMS is {asked!r}: unset it, or name what is installed, '
            'such as JAX_PLATFORMS=cpu' if asked else
            'Set JAX_PLATFORMS=cpu to compute on the CPU')) from error


_GUARDED = (
    'JAX_TRANSFER_GUARD forbids what JAX does by itself wherever a Python '
    'number or a NumPy array meets one of its own, so that nothing can be '
    'computed; unset it, or leave the context of jax.transfer_guard; set to '
    'log, it lists the transfers')
_COMPILE = {
    'jax_disable_jit': (
        'so that no function is compiled: a run would take many times as long, '
        'and compute other bits; unset it. To step through one function, call '
        'it alone in a context of jax.disable_jit'),
    'jax_no_tracing': 'so that JAX can compile nothing; unset it'}
_SCALAR = np.zeros((), np.uint8)


class _Process:
  """The process that has computed with JAX here, if any has."""
  number: int | None = None


def require_process() -> None:
  """Refuses a process that was forked from one that had computed with JAX.

  A fork has none of JAX's threads, so that a computation may never end.
  """
  if _Process.number is None:
    _Process.number = os.getpid()
  if _Process.number != os.getpid():
    raise ValueError(
        f'this process ({os.getpid()}) was forked from one that had computed '
        f'with JAX ({_Process.number}), whose threads it lacks, so that a '
        'computation might never end; start processes with '
        "multiprocessing.get_context('spawn'), and load the system in each")


def tracing() -> bool:
  """Whether JAX traces a function now, so that what it computes has no values:
  under jit, scan, checkpoint or eval_shape."""
  return isinstance(jax.device_put(_SCALAR), jax.core.Tracer)


def with_values() -> contextlib.AbstractContextManager[None]:
  """A context in which what is made has values, also while JAX traces.

  Only for what depends on no argument of the traced function. Elsewhere it
  changes nothing, as JAX would compile every function once more.
  """
  return (jax.ensure_compile_time_eval() if tracing() else
          contextlib.nullcontext())


def untraceable(name: str) -> str:
  """What to say of a function that is called while JAX traces another."""
  return (f'{name} cannot be a part of a function that JAX traces, as jit, '
          'vmap, grad, scan, checkpoint and eval_shape do: call it before, and '
          'use there what it returns; a task as a function for jit is '
          'system.apply_fn(task)')


def require_settings() -> None:
  """Refuses settings of JAX under which nothing here can be right.

  Raises:
    ValueError: `jax.transfer_guard` forbids JAX's own transfers, seeds draw
      other numbers than in all other processes, nothing is compiled, JAX
      traces a function, or this process was forked from one that used JAX.
  """
  require_process()
  for name, why in _COMPILE.items():
    if getattr(jax.config, name, False):
      raise ValueError(f'{name.upper()} is on, {why}')
  if not getattr(jax.config, 'jax_threefry_partitionable'):
    raise ValueError(
        'JAX_THREEFRY_PARTITIONABLE is off, so that a seed draws other '
        'backbones, masks and batches than everywhere else; unset it, or set '
        'it to 1')
  offset = getattr(jax.config, 'jax_random_seed_offset', 0)
  if offset:
    raise ValueError(
        f'JAX_RANDOM_SEED_OFFSET is {offset}, so that a seed draws other '
        'backbones, masks and batches than everywhere else; unset it, and '
        'change the seed of the config instead')
  try:
    if tracing():
      raise ValueError(untraceable('what loads, trains or stores tasks'))
    np.asarray(jnp.asarray(np.zeros(1, np.float32)))
  except jax.errors.JaxRuntimeError as error:
    if not guarded(error):
      raise
    raise ValueError(_GUARDED) from error


def guarded(error: Exception) -> str:
  """What to say of an error of `jax.transfer_guard`; '' of any other."""
  text = str(error)
  return _GUARDED if 'Disallowed' in text and 'transfer' in text else ''


def protocol(path: str | os.PathLike) -> str:
  """'gs' of gs://bucket/run and other addresses; '' of a path.

  >>> protocol('gs://bucket/run'), protocol('runs/a:b'), protocol('C:/runs')
  ('gs', '', '')
  """
  found = re.match(r'([A-Za-z][\w+.-]+):/', os.fspath(path))
  return found[1] if found else ''


def expanded(path: str | os.PathLike) -> pathlib.Path:
  """A path with `~` as the user's home; as it stands, if nobody has one.

  Raises:
    ValueError: it begins at the current folder, which is gone.
  """
  found = pathlib.Path(os.path.expanduser(path))
  if not found.is_absolute() and nowhere():
    raise ValueError(f'{found} is a path from {NOWHERE}, or give a whole path')
  return found


NOWHERE = ('the current folder, which was removed; change to a folder that '
           'exists (cd)')


def nowhere() -> bool:
  """Whether the current folder of this process was removed."""
  try:
    os.getcwd()
  except FileNotFoundError:
    return True
  return False


def memory_bytes() -> int | None:
  """Peak resident memory of this process, in bytes; `None` if it is unknown."""
  try:
    import resource
  except ImportError:  # no POSIX system
    return None
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else peak * 1024


def available_bytes() -> int | None:
  """Memory that this machine has left, in bytes; `None` if it is unknown.

  In a control group (a container, a batch job), what the group has left.
  """
  found = []
  try:
    lines = pathlib.Path('/proc/meminfo').read_text().splitlines()
    found += [int(line.split()[1]) * 1024 for line in lines
              if line.startswith('MemAvailable:')]
    group = pathlib.Path('/sys/fs/cgroup')
    most = (group / 'memory.max').read_text().strip()
    if most != 'max':
      found.append(int(most) - int((group / 'memory.current').read_text()))
  except (OSError, ValueError):
    pass  # not Linux, or no such group
  return max(0, min(found)) if found else None


def cores() -> int | None:
  """Processor cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count()


class Stopped(KeyboardInterrupt):
  """A signal asked the process to end, and its progress was saved.

  Attributes:
    number: number of the signal; 1 is a closed terminal, 2 is Ctrl-C, 15 is
      `kill`.
  """

  def __init__(self, number: int):
    super().__init__(number)
    self.number = number


class _Stop:
  """Whether a signal asked the process to end, and whether it may wait."""
  asked: int | None = None
  depth = 0


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
  """SIGINT, SIGTERM and SIGHUP (the terminal was closed) raise `Stopped`: at
  once, or when `may_stop` is called.

  A second signal raises it at once. Has no effect outside of the main thread.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
  before = {number: signal.getsignal(number) for number in numbers}
  _Stop.asked, _Stop.depth = None, 0

  def stop(number, frame):
    del frame
    if not _Stop.depth or _Stop.asked is not None:
      raise Stopped(number)
    _Stop.asked = number
    with contextlib.suppress(OSError):  # nobody may read it, as after `| tee`
      os.write(2, b'\nstopping once this is saved (again: at once)\n')
  for number in numbers:
    if before[number] is not signal.SIG_IGN:
      signal.signal(number, stop)
  try:
    with _repeated():
      yield
  finally:
    for number, handler in before.items():
      if handler is not None:
        signal.signal(number, handler)
    _Stop.asked, _Stop.depth = None, 0


@contextlib.contextmanager
def _repeated() -> Iterator[None]:
  """A `Stopped` is raised again if it came where Python ignores exceptions: in
  a callback of the garbage collector, of which JAX has one, or in `__del__`.
  """
  before, ended = sys.unraisablehook, threading.Event()

  def again(number):
    if not ended.wait(.05):  # the hook itself has ended by then
      _thread.interrupt_main(number)

  def hook(ignored):
    if isinstance(ignored.exc_value, Stopped):
      _thread.start_new_thread(again, (ignored.exc_value.number,))
    else:
      before(ignored)
  sys.unraisablehook = hook
  try:
    yield
  finally:
    ended.set()
    sys.unraisablehook = before


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
  """Gives a function by which any thread raises an exception in the main one.

  It simulates SIGINT if that has a handler. A script's background jobs ignore
  SIGINT; there SIGUSR2 has a handler in the meantime, which raises
  KeyboardInterrupt. Outside of the main thread, the function does nothing.
  """
  if threading.current_thread() is not threading.main_thread():
    yield lambda: None
    return
  number, before = signal.SIGINT, None
  if not callable(signal.getsignal(number)):
    number = getattr(signal, 'SIGUSR2', number)
    before = signal.signal(number, signal.default_int_handler)
  try:
    yield functools.partial(_thread.interrupt_main, number)
  finally:
    if before is not None:
      signal.signal(number, before)


@contextlib.contextmanager
def saves() -> Iterator[None]:
  """Marks work that ends with a save; a signal waits for the save.

  Not for several processes, as they would wait for each other.
  """
  alone = jax.process_count() == 1
  _Stop.depth += alone
  try:
    yield
  finally:
    _Stop.depth = max(0, _Stop.depth - alone)


def asked_to_stop() -> bool:
  """Whether a signal waits for the next save."""
  return _Stop.asked is not None


def may_stop() -> None:
  """Raises `Stopped` if a signal waits; call it when everything is saved."""
  if _Stop.asked is not None:
    raise Stopped(_Stop.asked)


class Profile:
  """A profile of the first chunks of training, for TensorBoard or Perfetto.

  Attributes:
    folder: folder of the profile.
    chunks: number of recorded chunks.
  """

  def __init__(self, folder, chunks: int = 20):
    self.folder, self.chunks = pathlib.Path(folder), chunks
    self._seen, self._running = 0, False

  def step(self) -> None:
    """A chunk is done; the first one compiles and is not recorded."""
    self._seen += 1
    if self._seen == 1:
      jax.profiler.start_trace(str(self.folder))
      self._running = True
    elif self._seen > self.chunks:
      self.end()

  def end(self) -> None:
    """Writes the profile; does nothing if it is already written."""
    if self._running:
      self._running = False
      jax.profiler.stop_trace()
