"""The tables of Piggyback: on the MNIST family, and on SplitCIFAR-100."""

import statistics

import collected

FOLDER = collected.HERE / 'piggyback'
METHODS = {'piggyback': 'mask and dense head (Piggyback)',
           'finetune': 'full fine-tuning', 'probe': 'linear probe'}
FAMILY = {'fashion_mnist': 'Fashion-MNIST', 'kmnist': 'KMNIST',
          'cmaterdb-bangla': 'Bangla digits'}
CIFAR = {f'split-{k}': f'task {k}' for k in (10, 11, 12)}


def family() -> str:
  """A row per network and method; mean and spread over seeds."""
  return _table('', 'MNIST', FAMILY)


def cifar() -> str:
  """The same of three tasks of SplitCIFAR-100."""
  return _table('cifar_', '50 other classes', CIFAR)


def grid() -> str:
  """Learning rates of the masks of SplitCIFAR-100: a row for each."""
  found = [(phase, run) for prefix in ('cifar_pretrained', 'cifar_grid')
           for run in collected.runs(FOLDER, prefix)
           for phase, settings in run['run']['config']['phases'].items()
           if settings['method'] == 'supsup']
  rows = []
  for phase, run in found:
    tasks = [t for t in run['tasks'] if t['phase'] == phase]
    rate = run['run']['config']['phases'][phase]['learning_rate']
    rows.append([f'{rate:g}', *(
        f'{statistics.mean(100 * t["accuracy"][split] for t in tasks):.2f}'
        for split in ('valid', 'test'))])
  return collected.markdown(
      ['rate', 'validation, %', 'test, %'], rows) if rows else collected.NONE


def _table(prefix: str, first: str, tasks: dict[str, str]) -> str:
  """The table of the runs with a prefix.

  Args:
    prefix: of the names of the results.
    first: on what the first network was trained.
    tasks: titles of the tasks by name.
  """
  networks = {'pretrained': first, 'random': 'nothing: as drawn'}
  found = {name: collected.runs(FOLDER, prefix + name) for name in networks}
  rows = [_row(networks[name], title, runs, phase, tasks)
          for name, runs in found.items() if runs
          for phase, title in METHODS.items()]
  if not rows:
    return collected.NONE
  roots = collected.runs(FOLDER, f'{prefix}root')
  every = sum(found.values(), [])
  return collected.markdown(
      ['network trained on', 'what a task learns', *tasks.values(), 'mean',
       'bytes a task', 'seconds a task'], rows) + (
           f'\n\nTest accuracy in %. Seeds: {len(roots)}. Accuracy of '
           f'the first network, on its own task: ' + collected.spread([
               collected.phase_accuracy(r)['root'] for r in roots]) +
           f' %. {collected.command(found["pretrained"])} on '
           f'{collected.where(every)}, {collected.minutes(every)} min a run, '
           f'JAX {every[0]["run"]["versions"]["jax"]}, commit '
           f'{collected.commits(every)}.')


def _row(network: str, title: str, runs: list[dict], phase: str,
         tasks: dict[str, str]) -> list[str]:
  accuracy = {name: [_accuracy(run, phase, name) for run in runs]
              for name in tasks}
  records = [t for run in runs for t in run['tasks'] if t['phase'] == phase]
  kept = all(run['summary']['verified']['ok'] for run in runs)
  return [
      network, title, *(collected.spread(v) for v in accuracy.values()),
      collected.spread([statistics.mean(own)
                        for own in zip(*accuracy.values())]),
      f'{max(r["bytes"]["total"] for r in records):,}' + (
          '' if kept else ' NOT VERIFIED'),
      f'{statistics.median(r["seconds"]["train"] for r in records):.0f}']


def _accuracy(run: dict, phase: str, task: str) -> float:
  found, = [100 * t['accuracy']['test'] for t in run['tasks']
            if t['phase'] == phase and t['task'] == task]
  return found
