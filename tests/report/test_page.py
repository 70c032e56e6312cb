"""The report shows what was measured, and nothing else."""

import base64
import copy
import doctest
import functools
import hashlib
import html.parser
import io
import os
import re

import numpy as np
import pytest
import rich.console

from mtl_jax.evaluation import metrics
from mtl_jax.report import drawing
from mtl_jax.report import page as report_page
from mtl_jax.report import rows as rows_lib
from mtl_jax.report import seeds
from mtl_jax.report import terminal
from mtl_jax.report import vector

EVIL = '<script>alert("x")</script>&$\\frac{1}{2}$[red]'
FIGURES = ('accuracy', 'against_bytes', 'seen', 'forgetting', 'matrix',
           'overlap', 'curves', 'validation', 'basis', 'density', 'bytes',
           'seconds')
RUN = {
    'config': {'backbone': {'model': 'lenet_300_100', 'seed': 0},
               'phases': [{'name': 'basis', 'method': 'supsup'}]},
    'command': 'python -m mtl_jax.main --config=configs/quickstart.py '
               '--workdir=/tmp/quickstart',
    'versions': {'mtl_jax': '0.1.0', 'jax': '0.10.2', 'flax': '0.12.8'},
    'hardware': {'device': 'TFRT_CPU_0', 'count': 1, 'cpu': 'Intel Xeon',
                 'cores': 2},
    'commit': None, 'started': '2025-01-01T12:00:00+00:00', 'seed': 0,
    'backbone': {'model': 'lenet_300_100', 'weights': 266200,
                 'fingerprint': '6f1f4a0c'}}


def make_record(rng, task, phase, method, control=False, basis=None,
                accuracy=.96, tag='', points=20):
  """One record as a run writes it, with plausible random numbers."""
  step = [int(s) for s in np.linspace(50, 1000, points)]
  rise = 1 - np.exp(-np.array(step) / 200) + .02 * rng.standard_normal(points)
  test = float(np.clip(accuracy + .01 * rng.standard_normal(), 0, 1))
  masks = 33275 if method == 'supsup' else 0
  coefficients = 120 if method == 'impresslearn' else 0
  values = 1066440 if method == 'dedicated' else 0
  total = masks + coefficients + values
  return {
      'entry': task + tag, 'task': task, 'phase': phase, 'method': method,
      'control': control, 'repeat': 0, 'classes': 10, 'steps': 1000,
      'batch_size': 128, 'seed': 0,
      'accuracy': {'before': .1, 'valid': test + .001, 'test': test},
      'loss': {'valid': .1, 'test': .11},
      'curve': {'step': step, 'loss': list(2.3 * (1 - rise) + .1),
                'accuracy': list(test * rise)},
      'validation': {'step': [0, *step], 'loss': [2.3, *(2.4 * (1 - rise))],
                     'accuracy': [.1, *(test * rise).clip(0, 1)]},
      'density': {f'Dense_{i}/kernel': .5 for i in range(3)} if masks else {},
      'kept': .125 if masks else None,
      'bytes': {'masks': masks, 'coefficients': coefficients, 'values': values,
                'stats': 0, 'total': total, 'stored': total + 3000,
                'dedicated': 1066440},
      'seconds': {'train': 2 + float(rng.random()), 'evaluate': .1,
                  'save': .03}, 'basis': basis}


def make_summary(rng, records):
  main = [r for r in records if not r['control']]
  size = len(main)
  matrix = np.full((size, size), np.nan)
  for i in range(size):
    matrix[i, :i + 1] = [r['accuracy']['test'] for r in main[:i + 1]]
  masked = [r['entry'] for r in main if r['density']]
  overlap = 1 / 3 + .004 * rng.standard_normal((len(masked), len(masked)))
  overlap = (overlap + overlap.T) / 2
  np.fill_diagonal(overlap, 1)
  return {
      'names': [r['entry'] for r in main],
      'matrix': [[None if np.isnan(v) else float(v) for v in row]
                 for row in matrix],
      'before': [.1] * size, 'metrics': metrics.summarise(matrix),
      'overlap': {'names': masked, 'matrix': overlap.tolist()},
      'seconds': 93.2, 'verified': {'ok': True, 'tasks': size}}


def quickstart(tasks=10, points=20):
  """`tasks` supermasks, as many combinations of 10, as many controls."""
  rng = np.random.default_rng(0)
  names = [f'permuted-{i:02d}' for i in range(2 * tasks)]
  basis = {'kind': 'heterogeneous', 'size': 10}
  records = [make_record(rng, n, 'basis', 'supsup', points=points)
             for n in names[:tasks]]
  for n in names[tasks:]:
    records.append(make_record(rng, n, 'impress', 'impresslearn', basis=basis,
                               accuracy=.94, points=points))
    records.append(make_record(rng, n, 'control', 'dedicated', True,
                               accuracy=.97, tag='@dedicated', points=points))
  return RUN, records, make_summary(rng, records)


