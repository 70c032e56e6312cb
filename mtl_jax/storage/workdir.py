"""What lies in a workdir, and its JSON files.

    format.json            its format; see `mtl_jax.storage.formats`
    config.json  metrics.jsonl  report.html
    backbone.json          the seed recipe of the backbone and its fingerprint
    backbone.npz           a copy of the file of weights that it starts from,
                           if it does
    probe/                 raw images on which every task's outputs are kept
    tasks/<name>/          one checkpoint per task
    progress/<name>/       mid-task state; gone when the task commits
    shared/<name>/         bookkeeping that stored impressions don't hold
    start.json             how long the process that works here has worked; what
                           a killed one leaves is counted by the next
    .lock                  held by the process that works here; .holder names
                           it
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import platform
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator

import filelock

from mtl_jax import parallel
from mtl_jax.storage import checkpoint
from mtl_jax.storage import formats


# Lines that say that a task is there: learned, or come in another way.
ENTRY_KINDS = ('task', 'imported', 'merged', 'renamed')


class Workdir:
  """Paths below one folder."""

  def __init__(self, root):
    self.root = local_folder(root)
    self.format = self.root / formats.FILE
    self.config = self.root / 'config.json'
    self.metrics = self.root / 'metrics.jsonl'
    self.report = self.root / 'report.html'
    self.backbone = self.root / 'backbone.json'
    self.weights = self.root / 'backbone.npz'
    self.probe = self.root / 'probe'
    self.tasks = self.root / 'tasks'
    self.progress = self.root / 'progress'
    self.shared = self.root / 'shared'
    self.start = self.root / 'start.json'

  def task(self, name: str) -> pathlib.Path:
    return self.tasks / name

  def probe_of(self, source: str) -> pathlib.Path:
    """Of a source that is named by a path: unique, and no longer than names
    may be. Workdirs of earlier versions keep the folder that they have.
    """
    plain = self.probe / source.replace('/', '-')
    path = '/' in source and source.startswith(('folder:', 'table:'))
    if len(plain.name.encode()) <= 100 and not (
        path and self._probed(plain) != source):
      return plain
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    return self.probe / f'{re.sub("[^!-~]", "_", plain.name)[-60:]}-{digest}'

  def _probed(self, folder: pathlib.Path) -> str | None:
    """The source of a probe, if there is one."""
    return (checkpoint.load_metadata(folder)['source']
            if checkpoint.exists(folder) else None)

  def task_names(self) -> list[str]:
    """Names of all finished tasks, sorted."""
    if not self.tasks.is_dir():
      return []
    return sorted(p.name for p in self.tasks.iterdir()
                  if not p.name.startswith('.') and checkpoint.exists(p))

  def lost_tasks(self) -> list[str]:
    """Names that were logged as finished, or have a folder, but aren't."""
    logged = {line['entry'] for line in read_lines(self.metrics)
              if line['kind'] in ENTRY_KINDS}
    folders = {p.name for p in self.tasks.iterdir()
               if '.orbax-checkpoint-tmp' not in p.name
               and not p.name.startswith('.')} if self.tasks.is_dir() else set()
    return sorted((logged | folders) - set(self.task_names()))

  def keep_weights(self, path: str | None) -> None:
    """Copies the weights that a backbone starts from, if there are any."""
    if path and not self.weights.exists() and parallel.is_primary():
      part = self.weights.with_suffix('.part')
      shutil.copyfile(path, part)
      os.replace(part, self.weights)
    parallel.barrier('weights are kept')

  @contextlib.contextmanager
  def locked(self):
    """Keeps other processes from working here; a kill ends it too.

    Raises:
      ValueError: another process works here.
    """
    if not parallel.is_primary():
      yield
      return
    self.root.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(self.root / '.lock', timeout=0)
    holder = self.root / '.holder'
    try:
      lock.acquire()
    except filelock.Timeout:
      name = holder.read_text().strip() if holder.exists() else ''
      raise ValueError(
          f'another process ({name or "unknown"}) works in {self.root}; wait '
          'for it, or choose another --workdir. Nothing was changed') from None
    except (OSError, NotImplementedError) as error:
      # A file system without locks.
      logging.warning('%s cannot be locked (%s): see to it that one process '
                      'works there at a time', self.root, error)
    try:
      holder.write_text(f'{platform.node()}, pid {os.getpid()}')
      yield
    finally:
      if lock.is_locked:
        holder.unlink(missing_ok=True)
        lock.release()

  @contextlib.contextmanager
  def timed(self, began: float, every: float = 5.):
    """Notes how long a start works, for the case that it is killed.

    Args:
      began: of this start, by `time.perf_counter`.
      every: seconds between two notes; a kill loses no more of them.
    """
    if not parallel.is_primary():
      yield
      return
    label = _label(list(read_lines(self.metrics)))
    ended = threading.Event()

    def note():
      write_atomic(self.start, json.dumps({
          'start': label, 'seconds': time.perf_counter() - began}) + '\n')

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
    left = read_json(self.start) if self.start.exists() else {}
    if left.get('start') is None or left['start'] != _label(lines):
      return []
    return [{'kind': 'killed', 'seconds': left['seconds']}]

  def prepare(self) -> None:
    """Makes the folders and removes what a killed run left half written."""
    for folder in (self.root, self.tasks, self.probe, self.progress,
                   self.shared):
      folder.mkdir(parents=True, exist_ok=True)
      checkpoint.remove_unfinished(folder)
    if not self.format.exists():
      write_atomic(self.format, formats.text())
    if parallel.is_primary():
      for path in (self.format, self.config, self.backbone, self.metrics,
                   self.report, self.start):
        for left in self.root.glob(f'.{path.name}.*'):
          left.unlink(missing_ok=True)


