"""Checks what earlier starts left in a workdir, and restores lost probes.

A start removes only what it can make again itself.
"""

import logging

from mtl_jax import parallel
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.data import suites
from mtl_jax.parallel import writing
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import removal
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import commit
from mtl_jax.training import run as run_lib


def check_recipe(work: workdir_lib.Workdir, recipe: dict) -> None:
  """Refuses a stored recipe of the backbone that differs from the config's.

  Args:
    work: the workdir, which may have a recipe.
    recipe: the recipe that the config asks for; JSON values.

  Raises:
    ValueError: names the field that differs.
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
  """Refuses, before training, stored tasks that don't match the config.

  Args:
    work: the workdir, which may have tasks of earlier starts.
    config: the config of the run.
    suite: the tasks of the run.
    fingerprint: the backbone's fingerprint.

  Raises:
    CheckpointError: a task's folder is damaged or belongs to another config;
      names it and the remedy.
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
      learned_in = metadata['record'].get('phase', phase.name)
      if learned_in != phase.name:
        raise checkpoint.CheckpointError(
            f'{path} is of the phase {learned_in}, but the config learns this '
            f'task in {phase.name}; rename it (system.rename), or remove it to '
            'have it made again')


def write_plan(work: workdir_lib.Workdir, config: config_lib.Config,
               suite: suites.Suite) -> None:
  """Writes the entries that the config plans, for `load` and `verify`."""
  found = {'suite': suite.name,
           'entries': [entry.name for phase in config.phases
                       for entry in plan.entries(phase, suite)],
           'streams': [phase.name for phase in config.phases
                       if phase.stream is not None]}
  if not work.plan.exists() or work.read_plan() != found:
    json_records.write_json(work.plan, found)


def restore_probes(run: run_lib.Run) -> None:
  """Restores lost or damaged probes of finished tasks.

  A probe is a few images of the source, in the source's version at the first
  start.
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
        removal.remove(path)
      parallel.barrier(f'probe of {source} is removed')
      commit.probe_images(run, source)
