"""mu2Net's preliminary experiment, whole: three alphabets from a random root.

    python -m mtl_jax.main --config=configs/munet_preliminary.py --workdir=DIR
    python -m mtl_jax.main --config=configs/munet_preliminary.py:one_block ...

The configuration `ViT tiny 0 layers / Cmaterdb benchmark` of the official
notebook (arXiv 2205.12755): CMATERdb's Bangla, Devanagari and Telugu digits,
the last one private, so that no other task inherits from it. The root is a
randomly initialised ViT-Ti/16 without any encoder block; up to three may grow.
Until a path has a block it is blind: its class token does not see the image.
`:one_block` is our variant, whose root has one block.
32 x 32 pixels, batch 512, two iterations of 4 generations of 8 children, each
validated 4 times; score = validation accuracy. Official splits: 7, 14 and 3 of
the test images are also in the training or validation split. The run says so,
and --config.suite.drop_shared=True leaves them out of training and validation.

Hardware: one core of an AMD EPYC.
Minutes: 19 to 30, with other work beside it; `:one_block` 11 to 16.
Accuracy: Bangla 66.9 %, Devanagari 68.5 %, Telugu 81.3 % (3 seeds, standard
  deviations 18, 20 and 9); `:one_block` 70.2 %, 60.7 %, 76.8 % (19, 34, 10).
Results: experiments/munet/README.md
"""

import ml_collections


def get_config(variant=''):
  if variant not in ('', 'one_block'):
    raise ValueError(f"there is no variant {variant!r}; take 'one_block' or "
                     'none')
  config = ml_collections.ConfigDict()
  config.seed = 0  # of the search, the batches and the root
  config.suite = dict(kind='official', benchmark='preliminary',
                      image_shape=(32, 32, 3), drop_shared=False)
  config.backbone = dict(model='vit_ti', outputs=10, init='default',
                         options=dict(num_layers=int(bool(variant))))
  config.phases = dict(grow=dict(
      method='munet', tasks=(0, 3), batch_size=512, search=dict(
          space='mu2net_ti0', iterations=2, generations=4, children=8,
          validations=4, train_cap=51_200, valid_cap=5_120,
          private=('cmaterdb-telugu',))))
  config.schedule = ('grow',)
  config.matrix = 'full'
  return config
