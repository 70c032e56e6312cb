"""What lies in a workdir is held against its place, by all who read it."""

import json
import shutil

import pytest
import tiny

import mtl_jax
from mtl_jax import commands
from mtl_jax.evaluation import final
from mtl_jax.report import figures
from mtl_jax.data import sources
from mtl_jax.serving import verification
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import workdir as workdir_lib

IMAGES = sources.load('digits').test.images[:4]


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
  """They are most of the time of a finished run, and say nothing here."""
  monkeypatch.setattr(figures, 'draw', lambda records, summary: [])


@pytest.fixture(name='run')
def _run(tmp_path):
  return tiny.learned(tmp_path / 'run', 'few')


def swap(run, a='permuted-00', b='permuted-01'):
  tasks = run / 'tasks'
  (tasks / a).rename(run / 'between')
  (tasks / b).rename(tasks / a)
  (run / 'between').rename(tasks / b)
  return [a, b]


def copy(run):
  shutil.rmtree(run / 'tasks/permuted-01')
  shutil.copytree(run / 'tasks/permuted-00', run / 'tasks/permuted-01')
  return ['permuted-01']


def rename(run):
  (run / 'tasks/permuted-01').rename(run / 'tasks/permuted-07')
  return ['permuted-07']


def of_another_suite(run):
  path = run / 'tasks/permuted-01'
  tiny.rewrite(path, lambda arrays: None,
               checkpoint.load_metadata(path) | {'suite': 'permuted-mnist'})
  return ['permuted-01']


CHANGES = [swap, copy, rename, of_another_suite]


@pytest.mark.parametrize('change', CHANGES)
def test_verify_names_every_exchanged_folder(run, change):
  names = change(run)
  faults = verification.check(mtl_jax.load(run)).faults
  for name in names:
    assert [f for f in faults if f.startswith(f'task {name}: ')
            and 'is not what belongs there: its' in f], faults
  assert all('permuted-01' in f or 'permuted-00' in f for f in faults)


@pytest.mark.parametrize('change', CHANGES)
def test_load_and_resume_refuse_them(run, change):
  names = change(run)
  system = mtl_jax.load(run)
  for name in names:
    with pytest.raises(ValueError, match=f'{name} is not what belongs there'):
      system.predict(IMAGES, task=name)
  before = tiny.files(run / 'tasks')
  if change is not rename:  # permuted-07 is none that the config asks for
    with pytest.raises(ValueError, match=f'{names[0]} is not what belongs'):
      tiny.learn(tiny.make('few'), run)
    assert tiny.files(run / 'tasks') == before


def test_names_of_their_own_bring_everything_back(run):
  bits = tiny.bits(run)
  swap(run)
  swap(run)
  assert tiny.learn(tiny.make('few'), run)['verified']['ok']
  assert tiny.bits(run) == bits


def test_another_seed_or_method_is_no_task_of_the_run(run):
  path = run / 'tasks/permuted-01'
  metadata = checkpoint.load_metadata(path)
  tiny.rewrite(path, lambda arrays: None, metadata | {'seed': 7})
  with pytest.raises(ValueError, match='its seed is 7, not 0'):
    tiny.learn(tiny.make('few'), run)
  tiny.rewrite(path, lambda arrays: None, metadata | {
      'method': {'name': 'dedicated', 'options': {}, 'defined_in': None}})
  with pytest.raises(ValueError, match='learned by dedicated, but phase basis'):
    tiny.learn(tiny.make('few'), run)


def test_missing_and_surplus_tasks_are_listed(run):
  shutil.rmtree(run / 'tasks/permuted-01')
  path = run / 'tasks/more'
  shutil.copytree(run / 'tasks/permuted-00', path)
  tiny.rewrite(path, lambda arrays: None,
               checkpoint.load_metadata(path) | {'name': 'more'})
  found = verification.check(mtl_jax.load(run))
  surplus = ('tasks that neither the config asks for nor the log knows: more')
  assert found.notes == [surplus]
  assert [f.split(';')[0] for f in found.faults] == [
      'task permuted-01: it was finished once, but its folder is gone']
  # Nor does a log without the task hide it, if the run had ended.
  work = workdir_lib.Workdir(run)
  json_records.write_lines(work.metrics, [
      line for line in json_records.read_lines(work.metrics)
      if line.get('entry') != 'permuted-01'])
  assert verification.check(mtl_jax.load(run)).faults == found.faults
  json_records.write_lines(work.metrics, [
      line for line in json_records.read_lines(work.metrics)
      if line['kind'] != 'summary'])
  found = verification.check(mtl_jax.load(run))
  assert not found.faults and found.notes == [
      'tasks of the config that are not learned yet: permuted-01', surplus]


