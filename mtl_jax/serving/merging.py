"""Merges stored tasks into one: masks are combined, or networks averaged.

    union, intersection    of supermasks: gives a mask
    combination            of supermasks: a weight for each mask (an impression
                           over them as a basis, so that they must be kept); of
                           coefficients over one basis: their weighted sum; of
                           other networks of the backbone's form: the weighted
                           mean of their parameters, stored whole

A merged task has the transforms of the first task. The merged tasks themselves
are not changed; `Merged` reports how the new task differs from each.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import aliases
from mtl_jax import fields
from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import messages
from mtl_jax import methods
from mtl_jax import trees
from mtl_jax.data import transforms
from mtl_jax.serving import checks
from mtl_jax.serving import probes
from mtl_jax.serving import stored_tasks
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import checkpoint
from mtl_jax.storage import deduplicate
from mtl_jax.storage import impression_arrays
from mtl_jax.storage import json_records
from mtl_jax.storage import provenance

_OF_MASKS = {'union': masks.union, 'intersection': masks.intersection}
StoredTask = stored_tasks.StoredTask
HOW = (*_OF_MASKS, 'combination')


class Merged(NamedTuple):
  """The result of a merge.

  Attributes:
    name: name of the new task.
    lost: for every merged task, sentences on how the new task differs from it.
  """
  name: str
  lost: tuple[str, ...]

  def __str__(self) -> str:
    return '\n'.join([f'{self.name}:', *(f'  {text}' for text in self.lost)])


class _Made(NamedTuple):
  """A merged impression and the method that materialises it."""
  impression: impressions.Impression
  method: dict  # as in a task's metadata
  relies: tuple[str, ...] | None = None  # names of the masks it combines
  seed: int = 0


def merge(system: system_lib.System, tasks: Sequence[str],
          weights: Sequence[float] | None = None, how: str = 'combination',
          name: str | None = None) -> Merged:
  """Stores a new task made from other tasks.

  Args:
    system: from `mtl_jax.load`.
    tasks: two names or more.
    weights: one per task, for a combination; `None` gives all the same weight.
      A mean of networks and of norm statistics divides them by their sum.
    how: 'union', 'intersection' or 'combination'; see the module.
    name: name of the new task; `None` joins the names.

  Raises:
    ValueError: the tasks have other inputs or classes, their impressions can't
      be merged in this way, or the name is taken.
  """
  if isinstance(tasks, str) or not isinstance(tasks, Sequence):
    raise ValueError(f'tasks is {messages.shown(tasks)}; give a list of their '
                     'names')
  name = '-and-'.join(map(str, tasks)) if name is None else name
  _check_given(tasks, weights, how)
  with system.workdir.locked():
    stored = _check_tasks(system, tasks, name)
    share = np.full(len(stored), 1 / len(stored)) if weights is None else (
        np.asarray(weights, float))
    made = (_combined(system, stored, share) if how == 'combination'
            else _of_masks(stored, how))
    made = made._replace(impression=made.impression._replace(
        stats=_mean([system.effective(s)[1] for s in stored],
                    share / share.sum())
        if system.backbone.stats else None))
    _store(system, name, stored, made, share, how)
  system.refresh()
  return Merged(name, tuple(_lost(system, system.task(name), s, stored[0])
                            for s in stored))


def _check_given(tasks: Sequence[str], weights: Sequence[float] | None,
                 how: str) -> None:
  """Refuses arguments that are wrong for any tasks."""
  if not isinstance(how, str) or how not in HOW:
    raise ValueError(f'how is {messages.shown(how)}'
                     f'{trees.nearest(str(how), HOW)}; known: '
                     f'{", ".join(HOW)}')
  if len(tasks) < 2 or len(set(tasks)) < len(tasks):
    raise ValueError(f'tasks is {messages.shown(tasks)}; name two different '
                     'ones or more')
  if weights is not None and (
      not isinstance(weights, (Sequence, np.ndarray))
      or isinstance(weights, np.ndarray) and weights.ndim != 1
      or not all(trees.is_number(w) and abs(w) < 1e30 for w in weights)
      or how != 'combination' or len(weights) != len(tasks)
      or not abs(np.sum(np.asarray(weights, float))) > 1e-30):
    raise ValueError(
        f'weights is {messages.shown(weights)}: a combination takes a finite '
        'number per task that float32 has, and whose sum is not 0; nothing '
        'else takes any')


def _check_tasks(system: system_lib.System, tasks: Sequence[str],
                 name: str) -> list[StoredTask]:
  """The tasks, if they can be one under this name."""
  checks.require_new_name(system.workdir, name, {})
  if system.workdir.task(name).exists():
    raise ValueError(f'there is a task {name} already; choose another name')
  stored = [system.task(task) for task in tasks]
  for other in stored[1:]:
    for what, of in (
        ('classes', lambda s: s.classes),
        ('inputs', lambda s: (s.metadata['source_shape'],
                              s.metadata.get('source_dtype'))),
        ('transforms', lambda s: transforms.kinds(s.transforms))):
      if of(stored[0]) != of(other):
        raise ValueError(f'tasks {stored[0].name} and {other.name} have other '
                         f'{what} ({of(stored[0])} and {of(other)}), so that '
                         'they cannot be one')
  return stored


def _names(stored: Sequence[StoredTask]) -> list[str]:
  return [s.name for s in stored if s.name is not None]


def _only(stored: Sequence[StoredTask], *parts: str) -> bool:
  """Whether every task has these parts and no others except statistics."""
  return all({part for part, tree in s.impression._asdict().items()
              if tree is not None and part != 'stats'} == set(parts)
             for s in stored)


def _of_masks(stored: Sequence[StoredTask], how: str) -> _Made:
  if not _only(stored, 'masks') or any(
      s.method.abilities.needs_earlier for s in stored):
    kinds = ', '.join(f'{s.name} ({s.metadata["method"]["name"]})'
                      for s in stored)
    raise ValueError(f'how={how!r} needs tasks that left only masks, but not '
                     f'all of these did: {kinds}; take '
                     "how='combination'")
  made = functools.reduce(_OF_MASKS[how], [s.impression.masks for s in stored])
  empty = [leaf for leaf, m in trees.flatten(made).items()
           if m is not None and not np.any(m)]
  if empty:
    raise ValueError(f'the {how} of {", ".join(_names(stored))} keeps '
                     f'no weight of {empty[0]}: no signal would pass')
  return _Made(impressions.Impression(masks=made),
               stored[0].metadata['method'])


def _combined(system: system_lib.System, stored: Sequence[StoredTask],
              share: np.ndarray) -> _Made:
  if _only(stored, 'masks') and all(s.method.abilities.superposes
                                    for s in stored):
    masks.stack([s.impression.masks for s in stored])  # refuses other leaves
    name, options = methods.combining(len(stored))
    alphas = jax.tree.map(lambda _: jnp.asarray(share, jnp.float32),
                          stored[0].impression.masks)
    return _Made(impressions.Impression(coefficients=alphas),
                 {'name': name, 'options': fields.plain(options),
                  'defined_in': None}, tuple(_names(stored)))
  if _only(stored, 'coefficients') and len({
      stored_tasks.name_of_shared(s.metadata) for s in stored}) == 1:
    first = stored[0].metadata
    return _Made(impressions.Impression(coefficients=_mean(
        [s.impression.coefficients for s in stored], share)), first['method'],
                 tuple(first['relies_on']), first['seed'])
  return _averaged(system, stored, share)


def _averaged(system: system_lib.System, stored: Sequence[StoredTask],
              share: np.ndarray) -> _Made:
  networks = [system.effective(s)[0] for s in stored]
  form, *forms = [
      {name: np.shape(leaf) for name, leaf in trees.flatten(params).items()}
      for params in (system.backbone.params, *networks)]
  own = [s.name for s, other in zip(stored, forms)
         if s.impression.path or s.impression.structure or other != form]
  if own:
    raise ValueError(f'task {own[0]} has a network of its own form: weights '
                     'of different places have no mean')
  name, options = methods.whole()
  return _Made(impressions.Impression(values=_mean(
      networks, share / share.sum())),
               {'name': name, 'options': fields.plain(options),
                'defined_in': None})


def _mean(summands: Sequence[aliases.Tree],
          share: np.ndarray) -> aliases.Tree:
  """Weighted sum of trees, in the leaves' dtypes."""
  return jax.tree.map(lambda *leaves: sum(
      w * leaf for w, leaf in zip(share.tolist(), leaves)).astype(
          leaves[0].dtype), *summands)


