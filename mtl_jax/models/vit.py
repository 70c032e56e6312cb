"""The Vision Transformer as pure functions of the parameter tree.

Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929, in the form of
google-research/vision_transformer: 16 x 16 patches, a class token, pre-norm
blocks, no dropout, a head that starts at zero. Names are those of its
checkpoints without 'Transformer', so that every entry at the top of the tree
is one component:

    embedding  cls  posembed_input  encoderblock_0 ...  encoder_norm  head
    residual_adapter_i   x + Dense(gelu(Dense(norm(x)))) before block i

The tree determines which blocks and adapters there are, how wide they are and
how many outputs the head has: one `apply` serves every path of mu2Net.
"""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtl_jax import host

Tree = Any


@dataclasses.dataclass(frozen=True)
class Sizes:
  """A ViT's dimensions.

  Attributes:
    width, hidden: features of a token, and inside a block's MLP.
    heads: attention heads; `width` is a multiple.
    layers: number of encoder blocks; 0 is allowed.
    patch: pixels along a patch's edge.
  """
  width: int
  hidden: int
  heads: int
  layers: int
  patch: int = 16

  def __post_init__(self):
    if self.width % self.heads:
      raise ValueError(f'vit: width {self.width} is not a multiple of '
                       f'{self.heads} heads')
    if self.layers < 0:
      raise ValueError(f'vit: num_layers is {self.layers}; it must not be '
                       'negative')


PRESETS = {
    'vit_ti': Sizes(192, 768, 3, 12),
    'vit_s': Sizes(384, 1536, 6, 12),
    'vit_b': Sizes(768, 3072, 12, 12),
    'vit_l': Sizes(1024, 4096, 16, 24),
}


def init(sizes: Sizes, outputs: int, key, image_shape) -> Tree:
  """A randomly initialised ViT.

  Args:
    sizes: dimensions of the network.
    outputs: outputs of the head, which is all zeros.
    key: typed PRNG key.
    image_shape: (H, W, C); H and W are multiples of the patch.

  Raises:
    ValueError: an image's side is not a multiple of the patch.
  """
  height, width, channels = image_shape
  if height % sizes.patch or width % sizes.patch:
    raise ValueError(f'vit: images {height} x {width} do not divide into '
                     f'patches of {sizes.patch}')
  tokens = 1 + height // sizes.patch * (width // sizes.patch)
  keys = [jax.random.fold_in(key, i) for i in range(2)]
  params = {
      'embedding': {
          'kernel': jax.nn.initializers.lecun_normal(in_axis=(0, 1, 2))(
              keys[0], (sizes.patch, sizes.patch, channels, sizes.width),
              jnp.float32),
          'bias': jnp.zeros(sizes.width, jnp.float32)},
      'cls': jnp.zeros((1, 1, sizes.width), jnp.float32),
      'posembed_input': {'pos_embedding': 0.02 * jax.random.normal(
          keys[1], (1, tokens, sizes.width), jnp.float32)},
      'encoder_norm': _norm(sizes.width)}
  for name in blocks(sizes.layers):
    params[name] = create(name, sizes, outputs, 0, key)
  params['head'] = create('head', sizes, outputs, 0, key)
  return params


def blocks(layers: int) -> list[str]:
  """Names of the encoder blocks from the bottom."""
  return [f'encoderblock_{i}' for i in range(layers)]


def adapters(layers: int) -> list[str]:
  """Names of the adapters, each before its block."""
  return [f'residual_adapter_{i}' for i in range(layers)]


