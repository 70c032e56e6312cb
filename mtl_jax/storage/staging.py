"""The folder that a workdir in a bucket is worked on, and how it is fetched.

A start makes the folder what the bucket is. Only if the bucket's `.writer`
says that this very folder wrote there last, what the folder has more or
otherwise (a last send failed) stays and is sent; what it lacks is fetched.
Finished tasks that another folder's writing made superfluous are moved to
`aside`.
"""

import contextlib
import hashlib
import logging
import os
import pathlib
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent import futures

import filelock

from mtl_jax.data import cache
from mtl_jax.storage import array_files
from mtl_jax.storage import bucket as bucket_lib
from mtl_jax.storage import checkpoint
from mtl_jax.storage import folders
from mtl_jax.storage import removal

WORKERS = 16  # transfers at once
TRIES = 10
_TICK = 2 * 10 ** 9  # nanoseconds; file systems round to at most 2 s
FIRST = ('format.json', 'plan.json')
RECIPE = ('backbone.json', 'config.json')
LAST = ('metrics.jsonl', 'report.html', 'start.json')
FILES = FIRST + RECIPE + LAST
FOLDERS = ('probe', 'shared', 'tasks', 'progress')
WHOLE = checkpoint.METADATA  # sent last
Stamp = folders.Stamp


