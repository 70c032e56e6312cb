"""ImpressLearn on RotatedMNIST, LeNet-300-100: K masks, ten unseen tasks.

    python -m mtl_jax.main --config=configs/impresslearn_rotated_mnist.py \\
        --workdir=DIR

The circle is divided into 120 angles of 3 degrees in a fixed random order.
Tasks 0-99 leave a supermask each (heterogeneous basis), task 0 leaves 100 with
different seeds (homogeneous), and random masks need no training. Tasks 100-109
then learn coefficients over the first K masks of each basis and, for
comparison, a supermask each. Masks: SupSup's recipe. Coefficients: Adam, 0.1,
cosine, chosen on validation images of PermutedMNIST (see that config); the
paper's own values were not found.

With this one rate, more masks do not help beyond K = 20, although a solution
for fewer masks is also one for more. `:grid` therefore tries RATES for K = 20,
40 and 100 on three angles that no table reports (validation images decide), and
`:chosen` learns the ten unseen tasks with the CHOSEN rate for each K.

Hardware: one core of an AMD EPYC.
Minutes: at least 74; `:grid` 13, `:chosen` 11.
Accuracy: 51.2 % (K = 3) to 90.1 % (K = 100) with a heterogeneous basis, 94.2 %
  with a mask of its own (3 seeds). `:chosen`: 92.4, 94.0 and 93.9 %.
Results: experiments/impresslearn/README.md
"""

import ml_collections

SIZES = (3, 5, 10, 20, 40, 100)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
# size: rate, from experiments/impresslearn/results/grid_s0.jsonl
CHOSEN = {20: 0.03, 40: 0.03, 100: 0.03}


def get_config(variant=''):
  config = ml_collections.ConfigDict()
  config.seed = 0  # of scores, batches and the backbone
  config.suite = dict(kind='rotated', source='mnist', num_tasks=120,
                      order_seed=0)
  config.backbone = dict(model='lenet_300_100', outputs=10)
  supermask = dict(method='supsup', steps=1000, batch_size=128,
                   optimizer='rmsprop', learning_rate=1e-4)
  coefficients = dict(method='impresslearn', steps=1000, batch_size=128,
                      optimizer='adam', learning_rate=0.1, schedule='cosine',
                      tasks=(100, 110), control=True)
  if variant:
    return _rates(config, variant, supermask, coefficients)
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


def _rates(config, variant, supermask, coefficients):
  """The heterogeneous basis alone, with a learning rate for every K."""
  phases = dict(supermasks=dict(supermask, tasks=(0, 100)))
  tried = {'grid': [(size, rate) for size in (20, 40, 100) for rate in RATES],
           'chosen': list(CHOSEN.items())}
  if variant not in tried:
    raise ValueError(f"there is no variant {variant!r}; take 'grid', 'chosen' "
                     'or none')
  for size, rate in tried[variant]:
    name = f'heterogeneous_{size}'
    if variant == 'grid':
      name += f'_{rate:g}'.replace('.', 'p')
    phases[name] = dict(
        coefficients, learning_rate=rate, basis=dict(
            kind='heterogeneous', phase='supermasks', size=size))
    if variant == 'grid':
      phases[name]['tasks'] = (110, 113)
  config.phases = phases
  config.schedule = tuple(phases)
  return config
