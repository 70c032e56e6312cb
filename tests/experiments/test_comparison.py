"""What the table over all methods counts, on made-up runs."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / 'experiments'))

import collected  # noqa: E402 pylint: disable=wrong-import-position
import comparison_tables  # noqa: E402 pylint: disable=wrong-import-position

WHOLE = 1064800


def task(phase, test, total, referenced=0, **parts):
  return {'kind': 'task', 'phase': phase, 'accuracy': {'test': test},
          'bytes': {'total': total, 'referenced': referenced, **parts},
          'seconds': {'train': 2.}}


def run(tasks, carried=(), ok=True, identity=()):
  return {'tasks': tasks, 'identity': list(identity), 'summary': {
      'carried': list(carried), 'verified': {'ok': ok}, 'seconds': 60.},
          'run': {'command': 'python -m mtl_jax.main --config=a', 'seed': 0,
                  'versions': {'jax': '1'}, 'commit': 'c', 'hardware': {
                      'cpu': 'x', 'cores': 1, 'platform': 'cpu'}}}


JOINT = [task('joint', .9, WHOLE), task('joint', .8, 4000, WHOLE - 4000)]
BASIS = [task('basis', .9, 1000)] * 3


@pytest.mark.parametrize('phase, tasks, own, share', [
    ('supsup', [task('supsup', .9, 33275)] * 2, 33275, 0),
    ('subnetworks', [task('subnetworks', .9, 100, 900),
                     task('subnetworks', .9, 1000)], 1000, 0),
    ('joint', JOINT, 4000, (WHOLE - 4000) / 2),
    ('batche', [task('batche', .9, WHOLE + 60), task('batche', .9, 60)], 60,
     WHOLE / 2),
    ('psp', [task('psp', .9, WHOLE + 149, signs=149)] * 2, 149, WHOLE / 2),
    ('finetune', [task('finetune', .9, WHOLE)] * 2, 4000, (WHOLE - 4000) / 2),
    ('heterogeneous_20', [task('heterogeneous_20', .9, 240)] * 2, 240, 1500)])
def test_bytes_are_its_own_and_a_share_of_what_is_shared(phase, tasks, own,
                                                         share):
  made = run(tasks + BASIS + (JOINT if phase != 'joint' else []))
  cost = comparison_tables.ROWS[phase][2]
  assert cost(comparison_tables.of_phase(made, phase), made) == (own, share)


def test_what_goes_on_is_measured_at_the_end():
  made = run([task('psp', .9, 2, signs=1), task('psp', .8, 2, signs=1)],
             [{'phase': 'psp', 'end': [.5, .8]}])
  assert comparison_tables.at_the_end(made, 'psp') == (
      [50., 80.], pytest.approx(20.))
  assert comparison_tables.at_the_end(run(JOINT), 'joint') == ([90., 80.], 0.)


def test_a_row_says_what_was_measured(monkeypatch):
  found = [run([task('supsup', a, 33275), task('supsup', b, 33275)],
               identity=[{'name': 'supsup', 'accuracy': {'GNs': .5},
                          'identified': .25}]) for a, b in ((.9, .8), (.7, .8))]
  monkeypatch.setattr(collected, 'runs', lambda folder, prefix: found)
  row = comparison_tables.table('permuted').splitlines()[2]
  assert [cell.strip() for cell in row.strip('|').split('|')][1:] == [
      '80.00 ± 7.07', '70.0', '0', '33,275', '0', '2.0 ± 0.0',
      '50.0 ± 0.0 (found: 25.0 ± 0.0)']
  found[1]['summary']['verified']['ok'] = False
  assert '| NOT VERIFIED |' in comparison_tables.table('permuted')


def test_a_row_for_each_method_has_all_tasks_at_the_end(monkeypatch):
  found = [run([task('psp', a, 2, signs=1) | {'task': name}
                for name, a in (('one', .9), ('two', .8))]
               + [task('supsup', .7, 2) | {'task': 'one'}],
               [{'phase': 'psp', 'end': end}])
           for a, end in ((.9, [.5, .8]), (.9, [.6, .8]))]
  monkeypatch.setattr(collected, 'runs', lambda folder, prefix: found)
  head, _, *rows = [[cell.strip() for cell in line.strip('|').split('|')]
                    for line in comparison_tables.by_task('x').splitlines()]
  assert head == ['method', 'one', 'two']
  assert [row[1:] for row in rows] == [['70.00 ± 0.00'],
                                       ['55.00 ± 7.07', '80.00 ± 0.00']]


def test_methods_that_a_suite_lacks_are_not_drawn(monkeypatch, tmp_path):
  monkeypatch.setattr(collected, 'runs', lambda folder, prefix: [run(
      [task('supsup', .9, 33275)] + JOINT * (prefix == 'permuted'))])
  monkeypatch.setattr(comparison_tables, 'SUITES',
                      {'permuted': 'with joint', 'datasets': 'without'})
  comparison_tables.draw(tmp_path / 'drawn.svg')
  assert '<!-- joint -->' in (tmp_path / 'drawn.svg').read_text()


def test_no_run_has_no_row(monkeypatch):
  monkeypatch.setattr(collected, 'runs', lambda folder, prefix: [])
  assert comparison_tables.table('permuted') == collected.NONE
  assert comparison_tables.grid() == collected.NONE
  assert comparison_tables.by_task('datasets') == collected.NONE
