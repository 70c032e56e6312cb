"""A whole run: train, evaluate, report; resumes by itself."""

import contextlib
import dataclasses
import datetime
import functools
import json
import time

import jax
import numpy as np
from rich import console as console_lib
from rich import progress as progress_lib

from mtl_jax import backbone as backbone_lib
from mtl_jax import capacity
from mtl_jax import checkpoint
from mtl_jax import combined
from mtl_jax import commit
from mtl_jax import config as config_lib
from mtl_jax import evaluate
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import ownership
from mtl_jax import parallel
from mtl_jax import final
from mtl_jax import plan
from mtl_jax import provenance
from mtl_jax import report
from mtl_jax import scenarios
from mtl_jax import search
from mtl_jax import steps
from mtl_jax import stream
from mtl_jax import system as system_lib
from mtl_jax import tensorboard
from mtl_jax import train
from mtl_jax import trees
from mtl_jax import workdir as workdir_lib
from mtl_jax.data import suites
from mtl_jax.data import transforms


def run(config: config_lib.Config, workdir, command: str = '',
        quiet: bool = False) -> dict:
  """Learns what isn't learned yet, evaluates, and writes the report.

  Args:
    config: what to do.
    workdir: a new folder, or that of the same config.
    command: recorded beside the results.
    quiet: no progress bar and no table.

  Returns:
    The summary, as in the last line of metrics.jsonl.

  Raises:
    ValueError: the workdir belongs to another config (names the difference).
  """
  started = time.perf_counter()
  if config.tensorboard:
    tensorboard.require()
  work = workdir_lib.Workdir(workdir)
  suite = suites.make(config.suite.kind, **dict(config.suite.options))
  plan.check(config, suite)
  scenarios.check(config, suite)
  data = evaluate.Data()
  check_config(work, config)
  backbone = make_backbone(config, suite, data, work)
  check_fit(config, suite, data, backbone)
  final.check_mixed(config, suite, data)
  ownership.check(config, suite, backbone.params)
  versions = check_sources(work, suite, data)
  work.prepare()
  claim(work, config, backbone, command, versions)
  system = system_lib.System(work, backbone._replace(
      params=parallel.local(backbone.params),
      stats=parallel.local(backbone.stats)))
  with _bar(config, suite, data, quiet) as advance:
    running = train.Run(config, suite, backbone, data, work, system, advance)
    rows = {}
    for phase in config.phases:
      learn_phase(running, phase)
    # Of groups that were killed right after their last commit.
    checkpoint.remove_all(work.progress, '*')
    if config.matrix == 'full':
      rows = final.matrix_rows(running)
    known = final.infer_tasks(running)
  records = final.collect(running)
  summary = final.summarise(running, records, rows)
  summary['identity'] = known
  summary['mixed'] = final.mixed_batch(running)
  summary['segments'] = final.shared_segments(running)
  summary['capacity'] = capacity.measure(running)
  summary['ensembles'] = combined.ensembles(running)
  summary['carried'] = combined.carried(running)
  summary['streams'] = list({
      line['phase']: line for line in workdir_lib.read_lines(work.metrics)
      if line['kind'] == 'stream'}.values())  # the last of each
  summary['seconds'] = time.perf_counter() - started
  summary['peak_memory_bytes'] = evaluate.memory_bytes()
  workdir_lib.append_line(work.metrics, {'kind': 'summary'} | summary)
  _report(work, records, summary, quiet)
  return summary


def learn_phase(running: train.Run, phase: config_lib.Phase) -> None:
  """Whatever a phase does."""
  if phase.stream:
    stream.learn(running, phase)
  elif phase.search:
    search.learn(running, phase)
  else:
    train.learn_phase(running, phase)


def check_config(work: workdir_lib.Workdir, config) -> None:
  """Refuses a workdir that belongs to another config."""
  if not work.config.exists():
    if work.tasks.is_dir() and any(work.tasks.iterdir()):
      raise ValueError(f'{work.root} has tasks but no config.json; choose '
                       'another workdir')
    return
  kept = workdir_lib.read_json(work.config)
  given = json.loads(json.dumps(config_lib.to_dict(config)))
  # What is measured at the end changes nothing that is learned.
  old, new = (trees.flatten({
      k: v for k, v in c.items()
      if k not in ('identify', 'mixed_rows', 'transparency')})
              for c in (dict(kept or {}), given))
  changed = sorted(name for name in old.keys() | new.keys()
                   if old.get(name) != new.get(name))
  if changed:
    name = changed[0]
    raise ValueError(
        f'{work.root} holds a run of another config: {name} is '
        f'{old.get(name)!r} there and {new.get(name)!r} now'
        f'{f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""}; '
        'choose another --workdir, or the old value. Nothing was changed')


def check_sources(work: workdir_lib.Workdir, suite, data) -> dict[str, str]:
  """The versions of the suite's sources, which an earlier start had too.

  Raises:
    ValueError: a source has changed since; names it and both versions.
  """
  found = {task.source: data.source(task.source).version
           for task in suite.tasks}
  for line in workdir_lib.read_lines(work.metrics):
    for name, before in line.get('sources', {}).items():
      if found.get(name, before) != before:
        raise ValueError(
            f'source {name} is version {found[name]}, but {work.root} was '
            f'begun with version {before}: bring that back, or choose another '
            '--workdir. Nothing was changed')
  return found


