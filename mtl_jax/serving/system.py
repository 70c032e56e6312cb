"""A trained system loaded from a workdir: its tasks and their outputs."""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from mtl_jax import aliases
from mtl_jax import host
from mtl_jax import impressions
from mtl_jax import messages
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import registry
from mtl_jax import trees
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.inference import identify
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.serving import blocks
from mtl_jax.serving import cache
from mtl_jax.serving import candidate_shelf
from mtl_jax.serving import candidates
from mtl_jax.serving import checks
from mtl_jax.serving import mixed_batch
from mtl_jax.serving import origins
from mtl_jax.serving import probes
from mtl_jax.serving import stored_tasks
from mtl_jax.serving import task_cache
from mtl_jax.storage import checkpoint
from mtl_jax.storage import formats
from mtl_jax.storage import json_records
from mtl_jax.storage import workdir as workdir_lib

StoredTask = stored_tasks.StoredTask


class Identified(NamedTuple):
  """The result of a task inference.

  Attributes:
    task: name of the inferred task.
    gradient: for each candidate, d objective / d belief at the last step; the
      lowest wins (for 'brute_force', the objective itself).
    passes: number of backward passes.
  """
  task: str
  gradient: dict[str, float]
  passes: int


class System(stored_tasks.StoredTasks):
  """Tasks that share one backbone; made by `load`.

  Any number of threads may use one system and all of its methods at once;
  tasks that another process finishes meanwhile are found. Cached arrays are
  never changed, and no call donates an array that another call uses.

  Attributes:
    workdir: the workdir.
    backbone: the network and its immutable parameters.
    shelves: tasks that `predict_mixed` has used, as bits.
    candidates: cached candidates for `evaluation.scenarios`, by names.
  """

  def refresh(self) -> None:
    super().refresh()
    self.shelves = task_cache.Shelves()
    self.candidates = cache.Cache(self._gather, count=1)
    self._identifiable = candidate_shelf.CandidateShelf(
        self.read_mask, self.shared, self.backbone.params)
    self._chosen: tuple = (None, [])
    self._bare: cache.Cache = cache.Cache(  # by shape and the tasks there are
        lambda key: mixed_batch.bare_backbone(self, key[0]), count=4)

  def __repr__(self) -> str:
    names, recipe = self.tasks, self.backbone.recipe
    shown = checks.some(names[:3]) + (', ...' if len(names) > 3 else '')
    return (f'System({str(self.workdir.root)!r}: '
            f'{trees.counted(len(names), "task")} ({shown}) on '
            f'{recipe["model"]} of {trees.size(self.backbone.params):,} '
            f'weights {recipe["fingerprint"][:12]})')

  def predict(self, x: aliases.Images, task: str | None = None,
              names: Sequence[str] | None = None) -> aliases.Array:
    """Logits of images that all belong to one task.

    Args:
      x: uint8 [n, H, W, C]. With `task`, raw images of the task's source: the
        task's own transform is part of its impression. Without `task`, images
        as the task shows them (see `observe`); `identify` then infers the task.
      task: a name in `tasks`.
      names: without `task`, the candidates; as in `identify`. A single one is
        taken without inference.

    Returns:
      float32 [n, classes of the task]. Rows are computed in blocks of at most
      1024, the last one padded to a power of two. A row's bits may depend on
      the size of its block (in the last place, as the backend's products do),
      but not on other rows.

    Raises:
      ValueError: the task is unknown (lists the nearest), images have another
        dtype or shape, both a task and candidates are given, or the candidates
        can't be told apart.
    """
    if task is not None and names is not None:
      raise ValueError(f'task is {messages.shown(task)}, so there is nothing '
                       'to infer among names=; leave out one of them')
    if task is None:
      if isinstance(names, (list, tuple)) and len(names) == 1:
        self.require(names[0])
        stored = self.task(names[0])
        candidates.check_shown(x, stored.name or '', stored.metadata)
      else:
        stored = self.task(self.identify(x, names=names).task)
      chain = transforms.common(stored.transforms)
      return blocks.rows(
          lambda part: self._network_outputs(stored, part, chain), x)
    self.require(task)
    stored = self.task(task)
    checks.check_images(x, tuple(stored.metadata['source_shape']), task,
                        stored.metadata.get('source_dtype', 'uint8'))
    return blocks.rows(lambda part: self.outputs(stored, part), x)

  def observe(self, x: aliases.Images, task: str) -> aliases.Array:
    """Applies a task's permutation or rotation, if it has any, to raw images.

    Args:
      x: uint8 [n, H, W, C], raw images of the task's source.
      task: a name in `tasks`.

    Returns:
      The input of `identify` and `predict(x)`; tables and tokens as they are.
    """
    self.require(task)
    stored = self.task(task)
    checks.check_images(x, tuple(stored.metadata['source_shape']), task,
                        stored.metadata.get('source_dtype', 'uint8'))
    return pipeline.observed(transforms.kinds(stored.transforms),
                             stored.parameters, jax.device_put(
                                 x if isinstance(x, jax.Array)
                                 else np.asarray(x)))

  def identify(self, x: aliases.Images, rule: str = 'one_shot',
               objective: str | None = None,
               names: Sequence[str] | None = None,
               normalise: bool = False, rerank: int = 0) -> Identified:
    """Infers the task of images by SupSup's inference.

    Args:
      x: uint8 [n, H, W, C], n >= 1 images of one task, from `observe`
        (or raw images, unless tasks permute or rotate them).
      rule: 'one_shot', 'binary' or 'brute_force' (see
        `mtl_jax.inference.identify`).
      objective: 'entropy' (H) or 'superfluous' (G); `None` takes G if there
        are more outputs than classes and the training of all candidates
        reached them (loss='softmax'), else H (which then often fails: train
        with more outputs).
      names: the candidates; `None` takes all tasks except controls, repeats
        and pools, if all of them have masks or all have coefficients.
      normalise: divide ImpressLearn's coefficients by the sum of their
        absolute values first.
      rerank: with 'binary' and 'entropy', the number of last candidates that
        are compared by their own networks (ours, in no paper); 0 for none.

    Raises:
      ValueError: there is no candidate, candidates can't be superposed or
        prepare images differently, images have another dtype or shape, or
        they do not tell the candidates apart.
    """
    names = self._nameless() if names is None else self._named(names)
    identifiable = self._identifiable  # once: others may exchange it
    found = identifiable.select(
        [(name, self.workdir.version(name)) for name in names])
    asked = found.rule(self.backbone.recipe['outputs'], rule, objective,
                       normalise, rerank)
    checks.require_images(x, names[0], self.metadata)
    shapes = found.image_shapes
    shape = tuple(getattr(x, 'shape', ())[1:])
    checks.check_images(x, shape if shape in shapes else shapes[0], 'inference')
    if not len(x):
      raise ValueError('there is no image to infer the task from')
    # Padded to a power of two, so that few sizes compile; but not if norm
    # statistics are computed from all rows.
    rows = len(x) if self.backbone.stats else 1 << (len(x) - 1).bit_length()
    padded = np.zeros((1, rows, *shape), np.uint8)
    padded[0, :len(x)] = x
    task, values, passes = identifiable.infer(
        found, asked, self.backbone, padded, np.arange(rows)[None] < len(x))
    if np.isnan(values).any():
      raise FloatingPointError('task inference met NaN: an impression is not '
                               'finite; run mtl_jax.verify')
    if identify.tied(values):
      raise ValueError(
          f'{trees.counted(len(x), "image")} cannot tell the {len(names)} '
          f'candidates apart: {rule} finds the same value for all. A network '
          'that normalises by the statistics of the images needs several '
          'images of one task; or name the task')
    return Identified(task, dict(zip(found.names, values.tolist())), passes)

  def _named(self, names: Sequence[str]) -> list[str]:
    """The candidates that a caller of `identify` names."""
    if isinstance(names, str) or not isinstance(names, Iterable) or not (
        names := list(names)):
      raise ValueError(f'names is {messages.shown(names)}; give the names of '
                       'the candidates as a list')
    for name in names:
      self.require(name)
    if len(set(names)) != len(names):
      raise ValueError(f'names= has a task twice: {names}')
    return names

  def _nameless(self) -> list[str]:
    """The default candidates of `identify`."""
    there = self.workdir.finished_tasks()
    known, chosen = self._chosen
    if known is not there:  # the same object as long as no task changes
      chosen = candidates.by_default(sorted(there), self.record)
      self._chosen = there, chosen
    return chosen

  def _gather(self, names: Sequence[str]) -> candidates.Candidates:
    return candidates.gather(names, self.read_mask, self.shared,
                             self.backbone.params)

  def outputs(self, stored: StoredTask, x: aliases.Images) -> aliases.Array:
    """`predict` for a loaded task."""
    return self._network_outputs(stored, x, stored.transforms)

  def effective(self, stored: StoredTask
                ) -> tuple[aliases.Params, aliases.Stats]:
    """A task's parameters (see `impressions.materialise`) and statistics."""
    make = lambda: self.materialise(stored.method, stored.impression,
                                    stored.shared)
    return (origins.call(stored.metadata, self.backbone.recipe, make),
            stored.impression.stats or self.backbone.stats)

  def materialise(self, method: methods.Method,
                  impression: impressions.Impression,
                  shared: dict) -> aliases.Params:
    """A task's parameters on this backbone, in one compiled call."""
    return _materialise(method.materialise, self.backbone.params, impression,
                        shared)

  def _network_outputs(self, stored: StoredTask, x: aliases.Images,
                       chain: transforms.Chain) -> aliases.Array:
    params, stats = self.effective(stored)
    parameters = (stored.parameters if chain == stored.transforms else
                  pipeline.parameters(chain, np.shape(x)[1:]))
    return _forward(self.backbone.network, transforms.kinds(chain), params,
                    stats, parameters, x)[:, :stored.classes]

  def predict_mixed(self, x: aliases.Images,
                    tasks: Sequence[str | None]) -> aliases.Array:
    """Logits of a batch whose rows belong to different tasks, in one call.

    The named tasks are kept in `shelves`, with one bit per weight of a
    supermask; if these exceed `cache_bytes`, they start anew. The call compiles
    again only if a shelf is new or grows (its capacity doubles), or if the rows
    need more or other blocks than before (powers of two). A shelf holds
    impressions of one structure: one kind of masks, one basis, or one path
    through segments or components.

    Args:
      x: uint8 [n, H, W, C], raw images of the tasks' sources; one shape.
      tasks: n names; `None` stands for the bare backbone with the
        transforms that all tasks have in common, without permute and rotate.

    Returns:
      float32 [n, m], where m is the largest number of classes of any row's
      task (the backbone's outputs for `None`); -inf beyond a row's own
      classes. Each row equals that of `predict`: with the same bits if the
      backend's products don't depend on the number of rows, else within a few
      units in the last place.

    Raises:
      ValueError: the numbers of names and rows differ, a name is unknown
        (lists the nearest), images have another dtype or shape than a task's,
        or `None` is given and the tasks have different transforms.
    """
    names = mixed_batch.check(x, tasks, self.metadata)
    shape = tuple(np.shape(x)[1:])
    shelves = self.shelves  # once: others may exchange them
    if shelves.outgrown(self._cache_bytes, len(set(names))):
      self.shelves = shelves = task_cache.Shelves()
    new = []
    if None in names:
      bare = self._bare((shape, frozenset(
          self.workdir.finished_tasks().items())))
      if not shelves.has(None, shape, bare.version):
        new.append(bare)
    for name in dict.fromkeys(names):
      if name is None or shelves.has(name, shape, self.workdir.version(name)):
        continue
      self.require(name)
      new.append(self.task(name))
      checks.check_images(x, tuple(new[-1].metadata['source_shape']), name)
    shelves.add(new)
    return jax.device_put(
        mixed_batch.predict(self.backbone, shelves, x, names))

  def require(self, name: object) -> None:
    """Raises ValueError if there is no such task; names the nearest."""
    if (not isinstance(name, str) or not re.fullmatch(r'\w[\w.@~-]*', name)
        or not self.workdir.has_task(name)):
      self.workdir.require_there()
      if isinstance(name, str) and '\0' not in name:
        checkpoint.require_readable(self.workdir.task(name))
      raise ValueError(f'unknown task {messages.shown(name)}'
                       f'{trees.nearest(str(name), self.tasks)}; known: '
                       f'{checks.some(self.tasks)}')

  def _load_task(self, key: stored_tasks.Key) -> StoredTask:
    stored = super()._load_task(key)
    origins.check(stored.metadata, self.backbone.recipe, lambda: self.outputs(
        stored, probes.of_task(self.probe, stored.metadata)), stored.probe)
    return stored


