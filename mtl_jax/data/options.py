"""Checks the names and types of a suite's options."""

import numbers

import numpy as np

from mtl_jax import trees

_WHOLE = ('num_tasks', 'seed', 'order_seed', 'classes_per_task', 'augment',
          'number_width')
_SWITCHES = ('shared_outputs', 'leaking', 'drop_shared', 'incomplete')
_MOST = 1_000_000  # a suite lists all its tasks in memory
_NEEDED = ('source', 'num_tasks', 'seed', 'augment', 'classes_per_task')


def check(kind, options, taken, common) -> None:
  """Refuses unknown options of a suite, and values of a wrong type.

  Args:
    kind: kind of the suite.
    options: the given options.
    taken: parameters of the suite's function, by name.
    common: options that every suite takes, with their defaults.
  """
  free = any(p.kind is p.VAR_KEYWORD for p in taken.values())
  names = [*(n for n, p in taken.items() if p.kind in (
      p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)), *common]
  for option in options:
    if not free:
      known(f'option of suite {kind!r}', option, names)
  missing = [name for name in names
             if name in taken and taken[name].default is taken[name].empty
             and name not in options]
  if missing:
    raise ValueError(f'suite {kind!r} needs {", ".join(missing)}')
  for option, value in options.items():
    default = (common[option] if option in common else
               taken[option].default if option in taken else None)
    _check_value(option, value, default)


def known(what, name, names) -> None:
  """Refuses an unknown name; lists the nearest and all known ones."""
  if isinstance(name, str) and name in names:
    return
  near = trees.nearest(str(name), names)
  raise ValueError(f'unknown {what}: {name!r}{near}; known: {", ".join(names)}')


def whole(x) -> bool:
  """Whether a value is a whole number, of Python or of NumPy."""
  return isinstance(x, numbers.Integral) and not isinstance(x, bool)


def positive(name, value) -> None:
  """Refuses numbers below 1, and above what a suite can list."""
  if not 1 <= value <= _MOST:
    raise ValueError(f'suite.{name} is {value}; it must be at least 1 and at '
                     f'most {_MOST:,}')


def listed(value) -> bool:
  """Whether a value is a list or tuple that is not empty."""
  return isinstance(value, (list, tuple)) and bool(value)


def _numbers(value) -> bool:
  """Whether a value is a finite number, or a flat sequence of them."""
  if isinstance(value, np.ndarray):
    value = value.tolist()
  return all(isinstance(x, numbers.Real) and not isinstance(x, bool)
             and -np.inf < x < np.inf for x in (  # type: ignore[operator]
                 value if isinstance(value, (tuple, list)) else (value,)))


def _check_value(name, value, default):
  wrong = None
  if value is None:
    if default is None or name not in (*_NEEDED, *_SWITCHES):
      return
    wrong = 'True or False' if name in _SWITCHES else 'given'
  elif name in _WHOLE:
    wrong = 'a whole number' if not whole(value) else None
    if not wrong and name == 'number_width' and not 1 <= value <= 9:
      wrong = 'between 1 and 9'
    if not wrong and name.endswith('seed') and not 0 <= value < 1 << 32:
      wrong = 'between 0 and 2 ** 32 - 1'
  elif name in _SWITCHES:
    wrong = ('True or False' if not isinstance(value, (bool, np.bool_))
             else None)
  elif name == 'source':
    wrong = 'the name of a source' if not isinstance(value, str) else None
  elif name == 'names':
    if not isinstance(value, (tuple, list)) or not all(
        isinstance(x, str) for x in value):
      wrong = 'a sequence of strings'
  elif name == 'image_shape':
    if not (isinstance(value, (tuple, list)) and len(value) == 3
            and all(whole(x) and x > 0 for x in value)):
      wrong = '(H, W, C), three whole numbers above 0'
  elif name == 'normalise':
    if not (isinstance(value, (tuple, list)) and len(value) == 2
            and all(map(_numbers, value))):
      wrong = ('(mean, std), each a finite number or a sequence of one per '
               'channel')
  if wrong:
    raise ValueError(f'suite.{name} is {value!r}; it must be {wrong}')
