"""Results as data: collects them from workdirs, and writes README tables.

    python experiments/results.py collect WORKDIR FILE.jsonl
    python experiments/results.py tables

`collect` copies a finished run's lines without learning curves. `tables`
rewrites what stands between the markers of `experiments/*/README.md` from
the committed results; it computes nothing else.
"""

import collections
import json
import pathlib
import re
import sys

from mtl_jax import metrics

HERE = pathlib.Path(__file__).parent
DROPPED = ('curve', 'density', 'loss', 'batch_size', 'classes')


def collect(workdir: pathlib.Path, target: pathlib.Path) -> None:
  """Writes a run's last start, its tasks and its summary as JSON lines."""
  lines = read(workdir / 'metrics.jsonl')
  last = {line['kind']: line for line in lines}
  if 'summary' not in last:
    raise SystemExit(f'{workdir} has no summary: the run is not finished')
  run, summary = last['run'], last['summary']
  run['command'] = re.sub(r'--workdir[= ]\S+', '--workdir=DIR', run['command'])
  run['starts'] = sum(line['kind'] == 'run' for line in lines)
  for name in ('matrix', 'before', 'overlap', 'names'):
    summary.pop(name, None)
  tasks = [{k: v for k, v in line.items() if k not in DROPPED}
           for line in lines if line['kind'] == 'task']
  latest = {(line['kind'], line.get('name'), line.get('tasks')): line
            for line in lines if line['kind'] in ('identity', 'stream')}
  for name in ('identity', 'streams'):
    summary.pop(name, None)
  target.parent.mkdir(parents=True, exist_ok=True)
  target.write_text(''.join(json.dumps(line) + '\n'
                            for line in (run, *tasks, *latest.values(),
                                         summary)))


def read(path: pathlib.Path) -> list[dict]:
  """All lines of one file."""
  return [json.loads(line) for line in path.read_text().splitlines()]


def runs(folder: pathlib.Path, prefix: str) -> list[dict]:
  """The finished runs whose file name is `prefix` + '_s' + seed.

  Returns:
    Dicts {'run', 'tasks', 'summary'} in the order of seeds.
  """
  found = []
  for path in sorted((folder / 'results').glob(f'{prefix}_s*.jsonl')):
    lines = read(path)
    found.append({
        'run': next(x for x in lines if x['kind'] == 'run'),
        'summary': next(x for x in lines if x['kind'] == 'summary'),
        'tasks': [x for x in lines if x['kind'] == 'task']})
  return found


def phase_accuracy(run: dict) -> dict[str, float]:
  """Mean test accuracy (last step) of every phase of a run, in percent."""
  found = collections.defaultdict(list)
  for task in run['tasks']:
    found[task['phase']].append(100 * task['accuracy']['test'])
  return {phase: sum(v) / len(v) for phase, v in found.items()}


def spread(values: list[float], digits: int = 2) -> str:
  """Mean and standard deviation over seeds as text."""
  mean, std = metrics.mean_and_std(values)
  return f'{mean:.{digits}f}' + ('' if std is None
                                 else f' ± {std:.{digits}f}')


def where(found: list[dict]) -> str:
  """Hardware of runs, checked to be the same."""
  names = {f"{r['run']['hardware']['cpu']}, {r['run']['hardware']['cores']} "
           'cores' if r['run']['hardware']['platform'] == 'cpu' else
           f"{r['run']['hardware']['count']} x "
           f"{r['run']['hardware']['device']}" for r in found}
  return ' / '.join(sorted(names))


def commits(found: list[dict]) -> str:
  return ', '.join(sorted({f"`{r['run']['commit'][:8]}`" for r in found}))


def replace_table(path: pathlib.Path, name: str, table: str) -> None:
  """Replaces what stands between `<!-- name -->` and `<!-- /name -->`."""
  text = path.read_text()
  start, stop = f'<!-- {name} -->', f'<!-- /{name} -->'
  if text.count(start) != 1 or text.count(stop) != 1:
    raise SystemExit(f'{path} needs the markers {start} and {stop} once each')
  head, rest = text.split(start)
  path.write_text(f'{head}{start}\n{table}\n{stop}{rest.split(stop)[1]}')


def markdown(columns: list[str], rows: list[list[str]]) -> str:
  lines = ['| ' + ' | '.join(columns) + ' |', '|' + ' --- |' * len(columns)]
  return '\n'.join(lines + ['| ' + ' | '.join(r) + ' |' for r in rows])


