"""A workdir of another format is refused before anything of it is read."""

import json
import re
import shutil

import numpy as np
import pytest
import tiny
from orbax.checkpoint import v1 as ocp

import mtl_jax
from mtl_jax import json_files
from mtl_jax.serving import verification
from mtl_jax.storage import checkpoint
from mtl_jax.storage import formats

NEWER = {'format': formats.FORMAT + 1, 'mtl_jax': '9.1'}
OLDER = {'format': formats.OLDEST - 1, 'mtl_jax': '0.0.1'}
OF = f'mtl_jax {mtl_jax.__version__} reads formats 1 to {formats.FORMAT}'


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
    (NEWER, f'run has format 3, made by mtl_jax 9.1, but {OF}; install mtl_jax '
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


def as_format_1(run):
  """A workdir as the version before wrote it."""
  context = ocp.Context()
  context.array.saving.use_ocdbt = False
  context.array.saving.use_zarr3 = False
  for file in list(run.rglob('_CHECKPOINT_METADATA')):
    path = file.parent
    arrays, metadata = checkpoint.load(path)
    metadata['format'] = 2
    metadata['digest'] = json_files.digest(metadata)
    shutil.rmtree(path)
    with context:
      ocp.save(path, arrays, custom_metadata=metadata)
  (run / 'format.json').write_text(json.dumps({'format': 1, 'mtl_jax': '0.2'}))


def test_a_workdir_of_the_format_before_is_read_and_goes_on(run):
  bits, x = tiny.bits(run), np.zeros((3, 8, 8, 1), np.uint8)
  before = np.asarray(mtl_jax.load(run).predict(x, task='permuted-01'))
  as_format_1(run)
  assert (run / 'tasks/permuted-01/state/probe/.zarray').exists()
  assert tiny.bits(run) == bits
  system = mtl_jax.load(run)
  np.testing.assert_array_equal(system.predict(x, task='permuted-01'), before)
  assert verification.check(system).faults == []
  system.delete('permuted-04')
  assert json.loads((run / 'format.json').read_text())['format'] == (
      formats.FORMAT)
  assert tiny.learn(tiny.make('infer'), run)['verified']['ok']
  assert tiny.bits(run) == bits
  assert (run / 'tasks/permuted-04/0').exists()
  assert not (run / 'tasks/permuted-01/0').exists()  # as it was


def test_verify_refuses_another_format(run):
  (run / 'format.json').write_text(json.dumps(NEWER))
  done = tiny.verify(run)
  assert done.returncode == 1 and 'has format 3, made by mtl_jax 9.1' in (
      done.stderr)
  assert 'Traceback' not in done.stderr


def test_a_folder_that_is_none_says_so(tmp_path):
  formats.require(tmp_path)
  with pytest.raises(ValueError, match='is not the workdir of a run; give'):
    mtl_jax.load(tmp_path)


@pytest.mark.parametrize('name', ['run', 'task.safetensors'])
def test_what_is_not_there_is_said_to_be_missing(name, tmp_path):
  said = f'there is no file or folder {re.escape(str(tmp_path / name))}; give'
  with pytest.raises(ValueError, match=said):
    mtl_jax.load(tmp_path / name)
