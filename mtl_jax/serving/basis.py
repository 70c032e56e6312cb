"""Bases of masks: described in a task's checkpoint, made again from that."""

import dataclasses
import zlib

import jax

from mtl_jax import masks
from mtl_jax import trees
from mtl_jax.config import parts as config_parts
from mtl_jax.methods import base
from mtl_jax.methods import impresslearn
from mtl_jax.serving import backbone as backbone_lib
from mtl_jax.storage import checkpoint
from mtl_jax.storage import workdir as workdir_lib


@dataclasses.dataclass(frozen=True)
class Description:
  """What a basis is made from, next to the backbone.

  Attributes:
    kind: 'random', or masks that other tasks left.
    size: number of masks.
    members: the tasks, in order; none of a random basis.
    density: of random masks, else `None`.
    masked: patterns of the leaves that random masks have.
    seed: of random masks.
  """
  kind: str
  size: int
  members: tuple[str, ...]
  density: float | None
  masked: tuple[str, ...]
  seed: int

  @classmethod
  def of(cls, stored: dict) -> 'Description':
    """The description that `to_json` wrote."""
    return cls(**stored | {'members': tuple(stored['members']),
                           'masked': tuple(stored['masked'])})

  def to_json(self) -> dict:
    """JSON values, a part of every checkpoint that needs the basis."""
    return dataclasses.asdict(self) | {'members': list(self.members),
                                       'masked': list(self.masked)}


def describe(basis: config_parts.Basis, members: list[str],
             seed: int) -> Description:
  """The basis that a phase takes, of a run with a seed."""
  return Description(basis.kind, basis.size, tuple(members), basis.density,
                     tuple(basis.masked), seed)


def make(workdir: workdir_lib.Workdir, backbone: backbone_lib.Backbone,
         described: Description) -> trees.Tree:
  """Bool leaves [K, ...] of a described basis.

  Raises:
    ValueError: a member left no masks.
  """
  if described.kind == 'random':
    key = jax.random.key(described.seed, impl='threefry2x32')
    like = base.masked_part(backbone.params, described.masked)
    return impresslearn.random_basis(
        jax.random.fold_in(key, zlib.crc32(b'basis')), like, described.size,
        described.density)
  loaded = []
  for name in described.members:
    arrays, _ = checkpoint.load(workdir.task(name))
    packed = checkpoint.arrays_to_impression(arrays, backbone.params,
                                             backbone.stats)
    if packed.masks is None:
      raise ValueError(f'{name} left no masks and cannot be in a basis')
    loaded.append(packed.masks)
  return masks.stack(loaded)
