"""Suites: ordered lists of tasks, made from sources and transforms.

    make('permuted', source='mnist', num_tasks=10)
    make('rotated', source='mnist', num_tasks=36)
    make('split', source='cifar100', classes_per_task=5, seed=0)
    make('split', source='mnist', groups=((0, 2, 4), (1, 3, 5)))
    make('split', source='mnist', classes_per_task=2, shared_outputs=False)
    make('groups', groups=(('cifar10', (1, 3)), ('cifar100', (24, 76, 67))))
    make('datasets', sources=('mnist', 'kmnist'), image_shape=(28, 28, 1))
    make('official', benchmark='characters', image_shape=(32, 32, 3))

Every kind also takes

  image_shape: (H, W, C) that images are fitted to; None leaves them.
  augment: padding of the random crop and flip in training; 0 is none.
  normalise: (mean, std), each a number or one per channel. None takes the
    data set's constants in `STATISTICS`, or else (0.5, 0.5). Three constants
    are averaged if the images are made grey.
  load: how a source is found; `sources.load` by default.

Pixels are transformed in this order: fit, augment, permute or rotate,
normalise. PermutedMNIST and RotatedMNIST follow SupSup (arXiv 2006.14769):
task i is the permutation of NumPy's seed (i + seed), or a turn by
i * 360 / num_tasks degrees. Its code takes whole degrees, i * (360 //
num_tasks), and the nearest pixel: interpolation='nearest' does so. Ours, the
default, is smoother; with 36 tasks the angles are the same.
"""

import difflib
import inspect
import itertools
import numbers
import pathlib
import re

import numpy as np

from mtl_jax.data import official
from mtl_jax.data import sources as sources_lib
from mtl_jax.data import tasks as tasks_lib
from mtl_jax.data import transforms as transforms_lib

Task = tasks_lib.Task
View = tasks_lib.View
Suite = tasks_lib.Suite
view = tasks_lib.view

_CIFAR = ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
# Name without ':label', '!feature', '@size' -> (mean, std), as commonly used:
# SupSup's SplitCIFAR-100 has CIFAR-10's constants.
STATISTICS = {
    'mnist': ((0.1307,), (0.3081,)),
    'cifar10': _CIFAR,
    'cifar100': _CIFAR,
}


def make(kind, **options):
  """A suite from its kind and options; see the module.

  Args:
    kind: one of `SUITES`.
    **options: as in the signature of `SUITES[kind]`.

  Returns:
    A `Suite`.

  Raises:
    ValueError: unknown kind or option, with the known and the nearest ones;
      or a value that does not suit the source.

  >>> suite = make('rotated', source='digits', num_tasks=4)
  >>> [task.name for task in suite.tasks]
  ['rotated-000', 'rotated-090', 'rotated-180', 'rotated-270']
  """
  _known('suite', kind, SUITES)
  signature = inspect.signature(SUITES[kind])
  for option in options:
    _known(f'option of suite {kind!r}', option, signature.parameters)
  missing = [name for name, p in signature.parameters.items()
             if p.default is p.empty and name not in options]
  if missing:
    raise ValueError(f'suite {kind!r} needs {", ".join(missing)}')
  for option, value in options.items():
    _check_option(option, value, signature.parameters[option].default)
  return SUITES[kind](**options)


def _whole(x):
  return isinstance(x, numbers.Integral) and not isinstance(x, bool)


def _check_option(name, value, default):
  wrong = None
  if value is None:
    if default is None or name not in ('source', 'num_tasks', 'seed',
                                       'augment', 'classes_per_task'):
      return
    wrong = 'given'
  elif name in ('num_tasks', 'seed', 'order_seed', 'classes_per_task',
                'augment'):
    wrong = 'a whole number' if not _whole(value) else None
  elif name in ('shared_outputs', 'copies', 'leaking'):
    wrong = ('True or False' if not isinstance(value, (bool, np.bool_))
             else None)
  elif name == 'source':
    wrong = 'the name of a source' if not isinstance(value, str) else None
  elif name == 'image_shape':
    if not (isinstance(value, (tuple, list)) and len(value) == 3
            and all(_whole(x) and x > 0 for x in value)):
      wrong = '(H, W, C), three whole numbers above 0'
  elif name == 'normalise':
    if (not isinstance(value, (tuple, list)) or len(value) != 2 or
        not all(isinstance(x, numbers.Real) and np.isfinite(x)
                for part in value for x in np.ravel(part).tolist())):
      wrong = '(mean, std), finite'
  if wrong:
    raise ValueError(f'suite.{name} is {value!r}; it must be {wrong}')


def _known(what, name, known):
  if name in known:
    return
  near = difflib.get_close_matches(str(name), known, n=1)
  hint = f'; did you mean {near[0]!r}?' if near else ''
  raise ValueError(f'unknown {what}: {name!r}{hint} Known: '
                   f'{", ".join(known)}')