def _store(system: system_lib.System, name: str,
           stored: Sequence[StoredTask], made: _Made, share: np.ndarray,
           how: str) -> None:
  """Writes the new task's checkpoint and its line in the log."""
  first = stored[0].metadata
  arrays, referred = system.index.split(
      impression_arrays.impression_to_arrays(made.impression))
  sizes = impressions.bytes_by_part(made.impression)
  record = {  # nothing of the first task's training
      'entry': name, 'task': name, 'phase': 'merged', 'control': True,
      'repeat': 0, 'pooled': 0, 'method': made.method['name'],
      'classes': first['classes'], 'seed': made.seed or first['seed'],
      'accuracy': {'valid': None, 'test': None}, 'steps': 0,
      'loss': {}, 'curve': {}, 'seconds': {}, 'basis': None,
      'density': impression_arrays.densities(made.impression),
      'kept': impression_arrays.kept(made.impression),
      'merged': {'how': how, 'tasks': [s.name for s in stored],
                 'weights': share.tolist()},
      'bytes': deduplicate.stored_sizes(sizes | {
          'referenced': 0, 'total': sum(sizes.values()),
          'dedicated': sizes['stats'] + trees.nbytes(
              system.backbone.params)}, arrays)}
  metadata = {key: value for key, value in first.items() if key not in (
      *checkpoint.OWN, 'relies_on', 'drawn', 'licence', 'text')} | {
          'name': name, 'record': record, 'method': made.method,
          'seed': made.seed or first['seed'], 'kept_by': None,
          'references': referred, 'versions': provenance.versions()}
  metadata |= impression_arrays.impression_metadata(made.impression)
  if made.relies is not None:
    metadata['relies_on'] = {other: system.fingerprint(other)
                             for other in made.relies}
    metadata |= system.drawn(metadata)
  metadata['drawn_probe'] = probes.describe(
      system.workdir, system.probe, first)
  task = stored[0]._replace(
      name=name, impression=made.impression, metadata=metadata,
      method=system.method(name, metadata), shared=system.shared(
          name, metadata))
  arrays['probe'] = np.asarray(system.outputs(task, probes.draw(
      metadata['drawn_probe'], metadata)))
  checkpoint.save(system.workdir.task(name), arrays, metadata)
  json_records.append_line(system.workdir.metrics, {
      'kind': 'merged', 'entry': name} | record['merged'])