def create(name: str, sizes: Sizes, outputs: int, adapter: int, key) -> Tree:
  """A new block, adapter or head; each name has its own random key.

  Args:
    name: name of the component.
    sizes: dimensions of the network.
    outputs: outputs of the head, which is zeros.
    adapter: hidden features of an adapter, whose second kernel is zeros, so
      that it does not change the network's outputs.
    key: typed PRNG key.

  Raises:
    ValueError: the component exists only in the root.
  """
  width = sizes.width
  if name == 'head':
    # NumPy arrays, so that nothing is compiled for a new head.
    return {'kernel': np.zeros((width, outputs), np.float32),
            'bias': np.zeros(outputs, np.float32)}
  found = re.fullmatch(r'(encoderblock|residual_adapter)_(\d+)', name)
  if not found:
    raise ValueError(f'vit: {name} cannot be made anew; it comes from the root')
  kind, number = found[1], int(found[2])
  key = jax.random.fold_in(key, 2 + 2 * number + (kind != 'encoderblock'))
  if kind == 'residual_adapter':
    return {'LayerNorm_0': _norm(width),
            'Dense_0': {'kernel': jax.nn.initializers.lecun_normal()(
                key, (width, adapter), jnp.float32),
                        'bias': jnp.zeros(adapter, jnp.float32)},
            'Dense_1': {'kernel': jnp.zeros((adapter, width), jnp.float32),
                        'bias': jnp.zeros(width, jnp.float32)}}
  keys = jax.random.split(key, 6)
  depth = width // sizes.heads
  split = lambda k: _dense(k, (width, width), (width, sizes.heads, depth),
                           (sizes.heads, depth))
  return {
      'LayerNorm_0': _norm(width),
      'MultiHeadDotProductAttention_1': {
          'query': split(keys[0]), 'key': split(keys[1]),
          'value': split(keys[2]),
          'out': _dense(keys[3], (width, width), (sizes.heads, depth, width))},
      'LayerNorm_2': _norm(width),
      'MlpBlock_3': {'Dense_0': _dense(keys[4], (width, sizes.hidden), noise=1),
                     'Dense_1': _dense(keys[5], (sizes.hidden, width),
                                       noise=1)}}


def _norm(width):
  return {'scale': jnp.ones(width, jnp.float32),
          'bias': jnp.zeros(width, jnp.float32)}


def _dense(key, shape, kernel_shape=None, bias_shape=None, noise=0):
  """Xavier-uniform kernel; the MLP's biases are drawn too, as officially."""
  kernel = jax.nn.initializers.xavier_uniform()(key, shape, jnp.float32)
  bias = jnp.zeros(bias_shape or shape[-1:], jnp.float32)
  if noise:
    bias = 1e-6 * jax.random.normal(jax.random.fold_in(key, 1), bias.shape,
                                    jnp.float32)
  return {'kernel': kernel.reshape(kernel_shape or shape), 'bias': bias}


def layers_of(params: Tree) -> int:
  """Number of encoder blocks in a tree.

  Raises:
    ValueError: the blocks are not numbered from 0 without gaps.
  """
  found = sorted(int(name.rsplit('_', 1)[1]) for name in params
                 if name.startswith('encoderblock_'))
  if found != list(range(len(found))):
    raise ValueError(f'vit: blocks {found} are not those from 0 upwards')
  return len(found)


def apply(params: Tree, x, active: dict | None = None, remat: bool = False):
  """Logits of the network described by the tree.

  Args:
    params: see the module; blocks and adapters may be absent.
    x: float32 [n, H, W, C].
    active: traced booleans by name; a block or adapter is skipped if its entry
      is False, and used if it has no entry. So one compiled program serves
      networks of different depths.
    remat: recompute the values inside a block for its gradients; a network
      without adapters is then one scan, so that no compiler merges the
      recomputation with the first computation.

  Returns:
    float32 [n, outputs of the head].
  """
  active, names = active or {}, blocks(layers_of(params))
  block = jax.checkpoint(_block) if remat else _block
  x = _embed(params, x)
  if remat and names and not active and not any(
      name in params for name in adapters(len(names))):
    x, names = _scanned([params[name] for name in names], x), []
  for i, name in enumerate(names):
    adapter = f'residual_adapter_{i}'
    if adapter in params:
      x = _gated(_adapter, params[adapter], x, active.get(adapter))
    x = _gated(block, params[name], x, active.get(name))
  return _linear(params['head'], _layer_norm(params['encoder_norm'], x[:, 0]))


def _scanned(every, x):
  """All blocks in a row; only their inputs are stored for gradients."""
  @functools.partial(jax.checkpoint, prevent_cse=False)  # a scan prevents it
  def body(x, params):
    return _block(params, x), None
  return lax.scan(body, x, jax.tree.map(lambda *leaves: jnp.stack(leaves),
                                        *every))[0]