def _permuted(source, num_tasks, seed=0, image_shape=None, normalise=None,
              augment=0, load=sources_lib.load):
  """Task i: the pixels in the order of NumPy's permutation (i + seed)."""
  _positive('num_tasks', num_tasks)
  found, width = load(source), _width(num_tasks)
  return Suite(f'permuted-{_slug(source)}', tuple(
      Task(f'permuted-{i:0{width}d}', i, source,
           _pipeline(found, image_shape, augment, normalise,
                     transforms_lib.permute(i + seed)), None, found.classes)
      for i in range(num_tasks)))


def _rotated(source, num_tasks, order_seed=None, interpolation='bilinear',
             image_shape=None, normalise=None, augment=0,
             load=sources_lib.load):
  """Turned counter-clockwise by i * 360 / num_tasks degrees, i = 0, 1, ...

  With `interpolation='nearest'` by whole degrees and as SupSup's code does.
  With `order_seed` the tasks come in the order of NumPy's permutation of that
  seed instead of by angle: the first tasks then spread over the circle.
  """
  _positive('num_tasks', num_tasks)
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
  return Suite(f'rotated-{_slug(source)}', tuple(
      Task(f'rotated-{angle:{form}}', i, source,
           _pipeline(found, image_shape, augment, normalise,
                     transforms_lib.rotate(angle, interpolation)), None,
           found.classes)
      for i, angle in enumerate(degrees)))


def _split(source, classes_per_task=None, num_tasks=None, seed=None,
           groups=None, shared_outputs=True, image_shape=None,
           normalise=None, augment=0, load=sources_lib.load):
  """Disjoint groups of classes: consecutive, drawn by NumPy's seed, or given.

  Every task's classes are 0, 1, ...: they share the first outputs. Without
  `shared_outputs` each class of the suite has an output of its own, and every
  task's answer is chosen among all of them (SupSup's scenario GNu).
  """
  found = load(source)
  chosen = (_drawn_groups(found, classes_per_task, num_tasks, seed)
            if groups is None else _given_groups(
                found, groups, classes_per_task, num_tasks, seed))
  num_tasks, classes_per_task = chosen.shape
  width = _width(num_tasks)
  pipeline = _pipeline(found, image_shape, augment, normalise)
  labels = chosen if shared_outputs else np.where(
      np.repeat(np.eye(num_tasks, dtype=bool), classes_per_task, axis=1),
      chosen.ravel()[None], -1)
  return Suite(f'split-{_slug(source)}', tuple(
      Task(f'split-{i:0{width}d}', i, source, pipeline,
           tuple(own.tolist()), len(own))
      for i, own in enumerate(labels)))


def _groups(groups, image_shape=None, normalise=None, augment=0,
            load=sources_lib.load):
  """One task per (source, its classes, which become 0, 1, ...)."""
  if isinstance(groups, str) or not groups or not all(
      len(group) == 2 and isinstance(group[0], str) for group in groups):
    raise ValueError('groups: groups must be pairs of a source and its '
                     f'classes, not {groups!r}')
  width = _width(len(groups))
  tasks = []
  for i, (source, classes) in enumerate(groups):
    found = load(source)
    _require_classes(found, classes)
    labels = tuple(map(int, classes))
    task = Task(f'{_slug(source)}-{i:0{width}d}', i, source,
                _pipeline(found, image_shape, augment, normalise), labels,
                len(labels))
    view(task, found)  # refuses unknown classes now
    tasks.append(task)
  return Suite('groups', tuple(tasks))


def _require_classes(found, labels):
  for label in labels:
    if not _whole(label) or not 0 <= label < found.classes:
      raise ValueError(f'groups: {label!r} is no class of {found.name!r}; its '
                       f'classes are 0 to {found.classes - 1}')


def _given_groups(found, groups, *others):
  if any(other is not None for other in others):
    raise ValueError('split: groups are the tasks; give no other way to make '
                     'them')
  flat = [label for group in groups for label in group]
  _require_classes(found, flat)
  if len(set(flat)) != len(flat) or len({len(g) for g in groups}) != 1:
    raise ValueError(f'split: groups {groups} must be disjoint and of equal '
                     'size')
  return np.array(groups)


