"""Validation while training: its values, and that nothing else changes."""

import numpy as np
import pytest
import tiny
import tiny_rounds
import tiny_subnetworks

from mtl_jax.evaluation import anytime
from mtl_jax.storage import json_records
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import validation

JOINT = dict(together='joint', tasks=(0, 2))


def many(**changes):
  """Three tasks at once: they don't divide over the devices of the tests."""
  return tiny.only('many', phases__many__tasks=(4, 7), **{
      f'phases__many__{name}': value for name, value in changes.items()})


def single(**changes):
  return tiny.only('basis', phases__basis__tasks=(0, 1), **{
      f'phases__basis__{name}': value for name, value in changes.items()})


RUNS = {
    'one': single, 'many': many,
    'norm': lambda **changes: tiny.only('basis', kind='norm', **{
        f'phases__basis__{name}': value for name, value in changes.items()}),
    'impress': lambda **changes: tiny.only(
        'basis', 'impress', kind='few', **{
            f'phases__impress__{name}': value
            for name, value in changes.items()}),
    'joint': lambda **changes: tiny_subnetworks.make(
        net=JOINT | dict(batch_size=32) | changes),
    'watched': lambda **changes: tiny_subnetworks.make(
        **tiny_subnetworks.watched(**changes)),
    'rounds': lambda **changes: tiny_rounds.make(**{
        f'phases__part__{name}': value for name, value in changes.items()})}


def lines(folder, kind):
  return [line for line in map(tiny.parse, (
      folder / 'metrics.jsonl').read_text().splitlines())
          if line['kind'] == kind]


def validated(folder):
  """The validation curves of the records."""
  return {line['entry']: line['validation'] for line in lines(folder, 'task')
          if 'validation' in line}


def check_log(folder):
  """Every value stands in the log, once."""
  logged = [(line['entry'], line['step'], line['loss'], line['accuracy'])
            for line in lines(folder, 'validation')]
  assert len(logged) == len(set(logged))
  assert sorted(logged, key=repr) == sorted((
      (entry, *values) for entry, curve in validated(folder).items()
      for values in zip(curve['step'], curve['loss'], curve['accuracy'])),
                                            key=repr)


