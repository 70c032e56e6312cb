"""Nothing that is done with many tasks costs more than in their proportion.

What is counted is calls of functions: no other process changes their number.
"""

import pathlib
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / 'experiments' / 'benchmarks'
sys.path.insert(0, str(FOLDER))

import growth  # noqa: E402 pylint: disable=wrong-import-position
import table  # noqa: E402 pylint: disable=wrong-import-position
import timing  # noqa: E402 pylint: disable=wrong-import-position

# What is measured at each number of tasks.
ROWS = {'commit of a task in a group', 'load_metadata of all tasks',
        'start of a finished run', 'bank of new candidates',
        'identify without names', 'predict, task after task', 'end of a run',
        'commit that leaves values'}


def check(folder, numbers):
  rows = [row for tasks in numbers
          for row in growth.measure(tasks, folder / str(tasks))]
  found = growth.exponents(rows)
  assert set(found) == ROWS
  assert not {name: exponent for name, exponent in found.items()
              if exponent > 1.1}, found
  assert [row['compiled'] for row in rows if 'compiled' in row] == (
      [0] * len(numbers))
  return rows


@pytest.mark.slow
def test_two_thousand_tasks_cost_in_proportion(tmp_path):
  check(tmp_path, (250, 1000, 2000))


@pytest.mark.slow
def test_few_tasks_fill_the_table(tmp_path, monkeypatch):
  monkeypatch.setattr(growth, 'AT_ONCE', 8)
  rows = check(tmp_path, (24, 48))
  text = table.render_growth([
      row | timing.origin() | {'exponent': 1.} for row in rows])
  assert len([row for row in text.splitlines() if row.startswith('|')]) == (
      2 + len(ROWS))


def test_the_exponent_of_a_square_is_two():
  rows = [{'name': 'pairs', 'tasks': tasks, 'calls': 3 * tasks ** 2}
          for tasks in (10, 40, 20)]
  rows += [{'name': growth.OF_ONE[0], 'tasks': tasks, 'calls': 7}
           for tasks in (10, 20)]
  found = growth.exponents(rows)
  assert found['pairs'] == pytest.approx(2.)
  assert found[growth.OF_ONE[0]] == pytest.approx(1.)
