"""The table of the results page: the best-known comparison of each method.

It has at most ten rows; the experiments' pages have all others.
"""

import collected
import identity_tables
import munet_tables
import part_tables
import supsup_tables

COLUMNS = ['method', 'experiment', 'test accuracy, %', 'beside it, %', 'seeds',
           'page']


def table() -> str:
  rows = [row for part in (_supsup, _inferred, _hopsupsup, _impresslearn, _part,
                           _subnetworks, _munet) for row in part()]
  return collected.markdown(COLUMNS, rows)


def _page(folder: str) -> str:
  return f'[{folder}](../experiments/{folder}/README.md)'


def runs_of(folder: str, prefix: str) -> list[dict]:
  """The finished runs of a folder of `experiments`."""
  return collected.runs(collected.HERE / folder, prefix)


def accuracy_of(found: list[dict], phase: str) -> str:
  """Mean and deviation over seeds of a phase's mean test accuracy."""
  return collected.spread(
      [collected.phase_accuracy(run)[phase] for run in found])


def _supsup():
  for name, title, _ in supsup_tables.SUPSUP[:1]:
    found = runs_of('supsup', name)
    if found:
      yield ['SupSup', title, accuracy_of(found, 'supermasks'), '',
             str(len(found)), _page('supsup')]


def _inferred():
  """The rows in which the task is inferred: GNu, and GG of the same images."""
  for folder, prefix, title in (
      ('supsup', 'permuted_lenet', 'the same, the task inferred'),
      ('supsup', 'rotated_fc1024',
       'RotatedMNIST, 36 tasks, FC1024, s = 200, the task inferred'),
      ('identity', 'nameless', 'PermutedMNIST, 100 tasks, LeNet-300-100, '
       's = 500, no names in training either (NNs)')):
    found = identity_tables.lines(folder, prefix)
    if found:
      name = next(iter(found))[0]
      seeds = found[name, max(t for n, t in found if n == name)]
      given, inferred = (
          collected.spread([100 * s['accuracy'][k] for s in seeds])
          for k in ('GG', 'GNu'))
      yield ['SupSup', title, inferred, f'task given: {given}', str(len(seeds)),
             _page('identity')]


def _hopsupsup():
  found = runs_of('hopsupsup', 'test')
  if found:
    spread = lambda get: collected.spread(
        [100 * get(run['summary']) for run in found])
    yield ['HopSupSup', 'SplitMNIST, five masks in a Hopfield network, the '
           'task inferred', spread(lambda s: s['orders']['accuracy']),
           f"task given: {spread(lambda s: s['accuracy']['known'])}",
           str(len(found)), _page('hopsupsup')]


def _impresslearn():
  found = runs_of('comparison', 'permuted')
  if found:
    yield ['ImpressLearn', 'PermutedMNIST, 10 tasks, 1.7 kB each over masks '
           'from a seed (blocks and head)',
           accuracy_of(found, 'random_40_blocks_head'),
           f"a mask of its own, 33 kB: {accuracy_of(found, 'supsup')}",
           str(len(found)), _page('comparison')]
  found, own = (runs_of('impresslearn', name) for name in ('chosen', 'rotated'))
  if found and own:
    yield ['ImpressLearn', 'RotatedMNIST, 10 unseen angles, 120 numbers each '
           'over 40 masks', accuracy_of(found, 'heterogeneous_40'),
           f"a mask of its own: {accuracy_of(own, 'dedicated')}",
           str(len(found)), _page('impresslearn')]


def _part():
  found = runs_of('part', 'five_tasks')
  if found:
    part, alone = (part_tables.mean_accuracy(found, phase)
                   for phase in ('part', 'single'))
    yield ['PaRT', 'digits, clothes and characters in parallel, 1/16 of the '
           'width', part, f'each task alone: {alone}', str(len(found)),
           _page('part')]


def _subnetworks():
  found = runs_of('subnetworks', 'mnist_fashion')
  if found:
    yield ['Subnetworks', 'MNIST and Fashion-MNIST in parallel, a tenth of '
           '784-6x1000-10 each', accuracy_of(found, 'subnetworks'),
           f"a dense network each: {accuracy_of(found, 'dense')}",
           str(len(found)), _page('subnetworks')]


def _munet():
  found = runs_of('munet', 'characters')
  for row in munet_tables.headline()[-1:] if found else ():
    control = []
    for run in found:
      last = {t['task']: t for t in run['tasks']
              if t['phase'] == 'finetune' and not t['repeat']}
      control.append(100 * sum(t['accuracy']['test'] for t in last.values())
                     / len(last))
    yield [*row[:3], f'full fine-tuning: {collected.spread(control)}',
           row[3], _page('munet')]
