"""ViT weights as the AugReg checkpoints hold them: one `.npz`, no pickle.

Steiner et al. 2021, https://arxiv.org/abs/2106.10270. The files of
gs://vit_models/augreg name their arrays 'Transformer/encoderblock_0/...'. As
the official loader does: the head is replaced by zeros, `pre_logits` is
dropped, blocks beyond the wanted ones are left out, and the position embedding
is resized to the wanted grid of patches.
"""

import pathlib

import numpy as np

from mtl_jax import trees
from mtl_jax.models import vit

Tree = trees.Tree
_PREFIX = 'Transformer/'


def load(path, layers: int, outputs: int, image_shape) -> Tree:
  """The root that a file makes.

  Args:
    path: of the `.npz`.
    layers: blocks to take, from the bottom.
    outputs: of the new head.
    image_shape: (H, W, C) of the images.

  Raises:
    FileNotFoundError: there is no such file; says where they come from.
    ValueError: not such a file, too few blocks, other channels.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise FileNotFoundError(
        f'no ViT weights at {path}. The AugReg checkpoints are public: '
        'https://storage.googleapis.com/vit_models/augreg/index.csv lists '
        'them; save one as .npz there')
  try:
    with np.load(path, allow_pickle=False) as members:
      arrays = {name.removeprefix(_PREFIX): np.asarray(members[name])
                for name in members.files}
  except Exception as error:  # zipfile and NumPy raise many kinds
    raise ValueError(f'{path} cannot be read as .npz: {error}') from error
  tree = trees.unflatten(arrays)
  for name in ('embedding', 'cls', 'posembed_input', 'encoder_norm'):
    if name not in tree:
      raise ValueError(f'{path} has no {name}: it is not an AugReg ViT')
  if vit.layers_of(tree) < layers:
    raise ValueError(f'{path} has '
                     f'{trees.counted(vit.layers_of(tree), "block")}, but the '
                     f'model has {layers}')
  kept = ('embedding', 'cls', 'posembed_input', *vit.blocks(layers),
          'encoder_norm')
  params = {name: tree[name] for name in kept}
  patch, _, channels, width = params['embedding']['kernel'].shape
  height, breadth, colours = image_shape
  if channels != colours or height % patch or breadth % patch:
    raise ValueError(f'{path} takes images of '
                     f'{trees.counted(channels, "channel")} in patches of '
                     f'{patch}; got {tuple(image_shape)}')
  params['posembed_input'] = {'pos_embedding': resize(
      params['posembed_input']['pos_embedding'],
      (height // patch, breadth // patch))}
  params['head'] = {'kernel': np.zeros((width, outputs), np.float32),
                    'bias': np.zeros(outputs, np.float32)}
  return _as_float32(params)


def _as_float32(tree):
  return {name: _as_float32(leaf) if isinstance(leaf, dict)
          else np.asarray(leaf, np.float32) for name, leaf in tree.items()}


def save(path, params: Tree) -> None:
  """Writes a ViT in that format, so that it can be another system's root.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   save(f'{folder}/x.npz', {'cls': np.zeros((1, 1, 2), np.float32)})
  ...   list(np.load(f'{folder}/x.npz').files)
  ['cls']
  """
  flat = {}
  for name, leaf in trees.flatten(params).items():
    inner = name.startswith(('posembed_input', 'encoder'))
    flat[f'{_PREFIX if inner else ""}{name}'] = np.asarray(leaf)
  np.savez(path, allow_pickle=False, **flat)


def resize(embedding, grid: tuple[int, int]) -> np.ndarray:
  """Position embeddings for another grid of patches, linear in between.

  The class token's row is kept; the corners of the grids coincide, as with
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
  """float64 [new, old]: hat functions at positions that join the corners."""
  at = np.linspace(0, old - 1, new) if new > 1 else np.zeros(1)
  return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)[None]))
