"""One reader: what isn't as it was written is named with file and line."""

import json
import re

import pytest

from mtl_jax import json_files

SCHEMA = {'a': int, 'b': (str, type(None))}
KINDS = {'task': {'entry': str}}


def read(path):
  return json_files.read(path, SCHEMA, 'the note', 'remove it')


@pytest.mark.parametrize('content, text', [
    (b'', 'line 1: the note is malformed: Expecting value'),
    (b'{"a": 1,\n"b": ', 'line 2: the note is malformed'),
    (b'3', 'expected an object, got 3; remove it'),
    (b'[1, 2]', r'expected an object, got \[1, 2\]; remove it'),
    (b'null', 'expected an object, got null'),
    (b'{"a": 1}', r"the note lacks 'b' \(a string or null\); remove it"),
    (b'{"a": "1", "b": null}', '\'a\' is "1", expected an integer; remove it'),
    (b'{"a": true, "b": null}', "'a' is true, expected an integer"),
    (b'{"a": 1,\n"b": "\xff"}', 'line 2: .* byte 15 is not UTF-8; remove'),
    (b'[' * 100_000, 'the note is malformed'),
    (b'{"a": 1, "b": null, "sha256": 0}', 'was changed since it was written'),
])
def test_a_file_of_another_shape_is_named(tmp_path, content, text):
  path = tmp_path / 'note.json'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=text) as caught:
    read(path)
  assert str(caught.value).startswith(str(path))
  assert '\n' not in str(caught.value)


def test_a_folder_in_its_place_is_named(tmp_path):
  (tmp_path / 'note.json').mkdir()
  with pytest.raises(ValueError, match='the note cannot be read: Is a direc'):
    read(tmp_path / 'note.json')


def test_a_missing_file_is_its_callers_business(tmp_path):
  with pytest.raises(FileNotFoundError):
    read(tmp_path / 'note.json')


def test_a_seal_holds_for_the_content_not_its_layout(tmp_path):
  path, value = tmp_path / 'note.json', {'a': 1, 'b': 'x'}
  path.write_text(json.dumps(json_files.sealed(value), indent=2))
  assert read(path) == value
  path.write_text(json.dumps(dict(reversed(json_files.sealed(value).items()))))
  assert read(path) == value
  path.write_text(json.dumps(json_files.sealed(value) | {'a': 2}))
  with pytest.raises(ValueError, match='changed since it was written'):
    read(path)
  path.write_text(json.dumps(value))  # of an earlier version
  assert read(path) == value


def lines(path, *values):
  path.write_text(''.join(json.dumps(v) + '\n' for v in values))
  return list(json_files.read_lines(path, KINDS, 'the log'))


@pytest.mark.parametrize('bad, text', [
    (3, 'line 2: the log is malformed: expected an object, got 3'),
    ([], r'line 2: .*expected an object, got \[\]'),
    ({'entry': 'a'}, r"line 2: the log lacks 'kind' \(a string\)"),
    ({'kind': 7}, "line 2: .* 'kind' is 7, expected a string"),
    ({'kind': 'task'}, "line 2: the log lacks 'entry'"),
    ({'kind': 'task', 'entry': None}, "'entry' is null, expected a string"),
    (json_files.sealed({'kind': 'x'}) | {'y': 1}, 'line 2: .*was changed'),
])
def test_a_line_of_another_shape_is_named(tmp_path, bad, text):
  with pytest.raises(ValueError, match=text) as caught:
    lines(tmp_path / 'log', {'kind': 'run'}, bad, {'kind': 'run'})
  assert 'remove the line' in str(caught.value)


def test_a_line_that_lost_its_seal_is_named(tmp_path):
  run, task = ({'kind': kind, 'entry': ''} for kind in ('run', 'task'))
  path = tmp_path / 'log'
  assert len(lines(path, run, json_files.sealed(task))) == 2
  with pytest.raises(ValueError, match='line 2: .*a line without its seal'):
    lines(path, json_files.sealed(run), task)


def test_only_a_last_line_may_be_cut(tmp_path):
  path = tmp_path / 'log'
  path.write_text('{"kind": "run"}\n{"kind": "ta')
  assert list(json_files.read_lines(path, KINDS, 'the log')) == [
      {'kind': 'run'}]
  path.write_text('{"kind": "ta\n{"kind": "run"}\n')
  with pytest.raises(ValueError, match='log, line 1: the log is malformed'):
    list(json_files.read_lines(path, KINDS, 'the log'))


def test_text_in_something_else_is_held_against_a_type_too():
  assert json_files.parse(b'{"a": 1}', {'a': int}, 'x', 'the header') == {
      'a': 1}
  for text, types, said in (
      ('{', {}, 'x, line 1: the header is malformed: Expecting'),
      ('[]', {}, 'expected an object, got []; copy it again'),
      ('{}', {'a': int}, "x: the header lacks 'a' (an integer); copy it again"),
      ('3', list, 'x: the header is malformed: expected a list, got 3')):
    with pytest.raises(ValueError, match=re.escape(said)):
      json_files.parse(text, types, 'x', 'the header', 'copy it again')


def test_a_committed_file_may_not_be_cut(tmp_path):
  path = tmp_path / 'log'
  path.write_text('{"a": 1}\n{"a": ')
  assert list(json_files.read_lines(path, None, 'the log')) == [{'a': 1}]
  with pytest.raises(ValueError, match='line 2: the log is malformed'):
    list(json_files.read_lines(path, None, 'the log', may_be_cut=False))
