"""The tasks of a workdir as its checkpoints have them, read once and kept.

What is read is held against its place: a checkpoint says of which task, suite
and backbone it is. Folders never change once they are final; one that was
exchanged under its name is read anew.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import numpy as np

from mtl_jax import aliases
from mtl_jax import impressions
from mtl_jax import json_files
from mtl_jax import methods
from mtl_jax import trees
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.serving import cache
from mtl_jax.serving import origins
from mtl_jax.storage import checkpoint
from mtl_jax.storage import deduplicate
from mtl_jax.storage import impression_arrays
from mtl_jax.storage import workdir as workdir_lib

CACHE_BYTES = 2 ** 30
Version: TypeAlias = tuple[int, int]  # of a folder, see `Workdir.version`
# Of a task in a cache: its name, and its folder's version.
T = TypeVar('T')
Key: TypeAlias = tuple[str, Version | None]


class StoredTask(NamedTuple):
  """One task as its checkpoint has it.

  Attributes:
    name: of its folder; `None` is the bare backbone.
    impression: its arrays, on the device.
    method: that left it.
    shared: what `method.materialise` needs of other tasks.
    transforms: the task's transforms.
    parameters: their arrays.
    classes: number of classes.
    metadata: everything else (record, hashes, versions, ...).
    probe: float32 [n, classes], its outputs on the probe when it committed.
    version: of its folder, see `Workdir.version`.
  """
  name: str | None
  impression: impressions.Impression
  method: methods.Method
  shared: dict
  transforms: transforms.Chain
  parameters: pipeline.Parameters
  classes: int
  metadata: dict
  probe: np.ndarray
  version: Version | None = None

  def __repr__(self) -> str:
    """In short, without the arrays."""
    how = self.metadata.get('method', {}).get('name', 'no method')
    return (f'StoredTask({self.name!r} by {how}: '
            f'{trees.counted(self.classes, "class")}, '
            f'{self.impression!r})')


class StoredTasks:
  """Reads the tasks of a workdir; safe for threads.

  Attributes:
    workdir: where it lies.
    backbone: the network and its immutable parameters.
    index: which task stores which value, for commits.
  """

  def __init__(self, workdir: workdir_lib.Workdir,
               backbone: backbone_lib.Backbone,
               cache_bytes: int = CACHE_BYTES) -> None:
    self.workdir = workdir
    self.backbone = backbone
    self._cache_bytes = cache_bytes
    self.refresh()

  def refresh(self) -> None:
    """Forgets what was read of tasks, after some were changed in place."""
    self.index = deduplicate.Index(self.workdir, self.backbone.params)
    self._tasks = cache.Cache(self._load_task, nbytes=self._cache_bytes,
                              size=_bytes_of)
    self._prepared = cache.Cache(self._prepare, count=4)
    self._records = cache.Cache(self._load_record)
    self._fingerprints = cache.Cache(self._load_fingerprint)
    self.probe = cache.Cache(self._load_probe)
    plan = self.workdir.read_plan()
    self._planned = frozenset(plan.get('entries', ()))
    self._suite = {'suite': plan['suite']} if plan else {}

  @property
  def tasks(self) -> list[str]:
    """Names of the tasks that can be predicted, sorted."""
    return self.workdir.task_names()

  def task(self, name: str) -> StoredTask:
    """A stored task; those used last are kept, up to `cache_bytes`.

    Raises:
      CheckpointError: it is missing, damaged, or not what belongs there.
    """
    return self._tasks((name, self.workdir.version(name)))

  def record(self, name: str) -> dict:
    """What was measured of a task when it committed."""
    return self._records((name, self.workdir.version(name)))

  def metadata(self, name: str) -> dict:
    """All that a task's checkpoint says, held against its place.

    Raises:
      CheckpointError: it is missing, damaged, or not what belongs there; or
        a task that it was made with is another one now.
    """
    found = checkpoint.task_metadata(self.workdir.task(name))
    self.require_place(name, found)
    self._require_relied(name, [used for used in found.get('relies_on') or {}
                                if self.workdir.has_task(used)], found)
    return found

  def fingerprint(self, name: str) -> str:
    """Of all that a task left but its outputs: what others rely on."""
    return self._fingerprints((name, self.workdir.version(name)))

  def read(self, name: str) -> tuple[dict, dict]:
    """(arrays, metadata) of a task's checkpoint, if it belongs here."""
    arrays, metadata = checkpoint.load(self.workdir.task(name))
    self.require_own(name, metadata)
    return arrays, metadata

  def read_mask(self, name: str) -> tuple[dict, dict]:
    """`read` of a task that can be superposed with others."""
    arrays, metadata = self.read(name)
    if not self.method(name, metadata).abilities.superposes:
      raise ValueError(
          f'task {name} was learned by {metadata["method"]["name"]}, whose '
          'impressions cannot be superposed; name candidates without it')
    return arrays, metadata

  def require_own(self, name: str, metadata: dict) -> None:
    """Refuses a task of another backbone, place, suite or other tasks."""
    self.require_place(name, metadata)
    self._require_relied(name, metadata.get('relies_on') or {}, metadata)

  def _require_relied(self, name: str, others: Iterable[str],
                      metadata: dict) -> None:
    for used in others:
      if self.fingerprint(used) != metadata['relies_on'][used]:
        raise checkpoint.CheckpointError(
            f'task {name} was made with the task {used}, but another one of '
            'that name lies here; bring that back, or remove '
            f'{self.workdir.task(name)} to have {name} made again')

  def require_place(self, name: str, metadata: dict) -> None:
    """Refuses a task that isn't what belongs under a name here."""
    self.require_backbone(name, metadata)
    # A task that came from elsewhere may be of another suite.
    checkpoint.require_task(
        self.workdir.task(name), metadata,
        {'name': name} | (self._suite if name in self._planned else {}))

  def require_backbone(self, name: str, metadata: dict) -> None:
    """Refuses a task that was made on another backbone."""
    own = self.backbone.recipe['fingerprint']
    if metadata.get('backbone', own) != own:
      raise checkpoint.CheckpointError(
          f'task {name} was made on the backbone {metadata["backbone"]}, not '
          f'on {own}: its impression does not fit this one')

  def method(self, name: str, metadata: dict) -> methods.Method:
    """The method that left a stored task.

    Raises:
      ValueError: nobody has registered it; names the file that defines it.
    """
    given = metadata['method']
    if given['name'] not in methods.METHODS:
      where = given.get('defined_in') or {}
      file = where.get('file', 'its file')
      raise ValueError(
          f"task {name} was learned by the method {given['name']!r}, which "
          f'{file} defines; pass that file as plugins')
    return methods.of_options(given['name'], methods.options_of(
        given['name'], given['options'], f'task {name}: method option '))

  def shared(self, name: str, metadata: dict) -> dict:
    """What `materialise` of a stored task needs of other tasks."""
    if not self.method(name, metadata).abilities.needs_earlier:
      return {}
    return self._prepared(name_of_shared(metadata))

  def _prepare(self, described: str) -> dict:
    """`shared` as `name_of_shared` describes it."""
    metadata = json_files.parse(described, {}, 'a basis', 'its name')
    method = self.method('', metadata)
    return method.prepare(methods.Context(
        self.backbone.params,
        tuple(self._impression(*self.read(name))
              for name in metadata['relies_on']),
        jax.random.key(metadata['seed'], impl='threefry2x32')))

  def _load_task(self, key: Key) -> StoredTask:
    name, version = key
    arrays, metadata = self.read(name)
    chosen = transforms.from_json(metadata['transforms'])
    method = self.method(name, metadata)
    said = origins.changed(metadata, self.backbone.recipe)
    return StoredTask(
        name, jax.tree.map(_on_device, self._impression(arrays, metadata)),
        method, origins.call(name, said, lambda: self.shared(name, metadata)),
        chosen,
        jax.tree.map(_on_device, pipeline.parameters(
            chosen, tuple(metadata['source_shape']))),
        metadata['classes'], metadata, arrays['probe'], version)

  def _impression(self, arrays: dict[str, np.ndarray],
                  metadata: dict) -> impressions.Impression:
    return impression_arrays.arrays_to_impression(
        deduplicate.resolve(self.workdir, arrays, metadata),
        self.backbone.params, self.backbone.stats, metadata)

  def _load_record(self, key: Key) -> dict:
    name, _ = key
    metadata = checkpoint.task_metadata(self.workdir.task(name))
    self.require_place(name, metadata)
    return metadata['record']

  def _load_fingerprint(self, key: Key) -> str:
    name, _ = key
    return checkpoint.fingerprint(self.workdir.task(name), {'name': name})

  def _load_probe(self, source: str) -> np.ndarray:
    """Raw images of a source on which its tasks' outputs were kept."""
    return checkpoint.load(self.workdir.probe_of(source),
                           expected={'source': source})[0]['images']


def name_of_shared(metadata: dict) -> str:
  """Equal for tasks whose `shared` is the same, as JSON.

  Args:
    metadata: of a stored task whose method needs earlier tasks.
  """
  return json.dumps({key: metadata.get(key) for key in (
      'method', 'relies_on', 'seed')})


def _on_device(leaf: T) -> T | aliases.Array:
  """A NumPy array put on the device, once; types that JAX lacks stay.

  `jnp.asarray` would compile a program for every new shape.
  """
  if not isinstance(leaf, np.ndarray) or (
      jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype):
    return leaf
  return jax.device_put(leaf)


def _bytes_of(stored: StoredTask) -> int:
  return stored.probe.nbytes + sum(
      np.asarray(leaf).nbytes if not hasattr(leaf, 'nbytes') else leaf.nbytes
      for leaf in jax.tree.leaves((stored.impression, stored.parameters)))
