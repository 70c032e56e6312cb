"""One jitted call for a batch whose rows belong to different tasks.

The host sorts the rows by task and divides them into blocks of rows of one
task. Inside the call, a loop goes over the blocks: it takes the task's
impression from its shelf, materialises the network, transforms the rows and
applies the network. So at any time, only one task's weights (or one group's)
exist as floats.

Everything except the network's products is exact, so a row has the same bits as
in the task's own call if the backend multiplies blocks of that size in the same
order. On an x86 CPU, LeNet-300-100 has equal bits for 2 to 16 rows, but other
bits for one row, from 17 rows and again from about 50 rows on; they differ by
some 1e-6.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtl_jax import aliases
from mtl_jax import impressions
from mtl_jax import messages
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.data import pipeline
from mtl_jax.data import repairs
from mtl_jax.data import transforms
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.serving import checks
from mtl_jax.serving import stored_tasks
from mtl_jax.serving import task_cache

# Materialising a task's network costs about as much as passing this number of
# rows through it: 14 to 18 for supermasks on LeNet-300-100, 2 CPU cores.
EXPANSION = 16
# Number of blocks computed at once. On CPU one, so that its weights stay in the
# cache. Elsewhere in parallel; that was not measured.
WIDTH = {'cpu': 1}
WIDTH_ELSEWHERE = 16


class Plan(NamedTuple):
  """The blocks of rows. A group is `width` blocks of one shelf.

  Attributes:
    rows: int [groups, width, size], indices of rows (0 as padding).
    shelf: int32 [groups], the shelf of the group's tasks.
    slot: int32 [groups, width], the task of each block.
    groups: number of groups in use; the others are padding.
    position: int [n], position of each row in `rows`, flattened.
  """
  rows: np.ndarray
  shelf: np.ndarray
  slot: np.ndarray
  groups: int
  position: np.ndarray


def block_size(counts: np.ndarray) -> int:
  """The cheapest power of two for these numbers of rows per task.

  >>> block_size(np.array([8] * 64)), block_size(np.array([500, 1, 1]))
  (8, 64)
  """
  sizes = 2 ** np.arange((int(counts.max()) - 1).bit_length() + 1)
  blocks = -(-counts[None, :] // sizes[:, None])
  return int(sizes[np.argmin(blocks.sum(1) * (EXPANSION + sizes))])


def plan(shelf: np.ndarray, slot: np.ndarray, width: int) -> Plan:
  """Sorts rows by task and divides them into blocks.

  Args:
    shelf: int [n], the shelf of each row's task; n is at least 1.
    slot: int [n], the slot of each row's task on its shelf.
    width: number of blocks computed at once.
  """
  order = np.lexsort((slot, shelf))
  first = np.ones(len(order), bool)
  first[1:] = ((np.diff(shelf[order]) != 0) | (np.diff(slot[order]) != 0))
  starts = np.flatnonzero(first)
  counts = np.diff(np.append(starts, len(order)))
  size = block_size(counts)
  blocks = -(-counts // size)
  # The first block of each task; a shelf begins with a new group.
  of_task, block = shelf[order][starts], np.zeros(len(starts), int)
  used = 0
  for number in np.unique(of_task):
    mine = of_task == number
    block[mine] = used + np.cumsum(blocks[mine]) - blocks[mine]
    used += -(-blocks[mine].sum() // width) * width
  groups = int(used) // width
  padded = 1 << (groups - 1).bit_length()
  rank = np.arange(len(order)) - np.repeat(starts, counts)
  where = np.repeat(block, counts) * size + rank
  rows = np.zeros(padded * width * size, int)
  rows[where] = order
  position = np.empty(len(order), int)
  position[order] = where
  slots = np.zeros(padded * width, np.int32)
  slots[where // size] = slot[order]
  shelf_of = np.zeros(padded, np.int32)
  shelf_of[where // size // width] = shelf[order]
  return Plan(rows.reshape(padded, width, size), shelf_of,
              slots.reshape(padded, width), groups, position)


def check(x: aliases.Images, tasks: Sequence[str | None],
          metadata: Callable[[str], dict]) -> list[str | None]:
  """Checks and returns the names of the rows' tasks.

  Args:
    x: images.
    tasks: a name, or `None`, for each of them.
    metadata: (name) -> metadata of a task, for the remedy.

  Raises:
    ValueError: `x` isn't uint8 [n, H, W, C], or `tasks` isn't n names.
  """
  if not checks.is_array(x, 'uint8') or len(x.shape) != 4:
    raise ValueError('predict_mixed takes raw images uint8 [n, H, W, C]; got '
                     f'{checks.described(x)}; {_remedy(x, tasks, metadata)}')
  if isinstance(tasks, (str, Set, Mapping)) or not isinstance(
      tasks, Iterable):
    raise ValueError('tasks must be a sequence with a name, or None, for each '
                     f'of {trees.counted(len(x), "image")}; got '
                     f'{messages.shown(tasks)}')
  names = list(tasks)
  if len(names) != len(x):
    raise ValueError(f'{trees.counted(len(x), "image")} but '
                     f'{trees.counted(len(names), "name")} of tasks: give one '
                     'for each image')
  for name in names:
    if name is not None and not isinstance(name, str):
      raise ValueError('a task is named by a string or None, not '
                       f'{messages.shown(name)}')
  return names


def _remedy(x: Any, tasks: Any, metadata: Callable[[str], dict]) -> str:
  """What to give instead of `x`, by the inputs of the first named task."""
  try:
    first = next(name for name in tasks if isinstance(name, str))
    found = metadata(first)
    if found.get('source_dtype', 'uint8') != 'uint8':
      return f'call predict(x, task={first!r}), as this task takes no images'
    return repairs.remedy(x, tuple(found['source_shape']), 'uint8')
  except (ValueError, TypeError, StopIteration):
    return 'give one array of all images'


def bare_backbone(system: stored_tasks.StoredTasks,
                  shape: tuple[int, ...]) -> stored_tasks.StoredTask:
  """The backbone without an impression, for raw images of a shape.

  Raises:
    ValueError: no task takes such images, or two prepare them differently.
  """
  found: dict[transforms.Chain, str] = {}
  for name in system.tasks:
    metadata = system.metadata(name)
    if tuple(metadata['source_shape']) == shape:
      found.setdefault(transforms.common(
          transforms.from_json(metadata['transforms'])), name)
  if not found:
    raise ValueError(f'no task takes images {list(shape)}, so it is not '
                     'known how the backbone takes them')
  if len(found) > 1:
    (one, a), (other, b) = list(found.items())[:2]
    raise ValueError(
        f'None needs transforms that all tasks have in common, but '
        f'{a} has {transforms.to_json(one)} and {b} '
        f'{transforms.to_json(other)}; name a task for every row')
  common, = found
  return stored_tasks.StoredTask(
      None, impressions.Impression(), methods.PLAIN, {}, common,
      pipeline.parameters(common, shape), system.backbone.recipe['outputs'],
      {'source_shape': list(shape)}, np.zeros(0), (0, hash(common)))


def predict(backbone: backbone_lib.Backbone, shelves: task_cache.Shelves,
            x: aliases.Images, names: list[str | None]) -> np.ndarray:
  """Logits of rows whose tasks are on the shelves.

  Args:
    backbone: the immutable network.
    shelves: shelves with every name for images of the shape of `x`.
    x: uint8 [n, H, W, C].
    names: n names.

  Returns:
    float32 [n, most classes of any row], -inf beyond a row's own classes.
  """
  if not names:
    return np.zeros((0, 0), np.float32)
  x = np.asarray(x)
  index = {name: i for i, name in enumerate(dict.fromkeys(names))}
  width = WIDTH.get(jax.default_backend(), WIDTH_ELSEWHERE)
  with shelves.lend(list(index), x.shape[1:]) as lent:
    homes = [lent.places[name] for name in index]
    of_row = np.array([home[:2] for home in homes], np.int32)[
        [index[name] for name in names]]
    chosen = plan(of_row[:, 0], of_row[:, 1], width)
    logits = np.asarray(_forward(
        backbone.network, lent.kinds, backbone.params, backbone.stats,
        lent.parts, chosen.shelf, chosen.slot, np.int32(chosen.groups),
        x[chosen.rows]))
  rows = logits.reshape(-1, logits.shape[-1])
  return rows[chosen.position, :max(home.classes for home in homes)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(network: models.Network, kinds: tuple[task_cache.Kind, ...],
             params: aliases.Params, stats: aliases.Stats,
             parts: list[task_cache.Part], shelf: aliases.Array,
             slot: aliases.Array, groups: aliases.Array,
             images: aliases.Array) -> aliases.Array:
  """Logits of all blocks, -inf beyond a task's classes.

  Args:
    network: static.
    kinds: for each shelf, the static part of its transforms and the
      `materialise` of its method.
    params: parameters of the backbone.
    stats: statistics of the backbone.
    parts: arrays of each shelf.
    shelf: int32 [groups].
    slot: int32 [groups, width].
    groups: int32, number of groups in use.
    images: uint8 [groups, width, size, H, W, C].

  Returns:
    float32 [groups, width, size, outputs].
  """
  def blocks(kind: task_cache.Kind, part: task_cache.Part,
             slot: aliases.Array, images: aliases.Array) -> aliases.Array:
    one = functools.partial(_block, network, kind, params, stats, part)
    if slot.shape[0] == 1:
      return one(slot[0], images[0])[None]
    return jax.vmap(one)(slot, images)

  branches: list[Callable[[aliases.Array, aliases.Array], aliases.Array]] = [
      functools.partial(blocks, kind, part)
      for kind, part in zip(kinds, parts, strict=True)]
  # Tasks with their own heads have as many outputs as classes.
  widths = [jax.eval_shape(branch, slot[0], images[0]).shape[-1]
            for branch in branches]
  branches = [functools.partial(_widened, branch, max(widths))
              for branch in branches]

  like = jax.eval_shape(branches[0], slot[0], images[0])

  def group(i: aliases.Array, out: aliases.Array) -> aliases.Array:
    logits = lax.switch(shelf[i], branches, slot[i], images[i])
    return lax.dynamic_update_index_in_dim(out, logits, i, 0)

  return lax.fori_loop(0, groups, group,
                       jnp.zeros((len(shelf), *like.shape), like.dtype))


def _widened(branch: Callable[[aliases.Array, aliases.Array], aliases.Array],
             outputs: int, slot: aliases.Array,
             images: aliases.Array) -> aliases.Array:
  """The logits of a branch, padded with -inf."""
  logits = branch(slot, images)
  missing = outputs - logits.shape[-1]
  if not missing:
    return logits
  return jnp.pad(logits, [(0, 0)] * (logits.ndim - 1) + [(0, missing)],
                 constant_values=-jnp.inf)


def _block(network: models.Network, kind: task_cache.Kind,
           params: aliases.Params, stats: aliases.Stats,
           part: task_cache.Part, slot: aliases.Array,
           images: aliases.Array) -> aliases.Array:
  """Logits [size, outputs] of rows of one task."""
  task = jax.tree.map(
      lambda x: lax.dynamic_index_in_dim(x, slot, keepdims=False), part.stack)
  impression = task.impression
  if impression.masks is not None:
    impression = impression._replace(
        masks=task_cache.unpack(impression.masks, params))
  kinds, materialise = kind
  own = materialise(params, impression, part.shared)
  x = pipeline.apply(kinds, task.parameters, images)
  logits = network.apply(own, impression.stats or stats, x, train=False)[0]
  return jnp.where(jnp.arange(logits.shape[-1])[None, :] < task.classes,
                   logits, -jnp.inf)