def sweep():
  """Three kinds of basis of five sizes on six tasks, with controls."""
  rng = np.random.default_rng(1)
  records = [make_record(rng, f'rotated-{t}', 'control', 'dedicated', True,
                         accuracy=.97, tag='@dedicated') for t in range(6)]
  for k, kind in enumerate(('heterogeneous', 'homogeneous', 'random')):
    for size in (2, 5, 10, 20, 40):
      records += [make_record(
          rng, f'rotated-{t}', f'{kind}-{size}', 'impresslearn',
          basis={'kind': kind, 'size': size}, tag=f'@{kind}-{size}',
          accuracy=.95 - .08 * k - .5 / size) for t in range(6)]
  return RUN, records, {**make_summary(rng, records), 'matrix': None,
                        'overlap': None, 'metrics': []}


class Page(html.parser.HTMLParser):
  """Checks nesting, collects elements and the text."""
  void = {'meta', 'link', 'br', 'hr', 'img', 'input'}

  def __init__(self, page):
    super().__init__()
    self.open, self.elements, self.words = [], [], []
    self.feed(page)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in self.void:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.words.append(data)


def figures(page):
  return [name.removeprefix('figure-') for _, attrs in page.elements
          if (name := attrs.get('id', '') or '').startswith('figure-')]


@pytest.fixture(scope='module', name='page')
def fixture_page():
  return Page(report_page.render(*quickstart()))


def test_docstrings():
  for module in (rows_lib, drawing):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_quickstart_has_every_figure_but_the_sweep(page):
  assert figures(page) == [name for name in FIGURES if name != 'basis']


def test_sweep_has_the_figure_of_basis_sizes():
  shown = figures(Page(report_page.render(*sweep())))
  assert 'basis' in shown
  assert not {'matrix', 'overlap', 'density'} & set(shown)


REMOVE = {
    'accuracy': lambda r, s: r.update(accuracy=None),
    'matrix': lambda r, s: s.update(matrix=None),
    'overlap': lambda r, s: s.update(overlap=None),
    'curves': lambda r, s: r.update(curve={}),
    'validation': lambda r, s: r.update(validation=None),
    'density': lambda r, s: r.update(density={}),
    'bytes': lambda r, s: r.update(bytes=None),
    'seconds': lambda r, s: r.update(seconds=None),
}


def test_a_figure_without_data_is_left_out(monkeypatch):
  monkeypatch.setattr(vector, 'svg', lambda _: '<svg></svg>')  # slow to write
  run, records, summary = quickstart(3)
  for name, remove in REMOVE.items():
    few, less = copy.deepcopy(records), dict(summary)
    for record in few:
      remove(record, less)
    shown = figures(Page(report_page.render(run, few, less)))
    gone = {name, 'basis'} | {'accuracy': {'against_bytes', 'seen'},
                              'bytes': {'against_bytes'},
                              'matrix': {'forgetting'}}.get(name, set())
    assert shown == [n for n in FIGURES if n not in gone]


def test_one_method_alone_has_nothing_to_compare_its_bytes_with():
  run, records, summary = quickstart(3)
  same = [record | {'method': 'supsup'} for record in records]
  shown = figures(Page(report_page.render(run, same, summary)))
  assert 'against_bytes' not in shown


def test_one_bare_record_and_none_at_all():
  bare = {'entry': 'a', 'task': 'a', 'phase': 'p', 'method': 'm',
          'control': False}
  assert not figures(Page(report_page.render({}, [bare], {})))
  assert not figures(Page(report_page.render({}, [], {})))
  for records in ([], [bare]):
    report_page.table(records, {})


def test_diagonal_alone_is_no_matrix():
  run, records, summary = quickstart(2)
  size = len(summary['names'])
  summary['matrix'] = [[.9 if i == j else None for j in range(size)]
                       for i in range(size)]
  assert 'matrix' not in figures(
      Page(report_page.render(run, records, summary)))


def only_own_script_runs(text):
  """The content policy names the digest of the one script that there is."""
  script = re.search('<script>(.*?)</script>', text, re.S)[1]
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  assert f"script-src 'sha256-{digest}'\">" in text


