"""Names of types for annotations; importing them imports nothing else.

Type checkers see chex's types. At run time they are plain objects, since the
core needs jax alone.

  Tree      any pytree
  Params    parameters: nested dicts of arrays
  Mask      bool leaves of a parameter tree's structure, `None` where not masked
  Scores    float leaves of a parameter tree's structure, or `None`
  Stats     a network's norm statistics
  Array     a JAX array or a tracer
  Images    an array of JAX or NumPy: images, a table's rows or tokens
  PRNGKey   a typed key, from `jax.random.key`
  Path      path of a file or folder, a string or a `pathlib.Path`
"""

import os
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np

if TYPE_CHECKING:
  import chex
  Tree: TypeAlias = chex.ArrayTree
  PRNGKey: TypeAlias = chex.PRNGKey
else:
  Tree = Any
  PRNGKey = Any

Array: TypeAlias = jax.Array
Images: TypeAlias = jax.Array | np.ndarray
Path: TypeAlias = str | os.PathLike[str]
Params: TypeAlias = Tree
Mask: TypeAlias = Tree
Scores: TypeAlias = Tree
Stats: TypeAlias = Tree
