"""Only whole runs become committed results."""

import ast
import importlib
import json
import pathlib
import re
import runpy
import sys

import jax
import pytest

from mtl_jax import models
from mtl_jax import trees
from mtl_jax.storage import json_records

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / 'experiments'))

import collected  # noqa: E402 pylint: disable=wrong-import-position
import headline  # noqa: E402 pylint: disable=wrong-import-position
import part_tables  # noqa: E402 pylint: disable=wrong-import-position
import picture  # noqa: E402 pylint: disable=wrong-import-position
import results  # noqa: E402 pylint: disable=wrong-import-position
import systems  # noqa: E402 pylint: disable=wrong-import-position

RUN = {'kind': 'run', 'command': 'main --workdir=/here', 'commit': 'c'}
SUMMARY = {'kind': 'summary', 'seconds': 2.}
TASK = {'kind': 'task', 'seconds': {'train': 3., 'save': .5},
        'accuracy': {'test': .5}}
IDENTITY = {'kind': 'identity', 'name': 'a', 'tasks': 2}


def workdir(tmp_path, *lines):
  (tmp_path / 'metrics.jsonl').write_text(
      ''.join(json.dumps(line) + '\n' for line in lines))
  return tmp_path


@pytest.mark.parametrize('lines', [(), (RUN,), (RUN, SUMMARY, RUN, IDENTITY)])
def test_a_killed_start_is_not_collected(tmp_path, lines):
  target = tmp_path / 'out.jsonl'
  with pytest.raises(SystemExit, match='run the same command again'):
    results.collect(workdir(tmp_path, *lines), target)
  assert not target.exists()


def test_a_finished_start_is_collected_with_all_its_seconds(tmp_path):
  target = tmp_path / 'out.jsonl'
  old = IDENTITY | {'rule': 'as it was in an earlier start'}
  start = RUN | {'suite_tasks': {'a': 'digest'}}
  results.collect(workdir(tmp_path, RUN, old, SUMMARY, start, IDENTITY,
                          SUMMARY | {'identity': [IDENTITY]}), target)
  run, identity, summary = map(json.loads, target.read_text().splitlines())
  assert run['command'] == 'main --workdir=DIR' and run['starts'] == 2
  assert identity == IDENTITY and summary['seconds'] == 4.
  assert 'suite_tasks' not in run


def test_what_a_run_no_longer_measures_is_not_collected(tmp_path):
  target = tmp_path / 'out.jsonl'
  results.collect(workdir(tmp_path, RUN, IDENTITY, SUMMARY, RUN,
                          SUMMARY | {'identity': []}), target)
  assert 'identity' not in target.read_text()


def test_streams_of_earlier_versions_are_collected(tmp_path):
  target = tmp_path / 'out.jsonl'
  line = {'kind': 'stream', 'phase': 'a', 'tasks': 3, 'masks': 2}
  results.collect(workdir(tmp_path, RUN, line, line | {'masks': 4}, SUMMARY),
                  target)
  assert [json.loads(x).get('masks') for x in
          target.read_text().splitlines()] == [None, 4, None]


def test_seeds_of_one_config_differ_in_nothing_else():
  config = {'seed': 0, 'suite': {'seed': 3, 'num_tasks': 4}, 'identify': {}}
  same = {'seed': 1, 'suite': {'seed': 4, 'num_tasks': 4}, 'identify': {'a': 1}}
  of = lambda *configs: [{'config': x} for x in configs]
  collected.require_seeds('x', of(config, same))
  with pytest.raises(SystemExit, match='have different phases'):
    collected.require_seeds('x', of(config, config | {'schedule': ['a']}))
  with pytest.raises(SystemExit, match='x: .* differ in suite.num_tasks: 4'):
    collected.require_seeds('x', of(config, {'suite': {'num_tasks': 5}}))


ONE = {'config': {'seed': 0},
       'versions': {'jax': '0.10.2', 'python': '3.11.7'},
       'hardware': {'platform': 'cpu', 'device': 'cpu', 'cores': 2}}


