"""Finds the input and output axes of kernels.

A tree of parameters doesn't name them, but names and shapes in Flax (Linen
and NNX) determine them: a bias has one number per output unit, so its shape
gives the output axes of its kernel, whether that is a dense layer's
[in, out], an attention's [features, heads, depth], a grouped convolution's or
one of a stack of scanned layers [layers, in, out]. Without a bias, `query`,
`key` and `value` of an attention have one input axis; any other kernel has its
outputs in the last axis. Patterns describe kernels that don't follow these
rules.
"""

import collections
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax

from mtl_jax import trees

# Last parts of the names of leaves that are not kernels, whatever their shape.
NO_KERNEL = re.compile(
    r'(.*_)?(bias|scale|embeddings?|positions?|cls|token)')
_BOXED = jax.tree_util.GetAttrKey('value')
Shape = tuple[int, ...]
# (pattern of a leaf's name, its input axes, or `None` if it is not a kernel).
Rules = Sequence[tuple[str, tuple[int, ...] | None]]


class Fan(NamedTuple):
  """A kernel's axes.

  Attributes:
    fan_in: inputs of one output unit, including spatial axes.
    inputs: input channels, without spatial axes.
    outputs: output units of one layer.
    layers: number of layers stacked in the leaf; 1 for a plain kernel.
  """
  fan_in: int
  inputs: int
  outputs: int
  layers: int = 1


def fans(tree: trees.Tree, rules: Rules = ()) -> dict[str, Fan | None]:
  """The `Fan` of every leaf by name; `None` for leaves that are not kernels.

  Args:
    tree: arrays or shapes, including the kernels' biases.
    rules: ordered (pattern, input axes) for leaves that don't follow Flax's
      conventions; the first match decides. Axes `None` mean that the leaf is
      not a kernel.

  Raises:
    ValueError: a pattern matches no leaf, or a leaf does not have an axis.

  >>> import jax.numpy as jnp
  >>> found = fans({'query': {'kernel': jnp.zeros((64, 4, 16)),
  ...                         'bias': jnp.zeros((4, 16))}})
  >>> found['query/kernel'].fan_in, found['query/bias']
  (64, None)
  """
  flat = {name: tuple(leaf.shape) for name, leaf in trees.flatten(
      trees.check_arrays(tree, 'the parameters')).items() if leaf is not None}
  trees.select(tree, rules)  # refuses patterns that match no leaf
  short = _without_boxes(tree)
  shapes = {short[name]: shape for name, shape in flat.items()}
  return {name: _of_rules(name, shape, rules) if any(
      re.fullmatch(pattern, name) for pattern, _ in rules)
          else _fan(short[name], shape, shapes) for name, shape in flat.items()}


def _without_boxes(tree: trees.Tree) -> dict[str, str]:
  """For every name, that of the parameter: Flax's variables (of `nnx.state`,
  or with partitions) are boxes, whose only leaf is called `value`."""
  found = {}
  beside: collections.Counter = collections.Counter()
  for path, _ in jax.tree_util.tree_leaves_with_path(
      tree, is_leaf=trees.is_none):
    beside[path[:-1]] += 1
    found[path] = path[:-1] if path[1:] and path[-1] == _BOXED else path
  return {trees.name_of(path): trees.name_of(
      path if beside[path[:-1]] > 1 else short)
          for path, short in found.items()}


def _of_rules(name: str, shape: Shape, rules: Rules) -> Fan | None:
  axes = next(axes for pattern, axes in rules if re.fullmatch(pattern, name))
  return None if axes is None else _of_axes(name, shape, axes)


def _fan(name: str, shape: Shape, shapes: dict[str, Shape]) -> Fan | None:
  *parents, last = name.split('/')
  if len(shape) < 2 or NO_KERNEL.fullmatch(last):
    return None
  bias = shapes.get('/'.join([*parents, 'bias']))
  if bias and len(bias) == 1 and shape[-1] != bias[0] == shape[-2]:
    # A transposed kernel [..., out, in].
    return Fan(math.prod(shape) // max(bias[0], 1), shape[-1], bias[0])
  stacked, outputs = (_beside(shape, bias) if bias else None) or (
      _nameless(parents, shape))
  inputs = shape[stacked:len(shape) - outputs]
  # The last kernel of an attention, [heads, depth, features], has no spatial
  # axes: all its input axes are channels.
  ends = parents[-1:] == ['out'] and '/'.join(
      [*parents[:-1], 'query', 'kernel']) in shapes
  return Fan(math.prod(inputs), math.prod(inputs if ends else inputs[-1:]),
             math.prod(shape[len(shape) - outputs:]),
             math.prod(shape[:stacked]))


def _beside(shape: Shape, bias: Shape) -> tuple[int, int] | None:
  """Numbers of stacked axes and of output axes, from the bias's shape.

  If two readings fit, as for [8, 8, 4] with bias [8, 4], both have the same
  fan-in: the kernel's size divided by the bias's.
  """
  for outputs in range(min(len(bias), len(shape) - 1), 0, -1):
    stacked = len(bias) - outputs
    if (shape[-outputs:] == bias[stacked:] and shape[:stacked] == bias[:stacked]
        and stacked + outputs < len(shape)):
      return stacked, outputs
  return None


def _nameless(parents: list[str], shape: Shape) -> tuple[int, int]:
  """Numbers of stacked axes and of output axes of a kernel without a bias."""
  if parents and parents[-1] in ('query', 'key', 'value') and len(shape) > 2:
    return len(shape) - 3, 2
  return 0, 1


def _of_axes(name: str, shape: Shape, axes: tuple[int, ...]) -> Fan:
  wrong = [axis for axis in axes if not -len(shape) <= axis < len(shape)]
  if wrong or not axes:
    raise ValueError(f'fan_in gives {name} the input axes {tuple(axes)}, but '
                     f'its shape is {shape}; give axes from 0 to '
                     f'{len(shape) - 1}, or None for a leaf that is no kernel')
  inputs = math.prod(shape[axis] for axis in {a % len(shape) for a in axes})
  return Fan(inputs, inputs, math.prod(shape) // max(inputs, 1))
