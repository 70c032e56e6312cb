"""Converts trees and impressions to the named arrays of a checkpoint."""

import json
from typing import Any

import jax
import numpy as np

from mtl_jax import impressions
from mtl_jax import json_files
from mtl_jax import masks
from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.storage import checkpoint


def tree_to_arrays(tree: Any) -> dict[str, Any]:
  """A tree as named arrays for `save`; typed keys become their data."""
  return trees.flatten(parallel.to_host(tree))


def arrays_to_tree(arrays: dict[str, Any], like: Any) -> Any:
  """Inverse of `tree_to_arrays`; `like` has the structure and the dtypes.

  Raises:
    checkpoint.CheckpointError: names, shapes or dtypes differ from `like`.
  """
  wanted = {name: leaf for name, leaf in trees.flatten(like).items()
            if leaf is not None}
  if set(wanted) != set(arrays):
    name = sorted(set(wanted) ^ set(arrays))[0]
    raise checkpoint.CheckpointError(
        f'leaf {name} is in only one of the checkpoint and the state '
        'to restore; the config has changed')

  def leaf(name, old):
    if old is None:
      return None
    new = arrays[name]
    if jax.dtypes.issubdtype(old.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(new, impl=jax.random.key_impl(old))
    if new.shape != old.shape or new.dtype != old.dtype:
      raise checkpoint.CheckpointError(
          f'leaf {name} is {new.dtype}{new.shape} in the '
          f'checkpoint but {old.dtype}{old.shape} here')
    return new
  return trees.map_named(leaf, like)


def impression_to_arrays(impression: impressions.Impression) -> dict:
  """Named arrays of an impression for `save`, with packed masks.

  A leaf that has both a mask and values (a subnetwork) keeps only the values
  under the mask, in the order of their indices.
  """
  # On the host: a call of JAX takes longer than packing itself.
  packed = (None if impression.masks is None else jax.tree.map(
      lambda m: np.packbits(np.asarray(m)),
      masks.require_bool(impression.masks)))
  arrays = tree_to_arrays(impression._replace(masks=packed)._asdict())
  kept = {} if impression.masks is None else trees.flatten(
      parallel.to_host(impression.masks))
  for name, mask in kept.items():
    if mask is not None and arrays.get(f'values/{name}') is not None:
      arrays[f'values/{name}'] = arrays[f'values/{name}'][mask]
  if impression.path is not None:
    text = json.dumps(impression.path.parts, separators=(',', ':'))
    arrays['path'] = np.frombuffer(text.encode(), np.uint8)
  return arrays


def impression_metadata(impression: impressions.Impression) -> dict:
  """The parts of an impression that are not arrays, as JSON values."""
  check_parts(impression)
  found: dict[str, Any] = {}
  if impression.structure is not None:
    found['structure'] = list(impression.structure.parts)
  absent = [name for name, a in trees.flatten(impression.parts or {}).items()
            if a is None]
  return found | ({'absent': absent} if absent else {})


def densities(impression: impressions.Impression) -> dict[str, float]:
  """The share of weights that each masked leaf keeps, for a task's record."""
  masked = trees.flatten(parallel.to_host(impression.masks or {}))
  return {name: round(np.count_nonzero(leaf) / leaf.size, 6)
          for name, leaf in masked.items() if leaf is not None}


def kept(impression: impressions.Impression) -> float | None:
  """The share of all masked weights that masks keep; `None` without masks."""
  masked = jax.tree.leaves(parallel.to_host(impression.masks or {}))
  size = sum(leaf.size for leaf in masked)
  return round(sum(map(np.count_nonzero, masked)) / size, 6) if size else None


def arrays_to_impression(arrays: dict, backbone: Any, stats: Any,
                         metadata: dict) -> impressions.Impression:
  """Inverse of `impression_to_arrays`.

  Args:
    arrays: from `checkpoint.load`; names outside the impression are ignored.
    backbone: tree with the structure and the shapes of the masks.
    stats: tree with the structure of the norm statistics.
    metadata: holds the result of `impression_metadata`. With a 'structure',
      values may have leaves that the backbone lacks.
  """
  parts: dict[str, Any] = {}
  grown = metadata.get('structure') is not None
  if grown:
    parts['structure'] = impressions.Structure(tuple(metadata['structure']))
  own = {name.removeprefix('parts/'): a for name, a in arrays.items()
         if name.startswith('parts/')}
  if own:
    parts['parts'] = trees.unflatten(
        own | dict.fromkeys(metadata.get('absent') or ()))
  if 'path' in arrays:
    parts['path'] = impressions.Path(tuple(
        (own, name) for own, name in json_files.parse(
            arrays['path'].tobytes(), list, 'leaf path', 'the path')))
  for part in ('masks', 'coefficients', 'values', 'stats'):
    like = stats if part == 'stats' else backbone
    found = {name.removeprefix(f'{part}/'): a for name, a in arrays.items()
             if name.startswith(f'{part}/')}
    if grown and part == 'values':
      parts[part] = trees.unflatten(found)
      continue
    unknown = sorted(set(found) - set(trees.flatten(like)))
    if unknown:
      raise checkpoint.CheckpointError(
          f'leaf {part}/{unknown[0]} has no counterpart in '
          'the backbone: this is another network')
    parts[part] = trees.map_named(
        lambda name, _, found=found: found.get(name), like) if found else None
  if parts['masks'] is not None:
    parts['masks'] = masks.unpack(parts['masks'], backbone)
    if parts['values'] is not None:
      parts['values'] = trees.map_named(_scatter, parts['values'],
                                        parts['masks'])
  return impressions.Impression(**parts)


def _scatter(name, value, mask):
  """The dense leaf with the given values under the mask, 0 elsewhere."""
  if value is None or mask is None:
    return value
  mask = np.asarray(mask)
  if value.shape != (np.count_nonzero(mask),):
    raise checkpoint.CheckpointError(
        f'leaf values/{name} has shape {value.shape}, but '
        f'its mask keeps {trees.counted(np.count_nonzero(mask), "weight")}')
  dense = np.zeros(mask.shape, value.dtype)
  dense[mask] = value
  return dense


def check_parts(impression: impressions.Impression) -> None:
  """Refuses named parts that can't be stored.

  Raises:
    ValueError: a part has no valid name or that of a field, or is not a dict
      of arrays at every level; names it.
  """
  if not isinstance(impression.parts, (dict, type(None))):
    raise ValueError('parts of the impression are a '
                     f'{type(impression.parts).__name__}; they must be a dict '
                     'of parts by name')
  for name, tree in (impression.parts or {}).items():
    if not isinstance(name, str) or not name or '/' in name:
      raise ValueError(f'the impression has a part {name!r}; names of parts '
                       "are strings without '/'")
    if name in impressions.Impression._fields:
      raise ValueError(f'the impression has a part {name!r}, but that is the '
                       'name of a known part; put it there, or choose another '
                       'name')
    _check_dict(name, tree)


def _check_dict(name: str, tree: trees.Tree) -> None:
  if isinstance(tree, dict) and tree:
    for key, child in tree.items():
      if not isinstance(key, str) or not key or '/' in key:
        raise ValueError(f'part {name} has the key {key!r}; keys of a part are '
                         "strings without '/'")
      _check_dict(f'{name}/{key}', child)
  elif tree is not None and not hasattr(tree, 'dtype'):
    raise ValueError(f'part {name} is a {type(tree).__name__}; a part is a '
                     'dict of arrays, at any depth')
