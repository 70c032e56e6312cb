"""Tasks trained together: one state, a batch of every task in a step."""

import json
import os
import signal
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import configs
import pytest
import tiny

import mtl_jax
from mtl_jax import methods
from mtl_jax import models
from mtl_jax.config import config as config_lib
from mtl_jax.serving import verification
from mtl_jax.steps import joint as joint_lib
from mtl_jax.steps import single
from mtl_jax.storage import json_records

ROUTES = tuple(methods.Route(classes=2, loss=loss, member=i)
               for i, loss in enumerate(('classes', 'softmax', 'mse')))
BACKBONE = {'body': np.eye(3, dtype=np.float32),
            'head': np.arange(9, dtype=np.float32).reshape(3, 3) / 9}
NETWORK = models.Network(None, lambda p, s, x, **_: (
    jnp.tanh(x @ p['body']) @ p['head'], s))
X = np.random.RandomState(0).randn(3, 4, 3).astype(np.float32)
LABELS = (np.array([0, 1, 1, 0]), np.array([1, 0, 1, 1]),
          np.random.RandomState(1).randn(4, 2).astype(np.float32))


def numpy_loss(params, member):
  """The member's loss in NumPy; `classes` and `mse` see two outputs."""
  logits = np.tanh(X[member] @ params['body']) @ params['head']
  if member == 2:
    return np.mean((logits[:, :2] - LABELS[2]) ** 2)
  logits = logits[:, :2] if member == 0 else logits
  shifted = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  return -np.mean(shifted[np.arange(4), LABELS[member]])


@pytest.mark.parametrize('traced, programs', [(True, 1), (False, 3)])
def test_members_share_a_compiled_bind_if_they_can_be_traced(traced, programs):
  method = methods.make('joint', own=('head',))
  routes = [methods.Route(classes=2, member=i) for i in range(3)]
  trainable = method.init(jax.random.key(0), BACKBONE, {}, tuple(routes))
  trainable['own'] = jax.tree.map(
      lambda x: x + jnp.arange(3.).reshape(3, *[1] * (x.ndim - 1)),
      trainable['own'])
  traces = []

  def counted(*arguments):
    traces.append(0)
    return method.bind(*arguments)
  counting = method._replace(bind=counted, abilities=(
      method.abilities._replace(members=traced)))
  for route in routes:
    found = single.bind(counting, BACKBONE, trainable, {}, route)
    np.testing.assert_array_equal(found['head'],
                                  BACKBONE['head'] + route.member)
  assert len(traces) == programs


def test_losses_of_all_kinds_are_summed():
  method = methods.make('joint', own='head')
  optimizer = optax.sgd(0.1)
  keys = [jax.random.key(i) for i in range(3)]
  state = joint_lib.init_state(method, optimizer, keys, BACKBONE, {}, {},
                              ROUTES)
  step = joint_lib.make_step(method, NETWORK, optimizer)
  batches = tuple((X[i], LABELS[i]) for i in range(3))
  after, metrics = step(ROUTES, BACKBONE, {}, state, batches)
  wanted = [numpy_loss(BACKBONE, i) for i in range(3)]
  np.testing.assert_allclose(metrics.loss, wanted, rtol=1e-5)
  assert np.isnan(metrics.accuracy[2]) and metrics.accuracy[0] in (
      0, .25, .5, .75, 1)
  # The common leaf moves against the sum of the three gradients, by finite
  # differences; a head against its own task's alone.
  eps, body = 1e-3, np.zeros((3, 3))
  head = np.zeros((3, 3, 3))
  for at in np.ndindex(3, 3):
    for sign in (1, -1):
      moved = {name: leaf.copy() for name, leaf in BACKBONE.items()}
      moved['body'][at] += sign * eps
      body[at] += sign * sum(numpy_loss(moved, i) for i in range(3))
      moved = {name: leaf.copy() for name, leaf in BACKBONE.items()}
      moved['head'][at] += sign * eps
      for i in range(3):
        head[i][at] += sign * numpy_loss(moved, i)
  np.testing.assert_allclose(
      (after.trainable['common']['body'] - BACKBONE['body']) / -.1,
      body / (2 * eps), atol=2e-3)
  for i in range(3):
    np.testing.assert_allclose(
        (after.trainable['own']['head'][i] - BACKBONE['head']) / -.1,
        head[i] / (2 * eps), atol=2e-3)


@pytest.mark.parametrize('loss', ['classes', 'mse'])
def test_members_in_a_loop_are_members_unrolled(loss):
  method = methods.make('joint', own='head')
  assert method.abilities.members
  routes = tuple(methods.Route(classes=2, loss=loss, member=i)
                 for i in range(3))
  labels = LABELS[2] if loss == 'mse' else LABELS[0]
  batches = tuple((x, labels) for x in X)
  results = []
  for traced in (True, False):
    changed = method._replace(abilities=methods.Abilities(members=traced),
                              penalty=lambda t: jnp.sum(t['common']['body']))
    keys = [jax.random.key(0)] * 3
    state = joint_lib.init_state(changed, optax.sgd(.1), keys,
                                BACKBONE, {}, {}, routes)
    step = joint_lib.make_step(changed, NETWORK, optax.sgd(.1))
    text = str(jax.make_jaxpr(lambda s, step=step: step(
        routes, BACKBONE, {}, s, batches))(state))
    assert ('scan' in text) == traced
    results.append(step(routes, BACKBONE, {}, state, batches))
  for a, b in zip(*map(jax.tree.leaves, ([r[0].trainable, r[1]]
                                         for r in results))):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_an_unused_output_has_no_gradient_with_loss_classes():
  def loss(logits):
    return jnp.sum(single.losses(ROUTES[0], logits, LABELS[0]))
  gradient = jax.grad(loss)(jnp.asarray(X[0]))
  assert not gradient[:, 2].any() and gradient[:, :2].any()
  everywhere = jax.grad(lambda logits: jnp.sum(single.losses(
      ROUTES[1], logits, LABELS[0])))(jnp.asarray(X[0]))
  assert everywhere[:, 2].all()


