"""The table of Piggyback on the MNIST family."""

import statistics

import collected

FOLDER = collected.HERE / 'piggyback'
NETWORKS = {'pretrained': 'MNIST', 'random': 'nothing: as drawn'}
METHODS = {'piggyback': 'mask and dense head (Piggyback)',
           'finetune': 'full fine-tuning', 'probe': 'linear probe'}
TASKS = {'fashion_mnist': 'Fashion-MNIST', 'kmnist': 'KMNIST',
         'cmaterdb-bangla': 'Bangla digits'}


def table() -> str:
  """A row per network and method; mean and spread over seeds."""
  by_prefix = {name: collected.runs(FOLDER, name) for name in NETWORKS}
  rows, every = [], sum(by_prefix.values(), [])
  for prefix, found in by_prefix.items():
    for phase, title in METHODS.items() if found else ():
      tasks = {name: [_accuracy(run, phase, name) for run in found]
               for name in TASKS}
      records = [t for run in found for t in run['tasks']
                 if t['phase'] == phase]
      kept = all(run['summary']['verified']['ok'] for run in found)
      rows.append([
          NETWORKS[prefix], title,
          *(collected.spread(v) for v in tasks.values()),
          collected.spread([statistics.mean(own) for own in zip(
              *tasks.values())]),
          f'{max(r["bytes"]["total"] for r in records):,}' + (
              '' if kept else ' NOT VERIFIED'),
          f'{statistics.median(r["seconds"]["train"] for r in records):.0f}'])
  if not rows:
    return collected.NONE
  roots = collected.runs(FOLDER, 'root')
  return collected.markdown(
      ['network trained on', 'what a task learns', *TASKS.values(), 'mean',
       'bytes a task', 'seconds a task'], rows) + (
           f'\n\nTest accuracy in %. Seeds: {len(roots)}. MNIST\'s network: '
           + collected.spread([collected.phase_accuracy(r)['root']
                               for r in roots]) +
           f' % on MNIST. {collected.command(by_prefix["pretrained"])} on '
           f'{collected.where(every)}, {collected.minutes(every)} min a run, '
           f'JAX {every[0]["run"]["versions"]["jax"]}, commit '
           f'{collected.commits(every)}.')


def _accuracy(run: dict, phase: str, task: str) -> float:
  found, = [100 * t['accuracy']['test'] for t in run['tasks']
            if t['phase'] == phase and t['task'] == task]
  return found
