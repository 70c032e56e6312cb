"""SupSup's NNs on PermutedMNIST: a stream of 100 tasks without names.

    python -m mtl_jax.main \\
        --config=configs/supsup_nameless_permuted_mnist.py --workdir=DIR

Every 100 batches, one gradient decides whether a known mask fits or a new one
is needed (arXiv 2006.14769, section 3.4 and its code). LeNet-300-100 with 500
outputs, RMSProp 1e-4, 1000 batches of 128 per task. The tasks come twice: the
second time every task should be recognised, and only the newest mask is
trained, which is committed last.

Hardware: one core of an AMD EPYC.
Minutes: 12; with 250 tasks 18 to 43.
Accuracy: 93.5 % (3 seeds); with 250 tasks 93.5 % (3 seeds).
Results: experiments/identity/README.md
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # of scores, batches and the backbone
  config.suite = dict(kind='permuted', source='mnist', num_tasks=100)
  config.backbone = dict(model='lenet_300_100', outputs=500)
  config.phases = dict(stream=dict(
      method='supsup', tasks=(0, 100), steps=1000, batch_size=128,
      optimizer='rmsprop', learning_rate=1e-4,
      stream=dict(every=100, tolerance=0.125, min_masks=5, passes=2)))
  config.schedule = ('stream',)
  config.identify = dict(one_shot=dict(rule='one_shot', objective='entropy',
                                       images_per_inference=1))
  return config
