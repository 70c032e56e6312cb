"""Checks a method's functions by abstract evaluation, without computing.

An error in a method shows at the start, not after training.
"""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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
# Errors of these packages don't say which function of the method failed.
_BELOW = ('jax', 'jaxlib', 'numpy', 'flax', 'optax')


class WrongMethod(ValueError):
  """A method breaks the contract; the message says which function, and how."""


class Traced(NamedTuple):
  """The `shared` and the impression of a group, as shapes.

  Attributes:
    impression: the impression of the group's first task.
    shared: the result of `prepare` for the first group of the phase.
  """
  impression: Any
  shared: dict


def of_group(method: methods.Method, backbone: backbone_lib.Backbone,
             earlier: list, group: list[plan.Entry], seed: int) -> Traced:
  """Traces the method's functions for the first task of a group.

  Args:
    method: the method of the group.
    backbone: its parameters may be on devices.
    earlier: impressions that the method relies on, as shapes.
    group: entries that are trained together, or one entry.
    seed: seed of the run.

  Raises:
    WrongMethod: a function fails or breaks the contract, `materialise` gives
      another network than `bind`, or the impression can't be stored; names the
      function and the leaf.
    ValueError: a function of the method itself raised it.
  """
  _require_facts(method)
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
  _require_trainable(method, trainable)
  bind = lambda p, t, s: method.bind(p, t, s, route)
  bound = _traced('bind', bind, params, trainable, shared)
  _require_used('bind', 'init gives', bind, params, trainable, shared)
  left = _traced('commit', lambda p, t, s: method.commit(p, t, s, route),
                 params, trainable, shared)
  if not isinstance(left, tuple) or len(left) != 2:
    raise WrongMethod('commit must return (impression, shared); it returned a '
                      f'{type(left).__name__}')
  made, after = left
  _require_storable(made, backbone)
  _require_dict('commit', after)
  stored = _traced('materialise', method.materialise, params, made, shared)
  _require_equal(bound, stored)
  if made.path is None and made.structure is None:
    _require_taken(backbone, params, bound, route)
  _require_used('materialise', 'commit leaves', method.materialise, params,
                made, shared)
  return Traced(made, shared)


def _traced(name, function, *args):
  try:
    return jax.eval_shape(function, *args)
  except _CONCRETE as error:
    raise WrongMethod(
        f'{name} reads the values of its arrays, but the check before training '
        'has none: use jax.numpy and lax in it, not Python or NumPy '
        f'({str(error).splitlines()[0]})') from error
  except Exception as error:  # pylint: disable=broad-except
    if isinstance(error, ValueError) and _raised_in(error) not in _BELOW:
      raise
    raise failed(name, error) from error


def failed(name: str, error: Exception) -> WrongMethod:
  """The error for a function of a method that raised an exception."""
  return WrongMethod(f'{name} fails: {type(error).__name__}: '
                     f'{" ".join(str(error).split())[:400]}')


def _raised_in(error: Exception) -> str:
  """The package that raised an error."""
  frame, module = error.__traceback__, ''
  while frame is not None:
    module = frame.tb_frame.f_globals.get('__name__', '')
    frame = frame.tb_next
  return module.split('.')[0]


def _require_facts(method) -> None:
  """Refuses facts that JSON can't represent."""
  try:
    json.dumps(method.facts())
  except TypeError as error:
    raise WrongMethod('facts must give values that JSON has, by name: '
                      f'{error}') from error
  except Exception as error:  # pylint: disable=broad-except
    raise failed('facts', error) from error


def _require_trainable(method, trainable) -> None:
  """Refuses trainable leaves without a gradient, and a non-scalar penalty."""
  leaves = trees.flatten(trainable)
  for name, leaf in leaves.items():
    if leaf is not None and not jnp.issubdtype(leaf.dtype, jnp.floating):
      raise WrongMethod(f'init gives {name or "an array"} as {leaf.dtype}; '
                        'what is trained must be of floats. Put whole numbers '
                        'into shared')
  if all(leaf is None for leaf in leaves.values()):
    raise WrongMethod('init gives no array: nothing would be trained')
  penalty = _traced('penalty', method.penalty, trainable)
  if getattr(penalty, 'shape', None) != ():
    raise WrongMethod('penalty must give a number; it gives '
                      f'{_said(penalty)}')
  if method.abilities.rates is None:
    return
  rates = _traced('rates', method.abilities.rates, trainable)
  wanted, given = ({name for name, leaf in trees.flatten(tree).items()
                    if leaf is not None} for tree in (trainable, rates))
  for name in sorted(wanted ^ given):
    who = ('init gives', 'it does not') if name in wanted else (
        'it gives', 'init does not')
    raise WrongMethod('rates must give a number for every leaf that init '
                      f'gives; {who[0]} {name or "an array"}, {who[1]}')


