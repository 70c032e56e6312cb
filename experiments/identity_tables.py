"""Tables and curves of runs in which the task is inferred."""

import collected

# results folder, prefix, what was run, what the paper has
RUNS = (
    ('supsup', 'permuted_lenet', 'PermutedMNIST, LeNet-300-100, s = 100',
     'plot only (Fig. 4)'),
    ('supsup', 'permuted_fc1024', 'PermutedMNIST, FC1024, s = 500',
     '94.91 after 250 tasks (which network: not said)'),
    ('supsup', 'fc1024_250', 'PermutedMNIST, FC1024, s = 500',
     '94.91 (which network: not said)'),
    ('identity', 'supsup_2500', 'PermutedMNIST, LeNet-300-100, s = 500',
     'plot only (Fig. 4, 2,500 tasks)'),
    ('supsup', 'rotated_fc1024', 'RotatedMNIST, FC1024, s = 200',
     'plot only (Fig. 5)'),
    ('identity', 'nameless', 'NNs: PermutedMNIST without names in training, '
     'LeNet-300-100, s = 500', 'plot only (Fig. 4)'),
    ('identity', 'nameless_250', 'NNs: PermutedMNIST without names in '
     'training, LeNet-300-100, s = 500', 'plot only (Fig. 4)'),
    ('identity', 'impresslearn_rotated', 'ImpressLearn, RotatedMNIST, 10 '
     'unseen tasks over 40 masks, LeNet-300-100, s = 100', 'none'),
)
# The number of outputs s of the paper's Fig. 6, and where its runs are.
OUTPUTS = ((25, 'identity', 'outputs_25'), (100, 'supsup', 'permuted_lenet'),
           (200, 'identity', 'outputs_200'))
SCENARIOS = ('GG', 'GNs', 'GNu')


def lines(folder: str, prefix: str) -> dict[tuple, list[dict]]:
  """Evaluations of all seeds by (name, number of tasks).

  Each has 'whole', the mean accuracy of its tasks on their whole test splits
  with the task given.
  """
  found: dict[tuple, list[dict]] = {}
  collected.runs(collected.HERE / folder, prefix)  # seeds of one config?
  for path in sorted((collected.HERE / folder / 'results').glob(
      f'{prefix}_s[0-9]*.jsonl')):
    read = collected.read(path)
    for line in read:
      if line['kind'] == 'identity':
        own = [t['accuracy']['test'] for t in read if t['kind'] == 'task'
               and not t['repeat'] and (t['phase'] in line['phases']
                                        or not (line['phases'] or t['control']))
               ][:line['tasks']]
        found.setdefault((line['name'], line['tasks']), []).append(
            line | {'whole': sum(own) / len(own)})
  return found


def images_of(line: dict) -> int:
  """Test images of each task that an evaluation counts."""
  return round(line['test_images'] / line['tasks'])


def scenarios() -> str:
  """The last point of every curve: all tasks of a run."""
  rows = []
  for folder, prefix, title, reference in RUNS:
    found = lines(folder, prefix)
    for name in dict.fromkeys(name for name, _ in found):
      tasks = max(t for n, t in found if n == name)
      shown = title if not name.startswith('masks_') else (
          'RotatedMNIST, the same 10 tasks with a mask each')
      rows.append([shown, reference, *_row(found[name, tasks])])
  return collected.markdown(
      ['experiment', "paper's GNu", 'inference', 'images', 'tasks',
       'identified, %', 'test images a task', 'GG', 'GNs', 'GNu',
       'GG, all test images', 'seeds'], rows)


def _row(seeds: list[dict]) -> list[str]:
  first = seeds[0]
  objective = {'entropy': 'H', 'superfluous': 'G'}[first['objective']]
  rule = f"{first['rule'].replace('_', '-')}, {objective}"
  if first.get('normalise'):
    rule += ', normalised'
  if first.get('rerank'):
    rule += f", the last {first['rerank']} compared (ours)"
  spread = lambda values: collected.spread([100 * v for v in values])
  return [rule, f"{first['images']} of {first['batch_size']}",
          f"{first['tasks']:,}", spread([s['identified'] for s in seeds]),
          f'{images_of(first):,}',
          *[spread([s['accuracy'][k] for s in seeds]) for k in SCENARIOS],
          spread([s['whole'] for s in seeds]), str(len(seeds))]


def curves() -> str:
  """Every point of the runs that were measured at several sizes."""
  rows = []
  for folder, prefix, title, _ in RUNS:
    found = lines(folder, prefix)
    if len({tasks for _, tasks in found}) > 1:
      rows += [[title, *_row(found[key])] for key in sorted(found)]
  return collected.markdown(
      ['experiment', 'inference', 'images', 'tasks', 'identified, %',
       'test images a task', 'GG', 'GNs', 'GNu', 'GG, all test images',
       'seeds'], rows)


