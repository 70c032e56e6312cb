"""Names of types, for annotations alone: nothing is imported for them.

Type checkers see chex's types. At run time they are plain objects, since the
core needs jax alone.

  Tree      any pytree
  Params    parameters: nested dicts of arrays
  Mask      bool leaves of a parameter tree's structure, `None` where not masked
  Scores    float leaves of a parameter tree's structure, or `None`
  Stats     a network's norm statistics
  Array     of jax, or a tracer
  PRNGKey   typed, as `jax.random.key` makes it
"""

from typing import TYPE_CHECKING, Any, TypeAlias

import jax

if TYPE_CHECKING:
  import chex
  Tree: TypeAlias = chex.ArrayTree
  PRNGKey: TypeAlias = chex.PRNGKey
else:
  Tree = Any
  PRNGKey = Any

Array: TypeAlias = jax.Array
Params: TypeAlias = Tree
Mask: TypeAlias = Tree
Scores: TypeAlias = Tree
Stats: TypeAlias = Tree
