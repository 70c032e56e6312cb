"""The batches of images for a generation.

All children of a generation see the same batches. The official pipeline caches
a small set in the order of its files, repeatedly cuts batches from that order,
and shuffles the images in a buffer of ten batches.
"""

import numpy as np

BUFFER = 10  # batches


def training(rows, count: int, batch: int, seed: tuple[int, ...],
             start: int = 0, shuffle: str = 'buffer') -> np.ndarray:
  """Rows for `count` batches of endless epochs; no row is dropped.

  Args:
    rows: int32 [n], the task's training rows; 'buffer' repeatedly cuts batches
      from them in this order (see `cached`).
    count, batch: of the result, int32 [count, batch].
    seed: integers that name run, task and generation.
    start: number of the first batch; a batch does not depend on the step at
      which a run started.
    shuffle: see `spaces.Space`.
  """
  if shuffle == 'buffer':
    numbers = _through_buffer(start + count, seed)[start:]
    places = numbers[:, None] * batch + np.arange(batch)
    return np.asarray(rows)[places % len(rows)].astype(np.int32)
  first, stop = start * batch, (start + count) * batch
  epochs = range(first // len(rows), -(-stop // len(rows)))
  order = np.concatenate([
      np.random.default_rng([*seed, epoch]).permutation(rows)
      for epoch in epochs])
  begin = first - epochs[0] * len(rows)
  return order[begin:begin + count * batch].reshape(count, batch).astype(
      np.int32)


def cached(rows, seed: tuple[int, ...]) -> np.ndarray:
  """A task's rows, shuffled once, as in the official cache.

  The official cache has the order of TFDS's files, which TFDS shuffled when it
  prepared them; sources of other kinds may be sorted by class.

  Args:
    rows: int32 [n].
    seed: integers that name run and task.
  """
  return np.random.default_rng([*seed]).permutation(rows)


def _through_buffer(count: int, seed) -> np.ndarray:
  """The first `count` of 0, 1, 2, ... in the order a shuffle buffer gives."""
  held = np.arange(BUFFER)
  found = np.empty(count, np.int64)
  places = np.random.default_rng([*seed]).integers(BUFFER, size=count)
  for i, place in enumerate(places):
    found[i], held[place] = held[place], BUFFER + i
  return found


def validation(rows, batch: int, cap: int) -> np.ndarray:
  """The fixed subset of validation rows, in whole batches, as officially.

  If there are at least `cap` rows, they give cap // batch batches. Otherwise
  they are divided into equal batches no larger than `batch`; fewer rows than
  there are batches are left out.

  Returns:
    int32 [batches, rows each].
  """
  if len(rows) >= cap:
    count, each = max(1, cap // batch), min(batch, cap)
  else:
    count = -(-len(rows) // batch)
    each = len(rows) // count
  return np.asarray(rows[:count * each], np.int32).reshape(count, each)
