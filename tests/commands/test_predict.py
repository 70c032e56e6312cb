"""From pictures in a folder to answers in a file, without a Python file."""

import csv
import functools
import io
import json
import pathlib
import re
import zipfile

import numpy as np
import pytest
import tiny
from PIL import Image
from rich import console as console_lib

import mtl_jax
from mtl_jax import commands
from mtl_jax import lifecycle
from mtl_jax import masks
from mtl_jax.commands import inputs
from mtl_jax.config import files
from mtl_jax.data import sources
from mtl_jax.report import terminal

CLASSES = 'rote Äpfel', '梨'


def picture(class_, seed):
  """Red or green, of a size of its own."""
  rng = np.random.RandomState(seed)
  pixels = rng.randint(0, 120, (20 + seed % 3, 24, 3)).astype(np.uint8)
  pixels[..., class_] += 130
  return Image.fromarray(pixels)


@pytest.fixture(name='trained', scope='module')
def _trained(tmp_path_factory):
  """The first command; returns a folder with `runs` and `new`."""
  root = tmp_path_factory.mktemp('own')
  for class_, name in enumerate(CLASSES):
    folder = root / 'my pictures' / name
    folder.mkdir(parents=True)
    for i in range(40):
      picture(class_, i).save(folder / f'{i}.png')
  for class_ in range(2):
    (root / 'new' / 'deep').mkdir(parents=True, exist_ok=True)
    picture(class_, 77).save(root / 'new' / 'deep' / f'{class_}.jpg')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(root)
    patch.setenv('MTL_JAX_CACHE', str(root / 'cache'))
    assert commands.main([
        'run', '--config=folder:my pictures', '--workdir=runs', '--quiet',
        '--config.phases.masks.epochs=10']) == 0
  return root


def test_three_commands_and_no_python_file(trained, monkeypatch):
  monkeypatch.chdir(trained)
  assert commands.main(['predict', '--workdir=runs', 'new',
                        '--output=answers.csv']) == 0
  rows = list(csv.DictReader(io.StringIO(
      (trained / 'answers.csv').read_text(encoding='utf-8'))))
  assert [row['class'] for row in rows] == list(CLASSES)
  assert [row['input'] for row in rows] == ['new/deep/0.jpg', 'new/deep/1.jpg']
  assert {row['task'] for row in rows} == {'my-pictures'}
  for row in rows:
    every = [float(row[f'p({name})']) for name in CLASSES]
    assert sum(every) == pytest.approx(1., abs=1e-5)
    assert float(row['probability']) == max(every) > .8
  assert commands.main(['verify', '--workdir=runs']) == 0


def test_json_and_single_files(trained, capsys):
  assert commands.main(['predict', f'--workdir={trained}/runs',
                        '--task=my-pictures', '--format=json',
                        f'{trained}/new/deep/1.jpg']) == 0
  row, = json.loads(capsys.readouterr().out)
  assert row['class'] == CLASSES[1]
  assert set(row['probabilities']) == set(CLASSES)


def test_probabilities_are_those_of_the_logits(tmp_path, capsys):
  folder = tiny.learned(tmp_path / 'run', 'few')
  images = sources.load('digits').test.images[:5]
  np.savez(tmp_path / 'x.npz', images=images)
  assert commands.main(['predict', f'--workdir={folder}', '--format=json',
                        '--task=permuted-01', '--batch_size=2',
                        f'{tmp_path}/x.npz']) == 0
  rows = json.loads(capsys.readouterr().out)
  logits = np.asarray(mtl_jax.load(folder).predict(images, task='permuted-01'))
  scores = np.exp(logits - logits.max(1, keepdims=True))
  scores /= scores.sum(1, keepdims=True)
  np.testing.assert_allclose(
      [list(row['probabilities'].values()) for row in rows], scores, atol=1e-5)
  assert [row['class'] for row in rows] == list(map(str, logits.argmax(1)))
  assert [row['input'] for row in rows] == [
      f'{tmp_path}/x.npz[{i}]' for i in range(5)]


def test_a_merged_task_has_classes_too(tmp_path, capsys):
  folder = tiny.learned(tmp_path / 'run', 'few')
  mtl_jax.load(folder).merge(['permuted-00', 'permuted-01'], name='mix')
  np.savez(tmp_path / 'x.npz', images=sources.load('digits').test.images[:2])
  assert commands.main(['predict', f'--workdir={folder}', '--task=mix',
                        f'{tmp_path}/x.npz']) == 0
  header, *rows = capsys.readouterr().out.splitlines()
  assert header.startswith('input,task,class,probability,p(0),p(1)')
  assert len(rows) == 2


