"""All fields that a config may have, with types and defaults.

The fields depend on what is chosen: a phase has the options of its method, a
suite those of its kind, a backbone those of its model.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from mtl_jax import fields
from mtl_jax import methods
from mtl_jax import models
from mtl_jax.config import config as config_lib
from mtl_jax.config import parts
from mtl_jax.config import phase as phase_lib
from mtl_jax.data import suites

REQUIRED = object()  # the default of a field without a default
_NAMED = ('suite', 'backbone', 'phases', 'identify')


class Field(NamedTuple):
  """A field of a config.

  Attributes:
    hint: its type; `Any` if only its owner knows the type.
    default: its value if the config leaves it out, or `REQUIRED`.
    inside: whether it is in a part that is `None` by default, such as
      `early_stop`, so that its default applies only if the part is given.
  """
  hint: Any
  default: Any
  inside: bool = False


def known(given: Mapping) -> dict[str, Field]:
  """The fields that a config may have, by dotted name.

  Args:
    given: plain nested dicts, as for `config.from_dict`, which checks them;
      here errors are ignored.
  """
  result = _of_class(config_lib.Config, '', leave=_NAMED)
  result['schedule'] = Field(tuple[str, ...], REQUIRED)
  result |= _suite(_dict(given.get('suite')))
  result |= _backbone(_dict(given.get('backbone')))
  for name, phase in _dict(given.get('phases')).items():
    result |= _phase(f'phases.{name}.', _dict(phase))
  for name in _dict(given.get('identify')):
    result |= _of_class(parts.Scenario, f'identify.{name}.', leave=('name',))
  return result


def filled(given: Mapping) -> dict:
  """A config's dicts, with the defaults of all fields that it leaves out.

  >>> made = filled({'seed': 3, 'phases': {'a': {'method': 'supsup'}}})
  >>> made['seed'], made['matrix'], made['phases']['a']['batch_size']
  (3, 'final', 128)
  """
  result = _copied(given)
  for name, field in known(given).items():
    *parents, last = name.split('.')
    node: Any = result
    for parent in parents:
      if not isinstance(node, dict):
        break
      # A part that is off by default stays off.
      node = node.setdefault(parent, None if field.inside else {})
    if isinstance(node, dict) and field.default is not REQUIRED:
      node.setdefault(last, fields.plain(field.default))
  return result


def scenario() -> dict[str, Field]:
  """The fields of one evaluation without task names."""
  return _of_class(parts.Scenario, '', leave=('name',))


def _copied(value):
  return ({k: _copied(v) for k, v in value.items()}
          if isinstance(value, Mapping) else value)


def _dict(value: Any) -> dict:
  """A mapping as a dict; {} for anything else."""
  return dict(value) if isinstance(value, Mapping) else {}


def _of_class(cls: type, where: str, leave=(),
              inside=False) -> dict[str, Field]:
  """The fields of a dataclass, and of the dataclasses in it."""
  hints = fields.hints_of(cls)
  result: dict[str, Field] = {}
  for field in dataclasses.fields(cls):
    if field.name in leave:
      continue
    name, hint = f'{where}{field.name}', hints.get(field.name, Any)
    default = field.default
    if default is dataclasses.MISSING:
      default = (REQUIRED if field.default_factory is dataclasses.MISSING
                 else field.default_factory())
    part = fields.part_of(hint)
    if part is None:
      result[name] = Field(hint, default, inside)
      continue
    result |= _of_class(part, f'{name}.', inside=inside or default is None)
    if dataclasses.is_dataclass(default):
      for own in dataclasses.fields(default):
        found = result.get(f'{name}.{own.name}')
        if found is not None:
          result[f'{name}.{own.name}'] = found._replace(
              default=getattr(default, own.name))
  return result


def _of_function(function: Any, where: str, leave=()) -> dict[str, Field]:
  """The keyword arguments of a function."""
  try:
    found = inspect.signature(function).parameters.values()
  except (TypeError, ValueError):
    return {}
  return {f'{where}{p.name}': Field(
      Any if p.annotation is p.empty else p.annotation,
      REQUIRED if p.default is p.empty else p.default)
          for p in found if p.name not in leave
          and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def _suite(given: dict) -> dict[str, Field]:
  result = {'suite.kind': Field(str, REQUIRED)}
  kind = given.get('kind')
  if isinstance(kind, str) and kind in suites.SUITES:
    result |= {f'suite.{name}': Field(Any, default)
               for name, default in suites.common_options(kind).items()}
    result |= _of_function(suites.SUITES[kind], 'suite.', ('load',))
  return result


def _backbone(given: dict) -> dict[str, Field]:
  result = _of_class(parts.Backbone, 'backbone.', leave=('options',))
  model = given.get('model')
  if isinstance(model, str) and model in models.MODELS:
    result |= _of_function(models.MODELS[model], 'backbone.options.',
                           ('outputs',))
  return result


def _phase(where: str, given: dict) -> dict[str, Field]:
  """The fields of a phase: its own, those of its driver, those of the turns of
  its tasks, and the options of its method."""
  result = _of_class(phase_lib.Phase, where,
                     leave=('name', 'training', 'driver', 'options'))
  result |= _of_class(parts.Training, where)
  result[f'{where}together'] = Field(str | None, None)
  for name, cls in parts.DRIVERS.items():
    result |= _of_class(cls, f'{where}{name}.', inside=True)
  method = given.get('method')
  if isinstance(method, str) and method in methods.METHODS:
    cls = methods.options_class(method)
    own = _of_class(cls, where)
    written = _dict(given.get('options'))
    for name, field in own.items():
      short = name.removeprefix(where)
      head = short.partition('.')[0]
      if head not in written and ('.' in short or head in given):
        result[name] = field
      else:
        result[f'{where}options.{short}'] = field
  return result
