"""A whole run: trains, evaluates, reports, and resumes by itself."""

import contextlib
import datetime
import sys
import time
from collections.abc import Callable

import jax
from rich import console as console_lib
from rich import progress as progress_lib

from mtl_jax import host
from mtl_jax import json_files
from mtl_jax import messages
from mtl_jax import models
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax import validate
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.data import pipeline
from mtl_jax.data import suites
from mtl_jax.data import transforms
from mtl_jax.evaluation import capacity
from mtl_jax.evaluation import ensembles
from mtl_jax.evaluation import final
from mtl_jax.evaluation import finetuning
from mtl_jax.evaluation import hints
from mtl_jax.evaluation import scenario_phases
from mtl_jax.evaluation import transparency
from mtl_jax.models import pretrained
from mtl_jax.report import page as report_page
from mtl_jax.report import terminal
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import json_records
from mtl_jax.storage import provenance
from mtl_jax.storage import removal
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import commit
from mtl_jax.training import loop
from mtl_jax.training import resume
from mtl_jax.training import run as run_lib
from mtl_jax.training import sizing
from mtl_jax.training import stream
from mtl_jax.training import method_errors
from mtl_jax.training import validation
from mtl_jax.training import writers
from mtl_jax.training.search import iteration


def run(config: config_lib.Config, workdir, command: str = '',
        quiet: bool = False,
        after_chunk: Callable[[], None] = lambda: None) -> dict:
  """Learns the unfinished tasks, evaluates, and writes the report.

  Args:
    config: the config of the run.
    workdir: a new folder, or that of the same config.
    command: the command line, recorded with the results.
    quiet: no progress bar and no table.
    after_chunk: called after every chunk of steps, for a profiler.

  Returns:
    The summary, as in the last line of metrics.jsonl.

  Raises:
    ValueError: the config is not a `Config`, or the workdir belongs to another
      config (names the difference).
  """
  started = time.perf_counter()
  if not isinstance(config, config_lib.Config):
    raise ValueError(f'config is {messages.shown(config)}; give what '
                     'mtl_jax.config.config.from_dict returns')
  messages.check_switch(quiet, 'quiet')
  writers.require(config)
  host.require_settings()
  work = workdir_lib.Workdir(workdir)
  with work.held():
    return _run(started, config, work, command, quiet, after_chunk)


def _run(started, config, work, command, quiet, after_chunk) -> dict:
  """`run` in a workdir that is fetched."""
  suite = suites.make(config.suite.kind, **dict(config.suite.options))
  plan.check(config, suite)
  scenario_phases.check(config, suite)
  data = run_lib.Data()
  config = sizing.recorded(work, config)
  validate.check_config(work, config)
  backbone = make_backbone(config, suite, data, work)
  transparency.check(config, backbone.network)
  traced = validate.check_fit(config, suite, data, backbone)
  final.check_mixed(config, suite, data)
  versions = validate.check_sources(work, suite, data)
  with work.locked():
    # Checked again, as another process may have worked here meanwhile.
    lines = list(json_records.read_lines(work.metrics))  # once: it is long
    config = sizing.recorded(work, config)
    validate.check_config(work, config)
    validate.check_sources(work, suite, data, lines)
    tasks = validate.check_suite(work, suite, lines)
    validate.check_backbone(work, backbone)
    resume.check_tasks(work, config, suite, backbone.recipe['fingerprint'])
    running = _running(config, suite, backbone, data, work)
    config, needs = sizing.fit(running, traced)
    there = complete(work, config, suite, lines)
    if not there:
      validate.check_settings(work, lines)
    work.prepare()
    if not quiet and not there and parallel.is_primary():
      for hint in hints.before(config, suite):
        print(f'note: {hint}', file=sys.stderr)
    resume.write_plan(work, config, suite)
    lines = claim(work, config, backbone, command, {
        'sources': versions, 'suite_tasks': tasks, 'memory': needs}, lines)
    with work.timed(started, lines):
      records, summary = _learn(
          started, running._replace(
              config=config, validated=validation.steps_of_log(lines)), _bar(
                  config, suite, data, quiet or bool(there), after_chunk))
      _report(work, records, summary, quiet, there)
      return summary


