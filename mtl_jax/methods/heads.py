"""The treatment of a task's last layer, for any method.

    'dense'  each task trains all of the head's leaves, from the backbone's
             values, and stores them as values
    'mask'   the method masks them, like other leaves
    'none'   they stay the backbone's

`with_head` works for any method. For 'dense' and 'none', the method sees a
backbone whose head leaves are `None`, so that no mask, coefficient or weight
covers them.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_jax import fans
from mtl_jax import impressions
from mtl_jax import trees
from mtl_jax.methods import base

Tree = trees.Tree
KINDS = ('dense', 'mask', 'none')
APART = ('dense', 'none')  # kinds for which the method sees no head
_HEAD, _REST = 'own_head', 'of_method'  # keys of `trainable`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """Options that every method takes, unless it has its own option `head`.

  Attributes:
    head: 'dense' (each task trains the last layer whole and stores its values),
      'mask' (the method masks it) or 'none' (it stays the backbone's). `None`
      leaves the choice to the method.
    head_leaves: patterns of the last layer's leaves. `None` takes the module
      `head`, or else the dense layer with the highest number.
  """
  head: str | None = None
  head_leaves: tuple[str, ...] | None = None

  def __post_init__(self):
    check(self.head, self.head_leaves)
    base.set_patterns(self, 'head_leaves')


def check(head: str | None, leaves: Any, known: Sequence[str] = KINDS) -> None:
  """Refuses unknown kinds of head, and `head_leaves` without a head."""
  if head is not None and head not in known:
    raise ValueError(f'head is {head!r}{trees.nearest(str(head), known)}; '
                     f'known: {", ".join(known)}')
  if head is None and leaves is not None:
    raise ValueError(f'head_leaves is {leaves!r}, but head is not given; give '
                     f'one of {", ".join(known)}, or leave head_leaves out')


def extended(cls: type) -> type:
  """Adds the fields of `Options` to a method's options, unless it has `head`.

  Args:
    cls: frozen dataclass.
  """
  if any(field.name == 'head' for field in dataclasses.fields(cls)):
    return cls

  def post_init(self):
    for part in (cls, Options):
      getattr(part, '__post_init__', lambda self: None)(self)
  return dataclasses.make_dataclass(
      cls.__name__, [], bases=(cls, Options), frozen=True,
      namespace={'__post_init__': post_init, '__doc__': cls.__doc__,
                 '__module__': cls.__module__})


def leaves_of(params: Tree, patterns: Sequence[str] | None = None) -> Tree:
  """True for the head's leaves, `None` elsewhere.

  Args:
    params: a network's parameters, or their shapes.
    patterns: patterns of the leaves; `None` as in `Options`.

  Raises:
    ValueError: a pattern matches no leaf, the last layer is ambiguous, or the
      head would take all leaves.

  >>> found = leaves_of({f'Dense_{n}': {'kernel': np.zeros((2, 2))}
  ...                    for n in (2, 10, 9)})
  >>> [name for name, own in trees.flatten(found).items() if own]
  ['Dense_10/kernel']
  """
  if patterns is None:
    names = _last_layer(params)
    chosen = trees.map_named(lambda name, _: name in names or None, params)
  else:
    chosen = trees.select(params, [(pattern, True) for pattern in patterns])
  if not jax.tree.leaves(trees.partition(params, chosen)[1]):
    raise ValueError('the head has every leaf of this network, so that nothing '
                     'is left for the method; leave head out, or name its '
                     'leaves in head_leaves')
  return chosen


def _last_layer(params: Tree) -> set[str]:
  names = [name for name, leaf in trees.flatten(params).items()
           if leaf is not None]
  found = {name for name in names if 'head' in name.split('/')[:-1]}
  if found:
    return found
  kernels = [name for name, fan in fans.fans(params).items()
             if fan is not None and np.ndim(trees.flatten(params)[name]) == 2]
  layers = {name.rpartition('/')[0] for name in kernels} - {''}
  if len({re.sub(r'\d+', '', layer) for layer in layers}) != 1:
    raise ValueError(
        'this network has no module called head, and its dense layers do not '
        f'say by their numbers which is the last ({", ".join(sorted(layers))}'
        f'); give head_leaves, patterns of the last one\'s leaves among '
        f'{", ".join(names)}')
  last = max(layers, key=lambda layer: [
      int(number) for number in re.findall(r'\d+', layer)])
  return {name for name in names if name.startswith(f'{last}/')}


def require_body(backbone: base.Params, patterns) -> None:
  """Refuses, before training, a pattern that names only leaves of the head.

  Raises:
    ValueError: all leaves that a pattern matches are `None`, as those of a head
      that does not belong to the method.
  """
  there = [name for name, leaf in trees.flatten(backbone).items()
           if leaf is not None]
  for pattern in base.as_patterns(patterns):
    if not any(re.fullmatch(pattern, name) for name in there):
      raise ValueError(f'pattern {pattern!r} matches only leaves of the head, '
                       "which head='dense' and 'none' take from the method; "
                       'leave the pattern out, or head')


def with_head(method: base.Method, head: str | None,
              leaves: tuple[str, ...] | None = None) -> base.Method:
  """The method with one of the kinds of head.

  Args:
    method: any method.
    head: see the module; `None` returns the method unchanged.
    leaves: as in `leaves_of`.

  Raises:
    ValueError: every task of the method already has its own head.
  """
  if head is None:
    return method
  if method.abilities.own_head:
    if head == 'dense' and leaves is None:
      return method
    if head == 'dense':
      raise ValueError(f'head_leaves is {leaves}, but every task of this '
                       'method has a dense head of its own; leave head_leaves '
                       'out')
    raise ValueError(f'head is {head!r}, but every task of this method has a '
                     "dense head of its own; leave head out")
  if head == 'mask':
    return _masked(method, leaves)
  return _without(_Apart(method, head == 'dense', leaves))


def _masked(method: base.Method, leaves) -> base.Method:
  """The method, with a check that it masks the head's kernel."""
  def commit(backbone, trainable, shared, route):
    impression, after = method.commit(backbone, trainable, shared, route)
    own = trees.flatten(leaves_of(backbone, leaves))
    masks = trees.flatten(impression.masks or {})
    if all(masks.get(name) is None for name, mine in own.items() if mine):
      raise ValueError(
          "head is 'mask', but the method leaves no mask of "
          f'{", ".join(name for name, mine in own.items() if mine)}; choose '
          f'{" or ".join(APART)}, or name them among the leaves that it masks')
    return impression, after
  return method._replace(commit=commit)


def note(options: Any) -> str:
  """What to say besides of a method that fails, if it sees no head."""
  head = getattr(options, 'head', None)
  return (f'. With head={head!r} the method finds None in the places of the '
          "head's leaves" if head in APART else '')


class _Apart(NamedTuple):
  """A method that sees no head.

  Attributes:
    inner: the method.
    dense: whether each task trains a head or uses the backbone's.
    leaves: as in `leaves_of`.
  """
  inner: base.Method
  dense: bool
  leaves: tuple[str, ...] | None


def _without(apart: _Apart) -> base.Method:
  """The method together with its head."""
  inner, able = apart.inner, apart.inner.abilities
  own = lambda function: functools.partial(function, apart)
  if able.folds is not None:
    part = able.folds.part
    able = able._replace(folds=able.folds._replace(
        part=lambda backbone: part(_body(apart, backbone))))
  if apart.dense:
    able = able._replace(
        superposes=False, streams=False,
        rates=None if able.rates is None else functools.partial(
            _rates, apart, able.rates),
        carries=None if able.carries is None else functools.partial(
            _carries, apart, able.carries))
  return inner._replace(
      init=own(_init), bind=own(_bind), commit=own(_commit),
      materialise=own(_materialise), prepare=own(_prepare), check=own(_check),
      penalty=lambda trainable: inner.penalty(_of_method(apart, trainable)),
      abilities=able)


def _parts(apart: _Apart, backbone: Tree) -> tuple[Tree, Tree]:
  """(the head's leaves, all others), each with `None` in the other places."""
  return trees.partition(backbone, leaves_of(backbone, apart.leaves))


def _body(apart: _Apart, backbone: Tree) -> Tree:
  """The backbone without its head; `None` if it is `None`, as in a stream."""
  return None if backbone is None else _parts(apart, backbone)[1]


def _of_method(apart: _Apart, trainable: Tree) -> Tree:
  """The part of `trainable` that belongs to the method."""
  if not apart.dense:
    return trainable
  rest = {key: own for key, own in trainable.items() if key != _HEAD}
  return rest[_REST] if _REST in rest else rest


def _joined(own: Tree, head: Tree) -> Tree:
  # A watch of the method finds its parts by name, and also keeps the head.
  rest = own if isinstance(own, dict) else {_REST: own}
  return rest | {_HEAD: head}


def _init(apart: _Apart, key, backbone, shared, route):
  head, body = _parts(apart, backbone)
  own = apart.inner.init(key, body, shared, route)
  return _joined(own, base.per_member(head, route)) if apart.dense else own


def _bind(apart: _Apart, backbone, trainable, shared, route):
  head, body = _parts(apart, backbone)
  if apart.dense:
    head = base.of_member(trainable[_HEAD], route)
  return _headed(head, apart.inner.bind(
      body, _of_method(apart, trainable), shared, route))


def _headed(head: Tree, rest: Tree) -> Tree:
  """What the method makes of the body, which may have leaves of its own, with
  the head's leaves in their places."""
  own = _there(head)
  return trees.map_named(lambda name, x: own.get(name, x), rest)


def _there(tree: Tree) -> dict[str, Any]:
  """The leaves that are not `None`, by name."""
  return {name: leaf for name, leaf in trees.flatten(tree).items()
          if leaf is not None}


def _commit(apart: _Apart, backbone, trainable, shared, route):
  impression, after = apart.inner.commit(
      _body(apart, backbone), _of_method(apart, trainable), shared, route)
  if apart.dense:
    impression = _with_values(impression,
                              base.of_member(trainable[_HEAD], route))
  return impression, after


def _materialise(apart: _Apart, backbone, impression, shared):
  head, body = _parts(apart, backbone)
  if apart.dense:
    stored = _there(impression.values)
    head = trees.map_named(lambda name, mine: stored.get(name) if mine else
                           None, leaves_of(backbone, apart.leaves))
  return _headed(head, apart.inner.materialise(
      body, _stripped(apart, backbone, impression), shared))


def _stripped(apart: _Apart, backbone, impression: impressions.Impression
              ) -> impressions.Impression:
  """An impression without the head's leaves."""
  if impression.path is not None:
    return impression
  chosen = leaves_of(backbone, apart.leaves)
  if impression.structure is not None:
    head = _there(chosen)
    return impression._replace(values=trees.unflatten({
        name: leaf for name, leaf in trees.flatten(impression.values).items()
        if name not in head}))

  def rest(tree):
    if tree is None:
      return None
    tree = trees.partition(tree, chosen)[1]
    return tree if jax.tree.leaves(tree) else None
  return impression._replace(**{part: rest(getattr(impression, part))
                                for part in ('masks', 'coefficients',
                                             'values')})


def _prepare(apart: _Apart, context: base.Context) -> dict:
  group = context.group
  return apart.inner.prepare(context._replace(
      backbone=_body(apart, context.backbone),
      earlier=tuple(_stripped(apart, context.backbone, impression)
                    for impression in context.earlier),
      group=group and group._replace(
          draw=lambda number: _body(apart, group.draw(number)))))


def _check(apart: _Apart, training, backbone, before, own) -> None:
  apart.inner.check(training, _body(apart, backbone), before, own)


def _carries(apart: _Apart, carries: Callable, impression,
             later) -> impressions.Impression:
  """A task's own head with the other leaves as a later task left them."""
  # Methods with `carries` store all values, and so also the head's.
  whole = later.values
  mine = _parts(apart, impression.values)[0]
  return _with_values(carries(_stripped(apart, whole, impression),
                              _stripped(apart, whole, later)), mine)


def _rates(apart: _Apart, rates: Callable, trainable: Tree) -> Tree:
  return _joined(rates(_of_method(apart, trainable)),
                 jax.tree.map(lambda _: 1., trainable[_HEAD]))


def _with_values(impression, head: Tree) -> impressions.Impression:
  values = impression.values
  if impression.structure is not None:
    return impression._replace(values=trees.unflatten(
        _there(values) | _there(head)))
  return impression._replace(values=head if values is None else
                             trees.combine(head, values))