def test_the_task_is_inferred_from_images_as_it_shows_them(
    tmp_path, capsys, monkeypatch):
  seen, real = [], lifecycle.System.identify
  monkeypatch.setattr(lifecycle.System, 'identify', lambda self, x, **given: (
      seen.append(len(x)), real(self, x, **given))[1])
  folder = tiny.learned(tmp_path / 'run', 'infer')
  system = mtl_jax.load(folder)
  raw = sources.load('digits').test.images[:16]
  np.savez(tmp_path / 'x.npz', np.asarray(system.observe(raw, 'permuted-01')))
  assert commands.main(['predict', f'--workdir={folder}', '--format=json',
                        '--among=permuted-0[012]', f'{tmp_path}/x.npz',
                        '--batch_size=12']) == 0
  assert seen == [12]  # inferred once, from the first rows
  out, err = capsys.readouterr()
  rows = json.loads(out)
  assert {row['task'] for row in rows} == {'permuted-01'}
  assert 'their task is permuted-01' in err
  logits = np.asarray(system.predict(raw, task='permuted-01'))
  assert [row['class'] for row in rows] == list(map(str, logits.argmax(1)))


@pytest.mark.parametrize('given', ['x.npz', './x.npz', 'link.npz', 'new'])
def test_an_input_is_not_written_over(given, tmp_path, monkeypatch, capsys):
  folder = tiny.learned(tmp_path / 'run', 'few')
  monkeypatch.chdir(tmp_path)
  np.savez('x.npz', sources.load('digits').test.images[:2])
  pathlib.Path('link.npz').symlink_to('x.npz')
  pathlib.Path('new').mkdir()
  Image.fromarray(np.zeros((8, 8), np.uint8)).save('new/a.png')
  output = 'new/a.png' if given == 'new' else 'x.npz'
  before = pathlib.Path(output).read_bytes()
  assert commands.main(['predict', f'--workdir={folder}', given,
                        '--task=permuted-00', f'--output={output}']) == 1
  assert 'is an input, which it would replace' in capsys.readouterr().err
  assert pathlib.Path(output).read_bytes() == before


@pytest.mark.parametrize('words, said', [
    (['--task=permuted-7', 'x.npz'], "unknown task 'permuted-7'"),
    (['--among=rot*', 'x.npz'], '--among=rot*: no task has such a name'),
    (['x.npz'], "--among='PATTERN'"),
    (['--task=permuted-00', '--among=permuted-0*', 'x.npz'],
     'leave out --task or --among'),
    (['--task=permuted-00', 'nothing.png'], 'no file or folder nothing.png'),
    (['--task=permuted-00', 'empty'], 'empty holds no image'),
    (['--task=permuted-00', 'words.png'], 'can not be read as an image'),
    (['--task=permuted-00', 'wide.npz'], 'is uint8 [2, 9, 9], but the task '
                                         'takes uint8 [n, 8, 8, 1]'),
    (['--task=permuted-00', 'two.npz'], "call the array to predict 'images'"),
    (['--task=permuted-00', 'broken.npz'], 'broken.npz can not be read as npz'),
    (['--task=permuted-00', 'text.npz'], 'text.npz can not be read as npz: File'
     ' is not a zip file; write it with numpy.savez(FILE, images=...)'),
    (['--task=permuted-00', 'one.npz'], 'one.npz can not be read as npz: File'),
    (['--task=permuted-00', 'objects.npz'], 'objects.npz can not be read as npz'
     ': it holds pickled objects, which could run code; write it with'),
    (['--task=permuted-00', 'member.npz'], 'member.npz: images is no array; '),
    (['--task=permuted-00', '--batch_size=0', 'x.npz'], '--batch_size is 0'),
    (['--task=permuted-00', '--output=empty', 'x.npz'],
     '--output=empty is a folder; name a file')])
def test_what_is_refused(words, said, tmp_path, capsys, monkeypatch):
  folder = tiny.learned(tmp_path / 'run', 'few')
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'words.png').write_text('words')
  (tmp_path / 'broken.npz').write_bytes(b'PK\x03\x04')
  np.savez('x.npz', sources.load('digits').test.images[:2])
  pathlib.Path('text.npz').write_text('no images')
  with open('one.npz', 'wb') as file:
    np.save(file, np.zeros((2, 8, 8, 1), np.uint8))
  np.savez('objects.npz', images=np.array([None, 1], object))
  with zipfile.ZipFile('member.npz', 'w') as archive:
    archive.writestr('images', 'no array')
  np.savez('wide.npz', np.zeros((2, 9, 9), np.uint8))
  np.savez('two.npz', a=np.zeros(2), b=np.zeros(2))
  assert commands.main(['predict', f'--workdir={folder}', *words]) == 1
  out, err = capsys.readouterr()
  assert out == '' and err.count('error: ') == 1 and said in err
  assert 'names=' not in err  # which a command line has not