def complete(work, config, suite=None, lines=None) -> set[str]:
  """Names of the tasks of a run that has ended as this config asks.

  Empty if work is left; with a suite, also if a task that the config plans is
  missing. `lines` are those of the log, if they were read already.
  """
  if lines is None:
    lines = list(json_records.read_lines(work.metrics))
  asked = [line['config'] for line in lines if line['kind'] == 'run'][-1:]
  if not asked or not _asks(asked[0], config) or (
      lines[-1]['kind'] != 'summary'):
    return set()
  planned = set() if suite is None else {
      entry.name for phase in config.phases if phase.stream is None
      for entry in plan.entries(phase, suite)}
  there = set(work.task_names())
  return there if planned <= there else set()


def _asks(asked: dict, config: config_lib.Config) -> bool:
  """Whether a start had this config; its version may have had fewer fields."""
  now = json_files.plain(config_lib.to_dict(config))
  try:
    return asked == now or now == json_files.plain(
        config_lib.to_dict(config_lib.from_dict(asked)))
  except ValueError:
    return False


def _running(config, suite, backbone, data, work) -> run_lib.Run:
  """The state of a run; its system grows in the workdir."""
  system = system_lib.System(work, backbone._replace(
      params=parallel.local(backbone.params),
      stats=parallel.local(backbone.stats)))
  return run_lib.Run(config, suite, backbone, data, work, system,
                     lambda count, name: None)


def _learn(started, running, bar):
  """Learns and evaluates in a claimed workdir; returns records and summary."""
  config, work = running.config, running.workdir
  running.system.refresh()  # it was made before the plan was written
  with bar as advance:
    running, rows = running._replace(advance=advance), {}
    resume.restore_probes(running)
    for phase in config.phases:
      learn_phase(running, phase)
    # Left by groups that were killed right after their last commit.
    removal.remove_all(work.progress, '*')
    if config.matrix == 'full':
      rows = final.matrix_rows(running)
    known = final.infer_tasks(running)
  records = final.collect(running)
  summary = final.summarise(running, records, rows)
  summary['identity'] = known
  summary['mixed'] = final.mixed_batch(running)
  summary['segments'] = final.shared_segments(running)
  summary['capacity'] = capacity.measure(running)
  summary['ensembles'] = ensembles.measure(running)
  summary['carried'] = finetuning.measure(running)
  summary['streams'] = list({
      line['phase']: line for line in json_records.read_lines(work.metrics)
      if line['kind'] == 'stream'}.values())  # the last line of each phase
  summary['seconds'] = time.perf_counter() - started
  summary['seconds_in_all'] = json_records.total_seconds(
      [*json_records.read_lines(work.metrics), {'kind': 'summary'} | summary])
  summary['peak_memory_bytes'] = host.memory_bytes()
  summary['hints'] = hints.after(records)
  json_records.append_line(work.metrics, {'kind': 'summary'} | summary)
  return records, summary


def learn_phase(running: run_lib.Run, phase: config_lib.Phase) -> None:
  """Learns a phase of any kind; a signal waits until it has saved."""
  with host.saves(), method_errors.named(phase):
    if phase.stream:
      stream.learn(running, phase)
    elif phase.search:
      iteration.learn(running, phase)
    else:
      loop.learn_phase(running, phase)


def make_backbone(config, suite, data, work) -> backbone_lib.Backbone:
  """The backbone on the devices, equal to that of earlier starts."""
  shapes: dict[tuple, str] = {}
  for task in suite.tasks:
    source = data.source(task.source)
    shape: tuple = pipeline.output_shape(transforms.kinds(task.transforms),
                                         source.image_shape)
    if source.tokens:
      shape = ('int32', *shape)
    shapes.setdefault(shape, task.name)
  own = models.MODELS.origin(config.backbone.model) is not None
  if len(shapes) > 1 and not own and config.backbone.model not in models.STEMS:
    raise ValueError(
        f'tasks {" and ".join(shapes.values())} have inputs of different '
        f'shapes {list(shapes)}; give the suite an image_shape, or take a '
        f'model with stems: {", ".join(models.STEMS)}')
  part = config.backbone
  models.check(part.model, models.make(
      part.model, part.outputs, **dict(part.options)), part.outputs,
               list(shapes), own)
  recipe = backbone_lib.recipe_of(config, list(shapes))
  if work.backbone.exists():
    resume.check_recipe(work, json_files.plain(recipe))
    recipe['fingerprint'] = json_records.read_json(work.backbone)['fingerprint']
  made = backbone_lib.make(recipe, backbone_lib.kept(work), part.remat)
  if part.remat and not made.network.scanned and (
      jax.default_backend() == 'cpu'):
    raise ValueError(f'backbone.remat saves nothing of {part.model} on a CPU, '
                     'whose compiler undoes it; leave it out there')
  return made._replace(params=parallel.put(made.params),
                       stats=parallel.put(made.stats))