def local_folder(path) -> pathlib.Path:
  """A path of this machine, with `~` as the user's home.

  Raises:
    ValueError: it is the address of a bucket or another machine.
  """
  remote = re.match(r'([A-Za-z][\w+.-]+):/', os.fspath(path))
  if remote:
    raise ValueError(
        f'{os.fspath(path)} is a remote address ({remote[1]}:), and a workdir '
        'is a folder: its files are locked, renamed and appended to. Mount the '
        'bucket (gcsfuse, s3fs) and give the folder, or copy the finished '
        'workdir')
  return pathlib.Path(path).expanduser()


def write_atomic(path: pathlib.Path, text: str) -> None:
  """Replaces a file as a whole, or leaves it as it was."""
  if not parallel.is_primary():
    return
  handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
  with os.fdopen(handle, 'w') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.chmod(name, 0o644)
  os.replace(name, path)


def read_json(path: pathlib.Path) -> dict:
  """A JSON file's value.

  Raises:
    ValueError: the file is missing or malformed; names it.
  """
  try:
    return json.loads(path.read_text())
  except FileNotFoundError as error:
    raise ValueError(f'{path} is missing: {path.parent} is not the workdir of '
                     'a run') from error
  except json.JSONDecodeError as error:
    raise ValueError(f'{path} is malformed: {error}') from error


def append_line(path: pathlib.Path, record: dict) -> None:
  """Adds one JSON line and flushes it to the disk."""
  if not parallel.is_primary():
    return
  with path.open('a') as file:
    file.write(json.dumps(record) + '\n')
    file.flush()
    os.fsync(file.fileno())


def read_lines(path: pathlib.Path) -> Iterator[dict]:
  """The JSON lines of a file; a last line cut by a kill is passed over."""
  if not path.exists():
    return
  for line in path.read_text().splitlines():
    try:
      yield json.loads(line)
    except json.JSONDecodeError:
      continue


def _label(lines: list[dict]) -> list | None:
  """Which start the last one is, unless how it ended stands there already."""
  starts = [line for line in lines if line['kind'] == 'run']
  ends = [line['kind'] for line in lines
          if line['kind'] in ('run', 'killed', 'summary')]
  if ends[-1:] != ['run']:
    return None
  return [len(starts), starts[-1].get('started')]


def total_seconds(lines: Iterable[dict]) -> float:
  """Of all starts, those that were killed among them.

  Earlier versions left nothing of a start that was killed: of those only the
  tasks that it finished are counted (see `whole_seconds`).

  >>> total_seconds([
  ...     {'kind': 'run'}, {'kind': 'task', 'seconds': {'train': 2.}},
  ...     {'kind': 'killed', 'seconds': 7.},
  ...     {'kind': 'run'}, {'kind': 'summary', 'seconds': 3.}])
  10.0
  """
  total = start = 0.
  for line in lines:
    if line['kind'] == 'run':  # what stands before it was killed
      total, start = total + start, 0.
    elif line['kind'] == 'task':
      start += sum(line['seconds'].values())
    elif line['kind'] in ('killed', 'summary'):
      total, start = total + line['seconds'], 0.
  return total


def whole_seconds(lines: Iterable[dict]) -> bool:
  """Whether `total_seconds` has all starts whole.

  >>> whole_seconds([{'kind': 'run'}, {'kind': 'run'}, {'kind': 'summary'}])
  False
  """
  kinds = [line['kind'] for line in lines
           if line['kind'] in ('run', 'killed', 'summary')]
  return all(after != 'run' for kind, after in zip(kinds, kinds[1:])
             if kind == 'run')


def write_lines(path: pathlib.Path, lines: list[dict]) -> None:
  """Replaces a file of JSON lines as a whole."""
  write_atomic(path, ''.join(json.dumps(line) + '\n' for line in lines))