def _lost(system: system_lib.System, merged: StoredTask, stored: StoredTask,
          first: StoredTask) -> str:
  """Says how a merged task differs from one of its parts."""
  said = [f'{stored.name}: ']
  if probes.is_here(system.workdir, stored.metadata):
    x = probes.of_task(system.probe, stored.metadata)
    before = np.asarray(system.outputs(stored, x))
    after = np.asarray(system.outputs(merged._replace(
        transforms=stored.transforms, parameters=stored.parameters), x))
    same = int(np.sum(before.argmax(1) == after.argmax(1)))
    said.append(f'{len(x) - same} of {len(x)} predictions on its probe have '
                f'changed (outputs by up to '
                f'{np.max(np.abs(before - after)):.3g})')
  kept, own = merged.impression.masks, stored.impression.masks
  if kept is not None and own is not None:
    gone = trees.size(own) and sum(int(np.sum(m & ~k)) for m, k in zip(
        *map(jax.tree.leaves, (own, kept))))
    new = sum(int(np.sum(k & ~m)) for m, k in zip(
        *map(jax.tree.leaves, (own, kept))))
    said.append(f', {gone:,} of its weights are gone and {new:,} weights of '
                'other tasks were added')
  if stored.transforms != first.transforms:
    said.append(f', its transforms are replaced by those of {first.name}')
  if stored.impression.stats:
    said.append(', its norm statistics are averaged')
  return ''.join(said)