def some(*names):
  """The names, those of runs that take long marked as slow."""
  return [name if name in ('one', 'many') else pytest.param(
      name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize('name', some(*RUNS))
def test_what_is_learned_stays_the_same_bits(tmp_path, name):
  plain, looked = RUNS[name](), RUNS[name](validate_every=1)
  tiny.train_alone(plain, tmp_path / 'plain')
  tiny.train_alone(looked, tmp_path / 'looked')
  assert tiny.bits(tmp_path / 'plain') == tiny.bits(tmp_path / 'looked')
  assert not validated(tmp_path / 'plain')
  assert not lines(tmp_path / 'plain', 'validation')
  found = validated(tmp_path / 'looked')
  assert found
  for line in lines(tmp_path / 'looked', 'task'):
    if line['entry'] in found:
      curve = found[line['entry']]
      assert curve['step'] == list(range(line['steps'] + 1))
      assert len(curve['loss']) == len(curve['accuracy']) == len(curve['step'])
      assert 0 < line['seconds']['validate']
      if name != 'watched':  # which goes back to its best epoch
        assert curve['accuracy'][-1] == pytest.approx(
            line['accuracy']['valid'], abs=1e-6)
        assert curve['loss'][-1] == pytest.approx(line['loss']['valid'],
                                                  rel=1e-4)
  check_log(tmp_path / 'looked')


@pytest.mark.parametrize('make', [single, many])
@pytest.mark.parametrize('every', [4, 100])
def test_a_point_is_the_accuracy_of_a_run_that_ends_there(tmp_path, make,
                                                          every):
  tiny.train_alone(make(validate_every=every), tmp_path / 'run')
  tiny.train_alone(make(steps=4), tmp_path / 'short')
  wanted = {4: [0, 4, 6], 100: [0, 6]}[every]  # the last step is always one
  short = {line['entry']: line for line in lines(tmp_path / 'short', 'task')}
  curves = validated(tmp_path / 'run')
  assert curves.keys() == short.keys()
  for entry, curve in curves.items():
    assert curve['step'] == wanted
    if every == 4:
      assert curve['accuracy'][1] == pytest.approx(
          short[entry]['accuracy']['valid'], abs=1e-6)
      assert curve['loss'][1] == pytest.approx(short[entry]['loss']['valid'],
                                               rel=1e-4)


@pytest.mark.parametrize('name', some('one', 'many', 'rounds', 'watched'))
def test_a_run_that_was_stopped_ends_with_the_same_values(tmp_path, name):
  config = RUNS[name](validate_every=1)
  tiny.train_alone(config, tmp_path / 'whole')
  for at in (2, 3):  # the first is where an earlier start came to
    with pytest.raises(tiny.Stopped):
      tiny.train_alone(config, tmp_path / 'run', lambda seen, at=at:
                       len(seen) > at)
  if name in ('one', 'many'):
    assert list(workdir_lib.Workdir(tmp_path / 'run').progress.iterdir())
  tiny.train_alone(config, tmp_path / 'run')
  assert validated(tmp_path / 'run') == validated(tmp_path / 'whole')
  assert tiny.bits(tmp_path / 'run') == tiny.bits(tmp_path / 'whole')
  check_log(tmp_path / 'run')


def test_tasks_at_once_have_the_values_that_each_has_alone(tmp_path):
  run, _ = tiny.train_alone(many(validate_every=2), tmp_path / 'run')
  alone = tiny.only('many', phases__many__tasks=(4, 5),
                    phases__many__tasks_at_once=1,
                    phases__many__validate_every=2)
  tiny.train_alone(alone, tmp_path / 'alone')
  name, = validated(tmp_path / 'alone')
  together, by_itself = (validated(tmp_path / folder)[name]
                         for folder in ('run', 'alone'))
  assert together['step'] == by_itself['step'] == [0, 2, 4, 6]
  np.testing.assert_allclose(together['accuracy'], by_itself['accuracy'])
  np.testing.assert_allclose(together['loss'], by_itself['loss'], rtol=1e-4)
  assert len(run.workdir.task_names()) == 3


def test_the_summary_has_the_area_under_the_curves(tmp_path):
  config = tiny.only('basis', phases__basis__tasks=(0, 2),
                     phases__basis__steps=11,
                     phases__basis__validate_every=1)
  summary = tiny.learn(config, tmp_path / 'run')
  found = {row['name']: row['value'] for row in summary['metrics']}
  curves = [(c['step'], c['accuracy'])
            for c in validated(tmp_path / 'run').values()]
  assert len(curves) == 2
  assert found['learning_curve_area'] == pytest.approx(
      np.mean([c[1][:11] for c in curves]))
  assert found['whole_learning_curve_area'] == pytest.approx(
      anytime.learning_curve_area(curves, 11))
  page = (tmp_path / 'run' / 'report.html').read_text()
  assert 'id="figure-validation"' in page
  assert 'Learning-curve area, first 10 batches' in page


@pytest.mark.parametrize('changes,message', [
    (dict(validate_every=-1), 'validate_every is -1; it must be at least 0'),
    (dict(validate_every=10, stream=dict(every=2)),
     'leave out validate_every')])
def test_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    single(**changes)


def test_the_log_says_which_steps_were_measured():
  lines = [{'kind': 'validation', 'entry': name, 'step': step}
           for name, step in (('a', 0), ('a', 2), ('b', 0), ('c', 0))]
  lines += [{'kind': 'deleted', 'entry': 'b'},
            {'kind': 'renamed', 'from': 'c', 'entry': 'd'},
            {'kind': 'validation', 'entry': 'b', 'step': 2}]
  assert validation.steps_of_log(lines) == {'a': {0, 2}, 'b': {2}}


def test_a_start_reads_the_log_of_its_validation_once(tmp_path, monkeypatch):
  read = []
  real = json_records.read_lines
  monkeypatch.setattr(json_records, 'read_lines',
                      lambda path: read.append(path) or real(path))
  calls = []
  for count in (1, 3):
    read.clear()
    tiny.learn(tiny.only('basis', phases__basis__tasks=(0, count),
                         phases__basis__validate_every=2),
               tmp_path / f'{count}')
    calls.append(len(read))
  assert calls[0] == calls[1] > 0