@pytest.mark.parametrize('versions, hardware, match', [
    ({'jax': '0.11.2'}, {}, "differ in jax: '0.10.2' and '0.11.2'"),
    ({'matmul_precision': 'highest'}, {}, 'differ in matmul_precision'),
    ({}, {'platform': 'gpu', 'device': 'NVIDIA H200'}, 'differ in platform'),
    ({}, {'device': 'another'}, 'differ in device'),
])
def test_averages_are_over_one_version_precision_and_platform(
    versions, hardware, match):
  other = {'config': {'seed': 1}, 'versions': ONE['versions'] | versions,
           'hardware': ONE['hardware'] | hardware}
  with pytest.raises(SystemExit, match=match):
    collected.require_seeds('x', [ONE, other])


def test_what_changes_no_bits_of_a_seed_may_differ():
  """Cores, host and what an earlier version did not yet record."""
  collected.require_seeds('x', [ONE, {
      'config': {'seed': 1},
      'versions': ONE['versions'] | {'matmul_precision': 'default',
                                     'python': '3.12.3'},
      'hardware': ONE['hardware'] | {'cores': 1}}])


def test_every_committed_average_keeps_to_that():
  """Of all files that are named as seeds of one thing, whoever reads them."""
  names = {(path.parents[1], path.name.rsplit('_s', 1)[0])
           for path in results.HERE.glob('*/results/*_s[0-9]*.jsonl')}
  assert len(names) > 20
  for folder, name in sorted(names):
    collected.require_seeds(name, [
        next(line for line in collected.read(path) if line['kind'] == 'run')
        for path in (folder / 'results').glob(f'{name}_s[0-9]*.jsonl')])


def test_the_last_lines_of_streams_are_collected(tmp_path):
  lines = [{'kind': 'stream', 'phase': phase, 'tasks': 3, 'masks': masks}
           for phase, masks in (('a', 2), ('a', 4), ('b', 3))]
  results.collect(workdir(tmp_path, RUN, *lines,
                          SUMMARY | {'streams': lines[1:]}),
                  tmp_path / 'out.jsonl')
  found = [json.loads(line) for line in
           (tmp_path / 'out.jsonl').read_text().splitlines()]
  assert [(x['phase'], x['masks']) for x in found if x['kind'] == 'stream'
          ] == [('a', 4), ('b', 3)]


def test_folders_of_the_machine_are_left_out(tmp_path):
  run = RUN | {'command': 'main --workdir=/here --config=a.py:/data/b.txt',
               'config': {'sources': ['mnist', 'table:/data/x/b.txt'],
                          'weights': '/data/w.npz', 'url': 'a/b'}}
  results.collect(workdir(tmp_path, run, SUMMARY), tmp_path / 'out.jsonl')
  found = json.loads((tmp_path / 'out.jsonl').read_text().splitlines()[0])
  assert found['command'] == 'main --workdir=DIR --config=a.py:b.txt'
  assert found['config'] == {'sources': ['mnist', 'table:b.txt'],
                             'weights': 'w.npz', 'url': 'a/b'}


def test_a_killed_start_counts_with_the_tasks_that_it_finished():
  assert json_records.total_seconds([RUN, TASK, TASK, RUN, TASK, SUMMARY]) == 9.
  assert json_records.total_seconds([RUN, TASK, SUMMARY, RUN, SUMMARY]) == 4.
  busy = TASK | {'seconds': TASK['seconds'] | {'busy': 1.}}  # of 'train'
  assert json_records.total_seconds([RUN, busy, RUN, SUMMARY]) == (
      json_records.total_seconds([RUN, TASK, RUN, SUMMARY]))


def test_a_killed_start_counts_whole_where_it_left_its_seconds(tmp_path):
  killed = {'kind': 'killed', 'seconds': 8.}
  lines = [RUN, TASK, killed, RUN, TASK, SUMMARY]
  assert json_records.total_seconds(lines) == 10.
  assert json_records.whole_seconds(lines)
  assert not json_records.whole_seconds([RUN, TASK, RUN, SUMMARY])
  target = tmp_path / 'out.jsonl'
  results.collect(workdir(tmp_path, *lines), target)
  summary = collected.read(target)[-1]
  assert summary['seconds'] == 10. and summary['seconds_whole']


