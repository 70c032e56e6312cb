"""Writes scalars to TensorBoard and to Weights & Biases.

Both are optional extras and off by default. A writer has three functions, with
the signatures of `clu.metric_writers`. To add a service, write a function that
returns a `Writer` and add a row to `SERVICES`.
"""

import hashlib
import importlib.util
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mtl_jax import parallel
from mtl_jax.config import config as config_lib


class Writer(NamedTuple):
  """Receives the scalars of one task.

  Attributes:
    write_scalars: (step, {name: value}) -> None.
    flush: () -> None; all values are written afterwards.
    close: () -> None; no values follow. A task counts as written only after
      this call.
  """
  write_scalars: Callable[[int, Mapping[str, float]], None]
  flush: Callable[[], None]
  close: Callable[[], None]


class Service(NamedTuple):
  """A kind of writer.

  Attributes:
    module: the module that it needs.
    extra: the extra of this package that installs the module.
    open: (config, workdir, task) -> a Writer, or `None` if the task is already
      written.
  """
  module: str
  extra: str
  open: Callable[[config_lib.Config, pathlib.Path, str], Writer | None]


def require(config: config_lib.Config) -> None:
  """Raises ImportError with the remedy if a wanted extra isn't installed."""
  for field, service in _wanted(config).items():
    if importlib.util.find_spec(service.module) is None:
      raise ImportError(
          f'config.{field} needs {service.module}, which is not installed; '
          f'pip install "mtl_jax[{service.extra}]", or leave {field} out')


def write(config: config_lib.Config, root: pathlib.Path, record: dict) -> None:
  """Passes a learned task's curves and accuracies to all writers, once.

  Args:
    config: config of the run; says which writers are on.
    root: the workdir.
    record: the record of the task, as in metrics.jsonl.
  """
  if not parallel.is_primary():
    return
  for service in _wanted(config).values():
    writer = service.open(config, root, record['entry'])
    if writer is None:
      continue
    for step, values in sorted(scalars(record).items()):
      writer.write_scalars(step, values)
    writer.flush()
    writer.close()


def scalars(record: dict) -> dict[int, dict[str, float]]:
  """A task's curves and final values, by step and name.

  >>> scalars({'steps': 4, 'curve': {'step': [4], 'loss': [.5]},
  ...          'accuracy': {'valid': None, 'test': .75}})
  {4: {'train/loss': 0.5, 'test/accuracy': 0.75}}
  """
  found: dict[int, dict[str, float | None]] = {}
  last = record['steps']
  for split, curve in (('train', record['curve']),
                       ('valid', record.get('validation') or {'step': []})):
    for name in ('loss', 'accuracy'):
      for step, value in zip(curve['step'], curve.get(name) or ()):
        found.setdefault(step, {})[f'{split}/{name}'] = value
  for name in ('loss', 'accuracy'):
    for split in ('valid', 'test'):
      found.setdefault(last, {})[f'{split}/{name}'] = (
          record.get(name) or {}).get(split)
  plain = {step: {name: value for name, value in values.items()
                  if value is not None}  # a regression has no accuracy
           for step, values in found.items()}
  return {step: values for step, values in plain.items() if values}


def tensorboard(folder: pathlib.Path) -> Writer | None:
  """Writes events into a folder, which gets its final name when complete."""
  if folder.exists():
    return None
  import tensorboardX
  unfinished = folder.with_name(f'.{folder.name}')
  shutil.rmtree(unfinished, ignore_errors=True)  # of a killed run
  events = tensorboardX.SummaryWriter(str(unfinished))

  def write_scalars(step, values):
    for name, value in values.items():
      events.add_scalar(name, value, step)

  def close():
    events.close()
    os.replace(unfinished, folder)

  return Writer(write_scalars, lambda: events.file_writer.flush(), close)


def wandb(project: str, root: pathlib.Path, task: str) -> Writer | None:
  """One Weights & Biases run for each task, grouped by workdir.

  The run stays on this machine, under `root`/wandb, until the user runs
  `wandb sync`; the environment variable WANDB_MODE=online sends it directly.
  """
  done = root / 'wandb' / 'written' / task
  if done.exists():
    return None
  import wandb as service
  done.parent.mkdir(parents=True, exist_ok=True)
  place = hashlib.sha256(f'{root.resolve()}/{task}'.encode()).hexdigest()
  run = service.init(
      project=project, group=root.name, name=task, id=place[:16],
      dir=str(root), resume='allow',
      mode=os.environ.get('WANDB_MODE', 'offline'))

  def close():
    run.finish()
    done.touch()

  return Writer(lambda step, values: run.log(dict(values), step=step),
                lambda: None, close)


# By the config field that turns the service on.
SERVICES: dict[str, Service] = {
    'tensorboard': Service(
        'tensorboardX', 'tensorboard',
        lambda config, root, task: tensorboard(root / 'tensorboard' / task)),
    'wandb': Service(
        'wandb', 'wandb',
        lambda config, root, task: wandb(config.wandb, root, task)),
}


def _wanted(config) -> dict[str, Service]:
  return {field: service for field, service in SERVICES.items()
          if getattr(config, field)}
