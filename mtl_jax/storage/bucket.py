"""A bucket: objects by path through fsspec, and the lock of who works there.

    gs://bucket/run    s3://bucket/run    file:///a/folder    memory://for/tests

A lock is an object `.lock/NUMBER` that is made only if there is none of that
name. Its holder renews it; whoever finds it old makes the next number. Nobody
removes what another may hold, so two can't both take over: of those that make
one number the store chooses one, and a lower number has lost.
"""

import base64
import os
import platform
import re
import threading
import time
import uuid

from mtl_jax import host
from mtl_jax import messages

BEAT = 15.  # seconds between two renewals of a lock
STALE = 60.  # without one, the lock is taken over
# What a protocol is asked for.
_OPTIONS: dict[str, dict] = {
    'file': {'auto_mkdir': True}, 'local': {'auto_mkdir': True},
    **dict.fromkeys(('gs', 'gcs'), {'requests_timeout': 120.})}


def is_remote(path) -> bool:
  """Whether a path is the address of a bucket and not that of a folder."""
  return isinstance(path, (str, os.PathLike)) and bool(host.protocol(path))


class Held(ValueError):
  """Another process holds the lock."""


class Bucket:
  """Objects below one address; paths are relative to it.

  Attributes:
    address: as it was given.
  """

  def __init__(self, address: str) -> None:
    """Raises ValueError or ImportError: no such protocol, or no package."""
    self.address = address.rstrip('/')
    protocol, _, rest = self.address.partition('://')
    if not rest:
      raise ValueError(f'{address} is no address: write gs://BUCKET/RUN')
    try:
      import fsspec
    except ImportError as error:
      raise ImportError(f'{address} needs fsspec; pip install '
                        '"mtl_jax[remote]"') from error
    more = _OPTIONS.get(protocol, {})
    try:
      fsspec.get_filesystem_class(protocol)
    except ValueError as error:
      raise ValueError(
          f'{address}: fsspec knows no protocol {protocol!r}; write '
          'gs://BUCKET/RUN, or another of its protocols') from error
    except ImportError as error:
      raise ImportError(f'{address}: {messages.brief(error)}; of gs://, pip '
                        'install "mtl_jax[remote]"') from error
    try:
      self._fs, root = fsspec.core.url_to_fs(
          self.address, use_listings_cache=False, **more)
    except Exception as error:  # of any protocol
      raise self.refused(error) from error
    self._root = f'{root.rstrip("/")}/'

  def refused(self, error: Exception) -> ValueError:
    """One sentence for whatever a store says before anything was done."""
    return ValueError(
        f'{self.address} cannot be used ({messages.brief(error)}): see that '
        'the bucket exists and that your credentials may read and write it (of '
        'gs://, gcloud auth application-default login). Nothing was changed')

  def list(self, under: str = '') -> dict[str, dict]:
    """What the store says of all objects below a path, by path."""
    self._fs.invalidate_cache()
    try:
      found = self._fs.find(f'{self._root}{under}'.rstrip('/'), detail=True)
    except FileNotFoundError as error:  # there is no such bucket
      raise self.refused(error) from error
    return {path.removeprefix(self._root): info for path, info in found.items()
            if path.startswith(self._root) and not path.endswith('/')
            and info.get('type') != 'directory'}

  def read(self, path: str) -> bytes:
    return self._fs.cat_file(self._root + path)

  def read_if_there(self, path: str) -> bytes | None:
    try:
      return self.read(path)
    except FileNotFoundError:
      return None

  def size(self, path: str) -> int:
    """Bytes of an object, which is not read."""
    return self._fs.size(self._root + path)

  def write(self, path: str, data: bytes) -> None:
    self._fs.pipe_file(self._root + path, data)

  def create(self, path: str, data: bytes) -> None:
    """Raises FileExistsError if the object is there, where a store can."""
    self._fs.pipe_file(self._root + path, data, mode='create')

  def remove(self, path: str) -> None:
    try:
      self._fs.rm_file(self._root + path)
    except FileNotFoundError:
      pass


