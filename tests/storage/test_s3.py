"""Amazon's store through s3fs, on an emulator that heeds preconditions."""

import threading

import buckets
import pytest
import tiny

import mtl_jax
from mtl_jax.storage import bucket
from mtl_jax.storage import workdir as workdir_lib

# botocore's own warnings are none of ours.
pytestmark = pytest.mark.filterwarnings('default')


@pytest.fixture(name='store', autouse=True, scope='module')
def _store():
  """A bucket `emulated` of a server on loopback."""
  pytest.importorskip('s3fs', reason='needs pip install s3fs')
  servers = pytest.importorskip('moto.server',
                                reason="needs pip install 'moto[s3,server]'")
  import s3fs
  server = servers.ThreadedMotoServer(ip_address='127.0.0.1', port=0,
                                      verbose=False)
  server.start()
  with pytest.MonkeyPatch.context() as patch:
    for name, value in dict(
        AWS_ENDPOINT_URL='http://{}:{}'.format(*server.get_host_and_port()),
        AWS_ACCESS_KEY_ID='any', AWS_SECRET_ACCESS_KEY='any',
        AWS_DEFAULT_REGION='us-east-1', NO_PROXY='127.0.0.1').items():
      patch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir('emulated')
    yield
  s3fs.S3FileSystem.clear_instance_cache()
  server.stop()


def test_of_many_processes_one_gets_the_lock():
  store = bucket.Bucket('s3://emulated/lock')
  store.create('a', b'1')
  with pytest.raises(FileExistsError):
    store.create('a', b'2')
  assert store.read('a') == b'1'
  holders = []

  def take(number):
    try:
      bucket.Lock(bucket.Bucket('s3://emulated/lock'), f'p{number}').take()
      holders.append(number)
    except bucket.Held:
      pass
  threads = [threading.Thread(target=take, args=(i,)) for i in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(holders) == 1


def test_a_run_in_the_store(monkeypatch, tmp_path):
  monkeypatch.setenv('MTL_JAX_STAGING', str(tmp_path / 'one'))
  address = 's3://emulated/runs/one'
  tiny.learn(tiny.make('norm'), address)
  first = workdir_lib.Workdir(address)
  assert buckets.objects(address) == buckets.visible(first.root)
  tiny.learn(tiny.make('norm'), tmp_path / 'folder')
  monkeypatch.setenv('MTL_JAX_STAGING', str(tmp_path / 'other'))
  system = mtl_jax.load(address)
  assert tiny.bits(system.workdir.root) == tiny.bits(tmp_path / 'folder')
  buckets.assert_others_are_refused(
      monkeypatch, tmp_path / 'third', system.workdir,
      lambda where: tiny.learn(tiny.make('norm'), where), 's3://missing/run')
