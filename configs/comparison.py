"""All methods on the same tasks, LeNet-300-100, one table for each suite.

    python -m mtl_jax.main --config=configs/comparison.py:permuted --workdir=DIR
    ... --config=configs/comparison.py:rotated
    ... --config=configs/comparison.py:datasets
    ... --config=configs/comparison.py:permuted,grid

Every method learns the same tasks from the same training images, 1000 batches
of 128 for each task, on one signed-constant backbone. `permuted` and `rotated`:
tasks 20 to 29, 55,000 images each (2.3 epochs); the basis of ImpressLearn's
`heterogeneous` rows comes from tasks 0 to 19. `datasets`: MNIST,
Fashion-MNIST, KMNIST and CMATERdb's digits of three scripts, in this order;
without `heterogeneous` rows, as no other sets are left for a basis.

Published recipes: SupSup (RMSProp 1e-4; sparse masks: edge-popup by |score|,
eps 16), BatchE (Adam 1e-4, vectors 1e-2), PSP (RMSProp 1e-4), all from SupSup's
code; subnetworks (Adam 1e-3), from the authors' code. Fine-tuning: as PSP.
ImpressLearn: Adam 0.1, cosine, the head's mask 0.003, five blocks per layer
(chosen on validation, see experiments/impresslearn/README.md). `grid` tries
RATES for methods without a recipe, on tasks 30 to 32, which no table reports;
CHOSEN was chosen on the validation images of PermutedMNIST, for all suites.

Hardware: one core of an AMD EPYC.
Minutes: `permuted,grid` 4; `permuted` 6 to 25, with other work beside it;
  `rotated` 19; `datasets` 5 to 15.
Accuracy: `permuted` 67.5 % (480 bytes a task) to 97.3 % (1 MB a task), 3 seeds;
  72.5 % if fine-tuned in sequence. `datasets` 62.6 to 92.2 %, and 39.9 %.
Results: experiments/comparison/README.md
"""

import ml_collections

HEAD = 'Dense_2/kernel'
BASIS, TASKS, TRIED = (0, 20), (20, 30), (30, 33)
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
CHOSEN = dict(dedicated=1e-3, joint=3e-3, probe=1e-2)
SUITES = dict(permuted=dict(kind='permuted', source='mnist', num_tasks=33),
              rotated=dict(kind='rotated', source='mnist', num_tasks=120,
                           order_seed=0),
              datasets=dict(
                  kind='datasets', normalise=(0.1307, 0.3081),
                  drop_shared=True, sources=(
                      'mnist', 'fashion_mnist', 'kmnist', 'cmaterdb/bangla',
                      'cmaterdb/devanagari', 'cmaterdb/telugu')))


def get_config(variant='permuted'):
  suite, _, kind = variant.partition(',')
  if suite not in SUITES or kind not in ('', 'grid'):
    raise ValueError(f'there is no variant {variant!r}; take permuted, '
                     'rotated, datasets or permuted,grid')
  config = ml_collections.ConfigDict()
  config.seed = 0  # of the backbone, scores and batches
  config.suite = SUITES[suite]
  config.backbone = dict(model='lenet_300_100', outputs=10)
  tasks = (0, len(config.suite.sources)) if suite == 'datasets' else TASKS
  common = dict(tasks=tasks, steps=1000, batch_size=128, control=True)
  phases = (_grid(common) if kind else _supsup(common)
            | _impresslearn(common, learned=suite != 'datasets')
            | _dense(common))
  config.phases, config.schedule = phases, tuple(phases)
  if not kind:
    # One gradient for a batch of 128 images of an unknown task.
    inferred = dict(rule='one_shot', objective='entropy',
                    images_per_inference=128)
    config.identify = {name: dict(inferred, phases=(name,)) for name in (
        'supsup', 'random_40', 'random_40_blocks_head')}
  return config


def _supsup(common):
  masks = dict(common, method='supsup', optimizer='rmsprop', learning_rate=1e-4)
  return dict(supsup=masks, supsup_sparse=dict(
      masks, options=dict(sampler='top_k', eps=16)))


def _impresslearn(common, learned):
  """Coefficients over masks from a seed, and over those of other tasks."""
  plain = dict(common, method='impresslearn', optimizer='adam',
               learning_rate=0.1, schedule='cosine')
  more = dict(blocks=5, head='mask', head_rate=0.03)
  random = dict(kind='random', density=0.5, size=40)
  drawn = dict(random_40=dict(plain, basis=random),
               random_40_blocks_head=dict(plain, basis=random, options=more))
  if not learned:
    return drawn
  others = dict(kind='heterogeneous', phase='basis', size=20)
  return dict(
      basis=dict(_supsup(common)['supsup'], tasks=BASIS), **drawn,
      heterogeneous_20=dict(plain, basis=others),
      heterogeneous_20_blocks_head=dict(plain, basis=others, options=more))


def _dense(common, rates=CHOSEN):
  """What trains weights, the two that share none, and the two that forget."""
  adam = dict(common, optimizer='adam')
  passed_on = dict(common, optimizer='rmsprop', learning_rate=1e-4)
  owned = dict(adam, method='subnetworks', learning_rate=1e-3)
  return dict(
      subnetworks=dict(owned, allocation=dict(density=0.1),
                       options=dict(own=(HEAD,))),
      sharing=dict(owned, allocation=dict(density=0.1, tree='sharing'),
                   options=dict(own=(HEAD,), sharing=True)),
      batche=dict(adam, method='batche', learning_rate=1e-4,
                  options=dict(vector_rate=100.)),
      psp=dict(passed_on, method='psp'),
      finetune=dict(passed_on, method='joint',
                    options=dict(own=(HEAD,), carry=True)),
      dedicated=dict(adam, method='dedicated',
                     learning_rate=rates['dedicated']),
      joint=dict(adam, method='joint', together='joint',
                 learning_rate=rates['joint'], options=dict(own=(HEAD,))),
      probe=dict(adam, method='dedicated', learning_rate=rates['probe'],
                 options=dict(trained=(HEAD,))))


def _grid(common):
  found = {}
  for rate in RATES:
    made = _dense(common, dict.fromkeys(CHOSEN, rate))
    found |= {f'{name}_{rate:g}'.replace('.', 'p'): dict(made[name],
                                                         tasks=TRIED)
              for name in CHOSEN}
  return found
