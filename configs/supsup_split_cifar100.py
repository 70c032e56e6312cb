"""SupSup on SplitCIFAR-100, 20 tasks of 5 classes, GEM ResNet-18.

    python -m mtl_jax.main --config=configs/supsup_split_cifar100.py \\
        --workdir=DIR

Published recipe (code of arXiv 2006.14769): edge-popup with Erdos-Renyi
budgets (eps 16), Adam 1e-3, cosine to 0 over 250 epochs, batch 128, weight
decay 1e-4, random crop and flip; classes partitioned at random. Its "transfer":
--config.phases.supermasks.options.transfer=True. On an accelerator all tasks at
once: --config.phases.supermasks.tasks_at_once=20.

Hardware: not run.
Minutes: not run.
Accuracy: not run.
Results: experiments/supsup/README.md
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # of scores, batches and the backbone
  config.suite = dict(kind='split', source='cifar100', classes_per_task=5,
                      seed=0, augment=4)
  config.backbone = dict(model='gem_resnet18', outputs=5)
  config.phases = dict(supermasks=dict(
      method='supsup', tasks=(0, 20), epochs=250, batch_size=128,
      optimizer='adam', learning_rate=1e-3, schedule='cosine',
      weight_decay=1e-4, tasks_at_once=1,
      options=dict(sampler='top_k', eps=16., transfer=False)))
  config.schedule = ('supermasks',)
  config.chunk_steps = 100
  config.progress_seconds = 300.  # 20 tasks' scores and moments: 260 MB
  return config
