"""Checks a method's functions by abstract evaluation, without computing.

An error in a method shows at the start, not after training.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import impressions
from mtl_jax import methods
from mtl_jax import trees
from mtl_jax.config import plan
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.storage import impression_arrays
from mtl_jax.training import calls
from mtl_jax.training import claims
from mtl_jax.training import fresh
from mtl_jax.training import method_errors
from mtl_jax.training import preparation

WrongMethod = method_errors.WrongMethod
failed = method_errors.failed


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
  own = methods.METHODS.origin(group[0].phase.method) is not None
  before = fresh.state(group[0].phase) if own else []
  claims.facts(method)
  params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
                        backbone.params)
  route, key = group[0].route, preparation.run_key(seed)

  def prepare(params, earlier, method=method):
    return method.prepare(methods.Context(
        params, tuple(earlier), key, methods.Group(
            tuple(entry.route for entry in group), {}, lambda number: params,
            None)))

  init = lambda p, s, method=method: method.init(key, p, s,
                                                 plan.init_route(group))
  shared = calls.traced('prepare', prepare, params, earlier)
  _require_dict('prepare', shared)
  trainable = calls.traced('init', init, params, shared)
  _require_trainable(method, trainable)
  bind = lambda p, t, s: method.bind(p, t, s, route)
  bound = calls.traced('bind', bind, params, trainable, shared)
  _require_used('bind', 'init gives', bind, params, trainable, shared)
  made = _committed(method, backbone, (params, trainable, shared), route)
  there, stored = claims.loaded(method, params, earlier, key, made, shared)
  calls.require_equal(bound, stored, ('bind', 'materialise'),
                      'both must give the same network')
  _require_taken(backbone, params, bound, route, made)
  _require_used('materialise', 'commit leaves', method.materialise, params,
                made, there)
  claims.require(method, params, made, trainable, shared, there, bound, route)
  if own:
    given = params, trainable, shared
    uses = lambda method: {
        'prepare': (lambda p, e: prepare(p, e, method), params, earlier),
        'init': (lambda p, s: init(p, s, method), params, shared),
        'bind': (lambda p, t, s: method.bind(p, t, s, route), *given),
        'commit': (lambda p, t, s: method.commit(p, t, s, route), *given),
        'penalty': (method.penalty, trainable),
        'materialise': (method.materialise, params, made, there)}
    fresh.require_same(method, group[0].phase, before, uses)
    if not earlier and jax.process_count() == 1:
      _require_same_values(method, backbone, prepare, key, group)
  return Traced(made, shared)


def _committed(method, backbone, given, route) -> impressions.Impression:
  """The impression that `commit` leaves, as shapes."""
  same = []

  def commit(p, t, s):
    result = method.commit(p, t, s, route)
    pair = isinstance(result, tuple) and len(result) == 2
    same.append(pair and result[-1] is s)
    if pair:
      _require_arrays(result)
    return result

  left = calls.traced('commit', commit, *given)
  if not isinstance(left, tuple) or len(left) != 2:
    found = (f'{len(left)} values' if type(left) is tuple else
             f'a {type(left).__name__}')
    raise WrongMethod('commit must return (impression, shared); it returned '
                      f'{found}')
  made, after = left
  _require_storable(made, backbone)
  _require_dict('commit', after)
  if not same[-1]:
    _require_kept(after)
  return made


def _require_same_values(method, backbone, prepare, key, group) -> None:
  """Computes once what a user's method trains and what it stores.

  Away from where training begins, where much is 0.
  """
  route, params = group[0].route, backbone.params

  def both(params):
    shared = prepare(params, [])
    start = method.init(key, params, shared, plan.init_route(group))
    moved = jax.tree.map(
        lambda x: x + .05 * jax.random.normal(key, x.shape, x.dtype), start)
    made, _ = method.commit(params, moved, shared, route)
    return (method.bind(params, moved, shared, route), method.materialise(
        params, made, claims.alone(method, params, [], key)))
  try:
    bound, stored = map(trees.flatten, both(params))
  except ValueError:
    raise
  except Exception as error:  # pylint: disable=broad-except
    raise failed('init, bind, commit or materialise', error) from error
  claims.require_close(bound, stored)


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
  if not any(leaf is not None and leaf.size for leaf in leaves.values()):
    raise WrongMethod('init gives arrays without a number: nothing would be '
                      'trained')
  penalty = calls.traced('penalty', method.penalty, trainable)
  if getattr(penalty, 'shape', None) != () or jnp.issubdtype(
      penalty.dtype, jnp.complexfloating):
    raise WrongMethod('penalty must give a number; it gives '
                      f'{calls.said(penalty)}')
  if method.abilities.rates is None:
    return
  rates = calls.traced('rates', method.abilities.rates, trainable)
  wanted, given = ({name for name, leaf in trees.flatten(tree).items()
                    if leaf is not None} for tree in (trainable, rates))
  for name in sorted(wanted ^ given):
    who = ('init gives', 'it does not') if name in wanted else (
        'it gives', 'init does not')
    raise WrongMethod('rates must give a number for every leaf that init '
                      f'gives; {who[0]} {name or "an array"}, {who[1]}')
  for name, rate in trees.flatten(rates).items():
    if rate is not None and rate.shape not in ((), leaves[name].shape):
      raise WrongMethod('rates must give a number for every leaf; of '
                        f'{name or "an array"} it gives {calls.said(rate)}')


def _require_used(name, what, function, params, given, shared) -> None:
  """Refuses a function whose result does not depend on its input."""
  if not calls.reads(function, (params, given, shared), 1):
    raise WrongMethod(f'{name} does not depend on what {what}: nothing would '
                      'be learned')


def _require_taken(backbone, params, bound, route, made) -> None:
  """Refuses parameters to which the network can't be applied.

  If they are those of a path, the network itself says what is wrong.
  """
  difference = _difference(trees.flatten(bound), trees.flatten(params))
  if not difference or backbone.network is None:
    return
  shape = backbone.recipe['image_shape']
  shape = shape if not isinstance(shape[0], list) else shape[0]
  dtype, shape = ((jnp.float32, shape) if not isinstance(shape[0], str) else
                  (jnp.int32, shape[1:]))
  network = lambda p, x: backbone.network.apply(p, backbone.stats, x,
                                                train=False)[0]
  given = bound, jax.ShapeDtypeStruct((2, *shape), dtype)
  try:
    logits = jax.eval_shape(network, *given)
  except Exception as error:  # pylint: disable=broad-except
    if made.path is not None and isinstance(error, ValueError):
      raise
    raise WrongMethod(
        f'bind gives {difference}, and the network cannot be applied to that: '
        f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
        ) from error
  if logits.ndim != 2 or logits.shape[1] < route.classes:
    raise WrongMethod(f'bind gives {difference}, and the network then gives '
                      f'{calls.said(logits)} for 2 images of {route.classes} '
                      'classes')
  names = [name for name, leaf in trees.flatten(bound).items()
           if leaf is not None]
  for name, read in zip(names, calls.read(network, given, 0), strict=True):
    if not read and name not in trees.flatten(params):
      raise WrongMethod(f'bind gives the leaf {name}, which the backbone lacks '
                        'and the network does not read: nothing would be '
                        'learned of it')


def _difference(one: dict, backbone: dict) -> str:
  """The first difference between parameters and the backbone's, or ''."""
  for name in sorted(set(one) ^ set(backbone)):
    return (f'no leaf {name}, which the backbone has' if name in backbone else
            f'the leaf {name}, which the backbone lacks')
  for name, leaf in one.items():
    if leaf is None or backbone[name].shape != leaf.shape:
      return (f'{name} as {calls.said(leaf)}, but the backbone has '
              f'{calls.said(backbone[name])}')
  return ''


