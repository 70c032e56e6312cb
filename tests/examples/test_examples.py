"""A stranger's methods, each one file: run, killed, resumed, loaded, verified.

The quick tests make a few steps of an example's own config; the slow one runs
the two commands of its docstring as they stand.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import typing

import configs
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax import methods
from mtl_jax import models
from mtl_jax import registry
from mtl_jax.config import config as config_lib
from mtl_jax.data import sources
from mtl_jax.serving import system as system_lib
from mtl_jax.serving import verification
from mtl_jax.storage import workdir as workdir_lib

FOLDER = configs.ROOT / 'examples'
FEW = {'chunk_steps': 10, 'progress_seconds': 0.}


class Example(typing.NamedTuple):
  """How an example is made small.

  Attributes:
    tasks: names of the tasks that its own method learns.
    changes: to every phase.
    suite: number of tasks.
    stop: task-steps after which a run is stopped, within a task.
    edit: (text of the file, another) that gives other networks.
    damage: the same, so that a function fails.
  """
  tasks: tuple[str, ...]
  changes: dict
  suite: int
  stop: int
  edit: tuple[str, str]
  damage: tuple[str, str]


EXAMPLES = {
    'lora': Example(
        ('permuted-00', 'permuted-01'), dict(steps=20, tasks=(0, 2)), 2, 40,
        ("pair['a'] @ pair['b']", "2. * pair['a'] @ pair['b']"),
        ("impression.parts['lora']", "impression.parts['pairs']")),
    'piggyback': Example(
        ('permuted-01',), dict(steps=20), 2, 40,
        ("shared.get('given', backbone), impression.masks)",
         'backbone, impression.masks)'),
        ("{'given': trees", "{'others': context.missing, 'given': trees")),
    'packnet': Example(
        ('permuted-00', 'permuted-01'),
        dict(epochs=2, tasks=(0, 2), options=dict(prune_after=1)), 2, 70,
        ("impression.values, shared['weights'])", "impression.values, "
         "jax.tree.map(jnp.ones_like, shared['weights']))"),
        ('taken = masks.union(taken, left.masks)', 'taken = left.mask')),
}
EACH = pytest.mark.parametrize('name', EXAMPLES)


def path_of(name):
  return FOLDER / f'{name}.py'


def test_every_example_is_tried():
  assert {path.stem for path in FOLDER.glob('*.py')} == set(EXAMPLES)


@pytest.fixture(autouse=True, name='strangers')
def _strangers(monkeypatch):
  """What examples register is gone after each test."""
  forget(monkeypatch)
  yield
  methods.of_options.cache_clear()


def forget(monkeypatch):
  """As a new process knows the methods: without those of strangers."""
  known = {name: factory for name, factory in methods.METHODS.items()
           if registry.origin(factory) is None}
  monkeypatch.setattr(methods.METHODS, '_known', known)
  monkeypatch.setattr(methods, '_OPTIONS', dict(methods._OPTIONS))
  methods.of_options.cache_clear()


def small(name, path=None, **changes):
  """An example's config with few steps; its file has registered its method."""
  example, fields = EXAMPLES[name], configs.load(path or path_of(name))
  fields['suite']['num_tasks'] = example.suite
  for phase in fields['phases'].values():
    own = dict(example.changes)
    if own.get('tasks', phase['tasks'])[1] > example.suite:
      own['tasks'] = (phase['tasks'][0], example.suite)
    phase.update(own | {'options': phase.get('options', {})
                        | own.pop('options', {})})
  return config_lib.from_dict(fields | FEW | changes)


_LEARNED: dict[str, str] = {}


def learned(name, folder):
  """A copy of a whole small run, which is made once."""
  if name not in _LEARNED:
    _LEARNED[name] = tiny.new_folder()
    tiny.learn(small(name), _LEARNED[name])
  return shutil.copytree(_LEARNED[name], folder)


def raw(count=3):
  return sources.load('digits').test.images[:count]


@EACH
def test_an_example_is_short(name):
  lines = path_of(name).read_text().splitlines()
  assert len(lines) <= 150, 'one file, to be read in minutes'


@EACH
def test_a_killed_example_ends_with_the_same_bits(tmp_path, name):
  config, example = small(name), EXAMPLES[name]
  tiny.train_alone(config, tmp_path / 'whole')
  with pytest.raises(tiny.Stopped):
    tiny.train_alone(config, tmp_path / 'killed', lambda seen: sum(
        count for _, count in seen) >= example.stop)
  kept, = (tmp_path / 'killed/progress').iterdir()  # within a task
  assert len(tiny.bits(tmp_path / 'killed')) == 1
  _, seen = tiny.train_alone(config, tmp_path / 'killed')
  assert (kept.name.split('.')[0], int(kept.name.split('.')[1])) in seen
  assert tiny.bits(tmp_path / 'killed') == tiny.bits(tmp_path / 'whole')