def test_names_are_escaped():
  run, records, summary = copy.deepcopy(quickstart(3))
  for record in records:
    for key in ('entry', 'task', 'phase', 'method'):
      record[key] = EVIL
    record['density'] = {EVIL: .5}
    record['basis'] = {'kind': EVIL, 'size': len(record['entry'])}
  summary['names'] = [EVIL] * 6
  summary['overlap']['names'] = [EVIL] * 3
  summary['metrics'] = [{'name': EVIL, 'title': EVIL, 'citation': EVIL,
                         'value': .5}]
  run = {'config': {EVIL: EVIL}, 'command': EVIL, 'versions': {EVIL: EVIL},
         'hardware': {'device': EVIL}, 'backbone': {'model': EVIL}}
  text = report_page.render(run, records, summary)
  page = Page(text)
  assert text.count('<script') == 1 and 'alert("x")' not in re.sub(
      r'>[^<]*<', '><', text)
  only_own_script_runs(text)
  assert EVIL in ''.join(page.words)
  output = io.StringIO()
  rich.console.Console(file=output, width=400).print(
      report_page.table(records, summary))
  assert EVIL in output.getvalue()


def test_nothing_is_loaded(page):
  for tag, attrs in page.elements:
    assert tag not in ('link', 'iframe', 'object')
    assert tag != 'script' or not attrs
    for name in ('src', 'href', 'xlink:href', 'data', 'action'):
      assert re.match('#|data:image/png;base64,', attrs.get(name) or '#')
  text = report_page.render(*quickstart(2))
  assert not re.search(r'url\((?!#)|@import', text)


def test_references_resolve_and_ids_are_unique(page):
  ids = [attrs['id'] for _, attrs in page.elements if 'id' in attrs]
  assert len(set(ids)) == len(ids)
  used = [attrs.get('xlink:href', '#')[1:] for _, attrs in page.elements]
  used += [m for _, attrs in page.elements for value in attrs.values()
           for m in re.findall(r'url\(#([^)]*)\)', value or '')]
  assert {u for u in used if u and not u.startswith('ata:')} <= set(ids)


def test_numbers_are_those_of_the_input(page):
  _, records, summary = quickstart()
  words = ''.join(page.words)
  for record in records:
    assert f'{100 * record["accuracy"]["test"]:.2f} %' in words
  for row in summary['metrics']:
    assert row['citation'] in words
    assert f'{100 * row["value"] + 0.:.2f} %' in words
  rows = rows_lib.phases(records)
  assert [(r['phase'], r['tasks']) for r in rows] == [
      ('basis', 10), ('impress', 10), ('control', 10)]
  tests = [r['accuracy']['test'] for r in records[:10]]
  assert rows[0]['accuracy'] == (f'{100 * np.mean(tests):.1f} ± '
                                 f'{100 * np.std(tests, ddof=1):.1f} %')
  assert rows[0]['ratio'] == '1/32'
  assert [row['density'] for row in rows_lib.tasks(records)[9:11]] == [
      '12.5 %', '–']
  assert RUN['command'] in words


def test_chance_of_overlap_is_that_of_independent_masks():
  text = report_page.render(*quickstart(2))
  assert 'would give 0.33.' in text  # 0.5 / (2 - 0.5)


def test_failed_verification_is_said():
  run, records, summary = quickstart(2)
  summary['verified'] = {'ok': False, 'tasks': 4}
  text = report_page.render(run, records, summary)
  assert 'Verification failed' in text and 'never changed' not in text


def test_250_tasks_stay_small():
  assert len(report_page.render(*quickstart(125, points=100)).encode()) < 2e6


def test_same_input_same_bytes():
  once, again = (report_page.render(*quickstart(2)) for _ in range(2))
  assert once == again


def test_write_replaces_whole_files(tmp_path, monkeypatch):
  path = tmp_path / 'report.html'
  report_page.write(path, *quickstart(2))
  before = path.read_text(encoding='utf-8')
  assert before.endswith('</html>\n') or before.endswith('</html>')

  def fail(*_):
    raise OSError('disk full')
  monkeypatch.setattr(os, 'replace', fail)
  with pytest.raises(OSError, match='disk full'):
    report_page.write(path, *quickstart(3))
  assert path.read_text(encoding='utf-8') == before
  assert [p.name for p in tmp_path.iterdir()] == ['report.html']


def test_what_coefficients_share_is_said(page):
  """Beside 120 bytes a task: ten masks of 34,000 bytes."""
  _, records, _ = quickstart()
  sentence, = rows_lib.shared(records)
  size = records[0]['bytes']['masks']
  assert sentence == (
      'coefficients of 10 tasks need 10 stored masks beside their own bytes: '
      f'{rows_lib.readable_size(10 * size)}, or '
      f'{rows_lib.readable_size(size)} for each of these tasks')
  assert sentence[1:] in ''.join(page.words)
  assert not rows_lib.shared([r for r in records if not r['basis']])