def test_a_stray_file_among_the_tasks_is_passed_over(run):
  (run / 'tasks/notes.txt').write_text('mine')
  (run / 'tasks/.DS_Store').write_text('')
  found = verification.check(mtl_jax.load(run))
  assert found.faults == [] and found.notes == [
      f'{run}/tasks/notes.txt is no folder, so no task; it is passed over']
  assert tiny.learn(tiny.make('few'), run)['verified']['ok']
  assert (run / 'tasks/notes.txt').read_text() == 'mine'


@pytest.mark.parametrize('task', ['permuted-00', 'permuted-12'])
@pytest.mark.parametrize('what', ['file', 'empty folder'])
def test_something_else_in_a_tasks_place(run, what, task):
  bits = tiny.bits(run)
  path = run / 'tasks' / task
  shutil.rmtree(path)
  if what == 'file':
    path.write_text('mine')
  else:
    path.mkdir()
  with pytest.raises(ValueError, match=f'{task} is not a finished checkpoint; '
                     'restore the folder from a copy, or remove it'):
    tiny.learn(tiny.make('few'), run)
  faults = verification.check(mtl_jax.load(run)).faults
  assert f'{task} is not a finished checkpoint' in faults[0]
  with pytest.raises(ValueError, match='unknown task'):
    mtl_jax.load(run).predict(IMAGES, task=task)
  if what == 'file':
    path.unlink()
  else:
    path.rmdir()
  assert tiny.learn(tiny.make('few'), run)['verified']['ok']
  assert tiny.bits(run) == bits  # as promised


@pytest.mark.parametrize('damage', ['gone', 'array', 'metadata', 'file',
                                    'all gone'])
def test_a_damaged_probe_is_made_again(run, damage):
  probe = run / 'probe/digits'
  kept = checkpoint.load(probe)[1]['hashes']
  if damage == 'array':
    tiny.rewrite(probe, lambda arrays: arrays['images'].fill(0))
  elif damage == 'metadata':
    (probe / '_CHECKPOINT_METADATA').write_text('3')
  else:
    shutil.rmtree(run / 'probe' if damage == 'all gone' else probe)
    if damage == 'file':
      probe.write_text('')
  faults = verification.check(mtl_jax.load(run)).faults
  assert len(faults) == 3 and all('probe' in f for f in faults)
  if damage in ('array', 'metadata'):
    assert "start the run's command, which makes it again" in faults[0]
  mtl_jax.load(run).predict(IMAGES, task='permuted-00')  # needs no probe
  assert tiny.learn(tiny.make('few'), run)['verified']['ok']
  assert checkpoint.load(probe)[1]['hashes'] == kept
  assert not verification.check(mtl_jax.load(run)).faults


def edit_line(run, kind, change, seal=False):
  path = run / 'metrics.jsonl'
  lines = path.read_text().splitlines()
  for i, text in enumerate(lines):
    line = json.loads(text)
    if line['kind'] == kind:
      change(line)
      lines[i] = json.dumps(line)
      break
  path.write_text('\n'.join(lines) + '\n')
  if seal:
    path.write_text(''.join(json.dumps({
        k: v for k, v in json.loads(text).items() if k != 'sha256'}) + '\n'
                            for text in lines))
  return i + 1


def better(line):
  line['accuracy']['test'] = .9999


def test_an_edited_accuracy_is_named_and_never_shown(run):
  """A line with its seal, and a log of an earlier version, which has none."""
  number = edit_line(run, 'task', better)
  found = verification.check(mtl_jax.load(run)).faults
  assert len(found) == 1 and found[0].startswith(
      f'{run}/metrics.jsonl, line {number}: the log was changed since')
  with pytest.raises(ValueError, match=f'metrics.jsonl, line {number}: '):
    tiny.learn(tiny.make('few'), run)
  edit_line(run, 'summary', lambda line: None, seal=True)
  found = verification.check(mtl_jax.load(run)).faults
  assert len(found) == 1 and (
      'metrics.jsonl says accuracy.test 0.9999, but its checkpoint records 0.'
      in found[0])
  tiny.learn(tiny.make('few'), run)
  page = (run / 'report.html').read_text()
  assert '99.99' not in page