# name of the results, network and tasks, reference with source and status
SUPSUP = (
    ('permuted_lenet', 'PermutedMNIST, 250 tasks, LeNet-300-100, s = 100',
     'plot only (Figs. 3, 4 of 2006.14769); the official notebook prints '
     '92.37 for 5 tasks on 784-300-300-100'),
    ('permuted_fc1024', 'PermutedMNIST, 50 tasks, FC1024, s = 500',
     '94.91 after 250 tasks with the task inferred (2006.14769, appendix '
     'Table 7)'),
    ('rotated_fc1024', 'RotatedMNIST, 36 tasks, FC1024, s = 200',
     'plot only (Fig. 5 of 2006.14769)'),
)


def supsup_table() -> str:
  rows = []
  for name, title, reference in SUPSUP:
    found = runs(HERE / 'supsup', name)
    if not found:
      continue
    accuracy = [phase_accuracy(r)['supermasks'] for r in found]
    lowest = min(100 * t['accuracy']['test'] for r in found
                 for t in r['tasks'])
    seconds = [r['summary']['seconds'] / 60 for r in found]
    stored = max(t['bytes']['stored'] for r in found for t in r['tasks'])
    command = re.sub(r' --config.seed=\d+', '', found[0]['run']['command'])
    verified = all(r['summary']['verified']['ok'] for r in found)
    rows.append([
        title, reference, spread(accuracy), f'{lowest:.2f}',
        str(len(found)), '0, bit for bit' if verified else 'NOT VERIFIED',
        f'{stored:,}', f'`{command}`',
        f'{where(found)}; {spread(seconds, 1)} min', commits(found)])
  return markdown(
      ['experiment', 'reference, test accuracy %', 'ours, %', 'lowest task',
       'seeds', 'forgetting', 'bytes per task on disk', 'command',
       'hardware, time', 'commit'], rows)


SIZES = (3, 5, 10, 20, 40, 100)


def impresslearn_table(suite: str) -> str:
  found = runs(HERE / 'impresslearn', suite)
  accuracy = [phase_accuracy(r) for r in found]
  rows = []
  for kind in ('heterogeneous', 'homogeneous', 'random'):
    rows.append([kind] + [spread([a[f'{kind}_{k}'] for a in accuracy], 1)
                          for k in SIZES])
  rows.append(['a mask of its own (SupSup)']
              + [spread([a['dedicated'] for a in accuracy], 1)]
              + [''] * (len(SIZES) - 1))
  rows.append(['coefficients per task'] + [str(3 * k) for k in SIZES])
  rows.append(['seconds of training per task'] + [
      spread([_seconds(r, k) for r in found], 1) for k in SIZES])
  command = re.sub(r' --config.seed=\d+', '', found[0]['run']['command'])
  return markdown(['basis'] + [f'K = {k}' for k in SIZES], rows) + (
      f'\n\nSeeds: {len(found)}. Mean (± standard deviation over seeds) of the '
      f'mean over 10 unseen tasks. `{command}` on {where(found)}, commit '
      f'{commits(found)}.')


