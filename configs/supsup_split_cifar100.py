"""SupSup on SplitCIFAR-100, 20 tasks of 5 classes, GEM ResNet-18.

    python -m mtl_jax.main --config=configs/supsup_split_cifar100.py \\
        --workdir=DIR

Published recipe (code of arXiv 2006.14769): edge-popup with Erdos-Renyi
budgets (eps 16), Adam 1e-3, cosine to 0 over 250 epochs, batch 128, weight
decay 1e-4, random crop and flip; classes partitioned at random. For its
"transfer", give --config.phases.supermasks.options.transfer=True. On an
accelerator, train all tasks at once:
--config.phases.supermasks.tasks_at_once=20.

`:short` is not a published recipe: 12 epochs instead of 250, for a CPU.
`:short,controls` trains a dense network for each task for as many epochs, and
one network on all tasks in sequence.

Hardware: one core of an AMD EPYC or Intel Xeon; without `:short`: not run.
Minutes: `:short` 27 to 123 (beside other work); `:short,controls` 51.
Accuracy: `:short` 76.7 % (3 seeds); `:short,controls` 77.0 % with a dense
  network for each task, 23.3 % at the end of fine-tuning (1 seed); the others:
  not run.
Results: experiments/supsup/README.md
"""

import ml_collections

SHORT = 12  # epochs of the short variants, of 250


VARIANTS = ('', 'short', 'short,controls')


def get_config(variant=''):
  if variant not in VARIANTS:
    raise ValueError(f'there is no variant {variant!r}; take short, '
                     'short,controls or none')
  config = ml_collections.ConfigDict()
  config.seed = 0  # of scores, batches and the backbone
  config.suite = dict(kind='split', source='cifar100', classes_per_task=5,
                      seed=0, augment=4)
  config.backbone = dict(model='gem_resnet18', outputs=5)
  phases = dict(supermasks=dict(
      method='supsup', tasks=(0, 20), epochs=250, batch_size=128,
      optimizer='adam', learning_rate=1e-3, schedule='cosine',
      weight_decay=1e-4, tasks_at_once=1,
      options=dict(sampler='top_k', eps=16., transfer=False)))
  if variant:
    phases['supermasks']['epochs'] = SHORT
  if variant == 'short,controls':
    phases = _controls(phases['supermasks'])
  config.phases, config.schedule = phases, tuple(phases)
  config.chunk_steps = 100
  config.progress_seconds = 300.  # 20 tasks' scores and moments: 260 MB
  return config


def _controls(masks):
  """A dense network for each task, and one network tuned task by task."""
  dense = {name: masks[name] for name in masks if name != 'options'}
  return dict(
      dedicated=dict(dense, method='dedicated', control=True),
      finetune=dict(dense, method='joint', control=True, options=dict(
          own=('classifier/kernel',), carry=True)))
