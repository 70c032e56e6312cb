"""Bad input costs one clear line, and nothing that was there before."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mtl_jax import experiment
from mtl_jax import impressions
from mtl_jax import masks
from mtl_jax import methods
from mtl_jax import trees
from mtl_jax.config import plan
from mtl_jax.data import sources
from mtl_jax.data import suites
from mtl_jax.storage import json_records
from mtl_jax.training import claims


def assert_refused(config, folder, error, text):
  """The run is refused with this text before anything is written."""
  before = tiny.files(folder) if folder.exists() else None
  with pytest.raises(error, match=text):
    experiment.run(config, folder, quiet=True)
  assert (tiny.files(folder) if folder.exists() else None) == before


# Through the command: (flags, what the line must say).
COMMANDS = {
    'unknown key': (['--config.foo=1'], 'foo'),
    'unknown key of a phase': (['--config.phases.basis.step=1'], 'step'),
    'unknown phase': (['--config.phases.search.steps=1'],
                      'error: --config.phases.search.steps: phases of the '
                      'config has no field search; known: basis, impress'),
    'wrong type': (['--config.seed=abc'], 'abc'),
    'no phases left': (['--config.schedule=()'],
                       'error: schedule .* must name every phase'),
    'empty range': (['--config.phases.basis.tasks=(2, 2)'],
                    r'error: phase basis: tasks \(2, 2\) is not a range'),
    'beyond the suite': (['--config.phases.impress.tasks=(12, 15)'],
                         r'error: phase impress: tasks \(12, 15\), but the '
                         'suite permuted-digits has 14'),
    'unknown method': (['--config.phases.basis.method=supsop'],
                       "error: unknown method 'supsop' .*mean: supsup.*known.*"
                       'dedicated, impresslearn, .*supsup'),
    'unknown suite': (['--config.suite.kind=permute'],
                      "error: unknown suite: 'permute' .did you mean: permut"),
    'missing data': (['--config.suite.source=mnist'],
                     "error: source 'mnist': missing /nowhere/mnist/VERSION"),
    'no such config': (['--config=/nope.py'], 'nope.py'),
    'no workdir': (['--workdir='], 'error: .*workdir'),
    'half a coordinator': (['--coordinator=localhost:1'],
                           'error: a coordinator needs the number of proc'),
}


@pytest.mark.parametrize('name', list(COMMANDS))
def test_command_ends_with_one_line(tmp_path, name):
  flags, text = COMMANDS[name]
  done = tiny.call(
      tiny.command(tmp_path / 'run', *flags,
                   config='tests/fixtures/tiny.py:few'),
      cwd=tmp_path, TFDS_DATA_DIR='/nowhere', MTL_JAX_CACHE='/nowhere')
  assert done.returncode > 0
  assert 'Traceback' not in done.stderr and done.stdout == ''
  said = [line for line in done.stderr.splitlines()
          if line.startswith(('error: ', 'FATAL '))]
  assert len(said) == 1, done.stderr
  assert re.search(text, said[0]), said[0]
  assert list(tmp_path.iterdir()) == []


def test_command_without_a_workdir():
  done = tiny.call(tiny.command('x')[:-1])
  assert done.returncode > 0 and 'Traceback' not in done.stderr
  assert '--workdir must have a value' in done.stderr


def test_missing_data_says_where_it_looked_and_what_prepares_it(
    tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  assert_refused(tiny.make('few', suite__source='mnist'), tmp_path / 'run',
          FileNotFoundError,
          f'(?s)missing {tmp_path}/mnist/VERSION.*Looked in {tmp_path}.*'
          'download_and_prepare')


@pytest.mark.parametrize('changes, text', [
    ({'phases__basis__blocks': 2}, 'unknown key phases.basis.blocks, an option '
                                   'of impresslearn alone; known: absolute, '
                                   'batch'),
    ({'phases__basis__masked': ()}, 'phase basis: the mask covers nothing'),
    ({'suite__num_task': 3}, "option of suite 'permuted': 'num_task'.*num_tas"),
    ({'backbone__outputs': 9}, 'permuted-00 has 10 classes but the backbone '
                               'has 9 outputs'),
    ({'backbone__width': 9}, 'unknown key backbone.width'),
    ({'backbone__options': {'width': 9}}, 'width'),
    ({'backbone__model': 'lenet'}, 'mean: bnnet, lenet.*known: bnnet, .*fc'),
    ({'phases__basis__options': {'sampler': 'topk'}}, "unknown sampler 'topk'"),
    ({'phases__basis__options': {'densty': .5}},
     r'unknown key phases.basis.options.densty \(did you mean: density'),
    ({'phases__basis__learning_rate': 0.}, 'learning_rate is 0'),
    ({'phases__basis__batch_size': -16}, 'batch_size is -16'),
    ({'phases__basis__optimizer': 'adm'}, "unknown optimizer 'adm'.*adam"),
    ({'phases__impress__basis__size': 3}, 'basis of 3 masks, but phase basis'),
    ({'phases__impress__basis__kind': 'homogenous'}, 'homogenous.*homogeneous'),
    ({'phases__impress__tasks': (1, 3)}, 'both leave an impression named perm'),
    ({'matrix': 'ful'}, "matrix is 'ful'"),
    ({'chunk_steps': 0}, 'chunk_steps'),
    ({'eval_batch_size': 0}, 'eval_batch_size')])
def test_config_is_refused_before_anything_is_written(tmp_path, changes, text):
  def make():
    config = tiny.get_config('few')
    config.unlock()
    for name, value in changes.items():
      *parents, last = name.split('__')
      node = config
      for parent in parents:
        node = node[parent]
      node[last] = value
    return tiny.config_lib.from_dict(config.to_dict())
  with pytest.raises(ValueError, match=text):
    experiment.run(make(), tmp_path / 'run', quiet=True)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('masked, text', [
    (('.*kernal',), r"pattern '.\*kernal' matches no leaf.*Dense_0/kernel"),
    ((), 'the mask covers nothing.*Dense_0/kernel')])
def test_mask_that_covers_nothing(tmp_path, masked, text):
  config = tiny.only('basis', phases__basis__options={'masked': masked})
  assert_refused(config, tmp_path / 'run', ValueError, text)


@pytest.mark.parametrize('batch, text', [
    (8 * 4096, 'task permuted-00: batch_size is 32768 but the task has only '
     r'.* training images; give a batch_size of at most .* '
     r'\(--config.phases.basis.batch_size\)'),
    (12, 'phase basis: batch_size is 12 but there are 8 devices; choose a '
     r'multiple of 8 \(--config.phases.basis.batch_size\)')])
def test_batch_that_does_not_fit(tmp_path, batch, text):
  config = tiny.only('basis', phases__basis__batch_size=batch)
  assert_refused(config, tmp_path / 'run', ValueError, text)


@pytest.mark.parametrize('changes, text', [
    ({'seed': 1}, r'seed is 0 there and 1 now'),
    ({'phases__basis__steps': 8}, 'phases/basis/steps is 6 there and 8 now'),
    ({'suite__num_tasks': 13}, 'suite/num_tasks is 14 there and 13 now'),
    ({'chunk_steps': 3, 'seed': 2}, r'chunk_steps is 2 .*\(and 1 more\)')])
def test_workdir_of_another_config(tmp_path, changes, text):
  run = tiny.learned(tmp_path / 'run', 'few')
  assert_refused(tiny.make('few', **changes), run, ValueError,
          f'run holds a run of another config: {text}.*choose another workd')


def test_workdir_of_another_config_through_the_command(tmp_path):
  run = tiny.learned(tmp_path / 'run', 'few')
  before = tiny.files(run)
  done = tiny.call(tiny.command(run, '--config.seed=1',
                                config='tests/fixtures/tiny.py:few'))
  assert done.returncode == 1 and done.stdout == ''
  assert 'seed is 0 there and 1 now' in done.stderr
  assert done.stderr.startswith('error: ') and 'Traceback' not in done.stderr
  assert tiny.files(run) == before


def test_more_phases_may_come_after_those_of_a_workdir(tmp_path):
  first = tiny.only('basis', kind='few')
  tiny.learn(first, tmp_path / 'run')
  kept = tiny.files(tmp_path / 'run' / 'tasks')
  summary = experiment.run(tiny.make('few'), tmp_path / 'run', quiet=True)
  assert summary['verified'] == {'ok': True, 'tasks': 3, 'faults': []}
  after = tiny.files(tmp_path / 'run' / 'tasks')
  assert kept.items() < after.items()
  assert_refused(first, tmp_path / 'run', ValueError,
                 'holds a run of another config: phases/impress')


def test_workdir_with_tasks_but_no_config(tmp_path):
  run = tiny.learned(tmp_path / 'run', 'few')
  (run / 'config.json').unlink()
  assert_refused(tiny.make('few'), run, ValueError,
                 'has tasks but no config.json')


@pytest.mark.parametrize('name, content, text', [
    ('config.json', '{"seed": 0, "su', 'config.json, line 1: the config is '
                                       'malformed: Unterminated string'),
    ('config.json', '[]', r'the config is malformed: expected an object, got '
                          r'\[\]; restore it from a copy'),
    ('config.json', '{}', r"the config lacks 'seed' \(an integer\); restore"),
    ('backbone.json', '{"model": ', 'line 1: the recipe of the backbone is m'),
    ('backbone.json', '[]', 'malformed: expected an object, got'),
    ('backbone.json', '{}', "the recipe of the backbone lacks 'model'")])
def test_damaged_json(tmp_path, name, content, text):
  run = tiny.learned(tmp_path / 'run', 'few')
  (run / name).write_text(content)
  assert_refused(tiny.make('few'), run, ValueError, text)


def test_backbone_of_another_version_is_refused(tmp_path):
  run = tiny.learned(tmp_path / 'run', 'few')
  recipe = json.loads((run / 'backbone.json').read_text())
  recipe['fingerprint'] = 'f' * 64
  json_records.write_json(run / 'backbone.json', recipe)
  assert_refused(tiny.make('few'), run, ValueError,
                 "the backbone's fingerprint is")


def test_workdir_that_is_a_file(tmp_path):
  (tmp_path / 'run').write_text('mine')
  with pytest.raises(ValueError, match='run is a file'):
    experiment.run(tiny.make('few'), tmp_path / 'run', quiet=True)
  assert (tmp_path / 'run').read_text() == 'mine'


def test_a_run_that_worked_here_in_the_meantime(tmp_path, monkeypatch):
  """Between the checks and the lock another process began its own run."""
  real, run = experiment.make_backbone, tmp_path / 'run'

  def other_first(config, suite, data, work):
    monkeypatch.setattr(experiment, 'make_backbone', real)
    shutil.copytree(tiny.learned(tmp_path / 'other', 'few'), run)
    return real(config, suite, data, work)
  monkeypatch.setattr(experiment, 'make_backbone', other_first)
  with pytest.raises(ValueError, match='holds a run of another config: '
                                       'phases.basis.steps'):
    tiny.learn(tiny.make('few', phases__basis__steps=7), run)
  before = tiny.files(tmp_path / 'other')
  assert {k: v for k, v in tiny.files(run).items() if k != '.lock'} == {
      k: v for k, v in before.items() if k != '.lock'}


def test_half_written_folders_of_others(tmp_path):
  """They are never read, and what isn't ours stays."""
  run = tmp_path / 'run'
  shutil.copytree(tiny.learned(tmp_path / 'other', 'few') / 'tasks/permuted-01',
                  run / 'tasks/permuted-00.orbax-checkpoint-tmp')
  (run / 'notes').mkdir()
  (run / 'notes/todo.pkl').write_bytes(b'cos\nsystem\n(S"false"\ntR.')
  for name in ('config.json', 'format.json'):
    shutil.copy(tmp_path / 'other' / name, run)
  tiny.learn(tiny.make('few'), run)
  whole = tiny.bits(tiny.learned(tmp_path / 'whole', 'few'))
  assert tiny.bits(run) == whole
  assert (run / 'notes/todo.pkl').exists()
  assert not list(run.rglob('*tmp'))


