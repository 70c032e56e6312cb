"""ImpressLearn without task names: RotatedMNIST, LeNet-300-100.

    python -m mtl_jax.main \\
        --config=configs/impresslearn_nameless_rotated_mnist.py --workdir=DIR

The published text says that ImpressLearn works unchanged without task names
but not how. We test two readings: (a) one set of coefficients for the pooled
images of ten unseen tasks, so that no task is inferred; (b) coefficients
for each task, and SupSup's inference with the gradient with respect to the
coefficients. For comparison, the same with masks: one pooled, and one per task.
There are 100 outputs, as inference needs superfluous ones.

Hardware: one core of an AMD EPYC.
Minutes: at least 6.5.
Accuracy: 92.1 % with the task given, 46.9 % with one set of coefficients for
  all ten tasks (3 seeds).
Results: experiments/identity/README.md
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # of scores, batches and the backbone
  config.suite = dict(kind='rotated', source='mnist', num_tasks=60,
                      order_seed=0)
  config.backbone = dict(model='lenet_300_100', outputs=100)
  supermask = dict(method='supsup', steps=1000, batch_size=128,
                   optimizer='rmsprop', learning_rate=1e-4)
  unseen = dict(tasks=(40, 50), control=True)
  impress = dict(
      unseen, method='impresslearn', steps=1000, batch_size=128,
      optimizer='adam', learning_rate=0.1, schedule='cosine',
      basis=dict(kind='heterogeneous', size=40, phase='supermasks'))
  config.phases = dict(
      supermasks=dict(supermask, tasks=(0, 40)),
      coefficients=impress,
      dedicated=dict(supermask, **unseen),
      pooled=dict(impress, pool=True),
      pooled_mask=dict(supermask, **unseen, pool=True))
  config.schedule = ('supermasks', 'coefficients', 'dedicated', 'pooled',
                     'pooled_mask')
  # 20 of every task's 79 test batches.
  whole = dict(images_per_inference=128, batches_per_task=20)
  own = dict(whole, phases=('coefficients',))
  config.identify = dict(
      one_image=dict(own, rule='one_shot', images_per_inference=1),
      one_shot=dict(own, rule='one_shot'),
      normalised=dict(own, rule='one_shot', normalise=True),
      superfluous=dict(own, rule='one_shot', objective='superfluous'),
      binary=dict(own, rule='binary'),
      brute_force=dict(own, rule='brute_force'),
      masks_one_image=dict(whole, phases=('dedicated',), rule='one_shot',
                           images_per_inference=1),
      masks_one_shot=dict(whole, phases=('dedicated',), rule='one_shot'),
      masks_binary=dict(whole, phases=('dedicated',), rule='binary'))
  return config
