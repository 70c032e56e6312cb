"""One task more, from Python: the same checks and commit as in a run."""

import jax
import numpy as np
import pytest
import tiny
import tiny_rounds
import tiny_search

import mtl_jax
from mtl_jax import experiment
from mtl_jax import learning
from mtl_jax.data import sources
from mtl_jax.serving import verification
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records

RANDOM = np.random.RandomState(0)
LABELS = np.arange(200) % 3
IMAGES = (RANDOM.randint(0, 100, (200, 9, 9, 3))
          + LABELS[:, None, None, None] * 50).astype(np.uint8)
FAST = dict(steps=4, batch_size=16, optimizer='adam', learning_rate=1e-2)


@pytest.fixture(name='system')
def _system(tmp_path):
  return mtl_jax.load(tiny.learned(tmp_path / 'run', 'few'))


def assert_sound(system, count):
  found = verification.check(mtl_jax.load(system.workdir.root))
  assert found == verification.Result(count, [], [])


def test_a_source_and_arrays_are_learned(system):
  bits = tiny.bits(system.workdir.root)
  accuracy = system.learn('digits', method='supsup', **FAST)
  own = system.learn((IMAGES, LABELS), name='mine', method='impresslearn',
                     basis=dict(kind='heterogeneous', size=2, phase='basis'),
                     **FAST)
  for task, value in (('digits', accuracy), ('mine', own)):
    record = checkpoint.load_metadata(system.workdir.task(task))['record']
    assert record['accuracy']['test'] == value and 0 <= value <= 1
  # Images of another size and in colour are fitted.
  assert system.predict(IMAGES[:5], task='mine').shape == (5, 3)
  assert bits.items() < tiny.bits(system.workdir.root).items()
  assert_sound(system, 5)


@pytest.mark.slow
def test_a_run_goes_on_beside_what_was_learned(system):
  system.learn('digits', method='supsup', **FAST)
  assert tiny.learn(tiny.make('few'), system.workdir.root)['verified'] == {
      'ok': True, 'tasks': 4, 'faults': []}


def test_no_task_comes_between_the_checks_and_the_training(
    system, monkeypatch):
  """Else two tasks could be given the same free weights."""
  other, real = mtl_jax.load(system.workdir.root), learning.validate.check_fit

  def meanwhile(*given):
    with pytest.raises(ValueError, match='another thread'):
      other.learn('digits', name='a', method='supsup', **FAST)
    return real(*given)
  with monkeypatch.context() as patch:
    patch.setattr(learning.validate, 'check_fit', meanwhile)
    system.learn('digits', name='b', method='supsup', **FAST)
  assert 'a' not in system.tasks and 'b' in system.tasks


def test_equal_calls_leave_equal_bits(system):
  first = system.learn('digits', name='a', method='supsup', seed=3, **FAST)
  bits = tiny.bits(system.workdir.root)['a']
  system.delete('a')
  assert system.learn('digits', name='a', method='supsup', seed=3,
                      **FAST) == first
  assert tiny.bits(system.workdir.root)['a'] == bits


def test_what_is_learned_already_is_not_trained_again(system, monkeypatch):
  given = dict(FAST, method='supsup')
  first = system.learn('digits', **given)
  monkeypatch.setattr(experiment, 'learn_phase', None)
  assert system.learn('digits', **given) == first
  with pytest.raises(ValueError, match='digits was begun with .*steps=4, not 5:'
                                       ' give the old value, or another name=, '
                                       'or delete'):
    system.learn('digits', **given | dict(steps=5))


def test_a_killed_call_goes_on(system, monkeypatch):
  given = dict(FAST, method='supsup', chunk_steps=1, progress_seconds=0.)
  system.learn('digits', **given)
  bits = tiny.bits(system.workdir.root)['digits']
  system.delete('digits')
  made, real = [], learning.run_lib.Run

  def stopping(*args):
    def advance(count, name):
      made.append((count, name))
      if len(made) > 3:
        raise tiny.Stopped
    return real(*args)._replace(advance=advance)
  with monkeypatch.context() as patch:
    patch.setattr(learning.run_lib, 'Run', stopping)
    with pytest.raises(tiny.Stopped):
      system.learn('digits', **given)
  assert list(system.workdir.progress.iterdir())
  with pytest.raises(ValueError, match='was begun with .*learning_rate'):
    system.learn('digits', **given | dict(learning_rate=.5))
  system.learn('digits', **given)
  assert tiny.bits(system.workdir.root)['digits'] == bits
  assert not list(system.workdir.progress.iterdir())


