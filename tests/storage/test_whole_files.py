"""Files that are replaced as a whole, on a full disk and where no file is."""

import errno
import os
import pathlib
import threading

import pytest

from mtl_jax.storage import whole_files


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
  path = tmp_path / 'answers.csv'
  whole_files.write(path, b'earlier')

  def full(handle):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError) as refused:
    whole_files.write(path, b'later')
  assert refused.value.filename == str(path)
  assert path.read_bytes() == b'earlier'
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('called', ['open', 'replace'])
def test_an_error_names_the_file_that_was_asked_for(tmp_path, monkeypatch,
                                                    called):
  """Not the hidden one, which nobody knows; on a disk that is read-only."""
  path = tmp_path / 'answers.csv'

  def refuse(part, *others, **_):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(part), None,
                  *map(str, others[:1] if called == 'replace' else ()))
  monkeypatch.setattr(*{'open': (pathlib.Path, 'open'),
                        'replace': (os, 'replace')}[called], refuse)
  monkeypatch.setattr(pathlib.Path, 'unlink', refuse)
  with pytest.raises(OSError) as refused:
    whole_files.write(path, b'content')
  assert str(refused.value) == (f'[Errno {errno.EROFS}] Read-only file system: '
                                f'{str(path)!r}')


def test_a_pipe_stays_one_and_a_link_too(tmp_path):
  """Nor is /dev/null replaced, which root could do."""
  pipe, link, file = (tmp_path / name for name in ('pipe', 'link', 'a/file'))
  os.mkfifo(pipe)
  read = []
  reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()),
                            daemon=True)
  reader.start()
  whole_files.write(pipe, b'content')
  reader.join(10)
  assert read == [b'content'] and pipe.is_fifo()
  link.symlink_to(file)
  whole_files.write(file, b'one')
  whole_files.write(link, b'two')
  assert link.is_symlink() and file.read_bytes() == b'two'


def test_a_long_name(tmp_path):
  path = tmp_path / ('n' * 255)
  whole_files.replace(path, b'content')
  assert path.read_bytes() == b'content'


def test_others_may_read_it(tmp_path):
  """Not the temporary file's own rights, with which it would be its user's."""
  whole_files.write(tmp_path / 'new', b'content')
  assert (tmp_path / 'new').stat().st_mode & 0o777 == 0o644


def test_a_private_umask_is_kept(tmp_path):
  before = os.umask(0o077)
  try:
    whole_files.write(tmp_path / 'new', b'content')
  finally:
    os.umask(before)
  assert (tmp_path / 'new').stat().st_mode & 0o777 == 0o600