def claim(work, config, backbone, command, known=None,
          lines=None) -> list[dict]:
  """Writes the first files of a workdir, and a log line for this start.

  Args:
    work: the workdir.
    config: config of the run.
    backbone: backbone of the run.
    command: the command line.
    known: further values for the line, such as the versions of the sources.
    lines: lines of the log, if they were read already.

  Returns:
    The lines of the log from now on.
  """
  if backbone.recipe.get('weights'):
    work.keep_weights(parallel.to_host(pretrained.leaves(
        backbone.params, backbone.stats)), backbone.recipe['fingerprint'])
  if not work.backbone.exists():
    json_records.write_json(work.backbone, backbone.recipe)
  fields = json_files.plain(config_lib.to_dict(config))
  if not work.config.exists() or json_records.read_json(work.config) != fields:
    json_records.write_json(work.config, fields)
  finished = set(work.task_names())
  before = (list(json_records.read_lines(work.metrics)) if lines is None
            else lines)
  killed = work.killed(before)
  of_entries = json_records.ENTRY_KINDS
  lines = json_records.of_tasks(before, finished.__contains__)
  logged = {line['entry'] for line in lines if line['kind'] in of_entries}
  begun = {line['entry'] for line in lines if line['kind'] == 'learn'}
  # Tasks whose start was killed before it logged them; not those that somebody
  # else put there.
  own = work.planned(finished) | begun & finished
  lines += [commit.finished_record(work, name)
            for name in sorted(own - logged)]
  lines += killed
  if lines != before or not json_records.is_whole(work.metrics):
    json_records.write_lines(work.metrics, lines)
  lines.append(run_line(config, backbone, command) | {
      'sources': {}} | (known or {}))
  json_records.append_line(work.metrics, lines[-1])
  for line in lines:
    if line['kind'] == 'task':
      writers.write(config, work.root, line)
  parallel.barrier('claimed')
  return lines


def run_line(config, backbone, command: str) -> dict:
  """What is needed to reproduce a run's numbers, as one JSON line."""
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


def _report(work, records, summary, quiet, there) -> None:
  """Writes the page; prints the table, or that nothing was left to do."""
  if not parallel.is_primary():
    return
  run_lines = [line for line in json_records.read_lines(work.metrics)
               if line['kind'] == 'run']
  report_page.write(work.report, run_lines[-1], records, summary)
  if quiet:
    return
  if there and there == set(work.task_names()):
    proof = summary['verified']
    found = trees.counted(proof['tasks'], 'task')
    print(f'nothing left to learn: the {found} in {work.root} '
          f'{"is" if proof["tasks"] == 1 else "are"} '
          f'{"verified" if proof["ok"] else "DAMAGED"}; '
          f'report: {work.report}')
    return
  terminal.show(records, summary, work.report)


@contextlib.contextmanager
def _bar(config, suite, data, quiet, after_chunk):
  """A progress bar over all steps, with speed and time left."""
  total = sum(
      entry.phase.recipe(len(data.rows(entry))).steps
      * (phase.stream.passes if phase.stream else 1)
      for phase in config.phases for entry in plan.entries(
          phase.named, suite))
  columns = (progress_lib.TextColumn('{task.description}'),
             progress_lib.BarColumn(), progress_lib.MofNCompleteColumn(),
             progress_lib.TextColumn('{task.fields[speed]}'),
             progress_lib.TimeRemainingColumn(elapsed_when_finished=True))
  console = console_lib.Console(stderr=True)
  hidden = quiet or not parallel.is_primary() or not console.is_terminal
  with progress_lib.Progress(*columns, console=console,
                             disable=hidden) as bar:
    handle = bar.add_task('learning', total=total, speed='')

    def advance(count, name):
      speed = bar.tasks[0].speed
      bar.update(handle, advance=count, description=name,
                 speed=f'{speed:.0f} steps/s' if speed else '')
      after_chunk()
    yield advance
