"""Goes through a method's functions without computing anything.

A wrong function fails in the first second, not after all the steps.
"""

from typing import Any

import jax

from mtl_jax import impressions
from mtl_jax import methods
from mtl_jax import trees
from mtl_jax.config import plan
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.training import preparation

_CONCRETE = (jax.errors.TracerArrayConversionError,
             jax.errors.ConcretizationTypeError,
             jax.errors.TracerIntegerConversionError,
             jax.errors.TracerBoolConversionError)


def impression(method: methods.Method, backbone: backbone_lib.Backbone,
               earlier: list, group: list[plan.Entry], seed: int) -> Any:
  """The impression that a group's first task would leave, as shapes.

  Args:
    method: of the group.
    backbone: its parameters may be on devices.
    earlier: impressions that the method relies on, as shapes.
    group: entries that are trained together, or one.
    seed: of the run.

  Raises:
    ValueError: a function fails, `materialise` gives another network than
      `bind`, or the impression can't be stored; names the function or leaf.
  """
  routes = tuple(entry.route for entry in group)
  params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
                        backbone.params)
  route, key = routes[0], preparation.run_key(seed)

  def prepare(params, earlier):
    return method.prepare(methods.Context(
        params, tuple(earlier), key, methods.Group(
            routes, {}, lambda number: params, None)))

  shared = _traced('prepare', prepare, params, earlier)
  _require_dict('prepare', shared)
  trainable = _traced('init', lambda p, s: method.init(
      key, p, s, plan.init_route(group)), params, shared)
  bound = _traced('bind', lambda p, t, s: method.bind(p, t, s, route), params,
                  trainable, shared)
  left = _traced('commit', lambda p, t, s: method.commit(p, t, s, route),
                 params, trainable, shared)
  if not isinstance(left, tuple) or len(left) != 2:
    raise ValueError('commit must return (impression, shared); it returned a '
                     f'{type(left).__name__}')
  made, after = left
  _require_storable(made, backbone)
  _require_dict('commit', after)
  stored = _traced('materialise', method.materialise, params, made, shared)
  _require_equal(bound, stored)
  return made


def _traced(name, function, *args):
  try:
    return jax.eval_shape(function, *args)
  except _CONCRETE as error:
    raise ValueError(
        f'{name} reads the values of its arrays, but the check before training '
        'has none: use jax.numpy and lax in it, not Python or NumPy '
        f'({str(error).splitlines()[0]})') from error
  except (TypeError, AttributeError, KeyError, IndexError) as error:
    raise ValueError(f'{name} fails: {type(error).__name__}: '
                     f'{" ".join(str(error).split())}') from error


def _require_dict(name, shared) -> None:
  if not isinstance(shared, dict):
    raise ValueError(f'{name} must return `shared` as a dict of arrays; it '
                     f'returned a {type(shared).__name__}')


def _require_storable(made, backbone) -> None:
  """Refuses an impression whose parts no checkpoint could hold."""
  if not isinstance(made, impressions.Impression):
    raise ValueError('commit must return an impressions.Impression first; it '
                     f'returned a {type(made).__name__}')
  impressions.check_parts(made)
  if made.structure is not None:
    return
  known = trees.flatten(backbone.params)
  for part in ('masks', 'coefficients', 'values'):
    tree = getattr(made, part)
    for name, leaf in trees.flatten(tree or {}).items():
      if leaf is None:
        continue
      if name not in known:
        raise ValueError(
            f'commit leaves {part} of {name}, but the backbone has no such leaf'
            f'{trees.nearest(name, known)}; what has a form of its own belongs '
            'into Impression(parts={...})')
      if part != 'coefficients' and leaf.shape != known[name].shape:
        raise ValueError(
            f'commit leaves {part} of {name} with the shape {leaf.shape}, but '
            f'the leaf has {known[name].shape}; what has a form of its own '
            'belongs into Impression(parts={...})')
      if part == 'masks' and leaf.dtype != bool:
        raise ValueError(f'commit leaves a mask of {name} with the dtype '
                         f'{leaf.dtype}; masks are bool')


def _require_equal(bound, stored) -> None:
  """The network that is trained is the one that is stored."""
  one, other = trees.flatten(bound), trees.flatten(stored)
  for name in sorted(set(one) ^ set(other)):
    where = 'bind' if name in one else 'materialise'
    raise ValueError(f'{where} gives the leaf {name}, which the other one of '
                     'bind and materialise does not; both must give the same '
                     'network')
  for name, leaf in one.items():
    if leaf is None and other[name] is None:
      continue
    if (leaf.shape, leaf.dtype) != (other[name].shape, other[name].dtype):
      raise ValueError(
          f'materialise gives {name} as {other[name].dtype}'
          f'{other[name].shape}, but bind as {leaf.dtype}{leaf.shape}; both '
          'must give the same network')
