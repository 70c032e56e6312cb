"""Parameter trees addressed by path names such as `encoder/Dense_0/kernel`.

A leaf's name is its path joined by '/'. `None` counts as a leaf throughout and
means "nothing here" (not masked, not trained, not owned).
"""

import difflib
import hashlib
import inspect
import json
import numbers
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from mtl_jax import aliases
from mtl_jax import messages

Tree = aliases.Tree


def is_none(x: Any) -> bool:
  """Whether `x` is `None`, which counts as a leaf."""
  return x is None


def is_number(x: Any) -> bool:
  """Whether `x` is a real number; bools and arrays are not.

  >>> is_number(1), is_number(True)
  (True, False)
  """
  return isinstance(x, numbers.Real) and not isinstance(x, (bool, np.bool_))


def check_arrays(tree: Any, what: str, values: bool = False) -> Any:
  """Returns the tree if all its leaves are arrays or `None`.

  Args:
    tree: the tree to check.
    what: what the tree is, for messages.
    values: whether the numbers are needed, not only the shapes.

  Raises:
    ValueError: a leaf has no shape or dtype, no numbers that JAX computes
      with, or was deleted; names it.
  """
  for name, leaf in flatten(tree).items():
    where = f'{messages.leaf(name)} of {what}'
    if leaf is not None and not (
        hasattr(leaf, 'shape') and hasattr(leaf, 'dtype')) or (
        values and isinstance(leaf, jax.ShapeDtypeStruct)):
      raise ValueError(f'{where} is a {type(leaf).__name__}; every leaf is an '
                       'array, or None: make it with jax.numpy.asarray')
    if values and messages.deleted(leaf):
      raise ValueError(f'{where} {messages.GONE}')
    if isinstance(leaf, (np.ndarray, np.generic)) and not (
        messages.computes(leaf.dtype)):
      raise ValueError(f'{where} is {leaf.dtype}, which JAX does not compute '
                       'with; make it with .astype(numpy.'
                       f'{messages.computed(leaf.dtype)})')
  return tree


def _entry_name(entry: Any) -> str:
  for attribute in ('key', 'idx', 'name'):
    if hasattr(entry, attribute):
      return str(getattr(entry, attribute))
  return str(entry)


def name_of(path: Sequence[Any]) -> str:
  """The name of a leaf with a path of `jax.tree_util`."""
  return '/'.join(map(_entry_name, path))


def flatten(tree: Tree) -> dict[str, Any]:
  """The leaves of `tree` by path name, including `None` leaves.

  Raises:
    ValueError: two leaves have the same name, because a key contains '/'.

  >>> flatten({'a': {'kernel': 1, 'bias': None}})
  {'a/bias': None, 'a/kernel': 1}
  """
  flat: dict[str, Any] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_none):
    name = name_of(path)
    if name in flat:
      raise ValueError(f"two leaves have the name {name!r}: a key holds '/'; "
                       'rename one of them')
    flat[name] = leaf
  return flat


def unflatten(flat: dict[str, Any]) -> Tree:
  """Nested dicts from path names; inverse of `flatten` for nested dicts.

  Keys of these dicts must not contain '/'.

  Raises:
    ValueError: a name is both that of a leaf and of a sub-tree; names it.

  >>> unflatten({'a/bias': None, 'a/kernel': 1})
  {'a': {'bias': None, 'kernel': 1}}
  """
  tree: dict = {}
  if not isinstance(flat, dict) or not all(isinstance(n, str) for n in flat):
    raise ValueError(f'the leaves by name are {messages.shown(flat)}; give a '
                     "dict with names such as 'a/kernel'")
  for name, leaf in flat.items():
    *parents, last = name.split('/')
    node = tree
    for i, parent in enumerate(parents):
      if '/'.join(parents[:i + 1]) in flat:
        raise ValueError(f'{"/".join(parents[:i + 1])} is a leaf, and also a '
                         f'tree with {name}; rename one of them')
      node = node.setdefault(parent, {})
    node[last] = leaf
  return tree


def map_leaves(f: Callable, tree: Tree, *rest: Tree) -> Tree:
  """`jax.tree.map` with `None` as a leaf, which is passed to `f`.

  Raises:
    ValueError: the trees have different structures; names the first leaf that
      is in only one of them.
  """
  for other in rest:
    check_same_structure(tree, other)
  return jax.tree.map(f, tree, *rest, is_leaf=is_none)