@EACH
def test_an_example_is_loaded_predicted_and_verified(tmp_path, name,
                                                     monkeypatch):
  run = learned(name, tmp_path / 'run')
  forget(monkeypatch)
  system = mtl_jax.load(run, plugins=path_of(name))
  result = verification.check(system)
  assert (result.faults, result.notes) == ([], [])
  assert result.tasks == EXAMPLES[name].suite
  for task in EXAMPLES[name].tasks:
    stored = system.task(task)
    assert stored.metadata['method']['name'] == name
    alone = system.predict(raw(), task=task)
    assert alone.shape == (3, 10) and np.isfinite(alone).all()
    mixed = system.predict_mixed(raw(), [task, system.tasks[0], task])
    np.testing.assert_allclose(mixed[::2], alone[::2], rtol=1e-4, atol=1e-5)


@EACH
def test_the_task_of_an_example_is_not_guessed(tmp_path, name):
  small(name)
  system = system_lib.load(learned(name, tmp_path / 'run'))
  with pytest.raises(ValueError, match=(
      f'task {EXAMPLES[name].tasks[0]} was learned by {name}, whose '
      'impressions cannot be superposed; name candidates without it')):
    system.identify(raw(), names=EXAMPLES[name].tasks)


@EACH
def test_an_example_stands_in_the_report(tmp_path, name):
  small(name)
  page = (pathlib.Path(learned(name, tmp_path / 'run'))
          / 'report.html').read_text()
  for word in (name, *EXAMPLES[name].tasks):
    assert word in page


@EACH
def test_without_its_file_a_sentence_names_it(tmp_path, name, monkeypatch):
  small(name)
  run = learned(name, tmp_path / 'run')
  forget(monkeypatch)
  system = mtl_jax.load(run)
  task = EXAMPLES[name].tasks[0]
  sentence = (f"task {task} was learned by the method '{name}', which "
              f'{name}.py defines; pass that file as plugins')
  with pytest.raises(ValueError, match=sentence):
    system.predict(raw(), task=task)
  faults = verification.check(system).faults
  assert any(sentence in fault for fault in faults)


def edited(name, folder, *pair):
  """A copy of an example's file in which one text stands for another."""
  text = path_of(name).read_text()
  assert not pair or text.count(pair[0]) == 1, pair
  path = folder / f'{name}.py'
  path.write_text(text.replace(*pair) if pair else text + '\n# A remark.\n')
  return path


@EACH
def test_a_changed_file_is_named(tmp_path, name, monkeypatch):
  """If it matters: a remark doesn't."""
  small(name)
  run = learned(name, tmp_path / 'run')
  task = EXAMPLES[name].tasks[-1]
  before = np.asarray(system_lib.load(run).predict(raw(), task=task))
  monkeypatch.setattr(sys, 'dont_write_bytecode', True)
  system = mtl_jax.load(run, plugins=edited(name, tmp_path))
  assert np.array_equal(system.predict(raw(), task=task), before)
  both = (rf'{name}.py \(SHA-256 \w{{12}}\) now defines what {name}.py '
          r'\(SHA-256 \w{12}\) defined then. Pass the file that the run was ')
  system = mtl_jax.load(run, plugins=edited(name, tmp_path,
                                            *EXAMPLES[name].edit))
  with pytest.raises(ValueError, match=(
      f'task {task} gives other outputs than when it was learned: {both}')):
    system.predict(raw(), task=task)
  system = mtl_jax.load(run, plugins=edited(name, tmp_path,
                                            *EXAMPLES[name].damage))
  with pytest.raises(ValueError, match=(
      f'task {task} cannot be made again: [A-Z].*; {both}')):
    system.predict(raw(), task=task)
  # The remedy.
  system = mtl_jax.load(run, plugins=path_of(name))
  assert np.array_equal(system.predict(raw(), task=task), before)
  assert not verification.check(system).faults


def test_a_model_of_a_changed_file_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(models.MODELS, '_known', dict(models.MODELS))
  path = tmp_path / 'mine.py'
  text = '''
import jax
from mtl_jax import models

def init(key, image_shape):
  return {'head': {'kernel': jax.random.normal(key, (64, 10))}}

def apply(params, x):
  return x.reshape(len(x), 64) @ params['head']['kernel']

models.register('mine', lambda outputs: models.from_functions(init, apply))
'''
  path.write_text(text)
  registry.load_plugins(path)
  tiny.learn(tiny.make(
      'few', backbone={'model': 'mine', 'outputs': 10, 'init': 'default'},
      phases__basis__tasks=(0, 1), phases__impress__tasks=(1, 2)),
             tmp_path / 'run')
  mtl_jax.load(tmp_path / 'run').predict(raw(), task='permuted-00')
  path.write_text(text.replace("64) @", "64) @ (2. * jax.numpy.eye(64)) @"))
  system = mtl_jax.load(tmp_path / 'run', plugins=path)
  with pytest.raises(ValueError, match='task permuted-00 gives other outputs '
                                       r'than .* mine.py \(SHA-256'):
    system.predict(raw(), task='permuted-00')
  models._make.cache_clear()


