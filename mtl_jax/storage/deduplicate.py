"""A value that stands in an earlier task's checkpoint is stored once.

Impressions are whole in memory. On the disk, a leaf of `values` whose bits an
earlier task stored under the same name becomes a reference: that task's name
and the leaf's SHA-256. One that equals the backbone's own leaf isn't stored at
all. Tasks that share modules (PaRT) or components (mu2Net) thus leave each of
them in one place, and what a task writes is what it brought in.
"""

import functools
import hashlib
import json
import pathlib
import threading
from typing import Any

import numpy as np

from mtl_jax import trees
from mtl_jax.storage import checkpoint
from mtl_jax.storage import workdir as workdir_lib

# Below this many bytes a reference would take as much as the leaf.
SMALLEST = 1024


class Index:
  """Which finished task stores a value, by the leaf's name and its SHA-256.

  The workdir is listed once; after that, `add` tells of a task that commits.

  Attributes:
    workdir: whose finished tasks are indexed.
    params: the backbone's parameters.
  """

  def __init__(self, workdir: workdir_lib.Workdir, params: trees.Tree):
    self.workdir, self.params = workdir, params
    self._lock = threading.Lock()
    self._stored: dict[tuple[str, str], str] | None = None

  @functools.cached_property
  def backbone(self) -> dict[str, str]:
    """SHA-256 of the backbone's leaves, by name."""
    return trees.digests(self.params)

  def add(self, name: str) -> None:
    """Notes what a task that has just been stored brought in."""
    with self._lock:
      if self._stored is not None:  # else it is listed with the others
        self._note(self._stored, name)

  def _note(self, stored: dict, name: str) -> None:
    hashes = checkpoint.load_metadata(self.workdir.task(name),
                                      {'name': name})['hashes']
    for leaf, digest in hashes.items():
      if leaf.startswith('values/'):
        stored.setdefault((leaf, digest), name)

  def _known(self) -> dict[tuple[str, str], str]:
    with self._lock:
      if self._stored is None:
        found: dict[tuple[str, str], str] = {}
        for name in self.workdir.task_names():
          self._note(found, name)
        self._stored = found
      return self._stored

  def split(self, arrays: dict[str, Any]) -> tuple[dict, dict]:
    """What a task must store itself, and where the rest lies.

    Args:
      arrays: of an impression, as `impression_arrays.impression_to_arrays`
        has them.

    Returns:
      (the arrays to store, {leaf: {'task', 'sha256'}}). Leaves equal to the
      backbone's are in neither.
    """
    values = [name for name, a in arrays.items()
              if name.startswith('values/') and a is not None]
    stored = self._known() if values else {}
    own, references = dict(arrays), {}
    for name in values:
      digest = trees.digest(arrays[name])
      leaf = name.removeprefix('values/')
      if self.backbone.get(leaf) == digest:
        own.pop(name)
      elif (np.asarray(arrays[name]).nbytes >= SMALLEST
            and (name, digest) in stored):
        references[name] = {'task': stored[name, digest],
                            'sha256': digest}
        own.pop(name)
    return own, references


def resolve(workdir: workdir_lib.Workdir, arrays: dict[str, np.ndarray],
            metadata: dict) -> dict[str, np.ndarray]:
  """A task's arrays together with those that it refers to.

  Args:
    workdir: where the tasks lie.
    arrays: as `checkpoint.load` gives them.
    metadata: likewise.

  Raises:
    CheckpointError: the task that stores a leaf is gone, or stores another
      one now; names the leaf and the task.
  """
  by_task: dict[str, list[str]] = {}
  references = metadata.get('references') or {}
  for leaf, found in references.items():
    by_task.setdefault(found['task'], []).append(leaf)
  result = dict(arrays)
  for task, leaves in by_task.items():
    path = workdir.task(task)
    if not checkpoint.exists(path):
      raise checkpoint.CheckpointError(
          f'leaf {leaves[0]} is stored with task {task}, which is gone from '
          f'{path}; restore it from a copy')
    hashes = checkpoint.load_metadata(path)['hashes']
    for leaf in leaves:
      if hashes.get(leaf) != references[leaf]['sha256']:
        raise checkpoint.CheckpointError(
            f'leaf {leaf} is stored with task {task}, but {path} holds another '
            'one now; restore it from a copy')
    result |= checkpoint.load(path, leaves)[0]
  return result


# Beside arrays, what makes a task's network what it is.
_FACTS = ('method', 'seed', 'transforms', 'classes', 'structure', 'absent',
          'source_shape')


def content(path: pathlib.Path) -> str:
  """Of all that makes a task, wherever each value is stored.

  `checkpoint.fingerprint` is of what stands in the task's own folder; this is
  the same for a task that was stored again elsewhere or under another name.
  """
  metadata = checkpoint.load_metadata(path, {'name': path.name})
  return content_of(metadata['hashes'], metadata)


def content_of(leaves: dict[str, Any], metadata: dict) -> str:
  """`content` of leaves, or of their SHA-256, and of a task's metadata."""
  hashes = {name: leaf if isinstance(leaf, str) else trees.digest(leaf)
            for name, leaf in leaves.items() if name != 'probe'}
  hashes |= {name: found['sha256'] for name, found in (
      metadata.get('references') or {}).items()}
  facts = {key: metadata.get(key) for key in _FACTS}
  return hashlib.sha256(json.dumps(
      [hashes, facts], sort_keys=True).encode()).hexdigest()[:16]


def content_at(workdir: workdir_lib.Workdir, name: str) -> str | None:
  """`content` of a task, or `None` if there is none of that name."""
  path = workdir.task(name)
  return content(path) if checkpoint.exists(path) else None
