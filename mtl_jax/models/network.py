"""A network as pure functions, independent of the library it is written in.

Methods use `apply(params, stats, x, train, axis_name)`, never a module class.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from mtl_jax import fans
from mtl_jax import trees
from mtl_jax.models import pretrained as pretrained_lib

Tree = trees.Tree


class Parts(NamedTuple):
  """The functions of a network of components, the top entries of its tree.

  Attributes:
    create: (name, outputs, adapter, key) -> a new component's sub-tree.
    apply: (params, x [n, H, W, C], active) -> logits; blocks and adapters
      whose entry in `active` is a traced False are skipped.
    flops: (params, image_shape) -> operations of one image's forward pass.
  """
  create: Callable[..., Tree]
  apply: Callable[..., Any]
  flops: Callable[..., float]


class Network(NamedTuple):
  """A network as two pure functions.

  Attributes:
    init: (key, input shape such as (H, W, C)) -> (params, stats). Several
      shapes may be given as a tuple of tuples; the parameters then serve all
      of them. The shape of tokens is ('int32', length).
    apply: (params, stats, x [n, H, W, C], train, axis_name)
      -> (logits [n, outputs], stats). With `train`, batch statistics are used
      (over all devices of `axis_name`) and running statistics updated.
    trace: for networks of parallel modules, (params, stats, x) -> features
      [n, channels] of each module and level by name; see `segments.trace`.
    parts: set if the network can grow, that is, if `apply` takes trees with
      other components than the backbone's.
    random: `apply` also takes `key=`, a typed key for dropout and the like.
    fan_in: (pattern, input axes) of kernels that don't follow Flax's
      conventions, for the init 'signed_constant'; see `fans.fans`.
    remat: for a network of blocks, () -> the same network with less memory
      for gradients: it stores the input of each block and recomputes the
      values inside it (`jax.checkpoint`).
    scanned: its blocks are a scan, which keeps a CPU's compiler from merging
      the recomputation with the first computation.
    published: how it reads weights in a published form, if renaming is not
      enough.
  """
  init: Callable[..., tuple[Tree, Tree]]
  apply: Callable[..., tuple[Any, Tree]]
  trace: Callable[..., dict[str, Any]] | None = None
  parts: Parts | None = None
  random: bool = False
  fan_in: fans.Rules = ()
  remat: Callable[[], Any] | None = None
  scanned: bool = False
  published: pretrained_lib.Published | None = None


# Arguments by which a module's `__call__` knows that it is in training.
_MODES = {'train': True, 'training': True, 'is_training': True,
          'deterministic': False, 'use_running_average': False}


def from_linen(module: Callable[..., nn.Module] | nn.Module,
               fan_in: fans.Rules = ()) -> Network:
  """A `Network` from any Linen module.

  Args:
    module: a module, or a function that makes one. If it has a field
      `axis_name` (or the function takes one), batch statistics are computed
      over all devices; otherwise running means are averaged over devices.
      `__call__` takes x, and may take one of `train`, `training`,
      `deterministic` and `use_running_average`. Dropout gets a new key in
      every step. Collections other than `params` (such as `batch_stats`) are
      the task's own statistics.
    fan_in: as in `Network`.
  """
  make = _maker(module)

  def init(key, image_shape):
    shapes = (image_shape if isinstance(image_shape[0], (tuple, list))
              else (image_shape,))
    params: dict = {}
    for shape in shapes:
      dtype = jnp.int32 if shape[0] == 'int32' else jnp.float32
      numbers = [n for n in shape if n != 'int32']
      made = make(None)
      variables = jax.jit(functools.partial(
          made.init, **_mode(made, False)))(key, jnp.zeros((1, *numbers),
                                                           dtype))
      if 'params' not in variables:
        raise ValueError(f'{type(made).__name__} has no parameters: there is '
                         'nothing that a task could leave an impression on')
      _require_one_trunk(params, variables['params'], shapes[0], shape)
      params = dict(variables['params']) | params  # keeps the first trunk
    return params, _stats(variables)

  def apply(params, stats, x, train=False, axis_name=None, key=None):
    made = make(axis_name if train and stats else None)
    variables = {'params': params} | _collections(stats)
    rngs = None if key is None or not train else {'dropout': key}
    if not stats or not train:
      return made.apply(variables, x, rngs=rngs, **_mode(made, train)), stats
    logits, updated = made.apply(variables, x, rngs=rngs,
                                 mutable=list(_collections(stats)),
                                 **_mode(made, True))
    updated = _stats(updated)
    own = axis_name is None or getattr(made, 'axis_name', None) == axis_name
    return logits, updated if own else lax.pmean(updated, axis_name)

  return Network(init, apply, random=True, fan_in=tuple(fan_in))


def _maker(module) -> Callable[[str | None], nn.Module]:
  """(axis name or None) -> the module."""
  if isinstance(module, nn.Module):
    if not _takes_axis(module):
      return lambda axis_name: module
    return lambda axis_name: module.clone(axis_name=axis_name)
  if not callable(module):
    raise ValueError(f'from_linen takes a Linen module or a function that '
                     f'makes one, not a {type(module).__name__}')
  if not _takes_axis(module):
    return lambda axis_name: module()
  return lambda axis_name: (module() if axis_name is None
                            else module(axis_name=axis_name))


def _takes_axis(module) -> bool:
  if isinstance(module, nn.Module):
    return 'axis_name' in module.__dataclass_fields__
  found = inspect.signature(module).parameters.values()
  return any(p.name == 'axis_name' or p.kind is p.VAR_KEYWORD for p in found)


def _mode(module: nn.Module, train: bool) -> dict[str, bool]:
  """The argument that tells a module's `__call__` whether it is in training."""
  known = inspect.signature(type(module).__call__).parameters
  return {name: train if plain else not train
          for name, plain in _MODES.items() if name in known}


