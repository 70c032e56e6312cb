"""Scalars for TensorBoard: an extra, `pip install "mtl_jax[tensorboard]"`."""

import os
import pathlib
import shutil

from mtl_jax import parallel


def require() -> None:
  """Raises ImportError with the remedy if the extra isn't installed."""
  try:
    import tensorboardX  # noqa: F401
  except ImportError as error:
    raise ImportError('config.tensorboard needs tensorboardX; pip install '
                      '"mtl_jax[tensorboard]"') from error


def write(folder: pathlib.Path, record: dict) -> None:
  """Writes one task's learning curve and its accuracies, once.

  Args:
    folder: of this task's events.
    record: the task's record, as in metrics.jsonl.
  """
  if not parallel.is_primary() or folder.exists():
    return
  import tensorboardX
  curve, last = record['curve'], record['steps']
  values = [(f'train/{name}', value, step) for name in ('loss', 'accuracy')
            for step, value in zip(curve['step'], curve[name])]
  values += [(f'{split}/{name}', record[name][split], last)
             for name in ('loss', 'accuracy') for split in ('valid', 'test')]
  unfinished = folder.with_name(f'.{folder.name}')
  shutil.rmtree(unfinished, ignore_errors=True)  # of a killed run
  with tensorboardX.SummaryWriter(str(unfinished)) as writer:
    for name, value, step in values:
      if value is not None:  # a regression has no accuracy
        writer.add_scalar(name, value, step)
  os.replace(unfinished, folder)
