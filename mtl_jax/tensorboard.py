"""Scalars for TensorBoard: an extra, `pip install "mtl_jax[tensorboard]"`."""

import pathlib

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
  curve = record['curve']
  with tensorboardX.SummaryWriter(str(folder)) as writer:
    for name in ('loss', 'accuracy'):
      for step, value in zip(curve['step'], curve[name]):
        writer.add_scalar(f'train/{name}', value, step)
    for split in ('valid', 'test'):
      writer.add_scalar(f'{split}/accuracy', record['accuracy'][split],
                        record['steps'])
