"""A network that grows: nothing changes what is there, and a kill loses little.
"""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny
import tiny_search as little

import mtl_jax
from mtl_jax import experiment
from mtl_jax import trees
from mtl_jax.data import sources
from mtl_jax.evolution import networks
from mtl_jax.report import page as report_page
from mtl_jax.serving import system as system_lib
from mtl_jax.serving import verification
from mtl_jax.storage import checkpoint
from mtl_jax.storage import json_records
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training.search import iteration
from mtl_jax.training.search import population as population_lib
from mtl_jax.training.search import state as state_lib


TASKS = ('split-00', 'split-01', 'split-02')
NAMES = ['split-00', 'split-00~1', 'split-01', 'split-01~1', 'split-02',
         'split-02~1']


@pytest.fixture(name='whole', scope='module')
def _whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole') / 'run'
  little.learn(little.make(), folder)
  return folder


def path_ids(record):
  return {name: identity for name, identity, _ in
          record['search']['components']}


def test_every_task_leaves_a_path_in_each_iteration(whole):
  assert system_lib.load(whole).tasks == NAMES
  found = little.records(whole)
  assert list(found) == [*(f'{name}~1' for name in TASKS), *TASKS]
  for record in found.values():
    assert len(record['search']['children']) == 6
    assert record['accuracy']['test'] > record['accuracy']['before']
    assert record['steps'] == 2 * 3 * 2 * 3


def test_all_outputs_are_those_of_the_commit(whole):
  result = verification.check(system_lib.load(whole))
  assert result.tasks == 6 and not result.faults and not result.notes


def test_logits_of_a_task_are_bit_for_bit_the_same_after_later_ones(whole):
  """Of the whole as it was when only the first tasks were there."""
  images = sources.load('digits').test.images[:9]
  system = system_lib.load(whole)
  for count in (1, 3):
    early = whole.parent / f'early-{count}'
    shutil.copytree(whole, early)
    kept = [f'{name}~1' for name in TASKS][:count]
    for path in (early / 'tasks').iterdir():
      if path.name not in kept:
        shutil.rmtree(path)
    before = system_lib.load(early)
    for name in kept:
      np.testing.assert_array_equal(
          np.asarray(before.predict(images, task=name)),
          np.asarray(system.predict(images, task=name)))


def test_a_task_writes_its_own_new_components_alone(whole):
  seen: set = set()
  known: set = set()
  found = little.records(whole)
  root = {trees.digest(leaf) for leaf in jax.tree.leaves(
      tiny.prepared(little.make())[2].params)}
  for name, record in found.items():
    arrays, metadata = checkpoint.load(whole / 'tasks' / name)
    own = {digest for leaf, digest in metadata['hashes'].items()
           if leaf.startswith('values/') and arrays[leaf].nbytes >= 1024}
    assert not own & seen and not own & root
    seen |= own
    weights = sum(a.size for leaf, a in arrays.items()
                  if leaf.startswith('values/'))
    # Small leaves are written again where a reference would take as much.
    parts, roots = (record['search'][k] for k in ('components', 'from_root'))
    new = sum(part[2] for part in parts
              if part[0] not in roots and part[1] not in known)
    known |= {part[1] for part in parts}
    assert weights <= new + 16 * 60
    assert record['bytes']['values'] == 4 * weights
    assert record['validation']['accuracy'] == pytest.approx(
        record['search']['evals'], abs=1e-6)
    assert list(record['curve']) == ['step', 'loss']  # of training
  shared = [len(checkpoint.load_metadata(whole / 'tasks' / name).get(
      'references', {})) for name in found]
  assert any(shared)


def test_components_of_other_tasks_are_shared_or_cloned_never_changed(whole):
  found = list(little.records(whole).values())
  root = networks.path_of(
      jax.tree.map(np.asarray, tiny.prepared(little.make())[2].params),
      name='root', task=None, parent=None, hyper={})
  known = {part.id for part in root.components.values()}
  for record in found:
    trained = set(record['search']['trained'])
    for name, identity in path_ids(record).items():
      assert (identity in known) == (name not in trained) or (
          record['search']['path'] in little.records(whole))
    known |= set(path_ids(record).values())


