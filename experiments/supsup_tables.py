"""Tables of SupSup and ImpressLearn with the task given."""

import statistics

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


def supsup_table() -> str:
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


SIZES = (3, 5, 10, 20, 40, 100)


def impresslearn_table(suite: str) -> str:
  found = collected.runs(collected.HERE / 'impresslearn', suite)
  accuracy = [collected.phase_accuracy(r) for r in found]
  rows = []
  for kind in ('heterogeneous', 'homogeneous', 'random'):
    rows.append([kind] + [
        collected.spread([a[f'{kind}_{k}'] for a in accuracy], 1)
        for k in SIZES])
  rows.append(['a mask of its own (SupSup)']
              + [collected.spread([a['dedicated'] for a in accuracy], 1)]
              + [''] * (len(SIZES) - 1))
  rows.append(['coefficients per task'] + [str(3 * k) for k in SIZES])
  rows.append(['seconds of training per task'] + [
      collected.spread([_seconds(r, k) for r in found], 1) for k in SIZES])
  return collected.markdown(['basis'] + [f'K = {k}' for k in SIZES], rows) + (
      f'\n\nSeeds: {len(found)}. Mean (± standard deviation over seeds) of the '
      f'mean over 10 unseen tasks. {collected.command(found)} on '
      f'{collected.where(found)}, {collected.minutes(found)} min a run, commit '
      f'{collected.commits(found)}.')


def impresslearn_rates() -> str:
  """Validation accuracy of every learning rate and K."""
  found = collected.runs(collected.HERE / 'impresslearn', 'grid')
  if not found:
    return collected.NONE
  phases = found[0]['run']['config']['phases']
  tried: dict = {}
  for task in found[0]['tasks']:
    if task['basis']:
      key = task['basis']['size'], phases[task['phase']]['learning_rate']
      tried.setdefault(key, []).append(100 * task['accuracy']['valid'])
  rates = sorted({rate for _, rate in tried})
  rows = []
  for size in sorted({size for size, _ in tried}):
    means = [statistics.mean(tried[size, rate]) for rate in rates]
    rows.append([str(size)] + [f'**{m:.2f}**' if m == max(means) else f'{m:.2f}'
                               for m in means])
  return collected.markdown(
      ['K', *(f'rate {rate:g}' for rate in rates)], rows) + (
          f'\n\n{collected.command(found)} on {collected.where(found)}, '
          f'{collected.minutes(found)} min, commit {collected.commits(found)}.')


def impresslearn_chosen() -> str:
  """The ten unseen tasks with a rate chosen per K, and with one for all."""
  found = collected.runs(collected.HERE / 'impresslearn', 'chosen')
  if not found:
    return collected.NONE
  common = [collected.phase_accuracy(r) for r in collected.runs(
      collected.HERE / 'impresslearn', 'rotated')]
  accuracy = [collected.phase_accuracy(r) for r in found]
  rows = []
  for name, phase in found[0]['run']['config']['phases'].items():
    if phase.get('basis'):
      rows.append([
          str(phase['basis']['size']), f"{phase['learning_rate']:g}",
          collected.spread([a[name] for a in accuracy]),
          collected.spread([c[name] for c in common]),
          collected.spread([_seconds(r, phase['basis']['size'])
                            for r in found], 1)])
  return collected.markdown(
      ['K', 'its rate', 'test accuracy, %', 'with 0.1 for every K, %',
       'seconds of training per task'], rows) + (
           f'\n\nSeeds: {len(found)}. {collected.command(found)} on '
           f'{collected.where(found)}, {collected.minutes(found)} min a run, '
           f'commit {collected.commits(found)}.')


def impresslearn_blocks() -> str:
  """Random masks with several coefficients per layer."""
  found = collected.runs(collected.HERE / 'impresslearn', 'blocks')
  if not found:
    return collected.NONE
  plain = [collected.phase_accuracy(r) for r in collected.runs(
      collected.HERE / 'impresslearn', 'permuted')]
  rows = [[str(size), 'one coefficient a layer', f'{3 * 4 * size:,}',
           collected.spread([a[f'random_{size}'] for a in plain]), '', '']
          for size in (20, 40)]
  for name, phase in found[0]['run']['config']['phases'].items():
    tasks = [[t for t in r['tasks'] if t['phase'] == name] for r in found]
    options, size = phase['options'], phase['basis']['size']
    words = [f"{options['blocks']} blocks a layer"
             if options.get('blocks', 1) > 1 else 'one coefficient a layer']
    words += ['own head mask'] if options.get('head') else []
    rows.append([
        str(size), ', '.join(words), f"{tasks[0][0]['bytes']['total']:,}",
        collected.spread([collected.phase_accuracy(r)[name] for r in found]),
        f"{100 * min(t['accuracy']['test'] for s in tasks for t in s):.1f}",
        collected.spread([statistics.median(
            t['seconds']['train'] for t in s) for s in tasks], 1)])
  rows.append(['', 'a mask of its own (SupSup)', '33,275', collected.spread(
      [a['dedicated'] for a in plain]), '', ''])
  rows.sort(key=lambda row: int(row[2].replace(',', '')))
  return collected.markdown(
      ['K', 'of a task', 'bytes a task', 'test accuracy, %', 'lowest task',
       'seconds of training per task'], rows) + (
           f'\n\nSeeds: {len(found)}. {collected.command(found)} on '
           f'{collected.where(found)}, {collected.minutes(found)} min a run, '
           f'commit {collected.commits(found)}. The rows without a lowest task '
           'are those of the table above.')


def impresslearn_blocks_grid() -> str:
  """Validation accuracy of rates and shapes."""
  found = collected.runs(collected.HERE / 'impresslearn', 'blocks_grid')
  if not found:
    return collected.NONE
  rows = []
  for name, phase in found[0]['run']['config']['phases'].items():
    tasks = [t for t in found[0]['tasks'] if t['phase'] == name]
    options, rate = phase['options'], phase['learning_rate']
    rows.append([
        str(phase['basis']['size']), str(options['blocks']), f'{rate:g}',
        f"{rate * options.get('head_rate', 1):g}",
        f"{tasks[0]['bytes']['total']:,}",
        f"{100 * statistics.mean(t['accuracy']['valid'] for t in tasks):.2f}"])
  return collected.markdown(
      ['K', 'blocks a layer', 'rate', 'rate of the head', 'bytes a task',
       'validation, %'], rows) + (
          f'\n\n{collected.command(found)} on {collected.where(found)}, '
          f'{collected.minutes(found)} min, commit {collected.commits(found)}.')


def _seconds(run: dict, size: int) -> float:
  """Median training time of a task with `size` basis masks."""
  return statistics.median(
      t['seconds']['train'] for t in run['tasks']
      if t['basis'] and t['basis']['size'] == size)