# Separate from `_forward`, as its bits would depend on what is fused into it.
_materialise = jax.jit(
    lambda materialise, params, impression, shared: materialise(
        params, impression, shared), static_argnums=0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(network: models.Network, kinds: transforms.Kinds,
             params: aliases.Params, stats: aliases.Stats,
             parameters: pipeline.Parameters,
             images: aliases.Array) -> aliases.Array:
  x = pipeline.apply(kinds, parameters, images)
  return network.apply(params, stats, x, train=False)[0]


S = TypeVar('S', bound=System)


def load(workdir: aliases.Path,
         plugins: aliases.Path | Iterable[aliases.Path] | None = None,
         cache_bytes: int = stored_tasks.CACHE_BYTES,
         kind: type[S] = System) -> S:  # type: ignore[assignment]
  """Loads the system in a workdir; needs neither its data nor its config.

  Args:
    workdir: the workdir of a run.
    plugins: a Python file, or several, that register your own methods and
      models that the run used. Nothing is ever imported from a workdir.
    cache_bytes: device memory for the last used tasks, and again for those of
      `predict_mixed`. The tasks of one call may need more.
    kind: class of the system to make.

  Raises:
    ValueError: the folder is not a workdir, a file of it was edited, its
      backbone can't be made again, or a plugin is missing or fails.
  """
  if not trees.is_number(cache_bytes) or not cache_bytes >= 0:
    raise ValueError(f'cache_bytes is {messages.shown(cache_bytes)}; give a '
                     'number of bytes, 0 to keep no task')
  host.require_settings()
  registry.load_plugins(plugins)
  work = workdir_lib.Workdir(workdir)
  work.read()
  formats.require(work.root)
  recipe = json_records.read_json(work.backbone)
  if work.config.exists():
    json_records.read_json(work.config)  # refuses an edited file
  return kind(work, backbone_lib.make(recipe, backbone_lib.kept(work)),
              cache_bytes)