def map_named(f: Callable, tree: Tree, *rest: Tree) -> Tree:
  """Like `map_leaves`, but `f` receives the leaf's name first.

  >>> map_named(lambda name, x: name if x else None, {'a': 1, 'b': 0})
  {'a': 'a', 'b': None}
  """
  for other in rest:
    check_same_structure(tree, other)
  return jax.tree_util.tree_map_with_path(
      lambda path, *leaves: f(name_of(path), *leaves),
      tree, *rest, is_leaf=is_none)


def check_same_structure(a: Tree, b: Tree) -> None:
  """Raises ValueError naming a leaf that only one of the two trees has."""
  structures = {jax.tree.structure(t, is_leaf=is_none) for t in (a, b)}
  if len(structures) == 1:
    return
  left, right = flatten(a), flatten(b)
  alone = sorted(set(left) ^ set(right))
  if not alone:
    raise ValueError(
        'the trees have the same leaf names but different containers: '
        f'{jax.tree.structure(a)} and {jax.tree.structure(b)}; convert both '
        'to the same kind of container')
  name = alone[0]
  here, there = (('first', 'second') if name in left else
                 ('second', 'first'))
  near = nearest(name, right if name in left else left)
  raise ValueError(
      f'{name and "leaf "}{messages.leaf(name)} is in the {here} tree but not '
      f'in the {there}{near}; both must have the structure of the backbone')


def check_shapes(tree: Tree, like: Tree, what: str) -> None:
  """Raises ValueError if a leaf's shape differs from that in `like`.

  Leaves that are `None` in either tree are skipped.
  """
  def check(name: str, x: Any, y: Any) -> None:
    if x is not None and y is not None and np.shape(x) != np.shape(y):
      raise ValueError(
          f'{what} has shape {np.shape(x)} but {messages.leaf(name)} is '
          f'{np.shape(y)}')
  map_named(check, tree, like)


def nearest(name: str, known: Iterable[str]) -> str:
  """A hint such as ' (did you mean: kernel?)', or '' if no name is near."""
  matches = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
  return f' (did you mean: {", ".join(matches)}?)' if matches else ''


def by_number(names: Iterable[str]) -> list[str]:
  """Names that end in a number, in the order of the numbers.

  >>> by_number(['level10', 'level9', 'level1'])
  ['level1', 'level9', 'level10']
  """
  return sorted(names, key=lambda name: (len(name), name))


def counted(count: int, noun: str) -> str:
  """A count with its noun in singular or plural.

  >>> counted(1, 'task'), counted(12000, 'class'), counted(2, 'batch')
  ('1 task', '12,000 classes', '2 batches')
  """
  if count == 1:
    return f'1 {noun}'
  return f'{count:,} {noun}{"es" if noun[-1] in "sxh" else "s"}'


def call(what: str, f: Callable, options: dict) -> Any:
  """Calls `f(**options)`, or raises an error that names an unknown option.

  Raises:
    ValueError: `f` doesn't take an option; names the known and nearest ones.

  >>> call('method f', lambda density: density, {'density': 0.5})
  0.5
  """
  known = list(inspect.signature(f).parameters)
  for name in options:
    if name not in known:
      raise ValueError(f'{what} has no option {name}{nearest(name, known)}; '
                       f'known: {", ".join(sorted(known))}')
  return f(**options)


def check_rules(rules: Any) -> Any:
  """Returns the rules.

  Raises:
    ValueError: the rules are not a list of pairs of a pattern and a value.
  """
  if not isinstance(rules, (list, tuple)) or not all(
      isinstance(rule, (list, tuple)) and len(rule) == 2
      and isinstance(rule[0], str) for rule in rules):
    raise ValueError(f'the rules are {messages.shown(rules)}; give a list of '
                     "pairs of a pattern and a value, such as [('.*kernel', "
                     'True)]')
  return rules


