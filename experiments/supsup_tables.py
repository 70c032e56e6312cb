"""Table of SupSup with the task given."""

import collected

# name of the results, network and tasks, reference with source and status
SUPSUP = (
    ('permuted_lenet', 'PermutedMNIST, 250 tasks, LeNet-300-100, s = 100',
     'plot only (Figs. 3, 4 of 2006.14769); the official notebook prints '
     '92.37 for 5 tasks on 784-300-300-100'),
    ('permuted_fc1024', 'PermutedMNIST, 50 tasks, FC1024, s = 500',
     '94.91 after 250 tasks with the task inferred (which network: not '
     'said)'),
    ('fc1024_250', 'PermutedMNIST, 250 tasks, FC1024, s = 500',
     '94.91 with the task inferred (which network: not said)'),
    ('rotated_fc1024', 'RotatedMNIST, 36 tasks, FC1024, s = 200',
     'plot only (Fig. 5 of 2006.14769)'),
)


def table() -> str:
  rows = []
  for name, title, reference in SUPSUP:
    found = collected.runs(collected.HERE / 'supsup', name)
    if not found:
      continue
    accuracy = [collected.phase_accuracy(r)['supermasks'] for r in found]
    lowest = min(100 * t['accuracy']['test'] for r in found
                 for t in r['tasks'])
    stored = max(t['bytes']['stored'] for r in found for t in r['tasks'])
    verified = all(r['summary']['verified']['ok'] for r in found)
    rows.append([
        title, reference, collected.spread(accuracy), f'{lowest:.2f}',
        str(len(found)), '0, bit for bit' if verified else 'NOT VERIFIED',
        f'{stored:,}', collected.command(found),
        f'{collected.where(found)}; {collected.minutes(found)} min a run',
        collected.commits(found)])
  return collected.markdown(
      ['experiment', 'reference, test accuracy %', 'ours, %', 'lowest task',
       'seeds', 'forgetting', 'bytes per task on disk', 'command',
       'hardware, time', 'commit'], rows)