def test_a_private_path_is_no_ones_parent(whole):
  for record in little.records(whole).values():
    if record['task'] != 'split-01':
      parents = {child['parent'] for child in record['search']['children']}
      assert not any(parent.startswith('split-01') for parent in parents)
      assert record['search']['seed'].split('~')[0] != 'split-01'
    else:
      assert record['search']['private']


def test_the_first_generation_of_a_task_comes_from_seeds(whole):
  for name, record in little.records(whole).items():
    if name.endswith('~1'):
      first = record['search']['children'][:3]
      assert all('#' not in child['parent'] for child in first)
      assert all(child['improved'] for child in first)
      assert len({str(child['changed']) for child in first}) > 1


def test_the_best_validation_never_gets_worse(whole):
  found = little.records(whole)
  for name in TASKS:
    assert found[name]['search']['score'] >= found[f'{name}~1']['search'][
        'score']
    best = found[name]['search']
    assert best['quality'] == pytest.approx(max(best['evals']))
    assert best['score'] == best['quality']
  for record in found.values():
    best = max(max(child['evals']) for child in record['search']['children']
               if child['improved']) if any(
                   child['improved'] for child in
                   record['search']['children']) else -1
    assert record['search']['score'] >= best - 1e-6


def test_a_child_of_an_own_path_stays_if_it_is_no_worse(whole):
  """The official rule: one of its validations reaches its parent's best."""
  judged = set()
  stored: dict[str, float] = {}
  for name, record in little.records(whole).items():
    task, own = name.split('~')[0], dict(stored)
    for child in record['search']['children']:
      parent = child['parent']
      if parent.split('#')[0].split('~')[0] == task:
        improved = max(child['evals']) >= own[parent] - 1e-6
        assert child['improved'] == improved, child['path']
        judged.add(improved)
      else:
        assert child['improved']
      own[child['path']] = max(child['evals'])
    stored[name] = record['search']['quality']
  assert judged == {True, False}  # both have happened


def test_parents_are_the_nearest_paths_that_are_still_there(whole):
  """As stored: (entry, seed of its line, path). Officially the same: what a
  better path replaces is taken out of all lines."""
  template = next(iter(little.records(whole).values()))['search']
  stored = (('a~1', 'root', 'a~1#1.0'), ('b~1', 'a~1', 'b~1#0.2'),
            ('c~1', 'b~1', 'c~1#0.1'), ('a', 'a~1', 'a~1'),  # kept
            ('b', 'c~1', 'b#1.1'), ('c', 'c~1', 'c#0.0'))
  wanted = {3: {'a~1': 'root', 'b~1': 'a~1', 'c~1': 'b~1'},
            4: {'a': 'root', 'b~1': 'a', 'c~1': 'b~1'},
            # b's line began with c~1, and that with the old b.
            5: {'a': 'root', 'b': 'c~1', 'c~1': 'a'},
            6: {'a': 'root', 'b': 'a', 'c': 'a'}}
  for count, parents in wanted.items():
    found = {}
    for entry, seed, path in stored[:count]:
      found[entry.partition('~')[0]] = networks.Path(
          entry, 'x', seed, {}, {}, record=template | {'path': path})
    above = population_lib.lines(
        (entry, seed, path) for entry, seed, path in stored[:count])
    assert {path.name: path.parent for path in population_lib.reparented(
        list(found.values()), above)} == parents


def test_a_paths_children_count_in_all_iterations_of_a_task(whole):
  found = little.records(whole)
  before = {name: record['search']['path'] for name, record in found.items()}

  def names(path):  # that a stored path has had, in searches too
    had = {path}
    while path in before and before[path] not in had:
      path = before[path]
      had.add(path)
    return had
  carried = 0
  for task in TASKS:
    first, last = (found[name]['search'] for name in (f'{task}~1', task))
    children = [child['parent'] for child in first['children']]
    for search in (first, last):
      if search is last:
        children += [child['parent'] for child in last['children']]
      assert search['offspring']['root'] == children.count('root')
      for path, count in search['offspring'].items():
        assert count == sum(parent in names(path) for parent in children)
    carried += sum(first['offspring'].get(path, 0) for path in
                   set(first['offspring']) & set(last['offspring']))
  assert carried  # counts of the first iteration live on


