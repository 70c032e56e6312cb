"""Every constant of mu2Net's and its relatives' notebooks, a row each.

Sources are the functions of google-research/google-research, folder muNet:
mu2Net.ipynb (mu2Net, and muNet's two configurations) and mu3Net.ipynb (mu2Net+
and mu3Net share it).
"""

import pytest

from mtl_jax.evolution import spaces

LR = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, .01, .02, .05, .1, .2, .5)
DELTAS = (0., .01, .02, .05, .1, .2)
FIXED = object()  # one value, the default
SAME = ('mu2net_large', 'mu2net_ti0', 'munet_ti3', 'munet_b')
PLUS = ('mu2net_plus_ti0', 'mu2net_plus_ti3', 'mu2net_plus_b',
        'mu2net_plus_large')
V2, V1 = 'exp_config_add_auto_tune_v2', 'exp_config_add_auto_tune'
MU3 = 'config_add_auto_tune of mu3Net'

# (spaces, ours, values, default, where)
RANGES = [
    (SAME[:2], spaces.RATE, (.1, .12, .14, .16, .18, .2, .22, .24, .26, .28,
                             .3), .2, V2),
    (SAME[2:], spaces.RATE, FIXED, .1, 'get_exp_config_ti3_chars, base_deca'),
    (SAME + PLUS, 'learning_rate', LR, .01, V2),
    (SAME[:1], 'warmup', (.01, .02, .05, .1, .2, .3, .4), .05,
     'get_exp_config_large'),
    (SAME[1:], 'warmup', (.01, .02, .05, .1, .2, .3, .4), .1,
     'get_exp_config_ti0_cmaterdb, ti3_chars, base_deca'),
    (SAME[:2], 'momentum', (.5, .6, .7, .8, .85, .9, .95, .98, .99), .9, V2),
    # Officially `None`, which ends in an error, where ours is 0.
    (SAME[2:], 'momentum', (0., .2, .4, .5, .6, .7, .8, .85, .9, .95, .98,
                            .99), .9, V1),
    (SAME + PLUS, 'nesterov', (True, False), False, V2),
    (SAME[:2], 'schedule', FIXED, 'cosine', 'get_exp_config_large'),
    (SAME[2:], 'schedule', ('constant', 'cosine', 'restarts'), 'cosine', V1),
    (SAME[:1], 'adapter', FIXED, 16, 'get_exp_config_large'),
    (SAME[1:2], 'adapter', FIXED, 32, 'get_exp_config_ti0_cmaterdb'),
    (SAME[2:], 'adapter', (8, 16, 32, 64, 128), 32, V1),
    (SAME, 'area_min', (.01, .02, .05, .1, .2, .5, 1.), .05, V2),
    (SAME[:2], 'crop', (True, False), True, V2),
    (SAME[2:] + PLUS, 'crop', FIXED, True, V1),
    (SAME, 'aspect_min', (.25, .5, .75, 1.), .75, V2),
    (SAME, 'flip', (True, False), True, V2),
    (SAME[1:2], 'num_layers', (0, 1, 2, 3), 0, 'get_exp_config_ti0_cmaterdb'),
    *((SAME + PLUS, name, DELTAS, 0., V2) for name in spaces.COLOURS),
    # mu2Net+.
    (('mu2net_plus_ti0', 'mu2net_plus_large'), spaces.RATE,
     tuple(round(.02 * i, 2) for i in range(1, 16)), .2,
     'get_config_ti0_cmaterdb, get_config_large'),
    (('mu2net_plus_ti3', 'mu2net_plus_b'), spaces.RATE,
     tuple(round(.02 * i, 2) for i in range(1, 16)), .1,
     'get_config_ti3_chars, get_config_base_deca'),
    (PLUS[:3], 'warmup', (0., .01, .02, .05, .1, .2, .3), .1, MU3),
    (PLUS[3:], 'warmup', (0., .01, .02, .05, .1, .2, .3), .05,
     'get_config_large'),
    (PLUS, 'momentum', (.5, .6, .7, .75, .8, .85, .9, .95, .98, .99), .9, MU3),
    (PLUS, 'schedule', FIXED, 'cosine', 'no range in any of the four'),
    (PLUS[:1], 'adapter', FIXED, 32, 'get_config_ti0_cmaterdb'),
    (PLUS[1:3], 'adapter', (8, 16, 32, 64, 128), 32, 'VitT3, VitB'),
    (PLUS, 'area_min', (.05, .5, .95, 1.), 1., MU3),
    (PLUS, 'aspect_min', (.5, .75, 1.), 1., MU3),
    (PLUS, 'flip', (True, False), False, MU3),
    (PLUS[:1], 'num_layers', (0, 1, 2, 3), 0, 'VitT0'),
    (PLUS[1:2], 'num_layers', (0, 1, 2, 3), 3, 'VitT3'),
    (PLUS[2:3], 'num_layers', tuple(range(13)), 12, 'VitB'),
    (PLUS[3:], 'num_layers', tuple(range(25)), 24, 'Vit'),
]
# (spaces, attribute, value, where)
RULES = [
    (SAME[:2], 'insert_adapters', False, 'mutate_adapters = False'),
    (SAME[2:] + PLUS[:3], 'insert_adapters', True, 'mutate_adapters = True'),
    (PLUS[3:], 'insert_adapters', False, 'get_config_large has no adapters'),
    (SAME, 'rate_per_action', False, 'PPDecay.do_mutate of mu2Net'),
    (PLUS, 'rate_per_action', True, 'PPDecay.do_mutate of mu3Net'),
    (SAME, 'start_scale', .01, 'get_optimizer: lr / 100'),
    (PLUS, 'start_scale', .001, 'get_optimizer: lr / 1000'),
    (SAME, 'population', 0, 'there is no prune_population in mu2Net'),
    (PLUS[:1], 'population', 7, 'max_task_population_size'),
    (PLUS[1:3], 'population', 0, 'no max_task_population_size'),
    (PLUS[3:], 'population', 16, 'max_task_population_size'),
    (SAME + PLUS, 'accumulator', 'bfloat16', 'get_optimizer'),
    (SAME + PLUS, 'shuffle', 'buffer', 'get_ds: batch, then shuffle(10)'),
    (SAME + PLUS, 'remember_children', True, "metrics['offsprings...']"),
    (SAME + PLUS, 'always', ('encoder_norm',), 'force_finetune_components'),
]


@pytest.mark.parametrize('name, ours, values, default', [
    pytest.param(name, ours, values, default, id=f'{name}-{ours}')
    for names, ours, values, default, _ in RANGES for name in names])
def test_a_range_is_the_official_one(name, ours, values, default):
  found = spaces.make(name)[ours]
  assert found.values == ((default,) if values is FIXED else values)
  assert found.default == default


@pytest.mark.parametrize('name', spaces.SPACES)
def test_no_range_is_without_a_row(name):
  rows = {ours for names, ours, *_ in RANGES if name in names}
  missing = set(dict(spaces.make(name).ranges)) - rows
  # A control of the largest has adapters, whose width no notebook says.
  assert missing == ({'adapter'} if name == 'mu2net_plus_large' else set())


@pytest.mark.parametrize('name, rule, value', [
    pytest.param(name, rule, value, id=f'{name}-{rule}')
    for names, rule, value, _ in RULES for name in names])
def test_a_rule_is_the_official_one(name, rule, value):
  assert getattr(spaces.make(name), rule) == value
