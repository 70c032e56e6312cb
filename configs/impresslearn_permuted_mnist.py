"""ImpressLearn on PermutedMNIST, LeNet-300-100: K masks, ten unseen tasks.

    python -m mtl_jax.main --config=configs/impresslearn_permuted_mnist.py \\
        --workdir=DIR

Tasks 0-99 leave a supermask each (heterogeneous basis), task 0 leaves 100 with
different seeds (homogeneous), and random masks need no training. Tasks 100-109
then learn coefficients over the first K masks of each basis and, for
comparison, a supermask each. Masks: SupSup's recipe. Coefficients: Adam, 0.1,
cosine, chosen on validation images of tasks 100-102 at K=40, seed 0; the
paper's own values were not found.

`:blocks` uses random masks only, with a separate mask for the head, with a
coefficient for each of several blocks of a layer's units (ours), and with both;
`:blocks,grid` tries rates and shapes of these on tasks 110 to 112, which no
table reports. Forty masks with both are in configs/comparison.py.

`:many` goes on to K = 200: coefficients over the masks of 200 further tasks
(113 to 312) and over random masks, with the MANY rate for each K. `:many,grid`
found it with random masks on tasks 110 to 112 (for K = 200, 0.01 is equal).

Hardware: one core of an AMD EPYC.
Minutes: at least 45; `:blocks` 4; `:blocks,grid` 7; `:many` 22 to 68, with
  other work beside it; `:many,grid` 23.
Accuracy: 17.6 % (K = 3) to 79.8 % (K = 100) with a heterogeneous basis, 94.0 %
  with a mask of its own; `:blocks` 92.6 % with 5.9 kB a task (3 seeds).
Results: experiments/impresslearn/README.md
"""

import ml_collections

SIZES = (3, 5, 10, 20, 40, 100)
# (masks, blocks) of some 1,440 numbers a task: 5.9 kB with the head's bits
SHAPES = ((20, 36), (40, 18), (100, 7))
WIDE = (40, 18)  # chosen by `:blocks,grid`
RATES = (0.01, 0.03, 0.1)
# size: rate, from experiments/impresslearn/results/many_grid_s0.jsonl
MANY = {100: 0.03, 200: 0.03}


def get_config(variant=''):
  config = ml_collections.ConfigDict()
  config.seed = 0  # of scores, batches and the backbone
  config.suite = dict(kind='permuted', source='mnist', num_tasks=110,
                      number_width=3)
  config.backbone = dict(model='lenet_300_100', outputs=10)
  supermask = dict(method='supsup', steps=1000, batch_size=128,
                   optimizer='rmsprop', learning_rate=1e-4)
  coefficients = dict(method='impresslearn', steps=1000, batch_size=128,
                      optimizer='adam', learning_rate=0.1, schedule='cosine',
                      tasks=(100, 110), control=True)
  if variant in ('blocks', 'blocks,grid'):
    return _blocks(config, variant, coefficients)
  if variant in ('many', 'many,grid'):
    return _many(config, variant, supermask, coefficients)
  if variant:
    raise ValueError(f"there is no variant {variant!r}; take 'blocks', "
                     "'blocks,grid', 'many', 'many,grid' or none")
  phases = dict(
      supermasks=dict(supermask, tasks=(0, 100)),
      dedicated=dict(supermask, tasks=(100, 110), control=True),
      repeated=dict(supermask, tasks=(0, 1), repeats=100, control=True))
  schedule = ['supermasks', 'dedicated', 'repeated']
  for size in SIZES:
    bases = dict(
        heterogeneous=dict(kind='heterogeneous', phase='supermasks'),
        homogeneous=dict(kind='homogeneous', phase='repeated'),
        random=dict(kind='random', density=0.5))
    for kind, basis in bases.items():
      name = f'{kind}_{size}'
      phases[name] = dict(coefficients, basis=dict(basis, size=size))
      schedule.append(name)
  config.phases = phases
  config.schedule = tuple(schedule)
  return config


def _blocks(config, variant, coefficients):
  """Random masks with more numbers per task."""
  config.suite.num_tasks = 113  # the first 110 stay what they are
  made = lambda size, **options: dict(
      coefficients, options=options,
      basis=dict(kind='random', density=0.5, size=size))
  head = lambda rate=0.03: dict(head='mask', head_rate=rate)
  if variant == 'blocks':
    phases = dict(
        wide=made(WIDE[0], blocks=WIDE[1], **head()),
        both_20=made(20, blocks=5, **head()),
        head_20=made(20, **head()), blocks_20=made(20, blocks=5))
  else:
    phases = {f'head_rate_{rate:g}'.replace('.', 'p'): made(
        40, blocks=5, **head(rate)) for rate in (0.01, 0.03, 0.1)}
    phases |= {f'shape_{size}x{blocks}': made(
        size, blocks=blocks, **head()) for size, blocks in SHAPES}
    phases = {name: dict(phase, tasks=(110, 113))
              for name, phase in phases.items()}
  config.phases = phases
  config.schedule = tuple(phases)
  return config


def _many(config, variant, supermask, coefficients):
  """A hundred and two hundred masks, with a learning rate for each number."""
  config.suite.num_tasks = 313  # the first 110 stay what they are
  made = lambda size, rate, **basis: dict(
      coefficients, learning_rate=rate, basis=dict(basis, size=size))
  random = dict(kind='random', density=0.5)
  if variant == 'many':
    learned = dict(kind='heterogeneous', phase='supermasks')
    phases = dict(supermasks=dict(supermask, tasks=(113, 313)))
    for size, rate in MANY.items():
      phases[f'heterogeneous_{size}'] = made(size, rate, **learned)
      phases[f'random_{size}'] = made(size, rate, **random)
  else:
    phases = {
        f'random_{size}_{rate:g}'.replace('.', 'p'): dict(
            made(size, rate, **random), tasks=(110, 113))
        for size in MANY for rate in RATES}
  config.phases = phases
  config.schedule = tuple(phases)
  return config
