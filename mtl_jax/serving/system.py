"""A trained system, as it lies in a workdir: its tasks and their outputs."""

import functools
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import impressions
from mtl_jax import methods
from mtl_jax import registry
from mtl_jax import trees
from mtl_jax.data import transforms
from mtl_jax.inference import identify
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.serving import blocks
from mtl_jax.serving import candidates
from mtl_jax.serving import mixed_batch
from mtl_jax.serving import origins
from mtl_jax.serving import probes
from mtl_jax.serving import task_cache
from mtl_jax.storage import checkpoint
from mtl_jax.storage import deduplicate
from mtl_jax.storage import formats
from mtl_jax.storage import workdir as workdir_lib


class StoredTask(NamedTuple):
  """One task as its checkpoint has it.

  Attributes:
    name: of its folder; `None` is the bare backbone.
    impression: its arrays.
    method: that left it.
    shared: what `method.materialise` needs of other tasks.
    transforms: the task's transforms.
    parameters: their arrays.
    classes: number of classes.
    metadata: everything else (record, hashes, versions, ...).
    probe: float32 [n, classes], its outputs on the probe when it committed.
  """
  name: str | None
  impression: impressions.Impression
  method: methods.Method
  shared: dict
  transforms: tuple
  parameters: Any
  classes: int
  metadata: dict
  probe: np.ndarray

  def __repr__(self) -> str:
    """In short, without the arrays."""
    how = self.metadata.get('method', {}).get('name', 'no method')
    return (f'StoredTask({self.name!r} by {how}: {self.classes} classes, '
            f'{self.impression!r})')


class Identified(NamedTuple):
  """The task that an inference found.

  Attributes:
    task: its name.
    gradient: by candidate, d objective / d belief at the last step; the
      lowest wins (of 'brute_force', the objective).
    passes: backward passes that were made.
  """
  task: str
  gradient: dict[str, float]
  passes: int