def outputs() -> str:
  """How often the task is inferred with more and fewer superfluous outputs."""
  found = [(size, own) for size, folder, prefix in OUTPUTS
           if (own := lines(folder, prefix))]
  counts = sorted({tasks for _, own in found for _, tasks in own})
  percent = lambda seeds, get: collected.spread(
      [100 * get(line) for line in seeds])
  rows = []
  for size, own in found:
    for name, letter in (('entropy', 'H'), ('superfluous', 'G')):
      last = own[name, counts[-1]]
      rows.append([
          str(size), letter,
          *[percent(own[name, tasks], lambda line: line['identified'])
            for tasks in counts],
          percent(last, lambda line: line['accuracy']['GNu']),
          percent(last, lambda line: line['whole']), str(len(last))])
  return collected.markdown(
      ['outputs s', 'objective', *[f'{tasks} tasks' for tasks in counts],
       f'GNu, {counts[-1]} tasks', 'GG, all test images', 'seeds'], rows)


def streams() -> str:
  """Runs whose tasks are not named in training either."""
  rows = []
  results = collected.HERE / 'identity' / 'results'
  for path in (*sorted(results.glob('nameless_s*.jsonl')),
               *sorted(results.glob('nameless_250_s*.jsonl'))):
    for line in collected.read(path):
      if line['kind'] == 'stream':
        returned = line['right_on_return']
        rows.append([path.stem.rsplit('_s')[-1], str(line['tasks']),
                     str(line['masks']), f"{100 * line['right_at_first']:.2f}",
                     '' if returned is None else f'{100 * returned:.2f}'])
  return collected.markdown(
      ['seed', 'tasks', 'masks made', 'decisions right at first, %',
       'recognised on return, %'], rows)


def pools() -> str:
  """One set of coefficients, or one mask, for ten tasks together."""
  rows = []
  for path in sorted((collected.HERE / 'identity' / 'results').glob(
      'impresslearn_rotated_s*.jsonl')):
    run = {'tasks': [x for x in collected.read(path) if x['kind'] == 'task']}
    accuracy = collected.phase_accuracy(run)
    rows.append([path.stem.rsplit('_s')[-1]] + [
        f'{accuracy[phase]:.2f}' for phase in (
            'pooled', 'pooled_mask', 'coefficients', 'dedicated')])
  return collected.markdown(
      ['seed', 'one set of coefficients for ten tasks (GNs)',
       'one mask for ten tasks (GNs)', 'coefficients of its own (GG)',
       'a mask of its own (GG)'], rows)


def costs() -> str:
  """Time, memory and disk of the largest runs."""
  rows = []
  for folder, prefix, title in [run[:3] for run in RUNS] + [
      (folder, prefix, f'PermutedMNIST, LeNet-300-100, s = {size}')
      for size, folder, prefix in OUTPUTS]:
    for run in collected.runs(collected.HERE / folder, prefix):
      summary = run['summary']
      disk = sum(t['bytes']['stored'] for t in run['tasks'])
      if folder == 'identity':
        rows.append([title, str(run['run']['seed']), str(len(run['tasks'])),
                     collected.minutes([run]),
                     str(run['run']['starts']),
                     f"{summary['peak_memory_bytes'] / 1e9:.2f}",
                     f'{disk / 1e6:.1f}', collected.command([run]),
                     collected.where([run]), collected.commits([run])])
  return collected.markdown(
      ['experiment', 'seed', 'impressions', 'minutes',
       'starts', 'peak memory, GB', 'files of all tasks, MB', 'command',
       'hardware',
       'commit'], rows)


def draw(target) -> None:
  """The curves as one figure: accuracy and identity against tasks."""
  import matplotlib.pyplot as plt
  plt.rcParams['svg.hashsalt'] = target.name  # the same bytes again
  shown = [(title, found) for folder, prefix, title, _ in RUNS
           for found in [lines(folder, prefix)]
           if len({tasks for _, tasks in found}) > 1]
  if not shown:
    return
  figure, axes = plt.subplots(1, len(shown), squeeze=False,
                              figsize=(4.6 * len(shown), 3.6))
  for ax, (title, found) in zip(axes[0], shown):
    for name in dict.fromkeys(name for name, _ in found):
      tasks = sorted(t for n, t in found if n == name)
      mean = lambda get: [100 * sum(map(get, found[name, t]))
                          / len(found[name, t]) for t in tasks]
      label = name.replace('_', '-')
      line, = ax.plot(tasks, mean(lambda s: s['accuracy']['GNu']), 'o-', ms=4,
                      label=f'{label}: GNu')
      ax.plot(tasks, mean(lambda s: s['identified']), ':', marker='o', ms=3,
              color=line.get_color(), label=f'{label}: identified')
    ax.plot(tasks, mean(lambda s: s['accuracy']['GG']), '--', color='0.3',
            label='GG, task given')
    ax.set(title=title, xlabel='tasks learned', ylabel='%')
    ax.title.set_fontsize(9)
    ax.legend(fontsize=7)
  figure.tight_layout()
  figure.savefig(target, metadata={'Date': None})
  plt.close(figure)
