"""De-duplication: a value that an earlier task stores is not stored again.

Impressions are complete in memory. On the disk, a leaf of `values` becomes a
reference (a task's name and the leaf's SHA-256) if an earlier task stored the
same bits under the same name. A leaf equal to the backbone's is not stored at
all. So tasks that share modules (PaRT) or components (mu2Net) store each of
them once, and a task writes only what it adds.
"""

import functools
import hashlib
import json
import pathlib
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtl_jax import trees
from mtl_jax.storage import checkpoint
from mtl_jax.storage import workdir as workdir_lib

# In bytes. A reference would take as much as a smaller leaf.
SMALLEST = 1024


class Index:
  """Finds the finished task that stores a value, by leaf name and SHA-256.

  The workdir is listed once; after that, `add` reports each committed task.

  Attributes:
    workdir: the workdir whose finished tasks are indexed.
    params: the backbone's parameters.
  """

  def __init__(self, workdir: workdir_lib.Workdir, params: trees.Tree):
    self.workdir, self.params = workdir, params
    self._lock = threading.Lock()
    self._stored: dict[tuple[str, str], str] | None = None

  @functools.cached_property
  def backbone(self) -> dict[str, str]:
    """SHA-256 of each leaf of the backbone, by name."""
    return trees.digests(self.params)

  def add(self, name: str) -> None:
    """Adds the values of a task that has just been stored."""
    with self._lock:
      if self._stored is not None:  # otherwise the first listing includes it
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
    """Separates what a task must store from what it refers to.

    Args:
      arrays: arrays of an impression, from
        `impression_arrays.impression_to_arrays`.

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


def stored_sizes(sizes: Mapping[str, int],
                 arrays: Mapping[str, Any]) -> dict[str, int]:
  """The bytes in a task's record, for the arrays that its folder holds.

  Args:
    sizes: {'values', 'referenced', 'total'} and others. Values are divided
      anew into those that the task stores ('values', which 'total' counts) and
      those that it does not ('referenced').
    arrays: the arrays that are stored, as `Index.split` gives them.

  >>> stored_sizes({'values': 12, 'referenced': 0, 'total': 15},
  ...              {'values/a': np.zeros(1, np.float32), 'masks/a': None})
  {'values': 4, 'referenced': 8, 'total': 7}
  """
  own = sum(np.asarray(a).nbytes for name, a in arrays.items()
            if name.startswith('values/') and a is not None)
  whole = sizes['values'] + sizes.get('referenced', 0)
  return {**sizes, 'values': own, 'referenced': whole - own,
          'total': sizes['total'] - sizes['values'] + own}


def resolve(workdir: workdir_lib.Workdir, arrays: dict[str, np.ndarray],
            metadata: dict) -> dict[str, np.ndarray]:
  """A task's arrays together with those to which it refers.

  Args:
    workdir: the workdir of the tasks.
    arrays: from `checkpoint.load`.
    metadata: from `checkpoint.load`.

  Raises:
    CheckpointError: the task that should store a leaf is gone or now stores
      another value; names the leaf and the task.
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


# Metadata that determine a task's network, beside its arrays.
_FACTS = ('method', 'seed', 'transforms', 'classes', 'structure', 'absent',
          'source_shape')


def fingerprint(path: pathlib.Path,
                expected: Mapping[str, Any] | None = None) -> str:
  """Hash of a task's folder except its outputs; other tasks rely on it."""
  stored = checkpoint.load_metadata(path, expected)['hashes']
  hashes = {name: digest for name, digest in stored.items() if name != 'probe'}
  return hashlib.sha256(
      json.dumps(sorted(hashes.items())).encode()).hexdigest()[:16]


def content(path: pathlib.Path) -> str:
  """Hash of everything that makes a task, wherever its values are stored.

  Unlike `fingerprint`, which hashes the task's own folder, it does not change
  when the task is stored elsewhere or under another name.
  """
  metadata = checkpoint.load_metadata(path, {'name': path.name})
  return content_of(metadata['hashes'], metadata)


def content_of(leaves: dict[str, Any], metadata: dict) -> str:
  """`content` from leaves (or their SHA-256) and a task's metadata."""
  hashes = {name: leaf if isinstance(leaf, str) else trees.digest(leaf)
            for name, leaf in leaves.items() if name != 'probe'}
  hashes |= {name: found['sha256'] for name, found in (
      metadata.get('references') or {}).items()}
  facts = {key: metadata.get(key) for key in _FACTS}
  return hashlib.sha256(json.dumps(
      [hashes, facts], sort_keys=True).encode()).hexdigest()[:16]


def content_at(workdir: workdir_lib.Workdir, name: str) -> str | None:
  """`content` of a stored task, or `None` if there is no such task."""
  path = workdir.task(name)
  return content(path) if checkpoint.exists(path) else None
