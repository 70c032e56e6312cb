"""The files of a workdir.

    format.json            its format; see `mtl_jax.storage.formats`
    config.json  report.html
    metrics.jsonl          a log; the table, the report and `verify` read a
                           task's results from its checkpoint instead
    plan.json              the suite's name, and the names of all entries that
                           the config asks for
    backbone.json          the seed recipe of the backbone and its fingerprint
    backbone/              a checkpoint of its leaves, if they were read from a
                           file of weights
    probe/                 raw images on which every task's outputs are stored
    tasks/<name>/          one checkpoint per task
    progress/<name>/       mid-task state; removed when the task commits
    shared/<name>/         values that the next task needs and that no
                           impression holds
    start.json             how long the current process has worked; after a
                           kill, the next start logs it
    .lock                  locked by the working process, which .holder names

JSON files and lines are sealed (see `mtl_jax.json_files`): edits are detected.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import threading
import time
from collections.abc import Iterable
from typing import Any

import jax

from mtl_jax import messages
from mtl_jax import parallel
from mtl_jax.data import names as names_lib
from mtl_jax.parallel import writing
from mtl_jax.storage import checkpoint
from mtl_jax.storage import folder_lock
from mtl_jax.storage import folders
from mtl_jax.storage import formats
from mtl_jax.storage import json_records
from mtl_jax.storage import mirror as mirror_lib
from mtl_jax.storage import removal

NAME = r'\w[\w.@~-]*'  # the name of a stored task
_TICK = 2 * 10 ** 9  # nanoseconds; file systems round times to at most 2 s


class Workdir:
  """Paths below one folder; of a bucket, that of its staging folder.

  Attributes:
    mirror: of a bucket (see `mtl_jax.storage.mirror`); `None` of a folder.
  """

  def __init__(self, root: str | os.PathLike[str]) -> None:
    self.mirror = mirror_lib.of(root)
    self.root = (folders.storable(folders.local(root)) if self.mirror is None
                 else self.mirror.root)
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
    self._held = False
    self._lock = threading.Lock()
    self._stamp: folders.Stamp | None = None
    self._finished: dict[str, folders.Stamp] = {}

  def task(self, name: str) -> pathlib.Path:
    """The folder of a task's checkpoint."""
    return self.tasks / _string(name)

  def require_own(self) -> None:
    """Refuses a workdir of an unknown format, and a folder of other files.

    A new or empty folder becomes a workdir; hidden files don't matter, nor do
    files of a start that was killed before its first file was complete.

    Raises:
      ValueError: names some of the files, and the remedy.
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

  def require_there(self) -> None:
    """Refuses a folder that went away after its system was loaded."""
    if not self.backbone.exists():
      raise ValueError(
          f'{self.root} was moved or removed after it was loaded, or its '
          'backbone.json was: load it from where it is now')

  def probe_of(self, source: str) -> pathlib.Path:
    """The path of a source's probe. Its name is unique and of legal length,
    even if the source's name is a path.
    """
    plain = self.probe / source.replace('/', '-')
    path = '/' in source and source.startswith(('folder:', 'table:'))
    if len(plain.name.encode()) <= 100 and not path:
      return plain
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    return self.probe / f'{re.sub("[^!-~]", "_", plain.name)[-60:]}-{digest}'

  def task_names(self) -> list[str]:
    """Names of all finished tasks, sorted.

    They are cached; the folder is listed again when it has changed.
    """
    return sorted(self.finished_tasks())

  def has_task(self, name: str) -> bool:
    """Whether a finished task of this name is in the workdir."""
    return self.version(name) is not None

  def require_free(self, name: Any, leaving: str | None = None) -> None:
    """Refuses a name that can't become the name of another task here.

    Args:
      name: the given name.
      leaving: the name of a task that is about to lose this name.

    Raises:
      ValueError: the name is not valid, or on a case-insensitive disk it would
        share files with another task's.
    """
    if (not isinstance(name, str) or not re.fullmatch(NAME, name)
        or len(name.encode()) > 100 or not removal.is_final(name)):
      raise ValueError(
          f'the name of the task is {messages.shown(name)}; a name has '
          'letters, digits, _, ., @, ~ and -, at most 100 bytes, and no mark '
          'of a folder that is half written')
    for other in self.task_names():
      if (other not in (name, leaving)
          and names_lib.folded(other) == names_lib.folded(name)):
        raise ValueError(
            f'{self.root} has a task {other}, which would share its files with '
            f'{name} on disks that do not tell capital letters apart; choose '
            'another name')

  def version(self, name: str) -> folders.Stamp | None:
    """A value that is equal as long as the task's folder is the same one.

    `None` without such a task. The folder of tasks is listed at most if the
    answer may have changed since the last time.
    """
    _string(name)
    with self._lock:
      if self._stamp is None or self._stamp != folders.version(self.tasks):
        known = self._finished.get(name)
        found = folders.version(self.task(name))
        if found is None or found == known:
          return found
    return self.finished_tasks().get(name)

  def finished_tasks(self) -> dict[str, folders.Stamp]:
    """The stamps of all finished tasks by name; the dict never changes."""
    with self._lock:
      stamp = folders.version(self.tasks)
      if stamp is None:
        self._stamp, self._finished = None, {}
      elif stamp != self._stamp:
        before, now = self._finished, time.time_ns()
        there = {name: found for name, found in folders.listed(self.tasks)
                 if before.get(name) == found
                 or checkpoint.exists(self.task(name))}
        # Returns the same object as long as nothing has changed.
        self._finished = before if there == before else there
        # Changes within one tick of the file system's clock have equal times.
        self._stamp = stamp if now - stamp.changed > _TICK else None
      return self._finished

  def lost_tasks(self) -> list[str]:
    """Names in the plan, in the log or among the folders without a checkpoint.

    Planned tasks that are not finished yet, and tasks that `System.delete` or
    `System.rename` took away, are not lost.
    """
    lines = list(json_records.read_lines(self.metrics))
    logged, removed = json_records.came_and_went(lines)
    if [line['kind'] for line in lines if line['kind'] in ('run', 'summary')][
        -1:] == ['summary']:
      logged |= set(self.read_plan().get('entries', ())) - removed
    if self.tasks.is_dir():
      logged |= {p.name for p in self.tasks.iterdir()
                 if removal.is_final(p.name) and p.is_dir()}
    return sorted(logged - set(self.task_names()))

  def planned(self, names: Iterable[str]) -> set[str]:
    """The names that the config asks for; all of them without a plan."""
    plan = self.read_plan()
    if not plan:
      return set(names)
    entries = set(plan['entries'])
    masks = tuple(f'{phase}-mask-' for phase in plan['streams'])
    return {name for name in names
            if name in entries or name.startswith(masks)}

  def read_plan(self) -> dict:
    """What the config asks for; {} if the workdir has no plan."""
    return json_records.read_json(self.plan) if self.plan.exists() else {}

  def keep_weights(self, leaves: dict, fingerprint: str) -> None:
    """Stores a backbone that no seed can reproduce; every process calls it.

    Args:
      leaves: leaves by path.
      fingerprint: fingerprint of the backbone's parameters.
    """
    if checkpoint.exists(self.weights):
      if self.backbone.exists():
        return
      # Left by a start that was killed before it claimed the folder.
      removal.remove_all(self.root, self.weights.name)
    checkpoint.save(self.weights, leaves, {'backbone': fingerprint})

  def read(self, required: bool = True) -> None:
    """Fetches what lies in a bucket; of a folder, does nothing.

    Args:
      required: whether an empty bucket is refused.

    Raises:
      ValueError: no workdir lies there, or its store refuses.
    """
    if self.mirror is not None:
      self.mirror.read(required)

  def send(self) -> None:
    """Sends to the bucket that is held what has changed; else does nothing."""
    if self.mirror is not None:
      self.mirror.send()

  @contextlib.contextmanager
  def held(self):
    """Of a bucket: locks and fetches it, and sends what changes to the end.

    Of several processes the first one does; the others, each with files of
    its own, fetch what it has sent.

    Raises:
      ValueError: another process works there, its store refuses, or something
        could not be sent.
    """
    if self.mirror is None or self._held:
      yield
      return
    first = parallel.is_primary()
    with (self.mirror.held() if first else contextlib.nullcontext(),
          writing.apart()):
      if first and writing.several():
        self.mirror.push()
      parallel.barrier('the first process has fetched the bucket')
      if not first:
        self.mirror.read(required=False)
      parallel.barrier('every process has fetched the bucket')
      self._held = True
      try:
        yield
      finally:
        self._held = False

  @contextlib.contextmanager
  def locked(self):
    """Keeps other processes from working here; a kill releases the lock.

    A workdir of an earlier format gets this version's format; its earlier
    checkpoints stay as they are.

    Raises:
      ValueError: another process works here.
    """
    with self.held(), folder_lock.held(self.root):
      if formats.is_older(self.root):
        json_records.write_atomic(self.format, formats.text())
      yield

  @contextlib.contextmanager
  def timed(self, began: float, lines: list[dict] | None = None,
            every: float = 5.):
    """Notes how long a start has worked, in case it is killed.

    Args:
      began: begin of this start, by `time.perf_counter`.
      lines: lines of the log, if they were read already.
      every: seconds between two notes; a kill loses at most this time.
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

    def note_if_possible():
      # What fails here, as on a full disk, fails where more is at stake too.
      with contextlib.suppress(OSError):
        note()

    def keep_noting():
      while not ended.wait(every):
        note_if_possible()
    note()
    thread = threading.Thread(target=keep_noting, daemon=True)
    thread.start()
    try:
      yield
    except BaseException:
      ended.set()
      thread.join()
      note_if_possible()
      raise
    ended.set()
    thread.join()
    self.start.unlink(missing_ok=True)

  def killed(self, lines: list[dict]) -> list[dict]:
    """The log line of the last start in `lines`, if that start was killed."""
    left = json_records.read_json(self.start) if self.start.exists() else {}
    if left.get('start') is None or left['start'] != json_records.label(lines):
      return []
    return [{'kind': 'killed', 'seconds': left['seconds']}]

  def prepare(self) -> None:
    """Makes the folders and removes unfinished files of killed runs."""
    for folder in (self.root, self.tasks, self.probe, self.progress,
                   self.shared):
      folders.reachable(folder).mkdir(parents=True, exist_ok=True)
      removal.remove_unfinished(folder)
    with os.scandir(self.tasks) as entries:
      for entry in entries:
        if entry.is_symlink():  # the task's disk may not be mounted
          folders.reachable(self.task(entry.name))
    if not self.format.exists():
      json_records.write_atomic(self.format, formats.text())
    if writing.here():
      for path in (self.format, self.config, self.backbone, self.metrics,
                   self.report, self.start, self.plan):
        for left in self.root.glob(f'.{path.name}.*'):
          left.unlink(missing_ok=True)


def _string(name: Any) -> str:
  if not isinstance(name, str):
    raise ValueError(f'the name of a task is {messages.shown(name)}; give a '
                     'string')
  return str(name)  # of a numpy.str_, which paths can't have
