"""Two subnetworks in one network: MNIST and Fashion-MNIST in parallel (E1).

    python -m mtl_jax.main --config=configs/subnetworks_mnist_fashion.py \\
        --workdir=DIR
    ... --config=configs/subnetworks_mnist_fashion.py:conv
    ... --config=configs/subnetworks_mnist_fashion.py:conv,strided
    ... --config=configs/subnetworks_mnist_fashion.py:controls

The first network of arXiv 2207.08821's code: 784-6x1000-10, each task keeps
the tenth of every layer's weights with the largest |gradient| at the start
(p = 90). `conv` is its second (E2): convolutions 32-32-64-64, dense 256-256,
p = 80, scores from 10,000 images. Its pools have stride 1, and with `strided`
stride 2, which is a third of the work, for a machine without an
accelerator. Adam 1e-3, batch 512, at most 100 epochs, early stopping (min_delta
0.01, patience 3) on the summed validation loss; pixels in [0, 1], kernels from
a normal distribution of 0.05. Biases and heads belong to the task and are not
pruned (the official code prunes them too), and validation is our 5,000 images
instead of 20 %.

`dense` is a dedicated network per task. `controls` has the others: each
subnetwork alone, in sequence, with sharing, one dense network for both tasks,
and that network fine-tuned from one task to the other.

Hardware: one core of an AMD EPYC; `:conv` and `:controls` one NVIDIA H200;
  `:conv,strided` two cores.
Minutes: 21; `:conv` 1.3; `:controls` 1.0; `:conv,strided` at least 60.
Accuracy: 92.5 % (mean of MNIST and Fashion-MNIST, 3 seeds; dense 92.7 %);
  `:conv` 95.0 % (3 seeds); `:controls` 92.3 % in sequence (3 seeds);
  `:conv,strided` 93.8 % (1 seed).
Results: experiments/subnetworks/README.md
"""

import ml_collections

KINDS = ('fc', 'conv', 'conv,strided', 'controls')


def get_config(kind='fc'):
  if kind not in KINDS:
    raise ValueError(f'unknown kind {kind!r}; known: {", ".join(KINDS)}')
  config = ml_collections.ConfigDict()
  config.seed = 0  # of the backbone and of batches
  config.suite = dict(kind='datasets', sources=('mnist', 'fashion_mnist'),
                      image_shape=(28, 28, 1), normalise=(0., 1.))
  config.backbone = dict(model='fully_connected', outputs=10, init='default',
                         options=dict(widths=(1000,) * 6, scale=0.05))
  allocation = dict(density=0.1, score='gradient', sample=0)
  if kind.startswith('conv'):
    config.backbone = dict(model='convolutional', outputs=10, init='default',
                           options=dict(scale=0.05))
    if kind == 'conv,strided':
      config.backbone.options.stride = 2
    allocation = dict(density=0.2, score='gradient', sample=10000)
  common = dict(tasks=(0, 2), epochs=100, batch_size=512, optimizer='adam',
                learning_rate=1e-3,
                early_stop=dict(min_delta=0.01, patience=3))
  subnetworks = dict(common, method='subnetworks', allocation=allocation)
  dense = dict(common, method='joint', options=dict(own=('head.*',)),
               control=True)
  if kind == 'controls':
    config.phases = dict(
        alone=dict(subnetworks, control=True,
                   allocation=dict(allocation, tree=None)),
        sequence=dict(subnetworks, allocation=dict(allocation)),
        sharing=dict(subnetworks, control=True, options=dict(sharing=True),
                     allocation=dict(allocation, tree='sharing')),
        joint=dict(dense, together='joint'),
        finetune=dict(dense, options=dict(own=('head.*',), carry=True)))
    config.schedule = ('alone', 'sequence', 'sharing', 'joint', 'finetune')
    return config
  config.phases = dict(
      subnetworks=dict(subnetworks, together='joint'),
      dense=dict(common, method='dedicated', control=True))
  config.schedule = ('subnetworks', 'dense')
  return config
