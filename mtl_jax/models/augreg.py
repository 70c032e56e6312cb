"""ViT weights in the form of the AugReg checkpoints: one `.npz`, no pickle.

Steiner et al. 2021, https://arxiv.org/abs/2106.10270. The files of
gs://vit_models/augreg name their arrays 'Transformer/encoderblock_0/...'. As
in the official loader, the head stays zero, `pre_logits` is dropped, blocks
beyond the wanted ones are left out, and the position embedding is resized to
the wanted grid of patches.
"""

import functools
import re

import numpy as np

from mtl_jax.models import pretrained

_PREFIX = 'Transformer/'
_BLOCK = re.compile(r'encoderblock_(\d+)/')
_POSITIONS = 'posembed_input/pos_embedding'
_LEFT_OUT = ('head/', 'pre_logits/')


def published(layers: int, patch: int) -> pretrained.Published:
  """The published form of a ViT's weights; see `pretrained.Published`.

  Args:
    layers: number of blocks to take, from the bottom.
    patch: pixels along a side of a patch.
  """
  return pretrained.Published(functools.partial(_take, layers, patch),
                              ('head/.*',))


def _take(layers, patch, arrays, known, key, image_shape) -> dict:
  """Arrays by path of leaf; see `pretrained.Published`."""
  del known, key
  result = {}
  for name, array in arrays.items():
    leaf = name.removeprefix(_PREFIX)
    block = _BLOCK.match(leaf)
    if not leaf.startswith(_LEFT_OUT) and not (
        block and int(block[1]) >= layers):
      result[leaf] = array
  if _POSITIONS in result:
    result[_POSITIONS] = resize(result[_POSITIONS], tuple(
        side // patch for side in image_shape[:2]))
  return result


def resize(embedding, grid: tuple[int, int]) -> np.ndarray:
  """Resizes position embeddings to another grid of patches, linearly.

  The class token's row is kept. The corners of the grids coincide, as with
  `scipy.ndimage.zoom(order=1)` in the official loader.

  Args:
    embedding: float32 [1, 1 + g * g, width].
    grid: (rows, columns) of patches.

  Returns:
    float32 [1, 1 + rows * columns, width].

  Raises:
    ValueError: the old grid is not square.
  """
  embedding = np.asarray(embedding, np.float32)
  token, old = embedding[:, :1], embedding[0, 1:]
  side = int(round(len(old) ** .5))
  if side * side != len(old):
    raise ValueError(f'the position embedding has {len(old)} patches, which '
                     'is not a square')
  if (side, side) == tuple(grid):
    return embedding
  rows, columns = (_linear_weights(side, new) for new in grid)
  new = np.einsum('Rr,Cc,rcd->RCd', rows, columns,
                  old.reshape(side, side, -1).astype(np.float64))
  new = new.reshape(1, grid[0] * grid[1], -1).astype(np.float32)
  return np.concatenate([token, new], 1)


def _linear_weights(old: int, new: int) -> np.ndarray:
  """float64 [new, old]: weights of linear interpolation from end to end."""
  at = np.linspace(0, old - 1, new) if new > 1 else np.zeros(1)
  return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)[None]))
