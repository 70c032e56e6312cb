"""What the figures draw: where lines end, what they say, in which colours."""

import html
import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
import test_page

from mtl_jax.report import course
from mtl_jax.report import drawing
from mtl_jax.report import figures as figures_lib
from mtl_jax.report import search as search_report
from mtl_jax.report import vector

SVG = '{http://www.w3.org/2000/svg}'


def path_record(task, ids, parent='root', private=False, tag=''):
  """A record of a stored path; the ids of its components, from below."""
  names = ['embedding', 'encoderblock_0', 'adapter_0', 'encoderblock_1',
           'head']
  return {
      'entry': task + tag, 'task': task, 'phase': 'grow', 'method': 'munet',
      'control': False, 'accuracy': {'test': .5 + len(task) / 50},
      'search': {
          'components': [[n, i, 10] for n, i in zip(names, ids)],
          'from_root': names[:1], 'private': private, 'seed': parent,
          'quality': .6, 'weights': 50, 'accounted': 25, 'flops': 1e6,
          'children': [{'evals': [.4, .6], 'improved': True},
                       {'evals': [], 'improved': False}]}}


def grown(tasks=3):
  first = path_record('t0', ['e', 'a', 'b', 'c', 'h0'])
  return [first] + [path_record(
      f't{k}', ['e', f'a{k}' if k % 2 else 'a', 'b', f'c{k % 3}', f'h{k}'],
      't0' if k % 2 else f't{k - 1}', k == 1) for k in range(1, tasks)]


def groups_of(svg, kind):
  """[(title, vertices)] of the groups of a kind."""
  found = []
  for group in ET.fromstring(svg).iter(SVG + 'g'):
    if group.get('class') == kind:
      numbers = re.findall(r'[ML] (\S+) (\S+)', next(
          group.iter(SVG + 'path')).get('d'))
      found.append((group.find(SVG + 'title').text, np.array(numbers, float)))
  return found