def check_fit(config, suite, data, backbone) -> None:
  """Refuses, before anything is written, what would fail in a later phase."""
  check_words(suite, data, backbone.params)
  for phase in config.phases:
    if phase.search:
      search.check(phase, suite, backbone)
      continue
    for group in plan.groups(
        dataclasses.replace(phase, stream=None), suite):
      if len(group) > 1 and not phase.together:
        parallel.split_tasks(np.zeros(len(group)))
      else:
        parallel.split_batch(np.zeros(phase.batch_size))
      for entry in group:
        steps.check_batch(len(data.rows(entry)), phase.batch_size)
      if phase.together and phase.epochs:
        try:
          steps.check_epochs({
              entry.task.name: len(data.rows(entry)) // phase.batch_size
              for entry in group})
        except ValueError as error:
          raise ValueError(f'phase {phase.name}: {error}') from error
    if phase.basis is None and phase.allocation is None:
      jax.eval_shape(functools.partial(
          phase.make_method().init, backbone=backbone.params, shared={},
          route=plan.init_route(group)), group[0].key(config.seed))
    elif phase.basis is not None and phase.basis.kind == 'random':
      methods.base.masked_part(backbone.params, phase.basis.masked)


def check_words(suite, data, params) -> None:
  """Refuses texts with more words than the network's embedding has vectors."""
  rows = [np.shape(x)[0] for name, x in trees.flatten(params).items()
          if x is not None and name.endswith('embedding/embedding')]
  for task in suite.tasks if rows else ():
    source = data.source(task.source)
    largest = max(int(np.max(split.images)) for split in (
        source.train, source.valid, source.test)) if source.tokens else 0
    if largest >= min(rows):
      raise ValueError(
          f'task {task.name} has words up to number {largest}, but the '
          f"embedding has {min(rows)}: give the backbone's option words="
          f'{largest + 1} or the source fewer words')


def make_backbone(config, suite, data, work) -> backbone_lib.Backbone:
  """The backbone on the devices, the same as before if there was one."""
  shapes: dict[tuple, str] = {}
  for task in suite.tasks:
    source = data.source(task.source)
    shape = transforms.output_shape(transforms.kinds(task.transforms),
                                    source.image_shape)
    if source.tokens:
      shape = ('int32', *shape)
    shapes.setdefault(shape, task.name)
  if len(shapes) > 1 and config.backbone.model not in models.STEMS:
    raise ValueError(
        f'tasks {" and ".join(shapes.values())} have inputs of different '
        f'shapes {list(shapes)}; give the suite an image_shape, or take a '
        f'model with stems: {", ".join(models.STEMS)}')
  recipe = backbone_lib.recipe_of(config, list(shapes))
  if work.backbone.exists():
    kept = workdir_lib.read_json(work.backbone)
    recipe['fingerprint'] = dict(kept or {}).get('fingerprint', 'missing')
  made = backbone_lib.make(recipe, work.weights)
  return made._replace(params=parallel.put(made.params),
                       stats=parallel.put(made.stats))


def claim(work, config, backbone, command, sources=None) -> None:
  """Writes what a workdir starts with, and a line for this start."""
  work.keep_weights(backbone.recipe['options'].get('weights'))
  if not work.backbone.exists():
    workdir_lib.write_atomic(work.backbone,
                             json.dumps(backbone.recipe, indent=2) + '\n')
  text = json.dumps(config_lib.to_dict(config), indent=2) + '\n'
  if not work.config.exists() or work.config.read_text() != text:
    workdir_lib.write_atomic(work.config, text)
  finished = set(work.task_names())
  lines = [line for line in workdir_lib.read_lines(work.metrics)
           if line['kind'] not in ('task', 'row')
           or line['entry'] in finished]
  workdir_lib.write_lines(work.metrics, lines)
  logged = {line['entry'] for line in lines if line['kind'] == 'task'}
  workdir_lib.append_line(
      work.metrics, run_line(config, backbone, command) | {
          'sources': sources or {}})
  for name in sorted(finished - logged):  # killed before its line
    workdir_lib.append_line(work.metrics, commit.finished_record(work, name))
  parallel.barrier('claimed')


def run_line(config, backbone, command: str) -> dict:
  """What makes a run's numbers reproducible, as one JSON line."""
  return {
      'kind': 'run', 'config': config_lib.to_dict(config),
      'command': command, 'versions': provenance.versions(),
      'hardware': provenance.hardware(), 'commit': provenance.commit(),
      'started': datetime.datetime.now(datetime.timezone.utc).isoformat(
          timespec='seconds'),
      'seed': config.seed,
      'backbone': {'model': backbone.recipe['model'],
                   'weights': trees.size(backbone.params),
                   'fingerprint': backbone.recipe['fingerprint']}}


def _report(work, records, summary, quiet) -> None:
  if not parallel.is_primary():
    return
  run_lines = [line for line in workdir_lib.read_lines(work.metrics)
               if line['kind'] == 'run']
  report.write(work.report, run_lines[-1], records, summary)
  if not quiet:
    console = console_lib.Console()
    console.print(report.table(records, summary))
    console.print(f'report: {work.report}', soft_wrap=True)


@contextlib.contextmanager
def _bar(config, suite, data, quiet):
  """A progress bar over all steps, with speed and time left."""
  total = sum(
      entry.phase.recipe(len(data.rows(entry))).steps
      * (phase.stream.passes if phase.stream else 1)
      for phase in config.phases for entry in plan.entries(
          dataclasses.replace(phase, stream=None), suite))
  columns = (progress_lib.TextColumn('{task.description}'),
             progress_lib.BarColumn(), progress_lib.MofNCompleteColumn(),
             progress_lib.TextColumn('{task.fields[speed]}'),
             progress_lib.TimeRemainingColumn(elapsed_when_finished=True))
  hidden = quiet or not parallel.is_primary()
  with progress_lib.Progress(*columns, disable=hidden) as bar:
    handle = bar.add_task('learning', total=total, speed='')

    def advance(count, name):
      speed = bar.tasks[0].speed
      bar.update(handle, advance=count, description=name,
                 speed=f'{speed:.0f} steps/s' if speed else '')
    yield advance
