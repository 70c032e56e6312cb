"""Fashion-MNIST in one network: easy and hard classes, or an ensemble (E6, E7).

    python -m mtl_jax.main --config=configs/subnetworks_fashion.py:split \\
        --workdir=DIR
    python -m mtl_jax.main --config=configs/subnetworks_fashion.py:ensemble \\
        --workdir=DIR

The convolutional network of arXiv 2207.08821's code, p = 80, scores from 1,000
images. `split`: classes {1, 5, 7, 8, 9} and {0, 2, 3, 4, 6} as two tasks.
`ensemble`: five subnetworks of the whole task, their softmax outputs summed;
all five are sparse (in the official runs the fifth was dense). With `,small`
added, the network has 8-8-16-16 channels and pools of stride 2, for a
machine without an accelerator.

Hardware: one NVIDIA H200; `:small` one core of an AMD EPYC.
Minutes: `:split` 0.8, `:ensemble` 2.1; `:split,small` 16 to 26,
  `:ensemble,small` at least 105.
Accuracy: `:split` 91.2 % and `:split,small` 88.2 % (3 seeds each), `:ensemble`
  91.1 % for one of the five (2 seeds); `:ensemble,small` 89.0 % (1 seed).
Results: experiments/subnetworks/README.md
"""

import ml_collections

KINDS = ('split', 'ensemble', 'split,small', 'ensemble,small')


def get_config(kind='split'):
  if kind not in KINDS:
    raise ValueError(f'unknown kind {kind!r}; known: {", ".join(KINDS)}')
  kind, _, size = kind.partition(',')
  config = ml_collections.ConfigDict()
  config.seed = 0
  options = dict(scale=0.05)
  if size == 'small':
    options |= dict(channels=(8, 16), stride=2, scale=None)
  config.backbone = dict(model='convolutional', outputs=10, init='default',
                         options=options)
  common = dict(epochs=100, batch_size=512, optimizer='adam',
                learning_rate=1e-3, early_stop=dict(min_delta=0.01,
                                                    patience=3))
  subnetworks = dict(common, method='subnetworks', together='joint',
                     allocation=dict(density=0.2, sample=1000))
  if kind == 'split':
    config.suite = dict(kind='split', source='fashion_mnist',
                        groups=((1, 5, 7, 8, 9), (0, 2, 3, 4, 6)),
                        normalise=(0., 1.))
    config.backbone.outputs = 5
    config.phases = dict(
        subnetworks=dict(subnetworks, tasks=(0, 2)),
        dense=dict(common, method='dedicated', tasks=(0, 2), control=True))
  else:
    config.suite = dict(kind='datasets', sources=('fashion_mnist',),
                        normalise=(0., 1.))
    config.phases = dict(
        # A fifth of some leaves is no whole number: the last member takes
        # what is left of them.
        subnetworks=dict(subnetworks, tasks=(0, 1), repeats=5, allocation=dict(
            subnetworks['allocation'], fit=True)),
        dense=dict(common, method='dedicated', tasks=(0, 1), control=True))
  config.schedule = ('subnetworks', 'dense')
  return config
