"""Tables of PaRT on five tasks: every row from the same batches and weights."""

import collections

import jax
import numpy as np

import collected
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import trees
from mtl_jax.config import config as config_lib

PHASES = (
    ('part', 'PaRT, an Adam per task (published)'),
    ('part_common', 'PaRT, one Adam'),
    ('joint', 'joint step: gradients summed'),
    ('single', 'each task alone on its path'),
    ('hard_sharing', 'one path for all tasks'),
    ('sequential', 'one after another, nothing frozen'),
)


def _runs() -> list[dict]:
  return collected.runs(collected.HERE / 'part', 'five_tasks')


def _by_task(run: dict, phase: str) -> dict[str, float]:
  return {t['task']: 100 * t['accuracy']['test'] for t in run['tasks']
          if t['phase'] == phase}


def mean_accuracy(found: list[dict], phase: str) -> str:
  """Mean over tasks, and spread over seeds, of a phase."""
  return collected.spread([np.mean(list(_by_task(run, phase).values()))
                           for run in found])


def weights(run: dict, phase: str) -> int:
  """Distinct weights on a phase's paths and of its heads, from its config."""
  config = config_lib.from_dict(run['run']['config'])
  chosen = next(p for p in config.phases if p.name == phase)
  options = dict(config.backbone.options)
  network = models.make(config.backbone.model, config.backbone.outputs,
                        **options)
  shape = dict(config.suite.options).get('image_shape') or (32, 32, 3)
  backbone = jax.eval_shape(lambda key: network.init(key, shape)[0],
                            jax.random.key(0))
  method, heads = chosen.make_method(), options['heads'][slice(*chosen.tasks)]
  routes = tuple(methods.Route(classes, loss=chosen.loss, member=k)
                 for k, classes in enumerate(heads))
  trained = jax.eval_shape(
      lambda params: method.init(None, params, {}, routes), backbone)
  rows = method.abilities.banks.rows(trained)
  # A bank's leaves have its rows in front; paths take some of them.
  modules = sum(len(np.unique(own)) * trees.size(trained[bank])
                // len(jax.tree.leaves(trained[bank])[0])
                for bank, own in rows.items() if bank != 'own')
  return (modules + trees.size(trained['own']['norms'])
          + trees.size(list(backbone['head'].values())[slice(*chosen.tasks)]))


def accuracy() -> str:
  """Mean and per-task test accuracy of every row."""
  return _accuracy(_runs())


def cifar100() -> str:
  """`accuracy` of CIFAR-100's ten tasks."""
  return _accuracy(collected.runs(collected.HERE / 'part', 'cifar100_small'))


def _accuracy(found: list[dict]) -> str:
  if not found:
    return collected.NONE
  tasks = list(_by_task(found[0], 'part'))
  rows = []
  made = {phase for run in found for phase in run['run']['config']['schedule']}
  for phase, title in PHASES:
    if phase not in made:
      continue
    own = [_by_task(run, phase) for run in found]
    share = [100 * weights(run, phase) / weights(run, 'single')
             for run in found]
    rows.append([title, mean_accuracy(found, phase),
                 f'{np.mean(share):.0f}'] + [
                     collected.spread([a[task] for a in own])
                     for task in tasks])
  return collected.markdown(
      ['trained', 'mean, %', 'weights, % of single'] + tasks, rows) + (
          f'\n\nSeeds (and path draws): {len(found)}, mean ± standard '
          f'deviation. {collected.command(found)} on '
          f'{collected.where(found)}, '
          + collected.minutes(found, 0)
          + f' min a seed, commit {collected.commits(found)}.')


def modules() -> str:
  """Accuracy and size with fewer modules on each level."""
  rows, last = [], None
  for found in (_runs(), collected.runs(collected.HERE / 'part', 'modules_4')):
    if not found:
      continue
    means = [[np.mean(list(_by_task(run, phase).values())) for run in found]
             for phase in ('part', 'single')]
    share = [100 * weights(run, 'part') / weights(run, 'single')
             for run in found]
    options = found[0]['run']['config']['backbone']['options']
    rows.append([str(dict(options)['modules']),
                 *(collected.spread(values) for values in means),
                 collected.spread(np.subtract(*means)),
                 collected.spread(share, 0), str(len(found))])
    last = found
  if last is None:
    return collected.NONE
  return collected.markdown(
      ['modules a level', 'PaRT, mean %', 'each task alone', 'PaRT less alone, '
       'points', 'weights, % of alone', 'seeds'], rows) + (
          f'\n\nThe last row: {collected.command(last)} on '
          f'{collected.where(last)}, {collected.minutes(last, 0)} min a run, '
          f'commit {collected.commits(last)}.')


