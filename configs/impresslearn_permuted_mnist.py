"""ImpressLearn on PermutedMNIST, LeNet-300-100: K masks, ten unseen tasks.

    python -m mtl_jax.main --config=configs/impresslearn_permuted_mnist.py \\
        --workdir=DIR

Tasks 0-99 leave a supermask each (heterogeneous basis), task 0 leaves 100 with
different seeds (homogeneous), and random masks need no training. Tasks 100-109
then learn coefficients over the first K masks of each basis, beside supermasks
of their own. Masks: SupSup's recipe. Coefficients: Adam, 0.1, cosine, chosen
on validation images of tasks 100-102 at K=40, seed 0; the paper's own values
were not found.

Hardware: one core of an AMD EPYC.
Minutes: at least 45.
Accuracy: 17.6 % (K = 3) to 79.8 % (K = 100) with a heterogeneous basis, 94.0 %
  with a mask of its own (3 seeds).
Results: experiments/impresslearn/README.md
"""

import ml_collections

SIZES = (3, 5, 10, 20, 40, 100)


def get_config():
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
