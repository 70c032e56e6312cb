"""Tables of the Multiple Subnetwork Hypothesis."""

import collected

FOLDER = collected.HERE / 'subnetworks'
OFFICIAL = ('printed by the authors\' committed run (one seed, no spread), not '
            'the paper\'s tables')
# prefix of the results, title, {task: reference of the subnetwork, dense}
RUNS = (
    ('mnist_fashion', 'E1: 784-6x1000-10, p = 90, in parallel',
     {'mnist': ('97.58', '97.24'), 'fashion_mnist': ('87.09', '88.11')}),
    ('mnist_fashion_conv', 'E2: convolutions 32-32-64-64, p = 80, in parallel',
     {'mnist': ('98.84', '98.74'), 'fashion_mnist': ('90.26', '91.59')}),
    ('mnist_fashion_conv_strided', 'E2 with pools of stride 2', {}),
    ('boston', 'E3: E1, then Boston housing (scaled MSE)',
     {'mnist': ('97.46', '–'), 'fashion_mnist': ('87.04', '–'),
      'boston_housing': ('MSE 0.0160', 'MSE 0.0175')}),
    ('fashion_split', 'E6: Fashion-MNIST, easy and hard classes, p = 80',
     {'split-00': ('97.76', '–'), 'split-01': ('84.42', '–')}),
    ('fashion_split_small', 'E6, Fashion-MNIST, easy and hard classes, with '
     '8-8-16-16 channels and strides 2', {}),
    ('controls', 'E1 one after another, and its controls', {}),
    ('four_datasets', 'Four data sets in sequence, a fifth of 784-6x1000 each',
     {}),
)
ENSEMBLES = (
    ('fashion_ensemble', 'E7: five subnetworks of Fashion-MNIST, p = 80'),
    ('fashion_ensemble_small', 'E7 with 8-8-16-16 channels and strides 2'),
)
# images -> (dense, pruned once, pruned while training), the authors' single run
LESS = {1000: ('80.67', '78.34', '83.63'), 5000: ('90.65', '90.07', '90.81'),
        10000: ('93.12', '93.59', '93.68'), 55000: ('96.43', '96.66', '96.82')}
PASSES = 90.  # percent that every task of the capacity study must reach
PHASES = {'subnetworks': 'subnetwork', 'images': 'subnetwork',
          'table': 'subnetwork', 'sequence': 'subnetwork, in sequence',
          'sharing': 'subnetwork that also uses earlier ones',
          'alone': 'subnetwork pruned alone', 'dense': 'dense network of its '
          'own', 'joint': 'one dense network for all',
          'finetune': 'dense, fine-tuned in sequence (right after its task)'}


def accuracy_table() -> str:
  """One row per experiment, task and way of training it."""
  rows = []
  for prefix, title, references in RUNS:
    found = collected.runs(FOLDER, prefix)
    keys = dict.fromkeys((t['task'], t['phase']) for r in found
                         for t in r['tasks'])
    for task, phase in keys:
      own = [t for r in found for t in r['tasks']
             if (t['task'], t['phase']) == (task, phase)]
      reference = references.get(task, ('–', '–'))
      rows.append([
          title, task, PHASES.get(phase, phase), _answer(own),
          reference[0] if phase in ('subnetworks', 'images', 'table')
          else reference[1] if phase == 'dense' else '–',
          collected.spread([t['steps'] for t in own], 0), str(len(own)),
          *((collected.command(found), _hardware(found),
             collected.commits(found)) if title else ('', '', ''))])
      title = ''
  return collected.markdown(
      ['experiment', 'task', 'network', 'ours, test %', 'authors\' run',
       'steps', 'seeds', 'command', 'hardware, time', 'commit'], rows) + (
           f'\n\nAuthors\' numbers: {OFFICIAL}.')


def _hardware(found: list[dict]) -> str:
  return f'{collected.where(found)}; {collected.minutes(found)} min a run'


def _answer(tasks: list[dict]) -> str:
  accuracy = [t['accuracy']['test'] for t in tasks]
  if accuracy[0] is None:
    return 'MSE ' + collected.spread([t['loss']['test'] for t in tasks], 4)
  return collected.spread([100 * a for a in accuracy])