def test_the_table_is_made_of_the_checkpoints(run):
  running, _ = tiny.train_alone(tiny.make('few'), run)
  edit_line(run, 'task', better, seal=True)
  edit_line(run, 'task', better, seal=True)
  records = final.collect(running)
  for record in records:
    path = run / 'tasks' / record['entry']
    kept = checkpoint.load_metadata(path)['record']
    assert record['accuracy'] == kept['accuracy']
    assert record['bytes']['stored'] == checkpoint.stored_bytes(path)
    assert record['kind'] == 'task' and 'save' in record['seconds']


@pytest.mark.parametrize('kind', ['run', 'task', 'summary'])
def test_a_line_that_is_removed_as_advised_is_made_again(run, kind):
  number = edit_line(run, kind, lambda line: line.update(seed=-1))
  with pytest.raises(ValueError, match=f'line {number}: .*remove the line'):
    tiny.learn(tiny.make('few'), run)
  path = run / 'metrics.jsonl'
  lines = path.read_text().splitlines(keepends=True)
  path.write_text(''.join(lines[:number - 1] + lines[number:]))
  bits = tiny.bits(run)
  assert tiny.learn(tiny.make('few'), run)['verified']['ok']
  assert tiny.bits(run) == bits
  assert not verification.check(mtl_jax.load(run)).faults


@pytest.mark.parametrize('name, key, value', [
    ('backbone.json', 'seed', 5), ('backbone.json', 'outputs', 12),
    ('backbone.json', 'image_shape', [9, 9, 1]), ('config.json', 'seed', 5),
    ('config.json', 'matrix', 'final'), ('config.json', 'mixed_rows', 9),
    ('plan.json', 'suite', 'mine')])
def test_main_load_and_verify_name_an_edited_file(run, name, key, value):
  path = run / name
  before = path.read_text()
  path.write_text(json.dumps(json.loads(before) | {key: value}))
  text = f'{name}: .* was changed since it was written'
  for ask in (lambda: mtl_jax.load(run),
              lambda: tiny.learn(tiny.make('few'), run)):
    with pytest.raises(ValueError, match=text):
      ask()
  path.write_text(before)  # as promised
  assert tiny.learn(tiny.make('few'), run)['verified']['ok']


@pytest.mark.parametrize('key, value', [
    ('seed', 5), ('outputs', 12), ('image_shape', [9, 9, 1])])
def test_a_recipe_without_a_seal_is_held_against_the_config(run, key, value):
  path = run / 'backbone.json'
  recipe = json_records.read_json(path) | {key: value}
  path.write_text(json.dumps(recipe))
  with pytest.raises(ValueError, match=f'backbone.json: {key} is '):
    tiny.learn(tiny.make('few'), run)


def test_what_waits_for_the_next_task_is_verified_too(run):
  path = run / 'shared/permuted-00'
  checkpoint.save(path, {'a': IMAGES}, {'name': 'permuted-00'})
  assert not verification.check(mtl_jax.load(run)).faults
  path.rename(run / 'shared/permuted-01')
  fault, = verification.check(mtl_jax.load(run)).faults
  assert fault.startswith('shared: ') and "its name is 'permuted-00'" in fault
  shutil.rmtree(run / 'shared/permuted-01')
  checkpoint.save(run / 'progress/x.000000002', {'a': IMAGES}, {})
  tiny.rewrite(run / 'progress/x.000000002', lambda a: a['a'].fill(3))
  fault, = verification.check(mtl_jax.load(run)).faults
  assert fault.startswith('progress: ') and 'leaf a was changed' in fault


def test_task_and_candidates_exclude_each_other(run):
  system = mtl_jax.load(run)
  with pytest.raises(ValueError, match="task is 'permuted-00', so there is "
                     'nothing to infer among names='):
    system.predict(IMAGES, task='permuted-00', names=['permuted-01'])