class Staging:
  """A bucket and its staging folder.

  A unit travels as a whole: a file of the workdir, or a checkpoint's folder.

  Attributes:
    bucket: where the workdir lies.
    root: the folder that is worked on.
  """

  def __init__(self, address: str, part: str = '') -> None:
    """Args:
      address: of the workdir.
      part: tells folders of several processes on one machine apart.
    """
    self.bucket, self._part = bucket_lib.Bucket(address), part
    given = os.environ.get('MTL_JAX_STAGING')
    base = (folders.local(given) if given
            else cache.directory() / 'staging')
    name = re.sub(r'[^\w.-]', '_', self.bucket.address.rpartition('/')[2])
    digest = hashlib.sha256(self.bucket.address.encode()).hexdigest()[:12]
    self.base = base.absolute() / f'{name[-60:]}-{digest}{part}'
    self.root = self.base / 'workdir'
    self.there: dict[str, dict[str, Stamp | None]] = {}  # in the bucket
    self._scans: dict[str, tuple[Stamp, dict[str, Stamp]]] = {}

  # What lies where.

  def _scan(self, kind: str) -> dict[str, Stamp]:
    """Finished checkpoints of a folder; listed again if it has changed."""
    try:
      now = folders.stamp(self.root / kind)
    except FileNotFoundError:
      return {}
    if self._scans.get(kind, (None,))[0] == now:
      return self._scans[kind][1]
    settled = time.time_ns() - now.changed > _TICK
    # Strings: a folder of 10,000 tasks is listed again after each commit.
    found = _present((f'{kind}/{name}', f'{self.root}/{kind}/{name}/{WHOLE}')
                     for name in os.listdir(self.root / kind)
                     if removal.is_final(name))
    if settled:
      self._scans[kind] = now, found
    return found

  def _backbone(self) -> dict[str, Stamp]:
    return _present([('backbone', self.root / 'backbone' / WHOLE)])

  def here(self) -> dict[str, Stamp]:
    """All units of the folder, tasks before what they rely on."""
    found = self._scan('progress') | self._scan('tasks')
    return (found | self._scan('shared') | self._scan('probe')
            | self._backbone()
            | _present((name, self.root / name) for name in FILES))

  def files(self, unit: str) -> dict[str, Stamp]:
    """Of a unit's files, by their path in it."""
    folder = self.root / unit
    if unit in FILES:
      return _present([('', folder)])
    try:
      return _present((path.relative_to(folder).as_posix(), path)
                      for path in folder.rglob('*') if path.is_file())
    except FileNotFoundError:  # it has just been removed
      return {}

  def _listing(self) -> dict[str, dict[str, dict]]:
    """What the bucket says of all files of all units.

    Raises:
      ValueError: other things lie there.
    """
    found: dict[str, dict[str, dict]] = {}
    listed = self.bucket.list()
    others = set()
    for path, info in listed.items():
      unit, file = _unit_of(path)
      if unit:
        found.setdefault(unit, {})[file] = info
      elif not path.startswith('.'):
        others.add(path.split('/')[0])
    others -= {*FOLDERS, 'backbone'}
    if others and 'format.json' not in listed:
      raise ValueError(
          f'{self.bucket.address} is neither a workdir nor empty: it holds '
          f'{", ".join(sorted(others)[:3])}; choose another address, or a new '
          f'one in it ({self.bucket.address}/run). Nothing was changed')
    return found

  # From the bucket.

  def read(self, required: bool = True) -> None:
    """Makes the folder what the bucket is, unless a run works in it.

    Args:
      required: whether an empty bucket is refused.

    Raises:
      ValueError: no workdir lies there, or the store refuses.
    """
    self.base.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(self.base / '.pull'):
      at_work = filelock.FileLock(self.base / '.run', timeout=0)
      try:
        with at_work:
          self._pull()
      except filelock.Timeout:
        pass  # what the run has is newer
    if required and not (self.root / 'format.json').exists():
      raise ValueError(f'there is no workdir at {self.bucket.address}; see '
                       'that the address is right. Nothing was changed')

  def _pull(self) -> None:
    for _ in range(TRIES):
      try:
        self._pull_once()
        return
      except FileNotFoundError:
        continue  # a run that works there has removed what was listed
      except (ValueError, ImportError):
        raise
      except OSError as error:
        if error.filename and str(error.filename).startswith(str(self.base)):
          raise  # of this machine's disk
        raise self.bucket.refused(error) from error
      except Exception as error:  # of any store
        raise self.bucket.refused(error) from error
    raise ValueError(f'{self.bucket.address} changes faster than it can be '
                     'read; try again when the run there has ended')

  def _pull_once(self) -> None:
    # Before the listing: no task that the log knows is missing there then.
    texts = {name: self.bucket.read_if_there(name) for name in FILES}
    there = self._listing()
    writer = self.bucket.read_if_there('.writer')
    # A folder that was emptied, or another process's copy, has nothing to say.
    own = not self._part and (self.root / 'format.json').exists() and (
        writer == self.identity().encode()
        or 'format.json' not in there and not (self.base / 'wrote').exists())
    shutil.rmtree(self.base / 'incoming', ignore_errors=True)
    for folder in (self.base / 'incoming',
                   *(self.root / kind for kind in FOLDERS)):
      folder.mkdir(parents=True, exist_ok=True)
    self.there = {unit: dict.fromkeys(files)
                  for unit, files in there.items()}
    self._scans.clear()
    here = self.here()
    whole = {unit: files for unit, files in there.items()
             if WHOLE in files and unit not in FILES}
    found = dict(self.at_once(self._compare, [
        (unit, whole[unit]) for unit in here if unit in whole]))
    self._aside([unit for unit in here if not own and unit not in FILES
                 and found.get(unit) in (None, 'other')])
    wanted = [unit for unit in whole if found.get(unit) == 'damaged' or (
        found.get(unit) != 'same' if not own
        else unit not in here and not unit.startswith('progress/'))]
    self.at_once(self._fetch, [(unit, whole[unit]) for unit in wanted])
    for name, text in texts.items():
      if text is not None and not (own and name in here):
        self._put(name, text)
      elif text is None and not own:
        (self.root / name).unlink(missing_ok=True)
      if text is not None and (self.root / name).read_bytes() == text:
        self.there[name] = dict(self.files(name))

  def _compare(self, unit: str,
               infos: dict[str, dict]) -> tuple[str, str]:
    """(unit, 'same', 'damaged' or 'other'): what the folder has of a unit.

    Its metadata have the SHA-256 of all arrays. What is the same is noted.
    """
    files = self.files(unit)
    sums = {file: bucket_lib.md5(info) for file, info in infos.items()}
    own = (self.root / unit / WHOLE).read_bytes()
    if sums[WHOLE] == _md5(own) or self.bucket.read(f'{unit}/{WHOLE}') == own:
      if {file: stamp.size for file, stamp in files.items()} != {
          file: int(info['size']) for file, info in infos.items()}:
        return unit, 'damaged'
      self.there[unit] = dict(files)
      return unit, 'same'
    for file, stamp in files.items():
      if sums.get(file) == _md5((self.root / unit / file).read_bytes()):
        self.there[unit][file] = stamp
    return unit, 'other'

  def _fetch(self, unit: str, infos: Iterable[str]) -> None:
    made = pathlib.Path(tempfile.mkdtemp(dir=self.base / 'incoming')) / 'unit'
    for file in infos:
      (made / file).parent.mkdir(parents=True, exist_ok=True)
      (made / file).write_bytes(self.bucket.read(f'{unit}/{file}'))
    array_files.flush(made / file for file in infos)
    final = self.root / unit
    final.parent.mkdir(exist_ok=True)
    if final.exists():
      removal.remove(final)
    made.rename(final)
    self.there[unit] = dict(self.files(unit))

  def _put(self, name: str, text: bytes) -> None:
    made = self.base / 'incoming' / name
    made.write_bytes(text)
    array_files.flush([made])
    os.replace(made, self.root / name)

  def _aside(self, units: list[str]) -> None:
    """Takes away what another machine's writing has made superfluous."""
    folder = self.base / 'aside' / f'{time.time_ns()}'
    tasks = (of_kind(units, 'tasks') if (self.base / 'wrote').exists() else [])
    for unit in units:
      if unit in tasks:
        folder.mkdir(parents=True, exist_ok=True)
        (self.root / unit).rename(folder / unit.removeprefix('tasks/'))
      else:
        removal.remove(self.root / unit)
    if tasks:
      logging.warning(
          '%s was written by another machine since this one last did, and is '
          'taken as it is. What this machine alone had of %s now lies in %s',
          self.bucket.address, ', '.join(
              unit.removeprefix('tasks/') for unit in sorted(tasks)), folder)

  def at_once(self, call: Callable, items: list[tuple]) -> list:
    """What many calls at once return; raises what the first one raised."""
    if len(items) < 2 or WORKERS == 1:
      return [call(*item) for item in items]
    with futures.ThreadPoolExecutor(WORKERS) as pool:
      return list(pool.map(lambda item: call(*item), items))

  def identity(self) -> str:
    """Of this staging folder, for good."""
    file = self.base / 'id'
    if not file.exists():
      self.base.mkdir(parents=True, exist_ok=True)
      made = self.base / f'id.{os.getpid()}'
      made.write_text(uuid.uuid4().hex)
      with contextlib.suppress(FileExistsError):
        os.link(made, file)
      made.unlink()
    return file.read_text()