def test_a_phase_that_a_method_looks_at_needs_epochs():
  def changed(**changes):
    fields = configs.load(path_of('packnet'))
    fields['phases']['packnet'].update(changes)
    return fields

  for changes, text in (
      (dict(epochs=0, steps=40), 'phase packnet: the method packnet looks at '
       'the validation images after every epoch; give epochs, not steps'),
      (dict(tasks_at_once=2), 'looks at one state after every epoch; leave '
       'out tasks_at_once'),
      (dict(epochs=10), 'packnet needs 0 < keep < 1 and 0 < prune_after < '
       'epochs; got keep=0.5, prune_after=15 and 10 epochs')):
    with pytest.raises(ValueError, match=text):
      configs.check(changed(**changes))
  configs.check(changed(epochs=16))


def test_a_network_that_is_given_must_be_learned_before():
  fields = configs.load(path_of('piggyback'))
  fields['phases']['piggyback']['options']['given'] = 'other'
  with pytest.raises(ValueError, match=(
      "phase piggyback: given is 'other', but no phase of that name comes "
      'before piggyback')):
    configs.check(fields)


def test_tasks_of_packnet_divide_one_tree(tmp_path):
  small('packnet')
  system = system_lib.load(learned('packnet', tmp_path / 'run'))
  one, two = (system.task(task).impression for task in system.tasks)
  for leaf in ('Dense_0', 'Dense_1'):
    first, second = (i.masks[leaf]['kernel'] for i in (one, two))
    assert not np.any(first & second)
    assert np.mean(first) == .5 and np.mean(second) == .25
    # The second network also uses the weights of the first one.
    params = system.effective(system.task(system.tasks[1]))[0][leaf]['kernel']
    theirs = one.values[leaf]['kernel']
    assert np.array_equal(np.asarray(params)[first], theirs[first])
    assert not np.any(np.asarray(params)[~(first | second)])


def test_piggyback_masks_the_weights_that_are_given(tmp_path):
  small('piggyback')
  system = system_lib.load(learned('piggyback', tmp_path / 'run'))
  given = system.effective(system.task('permuted-00'))[0]
  params = system.effective(system.task('permuted-01'))[0]
  bits = system.task('permuted-01').impression.masks['Dense_0']['kernel']
  assert np.array_equal(params['Dense_0']['kernel'],
                        np.where(bits, given['Dense_0']['kernel'], 0.))
  assert not np.array_equal(given['Dense_0']['kernel'],
                            system.backbone.params['Dense_0']['kernel'])


@pytest.mark.slow
@EACH
def test_the_commands_of_an_example(tmp_path, name):
  """As they stand in its docstring, and killed within the second task."""
  config = f'examples/{name}.py'
  warm = tiny.environment(
      JAX_COMPILATION_CACHE_DIR=str(tmp_path / 'cache'),
      JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES='-1',
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0')

  def start(folder):
    return subprocess.Popen(tiny.command(tmp_path / folder, config=config),
                            env=warm, cwd=tiny.ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)
  whole = start('whole')
  output, _ = whole.communicate()
  assert whole.returncode == 0, output
  assert name in output and 'report:' in output
  killed, work = start('killed'), workdir_lib.Workdir(tmp_path / 'killed')
  while not work.task_names() and killed.poll() is None:
    time.sleep(.01)
  os.kill(killed.pid, signal.SIGKILL)
  killed.communicate()
  assert killed.returncode == -signal.SIGKILL
  again = start('killed')
  output, _ = again.communicate()
  assert again.returncode == 0, output
  assert tiny.bits(tmp_path / 'killed') == tiny.bits(tmp_path / 'whole')
  proof = tiny.call([sys.executable, '-m', 'mtl_jax.verify',
                     f'--workdir={tmp_path / "killed"}',
                     f'--plugins=examples/{name}.py'])
  assert proof.returncode == 0, proof.stdout + proof.stderr
  assert 'tasks verified' in proof.stdout
  proof = tiny.verify(tmp_path / 'killed')
  assert proof.returncode == 1
  assert f'which {name}.py defines; pass that file' in proof.stdout
