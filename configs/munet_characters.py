"""mu2Net on characters: six sets in a row, twice, then Fashion-MNIST.

    python -m mtl_jax.main --config=configs/munet_characters.py --workdir=DIR
    python -m mtl_jax.main --config=configs/munet_characters.py:leaking ...

ViT-Ti/16 of 3 layers at 32 x 32 pixels. The root is that of
configs/munet_root.py (runs/munet_root.safetensors). MNIST, KMNIST, Omniglot and
CMATERdb x 3 have mu2Net's splits, except Omniglot, whose official
validation and test images are all in its training split: it has 16, 2 and 2
drawings of each character. `leaking` runs its official splits alone, for
comparison. Fashion-MNIST comes last, as a task unlike all others.

The space is that of the published ViT-L runs, except for mirroring (never: it
makes other characters) and crops (at least half of the image), chosen before
any run. A task and iteration get 4 generations of 4 children of 2 x 20 steps
of 256. The controls get the same number of steps, those of both iterations, as
four repeats from the root, of which the best on validation counts.

Hardware: one core of an AMD EPYC, shared with other work: upper bounds.
Minutes: 140; `:leaking` 2.5.
Accuracy: 73.9 % (1 seed; full fine-tuning 63.2 %); `:leaking` 35.1 % (3 seeds).
Results: experiments/munet/README.md
"""

import ml_collections

TASKS = ('mnist', 'kmnist', 'omniglot', 'cmaterdb/bangla',
         'cmaterdb/devanagari', 'cmaterdb/telugu')
FIXED = dict(flip=False, area_min=0.5)
STEPS, VALIDATIONS, GENERATIONS, CHILDREN = 20, 2, 4, 4


def search(**changes):
  return dict(dict(
      space='mu2net_large', fixed=FIXED, generations=GENERATIONS,
      children=CHILDREN, validations=VALIDATIONS, valid_cap=2_560), **changes)


def phase(first, last, found, control=False):
  return dict(method='munet', tasks=(first, last), batch_size=256, steps=STEPS,
              control=control, search=found)


def get_config(which='all'):
  if which not in ('all', 'leaking'):
    raise ValueError(f'{which!r}: all or leaking')
  leaking = which == 'leaking'
  config = ml_collections.ConfigDict()
  config.seed = 0  # of the search and the batches
  config.suite = dict(
      kind='official', benchmark='characters', image_shape=(32, 32, 3),
      only=('omniglot',) if leaking else TASKS, leaking=leaking,
      more=() if leaking else ('fashion_mnist',))
  config.backbone = dict(
      model='vit_ti', outputs=1623, init='default',
      weights='runs/munet_root.safetensors', options=dict(num_layers=3))
  count = 1 if leaking else len(TASKS)
  phases = dict(grow=phase(0, count, search(iterations=2)))
  if not leaking:
    phases['newcomer'] = phase(count, count + 1, search())
    for control in ('finetune', 'head', 'adapters'):
      phases[control] = phase(0, count, search(
          control=control, generations=CHILDREN, children=1,
          validations=2 * GENERATIONS * VALIDATIONS), True)
  config.phases = phases
  config.schedule = tuple(phases)
  return config
