"""How a part of the slow tests ends."""

import os
import pathlib
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / '.ci' / 'slow'
PASSED = '[gw0] [  3%] PASSED tests/test_a.py::test_FAILED\n'
ERROR = '[gw0] [100%] ERROR tests/test_a.py::test_c\n'
FAILED = '[gw1] [ 12%] FAILED tests/test_a.py::test_b\n'


@pytest.mark.parametrize('said, ended, code, says', [
    (PASSED, 0, 0, ''),
    (PASSED + FAILED, 1, 1, ''),
    (PASSED, 124, 0, '== the rest of part 2/4 did not fit into 7m\n'),
    (PASSED + FAILED, 124, 1, FAILED),  # the other worker went on
    (PASSED + ERROR, 124, 1, ERROR),
    ('', 137, 137, ''),  # killed by something else
])
def test_a_part_fails_by_its_tests_and_not_by_the_clock(
    tmp_path, said, ended, code, says):
  # In place of the command `timeout`: what pytest said, and how it ended.
  stub = tmp_path / 'timeout'
  stub.write_text('#!/bin/sh\nprintf "%s" "$SAID"; echo "$@" > "$ARGS"\n'
                  f'exit {ended}\n')
  stub.chmod(0o755)
  done = subprocess.run(
      [SCRIPT, '2/4', '7m'], check=False, capture_output=True, text=True,
      env=os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}',
                        'SAID': said, 'ARGS': str(tmp_path / 'args')})
  assert (done.returncode, done.stdout) == (code, said + says)
  words = (tmp_path / 'args').read_text().split()
  assert words[0] == '7m' and '-x' in words and '2/4' in words