def _require_used(name, what, function, params, given, shared) -> None:
  """Refuses a function whose result does not depend on its input."""
  count = len(jax.tree.leaves(params)), len(jax.tree.leaves(given))
  closed = jax.make_jaxpr(function)(params, given, shared)
  used = {id(v) for v in closed.jaxpr.invars[count[0]:sum(count)]}
  for equation in closed.jaxpr.eqns:
    if any(id(v) in used for v in equation.invars):
      used |= {id(v) for v in equation.outvars}
  if not any(id(v) in used for v in closed.jaxpr.outvars):
    raise WrongMethod(f'{name} does not depend on what {what}: nothing would '
                      'be learned')


def _require_taken(backbone, params, bound, route) -> None:
  """Refuses parameters to which the network can't be applied."""
  difference = _difference(trees.flatten(bound), trees.flatten(params))
  if not difference or backbone.network is None:
    return
  shape = backbone.recipe['image_shape']
  shape = shape if not isinstance(shape[0], list) else shape[0]
  dtype, shape = ((jnp.float32, shape) if not isinstance(shape[0], str) else
                  (jnp.int32, shape[1:]))
  try:
    logits = jax.eval_shape(
        lambda p, x: backbone.network.apply(p, backbone.stats, x,
                                            train=False)[0],
        bound, jax.ShapeDtypeStruct((2, *shape), dtype))
  except Exception as error:  # pylint: disable=broad-except
    raise WrongMethod(
        f'bind gives {difference}, and the network cannot be applied to that: '
        f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
        ) from error
  if logits.ndim != 2 or logits.shape[1] < route.classes:
    raise WrongMethod(f'bind gives {difference}, and the network then gives '
                      f'{_said(logits)} for 2 images of {route.classes} '
                      'classes')


def _difference(one: dict, backbone: dict) -> str:
  """The first difference between parameters and the backbone's, or ''."""
  for name in sorted(set(one) ^ set(backbone)):
    return (f'no leaf {name}, which the backbone has' if name in backbone else
            f'the leaf {name}, which the backbone lacks')
  for name, leaf in one.items():
    if leaf is None or backbone[name].shape != leaf.shape:
      return (f'{name} as {_said(leaf)}, but the backbone has '
              f'{_said(backbone[name])}')
  return ''


def _said(leaf) -> str:
  return (f'{leaf.dtype}{leaf.shape}' if hasattr(leaf, 'dtype') else
          f'a {type(leaf).__name__}')


def _require_dict(name, shared) -> None:
  if not isinstance(shared, dict):
    raise WrongMethod(f'{name} must return `shared` as a dict of arrays; it '
                      f'returned a {type(shared).__name__}')


def _require_storable(made, backbone) -> None:
  """Refuses an impression that a checkpoint can't hold."""
  if not isinstance(made, impressions.Impression):
    raise WrongMethod('commit must return an impressions.Impression first; it '
                      f'returned a {type(made).__name__}')
  impressions.check_parts(made)
  if made.stats is not None:
    raise WrongMethod('commit returned stats, but the library stores norm '
                      'statistics with every impression itself; leave them out')
  if made.structure is not None:
    return
  known = trees.flatten(backbone.params)
  for part in ('masks', 'coefficients', 'values'):
    tree = getattr(made, part)
    for name, leaf in trees.flatten(tree or {}).items():
      if leaf is None:
        continue
      if name not in known:
        raise WrongMethod(
            f'commit leaves {part} of {name}, but the backbone has no such leaf'
            f'{trees.nearest(name, known)}; put arrays of another form into '
            'Impression(parts={...})')
      if part != 'coefficients' and leaf.shape != known[name].shape:
        raise WrongMethod(
            f'commit leaves {part} of {name} with the shape {leaf.shape}, but '
            f'the leaf has {known[name].shape}; put arrays of another form '
            'into Impression(parts={...})')
      if part == 'masks' and leaf.dtype != bool:
        raise WrongMethod(f'commit leaves a mask of {name} with the dtype '
                          f'{leaf.dtype}; masks are bool')


def _require_equal(bound, stored) -> None:
  """Refuses a method whose `bind` and `materialise` give other networks."""
  one, other = trees.flatten(bound), trees.flatten(stored)
  for name in sorted(set(one) ^ set(other)):
    where = 'bind' if name in one else 'materialise'
    raise WrongMethod(f'{where} gives the leaf {name}, which the other one of '
                      'bind and materialise does not; both must give the same '
                      'network')
  for name, leaf in one.items():
    if leaf is None and other[name] is None:
      continue
    if (leaf.shape, leaf.dtype) != (other[name].shape, other[name].dtype):
      raise WrongMethod(
          f'materialise gives {name} as {_said(other[name])}, but bind as '
          f'{_said(leaf)}; both must give the same network')
