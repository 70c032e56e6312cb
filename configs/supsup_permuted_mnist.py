"""SupSup on PermutedMNIST, 250 tasks, LeNet-300-100 with 100 outputs.

    python -m mtl_jax.main --config=configs/supsup_permuted_mnist.py \\
        --workdir=DIR

Published recipe (code of arXiv 2006.14769): threshold masks, RMSProp 1e-4,
1000 batches of 128 per task. FC1024 as in the paper's second network:

    ... --config.backbone.model=fc1024 --config.backbone.outputs=500 \\
        --config.suite.num_tasks=50 --config.suite.number_width=2 \\
        --config.phases.supermasks.tasks="(0, 50)"

Hardware: one core of an AMD EPYC.
Minutes: 18 to 40 (FC1024 with 50 tasks: 12 to 46; with 250 tasks on two cores:
  229); the longest beside other work.
Accuracy: 93.7 %; FC1024 96.2 % with 50 tasks (3 seeds each) and 96.3 % with
  250 (1 seed).
Results: experiments/supsup/README.md
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # of scores, batches and the backbone
  # Names and random numbers of a short run are those of the first of 250.
  config.suite = dict(kind='permuted', source='mnist', num_tasks=250,
                      number_width=3)
  config.backbone = dict(model='lenet_300_100', outputs=100)
  config.phases = dict(supermasks=dict(
      method='supsup', tasks=(0, 250), steps=1000, batch_size=128,
      optimizer='rmsprop', learning_rate=1e-4, tasks_at_once=1))
  config.schedule = ('supermasks',)
  # Without task names: one image of a test batch, one gradient; 20 test
  # batches that every task draws for itself.
  one_shot = dict(rule='one_shot', images_per_inference=1, batches_per_task=20,
                  task_counts=(10, 50, 100, 150, 200, 250))
  config.identify = dict(
      entropy=dict(one_shot, objective='entropy'),
      superfluous=dict(one_shot, objective='superfluous'))
  return config