def draw(name, records, summary=None):
  """The SVG of one figure alone."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(figures_lib, '_FIGURES', {name: figures_lib._FIGURES[name]})
    figure, = figures_lib.draw(records, summary or {})
  return figure.svg


@pytest.mark.parametrize('tasks', [1, 3, 24])
def test_the_lines_of_a_grown_network_end_at_their_nodes(tasks):
  records = grown(tasks)
  svg = draw('network', records)
  boxes = [(vertices.min(0), vertices.max(0)) for _, vertices in groups_of(
      svg, 'node')]
  chains = groups_of(svg, 'chain')
  assert len(chains) == tasks
  for _, vertices in chains:
    assert len(vertices) == 8  # two ends of each of four lines
    for x, y in vertices:
      meet = [low for low, high in boxes if low[0] <= x <= high[0]
              and min(abs(y - low[1]), abs(y - high[1])) < .01]
      assert len(meet) == 1, (x, y)


def test_a_node_says_what_it_is_and_who_uses_it():
  titles = [title for title, _ in groups_of(draw('network', grown()), 'node')]
  assert 'adapter_0, trained first by t0; used by t0, t1, t2' in titles
  assert 'embedding, of the root; used by t0, t1, t2' in titles


def test_no_arrow_of_inheritance_passes_through_another_branch():
  records = [path_record(name, 'eabch', parent) for name, parent in (
      ('a', 'root'), ('b', 'root'), ('c', 'a'), ('d', 'c'), ('e', 'b'))]
  column, names = search_report._family(records)
  assert names == ['root', 'a', 'c', 'd', 'b', 'e']
  for child in records:
    start = names.index(child['search']['seed'])
    between = names[start + 1:names.index(child['entry'])]
    assert all(column[n] > column[names[start]] for n in between)
  lost = [path_record('a', 'eabch', 'gone')]
  assert search_report._family(lost) == ({'root': 0, 'a': 1}, ['root', 'a'])


def contrast(one, other):
  high, low = sorted(map(drawing.luminance, (one, other)), reverse=True)
  return (high + .05) / (low + .05)


@pytest.mark.parametrize('count', range(1, drawing.COLOURS + 1))
def test_colours_are_read_on_white_and_in_the_dark_and_told_apart(count):
  colours = drawing.colours(count)
  for colour in colours:
    assert contrast(colour, '#ffffff') >= 3, colour
    assert contrast(colour, '#0d1117') >= 3, colour
  rgb = np.array([matplotlib.colors.to_rgb(c) for c in colours])
  apart = np.linalg.norm(rgb[:, None] - rgb, axis=-1)
  assert len(rgb) == 1 or apart[~np.eye(count, dtype=bool)].min() > .08


def test_a_mark_says_its_value_and_names_are_escaped():
  records = [r | {'entry': test_page.EVIL + "'"} for r in
             test_page.quickstart(2)[1]]
  svg = draw('accuracy', records)
  titles = [t.text for t in ET.fromstring(svg).iter(SVG + 'title')]
  assert len(titles) == len(records)
  said = f'{100 * records[0]["accuracy"]["test"]:.2f} %'
  assert f"{test_page.EVIL}' (basis): {said}" in titles
  assert html.escape(test_page.EVIL) in svg and test_page.EVIL not in svg


def test_every_mark_of_a_quickstart_has_its_value():
  for figure in figures_lib.draw(*test_page.quickstart(3)[1:]):
    if figure.name != 'density':
      assert '<title>' in figure.svg, figure.name
    assert 'tips-' not in figure.svg


def test_neutral_colours_follow_the_page_and_others_do_not():
  svg = draw('accuracy', test_page.quickstart(2)[1])
  assert 'fill: var(--fig-soft, #57606a)' in svg
  assert 'fill: #0072b2' in svg
  for colour, name in vector.NEUTRAL.items():
    assert not re.search(f'(?<!fig-{name}, ){colour}', svg)


def test_one_mark_per_task_against_its_bytes_and_all_it_relies_on():
  records = test_page.quickstart(3)[1]
  records[0]['bytes']['referenced'] = 5
  figure, caption = course.against_bytes(records, {})
  ax, = figure.axes
  assert ax.get_xscale() == 'log' and 'controls' in caption
  assert sum(len(line.get_xdata()) for line in ax.lines) == len(records)
  assert ax.lines[0].get_xdata()[0] == records[0]['bytes']['total'] + 5
  labels = [line.get_label() for line in ax.lines]
  assert labels == ['basis', 'impress', 'dedicated (control)']
  assert ax.lines[2].get_markerfacecolor() == 'none'


def test_the_average_counts_a_task_once_with_its_last_accuracy():
  records = [r | {'task': task, 'accuracy': {'test': test}} for r, task, test
             in zip(test_page.quickstart(3)[1], 'aba', (.5, .7, .9))]
  figure, _ = course.seen(records, {})
  np.testing.assert_allclose(
      figure.axes[0].lines[0].get_ydata(), [50, 60, 80])


def test_the_average_is_also_measured_again_where_all_was_measured():
  records = test_page.quickstart(1)[1][:2]
  summary = {'names': ['a', 'b'], 'matrix': [[.8, None], [.4, .6]]}
  found = [r | {'phase': 'one'} for r in records]
  line = course.seen(found, summary)[0].axes[0].lines[-1]
  np.testing.assert_allclose(line.get_ydata(), [80, 50])
  summary['matrix'][1][0] = None
  assert len(course.seen(found, summary)[0].axes[0].lines) == 1


def test_validation_stands_at_the_end_of_the_curves():
  records = test_page.quickstart(2)[1]
  svg = draw('curves', records)
  said = f'validation accuracy {100 * records[0]["accuracy"]["valid"]:.2f} %'
  assert said in svg and 'validation loss 0.1<' in svg