def joint(kind='norm', **changes):
  config = tiny.get_config(kind)
  config.phases = dict(joint=dict(
      method='joint', tasks=(0, 3), steps=7, batch_size=16, optimizer='adam',
      learning_rate=1e-2, together='joint', options=dict(
          own=('Dense_.*' if kind == 'norm' else 'Dense_2.*',))))
  config.schedule = ('joint',)
  config.update_from_flattened_dict(
      {name.replace('__', '.'): value for name, value in changes.items()})
  return config_lib.from_dict(config.to_dict())


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('joint') / 'run'
  tiny.learn(joint(), folder)
  return folder


def test_a_group_commits_all_its_members(folder):
  system = mtl_jax.load(folder)
  impressions = [system.task(name).impression for name in system.tasks]
  assert len(impressions) == 3
  for other in impressions[1:]:
    np.testing.assert_array_equal(impressions[0].values['Conv_0']['kernel'],
                                  other.values['Conv_0']['kernel'])
    assert (impressions[0].values['Dense_0']['kernel']
            != other.values['Dense_0']['kernel']).any()
    # Norm statistics are of the task's own images.
    assert not all(np.array_equal(a, b) for a, b in zip(
        jax.tree.leaves(impressions[0].stats), jax.tree.leaves(other.stats)))
  lines = [line for line in json_records.read_lines(folder / 'metrics.jsonl')
           if line['kind'] == 'task']
  assert [line['steps'] for line in lines] == [7, 7, 7]
  json.loads(json.dumps(lines), parse_constant=pytest.fail)
  result = verification.check(system)
  assert result.tasks == 3 and not result.faults


def test_a_second_start_changes_nothing(folder):
  before = tiny.bits(folder)
  tiny.learn(joint(), folder)
  assert tiny.bits(folder) == before


def test_a_member_that_is_lost_is_made_again(folder, tmp_path):
  tiny.shutil.copytree(folder, tmp_path / 'copy')
  name = 'permuted-02'
  tiny.shutil.rmtree(tmp_path / 'copy' / 'tasks' / name)
  tiny.learn(joint(), tmp_path / 'copy')
  assert tiny.bits(tmp_path / 'copy') == tiny.bits(folder)


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_with_the_same_bits(tmp_path):
  """Lenet on digits by the command line, killed when progress is saved."""
  (tmp_path / 'config.py').write_text(
      'import sys\n'
      f'sys.path.insert(0, {str(tiny.ROOT / "tests")!r})\n'
      'import tiny\n'
      'def get_config():\n'
      '  config = tiny.get_config("few")\n'
      '  config.phases = dict(joint=dict(method="joint", tasks=(0, 3), '
      'steps=12, batch_size=16, optimizer="adam", learning_rate=1e-2, '
      'together="joint", options=dict(own=("Dense_2.*",))))\n'
      '  config.schedule = ("joint",)\n'
      '  return config\n')
  for name, kill in (('whole', False), ('killed', True)):
    folder = tmp_path / name
    words = tiny.command(folder, config=tmp_path / 'config.py')
    if kill:
      process = subprocess.Popen(words, env=tiny.environment(), cwd=tiny.ROOT,
                                 stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
      deadline = time.time() + 120
      while not list((folder / 'progress').glob('*.[0-9]*')):
        assert process.poll() is None and time.time() < deadline
        time.sleep(.01)
      os.kill(process.pid, signal.SIGKILL)
      process.wait()
      assert not list((folder / 'tasks').glob('permuted-02'))
    result = tiny.call(words)
    assert result.returncode == 0, result.stderr
  assert tiny.bits(tmp_path / 'killed') == tiny.bits(tmp_path / 'whole')


@pytest.mark.parametrize('changes, text', [
    (dict(phases__joint__tasks_at_once=2), 'neither pool, stream'),
    (dict(phases__joint__together='both'), "together is 'both'"),
    (dict(phases__joint__method='dedicated', phases__joint__options={}),
     'dedicated does not support members, so tasks trained together would'),
    (dict(phases__joint__method='supsup', phases__joint__options={}),
     'supsup does not support members'),
    (dict(phases__joint__loss='hinge'), "loss is 'hinge'")])
def test_bad_phases_are_refused(changes, text):
  with pytest.raises(ValueError, match=text):
    config_lib.from_dict(changed(changes))


def changed(changes):
  fields = config_lib.to_dict(joint())
  for name, value in changes.items():
    fields['phases']['joint'][name.split('__')[-1]] = value
  return fields


@pytest.mark.parametrize('changes, text', [
    (dict(together=None), 'would train a network for each task'),
    (dict(together=None, repeats=2, options=dict(carry=True)),
     'carry goes from task to task; it takes neither together'),
    (dict(together=None, options=dict(own=['haed'])),
     "phase joint: pattern 'haed' matches no leaf")])
def test_what_the_method_refuses(changes, text):
  configs.check(changed({}))
  with pytest.raises(ValueError, match=text):
    configs.check(changed(changes))
