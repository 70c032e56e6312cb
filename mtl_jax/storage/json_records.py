"""The JSON files and the log of a workdir.

They are written atomically and sealed with a hash (see `mtl_jax.json_files`);
a read names the file or line that was edited.
"""

import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator

from mtl_jax import json_files
from mtl_jax.parallel import writing
from mtl_jax.storage import disk_errors
from mtl_jax.storage import whole_files

_NUMBER = json_files.NUMBER
# By file name: description, schema, remedy.
_FILES: dict[str, tuple[str, json_files.Schema, str]] = {
    'config.json': ('the config', {'seed': int, 'suite': dict, 'phases': dict,
                                   'backbone': dict, 'schedule': list},
                    'restore it from a copy, or undo the edit'),
    'backbone.json': ('the recipe of the backbone', {
        'model': str, 'outputs': int, 'options': dict, 'init': str,
        'seed': int, 'image_shape': list, 'fingerprint': str},
                      'restore it from a copy, or undo the edit'),
    'plan.json': ('the plan', {'suite': str, 'entries': list, 'streams': list},
                  'restore it from a copy, or remove it: the run\'s command '
                  'writes it again'),
    'start.json': ('the note of a start', {
        'start': (list, type(None)), 'seconds': _NUMBER},
                   'remove it: the seconds of the start that was killed are '
                   'then not counted'),
}
# Schema of a line of metrics.jsonl, by its kind.
_LINES: dict[str, json_files.Schema] = {
    'task': {'entry': str, 'seconds': dict},
    'imported': {'entry': str}, 'merged': {'entry': str},
    'renamed': {'entry': str},
    'row': {'entry': str, 'accuracy': dict},
    'validation': {'entry': str, 'step': int},
    'killed': {'seconds': _NUMBER},
    'summary': {'seconds': _NUMBER},
    'stream': {'phase': str, 'masks': int},
}
# Kinds of lines that report a new task.
ENTRY_KINDS = ('task', 'imported', 'merged', 'renamed')


def came_and_went(lines: Iterable[dict]) -> tuple[set[str], set[str]]:
  """(names of tasks that exist, names of those removed), from the log.

  >>> came, went = came_and_went([
  ...     {'kind': 'task', 'entry': 'a'}, {'kind': 'task', 'entry': 'b'},
  ...     {'kind': 'renamed', 'entry': 'c', 'from': 'a'},
  ...     {'kind': 'deleted', 'entry': 'b'}, {'kind': 'task', 'entry': 'b'}])
  >>> sorted(came), sorted(went)
  (['b', 'c'], ['a'])
  """
  came: set[str] = set()
  went: set[str] = set()
  for line in lines:
    gone = {'deleted': line.get('entry'), 'renamed': line.get('from')}.get(
        line['kind'])
    if gone is not None:
      came.discard(gone)
      went.add(gone)
    if line['kind'] in ENTRY_KINDS:
      came.add(line['entry'])
      went.discard(line['entry'])
  return came, went


def of_tasks(lines: Iterable[dict], there: Callable[[str], bool]) -> list[dict]:
  """The lines of a log without those that report tasks which are not there.

  Of a rename to such a task, it stays known that the old name is gone.

  Args:
    lines: lines of the log.
    there: (name of a task) -> whether its lines stay.

  >>> of_tasks([{'kind': 'renamed', 'entry': 'b', 'from': 'a'},
  ...           {'kind': 'row', 'entry': 'b'}], lambda name: name != 'b')
  [{'kind': 'deleted', 'entry': 'a'}]
  """
  found = []
  for line in lines:
    if line['kind'] not in (*ENTRY_KINDS, 'row') or there(line['entry']):
      found.append(line)
    elif line.get('from') is not None:
      found.append({'kind': 'deleted', 'entry': line['from']})
  return found


def write_atomic(path: pathlib.Path, text: str) -> None:
  """Replaces a file as a whole, or leaves it unchanged."""
  if not writing.here():
    return
  whole_files.replace(path, text.encode())


def write_json(path: pathlib.Path, value: dict) -> None:
  """Replaces a JSON file as a whole and seals it."""
  write_atomic(path, json.dumps(json_files.sealed(value), indent=2) + '\n')


