"""PaRT on CIFAR-10 and CIFAR-100 together: pairs and groups of 20 classes.

    python -m mtl_jax.main --config=configs/part_cifar10_100.py --workdir=DIR

The published recipe of test case 0 (arXiv 2201.09534 and its official code):
nine levels of M = 15 modules, N = 4 on a path, 165,040,110 weights; its five
pairs of CIFAR-10's classes, five groups of CIFAR-100's, means, deviations and
paths, 60 epochs of batches of 16, batch-sets of 10.

The differences are those of part_cifar100.py, with about 9,000 training images
per task.

The real run needs data and an accelerator.

Hardware: not run.
Minutes: not run.
Accuracy: not run.
Results: experiments/part/README.md
"""

import ml_collections

# In the order of their labels: tasks 0, 4, 5, 8 and 9.
GROUPS = (
    (58, 31, 98, 82, 93, 50, 94, 20, 90, 21,
     11, 43, 49, 76, 91, 6, 74, 80, 56, 96),
    (0, 29, 86, 3, 13, 40, 73, 75, 95, 9,
     63, 2, 61, 99, 24, 37, 54, 18, 39, 65),
    (17, 67, 15, 97, 81, 88, 12, 23, 7, 47,
     5, 28, 30, 71, 70, 64, 25, 27, 87, 33),
    (19, 38, 55, 1, 60, 45, 36, 83, 68, 89,
     59, 52, 57, 42, 79, 92, 46, 14, 32, 26),
    (22, 53, 51, 48, 35, 44, 72, 10, 41, 16,
     62, 85, 8, 4, 66, 34, 84, 78, 69, 77))
PAIRS = {1: (1, 3), 2: (4, 5), 3: (8, 9), 6: (6, 7), 7: (0, 2)}
NORMALISE = ((.4914, .4822, .4465), (.2023, .1994, .2010))  # mean, deviation


def tasks():
  """(source, classes) of each task; the numbers in PAIRS are CIFAR-10's."""
  left = list(GROUPS)
  return tuple(('cifar10', PAIRS[k]) if k in PAIRS else
               ('cifar100', left.pop(0)) for k in range(10))


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # of batches and the backbone
  config.suite = dict(kind='groups', augment=4, normalise=NORMALISE,
                      groups=tasks())
  config.backbone = dict(
      model='part_cifar', outputs=20, init='default', options=dict(
          heads=tuple(len(c) for _, c in tasks()), modules=15, active=4,
          width=64))
  config.phases = dict(part=dict(
      method='part', tasks=(0, 10), epochs=60, batch_size=16,
      optimizer='adam', learning_rate=1e-3, schedule='halved',
      milestones=(20 / 60, 30 / 60, 40 / 60), together='rounds',
      loss='classes',
      rounds=dict(set_batches=10, order='drawn', moments='own'),
      options=dict(active=4, paths='official', path_seed=456,
                   norm='statistics', copies=False)))
  config.schedule = ('part',)
  config.chunk_steps = 100
  config.transparency = 500  # images of each task for the analyses
  return config