@pytest.mark.parametrize('source, given, text', [
    ('digits', dict(method='supsub'), 'did you mean: supsup'),
    ('digits', dict(step=3), 'unknown key phases.learned.step '),
    ('digits', dict(tasks=(0, 1)), 'learn adds one task and takes no tasks'),
    ('digits', dict(name='permuted-00'), 'there is a task permuted-00 already'),
    ('digits', dict(name='../up'), 'may hold only letters'),
    ('digits', dict(method='impresslearn', basis=dict(
        kind='heterogeneous', size=9, phase='basis')),
     'a heterogeneous basis of 9 masks, but phase basis trains 2'),
    ('digits', dict(method='impresslearn', basis=dict(
        kind='heterogeneous', size=1, phase='bases')),
     "phase 'bases', which must be an earlier one; earlier phases: basis"),
    ('nowhere/at_all', {}, 'nowhere'),
    ((IMAGES, LABELS), {}, 'arrays have no name; give name='),
    ((IMAGES, LABELS + 11), dict(name='x'), 'the largest label is 13'),
    ((np.ma.array(IMAGES, mask=IMAGES > 99), LABELS), dict(name='x'),
     'images have masked entries'),
    ((IMAGES, np.ma.array(LABELS, mask=LABELS > 1)), dict(name='x'),
     'labels have masked entries'),
    ((jax.random.key(0), LABELS), dict(name='x'), 'cannot be one array'),
    (([IMAGES[0], IMAGES[0, :2]], LABELS), dict(name='x'), 'one shape'),
    (IMAGES, dict(name='x'), 'source is a ndarray')])
def test_what_a_run_would_refuse(system, source, given, text):
  before = tiny.bits(system.workdir.root)
  with pytest.raises((ValueError, FileNotFoundError), match=text):
    system.learn(source, **dict(FAST, method='supsup') | given)
  assert tiny.bits(system.workdir.root) == before
  assert not any(line['kind'] == 'learn' for line in json_records.read_lines(
      system.workdir.metrics))


def test_other_images_under_an_old_name_are_refused(system):
  given = dict(FAST, name='mine', method='supsup')
  system.learn((IMAGES, LABELS), **given)
  system.delete('mine')
  with pytest.raises(ValueError, match='source mine is version'):
    system.learn((255 - IMAGES, LABELS), **given)


def test_an_imported_task_is_a_basis(system, tmp_path):
  path = system.export('permuted-01', tmp_path / 'a')
  mtl_jax.import_task(tmp_path / 'new', path)
  new = mtl_jax.load(tmp_path / 'new')
  new.learn('digits', method='impresslearn', basis=dict(
      kind='heterogeneous', size=1, phase='basis'), **FAST)
  assert new.parameters('digits').own == 3
  assert_sound(new, 2)


@pytest.mark.slow
@pytest.mark.parametrize('given', [
    dict(method='impresslearn', basis=dict(kind='random', size=2, density=.5)),
    dict(method='subnetworks', own=('Dense_2/.*',),
         allocation=dict(density=.3)),
    dict(method='supsup', transfer=True, phase='basis'),
    dict(method='dedicated'), dict(method='supsup', control=True)])
def test_methods_of_a_dense_backbone(system, given):
  system.learn((IMAGES, LABELS), name='one', **FAST, **given)
  system.learn(sources.from_arrays('other', IMAGES, LABELS), name='two',
               **FAST, **given)
  assert_sound(system, 5)


@pytest.mark.slow
def test_a_search_starts_from_what_is_stored(tmp_path):
  tiny.learn(tiny_search.make(), tmp_path / 'run')
  system = mtl_jax.load(tmp_path / 'run')
  before = tiny.bits(tmp_path / 'run')
  system.learn((IMAGES, LABELS), name='mine', method='munet', batch_size=16,
               steps=3, normalise=(.5, .5), search=dict(
                   space='mu2net_ti0', generations=2, children=3,
                   validations=2, valid_cap=32))
  record = checkpoint.load_metadata(system.workdir.task('mine'))['record']
  counted = set(record['search']['offspring'])
  assert counted & {'split-00', 'split-02'} and 'split-01' not in counted
  assert before.items() < tiny.bits(tmp_path / 'run').items()
  assert_sound(system, 7)


@pytest.mark.slow
def test_parallel_segments_are_reused(tmp_path):
  config = tiny_rounds.make(phases__part__tasks=(0, 1))
  tiny.learn(config, tmp_path / 'run')
  system = mtl_jax.load(tmp_path / 'run')
  system.learn('two', method='part', steps=8, batch_size=8, together='rounds',
               loss='classes', rounds=dict(set_batches=2), options=dict(
                   active=2, paths='overlapping', overlap=1, first=1,
                   after='part'))
  assert_sound(system, 2)
