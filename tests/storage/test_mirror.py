"""A bucket and the folder that is worked on, without any training."""

import logging
import os
import shutil
import sys
import time

import buckets
import pytest

import mtl_jax
from mtl_jax.storage import bucket
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import removal
from mtl_jax.storage import staging
from mtl_jax.storage import workdir as workdir_lib


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
  with buckets.quick(monkeypatch, tmp_path / 'machine'):
    yield


def test_another_machine_has_what_was_sent(monkeypatch, tmp_path):
  work = buckets.new('a', 'b')
  other = buckets.fetched(monkeypatch, tmp_path / 'other')
  assert other.root != work.root and other.task_names() == ['a', 'b']
  assert buckets.visible(other.root) == buckets.visible(work.root)
  assert buckets.objects(buckets.RUN) == buckets.visible(work.root)
  assert not [path for path in buckets.Recorded.store if '.lock' in path]


def test_what_is_there_is_not_fetched_again(monkeypatch):
  work, read = buckets.new('a', 'b'), []
  store = bucket.Bucket.read
  monkeypatch.setattr(bucket.Bucket, 'read', lambda self, path: (
      read.append(path), store(self, path))[1])
  work.read()
  # This store's listing has no MD5.
  assert sorted(path for path in read if path.startswith('tasks')) == [
      f'tasks/{name}/_CHECKPOINT_METADATA' for name in 'ab']
  before = len(buckets.changes())
  with work.held():
    work.mirror.push()
  assert not buckets.changes()[before:]


def test_what_changes_is_sent_and_nothing_else():
  work = buckets.new('a', 'b')
  with work.held():
    buckets.task(work, 'c')
    checkpoint.change_metadata(work.task('a'), {'more': 1})
    removal.remove_all(work.tasks, 'b')
    before = len(buckets.changes())
    work.mirror.push()
    sent = [(what[0], what[1].removeprefix('/b/run/'))
            for what in buckets.changes()[before:]]
  assert sorted(sent[:4]) == [
      ('write', '.writer'), ('write', 'tasks/a/_CHECKPOINT_METADATA'),
      ('write', 'tasks/c/0'), ('write', 'tasks/c/_CHECKPOINT_METADATA')]
  assert sent.index(('write', 'tasks/c/0')) < sent.index(
      ('write', 'tasks/c/_CHECKPOINT_METADATA'))
  assert sent[4:] == [('remove', 'tasks/b/_CHECKPOINT_METADATA'),
                      ('remove', 'tasks/b/0')]


def test_unfinished_names_never_travel():
  work = buckets.new('a')
  with work.held():
    for name in ('b.orbax-checkpoint-tmp', '.c.removed'):
      shutil.copytree(work.task('a'), work.tasks / name)
    (work.root / 'profile').mkdir()
    (work.root / 'profile/trace').write_text('x')
  assert {path.split('/')[1] for path in buckets.objects(buckets.RUN)
          if path.startswith('tasks/')} == {'a'}
  assert 'profile/trace' not in buckets.objects(buckets.RUN)


def test_tasks_come_after_those_that_they_were_made_from(monkeypatch):
  """However the folder lists them, with many transfers at once, and with a
  clock that is set back."""
  monkeypatch.setattr(staging, 'WORKERS', 4)
  work = workdir_lib.Workdir(buckets.RUN)
  with work.held():
    for name in 'zyxa':
      buckets.task(work, name)
    for when, (name, needs) in enumerate((('m', 'z'), ('c', 'm'), ('k', 'c'))):
      buckets.task(work, name, kept_by=name, relies_on={needs: ''})
      os.utime(work.task(name) / staging.WHOLE, (9 - when, 9 - when))
  whole = [path.split('/')[-2] for what, path, *_ in buckets.changes()
           if '/tasks/' in path and path.endswith('METADATA')]
  assert whole[4:] == ['m', 'c', 'k'] and set(whole[:4]) == set('zyxa')