def _unit_of(path: str) -> tuple[str, str]:
  """(unit, file in it) of an object's path; empty of what is none."""
  parts = path.split('/')
  if {'', '.', '..'} & set(parts) or '\\' in path:
    return '', ''
  if path in FILES:
    return path, ''
  if parts[0] == 'backbone' and len(parts) > 1:
    return 'backbone', '/'.join(parts[1:])
  if parts[0] in FOLDERS and len(parts) > 2 and removal.is_final(parts[1]):
    return '/'.join(parts[:2]), '/'.join(parts[2:])
  return '', ''


def of_kind(units: Iterable[str], kind: str) -> list[str]:
  """The units of a folder of the workdir, or the one of that name."""
  return [unit for unit in units if unit.split('/')[0] == kind]


def stamp_of(path: str | os.PathLike[str]) -> Stamp | None:
  try:
    return folders.stamp(path)
  except (FileNotFoundError, NotADirectoryError):
    return None


def _present(paths: Iterable[tuple[str, str | os.PathLike[str]]]
             ) -> dict[str, Stamp]:
  """Stamps of those files that are there, by what they are called."""
  found = ((name, stamp_of(path)) for name, path in paths)
  return {name: stamp for name, stamp in found if stamp is not None}


def _md5(data: bytes) -> str:
  return hashlib.md5(data, usedforsecurity=False).hexdigest()
