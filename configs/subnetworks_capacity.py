"""How many permuted-MNIST tasks fit in 784-5x500-10?

    python -m mtl_jax.main --config=configs/subnetworks_capacity.py:14 \\
        --workdir=DIR

T tasks in parallel, each with 1/T of every layer (p = 100 - int(100/T)), scores
from 100 images, early stopping with patience 20. This is the study "How many
tasks?" of the authors of arXiv 2207.08821, who report the largest T at which no
task falls below 90 % (13 for this network, one run).

Hardware: one NVIDIA H200; T = 50 one core of an AMD EPYC.
Minutes: 1.8 (T = 13) and 1.5 (T = 20); T = 50 with 8 epochs: 51.
Accuracy: 97.2 % (T = 13), 97.0 % (T = 20), 92.2 % (T = 50; 1 seed each).
Results: experiments/subnetworks/README.md
"""

import ml_collections


def get_config(tasks='14'):
  if not tasks.isdigit() or not 1 <= int(tasks) <= 100:
    raise ValueError(f'{tasks!r} tasks; give a number from 1 to 100')
  tasks = int(tasks)
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.suite = dict(kind='permuted', source='mnist', num_tasks=tasks,
                      normalise=(0., 1.))
  config.backbone = dict(model='fully_connected', outputs=10, init='default',
                         options=dict(widths=(500,) * 5, scale=0.05))
  config.phases = dict(subnetworks=dict(
      method='subnetworks', tasks=(0, tasks), together='joint', epochs=100,
      batch_size=512, optimizer='adam', learning_rate=1e-3,
      allocation=dict(density=int(100 / tasks) / 100, sample=100),
      early_stop=dict(min_delta=0.01, patience=20)))
  config.schedule = ('subnetworks',)
  return config
