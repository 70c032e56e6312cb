"""Convolutions of many tasks at once, each with its own kernel.

Under `vmap` over images and kernels, XLA makes one grouped convolution of T
convolutions. Accelerators have no fast kernels for it if a group has few
channels. Here such a convolution takes one of several forms:

    grouped   what `vmap` gives: one convolution of T groups
    each      T convolutions, unrolled in the program
    map       T convolutions in a loop (`lax.map`): a small program
    patches   one batched product of every task's patches and kernel
    blocks    dense convolutions of BLOCK tasks, with zeros between tasks

All forms compute the same sums. A gradient has the form of its convolution.
Outside of `vmap`, or if only the images or only the kernels differ, this is
`lax.conv_general_dilated`.

The fastest form depends on the device and on the size of the output: the rule
'patches:64,each', for example, takes patches for outputs of at most 64 places
and each convolution for larger ones. `RULES` has a rule per backend, measured
by experiments/accelerator/convolution_forms.py; $MTL_JAX_VMAPPED_CONVOLUTION,
read when a program is traced, replaces it.
"""

import functools
import os

import jax
import jax.numpy as jnp
from jax import lax

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
VARIABLE = 'MTL_JAX_VMAPPED_CONVOLUTION'
RULES = {'gpu': 'patches:64,map'}
ELSEWHERE = 'grouped'
BLOCK = 4


def convolve(strides, padding, x, kernel):
  """A convolution with a special rule for `vmap`.

  Args:
    strides: (int, int), along H and W.
    padding: ((low, high), (low, high)).
    x: [n, H, W, in].
    kernel: [h, w, in, out].

  Returns:
    [n, H', W', out].
  """
  return _convolve(strides, padding, rule(), x, kernel)


def rule() -> tuple[tuple[str, float], ...]:
  """(form, largest number of places of an output) pairs, in order.

  Raises:
    ValueError: a form is unknown; lists the known ones.
  """
  return parse(os.environ.get(VARIABLE) or
               RULES.get(jax.default_backend(), ELSEWHERE))


def parse(text: str) -> tuple[tuple[str, float], ...]:
  """Parses a rule.

  >>> parse('patches:64,each')
  (('patches', 64.0), ('each', inf))
  """
  found = []
  for part in text.split(','):
    name, _, most = part.partition(':')
    if name not in FORMS:
      raise ValueError(f'{VARIABLE}: unknown form {name!r} in {text!r}; known: '
                       f'{", ".join(sorted(FORMS))}')
    try:
      found.append((name, float(most or 'inf')))
    except ValueError:
      raise ValueError(f'{VARIABLE}: {most!r} in {text!r} is no number of '
                       'places; write FORM:PLACES') from None
  if found[-1][1] != float('inf'):
    raise ValueError(f'{VARIABLE}: {text!r} has no form for larger outputs; '
                     'end it with one that has no number')
  return tuple(found)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _convolve(strides, padding, forms, x, kernel):
  return _mapped(_forward, strides, padding, forms)(x, kernel)


def _save(strides, padding, forms, x, kernel):
  return _convolve(strides, padding, forms, x, kernel), (x, kernel)


def _gradients(strides, padding, forms, saved, dy):
  x, kernel = saved
  return (_mapped(_of_images, strides, padding, forms, x.shape)(kernel, dy),
          _mapped(_of_kernel, strides, padding, forms, kernel.shape)(x, dy))


_convolve.defvjp(_save, _gradients)


def _forward(convolution, x, kernel):
  return convolution(x, kernel)


def _of_images(convolution, kernel, dy, shape):
  x = jax.ShapeDtypeStruct(shape, dy.dtype)
  return jax.linear_transpose(lambda x: convolution(x, kernel), x)(dy)[0]


def _of_kernel(convolution, x, dy, shape):
  kernel = jax.ShapeDtypeStruct(shape, dy.dtype)
  return jax.linear_transpose(lambda k: convolution(x, k), kernel)(dy)[0]