def test_a_folder_that_changes_under_the_send_is_looked_at_again(monkeypatch):
  """Progress goes, and its task is there: not before it in the bucket."""
  work = buckets.new('a')
  with work.held():
    shutil.copytree(work.task('a'), work.progress / 'b.000000001')
    look, left = staging.Staging.here, [1]

    def here(self):
      seen = look(self)
      if left:
        left.pop()
        buckets.task(work, 'b')
        removal.remove_all(work.progress, 'b.*')
      return seen
    monkeypatch.setattr(staging.Staging, 'here', here)
    work.mirror.push()
  assert 'tasks/b/0' in buckets.objects(buckets.RUN)
  assert not [p for p in buckets.objects(buckets.RUN)
              if p.startswith('progress')]


def test_a_task_that_is_made_anew_is_never_of_two_halves(monkeypatch,
                                                         tmp_path):
  work = buckets.new('a')
  with work.held():
    removal.remove_all(work.tasks, 'a')
    buckets.task(work, 'a', value=2)
  changes = buckets.changes()
  for count in range(len(changes)):
    buckets.replayed(changes[:count])
    other = workdir_lib.Workdir(buckets.RUN)
    buckets.machine(monkeypatch, tmp_path / str(count))
    other = workdir_lib.Workdir(buckets.RUN)
    other.read(required=False)
    for name in other.task_names():
      checkpoint.load(other.task(name))  # held against its SHA-256


def test_what_is_removed_is_no_longer_whole_first():
  work = buckets.new('a')
  with work.held():
    work.mirror.there['tasks/a'] = dict(sorted(
        work.mirror.there['tasks/a'].items()))  # '0' comes before
    removal.remove_all(work.tasks, 'a')
  assert [path.rpartition('/')[2] for what, path, *_ in buckets.changes()
          if what == 'remove'] == ['_CHECKPOINT_METADATA', '0']


def test_what_is_made_anew_between_two_looks_is_not_removed(monkeypatch):
  work = buckets.new('a')
  with work.held():
    removal.remove_all(work.tasks, 'a')
    look, left = staging.Staging.here, [1]

    def here(self):
      seen = look(self)
      if left:
        left.pop()
        buckets.task(work, 'a', value=2)
      return seen
    monkeypatch.setattr(staging.Staging, 'here', here)
    work.mirror.push()
    assert 'tasks/a/_CHECKPOINT_METADATA' in buckets.objects(buckets.RUN)


def test_what_a_killed_send_left_is_taken_away():
  """Arrays without metadata, of a task that nobody finishes."""
  work = buckets.new('a')
  store = work.mirror.bucket
  store.write('tasks/b/0', b'half')
  work.read()
  assert work.task_names() == ['a']
  with work.held():
    work.mirror.push()
  assert 'tasks/b/0' not in buckets.objects(buckets.RUN)


def test_objects_that_are_none_of_a_workdir_stay():
  work = buckets.new('a')
  for path in ('notes.txt', 'profile/x', 'tasks/../../evil', 'tasks/.x/0'):
    work.mirror.bucket.write(path, b'x')
  with work.held():
    buckets.task(work, 'b')
  found = buckets.objects(buckets.RUN)
  assert {'notes.txt', 'profile/x', 'tasks/.x/0'} <= set(found)
  assert not (work.root.parent / 'evil').exists()
  assert not (work.root / 'notes.txt').exists()


def test_a_bucket_of_other_things_is_refused():
  bucket.Bucket(buckets.RUN).write('photos/1.png', b'x')
  with pytest.raises(ValueError, match='neither a workdir nor empty: it holds '
                                       'photos') as said:
    buckets.new('a')
  assert f'{buckets.RUN}/run' in str(said.value)
  assert list(buckets.objects(buckets.RUN)) == ['photos/1.png']
  buckets.new('a', address=f'{buckets.RUN}/run')  # the remedy


# Which side wins.


