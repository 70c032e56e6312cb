"""SupSup's largest run: 2,500 PermutedMNIST tasks in one LeNet-300-100.

    python -m mtl_jax.main --config=configs/supsup_2500_tasks.py \\
        --workdir=DIR --cpu_devices=2

500 outputs, threshold masks, RMSProp 1e-4, 1000 batches of 128 per task (code
of arXiv 2006.14769). The task is inferred from one image of a test batch and
one gradient. Every task draws only 2 test batches, because every inference is
compared with every task. Two tasks are trained at once, one on each
device. On CPU, `--cpu_devices=2` makes two devices; elsewhere, a multiple of
the number of devices keeps all of them busy.

Hardware: two cores of an AMD EPYC.
Minutes: 42 on both cores; 29 of them learn and store the tasks.
Accuracy: 93.5 %; 99.9 % of the batches' tasks are inferred correctly (1 seed).
Results: experiments/identity/README.md
"""

import ml_collections

TASKS = 2500


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # of scores, batches and the backbone
  config.suite = dict(kind='permuted', source='mnist', num_tasks=TASKS,
                      number_width=4)
  config.backbone = dict(model='lenet_300_100', outputs=500)
  config.phases = dict(supermasks=dict(
      method='supsup', tasks=(0, TASKS), steps=1000, batch_size=128,
      optimizer='rmsprop', learning_rate=1e-4, tasks_at_once=2))
  config.schedule = ('supermasks',)
  one_shot = dict(rule='one_shot', images_per_inference=1, batches_per_task=2,
                  task_counts=(10, 100, 500, 1000, 1500, 2000, 2500))
  config.identify = dict(
      entropy=dict(one_shot, objective='entropy'),
      superfluous=dict(one_shot, objective='superfluous'))
  return config
