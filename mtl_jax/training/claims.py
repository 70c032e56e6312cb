"""Holds what a method declares against what its functions do.

Before training, with shapes; and at a commit, with what was trained.
"""

import dataclasses
import json

import jax
import numpy as np

from mtl_jax import impressions
from mtl_jax import json_files
from mtl_jax import methods
from mtl_jax import trees
from mtl_jax.methods import watch
from mtl_jax.serving import stored_tasks
from mtl_jax.training import calls
from mtl_jax.training import method_errors

WrongMethod = method_errors.WrongMethod
CLOSE = .05  # of a leaf's largest value: room for impressions of few bits
_LOADED = 'prepare, without context.group as when a stored task is loaded,'
_SAME = 'both must give the same network'
# Keys of a task's record, and of its line in the log, that the library sets.
RECORDED = frozenset({
    'accuracy', 'batch_size', 'bytes', 'classes', 'control', 'curve', 'data',
    'density', 'entry', 'kept', 'kind', 'loss', 'merged', 'method',
    'peak_memory_bytes', 'phase', 'pooled', 'repeat', 'search', 'seconds',
    'seed', json_files.SEAL, 'steps', 'task', 'validation'})
_BASIS = {'kind': str, 'size': int}  # of the report's figures


def facts(method: methods.Method) -> dict:
  """The method's facts for the record of a task.

  Raises:
    WrongMethod: JSON can't represent them, or they replace other values.
  """
  try:
    found = method.facts()
    json.dumps(found, allow_nan=False)
    if not isinstance(found, dict) or not all(
        isinstance(name, str) for name in found):
      raise TypeError(f'{found!r} is no dict with names')
    taken = sorted(RECORDED & found.keys())
    if taken:
      raise TypeError(f'{taken[0]!r} is what every record says; choose another '
                      'name')
    if found.get('basis') is not None:
      json_files.check(found['basis'], _BASIS, 'facts', 'the basis')
  except (TypeError, ValueError) as error:
    raise WrongMethod('facts must give values that JSON has, by name: '
                      f'{error}') from error
  except Exception as error:  # pylint: disable=broad-except
    raise method_errors.failed('facts', error) from error
  return found


def loaded(method: methods.Method, params, earlier: list, key, made,
           shared: dict) -> tuple[dict, trees.Tree]:
  """What a process that loads the task will find, as shapes.

  Args:
    method: the method.
    params: the backbone's parameters.
    earlier: impressions that the method relies on.
    key: of the run.
    made: the task's impression.
    shared: what `prepare` gives for training.

  Returns:
    (`shared`, the parameters that `materialise` makes with it).

  Raises:
    WrongMethod: `materialise` reads a `shared` that is not there then, or
      `prepare` or `materialise` fails without what training has.
  """
  if not method.abilities.needs_earlier:
    stored = calls.traced('materialise', method.materialise, params, made,
                          shared)
    if not shared:
      return {}, stored
    if calls.reads(method.materialise, (params, made, shared), 2):
      raise WrongMethod(
          'materialise reads `shared`, but a stored task is read with an empty '
          'one, unless the abilities of the method declare needs_earlier=True')
    return {}, calls.traced(
        'materialise, with the empty `shared` of a method that does not '
        'declare needs_earlier=True,', method.materialise, params, made, {})
  try:
    found = calls.traced(
        _LOADED, lambda params, earlier: alone(method, params, earlier, key),
        params, earlier)
  except calls.NeedsValues:  # it has them then; the commit compares the result
    found = shared
  if not isinstance(found, dict):
    raise WrongMethod(f'{_LOADED} must return `shared` as a dict of arrays; it '
                      f'returned a {type(found).__name__}')
  return found, calls.traced(
      'materialise', method.materialise, params, made, found)


def alone(method: methods.Method, params, earlier, key) -> dict:
  """The `shared` with which a stored task is read."""
  if not method.abilities.needs_earlier:
    return {}
  return method.prepare(methods.Context(params, tuple(earlier), key))