def test_nan_names_task_and_step_and_keeps_what_was_there(tmp_path):
  config = tiny.make('few', phases__impress__optimizer='sgd',
                     phases__impress__learning_rate=1e30)
  for _ in range(2):  # the same command repeats the same error
    with pytest.raises(FloatingPointError,
                       match='loss of task permuted-12 is (nan|inf) at step '
                             r'[1-5]\..*lower the learning rate '
                             r'\(--config.phases.impress.learning_rate\), in '
                             'another workdir'):
      tiny.learn(config, tmp_path / 'run')
    assert sorted(tiny.bits(tmp_path / 'run')) == ['permuted-00', 'permuted-01']
    assert list((tmp_path / 'run/tasks').glob('*tmp*')) == []
  whole = tiny.bits(tiny.learned(tmp_path / 'whole', 'few'))
  assert tiny.bits(tmp_path / 'run') == {
      name: whole[name] for name in ('permuted-00', 'permuted-01')}


def test_nan_in_a_later_chunk_keeps_the_last_good_state(tmp_path):
  config = tiny.only('dedicated', phases__dedicated__method='dedicated',
                     phases__dedicated__optimizer='sgd',
                     phases__dedicated__learning_rate=30.,
                     phases__dedicated__steps=60)
  with pytest.raises(FloatingPointError) as error:
    tiny.learn(config, tmp_path / 'run')
  step = int(str(error.value).split('at step ')[1].split('.')[0])
  kept, = (tmp_path / 'run/progress').iterdir()
  assert step - 2 < int(kept.name[-9:]) <= step
  arrays, _ = tiny.checkpoint.load(kept)
  assert np.isfinite(arrays['curve/loss']).all()