class System:
  """Tasks that share one backbone; made by `load`.

  Attributes:
    workdir: where it lies.
    backbone: the network and its immutable parameters.
  """

  def __init__(self, workdir: workdir_lib.Workdir,
               backbone: backbone_lib.Backbone):
    self.workdir = workdir
    self.backbone = backbone
    self.refresh()

  def refresh(self) -> None:
    """Forgets what was read of tasks, after some were changed or removed."""
    workdir, backbone = self.workdir, self.backbone
    self.task = functools.lru_cache(maxsize=64)(self._load_task)
    self.shelves = task_cache.Shelves()
    self.index = deduplicate.Index(workdir, backbone.params)
    self._prepared = functools.lru_cache(maxsize=4)(self._prepare)
    self.candidates = functools.lru_cache(maxsize=1)(self._gather)
    self._record = functools.lru_cache(maxsize=None)(self._load_record)
    self.probe = functools.lru_cache(maxsize=None)(self._load_probe)
    self.fingerprint = functools.lru_cache(maxsize=None)(
        lambda name: checkpoint.fingerprint(workdir.task(name)))
    self._known: set[str] = set()

  def __repr__(self) -> str:
    names, recipe = self.tasks, self.backbone.recipe
    return (f'System({str(self.workdir.root)!r}: {len(names)} tasks '
            f'({_some(names[:3])}{", ..." if len(names) > 3 else ""}) on '
            f'{recipe["model"]} of {trees.size(self.backbone.params):,} '
            f'weights {recipe["fingerprint"][:12]})')

  @property
  def tasks(self) -> list[str]:
    """Names of the tasks that can be predicted, sorted."""
    return self.workdir.task_names()

  def predict(self, x, task: str | None = None, names=None) -> jax.Array:
    """Logits of a task for images, all of the same task.

    Args:
      x: uint8 [n, H, W, C]. With `task`, as the task's source gives them: the
        task's own transform is part of its impression. Without, as the task
        shows them (see `observe`); `identify` then finds the task.
      task: a name in `tasks`.
      names: without `task`, the candidates; as in `identify`.

    Returns:
      float32 [n, classes of the task]. Rows are computed in blocks of at most
      1024, the last one padded to a power of two: a row's bits may depend on
      the size of its block (in the last place, where the backend's products
      do), and on no other row.

    Raises:
      ValueError: an unknown task (lists the nearest), images of another dtype
        or shape, or no task and candidates that can't be told apart.
    """
    if task is None:
      found = self.identify(x, names=names)
      stored = self.task(found.task)
      chain = transforms.common(stored.transforms)
      return blocks.rows(
          lambda part: self._network_outputs(stored, part, chain), x)
    self.require(task)
    stored = self.task(task)
    check_images(x, tuple(stored.metadata['source_shape']), task,
                 stored.metadata.get('source_dtype', 'uint8'))
    return blocks.rows(lambda part: self.outputs(stored, part), x)

  def observe(self, x, task: str) -> jax.Array:
    """Raw images as a task shows them: permuted or rotated, if it does that.

    Args:
      x: uint8 [n, H, W, C] as the task's source gives them.
      task: a name in `tasks`.

    Returns:
      uint8 [n, H', W', C'], what `identify` and `predict(x)` take.
    """
    self.require(task)
    stored = self.task(task)
    check_images(x, tuple(stored.metadata['source_shape']), task)
    return transforms.observed(transforms.kinds(stored.transforms),
                               stored.parameters, jnp.asarray(x))

  def identify(self, x, rule: str = 'one_shot', objective: str | None = None,
               names=None, normalise: bool = False) -> Identified:
    """The task of images that come without one, by SupSup's inference.

    Args:
      x: uint8 [n, H, W, C], n >= 1 images of one task, as `observe` gives
        them (raw images, unless tasks permute or rotate them).
      rule: 'one_shot', 'binary' or 'brute_force' (see
        `mtl_jax.inference.identify`).
      objective: 'entropy' (H) or 'superfluous' (G); `None` takes G where
        there are more outputs than classes, else H (which then often fails:
        train with more outputs).
      names: the candidates; `None` takes every task but controls, repeats
        and pools, if all left masks or all coefficients.
      normalise: divide ImpressLearn's coefficients by the sum of their
        magnitudes first.

    Raises:
      ValueError: no candidate, candidates that can't be superposed or that
        prepare images differently, images of another dtype or shape, or
        images that do not tell the candidates apart at all.
    """
    if names is None:
      names = self._nameless()
    for name in names:
      self.require(name)
    if len(set(names)) != len(names):
      raise ValueError(f'names= has a task twice: {list(names)}')
    found = self.candidates(tuple(names))
    if normalise and found.bank.coefficients is None:
      raise ValueError('normalise divides coefficients by the sum of their '
                       'magnitudes, but all candidates have masks; leave it '
                       'out')
    if objective is None:
      spare = self.backbone.recipe['outputs'] > found.classes
      objective = ('superfluous' if spare and rule != 'brute_force'
                   else 'entropy')
    shapes, shape = found.image_shapes, tuple(np.shape(x)[1:])
    check_images(x, shape if shape in shapes else shapes[0], 'inference')
    if not len(x):
      raise ValueError('there is no image to infer the task from')
    # Padded to a power of two, so that few sizes compile; not where norm
    # statistics are those of all rows.
    rows = len(x) if self.backbone.stats else 1 << (len(x) - 1).bit_length()
    padded = np.zeros((1, rows, *shape), np.uint8)
    padded[0, :len(x)] = x
    inferred = candidates.infer_among(
        found, identify.Rule(rule, objective, normalise), self.backbone,
        padded, np.arange(rows)[None] < len(x))
    values = inferred.gradient[0]
    if np.isnan(values).any():
      raise FloatingPointError('task inference met NaN: an impression is not '
                               'finite; run mtl_jax.verify')
    if identify.tied(values):
      raise ValueError(
          f'the {len(x)} image(s) do not tell the {len(names)} candidates '
          f'apart: {rule} finds the same value for all. A network that '
          'normalises by the statistics of the images needs several images '
          'of one task; or name the task')
    return Identified(found.names[int(inferred.task[0])],
                      dict(zip(found.names, values.tolist())),
                      int(inferred.passes[0]))

  def _nameless(self) -> list[str]:
    """Tasks among which `identify` chooses unless told otherwise."""
    chosen = []
    kinds: dict[bool, str] = {}
    for name in self.tasks:
      record = self._record(name)
      if not (record['control'] or record['repeat']
              or record.get('pooled')):
        chosen.append(name)
        kinds.setdefault(bool(record['bytes']['coefficients']), name)
    if len(kinds) > 1:
      raise ValueError(
          f'{kinds[False]} left masks and {kinds[True]} coefficients: tasks of '
          'both kinds together are not told apart reliably; choose the '
          'candidates (names=)')
    return chosen

  def _load_record(self, name: str) -> dict:
    return checkpoint.load_metadata(self.workdir.task(name))['record']

  def _gather(self, names):
    return candidates.gather(names, self._read_mask, self.shared,
                             self.backbone.params)

  def outputs(self, stored: StoredTask, x) -> jax.Array:
    """`predict` for a task that is loaded already."""
    return self._network_outputs(stored, x, stored.transforms)

  def effective(self, stored: StoredTask) -> tuple[trees.Tree, Any]:
    """A task's parameters (see `impressions.materialise`) and statistics."""
    return (self.materialise(stored.method, stored.impression, stored.shared),
            stored.impression.stats or self.backbone.stats)

  def materialise(self, method: methods.Method,
                  impression: impressions.Impression,
                  shared: dict) -> trees.Tree:
    """A task's parameters on this backbone, in one compiled call."""
    return _materialise(method.materialise, self.backbone.params, impression,
                        shared)

  def _network_outputs(self, stored, x, chain) -> jax.Array:
    params, stats = self.effective(stored)
    parameters = (stored.parameters if chain == stored.transforms else
                  transforms.parameters(chain, np.shape(x)[1:]))
    return _forward(self.backbone.network, transforms.kinds(chain), params,
                    stats, parameters, jnp.asarray(x))[:, :stored.classes]

  def predict_mixed(self, x, tasks: Sequence[str | None]) -> jax.Array:
    """Logits of a batch whose rows belong to different tasks, in one call.

    The tasks named are kept in `shelves`, one bit per weight for a supermask;
    the call compiles again only when a shelf is new or grows (its capacity
    doubles) or the rows need more or other blocks than before (powers of
    two). A shelf holds impressions of one structure: one kind of masks, one
    basis, or one path through segments or components.

    Args:
      x: uint8 [n, H, W, C], as the tasks' sources give them; one shape.
      tasks: n names; `None` stands for the bare backbone behind the
        transforms that all tasks have in common, without permute and rotate.

    Returns:
      float32 [n, m], m the most classes of any row's task (the backbone's
      outputs for `None`); -inf beyond a row's own classes. Row by row what
      `predict` gives: the same bits where the backend's products don't
      depend on the number of rows, else within a few units in the last place.

    Raises:
      ValueError: another number of names than rows, an unknown name (lists
        the nearest), images of another dtype or shape than a task's, or
        `None` where the tasks disagree on what they have in common.
    """
    names = mixed_batch.check(x, tasks)
    shape = tuple(np.shape(x)[1:])
    missing = [name for name in dict.fromkeys(names)
               if not self.shelves.has(name, shape)]
    new = []
    for name in missing:
      if name is None:
        new.append(self._bare(shape))
        continue
      self.require(name)
      new.append(self.task(name))
      check_images(x, tuple(new[-1].metadata['source_shape']), name)
    self.shelves.add(new)
    return jnp.asarray(
        mixed_batch.predict(self.backbone, self.shelves, x, names))

  def require(self, name) -> None:
    """Raises ValueError if there is no such task; names the nearest."""
    plain = isinstance(name, str) and re.fullmatch(r'\w[\w.@~-]*', name)
    if plain and name in self._known:
      return
    # Not `name in self.tasks`, which looks at every folder: 1 ms each.
    if not plain or not checkpoint.exists(self.workdir.task(name)):
      raise ValueError(f'unknown task {name!r}'
                       f'{trees.nearest(str(name), self.tasks)}; known: '
                       f'{_some(self.tasks)}')
    self._known.add(name)

  def _bare(self, shape: tuple[int, ...]) -> StoredTask:
    """The backbone without an impression, for raw images of a shape."""
    found: dict[tuple, str] = {}
    for name in self.tasks:
      metadata = checkpoint.load_metadata(self.workdir.task(name))
      if tuple(metadata['source_shape']) == shape:
        found.setdefault(transforms.common(
            transforms.from_json(metadata['transforms'])), name)
    if not found:
      raise ValueError(f'no task takes images {list(shape)}, so it is not '
                       'known how the backbone takes them')
    if len(found) > 1:
      (one, a), (other, b) = list(found.items())[:2]
      raise ValueError(
          f'None is the backbone behind what all tasks have in common, but '
          f'{a} has {transforms.to_json(one)} and {b} '
          f'{transforms.to_json(other)}; name a task for every row')
    common, = found
    return StoredTask(
        None, impressions.Impression(), methods.PLAIN, {}, common,
        transforms.parameters(common, shape), self.backbone.recipe['outputs'],
        {'source_shape': list(shape)}, np.zeros(0))

  def _load_task(self, name: str) -> StoredTask:
    arrays, metadata = self._read(name)
    chosen = transforms.from_json(metadata['transforms'])
    method = self.method(name, metadata)
    said = origins.changed(metadata, self.backbone.recipe)
    stored = StoredTask(
        name, self._impression(arrays, metadata), method,
        origins.call(name, said, lambda: self.shared(name, metadata)), chosen,
        transforms.parameters(chosen, tuple(metadata['source_shape'])),
        metadata['classes'], metadata, arrays['probe'])
    origins.check(name, said, lambda: self.outputs(
        stored, probes.of_task(self.probe, metadata)), stored.probe)
    return stored

  def _impression(self, arrays, metadata) -> impressions.Impression:
    return checkpoint.arrays_to_impression(
        deduplicate.resolve(self.workdir, arrays, metadata),
        self.backbone.params, self.backbone.stats, metadata)

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
    metadata = json.loads(described)
    method = self.method('', metadata)
    return method.prepare(methods.Context(
        self.backbone.params,
        tuple(self._impression(*self._read(name))
              for name in metadata['relies_on']),
        jax.random.key(metadata['seed'], impl='threefry2x32')))

  def _read(self, name: str) -> tuple[dict, dict]:
    """(arrays, metadata) of a task's checkpoint, if it is of this backbone."""
    arrays, metadata = checkpoint.load(self.workdir.task(name))
    self.require_own(name, metadata)
    return arrays, metadata

  def _read_mask(self, name: str) -> tuple[dict, dict]:
    """`_read` of a task that can be superposed with others."""
    arrays, metadata = self._read(name)
    if not self.method(name, metadata).abilities.superposes:
      raise ValueError(
          f'task {name} was learned by {metadata["method"]["name"]}, whose '
          'impressions cannot be superposed; leave it out of the candidates '
          '(names=)')
    return arrays, metadata

  def require_own(self, name: str, metadata: dict) -> None:
    """Refuses a task that was made on another backbone, or other tasks."""
    self.require_backbone(name, metadata)
    for used, digest in metadata.get('relies_on', {}).items():
      if self.fingerprint(used) != digest:
        raise checkpoint.CheckpointError(
            f'task {name} was made with the task {used}, but another one of '
            'that name lies here; bring that back, or remove '
            f'{self.workdir.task(name)} to have {name} made again')

  def require_backbone(self, name: str, metadata: dict) -> None:
    """Refuses a task that was made on another backbone."""
    own = self.backbone.recipe['fingerprint']
    if metadata['backbone'] != own:
      raise checkpoint.CheckpointError(
          f'task {name} was made on the backbone {metadata["backbone"]}, not '
          f'on {own}: its impression does not fit this one')

  def _load_probe(self, source: str) -> np.ndarray:
    """Raw images of a source on which its tasks' outputs were kept."""
    return checkpoint.load(self.workdir.probe_of(source))[0]['images']


