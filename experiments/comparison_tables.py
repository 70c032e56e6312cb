"""All methods on the same tasks: accuracy, forgetting, bytes and seconds.

Bytes are those of the packed impression, without file formats. What several
tasks need is divided by the number of tasks compared.
"""

import statistics

import collected

FOLDER = collected.HERE / 'comparison'
SUITES = {'permuted': 'PermutedMNIST, 10 tasks',
          'rotated': 'RotatedMNIST, 10 tasks', 'datasets': 'six data sets'}


def alone(records, run) -> tuple[float, float]:
  """(own bytes, shared bytes) of a method whose tasks share none."""
  del run
  return statistics.mean(map(whole, records)), 0.


def first_holds(records, run) -> tuple[float, float]:
  """The same if the first task stores what all share, or all use a network."""
  del run
  own = min(r['bytes']['total'] for r in records)
  return own, (max(map(whole, records)) - own) / len(records)


def goes_on(records, run) -> tuple[float, float]:
  """The same if one network is trained further; tasks keep signs or heads.

  The library stores the network after each task. A user of the method would
  have only the last one.
  """
  own = records[0]['bytes'].get('signs')
  if own is None:
    own, _ = first_holds(of_phase(run, 'joint'), run)
  return own, (whole(records[0]) - own) / len(records)


def learned_basis(records, run) -> tuple[float, float]:
  """The same for coefficients over the masks of other tasks."""
  masks = sum(whole(r) for r in of_phase(run, 'basis'))
  return alone(records, run)[0], masks / len(records)


ROWS = {  # phase: name, short name of the figure, what it costs
    'dedicated': ('a dense network for each task', 'dense each', alone),
    'joint': ('one dense network for all, trained together', 'joint',
              first_holds),
    'subnetworks': ('subnetworks, a tenth of the weights each', 'subnetworks',
                    alone),
    'sharing': ('subnetworks that also use earlier ones', 'sharing', alone),
    'supsup': ('SupSup, threshold masks', 'SupSup', alone),
    'supsup_sparse': ('SupSup, edge-popup, eps 16', 'SupSup sparse', alone),
    'heterogeneous_20_blocks_head': (
        'ImpressLearn, 20 masks of other tasks, blocks and head (ours)',
        'IL 20 learned, blocks + head', learned_basis),
    'heterogeneous_20': ('ImpressLearn, 20 masks of other tasks',
                         'IL 20 learned', learned_basis),
    'random_40_blocks_head': (
        'ImpressLearn, 40 masks from a seed, blocks and head (ours)',
        'IL 40 random, blocks + head', alone),
    'random_40': ('ImpressLearn, 40 masks from a seed', 'IL 40 random', alone),
    'batche': ('BatchE, weights of the first task', 'BatchE', first_holds),
    'psp': ('PSP, one network that goes on', 'PSP', goes_on),
    'finetune': ('fine-tuned in sequence, one network that goes on',
                 'fine-tuned', goes_on),
    'probe': ('linear probe on the random backbone', 'linear probe', alone),
}


def whole(record: dict) -> int:
  """Bytes of an impression, including those stored with another task."""
  return record['bytes']['total'] + record['bytes']['referenced']


def of_phase(run: dict, phase: str) -> list[dict]:
  return [t for t in run['tasks'] if t['phase'] == phase]


def at_the_end(run: dict, phase: str) -> tuple[list[float], float]:
  """(every task's test accuracy after the last one, mean loss since), in %."""
  after = [100 * t['accuracy']['test'] for t in of_phase(run, phase)]
  for line in run['summary']['carried']:
    if line['phase'] == phase:
      end = [100 * value for value in line['end']]
      return end, statistics.mean(after) - statistics.mean(end)
  return after, 0.


