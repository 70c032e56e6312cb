"""The main README's table: of each method what it is best compared by.

At most ten rows; all others are on the pages.
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
  return f'[{folder}](experiments/{folder}/README.md)'


def _runs(folder: str, prefix: str) -> list[dict]:
  return collected.runs(collected.HERE / folder, prefix)


def _of_phase(found: list[dict], phase: str) -> str:
  return collected.spread(
      [collected.phase_accuracy(run)[phase] for run in found])


def _supsup():
  for name, title, _ in supsup_tables.SUPSUP[:1]:
    found = _runs('supsup', name)
    if found:
      yield ['SupSup', title, _of_phase(found, 'supermasks'), '',
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
  found = _runs('hopsupsup', 'test')
  if found:
    spread = lambda get: collected.spread(
        [100 * get(run['summary']) for run in found])
    yield ['HopSupSup', 'SplitMNIST, five masks in a Hopfield network, the '
           'task inferred', spread(lambda s: s['orders']['accuracy']),
           f"task given: {spread(lambda s: s['accuracy']['known'])}",
           str(len(found)), _page('hopsupsup')]


def _impresslearn():
  for suite, title, prefix in (
      ('permuted', 'PermutedMNIST, 10 unseen tasks', 'permuted'),
      ('rotated', 'RotatedMNIST, 10 unseen angles', 'chosen')):
    found, own = _runs('impresslearn', prefix), _runs('impresslearn', suite)
    if found and own:
      yield ['ImpressLearn', f'{title}, 300 numbers each over 100 masks',
             _of_phase(found, 'heterogeneous_100'),
             f"a mask of its own: {_of_phase(own, 'dedicated')}",
             str(len(found)), _page('impresslearn')]


def _part():
  found = _runs('part', 'five_tasks')
  if found:
    part, alone = (part_tables.mean_accuracy(found, phase)
                   for phase in ('part', 'single'))
    yield ['PaRT', 'digits, clothes and characters in parallel, 1/16 of the '
           'width', part, f'each task alone: {alone}', str(len(found)),
           _page('part')]


def _subnetworks():
  found = _runs('subnetworks', 'mnist_fashion')
  if found:
    yield ['Subnetworks', 'MNIST and Fashion-MNIST in parallel, a tenth of '
           '784-6x1000-10 each', _of_phase(found, 'subnetworks'),
           f"a dense network each: {_of_phase(found, 'dense')}",
           str(len(found)), _page('subnetworks')]


def _munet():
  found = _runs('munet', 'characters')
  for row in munet_tables.headline()[-1:] if found else ():
    control = []
    for run in found:
      last = {t['task']: t for t in run['tasks']
              if t['phase'] == 'finetune' and not t['repeat']}
      control.append(100 * sum(t['accuracy']['test'] for t in last.values())
                     / len(last))
    yield [*row[:3], f'full fine-tuning: {collected.spread(control)}',
           row[3], _page('munet')]
