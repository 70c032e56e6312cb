"""Stored tasks gathered into one bank, and inference over it.

In suites of permuted or rotated tasks, an image without a task is already
permuted or rotated. Only the transforms that all candidates have in common
(fitting and normalising) are applied to it.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import aliases
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.data import pipeline
from mtl_jax.data import transforms
from mtl_jax.inference import identify
from mtl_jax.inference import superposition as superposition_lib
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.serving import checks

Tree = trees.Tree


class Bank(NamedTuple):
  """The candidates' arrays: tasks with masks first, then with coefficients.

  Attributes:
    packed: uint8 [T, bytes] per masked leaf, or `None`.
    coefficients: float32 [T', K] per combined leaf, or `None`.
    head: uint8 [T', bytes] of leaves that tasks with coefficients mask.
    basis: bool [K, ...] that the coefficients combine, or `None`.
  """
  packed: Tree
  coefficients: Tree
  head: Tree
  basis: Tree


class Candidates(NamedTuple):
  """The tasks among which one is inferred.

  Attributes:
    names: names in the order of the bank.
    bank: their arrays.
    transforms: transforms that are applied to every image.
    image_shapes: accepted shapes (H, W, C): first of images as the tasks show
      them, then of raw images, unless all tasks permute or rotate them.
    classes: the largest number of classes of a candidate.
    untrained: name of a candidate whose training did not reach the outputs
      beyond its classes (its loss was 'classes'), or `None`.
  """
  names: tuple[str, ...]
  bank: Bank
  transforms: transforms.Chain
  image_shapes: tuple[tuple[int, ...], ...]
  classes: int
  untrained: str | None


def gather(names: Sequence[str], read: Callable[[str], tuple[dict, dict]],
           shared_of: Callable[[str, dict], dict], like: Tree) -> Candidates:
  """Reads the candidates' checkpoints; masks stay packed.

  Args:
    names: names of stored tasks, at least one.
    read: (name) -> (arrays, metadata) of a stored task.
    shared_of: (name, metadata) -> the `shared` of the task's method.
    like: the backbone's parameters.

  Raises:
    ValueError: a task owns weights and can't be superposed, or two tasks
      prepare their images differently, mask different leaves or combine
      different bases; names them.
  """
  loaded = []
  for name in names:
    arrays, metadata = read(name)
    loaded.append((describe(name, arrays, metadata), arrays))
  found = agreed([described for described, _ in loaded])
  own = [x for x in loaded if not x[0].combines]
  mixed = [x for x in loaded if x[0].combines]
  basis = shared_of(mixed[0][0].name, mixed[0][0].metadata)[
      'basis'] if mixed else None
  return found._replace(bank=Bank(
      _stacked(own, 'masks', like), _stacked(mixed, 'coefficients', like),
      _stacked(mixed, 'masks', like), basis))


class Described(NamedTuple):
  """The facts that decide with which tasks a task can be superposed.

  Attributes:
    name: name of the task.
    metadata: metadata of its checkpoint.
    masked, combined: shapes of stored leaves with masks and with coefficients,
      by name.
  """
  name: str
  metadata: dict
  masked: dict[str, tuple]
  combined: dict[str, tuple]

  @property
  def combines(self) -> bool:
    """Whether it has coefficients over a basis."""
    return bool(self.combined)

  def arrays(self, arrays: dict, part: str) -> dict:
    """The leaves of a part by name, from the checkpoint's arrays."""
    return _part(arrays, part)


def describe(name: str, arrays: dict, metadata: dict) -> Described:
  """A stored task as a candidate.

  Raises:
    ValueError: the task owns weights and can't be superposed.
  """
  masked, combined = ({leaf: np.shape(array) for leaf, array in _part(
      arrays, part).items()} for part in ('masks', 'coefficients'))
  if _part(arrays, 'values') or not (masked or combined):
    raise ValueError(f'task {name} left weights of its own, which cannot be '
                     'superposed; name candidates without it')
  return Described(name, metadata, masked, combined)


def agreed(found: Sequence[Described]) -> Candidates:
  """The transforms, shapes and classes of candidates, without their arrays.

  Raises:
    ValueError: there is no candidate, or two can't be superposed; names them.
  """
  if not found:
    raise ValueError('no task has left masks or coefficients yet: there is '
                     'nothing to infer')
  own = [x for x in found if not x.combines]
  mixed = [x for x in found if x.combines]
  chain, shapes = _common_chain(found)
  for x in mixed:
    if _basis_of(x.metadata) != _basis_of(mixed[0].metadata):
      raise ValueError(f'tasks {mixed[0].name} and {x.name} combine different '
                       'bases; name candidates of one basis')
  for part, members in (('masks', own), ('coefficients', mixed),
                        ('masks', mixed)):
    for x in members:
      _require_same_leaves(members[0], x, part)
  both = {**mixed[0].masked, **mixed[0].combined} if mixed else {}
  if own and mixed and set(own[0].masked) != set(both):
    name = sorted(set(own[0].masked) ^ set(both))[0]
    raise ValueError(f'tasks {own[0].name} and {mixed[0].name} do not mask the '
                     f'same leaves ({name}) and cannot be superposed')
  return Candidates(tuple(x.name for x in own + mixed),
                    Bank(None, None, None, None), chain, shapes,
                    max(x.metadata['classes'] for x in found),
                    next((x.name for x in found
                          if x.metadata.get('loss') == 'classes'), None))


def _require_same_leaves(first: Described, other: Described,
                         part: str) -> None:
  wanted, found = ((x.masked if part == 'masks' else x.combined)
                   for x in (first, other))
  if set(wanted) != set(found):
    raise ValueError(f'tasks {first.name} and {other.name} left {part} of '
                     'different leaves and cannot be superposed')
  for leaf, shape in wanted.items():
    if found[leaf] != shape:
      raise ValueError(
          f'tasks {first.name} and {other.name} left {part} of {leaf} in other '
          f'shapes, {shape} and {found[leaf]}; name candidates of one kind')


def _basis_of(metadata: dict) -> tuple:
  """A value that is equal for tasks that combine the same masks."""
  return (metadata['method']['options'].get('basis'),
          list((metadata.get('relies_on') or {}).items()), metadata['seed'])


def _part(arrays: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
  return {name.removeprefix(f'{part}/'): a for name, a in arrays.items()
          if name.startswith(f'{part}/')}


def _common_chain(described: Sequence[tuple]
                  ) -> tuple[transforms.Chain, tuple[tuple[int, ...], ...]]:
  """The transforms for images without a task, and their possible shapes."""
  found: dict[tuple[transforms.Chain, tuple[int, ...]], str] = {}
  raw: dict[tuple[int, ...], str] = {}
  for name, metadata, *_ in described:
    chain = transforms.from_json(metadata['transforms'])
    shape = tuple(metadata['source_shape'])
    if chain == transforms.common(chain):
      raw[shape] = name
    shown = pipeline.output_shape(transforms.kinds(chain), shape)
    found.setdefault((transforms.common(chain), shown), name)
  if len(found) > 1:
    a, b = list(found.values())[:2]
    raise ValueError(
        f'tasks {a} and {b} prepare their images differently, so that an '
        'image alone does not say how to prepare it; train them with one '
        'normalisation and image_shape (options of the suite)')
  chain, shown = next(iter(found))
  return chain, tuple(dict.fromkeys([shown, *raw]))


def by_default(names: Iterable[str],
               record: Callable[[str], dict]) -> list[str]:
  """The tasks among which a task is inferred if none are named.

  Args:
    names: of all tasks.
    record: (name) -> the measurements of a task.

  Returns:
    All except controls, repeats and pools.

  Raises:
    ValueError: some have masks and others coefficients.
  """
  chosen = []
  kinds: dict[bool, str] = {}
  for name in names:
    found = record(name)
    if not (found['control'] or found['repeat'] or found.get('pooled')):
      chosen.append(name)
      kinds.setdefault(bool(found['bytes']['coefficients']), name)
  if len(kinds) > 1:
    raise ValueError(
        f'{kinds[False]} left masks and {kinds[True]} coefficients: tasks of '
        'both kinds together are not told apart reliably; name the '
        'candidates')
  return chosen


def check_shown(x: aliases.Images, name: str, metadata: dict) -> None:
  """Refuses images that are not as a task shows them, nor raw where it may."""
  _, shapes = _common_chain([(name, metadata)])
  given = tuple(getattr(x, 'shape', ()))[1:]
  checks.check_images(x, given if given in shapes else shapes[0], name,
                      metadata.get('source_dtype', 'uint8'))


def _stacked(loaded: Sequence[tuple[Described, dict[str, np.ndarray]]],
             part: str, like: Tree) -> Tree:
  parts = [_part(arrays, part) for _, arrays in loaded]
  if not any(parts):
    return None
  return trees.map_named(
      lambda name, _: jax.device_put(np.stack([p[name] for p in parts]))
      if name in parts[0] else None, like)


def subset(found: Candidates, names: Iterable[str]) -> Candidates:
  """Only the candidates with these names, in the order of the bank."""
  chosen = [i for i, name in enumerate(found.names) if name in set(names)]
  part = found.bank
  own = 0 if part.packed is None else jax.tree.leaves(part.packed)[0].shape[0]
  first = np.array([i for i in chosen if i < own], int)
  last = np.array([i - own for i in chosen if i >= own], int)

  def take(tree: Tree, index: np.ndarray) -> Tree:
    if tree is None or not len(index):
      return None
    return jax.tree.map(lambda x: x[index], tree)
  bank = Bank(take(part.packed, first), take(part.coefficients, last),
              take(part.head, last), part.basis if len(last) else None)
  return found._replace(names=tuple(found.names[i] for i in chosen), bank=bank)


def superposition(bank: Bank, like: Tree,
                  normalise: bool = False
                  ) -> superposition_lib.Superposition:
  """The bank's tasks in the order of `Candidates.names`."""
  parts = []
  if bank.packed is not None:
    parts.append(superposition_lib.of_masks(bank.packed, like))
  if bank.coefficients is not None:
    alphas = bank.coefficients
    if normalise:
      alphas = superposition_lib.normalised(alphas)
    combined = superposition_lib.of_coefficients(alphas, bank.basis)
    if bank.head is not None:
      combined = superposition_lib.beside(
          superposition_lib.of_masks(bank.head, like), combined)
    parts.append(combined)
  return functools.reduce(superposition_lib.joined, parts)


def infer_among(found: Candidates, rule: identify.Rule,
                backbone: backbone_lib.Backbone, images: aliases.Images,
                counted: aliases.Images) -> identify.Inferred:
  """`infer` over the given candidates, as NumPy arrays.

  Args:
    found: from `gather`.
    rule: rule of the inference.
    backbone: backbone of the system.
    images: uint8 [N, n, H, W, C], see `infer`.
    counted: bool [N, n].
  """
  return jax.device_get(infer(
      rule, backbone.network, transforms.kinds(found.transforms),
      found.classes, backbone.params, backbone.stats, found.bank,
      pipeline.parameters(found.transforms, np.shape(images)[2:]), images,
      counted))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def infer(rule: identify.Rule, network: models.Network,
          kinds: transforms.Kinds, classes: int, backbone: aliases.Params,
          stats: aliases.Stats, bank: Bank, parameters: pipeline.Parameters,
          images: aliases.Array, counted: aliases.Array) -> identify.Inferred:
  """Many inferences in one call.

  A network with norm statistics uses the statistics of the images, since the
  task and so its stored statistics aren't known yet (as in SupSup's code).

  Args:
    rule: static.
    network: `models.Network`; static.
    kinds: static part of `Candidates.transforms`.
    classes: number of real outputs; static.
    backbone, stats: parameters and statistics of the backbone.
    bank: `Bank`.
    parameters: parameters of the transforms.
    images: uint8 [N, n, H, W, C], n images for each of N inferences.
    counted: bool [N, n], images that count; others are padding.

  Returns:
    `identify.Inferred` with leaves [N, ...].
  """
  size = sum(jax.tree.leaves(part)[0].shape[0] for part in (
      bank.packed, bank.coefficients) if part is not None)
  return infer_used(rule, network, kinds, classes, backbone, stats, bank,
                    jnp.ones(size, bool), parameters, images, counted)


def infer_used(
    rule: identify.Rule, network: models.Network, kinds: transforms.Kinds,
    classes: int, backbone: aliases.Params, stats: aliases.Stats, bank: Bank,
    used: aliases.Array, parameters: pipeline.Parameters,
    images: aliases.Array, counted: aliases.Array) -> identify.Inferred:
  """`infer` among the used tasks of a bank, bool [T]; not jitted."""
  tasks = superposition(bank, backbone, rule.normalise)

  def one(images: aliases.Array, real: aliases.Array) -> identify.Inferred:
    x = pipeline.apply(kinds, parameters, images)

    def loss(params: aliases.Params) -> aliases.Array:
      logits, _ = network.apply(params, stats, x, train=bool(stats))
      return identify.OBJECTIVES[rule.objective](logits, real, classes)
    return rule.infer(loss, backbone, tasks, used)

  return jax.vmap(one)(images, counted)