def read_json(path: pathlib.Path) -> dict:
  """The object in one of a workdir's JSON files.

  Raises:
    ValueError: the file is missing, malformed or was edited; names it.
  """
  try:
    what, schema, remedy = _FILES[path.name]
    return json_files.read(path, schema, what, remedy)
  except FileNotFoundError as error:
    if not path.parent.exists():
      raise ValueError(f'there is no file or folder {path.parent}; give the '
                       'workdir of a run, or an exported file') from error
    raise ValueError(f'{path} is missing: {path.parent} is not the workdir of '
                     'a run; give such a folder, or an exported file'
                     ) from error


def append_line(path: pathlib.Path, record: dict) -> None:
  """Appends one JSON line and waits until it is on the disk."""
  append_lines(path, [record])


def append_lines(path: pathlib.Path, records: Iterable[dict],
                 flush: bool = True) -> None:
  """Appends JSON lines; does nothing if there are none.

  Args:
    path: the log.
    records: one per line.
    flush: whether to wait until the lines are on the disk.
  """
  lines = ''.join(map(_line, records))
  if not lines or not writing.here():
    return
  if path.exists() and not is_whole(path):
    _end_last_line(path)
  with disk_errors.named(path), path.open('a') as file:
    file.write(lines)
    if flush:
      file.flush()
      os.fsync(file.fileno())


def _end_last_line(path: pathlib.Path) -> None:
  """Removes what a kill, or a full disk, left of a log's last line."""
  with path.open('rb+') as file:
    content = file.read()
    begin = content.rfind(b'\n') + 1
    try:
      json_files.parse(content[begin:], dict, str(path), 'the log')
      file.write(b'\n')
    except ValueError:
      file.truncate(begin)


def read_lines(path: pathlib.Path) -> Iterator[dict]:
  """The JSON lines of metrics.jsonl; skips a last line that a kill cut off.

  Raises:
    ValueError: a line is malformed or was edited; names file and line.
  """
  if path.exists():
    yield from json_files.read_lines(
        path, _LINES, 'the log', 'restore the file from a copy, or remove the '
        'line: the run\'s command makes again what it needs')


def is_whole(path: pathlib.Path) -> bool:
  """Whether the last line of a log is complete."""
  if not path.exists():
    return False
  with path.open('rb') as file:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    return file.read() in (b'\n', b'')


def _line(record: dict) -> str:
  return json.dumps(json_files.sealed(record)) + '\n'


def label(lines: list[dict]) -> list | None:
  """The identifier of the last start, if the log doesn't say how it ended."""
  starts = [line for line in lines if line['kind'] == 'run']
  ends = [line['kind'] for line in lines
          if line['kind'] in ('run', 'killed', 'summary')]
  if ends[-1:] != ['run']:
    return None
  return [len(starts), starts[-1].get('started')]


def total_seconds(lines: Iterable[dict]) -> float:
  """Seconds of all starts, including killed ones.

  Earlier versions left no line for a killed start; for these only the finished
  tasks are counted (see `whole_seconds`).

  >>> total_seconds([
  ...     {'kind': 'run'}, {'kind': 'task', 'seconds': {'train': 2.}},
  ...     {'kind': 'killed', 'seconds': 7.},
  ...     {'kind': 'run'}, {'kind': 'summary', 'seconds': 3.}])
  10.0
  """
  total = start = 0.
  for line in lines:
    if line['kind'] == 'run':  # the start before this one was killed
      total, start = total + start, 0.
    elif line['kind'] == 'task':
      start += sum(seconds for part, seconds in line['seconds'].items()
                   if part != 'busy')  # a part of 'train'
    elif line['kind'] in ('killed', 'summary'):
      total, start = total + line['seconds'], 0.
  return total


def whole_seconds(lines: Iterable[dict]) -> bool:
  """Whether `total_seconds` covers every start completely.

  >>> whole_seconds([{'kind': 'run'}, {'kind': 'run'}, {'kind': 'summary'}])
  False
  """
  kinds = [line['kind'] for line in lines
           if line['kind'] in ('run', 'killed', 'summary')]
  return all(after != 'run' for kind, after in zip(kinds, kinds[1:])
             if kind == 'run')


def write_lines(path: pathlib.Path, lines: list[dict]) -> None:
  """Replaces a file of JSON lines as a whole."""
  write_atomic(path, ''.join(map(_line, lines)))