def test_children_are_remembered_by_the_names_that_paths_have_now():
  def path(name, task, **record):
    return networks.Path(name, task, 'root', {}, {}, record=record)
  counts = {'root': 3, 'a~1': 2, 'b~1': 5, 'c~1': 1}
  known = [path('root', None), path('a', 'a', path='a~1', offspring={'b': 9}),
           path('b', 'b', path='b#1.0'),  # a better path took b~1's place
           path('c~1', 'c', path='c~1#0.1', offspring=counts)]
  assert population_lib.offspring(known, 'c') == {
      'root': 3, 'a': 2, 'c~1': 1}
  assert population_lib.offspring(known, 'b') == {}
  assert population_lib.offspring(known, 'new') == {}


def test_accounted_weights_are_those_in_use(whole):
  """Over the last path of every task, as the library counts them."""
  run, _ = little.learn(little.make(), whole)
  root = population_lib.root_of(run)
  paths = [population_lib.stored_path(run, entry.name, entry.task.name,
                                      root)
           for entry in iteration.plan.entries(run.config.phases[0], run.suite)
           if not entry.repeat]
  used = {part.id: part.weights for path in paths
          for part in path.components.values()}
  assert sum(networks.accounted(path, paths) for path in paths
             ) == pytest.approx(sum(used.values()))
  last = little.records(whole)[TASKS[-1]]['search']
  assert last['accounted'] == pytest.approx(networks.accounted(
      paths[-1], paths))


def test_every_path_is_read_once_and_replaced_ones_are_let_go(
    whole, monkeypatch):
  run, _ = little.learn(little.make(), whole)
  entries = list(iteration.plan.entries(run.config.phases[0], run.suite))
  alone = [population_lib.retained(run, entry, {}) for entry in entries]
  read, original = [], population_lib.stored_path

  def counted(run, name, task, root):
    read.append(name)
    return original(run, name, task, root)
  monkeypatch.setattr(population_lib, 'stored_path', counted)
  stored = {}
  for entry, wanted in zip(entries, alone):
    found = population_lib.retained(run, entry, stored)
    assert [(p.name, p.parent, {k: part.id for k, part in p.components.items()})
            for p in found] == [
                (p.name, p.parent, {k: part.id for k, part in
                                    p.components.items()}) for p in wanted]
  assert read == [entry.name for entry in entries[:-1]]  # the last: of no one
  kept = {path.name for path in found}
  assert {name for name, path in stored.items() if path.components} == (
      kept - {networks.ROOT})


# Resuming.


def same(folder, whole):
  assert tiny.bits(folder) == tiny.bits(whole)
  assert not list((folder / 'progress').iterdir())
  a, b = ({name: dict(r['search']) for name, r in little.records(f).items()}
          for f in (folder, whole))
  assert a == b


@pytest.mark.parametrize('after', [
    19, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4, 9, 13, 17))])
def test_stopped_after_any_round(whole, tmp_path, after):
  config = little.make(progress_seconds=0.)
  with pytest.raises(tiny.Stopped):
    little.learn(config, tmp_path / 'run', after)
  little.learn(config, tmp_path / 'run')
  same(tmp_path / 'run', whole)


@pytest.mark.slow
def test_saved_on_another_number_of_devices(whole, tmp_path, monkeypatch):
  """The children that were half trained start again."""
  config = little.make(progress_seconds=0.)
  with pytest.raises(tiny.Stopped):
    little.learn(config, tmp_path / 'run', 4)
  kept, = (tmp_path / 'run/progress').iterdir()
  saved = checkpoint.load(kept)[0]['learners/step']
  assert len(saved) == jax.device_count()
  monkeypatch.setattr(iteration._TaskIteration, '_wave',
                      lambda *_: (2 * len(saved), False))
  little.learn(config, tmp_path / 'run')
  same(tmp_path / 'run', whole)


