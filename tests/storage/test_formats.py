"""A workdir of another format is refused before anything of it is read."""

import json

import pytest
import tiny

import mtl_jax
from mtl_jax.storage import formats

NEWER = {'format': formats.FORMAT + 1, 'mtl_jax': '9.1'}
OLDER = {'format': formats.FORMAT - 1, 'mtl_jax': '0.0.1'}
OF = f'mtl_jax {mtl_jax.__version__} reads format {formats.FORMAT}'


@pytest.fixture(name='run')
def _run(tmp_path):
  return tiny.learned(tmp_path / 'run', 'infer')


def readers(run):
  """Everything that reads a workdir: each raises, or does nothing."""
  return [lambda: mtl_jax.load(run),
          lambda: tiny.learn(tiny.make('infer'), run)]


def test_a_workdir_says_its_format_first(tmp_path):
  config = tiny.only('basis', kind='infer')
  with pytest.raises(tiny.Stopped):
    tiny.train_alone(config, tmp_path / 'run', lambda seen: True)
  found = json.loads((tmp_path / 'run/format.json').read_text())
  assert found == {'format': formats.FORMAT, 'mtl_jax': mtl_jax.__version__}


@pytest.mark.parametrize('found, sentence', [
    (NEWER, f'run has format 2, made by mtl_jax 9.1, but {OF}; install mtl_jax '
     '9.1 to read it, or choose another workdir'),
    (OLDER, f'run has format 0, made by mtl_jax 0.0.1, but {OF}; install'),
    (None, f'run has no format.json: it was made before workdirs had a format, '
     f'or the file was removed. {OF}; restore the file from a copy'),
    ('{', 'format.json, line 1: the format is malformed: .*; restore it from'),
    ([], r'the format is malformed: expected an object, got \[\]; restore'),
    (1, 'the format is malformed: expected an object, got 1; restore'),
    ({'format': True, 'mtl_jax': '1'}, "'format' is true, expected an integer"),
    ({'format': 1}, "the format lacks 'mtl_jax' .a string.; restore it from a"),
    ({'format': '1', 'mtl_jax': '1'}, '.format. is "1", expected an integer')])
def test_another_format_is_refused_and_nothing_changed(run, found, sentence):
  path = run / 'format.json'
  kept = path.read_text()
  path.unlink()
  if found is not None:
    path.write_text(found if isinstance(found, str) else json.dumps(found))
  before = tiny.files(run)
  for read in readers(run):
    with pytest.raises(ValueError, match=sentence):
      read()
  assert {name: digest for name, digest in tiny.files(run).items()
          if name != '.lock'} == {name: digest for name, digest in
                                  before.items() if name != '.lock'}
  path.write_text(kept)  # the remedy
  mtl_jax.load(run)


def test_verify_refuses_another_format(run):
  (run / 'format.json').write_text(json.dumps(NEWER))
  done = tiny.verify(run)
  assert done.returncode == 1 and 'has format 2, made by mtl_jax 9.1' in (
      done.stderr)
  assert 'Traceback' not in done.stderr


def test_a_folder_that_is_none_says_so(tmp_path):
  formats.require(tmp_path)
  with pytest.raises(ValueError, match='is not the workdir of a run'):
    mtl_jax.load(tmp_path)
