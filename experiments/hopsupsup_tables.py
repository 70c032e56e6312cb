"""Tables of HopSupSup."""

import collections

import statistics

import collected

HOPSUPSUP = (
    ('known_stored', 'task known: its mask, its stored statistics'),
    ('known', "task known: its mask, the batch's statistics"),
    ('bank_stream', 'list of masks, least entropy on 30 batches'),
    ('bank_batch', 'list of masks, least entropy on each batch'),
    ('one_shot', 'list of masks, one gradient on each batch'),
)


def hopsupsup_table() -> str:
  """Mean over tasks; Hopfield's rows are means over orders of the streams."""
  folder = collected.HERE / 'hopsupsup'
  found = collected.runs(folder, 'test')
  rows = []
  for name, title in HOPSUPSUP:
    shares = [r['summary']['task_found'].get(name) for r in found]
    rows.append([title, collected.spread([100 * r['summary']['accuracy'][name]
                                for r in found]),
                 '' if None in shares else
                 collected.spread([100 * s for s in shares], 1), '', ''])
  for prefix in ('test', 'chosen'):
    rows += [_hopfield_row(prefix, collected.runs(folder, prefix))]
  sizes = found[0]['summary']['bytes']
  return collected.markdown(
      ['how the mask is found', 'test accuracy, %', 'right mask, %',
       'lowest seed', 'steps to the exact mask'],
      [row for row in rows if row]) + (
          f"\n\nSeeds: {len(found)}, mean ± standard deviation. Bytes kept: "
          f"{sizes['bank']:,} for the list of {len(found[0]['tasks'])} masks "
          f"({sizes['mask']} each), {sizes['memory']:,} for the matrices "
          'whatever their number, so that they would pay from '
          f"{sizes['break_even_tasks']:,} tasks on. Stored norm statistics: "
          f"{sizes['stats_per_task']:,} bytes per task, used in the first row "
          f"alone. {collected.where(found)}, {collected.minutes(found)} min a "
          f'run; {collected.command(found)}, '
          'commit '
          f'{collected.commits(found)}.')


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
          'stream)', collected.spread(accuracy),
          collected.spread([100 * o['exact'] for o in orders], 1),
          f'{min(accuracy):.2f}',
          f'median {statistics.median(steps):g}, at most {steps[-1]}']


def hopsupsup_grid() -> str:
  """The number of validation streams whose mask was recovered exactly."""
  counts: dict = collections.defaultdict(lambda: [0, 0])
  tried = [collected.read(path) for path in sorted(
      (collected.HERE / 'hopsupsup' / 'results').glob('grid_s*.jsonl'))]
  collected.require_seeds('grid', [lines[0] for lines in tried])
  for lines in tried:
    for line in lines:
      if line['kind'] == 'grid':
        recipe = line['recipe']['learning_rate'], line['recipe']['gamma']
        counts[recipe][0] += sum(s is not None for s in line['steps'])
        counts[recipe][1] += line['streams']
  gammas = sorted({gamma for _, gamma in counts})
  return collected.markdown(
      ['learning rate'] + [f'gamma {g:g}' for g in gammas],
      [[f'{rate:g}'] + ['{} of {}'.format(*counts[rate, g]) for g in gammas]
       for rate in sorted({rate for rate, _ in counts})])


def hopsupsup_load() -> str:
  """Recovery with further random masks in the memory; a number per seed."""
  rows = []
  for name, rule, decoys in (
      ('valid', 'Storkey', 0), ('hebb', 'Hebb', 0),
      *((f'decoys_{n}', 'Storkey', n) for n in (2, 5, 10, 20, 50))):
    found = collected.runs(collected.HERE / 'hopsupsup', name)
    if not found:
      continue
    steps = [[t['hopfield']['steps_to_converge'] for t in r['tasks']]
             for r in found]
    wrong = [[sum(t['hopfield']['hamming'].values()) for t in r['tasks']]
             for r in found]
    flat = [s for row in steps for s in row]
    rows.append([
        rule, str(decoys), f'{sum(s is not None for s in flat)} of {len(flat)}',
        _by_seed(steps), _by_seed(wrong), collected.spread(
            [100 * r['summary']['accuracy']['hopfield'] for r in found]),
        str(len(found)), collected.minutes(found), collected.commits(found)])
  return collected.markdown(
      ['rule', 'random masks beside the 5', 'exact masks', 'steps, by task',
       'wrong bits of 4,096, by task', 'accuracy, %', 'seeds', 'minutes',
       'commit'], rows)


def _by_seed(values: list[list]) -> str:
  return '; '.join(', '.join('never' if v is None else str(v) for v in row)
                   for row in values)
