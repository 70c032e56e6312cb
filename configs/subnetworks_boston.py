"""Images, then a table of numbers, in one network (E3).

    python -m mtl_jax.main --workdir=DIR \\
        --config=configs/subnetworks_boston.py:FILE

FILE is the Boston housing table of the UCI repository (`housing.data` there;
call it `boston_housing.data` here, as the task is named after the file: 506
rows of 13 features and the median value). As in arXiv 2207.08821's code, MNIST
and Fashion-MNIST are trained in parallel, then the regression in the free
weights: 784-6x1000, p = 90, its own stem 13-784, batch 32, mean squared error
of features and target scaled to [0, 1]. The head is linear: the official ReLU
head died in a third of its runs. `dense` is a dedicated network. The published
rule stops a regression whose error is below 0.02 after four epochs
(min_delta 0.01), so the regression here has a smaller min_delta.

Hardware: one core of an AMD EPYC.
Minutes: 17.
Accuracy: 92.5 % on the images, mean squared error 0.0100 on the table (3 seeds;
  dense 0.0092).
Results: experiments/subnetworks/README.md
"""

import ml_collections


def get_config(table='boston_housing.data'):
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.suite = dict(
      kind='datasets', sources=('mnist', 'fashion_mnist', f'table:{table}'),
      image_shape=(28, 28, 1), normalise=(0., 1.))
  config.backbone = dict(model='fully_connected', outputs=10, init='default',
                         options=dict(widths=(1000,) * 6, scale=0.05))
  common = dict(method='subnetworks', epochs=100, batch_size=512,
                optimizer='adam', learning_rate=1e-3, loss='classes',
                early_stop=dict(min_delta=0.01, patience=3),
                allocation=dict(density=0.1, score='gradient', sample=0))
  regression = dict(batch_size=32,
                    early_stop=dict(min_delta=0.0001, patience=10))
  config.phases = dict(
      images=dict(common, tasks=(0, 2), together='joint'),
      table={**common, **regression, 'tasks': (2, 3)},
      dense={**common, **regression, 'tasks': (2, 3), 'method': 'dedicated',
             'allocation': None, 'control': True})
  config.schedule = ('images', 'table', 'dense')
  return config