_COLLECTION = 'collection_'


def _stats(variables) -> Tree:
  """All collections except the parameters; `batch_stats` alone is unwrapped."""
  found = {k: v for k, v in variables.items() if k != 'params'}
  if set(found) <= {'batch_stats'}:
    return found.get('batch_stats', {})
  return {f'{_COLLECTION}{k}': v for k, v in found.items()}


def _collections(stats: Tree) -> dict:
  """Inverse of `_stats`."""
  if stats and all(name.startswith(_COLLECTION) for name in stats):
    return {k.removeprefix(_COLLECTION): v for k, v in stats.items()}
  return {'batch_stats': stats} if stats else {}


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module],
             fan_in: fans.Rules = ()) -> Network:
  """A `Network` from any NNX module.

  Args:
    make: (nnx.Rngs) -> the module; its `__call__` takes x. `nnx.BatchStat` and
      other variables that are not parameters are the task's own statistics;
      `module.train()` and `module.eval()` choose the mode.
    fan_in: as in `Network`.
  """
  @functools.lru_cache(maxsize=2)
  def parts(train):
    module = nnx.eval_shape(lambda: make(_streams(jax.random.key(0))))
    module.train() if train else module.eval()
    graph, params, random, rest = nnx.split(module, nnx.Param, nnx.RngState,
                                            ...)
    return graph, params, random, rest

  def init(key, image_shape):
    del image_shape
    module = make(_streams(key))
    _, params, _, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
    if not jax.tree.leaves(params):
      raise ValueError(f'{type(module).__name__} has no parameters: there is '
                       'nothing that a task could leave an impression on')
    return _plain(params), _plain(rest)

  def apply(params, stats, x, train=False, axis_name=None, key=None):
    graph, like, random, rest = parts(train)
    module = nnx.merge(graph, _filled(like, params), _seeded(
        random, jax.random.key(0) if key is None else key),
                       _filled(rest, stats))
    logits = module(x)
    if not (train and stats):
      return logits, stats
    updated = _plain(nnx.split(module, nnx.Param, nnx.RngState, ...)[3])
    return logits, (updated if axis_name is None
                    else lax.pmean(updated, axis_name))

  return Network(init, apply, random=True, fan_in=tuple(fan_in))


def _streams(key) -> nnx.Rngs:
  """Keys for making a module, for any stream that it asks for."""
  return nnx.Rngs(jax.random.fold_in(key, 2), params=key,
                  dropout=jax.random.fold_in(key, 1))


def _seeded(random, key):
  """The random state of a module before a call, with a new key per stream."""
  leaves, structure = jax.tree.flatten(random)
  return jax.tree.unflatten(structure, [
      jax.random.fold_in(key, i)
      if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
      else jnp.zeros(leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)])


def _plain(state) -> Tree:
  """An NNX state as nested dicts with string keys."""
  def strings(node):
    if isinstance(node, dict):
      return {str(k): strings(v) for k, v in node.items()}
    return node
  return strings(nnx.to_pure_dict(state))


def _filled(state, values: Tree):
  """An NNX state with the arrays of a plain tree; NumPy arrays are copied.

  Otherwise a module would write its statistics into them in place.
  """
  def same_keys(node, like):
    if isinstance(like, dict):
      return {k: same_keys(node[str(k)], v) for k, v in like.items()}
    return jnp.asarray(node)
  filled = jax.tree.map(lambda x: x, state)
  nnx.replace_by_pure_dict(
      filled, same_keys(values, nnx.to_pure_dict(state)))
  return filled


def from_functions(init: Callable[..., Any],
                   apply: Callable[..., Any],
                   fan_in: fans.Rules = ()) -> Network:
  """A `Network` from two plain functions.

  Args:
    init: (key, input shape) -> params, a tree of nested dicts.
    apply: (params, x [n, ...]) -> logits [n, outputs].
    fan_in: as in `Network`.
  """
  def init_(key, image_shape):
    return init(key, tuple(image_shape)), {}

  def apply_(params, stats, x, train=False, axis_name=None):
    del train, axis_name
    return apply(params, x), stats
  return Network(init_, apply_, fan_in=tuple(fan_in))


def _require_one_trunk(params, others, shape, other) -> None:
  known = trees.flatten(params)
  for name, leaf in trees.flatten(dict(others)).items():
    if name in known and np.shape(known[name]) != np.shape(leaf):
      raise ValueError(
          f'{name} is {np.shape(known[name])} for inputs of shape {shape} and '
          f'{np.shape(leaf)} for {other}: they share no network; give the '
          'suite an image_shape')
