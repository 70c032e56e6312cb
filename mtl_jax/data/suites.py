"""Suites: ordered lists of tasks, made from sources and transforms.

    make('permuted', source='mnist', num_tasks=10)
    make('rotated', source='mnist', num_tasks=36)
    make('split', source='cifar100', classes_per_task=5, seed=0)
    make('split', source='mnist', groups=((0, 2, 4), (1, 3, 5)))
    make('split', source='mnist', classes_per_task=2, shared_outputs=False)
    make('groups', groups=(('cifar10', (1, 3)), ('cifar100', (24, 76, 67))))
    make('datasets', sources=('mnist', 'kmnist'), image_shape=(28, 28, 1))
    make('official', benchmark='characters', image_shape=(32, 32, 3))

    register('mine', function)  your own kind, for `suite.kind`

Every kind, also your own, takes

  names: one name for each task. A source can also be named in place:
    sources=('left=folder:/a/images', 'right=folder:/b/images').
  drop_shared: leave images out of training and validation that are also test
    images. By default they stay, and the report gives their number.
  incomplete: accept tasks whose accuracy means nothing: a class without
    training images, only one class, or only test images that are trained on.
    The table and the report say so. 'official' accepts such tasks.

and these kinds also take

  image_shape: (H, W, C) to which images are fitted; None leaves them.
  augment: padding of the random crop and flip in training; 0 turns it off.
  normalise: (mean, std), each a number or one per channel. None takes the
    data set's constants in `STATISTICS`, or else (0.5, 0.5). Three constants
    are averaged if the images are made grey.
  load: the function that loads a source; `sources.load` by default.

Pixels are transformed in this order: fit, augment, permute or rotate,
normalise. PermutedMNIST and RotatedMNIST follow SupSup (arXiv 2006.14769):
task i is the permutation of NumPy's seed (i + seed), or a rotation by
i * 360 / num_tasks degrees. SupSup's code takes whole degrees, i * (360 //
num_tasks), and the nearest pixel, as does interpolation='nearest'. Ours, the
default, is smoother; with 36 tasks the angles are the same.

A numbered task's random numbers depend on its number, not on how its name is
written: the first three tasks are the same with num_tasks=3 and with 250.
Names have as many digits as the last one needs, at least two. `number_width`
sets the number of digits; the random numbers then depend on the written names.
"""

import dataclasses
import inspect
import re

import numpy as np

from mtl_jax import registry
from mtl_jax import trees
from mtl_jax.data import labels as labels_lib
from mtl_jax.data import names as names_lib
from mtl_jax.data import official
from mtl_jax.data import options as options_lib
from mtl_jax.data import partition
from mtl_jax.data import pipeline
from mtl_jax.data import sources as sources_lib
from mtl_jax.data import tasks as tasks_lib
from mtl_jax.data import transforms as transforms_lib

Task = tasks_lib.Task
View = tasks_lib.View
Suite = tasks_lib.Suite
Source = sources_lib.Source
view = tasks_lib.view

_CIFAR = ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
# Name without 'own=', ':label', '!feature', '@size' -> (mean, std), as used in
# the papers: SupSup's SplitCIFAR-100 has CIFAR-10's constants.
STATISTICS = {
    'mnist': ((0.1307,), (0.3081,)),
    'cifar10': _CIFAR,
    'cifar100': _CIFAR,
}


def make(kind, **options):
  """A suite from its kind and options; see the module.

  Args:
    kind: one of `SUITES`.
    **options: as in the signature of `SUITES[kind]`, and those of every kind.

  Returns:
    A `Suite`.

  Raises:
    ValueError: the kind or an option is unknown (with the known and the nearest
      ones), a value does not suit the source, or the accuracy of a task would
      mean nothing (see `labels`).

  >>> suite = make('rotated', source='digits', num_tasks=4)
  >>> [task.name for task in suite.tasks]
  ['rotated-000', 'rotated-090', 'rotated-180', 'rotated-270']
  """
  options_lib.known('suite', kind, SUITES)
  taken = inspect.signature(SUITES[kind]).parameters
  common = {k: v for k, v in common_options(kind).items() if k not in taken}
  options_lib.check(kind, options, taken, common)
  common |= {k: options.pop(k) for k in list(options) if k in common}
  suite = registry.called(f'suite {kind!r}', SUITES[kind], **options)
  if not isinstance(suite, Suite):
    raise ValueError(f'the function registered as suite {kind!r} returned a '
                    f'{type(suite).__name__}, not a Suite')
  suite = _with_common(suite, common)
  if not common.get('incomplete', options.get('incomplete')):
    _require_sound(suite, options.get('load', sources_lib.load))
  return suite


def common_options(kind):
  """The options that every kind takes, with their defaults."""
  return {'names': None, 'drop_shared': False,
          'incomplete': kind == 'official'}


