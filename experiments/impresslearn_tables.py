"""Tables of ImpressLearn with the task given."""

import statistics

import collected

FOLDER = collected.HERE / 'impresslearn'
SIZES = (3, 5, 10, 20, 40, 100)


def table(suite: str) -> str:
  found = collected.runs(FOLDER, suite)
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
      f'mean over 10 unseen tasks. {collected.ran(found)} a run, commit '
      f'{collected.commits(found)}.')


def rates(prefix: str) -> str:
  """Validation accuracy of every learning rate and K."""
  found = collected.runs(FOLDER, prefix)
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
          f'\n\n{collected.ran(found)}, commit '
          f'{collected.commits(found)}.')


def chosen(prefix: str, suite: str) -> str:
  """The ten unseen tasks with a rate chosen per K, and with one for all."""
  found = collected.runs(FOLDER, prefix)
  if not found:
    return collected.NONE
  accuracy, common = ([collected.phase_accuracy(r) for r in runs]
                      for runs in (found, collected.runs(FOLDER, suite)))
  rows = []
  for name, phase in found[0]['run']['config']['phases'].items():
    if phase.get('basis'):
      kind, size = phase['basis']['kind'], phase['basis']['size']
      usual = [c[name] for c in common if name in c]
      rows.append([
          kind, str(size), f"{phase['learning_rate']:g}",
          collected.spread([a[name] for a in accuracy]),
          collected.spread(usual) if usual else '',
          collected.spread([statistics.median(
              t['seconds']['train'] for t in r['tasks'] if t['phase'] == name)
                            for r in found], 1)])
  return collected.markdown(
      ['basis', 'K', 'its rate', 'test accuracy, %', 'with 0.1 for every K, %',
       'seconds of training per task'], rows) + (
           f'\n\nSeeds: {len(found)}. {collected.ran(found)} a run, '
           f'commit {collected.commits(found)}.')


def blocks() -> str:
  """Random masks with several coefficients per layer."""
  found = collected.runs(FOLDER, 'blocks')
  if not found:
    return collected.NONE
  plain = [collected.phase_accuracy(r) for r in collected.runs(
      FOLDER, 'permuted')]
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
           f'\n\nSeeds: {len(found)}. {collected.ran(found)} a run, '
           f'commit {collected.commits(found)}. The rows without a lowest task '
           'are those of the table above.')


def blocks_grid() -> str:
  """Validation accuracy of rates and shapes."""
  found = collected.runs(FOLDER, 'blocks_grid')
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
          f'\n\n{collected.ran(found)}, commit '
          f'{collected.commits(found)}.')


def _seconds(run: dict, size: int) -> float:
  """Median training time of a task with `size` basis masks."""
  return statistics.median(
      t['seconds']['train'] for t in run['tasks']
      if t['basis'] and t['basis']['size'] == size)
