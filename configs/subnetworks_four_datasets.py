"""MNIST, Fashion-MNIST, KMNIST and CMATERdb digits in sequence, one network.

    python -m mtl_jax.main --config=configs/subnetworks_four_datasets.py \\
        --workdir=DIR

Each task gets a fifth of every layer of 784-6x1000 when it comes; weights that
an earlier task owns are not changed. `sharing` (PackNet's rule) lets later
tasks use earlier weights; `dense` is a network for each task; `finetune` shows
the forgetting of a dense network that is fine-tuned from task to task. Recipe
of arXiv 2207.08821's code.

Hardware: one core of an AMD EPYC.
Minutes: 17 to 75, with other work beside it.
Accuracy: subnetworks 97.6 (MNIST), 88.1 (Fashion-MNIST), 89.8 (KMNIST) and
  91.6 % (Bangla), 3 seeds.
Results: experiments/subnetworks/README.md
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.suite = dict(
      kind='datasets',
      sources=('mnist', 'fashion_mnist', 'kmnist', 'cmaterdb/bangla'),
      image_shape=(28, 28, 1), normalise=(0., 1.))
  config.backbone = dict(model='fully_connected', outputs=10, init='default',
                         options=dict(widths=(1000,) * 6, scale=0.05))
  common = dict(tasks=(0, 4), epochs=100, batch_size=512, optimizer='adam',
                learning_rate=1e-3,
                early_stop=dict(min_delta=0.01, patience=3))
  subnetworks = dict(common, method='subnetworks',
                     allocation=dict(density=0.2, sample=10000))
  config.phases = dict(
      subnetworks=subnetworks,
      sharing=dict(subnetworks, options=dict(sharing=True), control=True,
                   allocation=dict(subnetworks['allocation'],
                                   tree='sharing')),
      dense=dict(common, method='dedicated', control=True),
      finetune=dict(common, method='joint', control=True,
                    options=dict(own=('head.*',), carry=True)))
  config.schedule = ('subnetworks', 'sharing', 'dense', 'finetune')
  return config