def test_minutes_of_starts_that_were_lost_are_a_lower_bound():
  run = lambda starts, **more: {
      'run': RUN | {'starts': starts}, 'summary': {'seconds': 90.} | more}
  assert collected.minutes([run(1)]) == '1.5'
  assert collected.minutes([run(2)]) == 'at least 1.5'
  assert collected.minutes([run(2, seconds_whole=True)]) == '1.5'
  assert collected.minutes([run(1), run(2)]) == 'at least 1.5 ± 0.0'


def test_every_table_has_its_place_in_a_readme():
  for path, parts in results.TABLES.items():
    text = (results.HERE / path).read_text()
    for name in parts:
      assert text.count(f'<!-- {name} -->') == 1, (path, name)
      assert text.count(f'<!-- /{name} -->') == 1, (path, name)


@pytest.mark.parametrize('path', sorted(
    results.HERE.glob('*/*.ipynb')), ids=lambda path: path.parent.name)
def test_what_a_notebook_takes_from_the_library_is_there(path):
  code = '\n'.join(
      line for cell in json.loads(path.read_text())['cells']
      if cell['cell_type'] == 'code' for line in ''.join(
          cell['source']).splitlines() if not line.startswith('%'))
  for node in ast.walk(ast.parse(code)):
    if (isinstance(node, ast.ImportFrom)
        and node.module.split('.')[0] == 'mtl_jax'):
      for alias in node.names:
        importlib.import_module(f'{node.module}.{alias.name}')


def test_the_main_table_is_short_and_names_every_page():
  rows = headline.table().splitlines()[2:]
  assert 6 <= len(rows) <= 10
  for row in rows:
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    assert len(cells) == len(headline.COLUMNS)
    assert int(cells[4]) > 0 and float(cells[2].split()[0]) > 50.
    page = results.HERE.parent / 'docs' / cells[5].split('(')[1].rstrip(')')
    assert page.exists(), page


def test_five_systems_name_their_page_paper_and_seeds():
  rows = systems.table().splitlines()[2:]
  assert len(rows) == 5
  for row, paper in zip(rows, systems.PAPERS.values()):
    assert f'arxiv.org/abs/{paper}' in row and ' seed' in row
    page = re.search(r'\((experiments/[^)]+)\)', row)[1]
    assert (results.HERE.parent / page).exists()


def test_the_picture_is_drawn_from_the_results_and_always_alike(tmp_path):
  """As committed, but for the version of Matplotlib."""
  files = [tmp_path / folder / 'accuracy_bytes.svg' for folder in 'ab']
  for file in files:
    file.parent.mkdir()
    picture.draw(file)
  assert files[0].read_bytes() == files[1].read_bytes()
  size, accuracy = picture.points('supsup', ('permuted_lenet',),
                                  'supermasks')
  assert size == 275_200 / 8  # one bit per weight of 784-300-100-100
  assert accuracy == pytest.approx(93.7, abs=.1)
  assert picture.points('supsup', ('permuted_lenet',), 'nothing') is None
  # The rate that was chosen counts: 40 masks are better than 20.
  rotated = ('rotated', 'chosen')
  few, more = (picture.points('impresslearn', rotated, f'heterogeneous_{k}')
               for k in (20, 40))
  assert few[0] == 240 and more == pytest.approx((480, 93.97), abs=.01)


@pytest.mark.parametrize('path', ['../README.md', '../docs/results.md'])
def test_the_first_tables_are_those_of_the_results(path):
  text = (results.HERE / path).read_text()
  for name, table in results.TABLES[path].items():
    assert f'<!-- {name} -->\n{table()}\n<!-- /{name} -->' in text, (
        f'{path}: run python experiments/results.py tables')


def part_task(name, phase='part', values=40, train=1.5, **fields):
  """A line of a PaRT run's task, as `results.collect` leaves it."""
  return {'kind': 'task', 'task': name, 'phase': phase, 'steps': 7,
          'accuracy': {'test': .5}, 'bytes': {'values': values, 'stored': 60},
          'seconds': {'train': train, 'evaluate': 9., 'save': 9.}} | fields


