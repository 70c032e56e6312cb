"""Tables of SplitCIFAR-100 with few epochs."""

import statistics

import collected

PHASES = (  # folder and name of the results, phase, title
    ('supsup', 'split_short', 'supermasks',
     'SupSup, edge-popup, eps = 16'),
    ('supsup', 'split_short_controls', 'dedicated', 'a dense network per task'),
    ('supsup', 'split_short_controls', 'finetune',
     'one dense network, fine-tuned in sequence (right after its task)'),
)


def supsup() -> str:
  """All 20 tasks: masks, the dense upper bound and fine-tuning in sequence."""
  return _table([_row(title, *_found(folder, name, phase))
                 for folder, name, phase, title in PHASES])


def impresslearn() -> str:
  """The tasks whose masks are not in the basis."""
  found, tasks = _found('impresslearn', 'split_short', 'heterogeneous')
  if not found:
    return collected.NONE
  unseen = {t['task'] for run in tasks for t in run}
  phases = dict(supermasks='a mask of its own (SupSup)')
  for phase, settings in found[0]['run']['config']['phases'].items():
    if settings.get('basis'):
      size, blocks = settings['basis']['size'], settings['options'].get(
          'blocks', 1)
      phases[phase] = f'K = {size}, ' + (
          f'{blocks} blocks a layer, own head mask (ours)' if blocks > 1
          else 'one coefficient a layer')
  rows = []
  for phase, title in phases.items():
    seeds = [[t for t in run['tasks'] if t['phase'] == phase
              and t['task'] in unseen] for run in found]
    rows.append(_row(title, found, seeds))
  return _table(rows)


def _found(folder, name, phase):
  """The runs, and the tasks of a phase of each."""
  found = collected.runs(collected.HERE / folder, name)
  tasks = [[t for t in run['tasks'] if t['phase'] == phase] for run in found]
  return (found, tasks) if all(tasks) else ([], [])


def _row(title, found, seeds):
  """A printed row; `None` without results."""
  if not found:
    return None
  settings = found[0]['run']['config']['phases'][seeds[0][0]['phase']]
  mean = lambda what: collected.spread(
      [statistics.mean(map(what, tasks)) for tasks in seeds])
  accuracy = lambda task: 100 * task['accuracy']['test']
  return [title, str(settings['epochs']), str(len(seeds[0])),
          mean(accuracy), f'{min(accuracy(t) for s in seeds for t in s):.1f}',
          f"{statistics.median(t['bytes']['total'] for t in seeds[0]):,.0f}",
          collected.spread([statistics.median(
              t['seconds']['train'] for t in tasks) for tasks in seeds], 0),
          str(len(found)), collected.command(found),
          f'{collected.where(found)}; {collected.minutes(found)} min a run',
          collected.commits(found)]


def _table(rows) -> str:
  return collected.markdown(
      ['method', 'epochs', 'tasks', 'test accuracy, %', 'lowest task',
       'bytes a task', 'seconds of training a task', 'seeds', 'command',
       'hardware, time of the whole run', 'commit'], [r for r in rows if r])
