"""What lies in a workdir, and its JSON files.

    format.json            its format; see `mtl_jax.storage.formats`
    config.json  report.html
    metrics.jsonl          a log: what the table, the report and `verify` say of
                           a task comes from its checkpoint
    plan.json              the suite's name, and the names of all that the
                           config asks for
    backbone.json          the seed recipe of the backbone and its fingerprint
    backbone/              a checkpoint of its leaves, if they came from a file
                           of weights
    probe/                 raw images on which every task's outputs are kept
    tasks/<name>/          one checkpoint per task
    progress/<name>/       mid-task state; gone when the task commits
    shared/<name>/         bookkeeping that stored impressions don't hold
    start.json             how long the process that works here has worked; what
                           a killed one leaves is counted by the next
    .lock                  held by the process that works here; .holder names
                           it

JSON files and lines are sealed (see `mtl_jax.json_files`): an edit is named.
"""

import contextlib
import hashlib
import logging
import os
import pathlib
import platform
import re
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import filelock
import jax

from mtl_jax import parallel
from mtl_jax.data import names as names_lib
from mtl_jax.storage import checkpoint
from mtl_jax.storage import formats
from mtl_jax.storage import json_records

NAME = r'\w[\w.@~-]*'  # of a stored task
_TICK = 2 * 10 ** 9  # nanoseconds; file systems round to at most 2 s