def test_pictures_are_fitted_to_what_the_source_has(tmp_path):
  picture(0, 3).save(tmp_path / 'a.png')
  read = inputs.read([str(tmp_path / 'a.png')], (8, 8, 1), 'uint8')
  assert read.rows.shape == (1, 8, 8, 1) and read.rows.dtype == np.uint8
  with pytest.raises(ValueError, match='takes float32 .13., no pictures'):
    inputs.read([str(tmp_path / 'a.png')], (13,), 'float32')


# What lies in a workdir.


def test_inspect(tmp_path, capsys):
  folder = tiny.learned(tmp_path / 'run', 'few')
  assert commands.main(['inspect', f'--workdir={folder}', '--json']) == 0
  found = json.loads(capsys.readouterr().out)
  tasks = {task['name']: task for task in found['tasks']}
  assert list(tasks) == ['permuted-00', 'permuted-01', 'permuted-12']
  assert tasks['permuted-12']['relies_on'] == ['permuted-00']
  assert tasks['permuted-00']['relies_on'] == []
  own = mtl_jax.load(folder).task('permuted-00').impression.masks
  assert tasks['permuted-00']['density'] == pytest.approx(
      float(masks.density(own)), abs=1e-6)  # of all leaves together
  assert tasks['permuted-00']['bytes']['total'] > 6000
  assert found['overlap']['names'] == ['permuted-00', 'permuted-01']
  assert commands.main(['inspect', f'--workdir={folder}']) == 0
  said = capsys.readouterr().out
  line, = [line for line in said.splitlines() if 'permuted-12' in line]
  assert line.split()[-1] == 'permuted-00'  # what it is made from
  assert commands.main(['inspect', f'--workdir={folder}',
                        '--task=permuted-00']) == 0
  assert json.loads(capsys.readouterr().out)['name'] == 'permuted-00'


def test_inspect_fits_into_a_narrow_terminal(tmp_path, capsys, monkeypatch):
  folder = tiny.learned(tmp_path / 'run', 'few')
  for width, left_out in ((80, True), (200, False)):
    monkeypatch.setattr(
        terminal.console_lib, 'Console', functools.partial(
            console_lib.Console, force_terminal=True, width=width))
    assert commands.main(['inspect', f'--workdir={folder}']) == 0
    said = re.sub('\x1b[^m]*m', '', capsys.readouterr().out)
    lines = said.splitlines()
    assert all(len(line) <= width for line in lines)
    assert [line for line in lines if line.startswith('permuted-12')]
    assert ('made from; the output has' in ' '.join(said.split())) == left_out


def test_a_task_travels_as_a_file(tmp_path, capsys):
  folder = tiny.learned(tmp_path / 'run', 'few')
  file = tmp_path / 'one.safetensors'
  np.savez(tmp_path / 'x.npz', sources.load('digits').test.images[:3])
  said = []
  assert commands.main(['export', f'--workdir={folder}', '--task=permuted-01',
                        f'--output={file}']) == 0
  assert commands.main(['import', str(file),
                        f'--workdir={tmp_path}/new']) == 0
  capsys.readouterr()
  for workdir in (folder, file, tmp_path / 'new'):
    assert commands.main(['predict', f'--workdir={workdir}',
                          '--task=permuted-01', f'{tmp_path}/x.npz']) == 0
    said.append(capsys.readouterr().out)
    assert commands.main(['inspect', f'--workdir={workdir}']) == 0
    assert commands.main(['verify', f'--workdir={workdir}']) == 0
    capsys.readouterr()
  assert len(set(said)) == 1 and 'permuted-01' in said[0]


@pytest.mark.parametrize('paths, sources_', [
    ('my/signs', ('signs=folder:my/signs@64x64x3',)),
    ('my/signs@28x28x1', ('signs=folder:my/signs@28x28x1',)),
    ('a=x/@9x9x3,b=y', ('a=folder:x/@9x9x3', 'b=folder:y@64x64x3'))])
def test_a_folder_may_name_the_size_of_its_images(paths, sources_):
  assert files.load(f'folder:{paths}')['suite']['sources'] == sources_


def test_the_config_of_folders_asks_for_one(tmp_path, capsys):
  assert commands.main(['run', '--config=folder',
                        f'--workdir={tmp_path}/run']) == 1
  said = capsys.readouterr().err
  assert 'there is no folder PATH; give the folder of your images' in said


def test_a_folder_to_predict_has_no_files_of_systems(tmp_path):
  for name in ('a.png', '@eaDir/a.png/SYNOPHOTO_THUMB_M.png',
               'deep/__MACOSX/b.png', '.hidden/c.png'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new('L', (2, 2), 7).save(tmp_path / name)
  found = inputs.read([str(tmp_path)], (2, 2, 1), 'uint8')
  assert found.names == [str(tmp_path / 'a.png')]
