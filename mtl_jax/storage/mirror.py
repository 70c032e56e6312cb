"""Keeps a bucket equal to the folder that a workdir is worked on.

Between `held` and its end a thread sends what has changed in the folder: what
others rely on first, of a checkpoint its metadata last, and what is gone last
of all, metadata first. A machine that dies at any moment leaves a bucket from
which another goes on.
"""

import contextlib
import graphlib
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import filelock

from mtl_jax import host
from mtl_jax import messages
from mtl_jax.parallel import writing
from mtl_jax.storage import bucket as bucket_lib
from mtl_jax.storage import checkpoint
from mtl_jax.storage import staging

EVERY = 5.  # seconds between two sends
WAITS = (1., 2., 4., 8., 16.)  # seconds between tries of the last one


def of(path) -> 'Mirror | None':
  """The mirror of an address; `None` of a folder's path."""
  if bucket_lib.is_remote(path):
    return Mirror(os.fspath(path), writing.own_part())
  return None


class _Changed(Exception):
  """What was about to be sent has changed: look again."""


class Mirror(staging.Staging):
  """A staging folder that is sent to its bucket; made by `of`."""

  def __init__(self, address: str, part: str = '') -> None:
    super().__init__(address, part)
    self._lock: bucket_lib.Lock | None = None
    self._claimed, self._log_due = False, 0.
    self._busy = threading.Lock()

  def push(self) -> None:
    """Makes the bucket what the folder is.

    Raises:
      ValueError: another process has taken the bucket over, or the folder is
        gone.
      Exception: of the store; what was not sent is sent the next time.
    """
    for left in reversed(range(staging.TRIES)):
      try:
        with self._busy:
          self._push_once()
        return
      except _Changed:
        if not left:
          raise OSError(f'{self.root} changes faster than it can be '
                        'sent') from None

  def _push_once(self) -> None:
    texts = {name: self._text(name) for name in staging.FILES}
    before = self.here()
    here = self.here()
    if {*staging.of_kind(before, 'shared')} != {
        *staging.of_kind(here, 'shared')}:
      raise _Changed
    gone = [unit for unit in self.there if unit not in here
            and unit not in before]
    for kind in (*staging.FOLDERS, 'format.json'):
      if not (self.root / kind).exists() and staging.of_kind(self.there, kind):
        raise ValueError(f'{self.root / kind} is gone, so that nothing more is '
                         f'sent to {self.bucket.address}; start again, which '
                         'fetches what is there')
    changed = [unit for unit, stamp in here.items() if unit not in staging.FILES
               and self.there.get(unit, {}).get(staging.WHOLE) != stamp]
    if not changed and not gone and not any(texts.values()):
      return
    self._claim()
    self._send_texts(texts, staging.FIRST)
    self._send(staging.of_kind(changed, 'backbone'))
    self._send_texts(texts, staging.RECIPE)
    for kind in ('probe', 'shared', 'tasks'):
      self._send(staging.of_kind(changed, kind))
    self._send_texts(texts, staging.LAST)
    self._send(staging.of_kind(changed, 'progress'))
    for kind in (*reversed(staging.FOLDERS), 'backbone', *staging.FILES):
      for unit in staging.of_kind(gone, kind):
        self._remove(unit, list(self.there[unit]))

  def send(self) -> None:
    """`push` now, with the log; what fails is sent later."""
    if self._lock is not None:
      self._log_due = 0.
      with contextlib.suppress(Exception):  # of any store; it is tried again
        self.push()

  def _claim(self) -> None:
    """Makes sure that this folder may write, and is known to have written."""
    if self._lock is not None:
      self._lock.renew(older=2 * bucket_lib.BEAT)
    if not self._claimed:
      self.bucket.write('.writer', self.identity().encode())
      (self.base / 'wrote').touch()
      self._claimed = True

  def _text(self, name: str) -> tuple[bytes, staging.Stamp] | None:
    """A file and its stamp, if it has changed and is due."""
    stamp = staging.stamp_of(self.root / name)
    if stamp is None or self.there.get(name, {}).get('') == stamp or (
        name == 'metrics.jsonl' and time.monotonic() < self._log_due):
      return None
    try:
      return (self.root / name).read_bytes(), stamp
    except FileNotFoundError:
      raise _Changed from None

  def _send_texts(self, texts: dict, names: Iterable[str]) -> None:
    for name in names:
      if texts[name] is not None:
        began = time.monotonic()
        self.bucket.write(name, texts[name][0])
        self.there[name] = {'': texts[name][1]}
        if name == 'metrics.jsonl':
          # It is sent whole: a long one takes at most a tenth of the time.
          self._log_due = time.monotonic() + 9 * (time.monotonic() - began)

  def _send(self, units: list[str]) -> None:
    arrays, whole, extra = [], {}, []
    for unit in units:
      there, files = self.there.setdefault(unit, {}), self.files(unit)
      if staging.WHOLE not in files:
        raise _Changed
      new = [(unit, file, stamp) for file, stamp in files.items()
             if file != staging.WHOLE and there.get(file) != stamp]
      if new and staging.WHOLE in there:
        self._remove(unit, [staging.WHOLE])  # not whole while its arrays change
      arrays += new
      whole[unit] = files[staging.WHOLE]
      extra.append((unit, [file for file in there if file not in files]))
    self.at_once(self._upload, arrays)
    for ready in self._in_order(units):
      self.at_once(self._upload, [(unit, staging.WHOLE, whole[unit])
                                  for unit in ready])
    for unit, left in extra:
      self._remove(unit, left)

  def _in_order(self, units: list[str]) -> Iterator[Iterable[str]]:
    """The units in groups: a task comes after those that it was made from."""
    there = set(units)
    order = graphlib.TopologicalSorter(
        {unit: self._needs(unit) & there for unit in units})
    with contextlib.suppress(graphlib.CycleError):  # of faulty metadata
      order.prepare()
    while ready := order.get_ready():
      there.difference_update(ready)
      yield ready
      order.done(*ready)
    yield there

  def _needs(self, unit: str) -> set[str]:
    """The other tasks that a task was made from, as units."""
    if not unit.startswith('tasks/'):
      return set()
    try:
      found = checkpoint.load_metadata(self.root / unit)
    except ValueError:
      return set()
    names = {one['task'] for one in (found.get('references') or {}).values()}
    names |= {*(found.get('relies_on') or {}), found.get('kept_by') or ''}
    return {f'tasks/{name}' for name in names} - {unit}

  def _upload(self, unit: str, file: str, stamp: staging.Stamp) -> None:
    path = self.root / unit / file
    try:
      data = path.read_bytes()
    except FileNotFoundError:
      raise _Changed from None
    if staging.stamp_of(path) != stamp:
      raise _Changed
    if self._lock is not None and self._lock.lost:
      self._claim()  # refuses
    self.there.setdefault(unit, {}).setdefault(file, None)  # from now on
    self.bucket.write(f'{unit}/{file}', data)
    self.there[unit][file] = stamp

  def _remove(self, unit: str, files: list[str]) -> None:
    """Removes files of a unit from the bucket, its metadata first."""
    one = lambda file: self.bucket.remove(f'{unit}/{file}'.rstrip('/'))
    if staging.WHOLE in files:
      one(staging.WHOLE)
    self.at_once(one, [(file,) for file in files if file != staging.WHOLE])
    for file in files:
      self.there[unit].pop(file, None)
    if not self.there[unit]:
      del self.there[unit]

  @contextlib.contextmanager
  def held(self) -> Iterator[None]:
    """Takes the lock and the bucket's contents; sends what changes until the
    end, and then gives the lock back. Within itself it does nothing.

    Raises:
      ValueError: another process works there, the store refuses, or something
        could not be sent.
    """
    if self._lock is not None:
      yield
      return
    self.base.mkdir(parents=True, exist_ok=True)
    at_work = filelock.FileLock(self.base / '.run', timeout=0,
                                thread_local=False)
    # Where home folders are shared, one folder may be that of two machines.
    lock = bucket_lib.Lock(self.bucket, f'{self.identity()}@{platform.node()}')
    with contextlib.ExitStack() as stack:
      with filelock.FileLock(self.base / '.pull'):
        with contextlib.suppress(filelock.Timeout):
          stack.enter_context(at_work)
        self._take(lock, at_work.is_locked)
        stack.callback(self._release, lock)
        self._pull()
      self._lock, self._claimed = lock, False
      stack.enter_context(self._sending(lock))
      yield

  def _take(self, lock: bucket_lib.Lock, alone: bool) -> None:
    """Takes the bucket's lock; `alone`: no other process has the folder."""
    try:
      before = lock.take() if alone else lock.refuse()
    except ValueError:
      raise
    except Exception as error:  # of any store
      raise self.bucket.refused(error) from error
    if before:
      logging.warning('the lock of %s was held by %s, which shows no sign of '
                      'life: it is taken over', self.bucket.address, before)

  def _release(self, lock: bucket_lib.Lock) -> None:
    self._lock = None
    try:
      lock.release()
    except Exception as error:  # of any store
      logging.warning('the lock of %s could not be given back (%s): it is '
                      'taken over after %.0f seconds', self.bucket.address,
                      messages.brief(error), bucket_lib.STALE)

  @contextlib.contextmanager
  def _sending(self, lock: bucket_lib.Lock) -> Iterator[None]:
    """Two threads at work, and the last send."""
    ended, sent = threading.Event(), threading.Event()
    try:
      with host.interruptible() as interrupt:
        sender = _thread_of(ended, EVERY, self.push, lock, interrupt)
        beat = _thread_of(sent, bucket_lib.BEAT, lock.renew, lock, interrupt)
        yield
    except BaseException as error:
      said = self._end(ended, sender, lock)
      if lock.lost:
        raise ValueError(said or (
            f'another process ({lock.lost}) has taken over '
            f'{self.bucket.address}, and this one ended; wait for it, or '
            'choose another workdir. All of this one was sent')) from error
      if said:
        logging.warning('%s', said)
      raise
    else:
      said = self._end(ended, sender, lock)
      if said:
        raise ValueError(said)
    finally:
      sent.set()
      beat.join()

  def _end(self, ended: threading.Event, sender: threading.Thread,
           lock: bucket_lib.Lock) -> str:
    """Sends for the last time; what could not be done, or ''."""
    ended.set()
    sender.join()
    self._log_due = 0.
    for wait in (*WAITS, None):
      try:
        self.push()
        return ''
      except Exception as error:  # of any store
        if wait is None or lock.lost or isinstance(error, ValueError):
          why = (f'another process ({lock.lost}) has taken it over' if lock.lost
                 else messages.brief(error))
          return (f'what has changed last was not sent to '
                  f'{self.bucket.address} ({why}); it lies in {self.root}: '
                  'the same command on this machine goes on from there')
        time.sleep(wait)
    return ''


def _thread_of(ended: threading.Event, every: float,
               do: Callable[[], Any], lock: bucket_lib.Lock,
               interrupt: Callable[[], None]) -> threading.Thread:
  """Does something again and again; less often where it fails."""
  def work():
    wait = every
    while not ended.wait(wait):
      try:
        do()
        wait = every
      except Exception as error:  # of any store
        if lock.lost:
          logging.error('another process (%s) has taken over %s: this one ends',
                        lock.lost, lock.bucket.address)
          interrupt()
          return
        wait = min(2 * wait, 60.)
        logging.warning('%s: %s; it is tried again', lock.bucket.address,
                        messages.brief(error))
  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  return thread
