"""The JSON files and the log of a workdir: written whole, sealed, read checked.

JSON files and lines are sealed (see `mtl_jax.json_files`): an edit is named.
"""

import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator

from mtl_jax import json_files
from mtl_jax.parallel import writing

_NUMBER = json_files.NUMBER
# By file name: what it is, what must stand in it, and what helps.
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
# What must stand in a line of metrics.jsonl, by its kind.
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
# Lines that say that a task is there: learned, or come in another way.
ENTRY_KINDS = ('task', 'imported', 'merged', 'renamed')


def came_and_went(lines: Iterable[dict]) -> tuple[set[str], set[str]]:
  """Names of tasks that came, and of those that were taken away since.

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


def write_atomic(path: pathlib.Path, text: str) -> None:
  """Replaces a file as a whole, or leaves it as it was."""
  if not writing.here():
    return
  handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
  with os.fdopen(handle, 'w') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.chmod(name, 0o644)
  os.replace(name, path)


def write_json(path: pathlib.Path, value: dict) -> None:
  """Replaces a JSON file as a whole, sealed."""
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
    raise ValueError(f'{path} is missing: {path.parent} is not the workdir of '
                     'a run') from error


def append_line(path: pathlib.Path, record: dict) -> None:
  """Adds one JSON line and flushes it to the disk."""
  append_lines(path, [record])


def append_lines(path: pathlib.Path, records: Iterable[dict],
                 flush: bool = True) -> None:
  """Adds JSON lines; nothing if there are none.

  Args:
    path: of the log.
    records: one per line.
    flush: whether to wait until they are on the disk.
  """
  lines = ''.join(map(_line, records))
  if not lines or not writing.here():
    return
  with path.open('a') as file:
    file.write(lines)
    if flush:
      file.flush()
      os.fsync(file.fileno())


def read_lines(path: pathlib.Path) -> Iterator[dict]:
  """The JSON lines of metrics.jsonl; a last one cut by a kill is passed over.

  Raises:
    ValueError: a line is malformed or was edited; names file and line.
  """
  if path.exists():
    yield from json_files.read_lines(
        path, _LINES, 'the log', 'restore the file from a copy, or remove the '
        'line: the run\'s command makes again what it needs')


def is_whole(path: pathlib.Path) -> bool:
  """Whether nothing of the last line of a log was cut off."""
  if not path.exists():
    return False
  with path.open('rb') as file:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    return file.read() in (b'\n', b'')


def _line(record: dict) -> str:
  return json.dumps(json_files.sealed(record)) + '\n'


def label(lines: list[dict]) -> list | None:
  """Which start the last one is, unless how it ended stands there already."""
  starts = [line for line in lines if line['kind'] == 'run']
  ends = [line['kind'] for line in lines
          if line['kind'] in ('run', 'killed', 'summary')]
  if ends[-1:] != ['run']:
    return None
  return [len(starts), starts[-1].get('started')]


def total_seconds(lines: Iterable[dict]) -> float:
  """Of all starts, those that were killed among them.

  Earlier versions left nothing of a start that was killed: of those only the
  tasks that it finished are counted (see `whole_seconds`).

  >>> total_seconds([
  ...     {'kind': 'run'}, {'kind': 'task', 'seconds': {'train': 2.}},
  ...     {'kind': 'killed', 'seconds': 7.},
  ...     {'kind': 'run'}, {'kind': 'summary', 'seconds': 3.}])
  10.0
  """
  total = start = 0.
  for line in lines:
    if line['kind'] == 'run':  # what stands before it was killed
      total, start = total + start, 0.
    elif line['kind'] == 'task':
      start += sum(line['seconds'].values())
    elif line['kind'] in ('killed', 'summary'):
      total, start = total + line['seconds'], 0.
  return total


def whole_seconds(lines: Iterable[dict]) -> bool:
  """Whether `total_seconds` has all starts whole.

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
