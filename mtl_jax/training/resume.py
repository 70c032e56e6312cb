"""What a start finds of earlier ones: held against its place, made again.

Nothing is removed but what this start makes again from what it has at hand.
"""

import logging

from mtl_jax import parallel
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.data import suites
from mtl_jax.parallel import writing
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import commit
from mtl_jax.training import run as run_lib


def check_recipe(work: workdir_lib.Workdir, recipe: dict) -> None:
  """Refuses a stored recipe of the backbone that isn't the config's.

  Args:
    work: that may have one.
    recipe: that the config asks for; JSON values.

  Raises:
    ValueError: names the field.
  """
  if not work.backbone.exists():
    return
  kept = json_records.read_json(work.backbone)
  for name in ('model', 'outputs', 'init', 'seed', 'image_shape', 'weights',
               'names', 'fresh'):
    if kept.get(name) != recipe.get(name):
      raise ValueError(f'{work.backbone}: {name} is {kept.get(name)!r}, but '
                       f'the config makes {recipe.get(name)!r}; choose another '
                       'workdir, or restore the file from a copy. Nothing '
                       'was changed')


def check_tasks(work: workdir_lib.Workdir, config: config_lib.Config,
                suite: suites.Suite, fingerprint: str) -> None:
  """Refuses, before anything is learned, a task that isn't what it should be.

  Args:
    work: in which earlier starts may have left tasks.
    config: of the run.
    suite: its tasks.
    fingerprint: of the backbone.

  Raises:
    CheckpointError: a folder or file in the place of a task is none of the
      config's, or damaged; names it and what helps.
  """
  expected = {'suite': suite.name, 'backbone': fingerprint,
              'seed': config.seed}
  for phase in config.phases:
    names = [entry.name for entry in plan.entries(phase, suite)]
    if phase.stream is not None:
      names = [name for name in work.task_names()
               if name.startswith(f'{phase.name}-mask-')]
    for name in names:
      path = work.task(name)
      if not path.exists():
        continue
      metadata = checkpoint.load_metadata(path)
      checkpoint.require_task(path, metadata, expected | {'name': name})
      found = metadata['method']['name']
      if found != phase.method:
        raise checkpoint.CheckpointError(
            f'{path} was learned by {found}, but phase {phase.name} learns by '
            f'{phase.method}; choose another workdir, or remove it to have '
            'it made again')


def write_plan(work: workdir_lib.Workdir, config: config_lib.Config,
               suite: suites.Suite) -> None:
  """Writes down what the config asks for, for `load` and `verify`."""
  found = {'suite': suite.name,
           'entries': [entry.name for phase in config.phases
                       for entry in plan.entries(phase, suite)],
           'streams': [phase.name for phase in config.phases
                       if phase.stream is not None]}
  if not work.plan.exists() or work.read_plan() != found:
    json_records.write_json(work.plan, found)


def restore_probes(run: run_lib.Run) -> None:
  """Makes again the probes of finished tasks that are lost or damaged.

  They are images of the source, whose version is that of the first start.
  """
  finished = set(run.workdir.task_names())
  sources = {entry.task.source for phase in run.config.phases
             for entry in plan.entries(phase.named, run.suite)
             if entry.name in finished or phase.stream is not None}
  for source in sorted(sources) if finished else ():
    try:
      run.system.probe(source)
    except checkpoint.CheckpointError as error:
      path = run.workdir.probe_of(source)
      logging.warning('%s. It is made again', str(error).split(';')[0])
      parallel.barrier(f'probe of {source} is damaged')
      if path.exists() and writing.here():
        checkpoint.remove(path)
      parallel.barrier(f'probe of {source} is removed')
      commit.probe_images(run, source)
