"""Files that lie in a bucket: exported tasks, weights, pages, answers."""

import buckets
import numpy as np
import pytest
import tiny

import mtl_jax
from mtl_jax import commands
from mtl_jax.data import cache
from mtl_jax.models import pretrained
from mtl_jax.storage import bucket
from mtl_jax.storage import weights


@pytest.fixture(autouse=True)
def _clear():
  buckets.Recorded.clear()
  yield
  buckets.Recorded.clear()


@pytest.fixture
def work(tmp_path):
  return tiny.learned(tmp_path / 'work', 'norm')


def test_single_files_lie_in_a_bucket_too(work, tmp_path, capsys):
  system = mtl_jax.load(work)
  np.savez(tmp_path / 'x.npz', images=tiny.blobs().test.images[:3])
  task, network = 'recorded://b/out/task.safetensors', (
      'recorded://b/out/network.safetensors')
  workdir, task_of = f'--workdir={work}', '--task=permuted-01'
  for words in (['export', task_of, f'--output={task}', workdir],
                ['export', task_of, f'--output={network}', '--network',
                 workdir],
                ['verify', f'--workdir={task}'],
                ['import', task, f'--workdir={tmp_path}/new'],
                ['predict', str(tmp_path / 'x.npz'), f'--workdir={task}',
                 '--output=recorded://b/out/x.csv'],
                ['report', workdir, '--output=recorded://b/out/page.html']):
    assert commands.main(words) == 0, words
  out = buckets.objects('recorded://b/out')
  assert f'{task}: {len(out["task.safetensors"]):,} bytes\n' in (
      capsys.readouterr().out)
  assert set(out) == {'task.safetensors', 'network.safetensors', 'x.csv',
                      'page.html'}
  system.export('permuted-01', tmp_path / 'same.safetensors')
  same = (tmp_path / 'same.safetensors').read_bytes()
  assert same == out['task.safetensors'] and b'</html>' in out['page.html']
  assert out['x.csv'].startswith(b'input,')
  for place in (task, tmp_path / 'new'):
    assert mtl_jax.load(place).tasks == ['permuted-01']
  params, _ = system.effective(system.task('permuted-01'))
  found = weights.read(network)
  for name, leaf in pretrained.leaves(params, {}).items():
    np.testing.assert_array_equal(found[name], leaf)


def test_a_file_that_is_missing_or_damaged_in_a_bucket(work, capsys):
  store = bucket.Bucket('recorded://b/out')
  for name in ('x.safetensors', 'x.npz'):
    store.write(name, b'no weights')
  for read, name, said in (
      (mtl_jax.load, 'none.safetensors', 'there is no file'),
      (mtl_jax.load, 'x.safetensors', 'is no safetensors file'),
      (weights.read, 'none.npz', 'there are no weights at'),
      (weights.read, 'x.npz', 'it is no archive'),
      (weights.read, 'x.safetensors', 'cannot be read as')):
    with pytest.raises((ValueError, OSError), match=said) as error:
      read(f'recorded://b/out/{name}')
    assert f'recorded://b/out/{name}' in str(error.value)
  buckets.Recorded.fails = staticmethod(buckets.fail)
  assert commands.main(['export', f'--workdir={work}', '--task=permuted-00',
                        '--output=recorded://b/x.safetensors']) == 1
  assert 'recorded://b cannot be used (no network' in capsys.readouterr().err


@pytest.mark.parametrize('flag, of', [
    ('--output', ['export', '--task=permuted-00']),
    ('--output', ['predict', 'none.npz']), ('--output', ['report'])])
def test_a_path_of_one_slash_is_no_address(work, tmp_path, monkeypatch, capsys,
                                           flag, of):
  monkeypatch.chdir(tmp_path)
  assert commands.main([*of, f'--workdir={work}', f'{flag}=gs:/b/x']) == 1
  assert 'gs:/b/x names no file in a bucket' in capsys.readouterr().err
  assert not list(tmp_path.glob('gs*'))


def test_folders_of_this_machine_are_no_addresses(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('MTL_JAX_CACHE', 'gs://b/cache')
  with pytest.raises(ValueError, match='gs://b/cache is an address, and dec'):
    cache.directory()
  monkeypatch.setenv('MTL_JAX_STAGING', 'gs://b/staging')
  with pytest.raises(ValueError, match='gs://b/staging is a remote address'):
    mtl_jax.load('recorded://b/run')
  assert not list(tmp_path.glob('gs*'))