class Workdir:
  """Paths below one folder."""

  def __init__(self, root: str | os.PathLike[str]) -> None:
    self.root = local_folder(root)
    self.format = self.root / formats.FILE
    self.config = self.root / 'config.json'
    self.metrics = self.root / 'metrics.jsonl'
    self.report = self.root / 'report.html'
    self.backbone = self.root / 'backbone.json'
    self.weights = self.root / 'backbone'
    self.probe = self.root / 'probe'
    self.tasks = self.root / 'tasks'
    self.progress = self.root / 'progress'
    self.shared = self.root / 'shared'
    self.start = self.root / 'start.json'
    self.plan = self.root / 'plan.json'
    self._lock = threading.Lock()
    self._stamp: tuple[int, int] | None = None
    self._finished: dict[str, tuple[int, int]] = {}

  def task(self, name: str) -> pathlib.Path:
    """The folder of a task's checkpoint."""
    return self.tasks / _string(name)

  def require_own(self) -> None:
    """Refuses a workdir of another format, and a folder that is none.

    New and empty folders may become one; hidden files are no obstacle, nor is
    what a start left that was killed before its first file was complete.

    Raises:
      ValueError: names some of what lies there, and what to do.
    """
    formats.require(self.root)
    if self.format.exists() or not self.root.is_dir():
      return
    made = (self.tasks, self.probe, self.progress, self.shared)
    cache = getattr(jax.config, 'jax_compilation_cache_dir') or os.devnull
    others = sorted(
        path.name for path in self.root.iterdir()
        if not path.name.startswith('.') and path.name != 'lost+found'
        and not (path in made and path.is_dir() and not any(path.iterdir()))
        and not pathlib.Path(cache).absolute().is_relative_to(path.absolute()))
    if others:
      more = f' and {len(others) - 3} more' if len(others) > 3 else ''
      raise ValueError(
          f'{self.root} is neither a workdir nor empty: it holds '
          f'{", ".join(others[:3])}{more}; choose another folder, or a new one '
          f'in it ({self.root / "run"}). Nothing was changed')

  def probe_of(self, source: str) -> pathlib.Path:
    """Of a source that is named by a path: unique, and no longer than names
    may be.
    """
    plain = self.probe / source.replace('/', '-')
    path = '/' in source and source.startswith(('folder:', 'table:'))
    if len(plain.name.encode()) <= 100 and not path:
      return plain
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    return self.probe / f'{re.sub("[^!-~]", "_", plain.name)[-60:]}-{digest}'

  def task_names(self) -> list[str]:
    """Names of all finished tasks, sorted.

    They are kept in memory: a folder is listed again when it has changed.
    """
    return sorted(self.finished_tasks())

  def has_task(self, name: str) -> bool:
    """Whether a finished task of this name lies here."""
    return name in self.finished_tasks()

  def require_free(self, name: Any, leaving: str | None = None) -> None:
    """Refuses what can't be the name of one more task here.

    Args:
      name: that was given.
      leaving: the name of a task that gives its own up.

    Raises:
      ValueError: it is no name, or would share files with another task's on a
        disk that does not tell capital letters apart.
    """
    if (not isinstance(name, str) or not re.fullmatch(NAME, name)
        or len(name.encode()) > 100 or not checkpoint.is_final(name)):
      raise ValueError(
          f'the name of the task is {name!r}; a name has letters, digits, _, '
          '., @, ~ and -, at most 100 bytes, and no mark of a folder that is '
          'half written')
    for other in self.task_names():
      if (other not in (name, leaving)
          and names_lib.folded(other) == names_lib.folded(name)):
        raise ValueError(
            f'{self.root} has a task {other}, which would share its files with '
            f'{name} on disks that do not tell capital letters apart; choose '
            'another name')

  def version(self, name: str) -> tuple[int, int] | None:
    """Equal as long as the same folder stands under a task's name."""
    return self.finished_tasks().get(_string(name))

  def finished_tasks(self) -> dict[str, tuple[int, int]]:
    """(inode, time) of all finished tasks, by name; never changed in place."""
    with self._lock:
      try:
        found = os.stat(self.tasks)
      except OSError:
        self._stamp, self._finished = None, {}
        return self._finished
      stamp = found.st_ino, found.st_mtime_ns
      if stamp != self._stamp:
        before, now = self._finished, time.time_ns()
        there = {name: found for name, found in _listed(self.tasks)
                 if before.get(name) == found
                 or checkpoint.exists(self.task(name))}
        # The same object as long as nothing has changed.
        self._finished = before if there == before else there
        # What changes within one tick of the file system's clock has one time.
        self._stamp = stamp if now - found.st_mtime_ns > _TICK else None
      return self._finished

  def lost_tasks(self) -> list[str]:
    """Names that the plan or the log has, or a folder, but no checkpoint.

    Of the plan's, those that were not finished yet or were taken away by
    `System.delete` and `System.rename` are no loss.
    """
    lines = list(json_records.read_lines(self.metrics))
    logged, removed = json_records.came_and_went(lines)
    if [line['kind'] for line in lines if line['kind'] in ('run', 'summary')][
        -1:] == ['summary']:
      logged |= set(self.read_plan().get('entries', ())) - removed
    if self.tasks.is_dir():
      logged |= {p.name for p in self.tasks.iterdir()
                 if checkpoint.is_final(p.name) and p.is_dir()}
    return sorted(logged - set(self.task_names()))

  def planned(self, names: Iterable[str]) -> set[str]:
    """Those names that the config asks for; all, of a workdir without plan."""
    plan = self.read_plan()
    if not plan:
      return set(names)
    entries = set(plan['entries'])
    masks = tuple(f'{phase}-mask-' for phase in plan['streams'])
    return {name for name in names
            if name in entries or name.startswith(masks)}

  def read_plan(self) -> dict:
    """What the config asks for; {} of a workdir that has no plan."""
    return json_records.read_json(self.plan) if self.plan.exists() else {}

  def keep_weights(self, leaves: dict, fingerprint: str) -> None:
    """Stores a backbone that no seed makes again; every process calls it.

    Args:
      leaves: by path.
      fingerprint: of its parameters.
    """
    if checkpoint.exists(self.weights):
      if self.backbone.exists():
        return
      # Of a start that was killed before it had claimed the folder.
      checkpoint.remove_all(self.root, self.weights.name)
    checkpoint.save(self.weights, leaves, {'backbone': fingerprint})

  @contextlib.contextmanager
  def locked(self):
    """Keeps other processes from working here; a kill ends it too.

    A workdir of an earlier format has this version's from then on, whose
    checkpoints may come beside the earlier ones.

    Raises:
      ValueError: another process works here.
    """
    if not parallel.is_primary():
      yield
      return
    above = (self.root, *self.root.parents)
    if file := next((path for path in above if path.is_file()), None):
      raise ValueError(f'{file} is a file, so that {self.root} cannot be a '
                       'folder; name another one')
    made = [folder for folder in above if not folder.exists()]
    self.root.mkdir(parents=True, exist_ok=True)
    file = self.root / '.lock'
    begun = file.exists()
    lock = filelock.FileLock(file, timeout=0)
    holder = self.root / '.holder'
    try:
      lock.acquire()
    except filelock.Timeout:
      name = holder.read_text().strip() if holder.exists() else ''
      raise ValueError(
          f'another process ({name or "unknown"}) works in {self.root}; wait '
          'for it, or choose another workdir. Nothing was changed') from None
    except (OSError, NotImplementedError) as error:
      # A file system without locks.
      logging.warning('%s cannot be locked (%s): see to it that one process '
                      'works there at a time', self.root, error)
    try:
      holder.write_text(f'{platform.node()}, pid {os.getpid()}')
      if formats.is_older(self.root):
        json_records.write_atomic(self.format, formats.text())
      yield
    finally:
      if lock.is_locked:
        holder.unlink(missing_ok=True)
        if not begun and set(os.listdir(self.root)) <= {file.name}:
          # What was refused leaves nothing behind.
          with contextlib.suppress(OSError):
            file.unlink()
            for folder in made:
              folder.rmdir()
        lock.release()

  @contextlib.contextmanager
  def timed(self, began: float, lines: list[dict] | None = None,
            every: float = 5.):
    """Notes how long a start works, for the case that it is killed.

    Args:
      began: of this start, by `time.perf_counter`.
      lines: of the log, if they were read already.
      every: seconds between two notes; a kill loses no more of them.
    """
    if not parallel.is_primary():
      yield
      return
    label = json_records.label(list(json_records.read_lines(self.metrics))
                               if lines is None else lines)
    ended = threading.Event()

    def note():
      json_records.write_json(self.start, {'start': label,
                              'seconds': time.perf_counter() - began})

    def keep_noting():
      while not ended.wait(every):
        note()
    note()
    thread = threading.Thread(target=keep_noting, daemon=True)
    thread.start()
    try:
      yield
    except BaseException:
      ended.set()
      thread.join()
      note()
      raise
    ended.set()
    thread.join()
    self.start.unlink(missing_ok=True)

  def killed(self, lines: list[dict]) -> list[dict]:
    """The line of the last start among `lines`, if it was killed."""
    left = json_records.read_json(self.start) if self.start.exists() else {}
    if left.get('start') is None or left['start'] != json_records.label(lines):
      return []
    return [{'kind': 'killed', 'seconds': left['seconds']}]

  def prepare(self) -> None:
    """Makes the folders and removes what a killed run left half written."""
    for folder in (self.root, self.tasks, self.probe, self.progress,
                   self.shared):
      folder.mkdir(parents=True, exist_ok=True)
      checkpoint.remove_unfinished(folder)
    if not self.format.exists():
      json_records.write_atomic(self.format, formats.text())
    if parallel.is_primary():
      for path in (self.format, self.config, self.backbone, self.metrics,
                   self.report, self.start, self.plan):
        for left in self.root.glob(f'.{path.name}.*'):
          left.unlink(missing_ok=True)