def part_run(*tasks, **summary):
  run = RUN | {'hardware': {'platform': 'cpu', 'cpu': 'C', 'cores': 1}}
  return {'run': run, 'tasks': list(tasks), 'summary': SUMMARY | summary}


def test_weights_of_the_published_size_are_counted():
  run = part_run()
  run['run']['config'] = runpy.run_path(
      str(results.HERE.parent / 'configs' / 'part_cifar100.py'))[
          'get_config']().to_dict()
  # Ten paths take almost all modules of the network; see test_part_configs.
  assert .9 * 132_038_244 < part_tables.weights(run, 'part') <= 132_038_244


def test_rows_that_a_run_did_not_make_are_left_out(monkeypatch):
  run = part_run(part_task('a'), part_task('a', 'single'))
  run['run']['config'] = {'schedule': ['part', 'single']}
  monkeypatch.setattr(part_tables, 'weights', lambda run, phase: 7)
  text = part_tables._accuracy([run])
  assert text.count('| 50.00 | 100 | 50.00 |') == 2


def test_lost_accuracy_is_averaged_within_levels_that_have_both_kinds():
  line = lambda level, users, lost: dict(level=level, users=users, lost=lost)
  found = part_tables.level_means([
      line(1, 1, .8), line(1, 1, .6), line(1, 3, .5), line(2, 1, .1),
      line(2, 2, .2), line(2, 2, .4), line(3, 2, 1.), line(4, 1, 0.)])
  assert found == pytest.approx(((.7 + .1) / 2, (.5 + .3) / 2))


def test_weights_are_counted_from_the_paths():
  run = part_tables._runs()[0]
  own = {t['task']: t['bytes']['dedicated'] // 4 for t in run['tasks']
         if t['phase'] == 'single'}  # a path and a head each
  output, rest = divmod(own['omniglot-alphabet-label-32x32x1'] - own['mnist'],
                        40)  # weights of an output; one head has 50, not 10
  assert not rest
  heads, path = 90 * output, own['mnist'] - 10 * output
  assert part_tables.weights(run, 'single') == sum(own.values())
  assert part_tables.weights(run, 'hard_sharing') == path + heads
  backbone = run['run']['config']['backbone']
  network = models.make(backbone['model'], 50, **backbone['options'])
  params = jax.eval_shape(lambda key: network.init(key, (32, 32, 1))[0],
                          jax.random.key(0))
  used = {(level, module) for paths in run['summary']['segments']['paths']
          for level, row in enumerate(paths) for module in row}
  for phase in ('part', 'part_common', 'joint', 'sequential'):
    assert part_tables.weights(run, phase) == heads + sum(
        trees.size(params[f'level{level + 1}'][f'module{module:02d}'])
        for level, module in used)


@pytest.mark.parametrize('command, one, any_seed', [
    ('python -m mtl_jax.main --workdir=DIR --config=a.py',
     'python -m mtl_jax.main --workdir=DIR --config=a.py --config.seed=2',
     'python -m mtl_jax.main --workdir=DIR --config=a.py --config.seed=SEED'),
    ('python -m mtl_jax.main --config.seed=2 --config=a.py',
     'python -m mtl_jax.main --config=a.py --config.seed=2',
     'python -m mtl_jax.main --config=a.py --config.seed=SEED'),
    ('python -m mtl_jax.main --config=configs/part_five_tasks.py:2,4',
     'python -m mtl_jax.main --config=configs/part_five_tasks.py:2,4',
     'python -m mtl_jax.main --config=configs/part_five_tasks.py:SEED,4'),
    ('python evaluate.py --workdir=DIR --out=test_s2.jsonl',
     'python evaluate.py --workdir=DIR --out=test_s2.jsonl',
     'python evaluate.py --workdir=DIR --out=test_sSEED.jsonl'),
])
def test_printed_commands_carry_the_seed(command, one, any_seed):
  run = {'run': {'command': command, 'seed': 2}}
  assert collected.command([run]) == f'`{one}`'
  assert collected.command([run, run]) == f'`{any_seed}`'