def test_what_could_not_be_sent_is_said_and_sent_by_the_next_start():
  work = buckets.new('a')
  with pytest.raises(ValueError, match='no network for write') as said:
    with work.held():
      buckets.task(work, 'b')
      buckets.Recorded.fails = staticmethod(buckets.fail)
  assert str(work.root) in str(said.value)
  assert 'the same command on this machine' in str(said.value)
  buckets.Recorded.fails = staticmethod(lambda *_: None)
  assert 'tasks/b/0' not in buckets.objects(buckets.RUN)
  work.read()  # readers see it meanwhile
  assert work.task_names() == ['a', 'b']
  with work.held():
    pass
  assert 'tasks/b/0' in buckets.objects(buckets.RUN)


def test_the_first_send_of_all_may_fail_too():
  buckets.Recorded.fails = staticmethod(buckets.fail)
  with pytest.raises(ValueError, match='was not sent'):
    buckets.new('a')
  buckets.Recorded.fails = staticmethod(lambda *_: None)
  work = workdir_lib.Workdir(buckets.RUN)
  with work.held():
    assert work.task_names() == ['a']
  assert 'tasks/a/0' in buckets.objects(buckets.RUN)


def test_an_error_keeps_its_own_words_where_the_send_fails_too(caplog):
  with pytest.raises(FloatingPointError, match='NaN'):
    with workdir_lib.Workdir(buckets.RUN).held() as _:
      buckets.task(workdir_lib.Workdir(buckets.RUN), 'a')
      buckets.Recorded.fails = staticmethod(buckets.fail)
      raise FloatingPointError('NaN')
  assert 'was not sent' in caplog.text


def test_a_send_that_fails_once_is_tried_again():
  left = [1, 1]
  work = workdir_lib.Workdir(buckets.RUN)
  with work.held():
    buckets.task(work, 'a')
    buckets.Recorded.fails = staticmethod(
        lambda what, path: left and left.pop() and buckets.fail(what, path)
        if 'tasks' in path and len(left) == 2 else None)
  assert 'tasks/a/_CHECKPOINT_METADATA' in buckets.objects(buckets.RUN)


def test_tasks_of_a_machine_that_was_left_behind_are_kept_aside(
    monkeypatch, tmp_path, caplog):
  """It could not send; another one has written since."""
  work = buckets.new('a')
  with pytest.raises(ValueError), work.held():
    buckets.task(work, 'mine', value=7)
    buckets.Recorded.fails = staticmethod(buckets.fail)
  buckets.Recorded.fails = staticmethod(lambda *_: None)
  buckets.machine(monkeypatch, tmp_path / 'other')
  buckets.new('theirs')
  buckets.machine(monkeypatch, tmp_path / 'machine')
  again = workdir_lib.Workdir(buckets.RUN)
  with caplog.at_level(logging.WARNING), again.held():
    assert again.task_names() == ['a', 'theirs']
  kept, = again.root.parent.glob('aside/*/mine')
  assert 'mine' in caplog.text and str(kept.parent) in caplog.text
  assert checkpoint.load(kept)[0]['a'].tolist() == [7] * 5
  assert not [path for path in buckets.objects(buckets.RUN) if 'mine' in path]


def test_what_others_removed_is_no_surplus_of_a_reader(monkeypatch, tmp_path,
                                                       caplog):
  writer = buckets.new('a', 'b')
  reader = buckets.fetched(monkeypatch, tmp_path / 'reader')
  with writer.held():
    removal.remove_all(writer.tasks, 'b')
  reader.read()
  assert reader.task_names() == ['a'] and not caplog.text
  assert not (reader.root.parent / 'aside').exists()


@pytest.mark.parametrize('more', ['plan.json', 'format.json'])
def test_files_that_the_folder_lost_are_fetched_and_not_removed_there(more):
  """A cache is cleaned; what is missing there was not taken away."""
  work = buckets.new('a', 'b')
  shutil.rmtree(work.task('b'))
  (work.task('a') / '0').unlink()
  (work.root / more).unlink(missing_ok=True)
  with work.held():
    assert work.task_names() == ['a', 'b']
    checkpoint.load(work.task('a'))
  assert {'tasks/b/0', 'tasks/a/0', 'format.json'} <= set(
      buckets.objects(buckets.RUN))


