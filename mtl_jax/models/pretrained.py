"""Puts arrays of a file into a network's leaves, by name.

An ordered list of (pattern, replacement) maps the names in a file to paths of
leaves. The first pattern that matches the whole name decides; `\\1` stands for
its first group as in `re.sub`, and `None` leaves the array out. Norm statistics
have the path 'stats/...'. Nothing is guessed: every leaf must be filled or
declared fresh, every array must be used or left out by a pattern, and no array
is transposed.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mtl_jax import trees

Tree = trees.Tree
Names = Sequence[tuple[str, str | None]]
STATS = 'stats/'
# The names of a Flax checkpoint.
FLAX: Names = (('params/(.*)', r'\1'), ('batch_stats/(.*)', rf'{STATS}\1'))
_SHOWN = 3  # names in a sentence


class Published(NamedTuple):
  """How a network reads weights in a published form.

  Attributes:
    take: (arrays by the file's names, drawn leaves by path, key, input shape)
      -> arrays by path of leaf. It keeps names that it does not know.
    fresh: patterns of the leaves that such a file does not fill.
  """
  take: Callable[[dict, dict, Any, tuple], dict]
  fresh: tuple[str, ...] = ()


def check_names(names: Names) -> None:
  """Refuses names that are not pairs of a pattern and a replacement.

  Raises:
    ValueError: says which pair, and what is wrong with it.
  """
  for pair in names:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not (
        isinstance(pair[0], str) and isinstance(pair[1], (str, type(None)))):
      raise ValueError(
          f'backbone.names has {pair!r}; give pairs of a pattern for a name of '
          "the file and the leaf's path, or None to leave the array out, such "
          "as [('model/(.*)', r'\\1'), ('fc/.*', None)]")
    try:
      re.compile(pair[0]).sub(pair[1] or '', '')
    except (re.error, IndexError) as error:
      raise ValueError(f'backbone.names has {tuple(pair)!r}, which is no '
                       f'pattern with its replacement: {error}') from error


def leaves(params: Tree, stats: Tree) -> dict[str, Any]:
  """All leaves by path; norm statistics have the prefix 'stats/'."""
  return trees.flatten(params) | {
      f'{STATS}{name}': leaf for name, leaf in trees.flatten(stats).items()}


def split(flat: dict[str, Any], params: Tree, stats: Tree) -> tuple[Tree, Tree]:
  """(params, stats) from leaves by path; inverse of `leaves`."""
  return (trees.map_named(lambda name, _: jnp.asarray(flat[name]), params),
          trees.map_named(lambda name, _: jnp.asarray(flat[STATS + name]),
                          stats))


def fresh_leaves(known: dict[str, Any], fresh: Sequence[str]) -> set[str]:
  """The paths that match the patterns.

  Raises:
    ValueError: a pattern matches no leaf; lists the leaves.
  """
  found = trees.select(dict.fromkeys(known, 0), [(p, True) for p in fresh])
  return {name for name, chosen in found.items() if chosen}


def all_fresh(names: Names | None, fresh: Sequence[str],
              published: Published | None) -> tuple[str, ...]:
  """The `fresh` patterns of a config, with those of a published form."""
  own = published.fresh if names is None and published is not None else ()
  return (*fresh, *own)


def fill(file: str, arrays: dict[str, np.ndarray], known: dict[str, Any],
         names: Names | None, fresh: Sequence[str],
         published: Published | None, key, image_shape) -> dict[str, Any]:
  """Fills the leaves of a network with the arrays of a file.

  Args:
    file: path of the file, for messages.
    arrays: arrays by the file's names.
    known: the drawn leaves by path; see `leaves`.
    names: see the module; `None` uses the published form if the network has
      one, and else the names of a Flax checkpoint.
    fresh: patterns of leaves that stay as they were drawn.
    published: the network's published form.
    key: typed PRNG key, for a published form.
    image_shape: shape of the inputs, for a published form.

  Returns:
    Arrays by path, of the shapes and dtypes of `known`.

  Raises:
    ValueError: names the leaf or the array, and the remedy.
  """
  if names is None and published is not None:
    given = {name: (name, array) for name, array in
             published.take(dict(arrays), known, key, image_shape).items()}
  else:
    given = renamed(file, arrays, FLAX if names is None else names,
                    strict=names is not None)
  stay = fresh_leaves(known, all_fresh(names, fresh, published))
  if set(known) <= stay:
    raise ValueError(f'backbone.fresh, {tuple(fresh)}, names every leaf, so '
                     f'that nothing of {file} would be used; name fewer, or '
                     'leave backbone.weights out')
  given = {leaf: found for leaf, found in given.items() if leaf not in stay}
  _require_all(file, given, set(known) - stay)
  return {leaf: array if leaf in stay else _fitted(file, leaf, *given[leaf],
                                                   array)
          for leaf, array in known.items()}


def renamed(file: str, arrays: dict[str, np.ndarray], names: Names,
            strict: bool = True) -> dict[str, tuple[str, np.ndarray]]:
  """(name in the file, array) by path of leaf.

  Args:
    file: path of the file, for messages.
    arrays: arrays by the file's names.
    names: see the module.
    strict: whether to refuse a pattern that matches no name.

  Raises:
    ValueError: a pattern matches no name, or two names map to the same leaf.
  """
  result: dict[str, tuple[str, np.ndarray]] = {}
  used: set[int] = set()
  for name, array in arrays.items():
    leaf: str | None = name
    for i, (pattern, replacement) in enumerate(names):
      match = re.fullmatch(pattern, name)
      if match:
        used.add(i)
        leaf = None if replacement is None else match.expand(replacement)
        break
    if leaf is None:
      continue
    if leaf in result:
      raise ValueError(
          f'{result[leaf][0]} and {name} of {file} both go to the leaf {leaf}; '
          "correct backbone.names, or leave one out with "
          f'({re.escape(name)!r}, None)')
    result[leaf] = name, array
  for i, (pattern, _) in enumerate(names if strict else ()):
    if i not in used:
      raise ValueError(
          f'the pattern {pattern!r} of backbone.names is the first to match no '
          f'name of {file}{trees.nearest(pattern, arrays)}; its names are: '
          f'{_some(sorted(arrays))}')
  return result


def _require_all(file: str, given: dict, wanted: set[str]) -> None:
  """Checks that every leaf is filled and every array is used."""
  missing = sorted(wanted - set(given))
  unused = [given[leaf][0] for leaf in sorted(set(given) - wanted)]
  if missing:
    beside = f'; arrays that no leaf takes: {_some(unused)}' if unused else ''
    raise ValueError(
        f'{file} fills no {_some(missing)}{beside}. Give backbone.names '
        'patterns that make these paths of its names, or name the leaves in '
        'backbone.fresh, so that they stay as they are drawn')
  if unused:
    raise ValueError(
        f'{file} has arrays that no leaf takes: {_some(unused)}. Give '
        'backbone.names patterns that make paths of leaves of them, or leave '
        f'them out: ({re.escape(unused[0])!r}, None)')


def _fitted(file: str, leaf: str, name: str, array, like) -> np.ndarray:
  """An array of a file, checked and converted to the dtype of a leaf."""
  array, shape = np.asarray(array), tuple(np.shape(like))
  if array.shape != shape:
    turned = sorted(array.shape) == sorted(shape)
    raise ValueError(
        f'{name} of {file} has shape {array.shape}, but the leaf {leaf} is '
        f'{shape}; ' + (
            'transpose it in the file (kernels here are [height, width, in, '
            'out] or [in, out])' if turned else
            'choose the model and options that the weights were made for, or '
            'name the leaf in backbone.fresh'))
  if not (array.dtype == like.dtype or (
      jnp.issubdtype(array.dtype, jnp.floating)
      and np.can_cast(array.dtype, like.dtype, 'safe'))):
    raise ValueError(
        f'{name} of {file} is {array.dtype}, but the leaf {leaf} is '
        f'{like.dtype}; write it into the file as {like.dtype}')
  if (jnp.issubdtype(array.dtype, jnp.floating)
      and not np.isfinite(array.astype(np.float32)).all()):
    raise ValueError(f'{name} of {file} holds NaN or infinity; take another '
                     f'file, or name {leaf} in backbone.fresh')
  if leaf.startswith(STATS) and leaf.endswith('/var') and (array < 0).any():
    raise ValueError(f'{name} of {file} has numbers below 0, and the leaf '
                     f'{leaf} is a variance; correct backbone.names (means may '
                     'have been taken for it), or name it in backbone.fresh')
  return array.astype(like.dtype)


def _some(names: Sequence[str]) -> str:
  more = len(names) - _SHOWN
  return ', '.join(names[:_SHOWN]) + (f' and {more} more' if more > 0 else '')
