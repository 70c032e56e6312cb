"""256 of the tasks of supsup_2500_tasks.py, trained at once; tasks are given.

    python -m mtl_jax.main --config=experiments/accelerator/permuted_mnist.py \\
        --workdir=DIR
"""

import ml_collections

TASKS = 256


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # of scores, batches and the backbone
  config.suite = dict(kind='permuted', source='mnist', num_tasks=TASKS)
  config.backbone = dict(model='lenet_300_100', outputs=500)
  config.phases = dict(supermasks=dict(
      method='supsup', tasks=(0, TASKS), steps=1000, batch_size=128,
      optimizer='rmsprop', learning_rate=1e-4, tasks_at_once=TASKS))
  config.schedule = ('supermasks',)
  config.chunk_steps = 250
  return config
