"""Infers the task of an input by gradients, as SupSup does.

Wortsman et al. 2020, https://arxiv.org/abs/2006.14769, sections 3.3 to 3.6.
All tasks are superposed in one network (`mtl_jax.inference.superposition`) with
weights called beliefs. An objective that is low for a confident output is
differentiated with respect to the beliefs. The inferred task is the one whose
belief lowers the objective fastest.

Everything is pure and can be jitted and vmapped.
"""

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtl_jax import masks
from mtl_jax import messages
from mtl_jax import trees
from mtl_jax.inference import superposition

Tree = trees.Tree
Superposition = superposition.Superposition


class Inferred(NamedTuple):
  """The result of an inference.

  Attributes:
    task: int32, index of the task.
    gradient: float32 [T], d objective / d beliefs at the last step (for
      `brute_force` the objective itself); inf for tasks that are not
      candidates.
    passes: int32, number of backward passes.
  """
  task: Any
  gradient: Any
  passes: Any


def entropy(logits, counted, classes: int | None = None):
  """H: the mean entropy of softmax(logits), in nats.

  Args:
    logits: float32 [n, outputs].
    counted: bool [n], rows that count; others are padding.
    classes: not used; as in `superfluous`.

  >>> import jax.numpy as jnp
  >>> h = entropy(jnp.zeros((1, 4)), jnp.array([True]))
  >>> bool(jnp.isclose(h, jnp.log(4.)))
  True
  """
  del classes
  log_p = jax.nn.log_softmax(logits)
  return _mean(-jnp.sum(jnp.exp(log_p) * log_p, -1), counted)


def _mean(values, counted):
  return (jnp.sum(jnp.where(counted, values, 0.))
          / jnp.maximum(jnp.sum(counted), 1).astype(jnp.float32))


def superfluous(logits, counted, classes: int | None = None):
  """G: mean logsumexp, differentiated in the superfluous outputs only.

  Args:
    logits: float32 [n, outputs].
    counted: bool [n], rows that count; others are padding.
    classes: the first `classes` outputs are real; they get no gradient.

  Raises:
    ValueError: there are no superfluous outputs.
  """
  if classes is None or not 0 < classes < logits.shape[-1]:
    raise ValueError(
        f'the objective G needs superfluous outputs: {logits.shape[-1]} '
        f'outputs, of which {classes} are classes; use a backbone with more '
        'outputs, or the objective entropy')
  real = jnp.arange(logits.shape[-1]) < classes
  held = jnp.where(real[None, :], lax.stop_gradient(logits), logits)
  return _mean(jax.nn.logsumexp(held, -1), counted)


OBJECTIVES = {'entropy': entropy, 'superfluous': superfluous}


def _gradient(loss, backbone, tasks, beliefs):
  cotangent = jax.grad(lambda mixture: loss(masks.apply(backbone, mixture)))(
      tasks.mix(beliefs))
  return tasks.agree(cotangent)


def one_shot(loss: Callable[[Tree], Any], backbone: Tree,
             tasks: Superposition, used) -> Inferred:
  """One backward pass at equal beliefs; the steepest descent wins (eq. 4).

  Args:
    loss: (parameters) -> the objective on the inputs, a scalar.
    backbone: the immutable parameters.
    tasks: see `Superposition`.
    used: bool [T], the candidates.
  """
  count = jnp.maximum(jnp.sum(used), 1)
  beliefs = used.astype(jnp.float32) / count.astype(jnp.float32)
  gradient = jnp.where(used, _gradient(loss, backbone, tasks, beliefs),
                       jnp.inf)
  return Inferred(jnp.argmin(gradient), gradient, jnp.int32(1))


def binary(loss: Callable[[Tree], Any], backbone: Tree,
           tasks: Superposition, used) -> Inferred:
  """Halves the candidates until one is left: ceil(log2 T) passes.

  If the number of tasks is odd, the larger half stays. See `one_shot`.
  """
  alive, gradient, passes = _halved(loss, backbone, tasks, used, 1)
  return Inferred(jnp.argmax(alive), gradient, passes)


def reranked(last: int, loss: Callable[[Tree], Any], backbone: Tree,
             tasks: Superposition, used) -> Inferred:
  """`binary` until at most `last` tasks are left, then `brute_force` of those.

  Ours, in no paper. Similar tasks, such as neighbouring angles, are often the
  last candidates. The gradient at their mixture tells them apart badly; the
  objective of each task's own network does it better.

  Args:
    last: at least 2. The other arguments are as in `one_shot`.
  """
  alive, _, passes = _halved(loss, backbone, tasks, used, last)
  places = jnp.argsort(~alive)[:last]
  values = lax.map(lambda i: loss(masks.apply(backbone, tasks.one(i))), places)
  values = jnp.full(alive.shape, jnp.inf).at[places].set(values)
  values = jnp.where(alive, values, jnp.inf)
  return Inferred(jnp.argmin(values), values, passes)


