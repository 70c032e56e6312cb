"""Subnetworks of 784-5x500-10 learn MNIST from 1,000 to 55,000 images.

    python -m mtl_jax.main --config=configs/subnetworks_less_data.py:1000 \\
        --workdir=DIR
    python -m mtl_jax.verify --workdir=DIR \\
        --plugins=configs/subnetworks_less_data.py

The first N training images, a fifth of them for validation, train the whole
network (`dense`), a tenth of it, chosen by |weight| at the start (`pruned`),
and a subnetwork that is pruned while it is trained (`sparsified`, the authors'
ActiveSparsification): it begins with half of the weights, and gives up a
twentieth of all weights after each epoch whose validation accuracy reaches a
cutoff, until a twentieth is left.

This is the study "Better generalization?" of the authors of arXiv 2207.08821.
Adam 1e-3, at most 100 epochs, patience 5. Their cutoff is the dense network's
accuracy on test images less 0.04. Ours is that on validation images of seed 0
less 0.04, for all seeds. Their pixels are in [0, 255] (ours in [0, 1]), they
stop by accuracy (we stop the dense and the pruned network by loss), and they
train 32 steps before they choose by |weight|. Their batches are 512 images,
ours 500 (400 if N = 1,000), so that an epoch takes as many steps.

Hardware: one core of an AMD EPYC.
Minutes: 0.3 (1,000 images) to 2.3 (55,000).
Accuracy: `:1000` 87.5 % (dense 89.0 %), `:55000` 97.5 % with a twentieth of the
  weights (dense 97.5 %), 3 seeds.
Results: experiments/subnetworks/README.md
"""

import functools

import ml_collections

from mtl_jax.data import sources

# Images -> validation accuracy that a pruned epoch must reach: 0.04 below that
# of `dense` with seed 0 in the committed results.
CUTOFF = {1000: 0.83, 5000: 0.886, 10000: 0.902, 55000: 0.9355}


def _first(images):
  """MNIST's first training images; the last fifth of them is validation."""
  whole = sources.load('mnist')
  cut = images * 4 // 5
  train = sources.Arrays(*(a[:cut] for a in whole.train))
  valid = sources.Arrays(*(a[cut:images] for a in whole.train))
  return sources.Source(f'mnist_{images}', whole.version, whole.classes, train,
                        valid, whole.test)


for _images in CUTOFF:
  sources.register(f'mnist_{_images}', functools.partial(_first, _images))


def get_config(images='1000'):
  if not images.isdigit() or int(images) not in CUTOFF:
    known = ', '.join(map(str, CUTOFF))
    raise ValueError(f'{images!r} images; take one of {known}')
  images = int(images)
  config = ml_collections.ConfigDict()
  config.seed = 0  # of the backbone, the initial weights and the batches
  config.suite = dict(kind='datasets', sources=(f'mnist_{images}',),
                      names=('mnist',), normalise=(0., 1.))
  config.backbone = dict(model='fully_connected', outputs=10, init='default',
                         options=dict(widths=(500,) * 5, scale=0.05))
  common = dict(tasks=(0, 1), epochs=100, optimizer='adam', learning_rate=1e-3,
                batch_size=400 if images == 1000 else 500,
                early_stop=dict(min_delta=0.005, patience=5))
  subnetwork = dict(common, method='subnetworks')
  chosen = dict(score='magnitude', tree=None)
  config.phases = dict(
      sparsified=dict(subnetwork, allocation=dict(chosen, density=0.5),
                      sparsify=dict(start=0.5, rate=0.05, least=0.05,
                                    cutoff=CUTOFF[images], patience=5)),
      pruned=dict(subnetwork, control=True,
                  allocation=dict(chosen, density=0.1)),
      dense=dict(common, method='dedicated', control=True))
  config.schedule = ('sparsified', 'pruned', 'dense')
  return config