def require(method: methods.Method, params, made, trainable, shared,
            there: dict, bound: trees.Tree, route) -> None:
  """Refuses abilities that the method's functions don't have.

  Args:
    method: the method.
    params: the backbone's parameters, as all that follows as shapes.
    made: a task's impression.
    trainable: from `init`.
    shared: from `prepare`.
    there: `shared` as a stored task is read with it.
    bound: from `bind`.
    route: of the task.

  Raises:
    WrongMethod: names the ability.
  """
  able = method.abilities
  for name in ('superposes', 'streams'):
    if getattr(able, name):
      _require_masks(name, method, params, made, there)
  if able.carries is not None:
    _require_carries(method, params, made, there, bound)
  if able.folds is not None:
    _require_folds(able.folds, params, made)
  if able.watch is not None:
    _require_watch(able.watch)
  if able.members:
    calls.require_equal(bound, calls.traced(
        'bind, with a traced route.member as the ability members has it,',
        lambda p, t, s, m: method.bind(
            p, t, s, dataclasses.replace(route, member=m)),
        params, trainable, shared, jax.ShapeDtypeStruct((), np.int32)),
                        ('bind', 'bind with a traced member'), _SAME)
  if able.banks is not None:
    _require_banks(able.banks, trainable, shared, bound)


def _require_masks(name: str, method, params, made, there) -> None:
  combines = jax.tree.leaves(made.coefficients) and name == 'superposes'
  why = f'the ability {name} is declared, for which a task is masks' + (
      ", or coefficients of the masks in shared['basis'],"
      if name == 'superposes' else '') + ' over the backbone'
  if not (combines or jax.tree.leaves(made.masks)) or (
      made.values is not None or made.parts):
    raise WrongMethod(f'{why}; commit leaves an {made!r}')
  if combines and not jax.tree.leaves(there.get('basis')):
    raise WrongMethod(f'{why}; prepare gives no basis')
  if not combines and calls.reads(
      method.materialise, (params, made, there), 2):
    raise WrongMethod(f'{why}; materialise reads `shared`, which task '
                      'inference does not know')


def _require_carries(method, params, made, there, bound) -> None:
  found = calls.traced('carries', method.abilities.carries, made, made)
  if not isinstance(found, impressions.Impression):
    raise WrongMethod('carries must return an impressions.Impression; it '
                      f'returned a {type(found).__name__}')
  calls.require_equal(bound, calls.traced(
      'materialise, of what carries gives,', method.materialise, params, found,
      there), ('bind', 'materialise of what carries gives'), _SAME)


def _require_folds(folds, params, made) -> None:
  if not isinstance(folds.tree, str) or not callable(folds.part):
    raise WrongMethod(f'folds is {folds!r}; give a name of the tree, and a '
                      'function of the backbone')
  own = {name for name, leaf in trees.flatten(calls.traced(
      'folds.part', folds.part, params)).items() if leaf is not None}
  if not own or own - trees.flatten(params).keys():
    raise WrongMethod('folds.part must give leaves of the backbone, and None '
                      'in the other places; it gives '
                      f'{", ".join(sorted(own)) or "none"}')
  masked = {name for name, leaf in trees.flatten(made.masks or {}).items()
            if leaf is not None}
  if own - masked:
    raise WrongMethod('folds is declared, for which a task has a mask of its '
                      f'weights in the tree; commit leaves no mask of '
                      f'{sorted(own - masked)[0]}')


def _require_watch(make) -> None:
  try:
    found = make(None)
  except Exception as error:  # pylint: disable=broad-except
    if isinstance(error, ValueError):
      raise
    raise method_errors.failed('watch', error) from error
  if not isinstance(found, watch.Watch):
    raise WrongMethod('watch must return a watch.Watch; it returned a '
                      f'{type(found).__name__}')


