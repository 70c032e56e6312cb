"""The tasks of a workdir, read from their checkpoints once and cached.

A read checks that the task, suite and backbone in a checkpoint's metadata match
its place. Folders never change once they are final; if a folder was replaced,
it is read again.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple, NoReturn, TypeAlias, TypeVar

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
Version: TypeAlias = tuple[int, ...]  # of a folder; see `Workdir.version`
# Key of a task in a cache: its name, and its folder's version.
T = TypeVar('T')
Key: TypeAlias = tuple[str, Version | None]


class StoredTask(NamedTuple):
  """One stored task.

  Attributes:
    name: name of its folder; `None` for the bare backbone.
    impression: its arrays, on the device.
    method: the method that made it.
    shared: what `method.materialise` needs of other tasks.
    transforms: the task's transforms.
    parameters: arrays of the transforms.
    classes: number of classes.
    metadata: everything else (record, hashes, versions, ...).
    probe: float32 [n, classes], its outputs on the probe at its commit.
    version: version of its folder; see `Workdir.version`.
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
    """A summary without the arrays."""
    how = self.metadata.get('method', {}).get('name', 'no method')
    return (f'StoredTask({self.name!r} by {how}: '
            f'{trees.counted(self.classes, "class")}, '
            f'{self.impression!r})')