def capacity_table() -> str:
  """Size of the weight trees, and whether any weight has two owners."""
  rows = []
  for prefix, title in [*(x[:2] for x in RUNS), *ENSEMBLES]:
    for run in collected.runs(FOLDER, prefix)[:1]:
      for tree in run['summary'].get('capacity') or []:
        leaves = tree['leaves'].values()
        size, free = (sum(x[key] for x in leaves) for key in ('size', 'free'))
        twice = max((n for i, row in enumerate(tree['overlap'])
                     for j, n in enumerate(row) if i != j), default=0)
        rows.append([
            title + (f" (tree {tree['tree']})" if tree['tree'] != 'main'
                     else ''), str(len(tree['tasks'])),
            f'{100 * free / size:.1f}', str(twice),
            *(f"{tree['bytes'][key] / 1e6:.1f}"
              for key in ('folded', 'stored', 'dedicated'))])
  return collected.markdown(
      ['experiment', 'subnetworks', 'weights free, %', 'owned twice',
       'folded (computed), MB', 'on disk, MB', 'a network each, MB'], rows)


def ensemble_table() -> str:
  """Self-ensembles: accuracy of the members and of their mean."""
  rows = []
  for title, run in [(title, run) for prefix, title in ENSEMBLES
                     for run in collected.runs(FOLDER, prefix)]:
    dense = collected.phase_accuracy(run).get('dense')
    for line in run['summary'].get('ensembles') or []:
      owned = [sum(leaf['owned'][i] for leaf in tree['leaves'].values())
               / sum(leaf['size'] for leaf in tree['leaves'].values())
               for tree in run['summary']['capacity'][:1]
               for i in range(len(line['members']))]
      rows.append([
          title, str(run['run']['seed']),
          ' / '.join(f'{100 * a:.2f}' for a in line['members']),
          ' / '.join(f'{100 * share:.1f}' for share in owned),
          f"{100 * line['accuracy']:.2f}",
          '–' if dense is None else f'{dense:.2f}',
          collected.command([run]), _hardware([run])])
  return collected.markdown(
      ['experiment', 'seed', 'members, %', 'weights that each owns, %',
       'together, %', 'one dense network, %', 'command', 'hardware, time'],
      rows)


def study_table() -> str:
  """Capacity: the lowest accuracy of T tasks."""
  rows = []
  for path in sorted((FOLDER / 'results').glob('capacity_*_s*.jsonl')):
    count = int(path.name.split('_')[1])
    if any(row[0] == str(count) for row in rows):
      continue
    found = collected.runs(FOLDER, f'capacity_{count}')
    each = [[100 * t['accuracy']['test'] for t in run['tasks']]
            for run in found]
    lowest = [min(a) for a in each]
    rows.append([str(count), collected.spread([sum(a) / len(a) for a in each]),
                 collected.spread(lowest),
                 f'{sum(x >= PASSES for x in lowest)} of {len(lowest)}',
                 collected.command(found), _hardware(found),
                 collected.commits(found)])
  rows.sort(key=lambda row: int(row[0]))
  return collected.markdown(
      ['tasks', 'mean, %', 'lowest task, %',
       f'runs with all above {PASSES:.0f} %', 'command', 'hardware, time',
       'commit'], rows)


def less_table() -> str:
  """Fewer training images: dense, pruned once, and pruned while training."""
  rows = []
  for count, references in LESS.items():
    found = collected.runs(FOLDER, f'less_data_{count}')
    if not found:
      continue
    first = f'{count:,}'
    for reference, (phase, name) in zip(references, (
        ('dense', 'dense'), ('pruned', 'a tenth of the weights'),
        ('sparsified', 'pruned while it is trained'))):
      own = [t for run in found for t in run['tasks'] if t['phase'] == phase]
      kept = [100 * (t['kept'] or 1.) for t in own]
      rows.append([first, name, _answer(own), reference,
                   collected.spread(kept, 1),
                   collected.spread([t['steps'] for t in own], 0),
                   str(len(own)), *((collected.command(found),
                                     _hardware(found)) if first else ('', ''))])
      first = ''
  return collected.markdown(
      ['images', 'network', 'ours, test %', 'authors\' run',
       'hidden weights kept, %', 'steps', 'seeds', 'command',
       'hardware, time'], rows)


def forgetting_table() -> str:
  """Forgetting of a dense network that is fine-tuned in sequence."""
  rows = []
  for prefix, title, _ in RUNS:
    found = [line for run in collected.runs(FOLDER, prefix)
             for line in run['summary'].get('carried') or []]
    for j, task in enumerate(found[0]['names'] if found else ()):
      ends = [line.get('end', line['matrix'][-1])[j] for line in found]
      rows.append([title, task.split('@')[0], *(
          collected.spread([100 * x for x in values]) for values in (
              [line['matrix'][j][j] for line in found], ends)),
                   str(len(found))])
      title = ''
  return collected.markdown(
      ['experiment', 'task', 'right after it, %', 'at the end, %', 'seeds'],
      rows)
