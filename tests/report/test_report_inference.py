"""What the report says of runs without task names."""

import pytest

from mtl_jax.report import figures as figures_lib
from mtl_jax.report import inference as inference_report
from mtl_jax.report import page as report_page

RECORD = {'entry': 'a', 'task': 'a', 'phase': 'masks', 'method': 'supsup',
          'control': False, 'accuracy': {'before': .1, 'valid': .9,
                                         'test': .9}}


def line(tasks, name='one', **changes):
  """A line of `scenarios.measure`."""
  return {'kind': 'identity', 'name': name, 'tasks': tasks,
          'rule': 'one_shot', 'objective': 'superfluous', 'images': 1,
          'batch_size': 128, 'identified': .75, 'passes': 1.,
          'accuracy': {'GG': .9, 'GNs': .8, 'GNu': .7},
          'confusion': None} | changes


def confused(*names):
  size = len(names)
  return {'names': list(names), 'counts': [[4 * (i == j) + 1 for j in range(
      size)] for i in range(size)]}


def test_a_row_holds_every_scenario():
  row, = inference_report.rows({'identity': [line(5)]})
  assert row == {'name': 'one', 'tasks': 5, 'rule': 'one-shot, G',
                 'images': '1 of 128', 'identified': '75.00 %',
                 'passes': '1', 'GG': '90.00 %', 'GNs': '80.00 %',
                 'GNu': '70.00 %'}


@pytest.mark.parametrize('returned, said', [(None, False), (.5, True)])
def test_a_stream_says_how_many_masks_it_made(returned, said):
  text, = inference_report.sentences({'streams': [{
      'phase': 'row', 'tasks': 3, 'masks': 4, 'right_at_first': .25,
      'right_on_return': returned}]})
  assert '3 unnamed tasks was learned with 4 masks; 25.00 %' in text
  assert ('50.00 % when tasks returned' in text) == said


def test_a_mixed_batch_says_how_far_it_is_from_calls_task_by_task():
  text, = inference_report.sentences({'mixed': {
      'rows': 160, 'tasks': 20, 'accuracy': .5, 'difference': 2e-6}})
  assert '160 rows of 20 tasks' in text and 'accuracy 50.00 %' in text
  # One timing would say nothing.
  assert text.endswith('from separate calls 2e-06')


def test_page_and_terminal_say_it():
  summary = {'identity': [line(5)], 'verified': {'ok': True, 'tasks': 1}}
  page = report_page.render({}, [RECORD], summary)
  assert 'Without task names' in page and 'one-shot, G' in page
  assert '75.00 %' in str(report_page.table([RECORD], summary).caption)
  assert 'Without task names' not in report_page.render({}, [RECORD], {})


def test_curves_are_drawn_when_there_are_several_sizes():
  draw = lambda lines: {f.name: f for f in figures_lib.draw(
      [RECORD], {'identity': lines})}
  assert 'identity' not in draw([line(5)])
  assert 'identity' not in draw([line(5), line(9, 'other')])
  drawn = draw([line(9), line(5)])['identity']
  assert 'task identified' in drawn.svg


def test_the_largest_confusion_is_drawn():
  drawn = {f.name: f for f in figures_lib.draw([RECORD], {'identity': [
      line(2, confusion=confused('a', 'b')),
      line(3, 'big', confusion=confused('a', 'b', 'c')), line(90)]})}
  assert '“big”, 3 tasks' in drawn['confusion'].caption