class StoredTasks:
  """Reads the tasks of a workdir; safe for threads.

  Attributes:
    workdir: the workdir.
    backbone: the network and its immutable parameters.
    index: finds the task that stores a value, for commits.
  """

  def __init__(self, workdir: workdir_lib.Workdir,
               backbone: backbone_lib.Backbone,
               cache_bytes: int = CACHE_BYTES) -> None:
    self.workdir = workdir
    self.backbone = backbone
    self._cache_bytes = cache_bytes
    self.refresh()

  def __reduce__(self) -> NoReturn:
    raise TypeError(
        f'the system in {self.workdir.root} cannot be copied or sent to '
        'another process: send the path from which it was loaded, and call '
        'mtl_jax.load there; threads may share one system')

  def refresh(self) -> None:
    """Clears the caches, after tasks were changed in place."""
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
    """A stored task; the last used tasks are cached, up to `cache_bytes`.

    Raises:
      CheckpointError: it is missing, damaged, or in the wrong place.
    """
    return self._tasks((name, self.workdir.version(name)))

  def record(self, name: str) -> dict:
    """The measurements of a task at its commit."""
    return self._records((name, self.workdir.version(name)))

  def metadata(self, name: str) -> dict:
    """All metadata of a task's checkpoint, checked against its place.

    Raises:
      CheckpointError: it is missing, damaged, or in the wrong place; or
        a task on which it relies is another one now.
    """
    found = checkpoint.task_metadata(self.workdir.task(name))
    self.require_place(name, found)
    self._require_relied(name, [used for used in found.get('relies_on') or {}
                                if self.workdir.has_task(used)], found)
    return found

  def fingerprint(self, name: str) -> str:
    """Hash of a task except its outputs; other tasks rely on it."""
    return self._fingerprints((name, self.workdir.version(name)))

  def read(self, name: str) -> tuple[dict, dict]:
    """(arrays, metadata) of a task's checkpoint, after all checks."""
    arrays, metadata = checkpoint.load(self.workdir.task(name))
    self.require_own(name, metadata)
    return arrays, metadata

  def read_mask(self, name: str) -> tuple[dict, dict]:
    """`read` for a task that can be superposed with others."""
    arrays, metadata = self.read(name)
    if not self.method(name, metadata).abilities.superposes:
      raise ValueError(
          f'task {name} was learned by {metadata["method"]["name"]}, whose '
          'impressions cannot be superposed; name candidates without it')
    return arrays, metadata

  def require_own(self, name: str, metadata: dict) -> None:
    """Refuses a task with a wrong backbone, place, suite or other tasks."""
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
    """Refuses a task that doesn't belong under its name here."""
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
    """The method that made a stored task.

    Raises:
      ValueError: it is not registered; names the file that defines it.
    """
    given = metadata['method']
    if given['name'] not in methods.METHODS:
      where = given.get('defined_in') or {}
      file = where.get('file', 'its file')
      raise ValueError(
          f"task {name} was learned by the method {given['name']!r}, which "
          f'{file} defines; pass that file as plugins (--plugins)')
    return methods.of_options(given['name'], methods.options_of(
        given['name'], given['options'], f'task {name}: method option '))

  def shared(self, name: str, metadata: dict) -> dict:
    """What `materialise` of a stored task needs of other tasks."""
    if not self.method(name, metadata).abilities.needs_earlier:
      return {}
    made, digest = self._prepared(name_of_shared(metadata))
    # Of a changed file of the user's own, outputs on the probe decide.
    if metadata.get('drawn', digest) != digest and not origins.changed(
        metadata, self.backbone.recipe):
      raise checkpoint.CheckpointError(
          f'task {name} was learned over a basis that is drawn from the seed '
          f'{metadata["seed"]}, but another one is drawn here (SHA-256 '
          f'{digest[:12]}, not {metadata["drawn"][:12]}): read it with the '
          f'versions that made it, {versions_of(metadata)}, or learn it again')
    return made

  def drawn(self, metadata: dict) -> dict[str, str]:
    """What a checkpoint says of a `shared` that the seed alone determines.

    Args:
      metadata: metadata of a task whose method needs earlier tasks.

    Returns:
      {'drawn': its digest}, or {} if it is made from stored tasks, which have
      digests of their own.
    """
    digest = self._prepared(name_of_shared(metadata))[1]
    return {'drawn': digest} if digest else {}

  def _prepare(self, described: str) -> tuple[dict, str]:
    """The `shared` described by `name_of_shared`, and its digest."""
    metadata = json_files.parse(described, {}, 'a basis', 'its name')
    method = self.method('', metadata)
    made = method.prepare(methods.Context(
        self.backbone.params,
        tuple(self._impression(*self.read(name))
              for name in metadata['relies_on']),
        jax.random.key(metadata['seed'], impl='threefry2x32')))
    return made, '' if metadata['relies_on'] else digest_of_drawn(made)

  def _load_task(self, key: Key) -> StoredTask:
    name, version = key
    arrays, metadata = self.read(name)
    chosen = transforms.from_json(metadata['transforms'])
    method = self.method(name, metadata)
    return StoredTask(
        name, jax.tree.map(_on_device, self._impression(arrays, metadata)),
        method, origins.call(metadata, self.backbone.recipe,
                             lambda: self.shared(name, metadata)),
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
    return deduplicate.fingerprint(self.workdir.task(name), {'name': name})

  def _load_probe(self, source: str) -> np.ndarray:
    """Raw images of a source on which its tasks' outputs were stored."""
    return checkpoint.load(self.workdir.probe_of(source),
                           expected={'source': source})[0]['images']


def name_of_shared(metadata: dict) -> str:
  """A JSON text that is equal for tasks with the same `shared`.

  Args:
    metadata: metadata of a stored task whose method needs earlier tasks.
  """
  return json.dumps({key: metadata.get(key) for key in (
      'method', 'relies_on', 'seed')})


def digest_of_drawn(shared: trees.Tree) -> str:
  """SHA-256 of what is drawn with the same bits on every platform: of leaves
  of bools and whole numbers; draws of floats may round.

  >>> digest_of_drawn({'a': np.ones(2)}) == digest_of_drawn({'a': np.zeros(2)})
  True
  >>> digest_of_drawn({'a': np.ones(2, bool)})[:8]
  'e1615f3c'
  """
  return trees.fingerprint({
      name: leaf for name, leaf in trees.flatten(shared).items()
      if getattr(leaf, 'dtype', np.dtype(object)).kind in 'biu'})


def versions_of(metadata: dict) -> str:
  """The versions that made a task, for messages."""
  made = metadata.get('versions') or {}
  return ', '.join(f'{name} {version}' for name, version in made.items()
                   if name in ('jax', 'jaxlib', 'mtl_jax')) or 'unknown ones'


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
