"""ImpressLearn on SplitCIFAR-100, GEM ResNet-18: 15 masks, 5 unseen tasks.

    python -m mtl_jax.main --config=configs/impresslearn_split_cifar100.py \\
        --workdir=DIR

Masks as in supsup_split_cifar100.py. Coefficients, from the authors' code
before the paper: Adam 0.02, cosine over 150 epochs, batch 64, weight decay
0.01, penalty 0.005 (|alpha|_1 - 1)^2; homogeneous basis: 0.005; hybrid head:
0.008.

`:after_supsup` continues in the workdir of supsup_split_cifar100.py: the masks
of its first 15 tasks are the basis. The masks of its last 5 tasks, which are
unseen then, are compared with the coefficients:

    ... --config=configs/impresslearn_split_cifar100.py:after_supsup \\
        --workdir=DIR OF supsup_split_cifar100.py

`:after_supsup,short` does so after supsup_split_cifar100.py:short: masks of 12
epochs, coefficients of 6. Its `blocks_head` is ours: a separate head mask, and
a coefficient for each basis mask, layer and third of a layer's outputs.

Hardware: `:after_supsup,short` one core of an AMD EPYC or Intel Xeon; the
  others: not run.
Minutes: `:after_supsup,short` 8 to 22, after the masks; the others: not run.
Accuracy: `:after_supsup,short` 58.4 % with 15 coefficients a layer, 63.8 % with
  blocks and a head mask, 75.6 % with a mask of 12 epochs (3 seeds).
Results: experiments/impresslearn/README.md
"""

import ml_collections

BASIS = 15
SUPERMASK = dict(
    method='supsup', epochs=250, batch_size=128, optimizer='adam',
    learning_rate=1e-3, schedule='cosine', weight_decay=1e-4,
    options=dict(sampler='top_k', eps=16.))
COEFFICIENTS = dict(
    method='impresslearn', tasks=(BASIS, 20), epochs=150, batch_size=64,
    optimizer='adam', schedule='cosine', weight_decay=0.01, control=True)


def get_config(variant=''):
  config = ml_collections.ConfigDict()
  config.seed = 0  # of scores, batches and the backbone
  config.suite = dict(kind='split', source='cifar100', classes_per_task=5,
                      seed=0, augment=4)
  config.backbone = dict(model='gem_resnet18', outputs=5)
  heterogeneous = dict(kind='heterogeneous', size=BASIS, phase='supermasks')
  homogeneous = dict(kind='homogeneous', size=BASIS, phase='repeated')
  head = dict(penalty=0.005, head='classifier/kernel', sampler='top_k',
              eps=16.)
  config.phases = dict(
      supermasks=dict(SUPERMASK, tasks=(0, BASIS)),
      repeated=dict(SUPERMASK, tasks=(0, 1), repeats=BASIS, control=True),
      dedicated=dict(SUPERMASK, tasks=(BASIS, 20), control=True),
      heterogeneous=dict(COEFFICIENTS, learning_rate=0.02,
                         basis=heterogeneous, options=dict(penalty=0.005)),
      homogeneous=dict(COEFFICIENTS, learning_rate=0.005, basis=homogeneous,
                       options=dict(penalty=0.005)),
      hybrid=dict(COEFFICIENTS, learning_rate=0.008, basis=heterogeneous,
                  options=head))
  config.schedule = ('supermasks', 'repeated', 'dedicated', 'heterogeneous',
                     'homogeneous', 'hybrid')
  config.chunk_steps = 100
  config.progress_seconds = 300.  # 20 tasks' scores and moments: 260 MB
  after, _, short = variant.partition(',')
  if after == 'after_supsup' and short in ('', 'short'):
    phases = config.phases
    phases = dict(
        supermasks=dict(SUPERMASK, tasks=(0, 20), tasks_at_once=1,
                        options=dict(SUPERMASK['options'], transfer=False)),
        heterogeneous=dict(phases['heterogeneous'], tasks_at_once=1),
        hybrid=dict(phases['hybrid'], tasks_at_once=1))
    if short:
      phases = _short(phases)
    config.phases, config.schedule = phases, tuple(phases)
  elif variant:
    raise ValueError(f'there is no variant {variant!r}; take after_supsup, '
                     'after_supsup,short or none')
  return config


def _short(phases):
  """Fewer epochs, and blocks with a mask for the head beside plain K = 15."""
  plain = dict(phases['heterogeneous'], epochs=6)
  return dict(
      supermasks=dict(phases['supermasks'], epochs=12),
      heterogeneous=plain,
      blocks_head=dict(plain, options=dict(
          penalty=0.005, blocks=3, head='classifier/kernel', head_rate=0.05,
          sampler='top_k', eps=16.)))