def _gated(function, params, x, on):
  if on is None:
    return function(params, x)
  return lax.cond(on, function, lambda params, x: x, params, x)


def _embed(params, x):
  """Tokens [n, 1 + patches, width], one dense layer for each patch."""
  kernel = params['embedding']['kernel']
  patch, _, channels, width = kernel.shape
  n, height, breadth, _ = x.shape
  x = x.reshape(n, height // patch, patch, breadth // patch, patch, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, patch * patch * channels)
  x = _linear({'kernel': kernel.reshape(-1, width),
               'bias': params['embedding']['bias']}, x)
  token = jnp.broadcast_to(params['cls'], (n, 1, width))
  return (jnp.concatenate([token, x], 1)
          + params['posembed_input']['pos_embedding'])


def _linear(params, x):
  return x @ params['kernel'] + jnp.expand_dims(
      params['bias'], tuple(range(x.ndim - 1)))


def _layer_norm(params, x):
  mean = x.mean(-1, keepdims=True)
  centred = x - mean
  variance = (centred ** 2).mean(-1, keepdims=True)
  shape = (1,) * (x.ndim - 1) + (-1,)
  return (centred * lax.rsqrt(variance + 1e-6)
          * params['scale'].reshape(shape) + params['bias'].reshape(shape))


def _adapter(params, x):
  y = _layer_norm(params['LayerNorm_0'], x)
  return x + _linear(params['Dense_1'],
                     jax.nn.gelu(_linear(params['Dense_0'], y)))


def _block(params, x):
  x = x + _attend(params['MultiHeadDotProductAttention_1'],
                  _layer_norm(params['LayerNorm_0'], x))
  y = _layer_norm(params['LayerNorm_2'], x)
  mlp = params['MlpBlock_3']
  return x + _linear(mlp['Dense_1'], jax.nn.gelu(_linear(mlp['Dense_0'], y)))


def _attend(params, x):
  """Self-attention; heads are read from the kernels [width, heads, depth]."""
  n, tokens, width = x.shape
  _, heads, depth = params['query']['kernel'].shape
  query, key, value = (
      _linear({'kernel': params[name]['kernel'].reshape(width, -1),
               'bias': params[name]['bias'].reshape(-1)}, x).reshape(
                   n, tokens, heads, depth) for name in ('query', 'key',
                                                         'value'))
  weights = jax.nn.softmax(jnp.einsum('nqhd,nkhd->nhqk', query, key)
                           / depth ** 0.5, axis=-1)
  mixed = jnp.einsum('nhqk,nkhd->nqhd', weights, value)
  out = {'kernel': params['out']['kernel'].reshape(-1, width),
         'bias': params['out']['bias']}
  return _linear(out, mixed.reshape(n, tokens, -1))


def sizes_of(preset: str, **changes) -> Sizes:
  """A preset's dimensions with some replaced; `None` keeps a dimension."""
  given = {k: v for k, v in changes.items() if v is not None}
  return dataclasses.replace(PRESETS[preset], **given)


def flops(params: Tree, image_shape) -> float:
  """Floating-point operations of one forward pass of one image, as XLA
  counts them before it optimises (nothing is compiled)."""
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32),
                      params)
  shapes = tuple((name, leaf.shape) for name, leaf in
                 _named(like)) + (tuple(image_shape),)
  return _flops(shapes, jax.tree.structure(like))


def _named(tree):
  return [(str(path), leaf) for path, leaf in
          jax.tree_util.tree_leaves_with_path(tree)]


@functools.lru_cache(maxsize=256)
def _flops(shapes, structure):
  *leaves, image_shape = shapes
  like = jax.tree.unflatten(structure, [
      jax.ShapeDtypeStruct(shape, jnp.float32) for _, shape in leaves])
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  # Not every platform counts operations before it compiles
  # (https://github.com/jax-ml/jax/issues/22713), and scores must be the same on
  # all of them.
  with host.on_cpu():
    return float(jax.jit(apply).lower(like, image).cost_analysis()['flops'])
