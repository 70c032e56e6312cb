"""Adds one task from Python: `system.learn('digits', method='supsup', ...)`.

The checks, the training and the commit are those of a run; keywords take the
place of a phase's fields in a config.
"""

from collections.abc import Sequence

from mtl_jax import experiment
from mtl_jax import host
from mtl_jax import json_files
from mtl_jax import messages
from mtl_jax import methods
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax import validate
from mtl_jax.config import config as config_lib
from mtl_jax.config import plan
from mtl_jax.data import names
from mtl_jax.data import pipeline
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.data import transforms
from mtl_jax.serving import checks
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import provenance
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import commit
from mtl_jax.training import run as run_lib
from mtl_jax.training import sizing
from mtl_jax.training import validation

_RUN = ('seed', 'chunk_steps', 'progress_seconds', 'eval_batch_size')
_SUITE = ('image_shape', 'augment', 'normalise', 'drop_shared', 'incomplete')
_NEVER = ('tasks', 'repeats', 'pool', 'stream', 'tasks_at_once')


def learn(system: system_lib.System, source, *, method: str | None = None,
          name: str | None = None, phase: str = 'learned',
          **options) -> float | None:
  """Adds one task to a system.

  The process may be killed at any instant: the same call resumes, and ends with
  the same bits. If the task is already learned, it only returns the accuracy.

  Args:
    system: from `mtl_jax.load`.
    source: a name for `data.sources.load`, a `Source`, or (images, labels) as
      for `data.sources.from_arrays`.
    method: name of a method; it has to be given.
    name: name of the task; `None` takes the source's.
    phase: name of the phase in its record. A method that relies on tasks of
      its own phase finds those that were learned under this name.
    **options: fields of a phase in a config (steps, learning_rate, options,
      basis, search, ...), of its suite (image_shape, augment, normalise,
      drop_shared, incomplete) and of the config itself (seed, chunk_steps,
      progress_seconds, eval_batch_size). Images of another shape than the
      network's are fitted to it; the seed is that of the workdir.

  Returns:
    Its accuracy on its test images; `None` for a regression.

  Raises:
    ValueError: a run would refuse the options, or another task has the name.
  """
  taken = sorted(set(options) & set(_NEVER))
  if taken:
    raise ValueError(f'learn adds one task and takes no {taken[0]}; write a '
                     'config for more, and run it on the workdir')
  if method is None:
    raise ValueError('learn needs a method=, one of '
                     f'{", ".join(sorted(methods.METHODS))}')
  if not isinstance(phase, str):
    raise ValueError(f'phase is {messages.shown(phase)}; give the name of a '
                     'phase')
  host.require_settings()
  system.workdir.require_there()
  found = _source(source, name)
  load = lambda other: found if other == found.name else sources.load(other)
  called = names.of_source(found.name) if name is None else name
  config, suite = _config(system, found, called, method, phase, options, load)
  _check_inputs(system, suite.tasks[0], found)
  with system.workdir.locked():  # no other task may come after the checks
    called = _learn(system, config, suite, run_lib.Data(load))
  system.refresh()
  return commit.finished_record(system.workdir, called)['accuracy']['test']


def _learn(system: system_lib.System, config: config_lib.Config,
           suite: suites.Suite, data: run_lib.Data) -> str:
  """Checks and learns the task of a locked workdir; returns its name."""
  work, earlier = system.workdir, stored_tasks(system)
  plan.check(config, suite, earlier)
  entry = plan.entries(config.phases[0], suite)[0]
  backbone = system.backbone._replace(
      params=parallel.put(system.backbone.params),
      stats=parallel.put(system.backbone.stats))
  traced = validate.check_fit(config, suite, data, backbone, earlier,
                              lambda other: system.task(other).impression)
  checks.require_new_name(work, entry.name, {})
  run = run_lib.Run(config, suite, backbone, data, work, system,
                    lambda count, name: None, earlier)
  versions = validate.check_sources(work, suite, data)
  sizing.fit(run, traced)
  if not _claim(work, entry, config, versions):
    experiment.learn_phase(run._replace(validated=validation.steps_of_log(
        json_records.read_lines(work.metrics))), config.phases[0])
  return entry.name


def _source(source, name: str | None) -> sources.Source:
  """The source for the given name, object or arrays."""
  if isinstance(source, sources.Source):
    return source
  if isinstance(source, str):
    return sources.load(source)
  if not isinstance(source, Sequence) or len(source) != 2:
    raise ValueError(f'source is a {type(source).__name__}; give the name of '
                     'a source, a Source, or (images, labels)')
  if name is None:
    raise ValueError('arrays have no name; give name=')
  return sources.from_arrays(name, *source)


