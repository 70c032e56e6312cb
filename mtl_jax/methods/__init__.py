"""The registry of methods. Each is a factory that returns a `base.Method`.

One line in your own file registers your own method:

    mtl_jax.methods.register('lora', lora)
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from mtl_jax import fields
from mtl_jax import impressions
from mtl_jax import registry
from mtl_jax.methods import base
from mtl_jax.methods import batche
from mtl_jax.methods import dedicated
from mtl_jax.methods import heads
from mtl_jax.methods import impresslearn
from mtl_jax.methods import joint
from mtl_jax.methods import munet
from mtl_jax.methods import part
from mtl_jax.methods import psp
from mtl_jax.methods import subnetworks
from mtl_jax.methods import supsup

Abilities = base.Abilities
Context = base.Context
Earlier = base.Earlier
Group = base.Group
Impression = impressions.Impression
Method = base.Method
Route = base.Route
Training = base.Training

# Abilities that are neither a switch nor a function.
_ABLE = {'banks': base.Banks, 'folds': base.Folds}
METHODS = registry.Registry('method')
# The bare backbone, used as a task.
PLAIN = base.Method(lambda *_: {}, lambda backbone, *_: backbone,
                    lambda *_: (impressions.Impression(), {}),
                    base.materialise)


class _Options(NamedTuple):
  """How a factory takes its options: as one object or as keyword arguments.

  Attributes:
    cls: dataclass of the options, with those of `heads` unless the method has
      a `head` of its own.
    keywords: names of the factory's arguments; `None` if it takes the object.
    headed: whether `cls` includes the options of `heads`.
  """
  cls: type
  keywords: tuple[str, ...] | None
  headed: bool


_OPTIONS: dict[str, _Options] = {}


def register(name: str, factory: Callable[..., Method],
             options: type | None = None) -> None:
  """Registers a method by name, for configs and for loading.

  Args:
    name: the name that a phase's `method` gives.
    factory: returns a `Method`. Its keyword arguments are the options that a
      config may give.
    options: a frozen dataclass of the options, if the factory takes one such
      object instead of keyword arguments; it validates them itself.

  Raises:
    ValueError: the name is not valid, the factory is not a function, or an
      option has no name.
  """
  METHODS.check(name, factory)
  if options is not None and not (
      isinstance(options, type) and dataclasses.is_dataclass(options)):
    raise ValueError(f'method {name}: options is {options!r}; give a class '
                     'made by dataclasses.dataclass(frozen=True)')
  own = options or fields.from_signature(name, factory)
  fields.hints_of(own)
  cls = heads.extended(own)
  METHODS.register(name, factory)
  _OPTIONS[name] = _Options(
      cls, None if options else tuple(f.name for f in dataclasses.fields(own)),
      issubclass(cls, heads.Options))


def options_class(name: str) -> type:
  """The dataclass of a method's options.

  Raises:
    ValueError: unknown method; lists the known ones and the nearest.
  """
  METHODS[name]  # pylint: disable=pointless-statement
  return _OPTIONS[name].cls


def options_of(name: str, given: dict | None = None, where: str = '') -> Any:
  """A method's options from plain values.

  Raises:
    ValueError: the method or an option is unknown, or it refuses a value.
  """
  where = where or f'method {name}: option '
  options = fields.build(options_class(name), given or {}, where)
  for field in dataclasses.fields(options):
    value = getattr(options, field.name)
    if not dataclasses.is_dataclass(value) and not fields.is_plain(value):
      raise ValueError(f'{where}{field.name} is {value!r}; an option is a '
                       'number, a string, True, False, None, or a tuple of '
                       'them')
  return options


@functools.lru_cache(maxsize=256)
def of_options(name: str, options: Any) -> Method:
  """The method with these options; equal options give the same object."""
  return anew(name, options)


def anew(name: str, options: Any) -> Method:
  """The method with these options, from another call of its factory."""
  keywords = _OPTIONS[name].keywords
  try:
    method = METHODS[name](options) if keywords is None else METHODS[name](
        **{keyword: getattr(options, keyword) for keyword in keywords})
  except ValueError:
    raise
  except Exception as error:  # pylint: disable=broad-except
    raise ValueError(f'method {name}: its factory fails: '
                     f'{type(error).__name__}: {error}') from error
  if not isinstance(method, base.Method):
    raise ValueError(f'method {name}: the factory of {name} must return a '
                     f'methods.Method; it returned a {type(method).__name__}')
  if not isinstance(method.abilities, base.Abilities):
    raise ValueError(f'method {name}: abilities must be a methods.Abilities, '
                     f'not a {type(method.abilities).__name__}')
  _check_kinds(name, method)
  if not _OPTIONS[name].headed:
    return method
  head = getattr(options, 'head', None)
  try:
    return heads.with_head(method, head if head in heads.KINDS else None,
                           getattr(options, 'head_leaves', None))
  except ValueError as error:
    raise ValueError(f'method {name}: {error}') from error


def _check_kinds(name: str, method: Method) -> None:
  """Refuses functions that can't be called, and abilities of another type."""
  for field, value in method._asdict().items():
    if field != 'abilities' and not callable(value):
      raise ValueError(f'method {name}: {field} is {value!r}; give a function')
  for field, value in method.abilities._asdict().items():
    default = base.Abilities._field_defaults[field]
    if isinstance(default, bool):
      fits, wanted = isinstance(value, bool), 'True or False'
    elif field in _ABLE:
      fits, wanted = isinstance(value, _ABLE[field]), (
          f'a base.{_ABLE[field].__name__}')
    else:
      fits, wanted = callable(value), 'a function'
    if not fits and (value is not None or default is not None):
      raise ValueError(f'method {name}: the ability {field} is {value!r}; it '
                       f'must be {wanted}')


def combining(count: int) -> tuple[str, Any]:
  """The (name, options) of the method with a weight for each of `count` masks.
  """
  return 'impresslearn', options_of('impresslearn', {
      'basis': impresslearn.Basis('heterogeneous', count, 'merged')})


def whole() -> tuple[str, Any]:
  """The (name, options) of the method that stores a whole network."""
  return 'dedicated', options_of('dedicated')


METHODS.on_change(of_options.cache_clear)


def make(name: str, **options) -> Method:
  """The method `name` with plain options, as a config gives them.

  Raises:
    ValueError: the name is unknown (lists the known ones and the nearest), or
      an option is.
  """
  return of_options(name, options_of(name, options))


register('batche', batche.make, batche.Options)
register('dedicated', dedicated.make, dedicated.Options)
register('impresslearn', impresslearn.make, impresslearn.Options)
register('joint', joint.make, joint.Options)
register('munet', munet.make, munet.Options)
register('part', part.make, part.Options)
register('psp', psp.make, psp.Options)
register('subnetworks', subnetworks.make, subnetworks.Options)
register('supsup', supsup.make, supsup.Options)