@pytest.mark.parametrize('part', ['coefficients', 'values', 'stats'])
def test_nan_in_an_impression_is_never_stored(tmp_path, part):
  config = tiny.only('basis')
  suite = suites.make('permuted', source='digits', num_tasks=14)
  entry = plan.entries(config.phases[0], suite)[0]
  bad = impressions.Impression(**{part: {'w': jnp.array([1., jnp.nan])}})
  with pytest.raises(FloatingPointError,
                     match=f'permuted-00 would leave {part}/w with NaN'):
    claims.require_sound(entry, bad, {})


def test_labels_outside_the_range():
  images = np.zeros((20, 4, 4), np.uint8)
  with pytest.raises(ValueError, match=r'label 3 in row .* not in \[0, 3\)'):
    sources.from_arrays('mine', images, np.arange(20) % 4, classes=3)
  source = sources.from_arrays('mine', images, np.arange(20) % 3)
  with pytest.raises(ValueError, match='mine'):
    suites.view(suites.Task('a', 0, 'mine', (), (0, 3), 2), source)


def test_shapes_that_do_not_match():
  backbone = {'w': jnp.ones((3, 4))}
  with pytest.raises(ValueError, match=r'\(4, 3\).*w is \(3, 4\)'):
    impressions.materialise(backbone, impressions.Impression(
        masks={'w': jnp.ones((4, 3), bool)}))
  with pytest.raises(ValueError, match=r'owned value.*\(2,\).*w is \(3, 4\)'):
    impressions.materialise(backbone, impressions.Impression(
        values={'w': jnp.ones(2)}))
  with pytest.raises(ValueError, match='leaf v is in the second tree but not'):
    trees.check_same_structure(backbone, {'v': 1})