def _halved(loss, backbone, tasks, used, last):
  """(alive bool [T], gradient, passes) once at most `last` tasks are left."""
  def halve(state):
    alive, _, passes = state
    count = jnp.sum(alive)
    even = alive.astype(jnp.float32) / count.astype(jnp.float32)
    gradient = jnp.where(alive, _gradient(loss, backbone, tasks, even),
                         jnp.inf)
    rank = jnp.argsort(jnp.argsort(gradient))
    return alive & (rank < (count + 1) // 2), gradient, passes + 1

  start = used, jnp.where(used, 0., jnp.inf), jnp.int32(0)
  return lax.while_loop(lambda state: jnp.sum(state[0]) > last, halve, start)


def brute_force(loss: Callable[[Tree], Any], backbone: Tree,
                tasks: Superposition, used) -> Inferred:
  """The objective of every task's own network; T forward passes, no gradient.

  The reference that the gradients approximate. See `one_shot`.
  """
  values = lax.map(lambda i: loss(masks.apply(backbone, tasks.one(i))),
                   jnp.arange(tasks.size))
  values = jnp.where(used, values, jnp.inf)
  return Inferred(jnp.argmin(values), values, jnp.int32(0))


RULES = {'one_shot': one_shot, 'binary': binary, 'brute_force': brute_force}


@dataclasses.dataclass(frozen=True)
class Rule:
  """How a task is inferred.

  Attributes:
    rule: 'one_shot' (one backward pass), 'binary' (ceil(log2 T) passes) or
      'brute_force' (every task's network).
    objective: 'entropy' (H) or 'superfluous' (G; needs outputs beyond the
      classes).
    normalise: divide coefficients by the sum of their absolute values first
      (ImpressLearn only; our reading).
    rerank: with 'binary', the number of last candidates that are compared by
      their own networks' entropy (see `reranked`; ours); 0 for none.
  """
  rule: str = 'one_shot'
  objective: str = 'entropy'
  normalise: bool = False
  rerank: int = 0

  def __post_init__(self):
    for name, table in (('rule', RULES),
                        ('objective', OBJECTIVES)):
      value = getattr(self, name)
      if not isinstance(value, str) or value not in table:
        raise ValueError(f'unknown {name} {messages.shown(value)}'
                         f'{trees.nearest(str(value), table)}; known: '
                         f'{", ".join(table)}')
    if (self.rule, self.objective) == ('brute_force', 'superfluous'):
      raise ValueError('brute_force compares values, but only the gradient of '
                       'superfluous says anything; take the objective entropy')
    messages.check_switch(self.normalise, 'normalise')
    self._check_rerank()

  def _check_rerank(self):
    if isinstance(self.rerank, bool) or not isinstance(
        self.rerank, numbers.Integral) or self.rerank == 1 or (
            self.rerank < 0):
      raise ValueError(f'rerank is {messages.shown(self.rerank)}; it must be '
                       '0 (none) or a whole number of at least 2')
    if self.rerank and (self.rule, self.objective) != ('binary', 'entropy'):
      raise ValueError(
          f'rerank={self.rerank} compares the last tasks of the rule binary by '
          f'the objective entropy; here the rule is {self.rule} and the '
          f'objective {self.objective}')

  def infer(self, loss: Callable[[Tree], Any], backbone: Tree,
            tasks: Superposition, used) -> Inferred:
    """Infers by this rule; arguments as in `one_shot`."""
    if self.rerank:
      return reranked(self.rerank, loss, backbone, tasks, used)
    return RULES[self.rule](loss, backbone, tasks, used)


def tied(gradient) -> bool:
  """Whether all candidates have the same value, so that none is preferred.

  Args:
    gradient: float32 [T] of an `Inferred`; infinite for tasks that are not
      candidates.

  >>> tied(np.array([.5, .5, np.inf])), tied(np.array([.5, np.inf]))
  (True, False)
  """
  found = gradient[np.isfinite(gradient)]
  return len(found) > 1 and bool(np.all(found == found[0]))


def fits_no_task(gradient, used, tolerance: float = 0.125):
  """Whether no known task fits the inputs (SupSup, section 3.4).

  True if k max softmax(-gradient) < 1 + tolerance over the k candidates: a
  gradient step would hardly move the beliefs from equal ones.
  """
  p = jax.nn.softmax(jnp.where(used, -gradient, -jnp.inf))
  count = jnp.sum(used).astype(jnp.float32)
  return count * jnp.max(p) < 1. + tolerance