def _with_common(suite, common):
  """The suite with the options that every kind takes."""
  tasks = suite.tasks
  if common.get('drop_shared'):
    tasks = tuple(dataclasses.replace(task, drop_shared=True) for task in tasks)
  if common.get('names') is not None:
    given = common['names']
    if len(given) != len(tasks):
      raise ValueError(
          f'suite.names has {trees.counted(len(given), "name")}, but the suite '
          f'has {trees.counted(len(tasks), "task")}; give one for each')
    tasks = tuple(dataclasses.replace(task, name=name, key=task.drawn_by)
                  for task, name in zip(tasks, given))
  return Suite(suite.name, tasks)


def _require_sound(suite, load):
  """Refuses tasks whose accuracy would mean nothing."""
  seen: set[tuple] = set()
  found: dict[str, Source] = {}
  for task in suite.tasks:
    facts = task.source, task.labels, task.classes, task.drop_shared
    if facts not in seen:
      seen.add(facts)
      if task.source not in found:
        found[task.source] = load(task.source)
      labels_lib.check(task, found[task.source])


def register(kind, function):
  """Makes `make(kind, ...)` call `function(...)`; replaces an earlier one.

  Args:
    kind: str, for `make` and for `suite.kind` in configs.
    function: returns a `Suite`; its parameters are the options of `suite`.

  Raises:
    ValueError: the kind or the function has a wrong type.

  >>> def twice(source, load=sources_lib.load):
  ...   classes = load(source).classes
  ...   return Suite('twice', tuple(
  ...       Task(name, i, source, (transforms_lib.permute(i),), None, classes)
  ...       for i, name in enumerate(('one', 'two'))))
  >>> register('twice', twice)
  >>> [task.name for task in make('twice', source='digits').tasks]
  ['one', 'two']
  """
  if not isinstance(kind, str) or not kind:
    raise ValueError(f'register({kind!r}, ...) needs a kind that is a string '
                    'and not empty')
  if not callable(function):
    raise ValueError(f'register({kind!r}, ...) needs a function that returns a '
                    f'Suite, not a {type(function).__name__}')
  registry.claim('suite', kind)
  SUITES[kind] = function


def _permuted(source, num_tasks, seed=0, image_shape=None, normalise=None,
              augment=0, number_width=None, load=sources_lib.load):
  """Task i: pixels in the order of NumPy's permutation with seed i + seed."""
  options_lib.positive('num_tasks', num_tasks)
  found = load(source)
  return Suite(f'permuted-{names_lib.of_source(source)}', tuple(
      Task(index=i, source=source, transforms=_chain(
          found, image_shape, augment, normalise,
          transforms_lib.permute(i + seed)), labels=None, classes=found.classes,
           **names_lib.of_number('permuted', i, num_tasks, number_width))
      for i in range(num_tasks)))