@functools.lru_cache(maxsize=256)
def _mapped(what, strides, padding, forms, shape=None):
  """`what` of one convolution, with a rule for many of them under `vmap`.

  Args:
    what: `_forward`, `_of_images` or `_of_kernel`.
    strides, padding: of the convolution.
    forms: see `rule`.
    shape: shape of a gradient; `None` for the forward pass.
  """
  one = functools.partial(_lax, strides, padding)
  of_shape = {} if shape is None else {'shape': shape}
  plain = functools.partial(what, one, **of_shape)
  function = jax.custom_batching.custom_vmap(plain)

  @function.def_vmap
  def _(tasks, batched, a, b):
    if not all(batched):
      axes = [0 if leaf else None for leaf in batched]
      return jax.vmap(plain, axes)(a, b), True
    # The output's places; the last argument is the output's gradient or, in
    # the forward pass, the kernel.
    height, width = (jax.eval_shape(jax.vmap(one), a, b) if shape is None
                     else b).shape[2:4]
    form = next(name for name, most in forms if height * width <= most)
    if form in PER_TASK:
      return PER_TASK[form](plain, a, b), True
    many = functools.partial(FORMS[form], strides, padding)
    stacked = {} if shape is None else {'shape': (tasks, *shape)}
    return what(many, a, b, **stacked), True

  return function


def _lax(strides, padding, x, kernel):
  return lax.conv_general_dilated(x, kernel, strides, padding,
                                  dimension_numbers=LAYOUT)


def _each(function, a, b):
  return jnp.stack([function(*pair) for pair in zip(a, b)])


def _map(function, a, b):
  return lax.map(lambda pair: function(*pair), (a, b))


def _grouped(function, a, b):
  return jax.vmap(function)(a, b)


def _patches(strides, padding, x, kernel):
  """[T, n, H', W', out] by one product of patches [T, n H' W', h w in]."""
  tasks, images, _, _, inputs = x.shape
  _, height, width, _, outputs = kernel.shape
  padded = jnp.pad(x, ((0, 0), (0, 0), *padding, (0, 0)))
  rows, columns = ((size - window) // stride + 1 for size, window, stride in
                   zip(padded.shape[2:4], (height, width), strides))
  seen = jnp.concatenate([
      padded[:, :, i:i + (rows - 1) * strides[0] + 1:strides[0],
             j:j + (columns - 1) * strides[1] + 1:strides[1]]
      for i in range(height) for j in range(width)], -1)
  found = jnp.matmul(
      seen.reshape(tasks, -1, height * width * inputs),
      kernel.reshape(tasks, height * width * inputs, outputs))
  return found.reshape(tasks, images, rows, columns, outputs)


def _blocks(strides, padding, x, kernel):
  """Dense convolutions over the concatenated channels of BLOCK tasks."""
  tasks, *_, outputs = kernel.shape
  wanted = -tasks % BLOCK
  if wanted:
    x, kernel = (jnp.pad(a, ((0, wanted),) + ((0, 0),) * 4)
                 for a in (x, kernel))
  together = jax.vmap(functools.partial(_block, strides, padding))
  split = lambda a: a.reshape(-1, BLOCK, *a.shape[1:])
  found = together(split(x), split(kernel))
  return found.reshape(-1, *found.shape[2:-1], outputs)[:tasks]


def _block(strides, padding, x, kernel):
  count, height, width, inputs, outputs = kernel.shape
  side_by_side = jnp.moveaxis(x, 0, 3).reshape(*x.shape[1:4], -1)
  whole = jnp.zeros((height, width, count, inputs, count, outputs),
                    kernel.dtype)
  for i in range(count):
    whole = whole.at[:, :, i, :, i].set(kernel[i])
  found = _lax(strides, padding, side_by_side, whole.reshape(
      height, width, count * inputs, count * outputs))
  return jnp.moveaxis(found.reshape(*found.shape[:3], count, outputs), 3, 0)


PER_TASK = {'grouped': _grouped, 'each': _each, 'map': _map}
FORMS = PER_TASK | {'patches': _patches, 'blocks': _blocks}