def _drawn_groups(found, classes_per_task, num_tasks, seed):
  """Classes of every task, int [num_tasks, classes_per_task]."""
  if classes_per_task is None:
    raise ValueError("suite 'split' needs classes_per_task, or groups")
  _positive('classes_per_task', classes_per_task)
  if num_tasks is None:
    num_tasks, left = divmod(found.classes, classes_per_task)
    if left:
      raise ValueError(
          f'split: {found.classes} classes of {found.name!r} do not divide '
          f'into groups of {classes_per_task}; give num_tasks={num_tasks} to '
          f'leave {left} out')
  _positive('num_tasks', num_tasks)
  if num_tasks * classes_per_task > found.classes:
    raise ValueError(
        f'split: {num_tasks} tasks of {classes_per_task} classes need more '
        f'than the {found.classes} of {found.name!r}')
  order = (np.arange(found.classes) if seed is None
           else np.random.RandomState(seed).permutation(found.classes))
  return order[:num_tasks * classes_per_task].reshape(num_tasks, -1)


def _datasets(sources, image_shape=(28, 28, 1), normalise=None, augment=0,
              copies=False, load=sources_lib.load):
  """One task per data set, all images fitted to one shape.

  Tables and texts stay as they are. Two sets of the same test images in the
  same classes are refused, unless `copies`.
  """
  if isinstance(sources, str) or not sources:
    raise ValueError('datasets: sources must be a sequence of names, not '
                     f'{sources!r}')
  found = [load(name) for name in sources]
  _refuse_copies(found, copies)
  return Suite('datasets', tuple(
      Task(_slug(name), i, name,
           _pipeline(source, image_shape, augment, normalise), None,
           source.classes, source.regression)
      for i, (name, source) in enumerate(zip(sources, found))))


def _refuse_copies(found, copies):
  for a, b in itertools.combinations(found, 2):
    if not copies and np.array_equal(a.test.images, b.test.images) and (
        _same_partition(a.test.labels, b.test.labels)):
      raise ValueError(
          f'sources {a.name!r} and {b.name!r} hold the same test images in the '
          'same classes: their tasks would be one task twice. Prepare the data '
          'anew, leave one out, or say suite.copies=True')


def _same_partition(a, b) -> bool:
  """Whether two lists of labels are one, up to the classes' names."""
  if a.ndim > 1 or b.ndim > 1:  # numbers, not classes
    return np.array_equal(a, b)
  pairs = {*zip(a.tolist(), b.tolist())}
  return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def _official(benchmark, image_shape=(32, 32, 3), only=None, more=(),
              leaking=False, copies=False, augment=0, normalise=(0.5, 0.5),
              load=sources_lib.load):
  """A benchmark of mu2Net: its tasks in its order, with its own splits.

  Tasks that `official.LEAKING` lists hold their test images in their training
  split as they are defined: unless `leaking`, another division takes their
  place. `only` names the tasks that are wanted, in that order; `more` are
  sources that come after them. Two sets of the same test images in the same
  classes are refused, unless `copies`.
  """
  _known('benchmark', benchmark, official.BENCHMARKS)
  names = official.BENCHMARKS[benchmark]
  for name in only or ():
    _known(f'task of benchmark {benchmark!r}', name, names)
  size = tuple(image_shape[:2])
  wanted = {name: official.source(name, size, leaking)
            for name in only or names}
  wanted |= {name: f'{name}@{size[0]}x{size[1]}' for name in more}
  found = [load(source) for source in wanted.values()]
  _refuse_copies(found, copies)
  return Suite(f'official-{benchmark}', tuple(
      Task(_slug(name), i, source.name,
           _pipeline(source, image_shape, augment, normalise), None,
           source.classes)
      for i, (name, source) in enumerate(zip(wanted, found))))


def _pipeline(source, image_shape, augment, normalise, *middle):
  if len(source.image_shape) == 1:  # a table, or texts
    if middle:
      raise ValueError(f'source {source.name!r} has no pixels to move')
    return ()
  shape = tuple(image_shape or source.image_shape)
  first = (transforms_lib.fit(*shape),) if image_shape else ()
  if augment:
    first += (transforms_lib.crop_flip(augment),)
  if normalise is None:
    name = re.split('[:!@]', source.name)[0]
    mean, std = STATISTICS.get(name, ((0.5,), (0.5,)))
    if shape[-1] == 1:
      mean, std = (float(np.mean(v)) for v in (mean, std))
  else:
    mean, std = normalise
  result = (*first, *middle, transforms_lib.normalise(mean, std))
  transforms_lib.parameters(result, source.image_shape)  # refuses misfits now
  return result


def _positive(name, value):
  if value < 1:
    raise ValueError(f'{name} must be positive, but is {value}')


def _width(count):
  return max(2, len(str(count - 1)))


def _slug(name):
  """A task's name from its source's; of a file or folder, its own name."""
  kind, _, path = name.partition(':')
  if kind in ('table', 'folder'):
    name = pathlib.PurePath(path).stem
  return re.sub(r'[^\w.]+', '-', name).strip('-.')


SUITES = {
    'permuted': _permuted,
    'rotated': _rotated,
    'split': _split,
    'groups': _groups,
    'datasets': _datasets,
    'official': _official,
}
