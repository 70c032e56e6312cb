"""Samples paths: the N of M parallel modules in each level that a task uses.

Paths of T tasks through L levels are int32 [T, L, N], sorted along the last
axis. `official` draws them as PaRT's code does (Paknezhad et al. 2022,
https://arxiv.org/abs/2201.09534), bit for bit; the other functions control what
tasks share.
"""

import dataclasses

import numpy as np

from mtl_jax import trees


@dataclasses.dataclass(frozen=True)
class Shape:
  """Size of the graph: L levels of M modules; a path uses N in each level.

  Raises:
    ValueError: a number is below 1, or N is larger than M.
  """
  levels: int
  modules: int
  active: int

  def __post_init__(self):
    if min(self.levels, self.modules, self.active) < 1:
      raise ValueError(f'{self}: all three must be at least 1')
    if self.active > self.modules:
      raise ValueError(f'{self}: a path takes {self.active} of only '
                       f'{self.modules} modules')


def official(seed: int, tasks: int, shape: Shape) -> np.ndarray:
  """Independent random paths: rejection on NumPy's legacy generator.

  For every task and level, int(rand() * M) is drawn until N different modules
  are found.

  Args:
    seed: PaRT's five test cases have 456, 23743, 96253, 36 and 2543.
    tasks: number of tasks T.
    shape: size of the graph.

  Returns:
    int32 [T, L, N].

  >>> official(456, 1, Shape(5, 8, 2))[0].tolist()
  [[1, 6], [5, 6], [4, 7], [1, 6], [1, 3]]
  """
  random = np.random.RandomState(seed)

  def level():
    found: list[int] = []
    while len(found) < shape.active:
      module = int(random.rand() * shape.modules)
      if module not in found:
        found.append(module)
    return sorted(found)
  return np.array([[level() for _ in range(shape.levels)]
                   for _ in range(tasks)], np.int32)


def identical(seed: int, tasks: int, shape: Shape) -> np.ndarray:
  """One path for all tasks: hard parameter sharing."""
  return np.repeat(official(seed, 1, shape), tasks, axis=0)


def overlapping(seed: int, tasks: int, shape: Shape,
                shared: int) -> np.ndarray:
  """All tasks share `shared` modules of every level; no others are shared.

  Raises:
    ValueError: the level is too narrow, or `shared` is not in 0 ... N.

  >>> overlapping(0, 2, Shape(1, 3, 2), 1).shape
  (2, 1, 2)
  """
  if not 0 <= shared <= shape.active:
    raise ValueError(f'shared is {shared}; it must lie in 0 ... '
                     f'{shape.active}, the modules of a path in a level')
  own = shape.active - shared
  needed = shared + tasks * own
  if needed > shape.modules:
    raise ValueError(f'{trees.counted(tasks, "task")} with {shared} shared and '
                     f'{trees.counted(own, "module")} of their own need '
                     f'{trees.counted(needed, "module")} a level, but the '
                     f'model has {shape.modules}')
  random, result = np.random.RandomState(seed), []
  for _ in range(shape.levels):
    order = random.permutation(shape.modules)
    result.append([[*order[:shared], *order[shared + k * own:][:own]]
                   for k in range(tasks)])
  return np.sort(np.array(result, np.int32).transpose(1, 0, 2), axis=-1)


def disjoint(seed: int, tasks: int, shape: Shape) -> np.ndarray:
  """Paths without common modules.

  Raises:
    ValueError: a level has fewer than T * N modules.
  """
  return overlapping(seed, tasks, shape, 0)


def guided(seed: int, shape: Shape, similarity) -> np.ndarray:
  """Paths on which similar tasks share more modules.

  For each level, a task takes round(similarity * N) modules from the path of
  the most similar earlier task. The rest are the modules that the fewest tasks
  use; ties are broken at random.

  Args:
    seed: seed of the random choices.
    shape: size of the graph.
    similarity: [T, T] in 0 ... 1.

  Raises:
    ValueError: the matrix is not square, or a value is outside of 0 ... 1.
  """
  similarity = np.asarray(similarity, float)
  if (similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]
      or not np.all((similarity >= 0) & (similarity <= 1))):
    raise ValueError('similarity must be a square matrix with values in '
                     f'0 ... 1, one row per task; got {similarity.tolist()}')
  random = np.random.RandomState(seed)
  tasks = len(similarity)
  result = np.zeros((tasks, shape.levels, shape.active), np.int32)
  used = np.zeros((shape.levels, shape.modules), int)
  for k in range(tasks):
    nearest = int(np.argmax(similarity[k, :k])) if k else 0
    kept = round(similarity[k, nearest] * shape.active) if k else 0
    for level in range(shape.levels):
      chosen = random.permutation(result[nearest, level])[:kept]
      # Modules of the nearest task come last: no more than `kept` are taken.
      avoided = np.isin(np.arange(shape.modules),
                        result[nearest, level] if k else ())
      order = np.lexsort((random.rand(shape.modules), used[level], avoided))
      rest = order[~np.isin(order, chosen)][:shape.active - len(chosen)]
      result[k, level] = np.sort(np.concatenate([chosen, rest]))
      used[level, result[k, level]] += 1
  return result


def table(paths: np.ndarray, modules: int) -> np.ndarray:
  """Paths as zeros and ones, uint8 [T, L, M].

  >>> table(np.array([[[0, 2]]]), 3).tolist()
  [[[1, 0, 1]]]
  """
  return np.any(np.asarray(paths)[..., None] == np.arange(modules),
                axis=-2).astype(np.uint8)


def overlap(paths: np.ndarray) -> np.ndarray:
  """Number of modules that each pair of tasks has in common, int [T, T].

  >>> overlap(np.array([[[0, 1]], [[1, 2]]])).tolist()
  [[2, 1], [1, 2]]
  """
  ones = table(paths, int(np.max(paths)) + 1).reshape(len(paths), -1)
  return ones.astype(int) @ ones.T.astype(int)


def users(paths: np.ndarray, modules: int) -> np.ndarray:
  """Number of tasks that use each module, int [L, M].

  >>> users(np.array([[[0, 1]], [[1, 2]]]), 4).tolist()
  [[1, 2, 1, 0]]
  """
  return table(paths, modules).sum(axis=0, dtype=int)


def draw(kind: str, seed: int, tasks: int, shape: Shape, shared: int = 0,
         similarity=None) -> np.ndarray:
  """Paths of a given kind, the name of a function of this module.

  Raises:
    ValueError: the kind is unknown, or the graph is too small.
  """
  kinds = {
      'official': lambda: official(seed, tasks, shape),
      'identical': lambda: identical(seed, tasks, shape),
      'disjoint': lambda: disjoint(seed, tasks, shape),
      'overlapping': lambda: overlapping(seed, tasks, shape, shared),
      'guided': lambda: guided(seed, shape, similarity),
  }
  if kind not in kinds:
    raise ValueError(f'unknown kind of paths {kind!r}; known: '
                     f'{", ".join(sorted(kinds))}')
  if kind == 'guided' and np.shape(similarity) != (tasks, tasks):
    raise ValueError(f'guided paths of {tasks} tasks need a similarity matrix '
                     f'[{tasks}, {tasks}], not {list(np.shape(similarity))}')
  return kinds[kind]()