def table(suite: str) -> str:
  """One row per method; mean and spread over seeds."""
  found = collected.runs(FOLDER, suite)
  rows = []
  for phase, (title, _, cost) in ROWS.items():
    if not found or not of_phase(found[0], phase):
      continue
    ends = [at_the_end(run, phase) for run in found]
    records = of_phase(found[0], phase)
    own, share = cost(records, found[0])
    forgets = any(line['phase'] == phase for run in found
                  for line in run['summary']['carried'])
    kept = all(run['summary']['verified']['ok'] for run in found)
    rows.append([
        title, collected.spread([statistics.mean(e) for e, _ in ends]),
        f'{min(min(e) for e, _ in ends):.1f}',
        collected.spread([lost for _, lost in ends]) if forgets
        else ('0' if kept else 'NOT VERIFIED'),
        f'{own:,.0f}', f'{share:,.0f}',
        collected.spread([statistics.median(
            t['seconds']['train'] for t in of_phase(run, phase))
                          for run in found], 1), inferred(found, phase)])
  if not rows:
    return collected.NONE
  return collected.markdown(
      ['method', 'test accuracy, %', 'lowest task', 'forgetting, points',
       'bytes of its own', 'share of what is shared', 'seconds a task',
       'task inferred, %'], rows) + (
           f'\n\nSeeds: {len(found)}. {collected.ran(found)} a run, '
           f'JAX {found[0]["run"]["versions"]["jax"]}, commit '
           f'{collected.commits(found)}.')


def by_task(suite: str) -> str:
  """Test accuracy of every method on every task, after the last task."""
  found = collected.runs(FOLDER, suite)
  if not found:
    return collected.NONE
  rows = []
  for phase, (title, _, _) in ROWS.items():
    if records := of_phase(found[0], phase):
      ends = zip(*(at_the_end(run, phase)[0] for run in found))
      rows.append([title, *map(collected.spread, map(list, ends))])
      names = [record['task'] for record in records]
  return collected.markdown(['method', *names], rows)


def inferred(found: list[dict], phase: str) -> str:
  """Accuracy where the task is inferred, with how often it is found."""
  lines = [line for run in found for line in run['identity']
           if line['name'] == phase]
  if not lines:
    return ''
  spread = lambda values: collected.spread([100 * v for v in values], 1)
  return (f"{spread([x['accuracy']['GNs'] for x in lines])} (found: "
          f"{spread([x['identified'] for x in lines])})")


def grid() -> str:
  """Validation accuracy of the learning rates that were tried."""
  found = collected.runs(FOLDER, 'grid')
  if not found:
    return collected.NONE
  phases = found[0]['run']['config']['phases']
  tried: dict[str, dict[float, float]] = {}
  for phase, settings in phases.items():
    tried.setdefault(phase.split('_')[0], {})[settings['learning_rate']] = (
        100 * statistics.mean(t['accuracy']['valid']
                              for t in of_phase(found[0], phase)))
  rates = sorted({rate for values in tried.values() for rate in values})
  rows = [[ROWS[name][0], *(
      f'**{values[rate]:.2f}**' if values[rate] == max(values.values())
      else f'{values[rate]:.2f}' for rate in rates)]
          for name, values in tried.items()]
  return collected.markdown(
      ['method', *(f'rate {rate:g}' for rate in rates)], rows) + (
          f'\n\n{collected.ran(found)}, commit '
          f'{collected.commits(found)}.')


def draw(target) -> None:
  """Accuracy against bytes a task, its share included; a point per method."""
  import matplotlib.pyplot as plt
  shown = {suite: found for suite in SUITES
           for found in [collected.runs(FOLDER, suite)] if found}
  if not shown:
    return
  plt.rcParams['svg.hashsalt'] = target.name  # the same bytes again
  figure, axes = plt.subplots(1, len(shown), squeeze=False, sharey=True,
                              figsize=(1.8 + 4.2 * len(shown), 4.2))
  for ax, (suite, found) in zip(axes[0], shown.items()):
    for number, (phase, (_, label, cost)) in enumerate(ROWS.items()):
      records = of_phase(found[0], phase)
      if not records:
        continue
      means = [statistics.mean(at_the_end(run, phase)[0]) for run in found]
      ax.errorbar(
          sum(cost(records, found[0])), statistics.mean(means),
          statistics.stdev(means) if len(means) > 1 else None,
          fmt='osD^vPX'[number % 7], color=f'C{number % 10}', ms=6, label=label,
          mfc='none' if number >= 10 else None)
    ax.set(xscale='log', xlabel='bytes a task (its own and its share)',
           title=SUITES[suite])
    ax.grid(alpha=.3)
  axes[0][0].set_ylabel('mean test accuracy at the end, %')
  handles, labels = axes[0][0].get_legend_handles_labels()  # has all rows
  axes[0][-1].legend(handles, labels, fontsize=7, loc='center left',
                     bbox_to_anchor=(1.01, .5))
  figure.tight_layout()
  figure.savefig(target, metadata={'Date': None})
  plt.close(figure)
