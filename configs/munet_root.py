"""A root for configs/munet_characters.py: ViT-Ti of 3 layers on Omniglot.

    python -m mtl_jax.main --config=configs/munet_root.py --workdir=DIR
    python -m mtl_jax export --workdir=DIR --task=omniglot --network \
        --output=runs/munet_root.safetensors

mu2Net's own root was pretrained on ImageNet-21k; this one has seen 16 drawings
of each of Omniglot's 1,623 characters and no other image. Adam 1e-3, cosine,
40 epochs of 512; the second command writes its network as a file of weights.

Hardware: one core of an AMD EPYC.
Minutes: 12.
Accuracy: 62.4 % on Omniglot (1 seed).
Results: experiments/munet/README.md
"""

import ml_collections


def get_config():
  config = ml_collections.ConfigDict()
  config.seed = 0  # of the weights and the batches
  config.suite = dict(kind='official', benchmark='characters',
                      image_shape=(32, 32, 3), only=('omniglot',))
  config.backbone = dict(model='vit_ti', outputs=1623, init='default',
                         options=dict(num_layers=3))
  config.phases = dict(root=dict(
      method='dedicated', tasks=(0, 1), epochs=40, batch_size=512,
      optimizer='adam', learning_rate=1e-3, schedule='cosine'))
  config.schedule = ('root',)
  config.chunk_steps = 50
  return config