def test_coefficients_without_their_basis():
  with pytest.raises(ValueError, match='pass the basis that they combine'):
    impressions.materialise({'w': jnp.ones(3)}, impressions.Impression(
        coefficients={'w': jnp.ones(2)}))
  with pytest.raises(ValueError, match='ImpressLearn needs a basis'):
    methods.make('impresslearn').init(None, {'w': jnp.ones(3)}, {}, None)


def test_a_tree_that_is_a_single_array_is_named():
  x, two = jnp.ones(3), jnp.ones((2, 3), bool)
  for call in (
      lambda: masks.apply(x, jnp.ones(4, bool)),
      lambda: masks.apply(x, jnp.ones(3, int)),
      lambda: masks.top_k(x, 2.),
      lambda: masks.top_k(jnp.array([jnp.nan]), .5),
      lambda: masks.threshold(jnp.ones(3, bool)),
      lambda: masks.union(x > 0, jnp.ones(4, bool)),
      lambda: masks.union(x, x),
      lambda: masks.straight_through(lambda s: None)(x),
      lambda: masks.unpack(masks.pack(x > 0), jnp.ones(40)),
      lambda: masks.unpack(x, x),
      lambda: masks.signed_constant(jax.random.key(0), jnp.ones((2, 3), int)),
      lambda: masks.erdos_renyi(x, 1.),
      lambda: impressions.combine(x, two),
      lambda: impressions.combine(jnp.ones(2, int), two),
      lambda: impressions.combine(jnp.ones((2, 9)), two),
      lambda: trees.partition(x, 3),
      lambda: trees.check_same_structure(x, {'v': x}),
      lambda: trees.check_shapes(x, jnp.ones(4), 'a value')):
    with pytest.raises(ValueError, match='the only leaf'):
      call()