def _config(system, source, name, method, phase, given, load):
  """(config, suite) of one phase on one task."""
  recipe = system.backbone.recipe
  chosen = {k: given[k] for k in _SUITE if k in given}
  if 'image_shape' not in chosen:
    chosen['image_shape'] = _shape(recipe, source)
  rest = {k: v for k, v in given.items() if k not in (*_RUN, *_SUITE)}
  suite = dict(chosen, kind='datasets', sources=(source.name,), names=(name,))
  config = config_lib.from_dict({
      k: given[k] for k in _RUN if k in given} | {
          'seed': given.get('seed', _seed(system)), 'suite': suite,
          'backbone': {k: recipe[k] for k in (
              'model', 'outputs', 'options', 'init', 'seed', 'weights',
              'names', 'fresh') if k in recipe},
          'phases': {phase: rest | {'method': method, 'tasks': (0, 1)}},
          'schedule': (phase,)})
  return config, suites.make(config.suite.kind, load=load,
                             **dict(config.suite.options))


def _shapes(recipe: dict) -> list[tuple]:
  """The shapes of a backbone's inputs."""
  given = recipe['image_shape']
  many = isinstance(given[0], (list, tuple))
  return [tuple(shape) for shape in (given if many else [given])]


def _shape(recipe: dict, source: sources.Source) -> tuple | None:
  """The shape to which images are fitted; `None` if they fit already."""
  images = [shape for shape in _shapes(recipe) if len(shape) == 3]
  own = tuple(source.image_shape)
  return None if own in images or len(own) != 3 or not images else images[0]


def _check_inputs(system, task: suites.Task, source: sources.Source) -> None:
  shape: tuple = pipeline.output_shape(transforms.kinds(task.transforms),
                                       source.image_shape)
  shape = ('int32', *shape) if source.tokens else shape
  known = _shapes(system.backbone.recipe)
  if shape not in known:
    raise ValueError(f'task {task.name} has inputs of shape {shape}, but the '
                     f'backbone takes {" or ".join(map(str, known))}')


def _seed(system) -> int:
  """The seed of the run in the workdir; without one, the backbone's."""
  if system.workdir.config.exists():
    return dict(json_records.read_json(system.workdir.config)).get(
        'seed', system.backbone.recipe['seed'])
  return system.backbone.recipe['seed']


def stored_tasks(system: system_lib.System) -> tuple[methods.Earlier, ...]:
  """The tasks of a workdir as a method's `relies_on` sees them.

  They are in the order in which they were learned. Tasks of methods that are
  not registered are left out.
  """
  lines = json_records.read_lines(system.workdir.metrics)
  order = {line['entry']: i for i, line in enumerate(lines)
           if line['kind'] in json_records.ENTRY_KINDS}
  found = []
  for name in sorted(system.tasks, key=lambda n: (order.get(n, -1), n)):
    metadata = system.metadata(name)
    given, record = metadata['method'], metadata['record']
    if given['name'] not in methods.METHODS:
      continue
    found.append(methods.Earlier(
        name, record['task'], record['phase'], record['repeat'],
        given['name'], methods.options_of(given['name'], given['options']),
        methods.Route(metadata['classes'], transforms.kinds(
            transforms.from_json(metadata['transforms'])),
                      pooled=bool(record['pooled']))))
  return tuple(found)


def _claim(work: workdir_lib.Workdir, entry: plan.Entry, config,
           versions: dict) -> bool:
  """Records the task to be learned; returns whether it is learned already.

  Raises:
    ValueError: the name is used for something else.
  """
  described = json_files.plain(config_lib.to_dict(config))
  begun = [line for line in json_records.read_lines(work.metrics)
           if entry.name in (line.get('entry'), line.get('from'))]
  last = next((line for line in reversed(begun) if line['kind'] in (
      'learn', 'deleted', 'imported', 'merged', 'renamed')), None)
  there = checkpoint.exists(work.task(entry.name))
  if last is not None and last['kind'] == 'learn':
    old, new = (trees.flatten(c) for c in (last['config'], described))
    changed = sorted(k for k in old.keys() | new.keys()
                     if old.get(k) != new.get(k))
    if changed:
      raise ValueError(
          f'task {entry.name} was begun with {changed[0]}='
          f'{old.get(changed[0])!r}, not {new.get(changed[0])!r}: give the old '
          f'value, or another name={", or delete the task" if there else ""}')
    if not there:
      provenance.require_settings(last.get('versions') or {},
                                  f'task {entry.name}', 'give another name=')
    return there
  if there:
    raise ValueError(f'there is a task {entry.name} already, which this call '
                     'did not learn; give another name=')
  work.prepare()
  json_records.append_line(work.metrics, {
      'kind': 'learn', 'entry': entry.name, 'config': described,
      'sources': versions, 'versions': provenance.versions(),
      'commit': provenance.commit()})
  work.send()  # before the task: only so is it known as this call's
  return False
