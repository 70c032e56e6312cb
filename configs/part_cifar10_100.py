"""PaRT on CIFAR-10 and CIFAR-100 together: pairs and groups of 20 classes.

    python -m mtl_jax.main --config=configs/part_cifar10_100.py --workdir=DIR

The published recipe of test case 0 (arXiv 2201.09534 and its official code):
nine levels of M = 15 modules, N = 4 on a path, 165,040,110 weights; five pairs
of CIFAR-10's classes and five groups of CIFAR-100's in the published order,
its paths, 60 epochs of batches of 16, batch-sets of 10.

What differs: the five groups of CIFAR-100 are NumPy's permutation of seed 456
(the published ones are not known to us), and what part_cifar100.py says, with
about 9,000 training images a task: also here batch-sets run on across the ends
of epochs, and CIFAR-100 is normalised with CIFAR-10's means and deviations.

The real run waits for data and an accelerator.
"""

import ml_collections

# In the order of their labels: NumPy's permutation of seed 456.
GROUPS = (
    (65, 71, 36, 13, 40, 32, 67, 87, 1, 85,
     38, 96, 83, 82, 29, 19, 18, 3, 80, 58),
    (24, 14, 0, 17, 63, 50, 68, 90, 47, 91,
     9, 52, 23, 7, 55, 95, 30, 59, 54, 70),
    (99, 76, 33, 93, 57, 75, 5, 15, 97, 2,
     20, 94, 12, 25, 92, 46, 26, 21, 61, 88),
    (31, 98, 49, 64, 74, 6, 86, 56, 73, 22,
     53, 51, 48, 35, 44, 72, 10, 41, 16, 62),
    (8, 4, 66, 34, 84, 78, 69, 77, 11, 81,
     39, 37, 45, 60, 79, 28, 42, 89, 43, 27))
PAIRS = {1: (1, 3), 2: (4, 5), 3: (8, 9), 6: (6, 7), 7: (0, 2)}


def tasks():
  """(source, classes) of each task; the numbers in PAIRS are CIFAR-10's."""
  left = list(GROUPS)
  return tuple(('cifar10', PAIRS[k]) if k in PAIRS else
               ('cifar100', left.pop(0)) for k in range(10))


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # of batches and the backbone
  config.suite = dict(kind='groups', augment=4, groups=tasks())
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
