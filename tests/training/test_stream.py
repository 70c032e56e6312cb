"""Tasks without names: masks are allocated, recognised and never changed."""

import dataclasses
import shutil
import types

import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax import masks
from mtl_jax.config import parts as config_parts
from mtl_jax.config import plan
from mtl_jax.data import suites
from mtl_jax.serving import system as system_lib
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import removal
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import commit
from mtl_jax.training import evaluate
from mtl_jax.training import run as run_lib
from mtl_jax.training import stream

CLEAR = tiny.make('stream')  # every task gets a mask, and is recognised


def short(**changes):
  """Two steps a segment; always a new mask until there are three."""
  phase = dict(steps=4, batch_size=16, stream__every=2, stream__budget=3,
               stream__tolerance=50.)
  phase |= {name: changes.pop(name) for name in [*changes]
            if name.startswith('stream__')}
  return tiny.make('stream', **{
      f'phases__stream__{name}': value for name, value in phase.items()},
      **dict(progress_seconds=0.) | changes)


def learn(config, folder, stop_after=np.inf, suite=None):
  """A stream alone; stops after so many segments. Returns its line."""
  tiny.train_alone(config, folder, lambda seen: len(seen) > stop_after, suite)
  return lines_of(folder)[-1]


def lines_of(folder):
  return [line for line in json_records.read_lines(folder / 'metrics.jsonl')
          if line['kind'] == 'stream']


def name_of(mask):
  return f'stream-mask-{mask:05d}'


@pytest.fixture(name='clear', scope='module')
def _clear(tmp_path_factory):
  """(folder, line) of the stream in which all goes well."""
  folder = tmp_path_factory.mktemp('clear') / 'run'
  return folder, learn(CLEAR, folder)


@pytest.fixture(name='whole', scope='module')
def _whole(tmp_path_factory):
  """(folder, line) of the short stream."""
  folder = tmp_path_factory.mktemp('whole') / 'run'
  return folder, learn(short(), folder)


def test_a_mask_for_every_task_and_returning_ones_are_recognised(clear):
  folder, line = clear
  assert line['decisions'] == [0, 0, 1, 1, 2, 2] * 2
  assert line['masks'] == line['tasks'] == 3 and line['owners'] == [0, 1, 2]
  assert line['right_at_first'] == line['right_on_return'] == 1
  assert sorted(tiny.bits(folder)) == [name_of(mask) for mask in range(3)]
  for mask in range(3):
    record = checkpoint.load_metadata(
        folder / 'tasks' / name_of(mask))['record']
    assert record['task'] == f'permuted-{mask:02d}'
    # The newest is trained on when it comes again; the older are left.
    assert record['steps'] == (120 if mask == 2 else 60)
    assert record['accuracy']['test'] > .7
  system = system_lib.load(folder)
  assert system.tasks == [name_of(mask) for mask in range(3)]


def test_a_mask_is_measured_before_learning_as_it_starts(clear):
  config = CLEAR
  phase, = config.phases
  folder, _ = clear
  system = mtl_jax.load(folder)
  suite = suites.make(config.suite.kind, **dict(config.suite.options))
  for entry in stream.entries(workdir_lib.Workdir(folder), phase, suite):
    start = phase.make_method().init(
        plan.named_key(config.seed, entry.name), system.backbone.params, {},
        None)
    mask = phase.make_method().commit(None, start, {}, None)[0].masks
    score = evaluate.score(
        system.backbone.network, masks.apply(system.backbone.params, mask),
        system.backbone.stats, run_lib.Data(), entry.task, 'test', 100)
    record = checkpoint.load_metadata(folder / 'tasks' / entry.name)['record']
    assert record['accuracy']['before'] == pytest.approx(score.accuracy)


def test_the_order_is_that_of_the_stream():
  phase = dataclasses.replace(CLEAR.phases[0], tasks=(1, 3))
  assert stream.visits(phase) == [1, 2, 1, 2]