def md5(info: dict) -> str | None:
  """MD5 of an object in hexadecimal, where the store's listing has it."""
  if info.get('md5Hash'):
    return base64.b64decode(info['md5Hash']).hex()
  tag = str(info.get('ETag') or '').strip('"')
  return tag if re.fullmatch('[0-9a-f]{32}', tag) else None


class Lock:
  """The right to write to a bucket.

  Attributes:
    lost: who took it over, or `None`.
  """

  def __init__(self, bucket: Bucket, place: str) -> None:
    """Args:
      bucket: of the lock.
      place: an identifier of the folder from which this process writes; no
        two processes that live hold one place.
    """
    self.bucket, self.lost = bucket, ''
    self._place, self._token = place, uuid.uuid4().hex
    self._number, self._renewed = 0, 0.
    self._busy = threading.Lock()

  def take(self) -> str:
    """Takes the lock; returns whose it took over, or ''.

    Raises:
      Held: names the holder.
    """
    seen = self._read()
    for text in seen.values():
      when, _, place, who = _parts(text)
      if place != self._place and abs(time.time() - when) < STALE:
        raise self._held(who)
    left = [_parts(text) for text in seen.values()]
    if any(place != self._place for _, _, place, _ in left):
      # Its clock may be wrong: one that lives renews it in this time.
      time.sleep(1.2 * BEAT)
    self._number = max(seen, default=0) + 1
    began, text = time.monotonic(), self._text()
    try:
      self.bucket.create(self._path(self._number), text.encode())
    except FileExistsError:
      pass  # also said of our own, if its first answer was lost
    now = self._read()
    own = now.pop(self._number, '')
    if own != text or not now.items() <= seen.items():
      if own == text:
        self.bucket.remove(self._path(self._number))
      others = list(now.values()) + ([] if own == text else [own])
      raise self._held(_parts(others[-1])[3])
    for number in now:
      self.bucket.remove(self._path(number))
    self._renewed = began
    return ' and '.join(sorted({who for *_, who in left}))

  def refuse(self) -> str:
    """Raises `Held`; names the holder."""
    found = self._read()
    raise self._held(_parts(found[max(found)] if found else '')[3])

  def renew(self, older: float = 0.) -> None:
    """Says that the holder lives, unless it did so `older` seconds ago.

    Raises:
      Held: another one has taken the lock over.
    """
    with self._busy:
      if not self.lost and time.monotonic() - self._renewed >= older:
        began, found = time.monotonic(), self._read()
        own = found.get(self._number)
        if max(found, default=0) > self._number or (
            own is not None and _parts(own)[1] != self._token):
          self.lost = _parts(found[max(found)])[3]
        else:
          self.bucket.write(self._path(self._number), self._text().encode())
          self._renewed = began
      if self.lost:
        raise self._held(self.lost)

  def release(self) -> None:
    """Gives the lock back, or what is left of one that was lost."""
    self.bucket.remove(self._path(self._number))

  def _held(self, who: str) -> Held:
    return Held(f'another process ({who}) works in {self.bucket.address}; wait '
                'for it, or choose another workdir. (If it is dead, its lock '
                f'is taken over {STALE:.0f} seconds after its last sign of '
                'life.) Nothing was changed')

  def _text(self) -> str:
    return (f'{time.time():.3f} {self._token} {self._place} '
            f'{platform.node()}, pid {os.getpid()}')

  def _read(self) -> dict[int, str]:
    found = {}
    for path in self.bucket.list('.lock'):
      name = path.rpartition('/')[2]
      text = self.bucket.read_if_there(path) if name.isdigit() else None
      if text is not None:
        found[int(name)] = text.decode(errors='replace')
    return found

  def _path(self, number: int) -> str:
    return f'.lock/{number:09d}'


def _parts(text: str) -> tuple[float, str, str, str]:
  """(time, token, place, holder); of what can't be read, a very old one's."""
  words = text.split(' ', 3)
  try:
    return float(words[0]), words[1], words[2], words[3]
  except (ValueError, IndexError):
    return 0., '', '', 'unknown'
