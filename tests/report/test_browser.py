"""The page in a browser: nothing overlaps, nothing is too wide, tables work.

Chromium takes the pictures; without it the tests are skipped.
"""

import html
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
from PIL import Image
import pytest
import test_drawings
import test_page

from mtl_jax.report import page as report_page

CHROMIUM = next(filter(None, map(shutil.which, (
    'chromium', 'chromium-browser', 'google-chrome'))), None)
MEASURE = (pathlib.Path(__file__).parent / 'measure.js').read_text()
WIDTHS = 400, 800, 1400
pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    not CHROMIUM, reason='no Chromium: apt-get install chromium')]


def grown():
  """A search of 24 tasks, most of them with words that are long."""
  records = [test_drawings.path_record(
      f'grown-{k:02d}', ['e', f'a{k % 4}', 'b', f'c{k % 3}', f'h{k}'],
      f'grown-{k - 1:02d}' if k % 3 else 'root') for k in range(24)]
  return test_page.RUN, records, {'seconds': 3.}


RUNS = {'quickstart': test_page.quickstart, 'sweep': test_page.sweep,
        'grown': grown, 'many': lambda: test_page.quickstart(30)}


def framed(path, text, width):
  """A file with the page in a frame: no window is as narrow as a telephone."""
  path.write_text(
      '<!doctype html><meta charset="utf-8"><body style="margin: 0"><iframe style="border: 0; '
      f'width: {width}px; height: 1000px" srcdoc="{html.escape(text)}">'
      '</iframe></body>')
  return path


def chromium(path, *flags, width=1400, height=1000):
  """What Chromium writes to stdout of a file."""
  return subprocess.run(
      [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu',
       '--hide-scrollbars', f'--user-data-dir={path.parent / "profile"}',
       f'--window-size={width},{height}', *flags, path.as_uri()],
      capture_output=True, text=True, timeout=180, check=True).stdout


def with_script(text, script):
  """The page with one more script, which its content policy would forbid."""
  text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', '', text)
  return text.replace('</body>', f'<script>{script}</script></body>')


def measured(path, *flags):
  dom = chromium(path, '--dump-dom', *flags)
  return json.loads(html.unescape(
      re.search('<pre id="measured">(.*?)</pre>', dom, re.S)[1]))


@pytest.mark.parametrize('width', WIDTHS)
@pytest.mark.parametrize('name', RUNS)
def test_no_words_overlap_and_nothing_is_too_wide(tmp_path, name, width):
  text = with_script(report_page.render(*RUNS[name]()),
                     f'(() => {{{MEASURE}}})()')
  found = measured(framed(tmp_path / 'page.html', text, width))
  assert found['width'] == width and found['texts'] > 30
  assert found['scroll'] <= width
  assert not found['overlaps']
  assert not found['outside']
  assert not found['wide']


@pytest.mark.parametrize('width', WIDTHS)
@pytest.mark.parametrize('dark', [False, True])
def test_the_page_is_dark_where_the_reader_likes_it(tmp_path, width, dark):
  path = tmp_path / 'page.html'
  framed(path, report_page.render(*test_page.quickstart(3)), width)
  picture = tmp_path / 'page.png'
  chromium(path, f'--screenshot={picture}', f'--blink-settings='
           f'preferredColorScheme={0 if dark else 1}')
  pixels = np.asarray(Image.open(picture).convert('L'), float)[:, :width]
  assert pixels.shape[1] == width
  assert (np.median(pixels) < 40) == dark
  # Words are there, as light as the page is dark.
  assert pixels.max() > 180 and pixels.min() < 80


def test_its_own_script_runs_under_its_content_policy(tmp_path):
  path = tmp_path / 'page.html'
  report_page.write(path, *test_page.quickstart(2))
  dom = chromium(path, '--dump-dom')
  assert '<html lang="en" class="js">' in dom
  assert dom.count('title="Sort by this column"') == 13
  foreign = path.read_text().replace('</body>', '<script>'
                                     'document.title = "broken"'
                                     '</script></body>')
  path.write_text(foreign)
  assert 'broken</title>' not in chromium(path, '--dump-dom')


TABLE = '''
const table = document.getElementById('tasks');
const names = () => [...table.tBodies[0].rows].filter((r) => !r.hidden)
    .map((r) => r.cells[0].textContent);
const press = (i) => table.tHead.rows[0].cells[i].firstChild.click();
const found = {};
press(8); found.up = names(); press(8); found.down = names();
press(9); found.missing = names();
press(0); found.names = names();
const field = document.getElementById('filter');
field.value = 'dedicated 03'; field.dispatchEvent(new Event('input'));
found.filtered = names();
found.shown = document.getElementById('shown').value;
const make = URL.createObjectURL;
let saved;
URL.createObjectURL = (blob) => { saved = blob; return make(blob); };
const link = document.querySelector('a.save');
link.addEventListener('click', (event) => event.preventDefault());
link.click();
const result = document.createElement('pre');
result.id = 'measured';
saved.text().then((text) => {
  found.svg = text;
  result.textContent = JSON.stringify(found);
  document.body.append(result);
});
'''


def test_rows_are_sorted_and_filtered_and_figures_saved(tmp_path):
  run, records, summary = test_page.quickstart(4)
  path = tmp_path / 'page.html'
  path.write_text(with_script(report_page.render(run, records, summary),
                              f'(() => {{{TABLE}}})()'))
  found = measured(path, '--virtual-time-budget=3000')
  rising = [r['entry'] for r in sorted(
      records, key=lambda r: r['accuracy']['test'])]
  assert found['up'] == rising and found['down'] == rising[::-1]
  without = [r['entry'] for r in records if not r['density']]
  assert found['missing'][-len(without):] == without  # – at the end
  assert found['names'] == sorted(r['entry'] for r in records)
  assert all('@dedicated' in name for name in found['filtered'])
  assert found['shown'] == f'{len(found["filtered"])} of {len(records)}'
  assert found['svg'].startswith('<svg') and 'var(' not in found['svg']
  assert 'xmlns="http://www.w3.org/2000/svg"' in found['svg']