def _require_arrays(left) -> None:
  """Refuses numbers that are no arrays, and arrays that hold no numbers."""
  for name, leaf in trees.flatten(left).items():
    if leaf is None or isinstance(leaf, (str, bytes)):
      continue
    kind = getattr(leaf, 'dtype', None)
    if kind is None or jnp.issubdtype(kind, jax.dtypes.extended):
      raise WrongMethod(
          f'commit leaves {name} as a {kind or type(leaf).__name__}; every '
          'leaf is an array of numbers: make it with jax.numpy.asarray, or of '
          'a key with jax.random.key_data')


def _require_kept(shared) -> None:
  """Refuses a changed `shared` that would be read as another tree."""
  try:
    found: Any = jax.tree.structure(trees.unflatten(trees.flatten(shared)))
    same = found == jax.tree.structure(shared)
  except ValueError:
    same = False
  if not same:
    raise WrongMethod(
        'commit returns a `shared` that is not kept as it is, so that a later '
        'start would find another: give nested dicts of arrays, whose keys are '
        "strings without '/', and none of them empty")


def _require_dict(name, shared) -> None:
  if not isinstance(shared, dict):
    raise WrongMethod(f'{name} must return `shared` as a dict of arrays; it '
                      f'returned a {type(shared).__name__}')


def _require_storable(made, backbone) -> None:
  """Refuses an impression that a checkpoint can't hold."""
  if not isinstance(made, impressions.Impression):
    raise WrongMethod('commit must return an impressions.Impression first; it '
                      f'returned a {type(made).__name__}')
  impression_arrays.check_parts(made)
  if made.stats is not None:
    raise WrongMethod('commit returned stats, but the library stores norm '
                      'statistics with every impression itself; leave them out')
  if made.structure is not None:
    if made.masks is not None or made.coefficients is not None:
      raise WrongMethod(f'commit leaves an {made!r}; with a structure of its '
                        'own it takes neither masks nor coefficients: put '
                        'them into Impression(parts={...})')
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
