"""SupSup: a task is a supermask over a random backbone.

Wortsman et al. 2020, https://arxiv.org/abs/2006.14769. There are two samplers,
both with the straight-through gradient: the threshold mask of the paper's
task-agnostic experiments, and edge-popup's top-k of its task-aware ones.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import messages
from mtl_jax import trees
from mtl_jax.methods import base
from mtl_jax.methods import heads

Tree = trees.Tree


class Sampler(NamedTuple):
  """Computes a mask from scores: `sample(rank(scores))`.

  The straight-through gradient goes to rank(scores). If that is |score|, the
  gradient moves the score of a weight that should be kept away from 0, on
  either side. `densities` of the leaves are numbers, of each leaf or of all;
  `None` if none is set.
  """
  rank: Callable[[Tree], Tree]
  sample: Callable[[Tree], Tree]
  densities: Callable[[Tree], Any] | None = None

  def hard(self, scores: Tree) -> Tree:
    """The bool mask that is stored."""
    return self.sample(self.rank(scores))

  def soft(self, scores: Tree) -> Tree:
    """The same mask as differentiable floats."""
    return masks.straight_through(self.sample)(self.rank(scores))


def _as_they_are(scores):
  return scores


def _magnitudes(scores):
  return jax.tree.map(jnp.abs, scores)


THRESHOLD = Sampler(_as_they_are, masks.threshold)


def sampler(kind: str, density=None, eps: float | None = None,
            absolute: bool = True, threshold: float = 0.) -> Sampler:
  """A sampler by name.

  Args:
    kind: 'threshold' (score >= `threshold`) or 'top_k' (edge-popup).
    density: 'top_k' only: fraction kept in every leaf.
    eps: 'top_k' only: Erdos-Renyi budgets instead of one density.
    absolute: 'top_k' only: rank |score| (edge-popup) or the raw score.
    threshold: 'threshold' only: the smallest score that is kept.
  """
  if not np.isfinite(threshold) or (kind == 'top_k' and threshold):
    raise ValueError(f'threshold is {threshold}; it is a finite number, and '
                     "of the sampler 'threshold' alone")
  if kind == 'threshold':
    if density is not None or eps is not None:
      raise ValueError('threshold masks have no set density; use the sampler '
                       "'top_k' with density or eps")
    return THRESHOLD if not threshold else Sampler(
        _as_they_are, functools.partial(masks.threshold, at=threshold))
  if kind != 'top_k':
    raise ValueError(f"unknown sampler {kind!r}; known: 'threshold', 'top_k'")
  if (density is None) == (eps is None):
    raise ValueError("the sampler 'top_k' needs exactly one of density and "
                     f'eps; got density={density}, eps={eps}')

  def densities(leaves):
    return masks.erdos_renyi(leaves, eps) if density is None else density

  def sample(ranked):
    return masks.top_k(ranked, densities(ranked))
  return Sampler(_magnitudes if absolute else _as_they_are, sample, densities)


def supsup(sampling: Sampler = THRESHOLD,
           masked: tuple[str, ...] = ('.*kernel',),
           transfer: bool = False,
           start: float | None = None) -> base.Method:
  """Trains scores and stores a mask, one bit per weight.

  On a trained network, with the threshold 5e-3, a start of 1e-2 and a dense
  head for each task (`heads`), this is Piggyback (Mallya et al. 2018,
  https://arxiv.org/abs/1801.06519).

  Args:
    sampling: computes a mask from scores; see `sampler`.
    masked: patterns of the leaves to mask (`trees.select`).
    transfer: start a task's scores at the running mean of the scores of all
      earlier tasks (SupSup's "transfer"). `shared` then holds that mean.
    start: initial value of all scores (Piggyback: 1e-2); `None` draws them.

  Returns:
    A method with `shared` = {'mean_scores', 'tasks'} if `transfer`, else {}.
  """
  messages.check_switch(transfer, 'transfer')

  def init(key, backbone, shared, route):
    del route
    if transfer and shared:
      return shared['mean_scores']
    if start is not None:
      return jax.tree.map(lambda w: jnp.full(w.shape, start, jnp.float32),
                          base.masked_part(backbone, masked))
    return base.kaiming_uniform(key, base.masked_part(backbone, masked),
                                backbone)

  def bind(backbone, scores, shared, route):
    del shared, route
    return masks.apply(backbone, sampling.soft(scores))

  def commit(backbone, scores, shared, route):
    del backbone, route
    impression = impressions.Impression(masks=sampling.hard(scores))
    return impression, running_mean(shared, scores) if transfer else shared

  def check(training, backbone, before, own):
    del before
    require_kept(sampling, base.masked_part(backbone, masked))
    heads.require_body(backbone, masked)
    if transfer:
      _check_transfer(training)
    # A method of the user's, made of this one, has options of its own.
    for one in own[:1]:
      if isinstance(one.options, Options):
        require_effect(one.options)

  return base.Method(
      init, bind, commit, base.materialise,
      prepare=base.prepare_kept if transfer else base.prepare_nothing,
      check=check, abilities=base.Abilities(
          superposes=True, streams=not transfer, shards=True))


def _check_transfer(training) -> None:
  if training.tasks_at_once > 1:
    raise ValueError('transfer starts a task at the mean of the earlier ones; '
                     'it needs tasks_at_once=1')
  if training.repeats > 1 or training.pool:
    raise ValueError('transfer starts a task at the mean of the earlier ones; '
                     'it takes neither repeats nor a pool')


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of the method in a config.

  Attributes:
    sampler: how a mask is computed from scores: 'threshold' (score >=
      `threshold`) or 'top_k' (edge-popup).
    threshold: with 'threshold': the smallest score of a weight that is kept
      (SupSup: 0, Piggyback: 5e-3).
    density: with 'top_k': fraction of every leaf that is kept.
    eps: with 'top_k': Erdos-Renyi budgets instead of one density; a leaf keeps
      at most half of its weights.
    absolute: with 'top_k': rank |score| (edge-popup) instead of the score.
    masked: patterns of the leaves that are masked (`trees.select`).
    transfer: start a task's scores at the mean of the scores of the phase's
      earlier tasks (SupSup's "transfer").
    start: initial value of all scores (Piggyback: 1e-2); `None` draws them
      (SupSup).
  """
  sampler: str = 'threshold'
  density: float | None = None
  eps: float | None = None
  absolute: bool = True
  masked: tuple[str, ...] = ('.*kernel',)
  transfer: bool = False
  threshold: float = 0.
  start: float | None = None

  def __post_init__(self):
    base.set_patterns(self, 'masked')
    sampler(self.sampler, self.density, self.eps, self.absolute,
            self.threshold)
    if self.start is not None and not (
        self.sampler == 'threshold' and self.threshold <= self.start < np.inf):
      raise ValueError(
          f'start is {self.start}: a first mask that keeps every weight needs '
          f"the sampler 'threshold' and a start of at least {self.threshold}")


def make(options: Options) -> base.Method:
  """The method of a config's options."""
  return supsup(sampler(
      options.sampler, options.density, options.eps, options.absolute,
      options.threshold), options.masked, options.transfer, options.start)


def require_kept(sampling: Sampler, leaves: Tree) -> None:
  """Refuses, before training, a density that keeps no weight of a leaf."""
  if sampling.densities is None:
    return
  found = sampling.densities(leaves)
  each = trees.flatten(found) if isinstance(found, dict) else None
  for name, leaf in trees.flatten(leaves).items():
    if leaf is not None:
      require_some(name, leaf.shape, found if each is None else each[name],
                   'density' if each is None else 'eps')


def require_some(name: str, shape: tuple[int, ...], density,
                 option: str) -> None:
  """Refuses a density that keeps no weight of a leaf."""
  if masks.kept(name, shape, density) < 1:
    raise ValueError(f'{option}: a density of {density:.3g} keeps none of the '
                     f'{math.prod(shape)} weights of {name}; choose a larger '
                     'one')


def require_effect(options) -> None:
  """Refuses an option that another one leaves without effect."""
  if options.sampler == 'threshold' and not options.absolute:
    raise ValueError("absolute is False, and the sampler 'threshold' ranks no "
                     "scores; take the sampler 'top_k', or leave absolute out")


def running_mean(shared: dict, scores: Tree) -> dict:
  """Updates the mean of all tasks' scores with one more task."""
  if not shared:
    return {'mean_scores': scores, 'tasks': jnp.int32(1)}
  tasks = shared['tasks'] + 1
  mean = jax.tree.map(lambda m, s: m + (s - m) / tasks.astype(s.dtype),
                      shared['mean_scores'], scores)
  return {'mean_scores': mean, 'tasks': tasks}
