"""Selects the rows of a source for every batch."""

import numpy as np

from mtl_jax import trees


def check_size(images: int, batch_size: int) -> None:
  """Refuses a batch larger than a task's training images."""
  if images < batch_size:
    raise ValueError(
        f'batch_size is {batch_size} but the task has only '
        f'{trees.counted(images, "training image")}; ' + (
            f'give a batch_size of at most {images}' if images else
            'give more images'))


def check_epochs(batches: dict[str, int]) -> None:
  """Refuses `epochs` for tasks trained together whose epochs differ in length.

  Every task takes as many steps as the first one. Tasks with equally many
  images may differ a little once validation is drawn: CIFAR-100's groups of ten
  classes by about one batch in a hundred, rarely two.

  Args:
    batches: number of batches in an epoch of each task, by its name.

  Raises:
    ValueError: a task has over 3 % more or fewer than the first; names them.

  >>> check_epochs({'one': 281, 'two': 278})
  """
  first, counted = next(iter(batches.items()))
  for name, count in batches.items():
    if abs(count - counted) > .03 * counted:
      raise ValueError(
          f'an epoch of task {first} has '
          f'{trees.counted(counted, "batch")} but one of task {name} has '
          f'{count}, and tasks trained together take equally many '
          'steps; give steps instead of epochs')


def of_epochs(rows, steps: int, batch_size: int, seed: tuple[int, ...],
              start: int = 0) -> np.ndarray:
  """Row numbers for `steps` batches; every epoch is shuffled anew.

  Rows that do not fill the last batch of an epoch are left out of the epoch.

  The result depends only on the seed and the step number, so that a resumed
  run draws the same batches.

  Args:
    rows: int32 [n], the task's training rows.
    steps: number of batches.
    batch_size: images per batch; at most n.
    seed: integers that name the task, repeat and run.
    start: number of the first batch.

  Returns:
    int32 [steps, batch_size].
  """
  check_size(len(rows), batch_size)
  per_epoch = len(rows) // batch_size
  stop, parts = start + steps, []
  for epoch in range(start // per_epoch, -(-stop // per_epoch)):
    bits = np.random.MT19937(np.random.SeedSequence([*seed, epoch]))
    shuffled = np.random.RandomState(bits).permutation(rows)
    first, last = (min(max(number - epoch * per_epoch, 0), per_epoch)
                   for number in (start, stop))
    parts.append(shuffled[first * batch_size:last * batch_size])
  return np.concatenate(parts).astype(np.int32).reshape(steps, batch_size)


def padded(rows, batch_size: int, devices: int = 1) -> np.ndarray:
  """All rows once as int32 [batches, batch_size], padded with -1."""
  per_round = batch_size * devices
  padded = np.full(-(-len(rows) // per_round) * per_round, -1, np.int32)
  padded[:len(rows)] = rows
  return padded.reshape(-1, batch_size)
