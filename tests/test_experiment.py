"""A whole run, end to end, and the same command once more."""

import shutil

import pytest
import tiny

from mtl_jax import experiment
from mtl_jax import json_files
from mtl_jax.storage import array_files
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.training import evaluate
from mtl_jax.training import loop

NAMES = [f'permuted-{i:02d}' for i in range(14)]


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  return tiny.learned(tmp_path_factory.mktemp('experiment') / 'run')


def lines(folder, kind):
  return [line for line in map(tiny.parse, (
      folder / 'metrics.jsonl').read_text().splitlines())
          if line['kind'] == kind]


def test_what_lies_in_the_workdir(folder):
  assert sorted(p.name for p in folder.iterdir()) == [
      '.lock', 'backbone.json', 'config.json', 'format.json', 'metrics.jsonl',
      'plan.json',      'probe', 'progress', 'report.html', 'shared', 'tasks']
  assert sorted(p.name for p in (folder / 'tasks').iterdir()) == sorted(
      NAMES + ['permuted-12@dedicated'])
  assert list((folder / 'progress').iterdir()) == []
  page = (folder / 'report.html').read_text()
  assert 'permuted-12@dedicated' in page and '</html>' in page


def test_summary(folder):
  summary = tiny.summary()
  assert summary['names'] == NAMES  # the control is no part of the matrix
  assert summary['verified'] == {'ok': True, 'tasks': 15, 'faults': []}
  assert summary['matrix_measured'] == 'full'
  assert summary['overlap']['names'] == NAMES[:12]
  last, = lines(folder, 'summary')
  assert json_files.without_seal(last) == {'kind': 'summary'} | summary


def test_a_dedicated_network_has_the_size_it_is_compared_with(tmp_path):
  """Norm statistics are part of both."""
  tiny.train_alone(tiny.only('basis', kind='norm', phases__basis=dict(
      method='dedicated', tasks=(0, 2), steps=2, batch_size=16)), tmp_path)
  for line in lines(tmp_path, 'task'):
    assert line['bytes']['stats'] == 4 * 2 * 4  # of four channels
    assert line['bytes']['total'] == line['bytes']['dedicated']


def test_nothing_is_forgotten(folder):
  matrix = tiny.summary()['matrix']
  rows = {line['entry']: line['accuracy'] for line in lines(folder, 'row')}
  tests = {line['entry']: line['accuracy']['test']
           for line in lines(folder, 'task')}
  assert list(rows) == NAMES
  for i, name in enumerate(NAMES):
    assert sorted(rows[name]) == NAMES[:i + 1]
    for j in range(i + 1):
      assert matrix[i][j] == matrix[j][j] == tests[NAMES[j]]
    assert all(v is None for v in matrix[i][i + 2:])
  found = {row['name']: row['value'] for row in tiny.summary()['metrics']}
  forgetting = [v for name, v in found.items() if 'forgetting' in name]
  assert forgetting and set(forgetting) == {0.}


def test_every_task_was_learned(folder):
  # Ten classes: coefficients over two strange masks are hardly above chance.
  for line in lines(folder, 'task'):
    if line['method'] == 'supsup':
      assert line['accuracy']['test'] > line['accuracy']['before'] + 0.1
    assert line['steps'] == 6 and line['curve']['step'][-1] == 6
    path = folder / 'tasks' / line['entry']
    assert line['bytes']['stored'] == array_files.stored_bytes(path)


def test_same_command_again_changes_nothing(folder, tmp_path, monkeypatch):
  again = shutil.copytree(folder, tmp_path / 'again')
  monkeypatch.setattr(loop, 'learn_group', None)  # nothing is trained
  before = tiny.files(again)
  summary = tiny.learn(tiny.make(), again)
  after = tiny.files(again)
  changed = {name for name in before.keys() | after.keys()
             if before.get(name) != after.get(name)}
  assert changed == {'metrics.jsonl', 'report.html'}
  assert summary['matrix'] == tiny.summary()['matrix']
  kinds = [line['kind'] for line in json_records.read_lines(
      again / 'metrics.jsonl')]
  assert kinds.count('task') == 15 and kinds.count('run') == 2


def test_final_matrix_measures_the_last_row_alone(tmp_path):
  run = tiny.learned(tmp_path / 'run', 'norm')
  assert lines(run, 'row') == []
  matrix = tiny.summary('norm')['matrix']
  assert [[v is None for v in row] for row in matrix] == [
      [False, False, True], [True, False, False], [False, False, False]]