def _string(name: Any) -> str:
  if not isinstance(name, str):
    raise ValueError(f'the name of a task is {name!r}; give a string')
  return name


def local_folder(path) -> pathlib.Path:
  """A path of this machine, with `~` as the user's home.

  Raises:
    ValueError: it is no path, or the address of a bucket or another machine.
  """
  if not isinstance(path, (str, os.PathLike)) or '\0' in os.fspath(path):
    raise ValueError(f'the path is {path!r}; give that of a folder or file')
  remote = re.match(r'([A-Za-z][\w+.-]+):/', os.fspath(path))
  if remote:
    raise ValueError(
        f'{os.fspath(path)} is a remote address ({remote[1]}:), and a workdir '
        'is a folder: its files are locked, renamed and appended to. Mount the '
        'bucket (gcsfuse, s3fs) and give the folder, or copy the finished '
        'workdir')
  return pathlib.Path(path).expanduser()


def _listed(folder: pathlib.Path) -> Iterator[tuple]:
  """(name, (inode, time)) of all folders in a folder."""
  try:
    names = os.listdir(folder)
  except OSError:
    return
  for name in filter(checkpoint.is_final, names):
    try:
      found = os.stat(folder / name)
    except OSError:
      continue  # gone since
    if stat.S_ISDIR(found.st_mode):
      yield name, (found.st_ino, found.st_mtime_ns)