def test_every_task_is_seen_for_its_own_epochs():
  """Pairs of digits have other numbers of images; 5 make a batch."""
  config = tiny.make('stream', suite=dict(
      kind='split', source='digits', classes_per_task=2, num_tasks=3),
      phases__stream__epochs=2, phases__stream__steps=0,
      phases__stream__batch_size=5, phases__stream__stream__passes=1)
  suite, data, _ = tiny.prepared(config)
  run = types.SimpleNamespace(suite=suite, data=data, config=config)
  seen = [0] * 3
  for task, index in stream._segments(run, config.phases[0]):
    seen[task] += index().size
  images = [len(data.view(task).train) for task in suite.tasks]
  assert seen == [2 * (n // 5) * 5 for n in images]
  assert len(set(seen)) > 1


def test_a_streams_loss_is_the_phases(tmp_path):
  """Over a task's own outputs, of which the backbone has more."""
  found = {}
  for loss in ('softmax', 'classes'):
    learn(short(phases__stream__loss=loss, stream__passes=1), tmp_path / loss)
    found[loss] = [
        checkpoint.load_metadata(path)['record']['curve']['loss']
        for path in sorted((tmp_path / loss / 'tasks').iterdir())]
  assert len(found['classes']) == 3
  for one, other in zip(found['classes'], found['softmax']):
    assert one[0] < other[0] - .5  # of 10 outputs, and of 30


def renamed(suite, names):
  return suites.Suite(suite.name, tuple(
      dataclasses.replace(task, name=name)
      for task, name in zip(suite.tasks, names)))


def test_names_decide_nothing(tmp_path, monkeypatch):
  """Only the shuffling is seeded by names; without that they are no matter."""
  suite = tiny.prepared(CLEAR)[0]
  names = [task.name for task in suite.tasks]
  monkeypatch.setattr(plan.Entry, 'seed', lambda entry, seed: (
      seed, entry.task.index, entry.repeat))
  found = []
  for order in (names, names[::-1]):
    folder = tmp_path / order[0]
    line = learn(short(stream__passes=1, stream__budget=2), folder,
                 suite=renamed(suite, order))
    found.append((tiny.bits(folder), line['decisions']))
  assert found[0] == found[1]


def test_labels_decide_nothing(whole, tmp_path, monkeypatch):
  gradient = stream._gradient

  def without_labels(*args):
    *first, source, task, rows, used = args
    return gradient(*first, source._replace(labels=source.labels * 0),
                    task._replace(label_map=task.label_map * 0), rows, used)
  monkeypatch.setattr(stream, '_gradient', without_labels)
  line = learn(short(), tmp_path / 'run')
  assert tiny.bits(tmp_path / 'run') == tiny.bits(whole[0])
  assert line == whole[1]


class Bank:
  """Answers with a given gradient."""

  def __init__(self, *gradient):
    self.found = np.array(gradient, np.float32)

  def gradient(self, count, task, rows):
    del count, task, rows
    return self.found, np.isfinite(self.found) | np.isnan(self.found)


@pytest.mark.parametrize('newest, budget, gradient, decision', [
    (-1, 0, (0., 0.), 0),  # the first needs no inference
    (1, 0, (-9., 0., 0., np.inf), 0),  # an old one is recognised
    (1, 0, (0., -9., 0., np.inf), 1),  # the newest
    (1, 0, (0., 0., -9., np.inf), 2),  # a fresh one is best: none is known
    (1, 0, (0., -.1, 0., np.inf), 2),  # none stands out
    (1, 2, (0., -.1, 0., np.inf), 1),  # but no more may be made
    (1, 2, (-1., 0., -9., np.inf), 0),  # nor is a fresh one taken
    (1, 3, (0., -.1, 0., np.inf), 2)])
def test_decisions(newest, budget, gradient, decision):
  phase = dataclasses.replace(CLEAR.phases[0], driver=config_parts.Stream(
      budget=budget))
  learner = stream.Learner(position=7, mask=newest)
  task = tiny.prepared(CLEAR)[0].tasks[0]
  assert stream._decide(phase, Bank(*gradient), learner, task,
                        np.zeros((2, 4), int)) == decision


def test_nan_names_segment_and_task():
  with pytest.raises(FloatingPointError, match='phase stream: .*segment 7 is '
                                               'NaN.*task permuted-00'):
    stream._decide(CLEAR.phases[0], Bank(0., np.nan),
                   stream.Learner(position=7, mask=0),
                   tiny.prepared(CLEAR)[0].tasks[0], np.zeros((2, 4), int))


def test_budget_bounds_the_masks_and_commits_never_change(tmp_path,
                                                          monkeypatch):
  folder, kept, save = tmp_path / 'run', [], commit.commit

  def watched(*args):
    result = save(*args)
    kept.append(tiny.bits(folder))
    return result
  monkeypatch.setattr(commit, 'commit', watched)
  line = learn(short(), folder)
  assert line['masks'] == 3 and len(line['decisions']) == 12
  assert line['decisions'][:3] == [0, 1, 2] and max(line['decisions']) == 2
  assert [len(bits) for bits in kept] == [1, 2, 3]
  for bits in kept:
    assert bits.items() <= tiny.bits(folder).items()


def test_a_mask_stays_with_the_task_that_it_learned(tmp_path):
  """Mask 0 learns task 0, and is later taken for other tasks more often."""
  line = learn(short(stream__budget=2), tmp_path / 'run')
  assert line['decisions'][:6] == [0, 1, 0, 0, 0, 0]
  assert line['owners'] == [0, 0]
  for mask in range(2):
    record = checkpoint.load_metadata(
        tmp_path / 'run' / 'tasks' / name_of(mask))['record']
    assert record['task'] == 'permuted-00'
  assert line['right_at_first'] == 2 / 6


def test_allocating_again_is_not_recognition(tmp_path):
  config = short(stream__every=4, stream__budget=0)
  line = learn(config, tmp_path / 'run')
  assert line['decisions'] == [0, 1, 2, 3, 4, 5]
  assert line['right_at_first'] == 1 and line['right_on_return'] == 0


# Resuming.


def same(folder, whole):
  """The stream is complete and equals the uninterrupted one."""
  assert tiny.bits(folder) == tiny.bits(whole[0])
  line, = lines_of(folder)
  assert line == whole[1]
  assert not list((folder / 'progress').iterdir())
  entries = [line['entry'] for line in json_records.read_lines(
      folder / 'metrics.jsonl') if line['kind'] == 'task']
  assert sorted(entries) == sorted(tiny.bits(folder))


@pytest.mark.parametrize('after', [
    4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 11))])