def name_of_shared(metadata: dict) -> str:
  """Equal for tasks whose `shared` is the same, as JSON.

  Args:
    metadata: of a stored task whose method needs earlier tasks.
  """
  return json.dumps({key: metadata.get(key) for key in (
      'method', 'relies_on', 'seed')})


# Apart from `_forward`, whose bits would depend on what is fused into it.
_materialise = jax.jit(
    lambda materialise, params, impression, shared: materialise(
        params, impression, shared), static_argnums=0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(network, kinds, params, stats, parameters, images):
  x = transforms.apply(kinds, parameters, images)
  return network.apply(params, stats, x, train=False)[0]


def check_images(x, shape: tuple[int, ...], task: str,
                 dtype: str = 'uint8') -> None:
  """Refuses images (or other inputs) that aren't of a dtype, [n, *shape]."""
  if (getattr(x, 'dtype', None) != np.dtype(dtype)
      or np.ndim(x) != 1 + len(shape) or np.shape(x)[1:] != shape):
    what = 'raw images' if dtype == 'uint8' else 'inputs'
    raise ValueError(
        f'task {task} takes {what} {dtype} [n, {", ".join(map(str, shape))}]'
        f'; got {getattr(x, "dtype", type(x).__name__)} '
        f'{getattr(x, "shape", "")}')


def _some(names: list[str]) -> str:
  more = f' and {len(names) - 20} more' if len(names) > 20 else ''
  return (', '.join(names[:20]) or 'none') + more


def load(workdir, plugins=None) -> System:
  """The system in a workdir; needs neither its data nor its config.

  Args:
    workdir: where a run left it.
    plugins: a Python file, or several, that register the methods and models of
      your own that the run used. Nothing is ever imported from a workdir.

  Raises:
    ValueError: not a workdir, its backbone can't be made again, or a plugin is
      missing or fails.
  """
  registry.load_plugins(plugins)
  work = workdir_lib.Workdir(workdir)
  formats.require(work.root)
  return System(work, backbone_lib.make(workdir_lib.read_json(work.backbone),
                                        work.weights))
