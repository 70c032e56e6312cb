"""PaRT on CIFAR-100 in ten tasks of ten classes, full width.

    python -m mtl_jax.main --config=configs/part_cifar100.py --workdir=DIR

The published recipe of test case 0 (arXiv 2201.09534 and its official code):
nine levels of M = 12 modules, N = 4 on a path, 132,038,244 weights; 60 epochs
of batches of 16, batch-sets of 10, an Adam of 1e-3 per task, halved at epochs
20, 30 and 40; its classes and its paths.

Differences: labels are looked up in a table (the official code merges classes
by accident), norm statistics belong to each task
(--config.phases.part.options.norm=shared shares them, as published), about
4,500 training images per task instead of 5,000 (the rest is validation; the
first task's whole batches make an epoch for all), and no random perspective in
addition to crop and flip. Batch-sets continue across the ends of epochs
(officially an epoch ends in a short round), and running variances are the
biased ones. Means and deviations are the official ones, CIFAR-10's also for
CIFAR-100.

The published run needs an accelerator: some 6 x 10^16 multiply-adds.

`:small` is not a published recipe: 1/8 of the width and 2 epochs instead of 60,
for a CPU, with the controls of `configs/part_five_tasks.py`: each task alone,
one after another, one path for all tasks.

Hardware: `:small` one core of an AMD EPYC, shared with tests; full width: not
  run.
Minutes: `:small` at most 127.
Accuracy: `:small` 56.7 %; each task alone 57.7 %, one path for all tasks
  46.5 %, one after another 19.5 % (1 seed).
Results: experiments/part/README.md
"""

import ml_collections

# In the order of their labels.
CLASSES = (
    (24, 76, 67, 69, 77, 45, 13, 46, 21, 14),
    (32, 72, 99, 86, 96, 6, 49, 20, 60, 36),
    (16, 28, 48, 34, 62, 43, 70, 26, 23, 42),
    (81, 87, 74, 59, 80, 51, 57, 15, 12, 7),
    (73, 0, 2, 37, 9, 53, 91, 22, 71, 98),
    (27, 18, 88, 19, 39, 75, 29, 56, 65, 58),
    (63, 83, 40, 89, 84, 33, 95, 31, 97, 79),
    (54, 90, 17, 35, 5, 55, 8, 4, 38, 10),
    (82, 41, 93, 44, 25, 52, 68, 30, 50, 85),
    (64, 66, 3, 92, 78, 61, 1, 94, 47, 11))
NORMALISE = ((.4914, .4822, .4465), (.2023, .1994, .2010))  # mean, deviation


WIDTH, EPOCHS = 8, 2  # of the small variant, of 64 and 60


def get_config(variant=''):
  if variant not in ('', 'small'):
    raise ValueError(f'there is no variant {variant!r}; take small or none')
  config = ml_collections.ConfigDict()
  config.seed = 0  # of batches and the backbone
  config.suite = dict(kind='groups', augment=4, normalise=NORMALISE,
                      groups=tuple(('cifar100', c) for c in CLASSES))
  config.backbone = dict(
      model='part_cifar', outputs=10, init='default', options=dict(
          heads=(10,) * 10, modules=12, active=4, width=64))
  part = dict(
      method='part', tasks=(0, 10), epochs=60, batch_size=16,
      optimizer='adam', learning_rate=1e-3, schedule='halved',
      milestones=(20 / 60, 30 / 60, 40 / 60), together='rounds',
      loss='classes',
      rounds=dict(set_batches=10, order='drawn', moments='own'),
      options=dict(active=4, paths='official', path_seed=456,
                   norm='statistics', copies=False))
  phases = dict(part=part)
  config.chunk_steps = 100
  config.transparency = 500  # images of each task for the analyses
  if variant:
    config.backbone.options.width = WIDTH
    phases = _with_controls(dict(part, epochs=EPOCHS))
    config.chunk_steps, config.transparency = 50, 0
  config.phases, config.schedule = phases, tuple(phases)
  return config


def _with_controls(part):
  """PaRT, and rows with the same initial weights and batches."""
  control = dict(part, control=True)
  changed = lambda **options: dict(control, options=dict(part['options'],
                                                         **options))
  return dict(
      part=part, single=changed(copies=True),
      sequential=dict(control, rounds=dict(part['rounds'], set_batches=0,
                                           order='sequence')),
      hard_sharing=changed(paths='identical'))