def sharing() -> str:
  """The difference between PaRT and single-task networks, for each task."""
  found = _runs()
  if not found:
    return collected.NONE
  rows = []
  for task in _by_task(found[0], 'part'):
    other = [[_by_task(run, phase)[task] - _by_task(run, 'single')[task]
              for run in found] for phase in ('part', 'joint', 'hard_sharing')]
    rows.append([task] + [collected.spread(values) for values in other])
  return collected.markdown(
      ['task', 'PaRT less alone, points', 'joint step less alone',
       'one path less alone'], rows)


def level_means(ablation: list[dict]) -> tuple[float, float]:
  """Accuracy lost without a module of one task, and of several.

  Modules of one task are mostly on other levels than modules of several, and
  levels differ in importance. So each level that has both kinds counts once in
  both means.
  """
  by_level: dict = collections.defaultdict(lambda: ([], []))
  for line in ablation:
    by_level[line['level']][line['users'] > 1].append(line['lost'])
  one, several = zip(*[(np.mean(a), np.mean(b))
                       for a, b in by_level.values() if a and b])
  return float(np.mean(one)), float(np.mean(several))


def segments() -> str:
  """Statistics of the modules, over all seeds."""
  found = [run['summary']['segments'] for run in _runs()
           if run['summary'].get('segments')]
  if not found:
    return collected.NONE
  rows = []
  lost = [level_means(f['ablation']) for f in found]
  for i, title in enumerate(('one task uses', 'several tasks use')):
    rows.append([
        f'accuracy lost without a module that {title}, points: mean of level '
        'means, over levels that have both kinds',
        collected.spread([100 * pair[i] for pair in lost])])
  cka, = {f.get('cka', 'biased') for f in found}  # never both in one mean
  for phase in found[0]['similarity']:
    rows.append([f'CKA ({cka}) of modules with those of {phase}, mean',
                 collected.spread([float(np.nanmean(np.array(
                     f['similarity'][phase], float))) for f in found])])
  pairs = np.triu_indices(len(found[0]['names']), 1)
  alike, common = (np.concatenate([np.array(f[name], float)[pairs]
                                   for f in found])
                   for name in ('relation', 'overlap'))
  rows.append([f'correlation of features\' CKA ({cka}) with common modules, '
               'over pairs of tasks and seeds',
               f'{np.corrcoef(alike, common)[0, 1]:.2f}'])
  probe = [np.array(f['probe'], float) for f in found]
  own = [100 * float(np.mean(np.diag(p))) for p in probe]
  others = [100 * float(np.mean(p[~np.eye(len(p), dtype=bool)]))
            for p in probe]
  rows += [['linear probe on a task\'s own features, %', collected.spread(own)],
           ['linear probe on another task\'s features, %',
            collected.spread(others)]]
  return collected.markdown(['measured', 'mean over seeds'], rows)


def robustness() -> str:
  """Accuracy under corruptions at five strengths."""
  found = [run['summary']['segments'] for run in _runs()
           if run['summary'].get('segments')]
  if not found:
    return collected.NONE
  values: dict = collections.defaultdict(list)
  for f in found:
    for phase, name in (('', 'PaRT'), ('single', 'each task alone')):
      own = f['robustness'].get(phase) or {}
      for kind in sorted(set(own) - {'none'}):
        values[kind, name].append([own['none'], *own[kind]])
  return collected.markdown(
      ['corruption', 'trained', 'none'] + [str(s) for s in range(1, 6)],
      [[kind, name] + [collected.spread([100 * row[i] for row in rows], 1)
                       for i in range(6)]
       for (kind, name), rows in values.items()])