def _rotated(source, num_tasks, order_seed=None, interpolation='bilinear',
             image_shape=None, normalise=None, augment=0,
             load=sources_lib.load):
  """Rotates counter-clockwise by i * 360 / num_tasks degrees, i = 0, 1, ...

  `interpolation='nearest'` rotates by whole degrees, as SupSup's code does.
  With `order_seed`, the tasks come in the order of NumPy's permutation of that
  seed instead of by angle, so that the first tasks spread over the circle.
  """
  options_lib.positive('num_tasks', num_tasks)
  found = load(source)
  form = '03.0f' if 360 % num_tasks == 0 else '08.4f'
  order = (np.arange(num_tasks) if order_seed is None
           else np.random.RandomState(order_seed).permutation(num_tasks))
  degrees = [int(i) * 360 / num_tasks for i in order]
  if interpolation == 'nearest':
    if num_tasks > 360:
      raise ValueError(f'num_tasks is {num_tasks}, but there are 360 whole '
                       "degrees; take interpolation='bilinear'")
    degrees = [float(int(i) * (360 // num_tasks)) for i in order]
    form = '03.0f'
  return Suite(f'rotated-{names_lib.of_source(source)}', tuple(
      Task(f'rotated-{angle:{form}}', i, source,
           _chain(found, image_shape, augment, normalise,
                  transforms_lib.rotate(angle, interpolation)), None,
           found.classes)
      for i, angle in enumerate(degrees)))


def _split(source, classes_per_task=None, num_tasks=None, seed=None,
           groups=None, shared_outputs=True, image_shape=None,
           normalise=None, augment=0, number_width=None,
           load=sources_lib.load):
  """Disjoint groups of classes: consecutive, drawn by NumPy's seed, or given.

  Every task's classes are 0, 1, ...: they share the first outputs. Without
  `shared_outputs`, each class of the suite has its own output, and every
  task's prediction is chosen among all of them (SupSup's scenario GNu).
  """
  found = load(source)
  chosen = (partition.drawn(found, classes_per_task, num_tasks, seed)
            if groups is None else
            partition.given(found, groups, classes_per_task, num_tasks, seed))
  num_tasks, classes_per_task = chosen.shape
  chain = _chain(found, image_shape, augment, normalise)
  labels = chosen if shared_outputs else np.where(
      np.repeat(np.eye(num_tasks, dtype=bool), classes_per_task, axis=1),
      chosen.ravel()[None], -1)
  return Suite(f'split-{names_lib.of_source(source)}', tuple(
      Task(index=i, source=source, transforms=chain,
           labels=tuple(own.tolist()), classes=len(own),
           **names_lib.of_number('split', i, num_tasks, number_width))
      for i, own in enumerate(labels)))


def _groups(groups, image_shape=None, normalise=None, augment=0,
            number_width=None, load=sources_lib.load):
  """One task per (source, its classes, which become 0, 1, ...)."""
  if not options_lib.listed(groups) or not all(
      options_lib.listed(group) and len(group) == 2
      and isinstance(group[0], str) and options_lib.listed(group[1])
      for group in groups):
    raise ValueError('groups: groups must be pairs of a source and its '
                     f'classes, not {groups!r}')
  tasks = []
  for i, (source, classes) in enumerate(groups):
    found = load(source)
    partition.require_classes(found, classes)
    labels = tuple(map(int, classes))
    task = Task(index=i, source=source, transforms=_chain(
        found, image_shape, augment, normalise), labels=labels,
                classes=len(labels), **names_lib.of_number(
                    names_lib.of_source(source), i, len(groups), number_width))
    view(task, found)  # refuses unknown classes early
    tasks.append(task)
  return Suite('groups', tuple(tasks))


def _datasets(sources, image_shape=(28, 28, 1), normalise=None, augment=0,
              load=sources_lib.load):
  """One task per data set, all images fitted to one shape.

  Tables and texts are not changed. Two sets with the same test images in the
  same classes are refused. Tasks are named after their sources; folders with
  equal names are told apart by the folders above them.
  """
  if not options_lib.listed(sources) or not all(
      isinstance(name, str) for name in sources):
    raise ValueError('datasets: sources must be a sequence of names, not '
                     f'{sources!r}')
  found = [load(name) for name in sources]
  partition.refuse_copies(found)
  return Suite('datasets', tuple(
      Task(called, i, name,
           _chain(source, image_shape, augment, normalise), None,
           source.classes, source.regression)
      for i, (called, name, source) in enumerate(zip(
          names_lib.of_sources(sources), sources, found))))


def _official(benchmark, image_shape=(32, 32, 3), only=None, more=(),
              leaking=False, augment=0, normalise=(0.5, 0.5),
              load=sources_lib.load):
  """A benchmark of mu2Net: its tasks in its order, with its own splits.

  The tasks in `official.LEAKING` are defined with their test images in the
  training split; another division replaces theirs unless `leaking` is set.
  `only` names the wanted tasks, in that order; `more` are sources that come
  after them. Two sets with the same test images in the same classes are
  refused.
  """
  for option, given in (('only', only), ('more', more)):
    if not isinstance(given, (list, tuple, type(None))) or not all(
        isinstance(name, str) for name in given or ()):
      raise ValueError(f'suite.{option} is {given!r}; it must be a sequence of '
                       'names')
  if image_shape is None:
    raise ValueError('suite.image_shape is None, but the tasks of an official '
                     'benchmark are fitted to one shape; give (H, W, C)')
  options_lib.known('benchmark', benchmark, official.BENCHMARKS)
  names = official.BENCHMARKS[benchmark]
  for name in only or ():
    options_lib.known(f'task of benchmark {benchmark!r}', name, names)
  size = tuple(image_shape[:2])
  wanted = {name: official.source(name, size, leaking)
            for name in only or names}
  wanted |= {name: f'{name}@{size[0]}x{size[1]}' for name in more}
  found = [load(source) for source in wanted.values()]
  partition.refuse_copies(found)
  return Suite(f'official-{benchmark}', tuple(
      Task(called, i, source.name,
           _chain(source, image_shape, augment, normalise), None,
           source.classes)
      for i, (called, source) in enumerate(zip(
          names_lib.of_sources(wanted), found))))


def _chain(source, image_shape, augment, normalise, *middle):
  if len(source.image_shape) == 1:  # a table, or texts
    if middle:
      raise ValueError(f'source {source.name!r} has no pixels to move')
    return ()
  shape = tuple(image_shape or source.image_shape)
  first = (transforms_lib.fit(*shape),) if image_shape else ()
  if not 0 <= augment < min(shape[:2]):
    raise ValueError(f'suite.augment is {augment}; the padding of a crop must '
                     f'lie between 0, which is none, and {min(shape[:2]) - 1}, '
                     f'as the images are {shape[0]} x {shape[1]}')
  if augment:
    first += (transforms_lib.crop_flip(augment),)
  if normalise is None:
    name = re.split('[:!@]', sources_lib.split_name(source.name)[1])[0]
    mean, std = STATISTICS.get(name, ((0.5,), (0.5,)))
    if shape[-1] == 1:
      mean, std = (float(np.mean(v)) for v in (mean, std))
  else:
    mean, std = normalise
  result = (*first, *middle, transforms_lib.normalise(mean, std))
  pipeline.parameters(result, source.image_shape)  # refuses misfits early
  return result


SUITES = {
    'permuted': _permuted,
    'rotated': _rotated,
    'split': _split,
    'groups': _groups,
    'datasets': _datasets,
    'official': _official,
}
