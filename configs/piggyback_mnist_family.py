"""Piggyback: masks of a network that was trained on another data set.

    python -m mtl_jax.main --config=configs/piggyback_mnist_family.py:root \\
        --workdir=ROOT
    python -m mtl_jax export --workdir=ROOT --task=mnist --network \\
        --output=runs/piggyback_mnist.safetensors
    python -m mtl_jax.main --config=configs/piggyback_mnist_family.py \\
        --workdir=DIR
    python -m mtl_jax.main --config=configs/piggyback_mnist_family.py:random \\
        --workdir=DIR

A small CNN with batch norm (106,018 weights) learns MNIST. Fashion-MNIST,
KMNIST and Bangla digits (CMATERdb) then mask its weights with one bit each:
scores start at 1e-2, and a weight is kept if its score is at least 5e-3, as in
Mallya et al. 2018 (https://arxiv.org/abs/1801.06519). Each task has its own
dense head and norm statistics. For comparison, there are full fine-tuning and a
linear probe of the same network; `:random` has all three on the randomly
initialised network.

300 batches of 64 for each task: a third of an epoch of the two large sets, and
four to five of Bangla's few thousand images. The paper trains 30 epochs, with
networks of 20 to 140 million weights; its accuracies are not comparable.

Hardware: one core of an Intel Xeon or an AMD EPYC.
Minutes: `:root` 10.5, masks 16.5, `:random` 15.6, with about thirty other
  processes on two cores: upper bounds.
Accuracy: 80.4 % (masks of MNIST's network; 85.4 % of the network as drawn;
  3 seeds).
Results: experiments/piggyback/README.md
"""

import ml_collections

SOURCES = ('mnist', 'fashion_mnist', 'kmnist', 'cmaterdb/bangla')
HEAD = 'head/.*'


def get_config(variant='pretrained'):
  if variant not in ('root', 'pretrained', 'random'):
    raise ValueError(f'there is no variant {variant!r}; take root, pretrained '
                     'or random')
  config = ml_collections.ConfigDict()
  config.seed = 0  # of the backbone, batches and heads
  config.suite = dict(
      kind='datasets',
      sources=SOURCES[:1] if variant == 'root' else SOURCES[1:])
  config.backbone = dict(
      model='convolutional', outputs=10, init='default', options=dict(
          channels=(8, 16), widths=(128,), stride=2, norm=True))
  common = dict(steps=300, batch_size=64, optimizer='adam', schedule='cosine')
  if variant == 'root':
    config.phases = dict(root=dict(common, method='dedicated', tasks=(0, 1),
                                   steps=900, learning_rate=3e-3))
    config.schedule = ('root',)
    return config
  if variant == 'pretrained':
    config.backbone.weights = 'runs/piggyback_mnist.safetensors'
    config.backbone.fresh = (HEAD,)  # MNIST's digits are no other set's classes
  common['tasks'] = (0, 3)
  config.phases = dict(
      piggyback=dict(common, method='supsup', learning_rate=1e-3, options=dict(
          threshold=5e-3, start=1e-2, head='dense')),
      finetune=dict(common, method='dedicated', learning_rate=3e-3,
                    control=True),
      probe=dict(common, method='dedicated', learning_rate=1e-2, control=True,
                 options=dict(trained=(HEAD,))))
  config.schedule = ('piggyback', 'finetune', 'probe')
  return config