def test_a_folder_that_vanishes_takes_nothing_with_it():
  work = buckets.new('a')
  before = buckets.objects(buckets.RUN)
  with pytest.raises(ValueError, match='is gone, so that nothing more is sent'):
    with work.held():
      shutil.rmtree(work.root)
  assert buckets.objects(buckets.RUN) == before
  with work.held():  # the remedy
    assert work.task_names() == ['a']


# What is said.


@pytest.mark.parametrize('address, error, said', [
    ('gx://b/run', ValueError, "fsspec knows no protocol 'gx'"),
    ('gs:/b/run', ValueError, 'is no address: write gs://BUCKET/RUN'),
    ('gs://', ValueError, 'is no address'),
    ('recorded://b/none', ValueError, 'there is no workdir at recorded://b/no'),
])
def test_addresses_that_are_none(address, error, said):
  with pytest.raises(error, match=said) as found:
    mtl_jax.load(address)
  assert '\n' not in str(found.value)
  assert not buckets.Recorded.store


def test_a_store_that_refuses_is_said_in_a_sentence():
  def denied(what, path):
    raise PermissionError(f'no right to {what}\nmore')
  buckets.Recorded.fails = staticmethod(denied)
  with pytest.raises(ValueError, match='cannot be used .no right to write.: '
                     'see that the bucket exists') as said:
    buckets.new('a')
  assert '\n' not in str(said.value) and not buckets.Recorded.store


def test_without_fsspec_the_remedy_is_said(monkeypatch):
  monkeypatch.setitem(sys.modules, 'fsspec', None)
  with pytest.raises(ImportError, match=r'pip install "mtl_jax\[remote\]"'):
    workdir_lib.Workdir('gs://b/run')


def test_the_package_of_a_protocol_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gcsfs', None)
  import fsspec  # pylint: disable=unused-import # noqa: F401
  monkeypatch.delitem(sys.modules['fsspec.registry']._registry, 'gs',
                      raising=False)
  with pytest.raises(ImportError, match=r'gcsfs.*pip install '
                                        r'"mtl_jax\[remote\]"'):
    workdir_lib.Workdir('gs://b/run')


# Growth.


def test_a_pass_without_news_costs_the_same_whatever_is_there(monkeypatch):
  """And one with news: as much as the news."""
  work = buckets.new(*(f't{i}' for i in range(60)))
  old = time.time() - 60
  for kind in (work.tasks, work.probe, work.shared, work.progress):
    os.utime(kind, (old, old))
  with work.held():
    work.mirror.push()
    calls = []
    stat = os.stat
    monkeypatch.setattr(os, 'stat', lambda *a, **k: (
        calls.append(a[0]), stat(*a, **k))[1])
    work.mirror.push()
    assert len([path for path in calls if 'tasks/' in str(path)]) == 0
    before = len(buckets.changes())
    buckets.task(work, 'new')
    work.mirror.push()
    assert len(buckets.changes()) - before == 3  # and the claim


def test_a_long_log_is_sent_less_often(monkeypatch):
  work = buckets.new('a')
  send = bucket.Bucket.write

  def write(self, path, data):
    time.sleep(0.05 if path == 'metrics.jsonl' else 0.)
    send(self, path, data)
  monkeypatch.setattr(bucket.Bucket, 'write', write)
  with work.held():
    began, count = time.monotonic(), 0
    while time.monotonic() - began < 1.:
      json_records.append_line(work.metrics, {'kind': 'x', 'n': count})
      work.mirror.push()
      count += 1
  sent = [what for what in buckets.changes()
          if what[1].endswith('metrics.jsonl')]
  assert 2 <= len(sent) <= 5 < count
  assert sent[-1][2] == work.metrics.read_bytes()