def test_a_path_that_was_replaced_counts_with_its_costs_alone():
  """Two tasks in two passes: earlier paths stay stored, but answer no more."""
  rng = np.random.default_rng(0)
  records = [make_record(rng, f'task-{i % 2}', 'grow', 'munet', tag=tag)
             | {'search': {'parent': 'root'}, 'repeat': 1 - i // 2}
             for i, tag in enumerate(('~1', '~1', '', ''))]
  for i, record in enumerate(records):
    record['accuracy']['test'] = (.3, .4, .8, .6)[i]
    record['bytes'] |= {'total': 1000 * 2 ** i, 'stored': 1000 * 2 ** i}
    record['seconds'] = {'train': 2. ** i}
  row, = rows_lib.phases(records)
  assert (row['tasks'], row['accuracy'], row['lowest'], row['memory'],
          row['train']) == (2, '70.0 ± 14.1 %', '60.0 %', '7.5 kB', '7.50 s')
  (count, *_), (accuracy, *_), (size, *_), *_ = report_page._cards(records, {})
  assert (count, accuracy, size) == (2, '70.0 %', '7.5 kB')
  lines = [{'kind': 'task'} | r for r in records]
  (_, _, tasks, _, test, _), = seeds.table({'s': [[
      *lines, {'kind': 'summary', 'seconds_in_all': 1.}]]})
  assert (tasks, test) == ('2', '70.00')


def test_repeats_of_a_task_are_one_task():
  rng = np.random.default_rng(0)
  row, = rows_lib.phases([make_record(rng, 'task', 'a', 'supsup', tag=f'~{i}')
                          for i in range(3)])
  assert row['tasks'] == 1 and '±' in row['accuracy']


def test_bases_of_several_phases_need_the_masks_of_each():
  """Three of one phase; two repeats of another, whose first mask it shares."""
  records = quickstart(4)[1]
  masks, combined = ([r for r in records if r['method'] == method]
                     for method in ('supsup', 'impresslearn'))
  for i, record in enumerate(masks):
    record |= {'phase': 'a' if i < 2 else 'b', 'task': f'task-{i // 2}',
               'repeat': i % 2 if i > 1 else 0}
    record['bytes']['masks'] = 1000 * 2 ** i
  for record, basis in zip(combined, (
      ('heterogeneous', 2, 'a'), ('heterogeneous', 1, 'a'),
      ('heterogeneous', 1, 'b'), ('homogeneous', 2, 'b'))):
    record['basis'] = dict(zip(('kind', 'size', 'phase'), basis))
  sizes = lambda: [re.search(r'need (\d+) .*: (.* kB), or', sentence).groups()
                   for sentence in rows_lib.shared([*masks, *combined])]
  assert sizes() == [('4', '15 kB')]
  del combined[-1]
  assert sizes() == [('3', '7 kB')]


def test_terminal_table():
  _, records, summary = quickstart()
  small = report_page.table(records, summary)
  assert small.row_count == 30
  _, records, summary = quickstart(20)
  large = report_page.table(records, summary)
  assert large.row_count == 3
  output = io.StringIO()
  rich.console.Console(file=output, width=120).print(large)
  assert 'impress' in output.getvalue() and '1/32' in output.getvalue()


@pytest.mark.parametrize('name', ['permuted-10@one', 'permuted-10@two-more'])
def test_terminal_table_has_whole_numbers_at_80_columns(name, monkeypatch):
  _, records, summary = quickstart()
  records[-1] = records[-1] | {'entry': name, 'seconds': {'train': 1.24}}
  output = io.StringIO()
  monkeypatch.setattr(terminal.console_lib, 'Console', functools.partial(
      rich.console.Console, file=output, width=80, force_terminal=True))
  terminal.show(records, summary, 'report.html')
  lines = re.sub('\x1b[^m]*m', '', output.getvalue()).splitlines()
  assert all(len(line) <= 80 for line in lines)
  last, = (line for line in lines if line.startswith(f'{name} '))
  assert re.search(r'[\d.]+ k?M?B +(1/)?\d+ +1.24 s$', last.rstrip())


def test_rows_say_what_they_are_sorted_by(page):
  _, records, _ = quickstart()
  cells = [attrs for tag, attrs in page.elements
           if tag == 'td' and 'data-sort' in attrs]
  assert len(cells) >= 6 * len(records)
  assert str(records[0]['accuracy']['test']) in [c['data-sort'] for c in cells]
  assert [a for t, a in page.elements if t == 'input' and a['id'] == 'filter']


def test_a_regression_is_sorted_by_its_loss():
  record = {'entry': 'a', 'task': 'a', 'phase': 'p', 'method': 'm',
            'control': False, 'accuracy': {'test': None}, 'loss': {'test': .2}}
  assert rows_lib.tasks([record])[0]['sort']['test'] == -.2


def test_every_figure_can_be_saved(page):
  links = [attrs['download'] for tag, attrs in page.elements
           if tag == 'a' and 'download' in attrs]
  assert links == [f'{name}.svg' for name in figures(page)]