def _require_banks(banks, trainable, shared, bound) -> None:
  rows = calls.traced('banks.rows', banks.rows, trainable)
  if not isinstance(trainable, dict) or not isinstance(rows, dict) or (
      set(rows) != set(trainable)):
    raise WrongMethod('banks.rows must give int32 [tasks, n] for each bank, '
                      'which are the keys of what init gives; it gives '
                      f'{sorted(rows) if isinstance(rows, dict) else rows}')
  for name, row in rows.items():
    if row.ndim != 2 or not jax.numpy.issubdtype(row.dtype, np.integer):
      raise WrongMethod(f'banks.rows must give int32 [tasks, n]; of {name} it '
                        f'gives {calls.said(row)}')

  own = {name: leaf for name, leaf in trees.flatten(bound).items()
         if leaf is not None and leaf.shape}

  def cut(name, x):
    like = own.get(name)
    return x if like is None or np.ndim(x) != like.ndim else (
        x[..., :like.shape[-1]])

  def bind(trainable, shared, rows):
    one = {name: row[0] for name, row in rows.items()}
    # Another task of the group may have more classes, and so a wider head.
    return trees.map_named(cut, banks.bind(
        {name: jax.tree.map(lambda x, n=name: x[one[n]], tree)
         for name, tree in trainable.items()}, shared, one))
  calls.require_equal(bound, calls.traced(
      'banks.bind', bind, trainable, shared, rows), ('bind', 'banks.bind'),
                      _SAME)


def require_trained(system: stored_tasks.StoredTasks, entry,
                    stored: stored_tasks.StoredTask, bound) -> None:
  """Refuses to store another network than the one that was trained.

  The check before training knows the first task of a phase, and no values of
  earlier tasks.

  Args:
    system: of the run.
    entry: what was learned.
    stored: as a process will load it.
    bound: the parameters at the last step.

  Raises:
    WrongMethod: names the leaf.
  """
  try:
    made = stored.method.materialise(
        system.backbone.params, stored.impression, stored.shared)
  except ValueError:
    raise
  except Exception as error:  # pylint: disable=broad-except
    raise method_errors.failed(
        f'phase {entry.phase.name}: method {entry.phase.method}: materialise',
        error) from error
  try:
    require_close(trees.flatten(bound), trees.flatten(made))
  except WrongMethod as error:
    raise WrongMethod(
        f'phase {entry.phase.name}: method {entry.phase.method}: of task '
        f'{entry.name}, {error}. Nothing of it was stored') from error


def require_close(bound: dict, stored: dict) -> None:
  """Refuses leaves of other values in what `materialise` gives.

  Args:
    bound: leaves from `bind` by name.
    stored: leaves from `materialise` by name, of the same shapes.
  """
  for name, leaf in bound.items():
    if leaf is None or not leaf.size:
      continue
    one, other = (np.asarray(x, np.float32) for x in (leaf, stored[name]))
    most = float(np.max(np.abs(one - other)))
    if not most <= CLOSE * float(np.max(np.abs(one))):
      raise WrongMethod(
          f'materialise gives {name} with other values than bind, by up to '
          f'{most:.3g}: the network that is stored must be the one that was '
          'trained, to rounding')


def require_finite(entry, parts) -> None:
  """Raises FloatingPointError if a part would be stored with NaN or infinity.
  """
  for name, leaf in trees.flatten(parts).items():
    leaf = None if leaf is None else np.asarray(leaf)
    if leaf is not None and leaf.dtype.kind not in 'biu' and (
        not np.isfinite(leaf).all()):
      raise FloatingPointError(
          f'task {entry.name} would leave {name} with NaN or infinity; '
          f'nothing was stored; {entry.phase.slower()}')


def require_sound(entry, impression, shared) -> None:
  """Refuses what would be stored but can't be right."""
  require_finite(entry, impression._asdict() | {'shared': shared})
  for name, leaf in trees.flatten(impression.masks or {}).items():
    if leaf is not None and np.ndim(leaf) > 1 and not np.asarray(leaf).any():
      raise ValueError(
          f'task {entry.name} would leave an empty mask of {name}, through '
          'which no signal passes; nothing was stored. Keep a higher density, '
          f'or lower the weight decay, or {entry.phase.slower()}')