def test_stored_tasks_are_proved_from_the_disk(tmp_path):
  """A fault that appears while a run finishes is found."""
  run = tiny.learned(tmp_path / 'run', 'few')

  def flip(arrays):
    arrays['masks/Dense_0/kernel'][0] ^= 1
  tiny.rewrite(run / 'tasks/permuted-01', flip)
  with pytest.raises(checkpoint.CheckpointError,
                     match='permuted-01: leaf masks/Dense_0/kernel was chang'):
    tiny.learn(tiny.make('few'), run)


def test_a_task_killed_before_its_line_counts_with_its_own_start(tmp_path):
  run = tiny.learned(tmp_path / 'run', 'few')
  metrics = run / 'metrics.jsonl'
  kept = [line for line in json_records.read_lines(metrics)
          if line['kind'] != 'summary' and line.get('entry') != 'permuted-12']
  json_records.write_lines(metrics, kept)
  seconds = checkpoint.load_metadata(run / 'tasks/permuted-12')['record'][
      'seconds']
  lost = sum(seconds.values()) - seconds['busy']  # a part of 'train'
  before = json_records.total_seconds([*kept, {'kind': 'run'}])
  summary = tiny.learn(tiny.make('few'), run)
  assert [line['kind'] for line in json_records.read_lines(metrics)
          if line['kind'] in ('run', 'task')] == ['run', *['task'] * 3, 'run']
  assert summary['seconds_in_all'] == pytest.approx(
      before + lost + summary['seconds'])


def test_run_line_has_what_a_number_needs(folder):
  line, = lines(folder, 'run')
  assert line['seed'] == 0 and line['backbone']['weights'] == 50200
  assert {'jax', 'flax', 'numpy', 'mtl_jax'} <= set(line['versions'])
  assert line['hardware']['platform'] == 'cpu'
  assert line['config'] == json_records.read_json(folder / 'config.json')


def test_control_is_paired_with_its_task(tmp_path):
  """Same first scores and batches: a control of the same recipe is equal."""
  config = tiny.only('basis', 'dedicated', phases__dedicated__tasks=(0, 1))
  tiny.learn(config, tmp_path / 'run')
  bits = tiny.bits(tmp_path / 'run')
  assert bits['permuted-00@dedicated'] == bits['permuted-00']
  assert bits['permuted-01'] != bits['permuted-00']


def test_repeats_have_seeds_of_their_own(tmp_path):
  config = tiny.only('dedicated', phases__dedicated__repeats=2)
  tiny.learn(config, tmp_path / 'run')
  bits = tiny.bits(tmp_path / 'run')
  assert sorted(bits) == ['permuted-12@dedicated~0', 'permuted-12@dedicated~1']
  assert len({str(v) for v in bits.values()}) == 2


def test_images_of_different_shapes_are_refused(tmp_path):
  tiny.make('norm')  # registers the source
  config = tiny.only('basis', suite=dict(
      kind='datasets', sources=('digits', 'blobs'), image_shape=None))
  with pytest.raises(ValueError, match='digits and blobs have inputs of diff'):
    experiment.run(config, tmp_path / 'run', quiet=True)
  assert not (tmp_path / 'run').exists()


def test_the_backbone_is_measured_once_for_all_phases(tmp_path, monkeypatch):
  tiny.make('norm')  # registers its network
  basis = tiny.get_config('norm').phases.basis.to_dict()
  config = tiny.only('basis', kind='norm', seed=5, phases=dict(
      basis=basis, again=dict(basis, control=True)),
                     schedule=('basis', 'again'))
  measured, score = [], evaluate.score_entry
  backbone = tiny.prepared(config)[2]

  def watch(network, params, stats, data, entry, split, batch_size):
    measured.append((entry.name, split, params is backbone.params))
    return score(network, params, stats, data, entry, split, batch_size)
  monkeypatch.setattr(evaluate, 'score_entry', watch)
  tiny.train_alone(config, tmp_path / 'run')
  own = [name for name, split, untouched in measured if untouched]
  assert own == ['permuted-00', 'permuted-01']
  known = [line['accuracy']['backbone'] for line in lines(tmp_path / 'run',
                                                          'task')]
  assert len(known) == 4 and known[:2] == known[2:]


@pytest.mark.parametrize('given', [{'seed': 0}, 'quickstart', None])
def test_a_config_that_is_none_is_refused(given, tmp_path):
  with pytest.raises(ValueError, match='give what mtl_jax.config.config.from'):
    experiment.run(given, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