def test_a_plan_that_was_removed_is_written_again(run):
  kept = (run / 'plan.json').read_text()
  (run / 'plan.json').write_text('[]')
  with pytest.raises(ValueError, match="plan.json: .*or remove it: the run's"):
    tiny.learn(tiny.make('few'), run)
  (run / 'plan.json').unlink()
  assert mtl_jax.load(run).tasks and tiny.learn(tiny.make('few'), run)[
      'verified']['ok']
  assert (run / 'plan.json').read_text() == kept


@pytest.mark.parametrize('damage', ['array', 'metadata', 'renamed'])
def test_damaged_progress_is_made_again(tmp_path, damage):
  run = tmp_path / 'stopped'
  with pytest.raises(tiny.Stopped):
    tiny.train_alone(tiny.make('few'), run, lambda seen: len(seen) > 3)
  path, = (run / 'progress').iterdir()
  if damage == 'array':
    tiny.rewrite(path, lambda arrays: arrays['curve/loss'].fill(7))
  elif damage == 'metadata':
    (path / '_CHECKPOINT_METADATA').write_text('{}')
  else:
    path.rename(path.with_name(f'permuted-00.{4:09d}'))
  assert tiny.learn(tiny.make('few'), run)['verified']['ok']
  assert tiny.bits(run) == tiny.bits(tiny.learned(tmp_path / 'whole', 'few'))


def test_what_cannot_be_made_again_is_said_before_it_is_removed(tmp_path):
  """A task whose phase went on from what an earlier one kept."""
  config = tiny.only('transfer', phases__transfer__tasks=(0, 3))
  run = tmp_path / 'run'
  tiny.learn(config, run)
  assert [p.name for p in (run / 'shared').iterdir()] == ['permuted-02']
  path = run / 'tasks/permuted-01'
  tiny.rewrite(path, lambda arrays: arrays['probe'].fill(7))
  with pytest.raises(ValueError, match='Without one, remove it and start the '
                     "run's command: it makes the task again or says why it "):
    tiny.learn(config, run)
  shutil.rmtree(path)
  before = tiny.files(run / 'tasks')
  with pytest.raises(ValueError, match='only the newest is kept'):
    tiny.learn(config, run)
  assert tiny.files(run / 'tasks') == before
  shutil.rmtree(run / 'shared/permuted-02')  # the same of the last one's
  checkpoint.save(run / 'shared/permuted-00', {'a': IMAGES}, {
      'name': 'permuted-02', 'absent': []})
  with pytest.raises(ValueError, match="its name is 'permuted-02', not 'perm"):
    tiny.learn(config, run)


@pytest.mark.parametrize('change', CHANGES)
def test_every_reader_of_a_tasks_metadata_refuses_them(run, change, capsys,
                                                       tmp_path):
  names = change(run)
  before = tiny.files(run / 'tasks')
  for words in (['inspect'], ['inspect', f'--task={names[0]}'],
                ['export', f'--task={names[0]}', f'--output={tmp_path}/x']):
    assert commands.main([*words, f'--workdir={run}']) == 1
    assert f'{names[0]} is not what belongs there' in capsys.readouterr().err
  system = mtl_jax.load(run)
  with pytest.raises(ValueError, match='is not what belongs there'):
    system.rename(names[0], 'other')
  if change is not of_another_suite:
    with pytest.raises(ValueError, match='is not what belongs there'):
      system.delete(names[0])
  assert tiny.files(run / 'tasks') == before


def test_inspect_refuses_another_basis_of_that_name(run, tmp_path, capsys):
  other = tmp_path / 'other'
  tiny.learn(tiny.only('basis', kind='few', seed=0,
                       phases__basis__steps=4), other)
  shutil.rmtree(run / 'tasks/permuted-00')
  shutil.copytree(other / 'tasks/permuted-00', run / 'tasks/permuted-00')
  assert commands.main(['inspect', f'--workdir={run}']) == 1
  assert 'was made with the task permuted-00, but another' in (
      capsys.readouterr().err)


def test_a_damaged_task_may_be_deleted(run):
  (run / 'tasks/permuted-01/_CHECKPOINT_METADATA').write_text('{}')
  mtl_jax.load(run).delete('permuted-01')
  assert not (run / 'tasks/permuted-01').exists()