def select(tree: Tree, rules: Sequence[tuple[str, Any]]) -> Tree:
  """A value for every leaf, from an ordered list of (regex, value) rules.

  Args:
    tree: any pytree.
    rules: patterns for `re.fullmatch` on the leaf's name; the first match
      decides. Leaves that no pattern matches get `None`.

  Returns:
    A tree of `tree`'s structure with the values.

  Raises:
    ValueError: a pattern matches no leaf, or is not a regular expression.

  >>> select({'a': {'kernel': 1, 'bias': 2}}, [('.*kernel', 0.5)])
  {'a': {'bias': None, 'kernel': 0.5}}
  """
  names = list(flatten(tree))
  for pattern, _ in check_rules(rules):
    try:
      re.compile(pattern)
    except (re.error, TypeError) as error:
      raise ValueError(f'pattern {pattern!r} is no regular expression: {error}'
                       ) from error
    if not any(re.fullmatch(pattern, name) for name in names):
      raise ValueError(
          f'pattern {pattern!r} matches no leaf{nearest(pattern, names)}; '
          f'the leaves are: {", ".join(names)}')

  def value(name: str, _: Any) -> Any:
    for pattern, chosen in rules:
      if re.fullmatch(pattern, name):
        return chosen
    return None

  return map_named(value, tree)


def partition(tree: Tree, chosen: Tree) -> tuple[Tree, Tree]:
  """Splits leaves into two trees of the same structure, `None` elsewhere.

  Args:
    tree: any pytree.
    chosen: the same structure; a leaf whose choice is `None` or False goes to
      the second tree.

  Raises:
    ValueError: the structures differ, or a choice is neither `None` nor a
      bool; names the leaf.

  >>> partition({'a': 1, 'b': 2}, {'a': True, 'b': None})
  ({'a': 1, 'b': None}, {'a': None, 'b': 2})
  """
  def check(name: str, c: Any) -> None:
    if c is not None and not isinstance(c, (bool, np.bool_)):
      raise ValueError(f'the choice for {messages.leaf(name)} is a '
                       f'{type(c).__name__}; give True, False or None')
  check_same_structure(tree, chosen)
  map_named(check, chosen)
  yes = map_leaves(lambda x, c: x if c else None, tree, chosen)
  no = map_leaves(lambda x, c: None if c else x, tree, chosen)
  return yes, no


def combine(first: Tree, second: Tree) -> Tree:
  """For each leaf, the first that is not `None`; inverse of `partition`.

  >>> combine({'a': 1, 'b': None}, {'a': None, 'b': 2})
  {'a': 1, 'b': 2}
  """
  return map_leaves(lambda x, y: y if x is None else x, first, second)


def size(tree: Tree) -> int:
  """Number of scalars in all leaves."""
  return sum(int(np.prod(np.shape(x))) for x in jax.tree.leaves(tree))


def nbytes(tree: Tree) -> int:
  """Bytes of all leaves in memory.

  Raises:
    ValueError: a leaf is not an array; names it.
  """
  check_arrays(tree, 'the tree')
  return sum(int(np.prod(x.shape)) * x.dtype.itemsize
             for x in jax.tree.leaves(tree))


def digest(leaf: Any) -> str:
  """SHA-256 over a leaf's dtype, shape and bytes, as hexadecimal digits.

  Raises:
    ValueError: the leaf is not an array of numbers.
  """
  if jax.dtypes.issubdtype(getattr(leaf, 'dtype', None), jax.dtypes.extended):
    raise ValueError(f'a leaf of {leaf.dtype} has no digest; give '
                     'jax.random.key_data of a key')
  array = np.asarray(leaf)
  if array.dtype.kind == 'O':
    raise ValueError(f'a {type(leaf).__name__} has no digest; give an array of '
                     'numbers')
  head = f'{array.dtype.str}{array.shape}'.encode()
  return hashlib.sha256(head + array.tobytes()).hexdigest()


def digests(tree: Tree) -> dict[str, str]:
  """`digest` of every leaf that is not `None`, by name."""
  return {name: digest(leaf) for name, leaf in flatten(tree).items()
          if leaf is not None}


def fingerprint(tree: Tree) -> str:
  """One SHA-256 over all names and leaves: equal iff bit for bit the same.

  A key that contains '/' differs from nested keys with the same path.

  >>> a = fingerprint({'w': np.zeros(3)})
  >>> a == fingerprint({'w': np.zeros(3)})
  True
  >>> a == fingerprint({'v': np.zeros(3)})
  False
  """
  leaves = [([_entry_name(entry) for entry in path], digest(leaf))
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
  total = hashlib.sha256()
  if any(mark in key for path, _ in leaves for key in path for mark in '/=;'):
    # No name begins with ';', so this text can't come from another tree.
    total.update(f';{json.dumps(sorted(leaves))}'.encode())
    return total.hexdigest()
  for name, value in sorted(('/'.join(path), value) for path, value in leaves):
    total.update(f'{name}={value};'.encode())
  return total.hexdigest()
