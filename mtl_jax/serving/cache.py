"""A cache of results, for any number of threads.

One thread makes the result for a key; others that ask for the same key wait for
it. The cache may be limited by the bytes or the number of its results.
"""

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from mtl_jax import host

K = TypeVar('K', bound=Hashable)
T = TypeVar('T')


class Cache(Generic[K, T]):
  """Caches the newest results of a function of one key.

  Safe for threads. Many callers get the same result: none may change it.

  >>> square = Cache(lambda x: x * x, count=2)
  >>> square(3), square(3), len(square)
  (9, 9, 1)
  """

  def __init__(self, make: Callable[[K], T], *, count: int | None = None,
               nbytes: int | None = None,
               size: Callable[[T], int] = lambda value: 0) -> None:
    """
    Args:
      make: (key) -> result; if it raises, nothing is cached.
      count: largest number of cached results.
      nbytes: largest number of bytes; the newest result is always kept.
      size: (result) -> its bytes.
    """
    self._make, self._size = make, size
    self._count, self._nbytes = count, nbytes
    self._lock = threading.Lock()
    self._kept: collections.OrderedDict[K, tuple[T, int]] = (
        collections.OrderedDict())
    self._bytes = 0
    self._making: dict[K, threading.Event] = {}

  def __len__(self) -> int:
    return len(self._kept)

  @property
  def nbytes(self) -> int:
    """Bytes of all cached results."""
    return self._bytes

  def __call__(self, key: K) -> T:
    while True:
      with self._lock:
        if key in self._kept:
          self._kept.move_to_end(key)
          return self._kept[key][0]
        made = self._making.get(key)
        if made is None:
          made = self._making[key] = threading.Event()
          break
      made.wait()
    try:
      with host.with_values():  # others get it outside of a caller's jit
        value = self._make(key)
      with self._lock:
        self._keep(key, value)
    finally:
      with self._lock:
        del self._making[key]
      made.set()
    return value

  def _keep(self, key: K, value: T) -> None:
    size = self._size(value)
    self._kept[key] = value, size
    self._bytes += size
    while len(self._kept) > 1 and (
        (self._count is not None and len(self._kept) > self._count)
        or (self._nbytes is not None and self._bytes > self._nbytes)):
      _, (_, freed) = self._kept.popitem(last=False)
      self._bytes -= freed
