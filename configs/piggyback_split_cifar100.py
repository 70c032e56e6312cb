"""Piggyback on SplitCIFAR-100: masks of a network trained on other classes.

    python -m mtl_jax.main --config=configs/piggyback_split_cifar100.py:root \\
        --workdir=ROOT
    python -m mtl_jax export --workdir=ROOT --task=split-00 --network \\
        --output=runs/piggyback_cifar.safetensors
    python -m mtl_jax.main --config=configs/piggyback_split_cifar100.py \\
        --workdir=DIR
    python -m mtl_jax.main \\
        --config=configs/piggyback_split_cifar100.py:random --workdir=DIR

GEM ResNet-18 (1,090,940 weights) learns 50 of the 100 classes together in 10
epochs: those of SplitCIFAR-100's first ten tasks. Three of the other ten tasks,
of 5 classes each, then mask its weights with one bit each: scores start at
1e-2, and a weight is kept if its score is at least 5e-3, as in Mallya et al.
2018 (https://arxiv.org/abs/1801.06519). Each task has its own dense head and
norm statistics. For comparison, there are full fine-tuning and a linear probe
of the same network; `:random` has all three on the randomly initialised
network. Each trains 12 epochs per task, as
configs/supsup_split_cifar100.py:short does, so the tasks can be compared.
`:grid` trains the masks with lower rates.

Hardware: one core of an AMD EPYC, shared with other work: upper bounds.
Minutes: `:root` 63, masks 28, `:random` 26, `:grid` 26.
Accuracy: 74.5 % (masks at 1e-3; 78.7 % at 1e-4, which validation chooses; full
  fine-tuning 84.7 %; 1 seed); `:root` 55.9 % of 50 classes.
Results: experiments/piggyback/README.md
"""

import ml_collections

HEAD = 'classifier/.*'
UNSEEN = (10, 13)  # tasks none of whose classes the root has seen
RATES = (3e-4, 1e-4)  # of the grid, beside 1e-3
MASKS = dict(method='supsup', options=dict(threshold=5e-3, start=1e-2,
                                           head='dense'))


def get_config(variant='pretrained'):
  if variant not in ('root', 'pretrained', 'random', 'grid'):
    raise ValueError(f'there is no variant {variant!r}; take root, pretrained, '
                     'random or grid')
  root = variant == 'root'
  config = ml_collections.ConfigDict()
  config.seed = 0  # of the backbone, batches and heads
  config.suite = dict(kind='split', source='cifar100', seed=0, augment=4,
                      classes_per_task=50 if root else 5)
  config.backbone = dict(model='gem_resnet18', outputs=50 if root else 5,
                         init='default')
  config.chunk_steps = 100
  config.progress_seconds = 300.
  common = dict(epochs=10 if root else 12, batch_size=128, optimizer='adam',
                schedule='cosine', learning_rate=1e-3)
  if root:
    config.phases = dict(root=dict(common, method='dedicated', tasks=(0, 1)))
    config.schedule = ('root',)
    return config
  if variant != 'random':
    config.backbone.weights = 'runs/piggyback_cifar.safetensors'
    config.backbone.fresh = (HEAD,)  # 50 classes there, 5 others here
  common['tasks'] = UNSEEN
  if variant == 'grid':
    config.phases = {f'rate_{i}': dict(common, **MASKS, control=i > 0)
                     for i in range(len(RATES))}
    for i, rate in enumerate(RATES):
      config.phases[f'rate_{i}'].learning_rate = rate
    config.schedule = tuple(config.phases)
    return config
  config.phases = dict(
      piggyback=dict(common, **MASKS),
      finetune=dict(common, method='dedicated', control=True),
      probe=dict(common, method='dedicated', learning_rate=1e-2, control=True,
                 options=dict(trained=(HEAD,))))
  config.schedule = ('piggyback', 'finetune', 'probe')
  return config