def test_stopped_after_any_segment(whole, tmp_path, after):
  folder = tmp_path / 'run'
  with pytest.raises(tiny.Stopped):
    learn(short(), folder, after)
  learn(short(), folder)
  same(folder, whole)


def test_what_was_committed_is_recognised_after_a_stop(clear, tmp_path):
  config = dataclasses.replace(CLEAR, progress_seconds=0.)
  with pytest.raises(tiny.Stopped):
    learn(config, tmp_path / 'run', 7)
  kept, = (tmp_path / 'run/progress').iterdir()
  assert kept.name == 'stream.000000006'  # before the first task returns
  learn(config, tmp_path / 'run')
  same(tmp_path / 'run', clear)


def test_stopped_without_saved_progress(whole, tmp_path):
  config = short(progress_seconds=1000.)
  folder = tmp_path / 'run'
  with pytest.raises(tiny.Stopped):
    learn(config, folder, 8)
  assert not list((folder / 'progress').iterdir())
  assert len(tiny.bits(folder)) == 2
  learn(config, folder)
  assert tiny.bits(folder) == tiny.bits(whole[0])


def killed_at(monkeypatch, nth):
  """Stops before or after the nth write: a checkpoint, a line, a removal."""
  left = [nth]

  def tick():
    left[0] -= 1
    if not left[0]:
      raise tiny.Stopped
  for module, name in ((checkpoint, 'save'), (json_records, 'append_line'),
                       (removal, 'remove_all')):
    def around(*args, write=getattr(module, name), **kwargs):
      tick()
      write(*args, **kwargs)
      tick()
    monkeypatch.setattr(module, name, around)


@pytest.mark.slow
@pytest.mark.parametrize('stride', [5, 7, 9])
def test_killed_again_and_again(whole, tmp_path, monkeypatch, stride):
  folder, kills = tmp_path / 'run', 0
  while True:
    before = tiny.bits(folder) if folder.exists() else {}
    with monkeypatch.context() as patched:
      killed_at(patched, stride)
      try:
        learn(short(), folder)
        break
      except tiny.Stopped:
        kills += 1
    assert before.items() <= tiny.bits(folder).items()
    assert kills < 50
  assert kills > 5
  # As `experiment.run` does after its last phase.
  removal.remove_all(folder / 'progress', '*')
  same(folder, whole)


def test_a_commit_is_no_part_of_the_seconds_of_training(tmp_path, monkeypatch):
  now, commit_mask = [0.], stream._commit

  def slow(*given):
    now[0] += 1000.
    commit_mask(*given)
  monkeypatch.setattr(stream, 'time', types.SimpleNamespace(
      perf_counter=lambda: now[0]))
  monkeypatch.setattr(stream, '_commit', slow)
  learn(short(), tmp_path / 'run')
  assert [checkpoint.task_metadata(tmp_path / 'run' / 'tasks' / name_of(i))[
      'record']['seconds']['train'] for i in range(3)] == [0.] * 3


def test_a_finished_stream_is_not_learned_again(clear, monkeypatch):
  folder, _ = clear
  for name in ('_decide', '_train', '_commit'):
    monkeypatch.setattr(stream, name, None)
  before = tiny.files(folder / 'tasks')
  learn(CLEAR, folder)
  assert len(lines_of(folder)) == 1
  assert tiny.files(folder / 'tasks') == before


def test_a_lost_mask_is_learned_again(whole, tmp_path):
  folder = shutil.copytree(whole[0], tmp_path / 'run')
  shutil.rmtree(folder / 'tasks' / name_of(1))
  line = learn(short(), folder)
  assert tiny.bits(folder) == tiny.bits(whole[0]) and line == whole[1]


def test_a_mask_that_saved_progress_needs_is_learned_again(whole, tmp_path):
  folder = tmp_path / 'run'
  with pytest.raises(tiny.Stopped):
    learn(short(), folder, 5)
  shutil.rmtree(folder / 'tasks' / name_of(0))
  learn(short(), folder)
  same(folder, whole)


# Within a run.


@pytest.mark.slow
def test_a_whole_run_with_a_stream(tmp_path):
  """One task too many for the budget: nothing can be inferred for it."""
  config = tiny.make('stream', identify={'x': {'images_per_inference': 32}},
                     phases__stream__stream__budget=2)
  summary = tiny.learn(config, tmp_path / 'run')
  assert summary['verified']['ok']
  assert summary['names'] == [name_of(0), name_of(1)]
  line, = summary['identity']
  assert line['confusion']['names'] == [f'permuted-{i:02d}' for i in range(3)]
  assert line['candidates'] == 2
  assert line['accuracy']['GNu'] <= line['accuracy']['GG'] < .8
  again = tiny.learn(config, tmp_path / 'run')
  assert again['identity'] == summary['identity']
  assert len(lines_of(tmp_path / 'run')) == 1
