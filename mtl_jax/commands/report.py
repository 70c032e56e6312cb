"""`mtl-jax report`: writes the table and page of a finished run again."""

import argparse
import sys

from mtl_jax.report import page
from mtl_jax.report import terminal
from mtl_jax.serving import checks
from mtl_jax.serving import verification
from mtl_jax.storage import anywhere
from mtl_jax.storage import json_records
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import commit

DESCRIPTION = (
    'Writes report.html of a finished run again and prints its table, '
    'without computing anything: from the stored tasks and the last summary.')
EXAMPLES = (
    ('{} --workdir=runs/quickstart', 'the table, and the page in the workdir'),
    ('{} --workdir=runs/quickstart --output=report.html', 'the page elsewhere'),
    ('{} --workdir=runs/quickstart > table.txt', 'the table in a file'),
)


def flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags for the workdir and the page."""
  parser.add_argument('--workdir', required=True, metavar='DIR',
                      help='of a run')
  parser.add_argument('--output', metavar='FILE',
                      help='page to write, or its address in a bucket; '
                      'by default WORKDIR/report.html')


def main(given: argparse.Namespace) -> int | None:
  """Writes the page and prints the table."""
  work = workdir_lib.Workdir(given.workdir)
  work.read()
  if not work.root.is_dir():
    raise ValueError(f'there is no folder {work.root}')
  lines = list(json_records.read_lines(work.metrics))
  starts = [line for line in lines if line['kind'] in ('run', 'summary')]
  if [line['kind'] for line in starts[-2:]] != ['run', 'summary']:
    command = starts[-1].get('command') if starts else None
    raise ValueError(f'the last start in {work.root} has not ended; start it '
                     'again with its command, and it goes on'
                     f'{f": {command}" if command else ""}' if starts else
                     f'{work.root} holds no run; start one with mtl-jax run')
  run, summary = starts[-2:]
  verification.require_all(work)
  records = _records(work, lines)
  gone = sorted(set(summary.get('names', ())) - {
      record['entry'] for record in records})
  if gone:
    print('note: averages and figures are those of the last start, which also '
          f'had the tasks {checks.some(gone)}', file=sys.stderr)
  path = (work.report if given.output is None
          else anywhere.place(given.output))
  page.write(path, run, records, summary)
  terminal.show(records, summary, path)
  return None


def _records(work: workdir_lib.Workdir, lines: list[dict]) -> list[dict]:
  """Records of the tasks that the run learned, in the order of the log.

  Those that the log does not know, because their lines were removed, are last.
  """
  stored = set(work.task_names())
  logged = {line['entry']: line for line in lines if line['kind'] == 'task'}
  came, _ = json_records.came_and_went(lines)
  others = sorted(work.planned(stored - came))
  return [commit.with_log(commit.finished_record(work, name),
                          logged.get(name, {}))
          for name in (*logged, *others) if name in stored]
