"""Chunks of steps that the devices work on, and what they have measured.

The next chunk is given to the devices before the metrics of the last one are
fetched, so that devices never wait for the host's work between two chunks.
"""

import concurrent.futures
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from mtl_jax.steps import single

# Events of what JAX does before a program runs for the first time.
_COMPILING = '/jax/core/compile/'


class _Compiled:
  """Seconds of this process that were spent on compiling.

  JAX keeps a listener for the life of the process, so there is only one.
  """

  def __init__(self) -> None:
    self.seconds = 0.
    jax.monitoring.register_event_duration_secs_listener(self._heard)

  def _heard(self, event: str, duration_secs: float, **kwargs) -> None:
    del kwargs
    if event.startswith(_COMPILING):
      self.seconds += duration_secs


compiled = functools.cache(_Compiled)


class Measured(NamedTuple):
  """What a chunk has measured.

  Attributes:
    start: its first step.
    metrics: of [entries, steps], on the host.
  """
  start: int
  metrics: single.Metrics


class Chunks:
  """Chunks in flight, in the order of their steps.

  Used as a context; leaving it forgets what is still in flight.

  Attributes:
    busy: seconds in which the devices had a chunk to work on, without the time
      that compiling took; of all chunks that were taken. `None` if it is not
      known: of several processes, or of an earlier start.
  """

  def __init__(self, busy: float | None = 0.) -> None:
    """
    Args:
      busy: of earlier starts.
    """
    self.busy = busy if jax.process_count() == 1 else None
    self._last = 0.  # when the devices were last known to be at work
    self._waiting: list[tuple[int, concurrent.futures.Future]] = []
    # Fetching is a collective operation of several processes: their main
    # threads do it, in one order.
    self._apart = (concurrent.futures.ThreadPoolExecutor(1)
                   if jax.process_count() == 1 else None)

  def __enter__(self) -> 'Chunks':
    return self

  def __exit__(self, *_) -> None:
    if self._apart:
      self._apart.shutdown()

  def give(self, start: int, advance: Callable[..., tuple], *args: Any) -> Any:
    """Gives a chunk to the devices.

    Args:
      start: its first step.
      advance: gives (state, function that waits for the metrics).
      *args: of `advance`.

    Returns:
      The state after the chunk, which the devices may be still computing.
    """
    given, before = time.perf_counter(), compiled().seconds
    state, fetch = advance(*args)
    given += compiled().seconds - before
    self._waiting.append((start, self._apart.submit(self._fetch, given, fetch)
                          if self._apart else self._now(given, fetch)))
    return state

  def _now(self, given, fetch) -> concurrent.futures.Future:
    done: concurrent.futures.Future = concurrent.futures.Future()
    done.set_result(self._fetch(given, fetch))
    return done

  def _fetch(self, given, fetch) -> tuple[single.Metrics, float]:
    """(metrics, seconds since the chunk before it was ready)."""
    metrics = fetch()
    ended = time.perf_counter()
    seconds, self._last = ended - max(given, self._last), ended
    return metrics, max(0., seconds)

  def take(self, keep: int = 0) -> list[Measured]:
    """Waits for the oldest chunks, until `keep` are still in flight."""
    taken = []
    while len(self._waiting) > keep:
      start, waiting = self._waiting.pop(0)
      metrics, seconds = waiting.result()
      if self.busy is not None:
        self.busy += seconds
      taken.append(Measured(start, metrics))
    return taken
