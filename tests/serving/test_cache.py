"""What was made once is kept, within bounds, for any number of threads."""

import concurrent.futures
import threading
import time

import pytest

from mtl_jax.serving import cache


def test_the_newest_results_stay_within_the_bytes():
  made = []
  kept = cache.Cache(lambda x: made.append(x) or 'x' * x, nbytes=10, size=len)
  for x in (4, 5, 4, 3, 5, 4):  # 3 pushes 5 out, 5 pushes 4 out, ...
    kept(x)
  assert made == [4, 5, 3, 5, 4] and kept.nbytes <= 10
  kept(100)  # the newest always stays
  assert len(kept) == 1 and kept.nbytes == 100


def test_no_more_than_a_count_is_kept():
  made = []
  kept = cache.Cache(lambda x: made.append(x) or x, count=2)
  for x in (1, 2, 1, 3, 1, 2):
    kept(x)
  assert made == [1, 2, 3, 2] and len(kept) == 2


def test_a_key_is_made_once_for_all_threads():
  made, gate = [], threading.Barrier(8)

  def make(key):
    time.sleep(.05)
    made.append(key)
    return object()
  kept = cache.Cache(make)

  def ask(_):
    gate.wait()
    return kept('a')
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(ask, range(8)))
  assert made == ['a'] and len(set(map(id, found))) == 1


def test_what_fails_is_tried_again():
  failing = [True]

  def make(key):
    if failing:
      failing.pop()
      raise ValueError(key)
    return key
  kept = cache.Cache(make)
  with pytest.raises(ValueError, match='a'):
    kept('a')
  assert kept('a') == 'a' and len(kept) == 1
