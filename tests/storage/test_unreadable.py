"""What the system does not let be read is not called damaged."""

import errno
import os
import pathlib

import numpy as np
import pytest

from mtl_jax import json_files
from mtl_jax.storage import array_files
from mtl_jax.storage import checkpoint
from mtl_jax.storage import workdir as workdir_lib
from mtl_jax.training import progress

ARRAYS = {'masks/a': np.array([3, 255], np.uint8)}


def test_a_folder_of_another_user(tmp_path, monkeypatch):
  path = tmp_path / 'task'
  checkpoint.save(path, ARRAYS, {})
  monkeypatch.setattr(os.path, 'isfile', lambda _: False)
  monkeypatch.setattr(os, 'access', lambda *_: False)
  with pytest.raises(json_files.Unreadable, match=(
      f'{path} cannot be read by this process; change its permissions '
      r'\(chmod\), or ask its owner$')):
    checkpoint.load(path)


def _refuse_metadata(monkeypatch):
  def refuse(*_):
    raise OSError(errno.EIO, 'Input/output error')
  monkeypatch.setattr(pathlib.Path, 'read_bytes', refuse)


def _refuse_arrays(monkeypatch):
  def refuse(*_, **__):
    raise ValueError('PERMISSION_DENIED: Error reading local file '
                     f'"{"x" * 300}/0": Permission denied '
                     "[os_error_code='13']")
  monkeypatch.setattr(array_files.tensorstore, 'open', refuse)


@pytest.mark.parametrize('refuse, said', [
    (_refuse_metadata, 'Input/output error'),
    (_refuse_arrays, 'Permission denied')])
def test_progress_that_cannot_be_read_now_stays(
    tmp_path, monkeypatch, refuse, said):
  """What is damaged is removed and made again; this is not damaged."""
  work = workdir_lib.Workdir(tmp_path)
  work.prepare()
  progress.save(work, 'a', 7, ARRAYS, {'step': 7}, {})
  with monkeypatch.context() as patch:
    refuse(patch)
    with pytest.raises(json_files.Unreadable, match=f'{said}; see to it that '
                       'this process can read it, and try again$'):
      progress.newest(work, 'a', {})
  assert progress.newest(work, 'a', {})[1]['step'] == 7


@pytest.mark.parametrize('name', ['listdir', 'stat'])
def test_tasks_that_cannot_be_listed_are_not_called_none(
    tmp_path, monkeypatch, name):
  work = workdir_lib.Workdir(tmp_path)
  work.prepare()
  real = getattr(os, name)

  def refuse(path, *more, **options):
    if str(path) == str(work.tasks):
      raise PermissionError(errno.EACCES, 'Permission denied', str(path))
    return real(path, *more, **options)
  monkeypatch.setattr(os, name, refuse)
  with pytest.raises(PermissionError, match='tasks'):
    work.task_names()
