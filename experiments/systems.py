"""The main README's five systems: one number each, ours and published.

A published number is given only if the paper itself has it. Results of the
authors' code are marked as such.
"""

import statistics

import collected
import headline
import identity_tables
import munet_tables
import part_tables

COLUMNS = ['system', 'a task leaves', 'ours, test accuracy %', 'published, %']
NONE = 'no value of the paper found'
PAPERS = {
    'SupSup': '2006.14769', 'ImpressLearn': '2210.01987',
    'Subnetworks': '2207.08821', 'PaRT': '2201.09534', 'mu2Net': '2205.12755'}


def table() -> str:
  rows = [[f'[{name}]({_page(folder)}) '
           f'([paper](https://arxiv.org/abs/{PAPERS[name]}))', *cells]
          for name, folder, cells in (
              ('SupSup', 'identity', _supsup()),
              ('ImpressLearn', 'impresslearn', _impresslearn()),
              ('Subnetworks', 'subnetworks', _subnetworks()),
              ('PaRT', 'part', _part()),
              ('mu2Net', 'munet', _munet())) if cells]
  return collected.markdown(COLUMNS, rows)


def _page(folder: str) -> str:
  return f'experiments/{folder}/README.md'


def _seeds(count: int) -> str:
  return f'{count} seed{"s" if count > 1 else ""}'


def _supsup():
  found = identity_tables.lines('supsup', 'fc1024_250')
  if not found:
    return None
  name = next(iter(found))[0]
  lines = found[name, max(t for n, t in found if n == name)]
  mean = collected.spread([100 * line['accuracy']['GNu'] for line in lines])
  return ['one bit a weight',
          f'{mean}: 250 permutations of MNIST, FC1024, task inferred '
          f'({_seeds(len(lines))})',
          '94.91 (which network: not said)']


def _impresslearn():
  found, own = (headline.runs_of('impresslearn', name)
                for name in ('chosen', 'rotated'))
  if not (found and own):
    return None
  mean = headline.accuracy_of(found, 'heterogeneous_40')
  return ['one coefficient a mask and layer', f'{mean}: 10 unseen rotations of '
          'MNIST, 120 numbers each; a mask of its own '
          f"{headline.accuracy_of(own, 'dedicated')} ({_seeds(len(found))})",
          NONE]


def _subnetworks():
  found = headline.runs_of('subnetworks', 'mnist_fashion')
  if not found:
    return None
  cells = []
  for task in ('mnist', 'fashion_mnist'):
    cells.append(collected.spread([
        statistics.mean(100 * t['accuracy']['test'] for t in run['tasks']
                        if t['phase'] == 'subnetworks' and t['task'] == task)
        for run in found]))
  return ['weights that no other task owns',
          f'{" and ".join(cells)}: MNIST and Fashion-MNIST in one network '
          f'({_seeds(len(found))})',
          f"{NONE}; a run of the authors' code has 97.58 and 87.09"]


def _part():
  found = headline.runs_of('part', 'five_tasks')
  if not found:
    return None
  return ['a path through shared modules',
          f'{part_tables.mean_accuracy(found, "part")}: digits, clothes and '
          'characters at 1/16 of the width; each alone '
          f'{part_tables.mean_accuracy(found, "single")} '
          f'({_seeds(len(found))})',
          NONE]


def _munet():
  found = headline.runs_of('munet', 'characters')
  if not found:
    return None
  sets = munet_tables.NOTEBOOK
  ours, tuned = (collected.spread([statistics.mean(munet_tables.tested(
      run, phase, name) for name in sets) for run in found])
                 for phase in ('grow', 'finetune'))
  return ['a path of frozen and added components',
          f'{ours}: MNIST, KMNIST and the three scripts of CMATERdb in one '
          f'network; full fine-tuning {tuned} ({_seeds(len(found))})',
          f'{NONE}; a sample output of the authors\' notebook has '
          f'{statistics.mean(sets.values()):.2f} (its root and budget are not '
          'said)']
