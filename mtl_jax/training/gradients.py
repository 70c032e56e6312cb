"""How much the loss of a task depends on each weight, before training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtl_jax import parallel
from mtl_jax import trees
from mtl_jax.config import plan
from mtl_jax.data import batches
from mtl_jax.steps import single
from mtl_jax.training import run as run_lib

SAMPLE_BATCH = 500


def scores(run: run_lib.Run, entry: plan.Entry, like: trees.Tree,
           sample: int) -> trees.Tree:
  """|d mean loss / d weight| on training images of a task.

  Args:
    run: the run.
    entry: the task.
    like: the leaves to differentiate, at their initial values.
    sample: number of training images to use; 0 uses all.

  Returns:
    float32 leaves.
  """
  rows = run.data.rows(entry)
  order = np.random.RandomState(0).permutation(len(rows))
  rows = rows[np.sort(order[:sample or len(rows)])]
  index = batches.padded(rows, min(SAMPLE_BATCH, len(rows)))
  source, task = parallel.local((run.data.split(entry.task, 'train'),
                                 run.data.entry_arrays(entry)))
  backbone = run.system.backbone
  found = gradient(backbone.network, entry.route, like, backbone.params,
                   backbone.stats, source, task, index)
  return parallel.agree(jax.tree.map(lambda g: np.abs(np.asarray(g)), found))


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradient(network, route, like, backbone, stats, source, task, index):
  """Gradient of the mean loss with respect to the leaves in `like`.

  Rows of `index` equal to -1 are padding.
  """
  def loss(part, rows):
    images, labels = single.make_batch(route, source, task, None,
                                      jnp.maximum(rows, 0), False)
    logits, _ = network.apply(trees.combine(part, backbone), stats, images,
                              train=bool(stats))
    losses = single.losses(route, logits, labels)
    return jnp.sum(losses * (rows >= 0).astype(losses.dtype))

  def body(total, rows):
    return jax.tree.map(jnp.add, total, jax.grad(loss)(like, rows)), None
  zeros = jax.tree.map(jnp.zeros_like, like)
  total, _ = lax.scan(body, zeros, index)
  return jax.tree.map(lambda g: g / jnp.sum(index >= 0), total)
