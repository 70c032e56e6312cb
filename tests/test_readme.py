"""What the README promises, run as it stands there."""

import doctest
import io
import pathlib
import re
import contextlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / 'README.md').read_text()
PAGES = sorted({ROOT / name for name in ('README.md', 'CONTRIBUTING.md',
                                         'CHANGELOG.md')}
               | set((ROOT / 'docs').glob('*.md')))


def blocks(text):
  """(Python, the text block right after it) of a page."""
  return re.findall(r'```python\n(.*?)```\n+```text\n(.*?)```', text,
                    flags=re.DOTALL)


def test_it_is_short_and_says_the_command_of_ci_once():
  assert len(TEXT.split()) <= 900
  command = 'pip install ".[test]" && python -m pytest'
  assert [line for line in TEXT.splitlines() if command in line] == [command]
  assert command.replace('"', r'"').replace('.[', r'\.\[').replace(
      ']"', r'\]"') in (ROOT / '.ci' / 'run').read_text()


def test_its_python_runs_as_it_stands(tmp_path, monkeypatch):
  (code, expected), = blocks(TEXT)
  assert len([line for line in code.splitlines() if line.strip()]) <= 15
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  said = io.StringIO()
  with contextlib.redirect_stdout(said):
    exec(compile(code, 'README.md', 'exec'), {})  # pylint: disable=exec-used
  assert doctest.OutputChecker().check_output(
      expected, said.getvalue(), doctest.ELLIPSIS), said.getvalue()


@pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)
def test_every_link_of_a_page_leads_to_a_file(page):
  text = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
  for target in re.findall(r'\]\(([^)#\s]+)', text):
    if not target.startswith(('http:', 'https:')):
      assert (page.parent / target).exists(), f'{page.name}: {target}'