def _seconds(run: dict, size: int) -> float:
  """Median training time of a task with `size` basis masks."""
  times = sorted(t['seconds']['train'] for t in run['tasks']
                 if t['basis'] and t['basis']['size'] == size)
  return times[len(times) // 2]


HOPSUPSUP = (
    ('known_stored', 'task known: its mask, its stored statistics'),
    ('known', "task known: its mask, the batch's statistics"),
    ('bank_stream', 'list of masks, least entropy on 30 batches'),
    ('bank_batch', 'list of masks, least entropy on each batch'),
    ('one_shot', 'list of masks, one gradient on each batch'),
)


def hopsupsup_table() -> str:
  """Mean over tasks; Hopfield's rows are means over orders of the streams."""
  folder = HERE / 'hopsupsup'
  found = runs(folder, 'test')
  rows = []
  for name, title in HOPSUPSUP:
    shares = [r['summary']['task_found'].get(name) for r in found]
    rows.append([title, spread([100 * r['summary']['accuracy'][name]
                                for r in found]),
                 '' if None in shares else
                 spread([100 * s for s in shares], 1), '', ''])
  for prefix in ('test', 'chosen'):
    rows += [_hopfield_row(prefix, runs(folder, prefix))]
  sizes = found[0]['summary']['bytes']
  return markdown(
      ['how the mask is found', 'test accuracy, %', 'right mask, %',
       'lowest seed', 'steps to the exact mask'],
      [row for row in rows if row]) + (
          f"\n\nSeeds: {len(found)}, mean ± standard deviation. Bytes kept: "
          f"{sizes['bank']:,} for the list of {len(found[0]['tasks'])} masks "
          f"({sizes['mask']} each), {sizes['memory']:,} for the matrices "
          'whatever their number, so that they would pay from '
          f"{sizes['break_even_tasks']:,} tasks on. Stored norm statistics: "
          f"{sizes['stats_per_task']:,} bytes per task, used in the first row "
          f"alone. {where(found)}; {_command(found[0])}, commit "
          f'{commits(found)}.')


def _hopfield_row(prefix: str, found: list[dict]) -> list[str]:
  if not found:
    return []
  orders = [r['summary']['orders'] for r in found]
  recipe = found[0]['summary']['recipe']
  steps = sorted(s for o in orders for s in o['steps'] if s is not None)
  accuracy = [100 * o['accuracy'] for o in orders]
  title = {'test': 'published', 'chosen': 'chosen on validation'}[prefix]
  return [f"Hopfield, {title}: lr {recipe['learning_rate']:g}, gamma "
          f"{recipe['gamma']:g} ({found[0]['run']['orders']} orders of every "
          'stream)', spread(accuracy),
          spread([100 * o['exact'] for o in orders], 1),
          f'{min(accuracy):.2f}',
          f'median {steps[len(steps) // 2]}, at most {steps[-1]}']


def _command(run: dict) -> str:
  return f"`{re.sub(r'_s[0-9]+[.]', '_sSEED.', run['run']['command'])}`"


def hopsupsup_grid() -> str:
  """How many of the validation streams gave the very mask."""
  counts: dict = collections.defaultdict(lambda: [0, 0])
  for path in sorted((HERE / 'hopsupsup' / 'results').glob('grid_s*.jsonl')):
    for line in read(path):
      if line['kind'] == 'grid':
        recipe = line['recipe']['learning_rate'], line['recipe']['gamma']
        counts[recipe][0] += sum(s is not None for s in line['steps'])
        counts[recipe][1] += line['streams']
  gammas = sorted({gamma for _, gamma in counts})
  return markdown(
      ['learning rate'] + [f'gamma {g:g}' for g in gammas],
      [[f'{rate:g}'] + ['{} of {}'.format(*counts[rate, g]) for g in gammas]
       for rate in sorted({rate for rate, _ in counts})])


def hopsupsup_load() -> str:
  """Recovery beside masks that belong to no task."""
  rows = []
  for name, rule, decoys in (
      ('valid', 'Storkey', 0), ('hebb', 'Hebb', 0),
      *((f'decoys_{n}', 'Storkey', n) for n in (2, 5, 10, 20, 50))):
    for found in runs(HERE / 'hopsupsup', name)[:1]:
      steps = [t['hopfield']['steps_to_converge'] for t in found['tasks']]
      rows.append([rule, str(decoys), ', '.join(
          'never' if s is None else str(s) for s in steps), ', '.join(
              str(sum(t['hopfield']['hamming'].values()))
              for t in found['tasks']),
          f"{100 * found['summary']['accuracy']['hopfield']:.2f}"])
  return markdown(['rule', 'random masks beside the 5', 'steps, by task',
                   'wrong bits of 4,096, by task', 'accuracy, %'], rows)


def headline() -> str:
  """The main README's table: one line per result that is there."""
  rows = []
  for name, title, _ in SUPSUP:
    found = runs(HERE / 'supsup', name)
    if found:
      accuracy = [phase_accuracy(r)['supermasks'] for r in found]
      rows.append(['SupSup', title, spread(accuracy), str(len(found))])
  for suite, title in (('permuted', 'PermutedMNIST'),
                       ('rotated', 'RotatedMNIST')):
    found = runs(HERE / 'impresslearn', suite)
    for size in (20, 40, 100) if found else ():
      accuracy = [phase_accuracy(r)[f'heterogeneous_{size}'] for r in found]
      rows.append(['ImpressLearn', f'{title}, 10 unseen tasks, {3 * size} '
                   f'numbers each over {size} masks', spread(accuracy),
                   str(len(found))])
  return markdown(['system', 'experiment', 'test accuracy, %', 'seeds'], rows)


def tables() -> None:
  replace_table(HERE.parent / 'README.md', 'headline', headline())
  replace_table(HERE / 'supsup' / 'README.md', 'results', supsup_table())
  for name, table in (('results', hopsupsup_table), ('grid', hopsupsup_grid),
                      ('load', hopsupsup_load)):
    replace_table(HERE / 'hopsupsup' / 'README.md', name, table())
  for suite in ('permuted', 'rotated'):
    if runs(HERE / 'impresslearn', suite):
      replace_table(HERE / 'impresslearn' / 'README.md', suite,
                    impresslearn_table(suite))


if __name__ == '__main__':
  if sys.argv[1:2] == ['collect'] and len(sys.argv) == 4:
    collect(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
  elif sys.argv[1:] == ['tables']:
    tables()
  else:
    sys.exit(__doc__)