def test_progress_holds_what_is_needed_and_no_more(whole, tmp_path):
  folder = tmp_path / 'run'
  with pytest.raises(tiny.Stopped):
    little.learn(little.make(progress_seconds=0.), folder, 8)
  kept, = (folder / 'progress').iterdir()
  arrays, values = checkpoint.load(kept)
  stored = {identity for record in little.records(folder).values()
            for identity in path_ids(record).values()}
  own = {name.split('/')[1] for name in arrays if name.startswith('part/')}
  assert own and not own & stored
  assert values['paths'] or values['rounds'] or values['trained']


def test_a_finished_search_is_not_done_again(whole, monkeypatch):
  monkeypatch.setattr(iteration, '_TaskIteration', None)
  before = tiny.files(whole / 'tasks')
  little.learn(little.make(), whole)
  assert tiny.files(whole / 'tasks') == before


def test_a_lost_path_is_found_again(whole, tmp_path):
  """From what preceded it in the plan, not from what came after."""
  folder = shutil.copytree(whole, tmp_path / 'run')
  shutil.rmtree(folder / 'tasks/split-02~1')
  little.learn(little.make(), folder)
  assert tiny.bits(folder) == tiny.bits(whole)


def test_a_state_survives_the_disk(tmp_path):
  part = networks.component('head', {'bias': np.ones(3, np.float32)},
                            {'bias': np.full(3, .5, np.float32)})
  root = networks.path_of({'cls': np.zeros(2, np.float32)}, name='root',
                          task=None, parent=None, hyper={})
  path = networks.Path('a#0.1', 'a', 'root', {'adapted': [1], 'crop': True},
                       dict(root.components, head=part), .5, .25, {'evals': []})
  state = state_lib.State(
      2, [path], {'root': 3}, ('root',), [{'x': 1}], [None, path],
      [[[.5], [.25]]], {'step': np.arange(3)}, 7.)
  work = workdir_lib.Workdir(tmp_path)
  work.prepare()
  state_lib.save(work, 'a', [root], state, {})
  found = state_lib.restore(work, 'a', [root], state_lib.State(), {})
  assert found.position == state.position
  assert (found.generation, found.children, found.seeds, found.log,
          found.rounds, found.seconds) == (
              2, {'root': 3}, ('root',), [{'x': 1}], [[[.5], [.25]]], 7.)
  assert found.trained[0] is None
  again = found.paths[0]
  assert again.components['cls'] is root.components['cls']
  assert again.components['head'].id == part.id
  assert again.components['head'].trace['bias'][0] == .5
  assert again.hyper == path.hyper and again.score == .5
  assert list(found.learners['step']) == [0, 1, 2]
  with pytest.raises(checkpoint.CheckpointError, match='needs component'):
    state_lib.restore(work, 'a', [], state, {})


# The report.


def test_a_whole_run_with_its_report(whole, tmp_path):
  folder = shutil.copytree(whole, tmp_path / 'run')
  summary = experiment.run(little.make(), folder, quiet=True)
  assert summary['verified']['ok'] and summary['names'] == list(TASKS)
  page = (folder / 'report.html').read_text()
  for title in ('The evolved network', 'Quality during the search',
                'Cost of each path', 'Ancestry of the paths'):
    assert title in page
  assert 'encoderblock_0' in page and '(private)' in page
  run_line = next(line for line in json_records.read_lines(
      folder / 'metrics.jsonl') if line['kind'] == 'run')
  report_page.render(run_line, list(little.records(folder).values()), summary)
  json.dumps(summary)
  system = mtl_jax.load(folder)
  digits = sources.load('digits').test
  rows = np.flatnonzero(digits.labels < 3)
  logits = system.predict(digits.images[rows], task='split-00')
  assert logits.shape == (len(rows), 3)
  right = np.mean(np.argmax(logits, 1) == digits.labels[rows])
  found = little.records(folder)['split-00']
  assert right == pytest.approx(found['accuracy']['test'])
  with pytest.raises(ValueError, match='by munet, whose impressions cannot be'):
    system.identify(digits.images[:4])
