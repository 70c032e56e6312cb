"""PaRT and its controls on five real tasks, 32x32; small enough for 2 cores.

    python -m mtl_jax.main --config=configs/part_five_tasks.py:0 \\
        --workdir=DIR

MNIST, Fashion-MNIST, KMNIST, Bangla digits (CMATERdb) and Omniglot's 50
alphabets (divided within each character: 16, 2 and 2 of its 20 drawings); nine
levels of M = 8 modules, N = 2 on a path, at 1/16 of the published width. The
number after the colon is PaRT's test case (0 to 4): its path seed. A second
number (:0,4) sets the number of modules per level, so that more tasks share
each of them; then only `part` and `single` are made.

Every row sees the same batches from the same initial weights:

  part          batch-sets of 10, an Adam per task: the published algorithm
  part_common   the same with one Adam for all tasks
  joint         a batch of every task in each step, gradients summed
  single        each task alone, on its path and initial weights
  hard_sharing  one path for all tasks
  sequential    the tasks one after another, nothing frozen

Paknezhad et al. 2022, https://arxiv.org/abs/2201.09534; we know no accuracy of
the paper, and these are not its tasks.

Hardware: one core of an AMD EPYC.
Minutes: 42 to 46; with 4 modules a level (`:0,4`) 7 to 12.
Accuracy: 70.1 %; each task alone 70.4 % (3 seeds).
Results: experiments/part/README.md
"""

import ml_collections

SEEDS = (456, 23743, 96253, 36, 2543)  # of the official code's test cases


def get_config(arguments='0'):
  case, _, modules = arguments.partition(',')
  if case not in ('0', '1', '2', '3', '4') or not (modules or '8').isdigit():
    raise ValueError(f'{arguments!r}: give a test case from 0 to 4 and, after '
                     'a comma, a number of modules, as in 1,4')
  config = ml_collections.ConfigDict()
  config.seed = int(case)  # of batches and the backbone
  config.suite = dict(
      kind='datasets', image_shape=(32, 32, 1),
      sources=('mnist', 'fashion_mnist', 'kmnist', 'cmaterdb/bangla',
               'omniglot:alphabet!label@32x32x1'))
  config.backbone = dict(
      model='part_cifar', outputs=50, init='default', options=dict(
          heads=(10, 10, 10, 10, 50), modules=int(modules or 8), active=2,
          width=4))
  common = dict(
      method='part', tasks=(0, 5), steps=300, batch_size=16,
      optimizer='adam', learning_rate=1e-3, schedule='halved',
      milestones=(1 / 3, 1 / 2, 2 / 3), together='rounds', loss='classes')
  rounds = dict(set_batches=10, order='drawn', moments='own')
  options = dict(active=2, paths='official', path_seed=SEEDS[int(case)],
                 norm='statistics', copies=False)
  control = dict(common, control=True)
  config.phases = dict(
      part=dict(common, rounds=rounds, options=options),
      part_common=dict(control, rounds=dict(rounds, moments='common'),
                       options=options),
      joint=dict(control, together='joint', options=options),
      single=dict(control, rounds=rounds, options=dict(options, copies=True)),
      hard_sharing=dict(control, rounds=rounds,
                        options=dict(options, paths='identical')),
      sequential=dict(control, rounds=dict(rounds, set_batches=0,
                                           order='sequence'),
                      options=options))
  config.schedule = ('part', 'part_common', 'joint', 'single', 'hard_sharing',
                     'sequential')
  config.chunk_steps = 50
  config.transparency = 500  # images of each task for the analyses
  if modules:
    config.schedule, config.transparency = ('part', 'single'), 0
    config.phases = {name: config.phases[name] for name in config.schedule}
  return config
